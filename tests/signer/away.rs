//! Tokens that are away: at the start of a signer, of a validator, of a standby, and in silence.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use obelisk::crypto::routing::Crypto;
use obelisk::host::clock::now_ms;
use obelisk::membership::consortium::Consortium;
use obelisk::membership::consortium::Spec;
use obelisk::membership::identity::Role;
use obelisk::signer::SignRequest;
use obelisk::signer::Signer;
use obelisk::signer::remote;
use obelisk::signer::remote::RemoteSigner;
use obelisk::types::codec::Encode;
use obelisk::types::digest::Digest;
use obelisk::types::ids::ChainId;
use obelisk::types::ids::Epoch;
use obelisk::types::ids::SequenceNumber;
use obelisk::types::ids::View;
use obelisk::types::signature::Algorithm;
use obelisk::types::signature::PublicKey;
use obelisk::types::vote;
use obelisk::types::vote::Phase;
use obelisk::types::vote::Slot;
use obelisk::types::vote::Vote;
use serde_json::Value;

use super::PATIENCE;
use super::SignerProcess;
use super::place;
use super::refused;
use super::settle;
use super::softhsm::SoftHsm;
use super::wait_for;

/// A signer of one validator with its key on a token.
struct Bench {
    hsm: SoftHsm,
    public: PublicKey,
    chain: ChainId,
    config: PathBuf,
    socket: PathBuf,
    next: u64,
}

impl Bench {
    /// `key` is what the configuration says beside the token and the id.
    fn new(hsm: SoftHsm, public: PublicKey, mode: &str, key: &str, tokens: &[&str]) -> Self {
        let at = |name: &str| hsm.directory.path().join(name);
        let mut spec = Spec::local("test", 1, Algorithm::EcdsaP256, now_ms() - 1000);
        let members = spec.organisations.iter_mut().flat_map(|o| &mut o.members);
        members.filter(|m| m.role == Role::Validator).for_each(|m| m.key = Some(public.clone()));
        let made = Consortium::make(&at("net"), &spec, &Crypto::portable()).unwrap();
        let home = at("home");
        fs::create_dir(&home).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
        let (config, socket) = (home.join("signer.toml"), home.join("s"));
        let sections: String = tokens.iter().map(|token| hsm.token_section(token)).collect();
        let text = format!(
            "[signer]\nsocket = \"s\"\ndata = \"guard\"\n[[validator]]\nname = \"org1/validator\"\n\
             mode = {mode:?}\ngenesis = {:?}\n\
             key = {{ token = \"obelisk\", id = \"01\"{key} }}\n{sections}",
            made.genesis_path
        );
        fs::write(&config, text).unwrap();
        let chain = made.genesis.chain_id();
        Self { hsm, public, chain, config, socket, next: 0 }
    }

    fn delegated() -> Option<Self> {
        let hsm = SoftHsm::faulty()?;
        let (_, public) = hsm.keygen("obelisk", "01", "p256");
        Some(Self::new(hsm, public, "delegated", "", &["obelisk"]))
    }

    /// A key on two tokens, which was made outside.
    fn with_standby() -> Option<Self> {
        let hsm = SoftHsm::faulty()?;
        let public = hsm.keep_on_two();
        let key =
            ", imported = true, standby = [{ token = \"spare\", id = \"01\", imported = true }]";
        Some(Self::new(hsm, public, "direct", key, &["obelisk", "spare"]))
    }

    fn start(&self) -> SignerProcess {
        SignerProcess::start(&self.config, &self.socket, &self.hsm.environment)
    }

    fn open(&self, signed: bool) -> RemoteSigner {
        let (chain, public) = (self.chain, self.public.clone());
        let signer = RemoteSigner::open(place(&self.socket), chain, public, signed).unwrap();
        settle(&signer);
        signer
    }

    /// Starts the signer again; its record is compared once the link is back.
    fn start_again(&self, process: &mut SignerProcess, signer: &RemoteSigner) {
        let before = signer.opening();
        process.start_again(&self.socket);
        wait_for("the link is back", || signer.opening() != before);
        settle(signer);
    }

    /// Signs the vote of the next sequence number.
    fn vote(&mut self, signer: &RemoteSigner) -> Result<(), String> {
        self.next += 1;
        let (epoch, view, sequence) = (Epoch(0), View(0), SequenceNumber(self.next));
        let slot = Slot { epoch, view, sequence, phase: Phase::Commit };
        let vote = Vote { slot, digest: Digest([7; 32]) };
        let text = vote::signed_text(&self.chain, &vote.to_bytes());
        let signed = signer.sign(&[SignRequest { slot: Some(slot), text, ahead: false }]).remove(0);
        signed.map(drop).map_err(|error| error.to_string())
    }

    fn status(&self) -> Value {
        serde_json::from_str(&remote::status(&place(&self.socket)).unwrap()).unwrap()
    }

    fn is_certified_ahead(&self) -> bool {
        let sessions = self.status()["keys"][0]["sessions"].clone();
        let sessions = sessions.as_array().unwrap();
        sessions.len() >= 2 && sessions.iter().all(|session| session["certified"] == true)
    }

    /// The folder of one token in SoftHSM's store, to be taken away.
    fn store_of(&self, label: &str) -> PathBuf {
        let tokens = self.hsm.directory.path().join("tokens");
        let holds = |folder: &Path| {
            let object = fs::read(folder.join("token.object")).unwrap_or_default();
            object.windows(label.len()).any(|window| window == label.as_bytes())
        };
        let mut folders = fs::read_dir(tokens).unwrap().map(|entry| entry.unwrap().path());
        folders.find(|folder| holds(folder)).unwrap()
    }

    fn take_away(&self, label: &str) -> Taken {
        let from = self.store_of(label);
        let to = self.hsm.directory.path().join(format!("taken-{label}"));
        fs::rename(&from, &to).unwrap();
        Taken { from, to }
    }
}

/// A token's folder that is elsewhere.
struct Taken {
    from: PathBuf,
    to: PathBuf,
}

impl Taken {
    fn give_back(self) {
        fs::rename(self.to, self.from).unwrap();
    }
}

/// Aim: a delegated signer that is started while its token is away (taken out, not shown, its module
/// without its daemon, or hanging) goes on with its session keys, says so, and takes the token up again.
#[test]
fn a_delegated_signer_starts_without_its_token() {
    let Some(mut bench) = Bench::delegated() else { return };
    let mut process = bench.start();
    let signer = bench.open(false);
    bench.vote(&signer).unwrap();
    wait_for("a session is certified ahead", || bench.is_certified_ahead());
    for script in
        ["", "fault slots do=none", "fault initialize do=rv value=0x30", "fault slots do=hang"]
    {
        process.kill();
        let taken = script.is_empty().then(|| bench.take_away("obelisk"));
        bench.hsm.script(script);
        bench.start_again(&mut process, &signer);
        for _ in 0..5 {
            bench.vote(&signer).unwrap_or_else(|error| panic!("{script}: {error}"));
        }
        let status = bench.status();
        let place = &status["keys"][0]["places"][0];
        assert_eq!(place["confirmed"], false, "{script}: {status}");
        assert!(place["trouble"].is_string(), "{script}: {status}");
        wait_for("the node hears of it", || signer.warnings().join(" ").contains("token obelisk"));
        if let Some(taken) = taken {
            taken.give_back();
        }
        bench.hsm.script("");
        if !script.contains("hang") {
            wait_for("the token is taken up", || {
                bench.status()["keys"][0]["places"][0]["confirmed"] == true
            });
            wait_for("no warning is left", || signer.warnings().is_empty());
            assert_eq!(bench.status()["tokens"][0]["away_since_ms"], Value::Null);
        }
        bench.vote(&signer).unwrap();
    }
    process.kill();
    assert!(process.errors().contains("it starts as it was last seen"), "the log says nothing");
}

/// Aim: a key that was never seen keeps the signer from starting, so that it is tried again (70); a
/// returned token with another key is not used.
#[test]
fn a_key_that_was_never_seen_is_waited_for_and_another_is_not_used() {
    let Some(mut bench) = Bench::delegated() else { return };
    bench.hsm.script("fault slots do=none");
    let (code, errors) = refused(&bench.config, &bench.hsm.environment);
    assert_eq!(code, 70, "{errors}");
    assert!(errors.contains("connect the token"), "{errors}");
    bench.hsm.script("");
    let mut process = bench.start();
    let signer = bench.open(false);
    bench.vote(&signer).unwrap();
    wait_for("a session is certified ahead", || bench.is_certified_ahead());
    process.kill();
    let taken = bench.take_away("obelisk");
    bench.start_again(&mut process, &signer);
    bench.hsm.make_token("obelisk");
    let card = bench.hsm.directory.path().join("other.toml").display().to_string();
    let made = bench.hsm.crypto("keygen", "obelisk", &["--id", "01", "--out", &card]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    wait_for("the other key is refused", || {
        let place = bench.status()["keys"][0]["places"][0].clone();
        place["confirmed"] == false
            && place["trouble"].as_str().unwrap_or_default().contains("another one")
    });
    assert_eq!(bench.status()["tokens"][0]["signed"], 0);
    bench.vote(&signer).unwrap();
    drop(taken);
}

/// Aim: one place of a key is enough to start with, whichever it is, and the other is taken up when it
/// comes back.
#[test]
fn one_place_of_a_key_is_enough() {
    let Some(mut bench) = Bench::with_standby() else { return };
    for (away, other) in [("obelisk", 1), ("spare", 0)] {
        let taken = bench.take_away(away);
        let process = bench.start();
        let signer = bench.open(bench.next > 0);
        bench.vote(&signer).unwrap();
        let status = bench.status();
        let places = &status["keys"][0]["places"];
        assert_eq!(places[other]["confirmed"], true, "{status}");
        assert_eq!(places[1 - other]["confirmed"], false, "{status}");
        assert!(status["tokens"][1 - other]["away_since_ms"].is_u64(), "{status}");
        wait_for("the node hears of it", || signer.warnings().join(" ").contains(away));
        taken.give_back();
        // Both are of one module, which shows tokens that were not there once it is initialised anew:
        // the ladder does so when the other place fails.
        bench.hsm.script("fault sign times=1 do=gone");
        wait_for("the place is taken up", || {
            let _ = bench.vote(&signer);
            bench.status()["keys"][0]["places"][1 - other]["confirmed"] == true
        });
        bench.hsm.script("");
        drop((signer, process));
    }
}

/// Aim: a token that is lost in silence, while session keys sign, is told by the log, the status, the
/// metrics and to the node, and so is its return.
#[test]
fn a_silent_loss_is_told() {
    let Some(mut bench) = Bench::delegated() else { return };
    let mut process = bench.start();
    let signer = bench.open(false);
    bench.vote(&signer).unwrap();
    wait_for("a session is certified ahead", || bench.is_certified_ahead());
    let before = now_ms();
    bench.hsm.script("fault info do=gone\nfault slots do=none");
    let token = |bench: &Bench| bench.status()["tokens"][0].clone();
    wait_for("the status tells the loss", || token(&bench)["away_since_ms"].is_u64());
    assert!(token(&bench)["away_since_ms"].as_u64() >= Some(before), "{}", token(&bench));
    assert!(token(&bench)["away_reason"].is_string());
    wait_for("the node hears of it", || signer.warnings().join(" ").contains("is away for"));
    let status = bench.status();
    let metrics = status["metrics"].as_str().unwrap();
    let line = "obelisk_signer_token_away_seconds{token=\"obelisk\"} ";
    let seconds = metrics.lines().find_map(|one| one.strip_prefix(line)).unwrap();
    assert!(seconds.parse::<u64>().unwrap() >= 1, "{metrics}");
    bench.vote(&signer).unwrap();
    bench.hsm.script("");
    wait_for("the token is back", || token(&bench)["away_since_ms"].is_null());
    wait_for("the node hears of that", || signer.warnings().is_empty());
    process.kill();
    let errors = process.errors();
    let count = |words: &str| errors.lines().filter(|line| line.contains(words)).count();
    assert_eq!((count("a token is away"), count("is back")), (1, 1), "{errors}");
}

/// Aim: a module that hangs at the start ends signer and tools within the named time, with its name.
#[test]
fn a_module_that_hangs_at_the_start_is_given_up() {
    std::thread::scope(|scope| {
        for word in ["initialize", "slots", "login"] {
            scope.spawn(move || {
                let Some(bench) = Bench::delegated() else { return };
                bench.hsm.script(&format!("fault {word} do=hang"));
                let module = bench.hsm.module.display().to_string();
                let tool = |command: &str, more: &[&str]| {
                    let began = Instant::now();
                    let output = bench.hsm.crypto(command, "obelisk", more);
                    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert_eq!(output.status.code(), Some(70), "{word} {command}: {errors}");
                    assert!(errors.contains(&module), "{word} {command}: {errors}");
                    assert!(errors.contains("did not answer"), "{word} {command}: {errors}");
                    assert!(began.elapsed() < PATIENCE, "{word} {command}");
                };
                std::thread::scope(|scope| {
                    scope.spawn(|| tool("test", &["--id", "01"]));
                    scope.spawn(|| tool("audit", &[]));
                    let began = Instant::now();
                    let (code, errors) = refused(&bench.config, &bench.hsm.environment);
                    assert_eq!(code, 70, "{word}: {errors}");
                    assert!(errors.contains(&module), "{word}: {errors}");
                    assert!(began.elapsed() < PATIENCE, "{word}");
                });
            });
        }
    });
}
