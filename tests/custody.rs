//! Keys of members and of an authority's standby on tokens: enrolled, used by a client and by a
//! validator's signer, and everything that must be refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::Running;
use crate::cli::done;
use crate::cli::make;
use crate::cli::ready;
use crate::cli::start;
use crate::cli::text;
use crate::founding::Service;
use crate::founding::made;
use crate::founding::with;
use crate::ports::Ports;
use crate::signer::SignerProcess;
use crate::signer::softhsm::PIN;
use crate::signer::softhsm::SoftHsm;

/// A command that must fail with this exit code and one error, which names no PIN.
fn refused(hsm: &SoftHsm, arguments: &[&str], code: i32) -> String {
    let output = with(&hsm.environment, arguments);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    let lines = |head: &str| errors.lines().filter(|line| line.starts_with(head)).count();
    assert_eq!((lines("error: "), lines("fix: ")), (1, 1), "{errors}");
    assert!(!errors.contains(PIN) && !errors.contains("canary-0815"), "{errors}");
    errors
}

/// `member enrol` of a registered name with a card.
fn enrol(ca: &Path, url: &str, who: [&str; 2], card: Option<&Path>, out: &Path) -> Vec<String> {
    let (config, secret) = (text(&ca.join("ca.toml")), text(&out.with_extension("secret")));
    let [role, name] = who;
    if !Path::new(&secret).exists() {
        let place = ["--config", &config, "--secret-out", &secret, "--role", role];
        done(&[&["ca", "register", name, "--host", "127.0.0.1"], &place[..]].concat());
    }
    let root = text(&ca.join("authority/root.pem"));
    let words =
        ["member", "enrol", "--ca", url, "--ca-cert", &root, "--name", name, "--role", role];
    let mut words: Vec<String> = words.map(str::to_owned).to_vec();
    words.extend(["--secret-file".into(), secret, "--out".into(), text(out)]);
    words.extend(card.iter().flat_map(|card| ["--key-card".into(), text(card)]));
    words
}

fn words(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// A client whose enrolment key never leaves its token: enrolled over the network or issued by the
/// authority, it sends transactions. Run again, the enrolment gives the same certificate.
#[test]
fn a_client_with_its_key_on_a_token_sends_transactions() {
    let Some(hsm) = SoftHsm::faulty() else { return };
    let dir = tempfile::tempdir().unwrap();
    let net = dir.path().join("net");
    let _ports = make(&net, "1");
    let _node: Running = start(&net.join("org1/node.toml"));
    let ca = dir.path().join("ca");
    fs::create_dir(&ca).unwrap();
    fs::rename(net.join("org1/ca"), ca.join("authority")).unwrap();
    let (out, authority) = (text(&ca), text(&ca.join("authority")));
    let flags = ["--out", &out, "--authority", &authority, "--listen", "127.0.0.1:0"];
    done(&[&["ca", "init"], &flags[..]].concat());
    let service = Service::start(&ca.join("ca.toml"), &[]);
    let (card, public) = hsm.keygen("obelisk", "01", "p256");
    let (other, _) = hsm.keygen("obelisk", "02", "p256");
    let alice = dir.path().join("alice");
    let enrolling = |card| enrol(&ca, &service.url, ["client", "alice"], card, &alice);

    let nowhere = refused(&hsm, &words(&enrolling(Some(Path::new("nowhere.toml")))), 4);
    assert!(nowhere.contains("cannot read the key card nowhere.toml"), "{nowhere}");
    let said = made(&hsm.environment, &words(&enrolling(Some(&card))));
    assert!(said.contains("obelisk://org1/client/alice"), "{said}");
    assert!(!alice.join("key.pem").exists() && alice.join("tls/key.pem").exists());
    let shown = done(&["member", "show", &text(&alice)]);
    assert!(shown.contains("on the token obelisk; its card fits"), "{shown}");

    // The reply was lost: with and without the card the same certificate, with another one none.
    let before = fs::read(alice.join("cert.pem")).unwrap();
    for card in [Some(&*card), None] {
        fs::remove_file(alice.join("cert.pem")).unwrap();
        made(&hsm.environment, &words(&enrolling(card)));
        assert_eq!(fs::read(alice.join("cert.pem")).unwrap(), before);
    }
    fs::remove_file(alice.join("cert.pem")).unwrap();
    let changed = refused(&hsm, &words(&enrolling(Some(&other))), 2);
    assert!(changed.contains("another key than an attempt before used"), "{changed}");
    fs::write(alice.join("cert.pem"), before).unwrap();

    let bob = dir.path().join("bob");
    let issue = ["member", "issue", "--ca", &authority, "--name", "bob", "--out", &text(&bob)];
    done(&[&issue[..], &["--key-card", &text(&other)]].concat());
    let network = text(&net);
    ready(&network, 1);
    for folder in [&alice, &bob] {
        made(&hsm.environment, &invoking(&network, &text(folder)));
        assert_eq!(hsm.counters()["sign"], 1, "{:?}", hsm.counters());
    }
    let kept = fs::read_to_string(alice.join("key.toml")).unwrap();
    assert!(kept.contains(&hex::encode(public.as_bytes())), "{kept}");
    folders_that_cannot_sign(&hsm, &network, &alice, &bob);
}

fn invoking<'a>(network: &'a str, identity: &'a str) -> [&'a str; 8] {
    ["--network", network, "--identity", identity, "chaincode", "invoke", "configure", "show"]
}

/// Logins that the last process tried.
fn logins(hsm: &SoftHsm) -> u64 {
    hsm.counters().get("login").copied().unwrap_or_default()
}

/// The token is away, its PIN wrong, its key another one, the card another's, or a key beside it.
fn folders_that_cannot_sign(hsm: &SoftHsm, network: &str, alice: &Path, bob: &Path) {
    let folder = text(alice);
    let invoke = invoking(network, &folder);
    let card = alice.join("key.toml");
    let good = fs::read_to_string(&card).unwrap();
    let put = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}: {good}");
        fs::write(&card, good.replace(from, to)).unwrap();
    };
    hsm.script("fault slots do=none");
    assert!(refused(hsm, &invoke, 2).contains("has no token with label"));
    hsm.script("");
    put("id = \"01\"", "id = \"02\"");
    assert!(refused(hsm, &invoke, 2).contains("is another one than"));
    put("id = \"01\"", "id = \"03\"");
    assert!(refused(hsm, &invoke, 2).contains("no private key with id 03"));
    fs::copy(bob.join("key.toml"), &card).unwrap();
    assert!(refused(hsm, &invoke, 2).contains("another key than the certificate beside it"));
    assert!(refused(hsm, &["member", "show", &folder], 2).contains("another key than"));

    // A PIN that was refused is not tried by the next command.
    let (pin, wrong) = (hsm.directory.path().join("pin"), hsm.write_pin("wrong", "canary-0815"));
    put(&text(&pin), &text(&wrong));
    assert!(refused(hsm, &invoke, 78).contains("its PIN was refused"));
    assert_eq!(logins(hsm), 1);
    assert!(refused(hsm, &invoke, 78).contains("was refused before"));
    assert_eq!(logins(hsm), 0);

    fs::write(&card, &good).unwrap();
    let key = alice.join("key.pem");
    fs::copy(alice.join("tls/key.pem"), &key).unwrap();
    assert!(refused(hsm, &invoke, 2).contains("both key.pem and key.toml"));
    fs::remove_file(&key).unwrap();
    made(&hsm.environment, &invoke);
}

/// A validator enrols with a key on a token; its signer takes the folder's card, and the network
/// commits. A node that would sign by itself says what to do.
#[test]
fn a_validator_with_its_key_on_a_token_is_enrolled_and_votes() {
    let Some(hsm) = SoftHsm::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = |place: &str| dir.path().join(place);
    let ca = at("ca");
    let flags = ["--organisation", "bank", "--out", &text(&ca), "--listen", "127.0.0.1:0"];
    done(&[&["ca", "init"], &flags[..]].concat());
    let service = Service::start(&ca.join("ca.toml"), &[]);
    let (card, public) = hsm.keygen("obelisk", "01", "ed25519");
    let validator = at("validator");
    let enrolment = |role, card| enrol(&ca, &service.url, [role, role], card, &at(role));
    made(&hsm.environment, &words(&enrolment("validator", Some(&*card))));
    done(&words(&enrolment("client", None)));
    let (root, certificate) = (ca.join("authority/root.pem"), validator.join("cert.pem"));
    let named = ["--root", &text(&root), "--validator", &text(&certificate)];
    let out = ["--out", &text(&at("genesis.bin")), "--name", "trade", "--consensus", "noops"];
    done(&[&["network", "found"], &named[..], &out[..]].concat());

    let ports = Ports::reserve();
    let port = |offset: u16| ports.first() + offset;
    let head = format!(
        "[node]\nrole = \"validator\"\ndata = \"data\"\nidentity = \"validator\"\n\
         genesis = \"genesis.bin\"\n[network]\nlisten = \"127.0.0.1:{}\"\n[api]\n\
         rest = \"127.0.0.1:{}\"\ngrpc = \"127.0.0.1:{}\"\n",
        port(1),
        port(0),
        port(3)
    );
    fs::write(at("node.toml"), &head).unwrap();
    let alone = refused(&hsm, &["node", "--config", &text(&at("node.toml"))], 2);
    assert!(alone.contains("on a token, as its key.toml says"), "{alone}");
    assert!(alone.contains("signer.mode = \"process\""), "{alone}");
    let process = "[signer]\nmode = \"process\"\nsocket = \"signer/signer.sock\"\n";
    fs::write(at("node.toml"), head + process).unwrap();
    let signer = "[signer]\nsocket = \"signer/signer.sock\"\ndata = \"signer/guard\"\n\
                  [[validator]]\nname = \"bank/validator\"\ngenesis = \"genesis.bin\"\n\
                  key = { card = \"validator/key.toml\" }\n";
    fs::write(at("signer.toml"), signer).unwrap();
    let profile = format!(
        "genesis = \"genesis.bin\"\nidentity = \"client\"\ngrpc = [\"127.0.0.1:{}\"]\n",
        port(3)
    );
    fs::write(at("client.toml"), profile).unwrap();
    fs::create_dir(at("signer")).unwrap();
    fs::set_permissions(at("signer"), fs::Permissions::from_mode(0o700)).unwrap();
    let socket = at("signer/signer.sock");
    let _signer = SignerProcess::start(&at("signer.toml"), &socket, &hsm.environment);
    let _node: Running = start(&at("node.toml"));
    let network = text(dir.path());
    ready(&network, 1);
    done(&["--network", &network, "chaincode", "invoke", "configure", "show"]);
    let status = ["--json", "signer", "status", "--config", &text(&at("signer.toml"))];
    let status = done(&status);
    assert!(status.contains(&hex::encode(public.as_bytes())), "{status}");
}

/// A key file that is put onto two tokens, and the card of both.
fn joined(hsm: &SoftHsm, outside: &Path) -> PathBuf {
    hsm.make_token("spare");
    let authority = outside.join("outside");
    done(&["ca", "init", "--organisation", "other", "--out", &text(&authority)]);
    let key = text(&authority.join("authority/key.pem"));
    let cards = ["obelisk", "spare"].map(|label| {
        let out = text(&hsm.directory.path().join(format!("{label}.card")));
        let output = hsm.crypto("keygen", label, &["--id", "ca", "--import", &key, "--out", &out]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        out
    });
    let first = &cards[0];
    let card = hsm.directory.path().join("joined.toml");
    let more = ["--id", "ca", "--imported", "--standby-of", first, "--out", &text(&card)];
    let output = hsm.crypto("card", "spare", &more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    card
}

/// An authority signs by its standby where its first token fails for good; another key is no
/// standby, neither on the card nor behind it.
#[test]
fn an_authority_signs_by_its_standby() {
    let Some(hsm) = SoftHsm::faulty() else { return };
    let dir = tempfile::tempdir().unwrap();
    let card = joined(&hsm, dir.path());
    let ca = dir.path().join("ca");
    let (config, shown) = (ca.join("ca.toml"), text(&card));
    let init = ["ca", "init", "--organisation", "bank", "--out", &text(&ca), "--key-card", &shown];
    made(&hsm.environment, &[&init[..], &["--listen", "127.0.0.1:0"]].concat());
    let kept = fs::read_to_string(ca.join("authority/key.toml")).unwrap();
    assert!(kept.contains("[[key.standby]]") && kept.matches("[[token]]").count() == 2, "{kept}");

    let service = Service::start(&config, &hsm.environment);
    let first = hsm.slot("obelisk");
    hsm.script(&format!("fault sign slot={first} do=rv value=0x30"));
    for name in ["alice", "bob"] {
        let out = dir.path().join(name);
        done(&words(&enrol(&ca, &service.url, ["client", name], None, &out)));
        done(&["member", "show", &text(&out)]);
    }
    hsm.script("");
    drop(service);

    let (other, _) = hsm.keygen("spare", "02", "p256");
    let out = text(&dir.path().join("bad.toml"));
    let more = ["--id", "02", "--standby-of", &shown, "--out", &out];
    let output = hsm.crypto("card", "spare", &more);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && errors.contains("another one than the card's"), "{errors}");
    let more = ["--id", "ca", "--imported", "--standby-of", &shown, "--out", &out];
    let output = hsm.crypto("card", "spare", &more);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && errors.contains("on the card already"), "{errors}");
    assert!(other.exists() && !Path::new(&out).exists());
    let good = fs::read_to_string(ca.join("authority/key.toml")).unwrap();
    let (before, after) = good.split_once("[[key.standby]]").unwrap();
    let after = after.replacen("id = \"ca\"", "id = \"02\"", 1);
    fs::write(ca.join("authority/key.toml"), format!("{before}[[key.standby]]{after}")).unwrap();
    let errors = refused(&hsm, &["ca", "serve", "--config", &text(&config)], 2);
    assert!(errors.contains("than its standby"), "{errors}");
}

/// A PIN that comes as a credential of systemd, in a file that is new at each start: once it was
/// refused it is not tried again, however often the service is started, until the record is removed.
#[test]
fn a_refused_credential_is_not_tried_again() {
    let Some(mut hsm) = SoftHsm::faulty() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (card, _) = hsm.keygen("obelisk", "ca", "p256");
    let (ca, shown) = (dir.path().join("ca"), text(&card));
    let init = ["ca", "init", "--organisation", "bank", "--out", &text(&ca), "--key-card", &shown];
    let more = ["--credential", "pin", "--listen", "127.0.0.1:0"];
    made(&hsm.environment, &[&init[..], &more].concat());
    let kept = fs::read_to_string(ca.join("authority/key.toml")).unwrap();
    assert!(kept.contains("credential = \"pin\"") && !kept.contains("pin = "), "{kept}");
    let handed = hsm.directory.path().join("credentials");
    hsm.environment.push(("CREDENTIALS_DIRECTORY".to_owned(), text(&handed)));
    let hand = |hsm: &SoftHsm, pin: &str| {
        let _ = fs::remove_dir_all(&handed);
        fs::create_dir(&handed).unwrap();
        hsm.write_pin("credentials/pin", pin);
    };
    let serve = ["ca", "serve", "--config", &text(&ca.join("ca.toml"))];
    hand(&hsm, "canary-0815");
    let marker = ca.join("obelisk.pin-refused");
    let remedy = format!("remove {}", text(&marker));
    assert!(refused(&hsm, &serve, 78).contains(&remedy));
    assert_eq!(logins(&hsm), 1);
    for pin in ["canary-0815", PIN] {
        hand(&hsm, pin);
        let errors = refused(&hsm, &serve, 78);
        assert!(errors.contains("was refused before") && errors.contains(&remedy), "{errors}");
        assert_eq!(logins(&hsm), 0);
    }
    fs::remove_file(&marker).unwrap();
    let _service = Service::start(&ca.join("ca.toml"), &hsm.environment);
}

/// A token that is away is waited for: the exit code says that trying again may help.
#[test]
fn a_token_that_is_away_is_tried_again() {
    let Some(hsm) = SoftHsm::faulty() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (card, _) = hsm.keygen("obelisk", "ca", "p256");
    let (ca, shown) = (dir.path().join("ca"), text(&card));
    let init = ["ca", "init", "--organisation", "bank", "--out", &text(&ca), "--key-card", &shown];
    made(&hsm.environment, &[&init[..], &["--listen", "127.0.0.1:0"]].concat());
    hsm.script("fault slots do=none");
    let serve = ["ca", "serve", "--config", &text(&ca.join("ca.toml"))];
    assert!(refused(&hsm, &serve, 70).contains("connect the token"));
    hsm.script("");
    let _service = Service::start(&ca.join("ca.toml"), &hsm.environment);
}

/// While a slow token is opened, the membership service asks the service manager for more time and
/// says what it does; then it is ready.
#[test]
fn a_slow_token_is_no_hang() {
    let Some(mut hsm) = SoftHsm::faulty() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (card, _) = hsm.keygen("obelisk", "ca", "p256");
    let (ca, shown) = (dir.path().join("ca"), text(&card));
    let init = ["ca", "init", "--organisation", "bank", "--out", &text(&ca), "--key-card", &shown];
    made(&hsm.environment, &[&init[..], &["--listen", "127.0.0.1:0"]].concat());
    let place = dir.path().join("notify");
    let socket = UnixDatagram::bind(&place).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    hsm.environment.push(("NOTIFY_SOCKET".to_owned(), text(&place)));
    hsm.script("fault initialize do=latency ms=3500");
    let _service = Service::start(&ca.join("ca.toml"), &hsm.environment);
    let mut heard: Vec<String> = Vec::new();
    let mut buffer = [0; 4096];
    while !heard.last().is_some_and(|message| message.contains("READY=1")) {
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{error}: {heard:?}"));
        heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    let asked = |message: &&String| {
        message.contains("opening the authority's key") && message.contains("EXTEND_TIMEOUT_USEC=")
    };
    assert!(heard.iter().filter(asked).count() >= 2, "{heard:?}");
}
