//! Every rung of the ladder, on a real signer process: p11-fault breaks SoftHSM by script.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use obelisk::crypto::Check;
use obelisk::crypto::routing::Crypto;
use obelisk::membership::consortium::Consortium;
use obelisk::membership::consortium::Spec;
use obelisk::signer::SignError;
use obelisk::signer::SignRequest;
use obelisk::signer::Signer;
use obelisk::signer::remote;
use obelisk::signer::remote::RemoteSigner;
use obelisk::types::ids::ChainId;
use obelisk::types::signature::Algorithm;
use obelisk::types::signature::PublicKey;
use obelisk::types::vote;
use serde_json::Value;

use super::PATIENCE;
use super::SignerProcess;
use super::place;
use super::softhsm::SoftHsm;

/// A signer over a breakable token, and its client.
struct Bench {
    hsm: SoftHsm,
    process: SignerProcess,
    socket: PathBuf,
    signer: RemoteSigner,
    public: PublicKey,
    chain: ChainId,
    next: u64,
}

impl Bench {
    fn new(algorithm: &str) -> Option<Self> {
        let hsm = SoftHsm::faulty()?;
        let (_, public) = hsm.keygen("obelisk", "01", algorithm);
        let section = hsm.token_section("obelisk");
        Some(Self::start(hsm, public, "", &section))
    }

    fn start(hsm: SoftHsm, public: PublicKey, standby: &str, tokens: &str) -> Self {
        let home = hsm.directory.path().join("home");
        fs::create_dir(&home).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
        let consortium = consortium(&home, &public);
        let (config, socket) = (home.join("signer.toml"), home.join("s"));
        let text = format!(
            "[signer]\nsocket = \"s\"\ndata = \"guard\"\n[[validator]]\nname = \"org1/validator\"\n\
             mode = \"direct\"\ngenesis = {:?}\nkey = {{ token = \"obelisk\", id = \"01\", imported = {}{standby} }}\n\
             {tokens}",
            consortium.genesis_path,
            !standby.is_empty(),
        );
        fs::write(&config, text).unwrap();
        let process = SignerProcess::start(&config, &socket, &hsm.environment);
        let chain = consortium.genesis.chain_id();
        let signer = RemoteSigner::open(place(&socket), chain, public.clone(), false).unwrap();
        Self { hsm, process, socket, signer, public, chain, next: 0 }
    }

    /// Asks for a signature; what is released verifies, whatever the token does.
    fn sign(&mut self) -> Result<(), SignError> {
        self.next += 1;
        let body = format!(" text number {}", self.next);
        let text = vote::signed_text(&self.chain, body.as_bytes());
        let request = SignRequest { slot: None, text: text.clone(), ahead: false };
        let signature = self.signer.sign(&[request]).remove(0)?;
        let check = Check { key: &self.public, message: &text, signature: signature.plain() };
        assert!(Crypto::portable().verify(&check), "a wrong signature was released");
        Ok(())
    }

    fn sign_all(&mut self, count: usize) {
        for i in 0..count {
            self.sign().unwrap_or_else(|error| panic!("signature {i}: {error}"));
        }
    }

    /// Asks for several signatures at once: the token's sessions share them.
    fn sign_lot(&mut self, count: u64) {
        let request = |i| {
            let body = format!(" text {} of a lot {i}", self.next);
            SignRequest {
                slot: None,
                text: vote::signed_text(&self.chain, body.as_bytes()),
                ahead: false,
            }
        };
        let requests: Vec<_> = (0..count).map(request).collect();
        self.next += 1;
        for result in self.signer.sign(&requests) {
            result.unwrap_or_else(|error| panic!("{error}"));
        }
    }

    fn token(&self) -> Value {
        self.status()["tokens"][0].clone()
    }

    fn metrics(&self) -> String {
        self.status()["metrics"].as_str().unwrap().to_owned()
    }

    fn status(&self) -> Value {
        let status = remote::status(&place(&self.socket)).unwrap();
        serde_json::from_str::<Value>(&status).unwrap()
    }

    fn rungs(&self, name: &str) -> u64 {
        self.token()["rungs"][name].as_u64().unwrap_or(0)
    }

    fn counted(&self, name: &str) -> u64 {
        self.hsm.counters().get(name).copied().unwrap_or(0)
    }
}

/// A network of one whose validator has this key.
fn consortium(home: &Path, public: &PublicKey) -> Consortium {
    let now = obelisk::host::clock::now_ms();
    let mut spec = Spec::local("test", 1, Algorithm::EcdsaP256, now - 1000);
    spec.organisations[0].members[0].key = Some(public.clone());
    Consortium::make(&home.join("net"), &spec, &Crypto::portable()).unwrap()
}

/// Each fault that passes costs its rungs and no signature, with both algorithms.
#[test]
fn faults_that_pass_cost_no_signature() {
    for algorithm in ["p256", "ed25519"] {
        let Some(mut bench) = Bench::new(algorithm) else { return };
        bench.sign_all(3);
        for (script, rung) in [
            // A session dies: CKR_SESSION_HANDLE_INVALID, the real one is closed.
            ("fault sign every=3 do=dead-session", "session"),
            // CKR_OPERATION_ACTIVE and CKR_SESSION_CLOSED.
            ("fault sign-init every=4 do=rv value=0x90", "session"),
            ("fault sign every=4 do=rv value=0xB0", "session"),
            // CKR_FUNCTION_FAILED, CKR_DEVICE_ERROR, a vendor's code: busy.
            ("fault sign every=4 do=rv value=0x06", "pause"),
            ("fault sign-init every=4 do=rv value=0x30", "pause"),
            ("fault sign every=4 do=rv value=0x80000005", "pause"),
            // The login is lost.
            ("fault sign-init every=4 times=2 do=logout", "login"),
            // CKR_KEY_HANDLE_INVALID.
            ("fault sign-init every=4 do=rv value=0x60", "key"),
            // A bit flips on the way out.
            ("fault sign every=4 do=wrong", "key"),
            // Removed and back with the next C_Initialize.
            ("fault sign after=2 times=1 do=gone", "module"),
            ("fault sign do=latency ms=20", ""),
        ] {
            let before = bench.rungs(rung);
            bench.hsm.script(script);
            // The rest after a reinitialisation is part of the ladder: failures within it are not
            // signed, and the next attempt after it is.
            match rung {
                "module" => sign_until_back(&mut bench),
                _ => bench.sign_all(9),
            }
            if !rung.is_empty() {
                assert!(bench.rungs(rung) > before, "{algorithm} {script}: {}", bench.token());
            }
            bench.hsm.script("");
            bench.sign_all(2);
        }
    }
}

/// Signs ten texts, each until it is signed.
fn sign_until_back(bench: &mut Bench) {
    let end = Instant::now() + PATIENCE;
    let mut signed = 0;
    while signed < 10 {
        match bench.sign() {
            Ok(()) => signed += 1,
            Err(error) => {
                assert!(Instant::now() < end, "{error}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Two failures in a row climb to the module: it is finalised, initialised, logged in, and signs.
#[test]
fn a_device_error_that_stays_reinitialises_the_module() {
    let Some(mut bench) = Bench::new("p256") else { return };
    bench.sign_all(2);
    let before = bench.counted("initialize");
    bench.hsm.script("fault sign times=2 do=rv value=0x30");
    bench.sign_all(3);
    assert_eq!(bench.counted("initialize"), before + 1);
    assert_eq!(bench.rungs("module"), 1);
}

/// A device that is away refuses, boundedly, and signs again by itself when it is back.
#[test]
fn a_device_that_is_away_refuses_and_comes_back() {
    let Some(mut bench) = Bench::new("p256") else { return };
    bench.sign_all(1);
    bench.hsm.script("fault sign do=rv value=0x32\nfault initialize do=rv value=0x32");
    for _ in 0..20 {
        let error = bench.sign().unwrap_err();
        assert!(matches!(error, SignError::Key { .. }), "{error}");
    }
    // The module rests between attempts: twenty refusals are not twenty initialisations.
    assert!(bench.counted("initialize") < 12, "{:?}", bench.hsm.counters());
    bench.hsm.script("");
    sign_until_back(&mut bench);
}

/// A token that is not shown any more (the module lost its server) refuses; once it could be there
/// again, the module is initialised anew and it signs by itself.
#[test]
fn a_token_that_is_not_shown_comes_back() {
    let Some(mut bench) = Bench::new("p256") else { return };
    bench.sign_all(1);
    bench.hsm.script("fault sign times=1 do=rv value=0x32\nfault slots do=none");
    for _ in 0..5 {
        let error = bench.sign().unwrap_err().to_string();
        assert!(error.contains("no token") || error.contains("rests"), "{error}");
    }
    bench.hsm.script("");
    sign_until_back(&mut bench);
}

/// A token that signs wrongly for ever releases nothing.
#[test]
fn wrong_signatures_are_never_released() {
    let Some(mut bench) = Bench::new("ed25519") else { return };
    bench.hsm.script("fault sign do=wrong");
    for _ in 0..3 {
        let error = bench.sign().unwrap_err().to_string();
        assert!(error.contains("does not verify"), "{error}");
    }
    bench.hsm.script("");
    bench.sign_all(2);
}

/// A PIN that is refused when the login was lost is tried once; the token is not used any more.
#[test]
fn a_pin_that_locks_stops_the_token_at_once() {
    let Some(mut bench) = Bench::new("p256") else { return };
    bench.sign_all(1);
    let before = bench.counted("login");
    bench.hsm.script("fault sign-init times=1 do=logout\nfault login do=rv value=0xA4");
    for _ in 0..5 {
        let error = bench.sign().unwrap_err().to_string();
        assert!(error.contains("PIN") && error.contains("security officer"), "{error}");
    }
    assert_eq!(bench.counted("login"), before + 1);
    assert!(bench.token()["stopped"].is_string());
}

/// A call that hangs costs its own signature; the others go on. Too many, and the process ends with
/// a reason, to be started again.
#[test]
fn hanging_calls_are_left_behind_and_end_the_process() {
    let Some(mut bench) = Bench::new("p256") else { return };
    bench.sign_all(1);
    bench.hsm.script("fault sign times=1 do=hang");
    let error = bench.sign().unwrap_err().to_string();
    assert!(error.contains("did not sign within"), "{error}");
    bench.sign_all(5);
    assert_eq!(bench.token()["left_behind"], 1);
    bench.hsm.script("fault sign do=hang");
    let end = Instant::now() + PATIENCE;
    let status = loop {
        assert!(bench.sign().is_err());
        if let Some(status) = bench.process.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "the signer does not end: {}", bench.token());
    };
    assert_eq!(status.code(), Some(70));
    let errors = bench.process.errors();
    assert!(errors.contains("only a new process helps"), "{errors}");
    bench.hsm.script("");
    bench.process.start_again(&bench.socket);
    sign_until_back(&mut bench);
}

/// A module that crashes takes the signer with it and nothing else: started again, it signs.
#[test]
fn a_crashing_module_ends_the_signer_alone() {
    let Some(mut bench) = Bench::new("p256") else { return };
    bench.sign_all(1);
    bench.hsm.script("fault sign do=crash");
    assert!(bench.sign().is_err());
    let status = bench.process.child.wait().unwrap();
    assert_eq!(status.signal(), Some(6));
    bench.hsm.script("");
    bench.process.start_again(&bench.socket);
    sign_until_back(&mut bench);
}

/// The second token with the same key signs where the first fails for good; another key in its
/// place is refused at start.
#[test]
fn a_standby_token_with_the_same_key_takes_over() {
    let Some(hsm) = SoftHsm::faulty() else { return };
    let public = hsm.keep_on_two();
    let first = hsm.slot("obelisk");
    let tokens = format!("{}{}", hsm.token_section("obelisk"), hsm.token_section("spare"));
    let standby = ", standby = [{ token = \"spare\", id = \"01\", imported = true }]";
    let mut bench = Bench::start(hsm, public, standby, &tokens);
    bench.sign_all(2);
    bench.hsm.script(&format!("fault sign slot={first} do=rv value=0x30"));
    bench.sign_all(5);
    let status = remote::status(&place(&bench.socket)).unwrap();
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["tokens"][1]["name"], "spare");
    assert!(status["tokens"][1]["signed"].as_u64() >= Some(5), "{status}");
}

/// The pool of a token that refuses sessions becomes what the token gives: every text is signed
/// meanwhile, the process stays, the token is not asked in a loop, and once it gives more, the pool
/// grows back.
#[test]
fn a_token_that_refuses_sessions_makes_the_pool_smaller() {
    let Some(hsm) = SoftHsm::faulty() else { return };
    let (_, public) = hsm.keygen("obelisk", "01", "p256");
    let section = hsm.token_section("obelisk").replace("sessions = 2", "sessions = 4");
    // One for the login, two that sign; slow enough that all four workers would be used.
    hsm.script("fault open do=full value=3\nfault sign do=latency ms=20");
    let mut bench = Bench::start(hsm, public, "", &section);
    for _ in 0..3 {
        bench.sign_lot(12);
    }
    let token = bench.token();
    assert_eq!((&token["sessions"], &token["sessions_wanted"]), (&2.into(), &4.into()), "{token}");
    assert_eq!(token["failed"], 0, "{token}");
    assert_eq!(bench.rungs("module"), 0, "{token}");
    let refused = token["sessions_refused"].as_u64().unwrap();
    assert!((1..=3).contains(&refused), "{token}");
    // One for the login, one at the start, two that sign, and those refused: no loop.
    assert!(bench.counted("open") <= 7, "{:?}", bench.hsm.counters());
    let metrics = bench.metrics();
    for line in [
        "obelisk_signer_token_sessions{token=\"obelisk\"} 2".to_owned(),
        format!("obelisk_signer_token_sessions_refused_total{{token=\"obelisk\"}} {refused}"),
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is missing in {metrics}");
    }
    bench.hsm.script("fault sign do=latency ms=20");
    let end = Instant::now() + PATIENCE;
    while bench.token()["sessions"] != 4 {
        bench.sign_lot(4);
        assert!(Instant::now() < end, "{}", bench.token());
    }
    assert_eq!(bench.token()["failed"], 0);
    assert!(bench.process.child.try_wait().unwrap().is_none());
}

/// A token that takes its last session away refuses texts, boundedly, and signs again by itself.
#[test]
fn a_token_without_any_session_refuses_and_comes_back() {
    let Some(mut bench) = Bench::new("p256") else { return };
    bench.sign_all(2);
    // Sessions die and no other is given; nor is one for a login after C_Initialize.
    bench.hsm.script("fault open do=rv value=0xB1\nfault sign do=dead-session");
    for _ in 0..10 {
        let error = bench.sign().unwrap_err().to_string();
        assert!(error.contains("no session") || error.contains("rests"), "{error}");
    }
    assert!(bench.counted("initialize") < 8, "{:?}", bench.hsm.counters());
    bench.hsm.script("");
    sign_until_back(&mut bench);
}

/// Limits that are no numbers ("effectively infinite", "not available") limit nothing, and a token
/// whose clock is no time and whose label is padded with NULs is found by its label.
#[test]
fn what_a_token_says_about_itself_is_read_as_it_is_meant() {
    for script in [
        "fault token do=sessions value=0",
        "fault token do=sessions value=0xFFFFFFFFFFFFFFFF",
        "fault token do=clock",
    ] {
        let Some(hsm) = SoftHsm::faulty() else { return };
        let (_, public) = hsm.keygen("obelisk", "01", "p256");
        let section = hsm.token_section("obelisk");
        hsm.script(script);
        let mut bench = Bench::start(hsm, public, "", &section);
        bench.sign_all(2);
        assert_eq!(bench.token()["sessions"], 2, "{script}");
    }
}

/// A token that offers no raw ECDSA (openCryptoki 3.8) is told so in words wherever it is looked at
/// or used, and its Ed25519 keys still serve.
#[test]
fn a_token_without_the_mechanism_says_so() {
    let Some(hsm) = SoftHsm::faulty() else { return };
    hsm.keygen("obelisk", "01", "p256");
    hsm.keygen("obelisk", "02", "ed25519");
    let said = |script: &str| {
        hsm.script(script);
        let list = std::process::Command::new(super::BINARY)
            .args(["--json", "crypto", "list", "--module"])
            .arg(&hsm.module)
            .envs(hsm.environment.iter().cloned())
            .output()
            .unwrap();
        let test = |id: &str| {
            let output = hsm.crypto("test", "obelisk", &["--id", id]);
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        (String::from_utf8_lossy(&list.stdout).into_owned(), test("01"), test("02"))
    };
    let (list, p256, ed25519) = said("");
    assert!(list.contains("p256, ed25519") && p256.0 && ed25519.0, "{list} {p256:?} {ed25519:?}");
    let (list, p256, ed25519) = said("fault mechanisms do=hide value=0x1041");
    assert!(list.contains("ed25519") && !list.contains("p256"), "{list}");
    assert!(!p256.0 && p256.1.contains("raw ECDSA (CKM_ECDSA)"), "{p256:?}");
    assert!(ed25519.0, "{ed25519:?}");
    let (list, p256, ed25519) = said("fault mechanisms do=hide value=0x1057");
    assert!(list.contains("p256") && !list.contains("ed25519"), "{list}");
    assert!(p256.0 && !ed25519.0 && ed25519.1.contains("CKM_EDDSA"), "{p256:?} {ed25519:?}");
}
