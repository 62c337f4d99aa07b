//! A disk that takes nothing more, under the commands that change a key's record and under a signer
//! that is told to fence one: each fails with a cause, the record stays as it was, and nothing is
//! signed twice.
//!
//! The disk is played by a limit of 0 on what the process may write to files (`ulimit -f`), with the
//! signal ignored, so that each write is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Instant;

use obelisk::crypto::routing::Crypto;
use obelisk::host::clock::now_ms;
use obelisk::membership::consortium::Consortium;
use obelisk::membership::consortium::Spec;
use obelisk::membership::identity::Role;
use obelisk::membership::msp::Msp;
use obelisk::signer::SignRequest;
use obelisk::signer::Signer;
use obelisk::signer::guard::format::Floor;
use obelisk::signer::guard::format::State;
use obelisk::signer::guard::inspect;
use obelisk::signer::guard::standing::RecordCall;
use obelisk::signer::remote;
use obelisk::signer::remote::RemoteSigner;
use obelisk::types::ids::ChainId;
use obelisk::types::ids::Epoch;
use obelisk::types::ids::SequenceNumber;
use obelisk::types::ids::View;
use obelisk::types::signature::Algorithm;
use obelisk::types::signature::PublicKey;
use tempfile::TempDir;

use super::BINARY;
use super::PATIENCE;
use super::SignerProcess;
use super::place;
use super::process::OneSigner;
use super::process::request;
use super::settle;

/// A validator's key with a record that holds one slot.
struct Fixture {
    directory: TempDir,
    one: OneSigner,
    name: String,
    chain: ChainId,
    key: PublicKey,
}

impl Fixture {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let spec = Spec::local("test", 1, Algorithm::EcdsaP256, now_ms() - 1000);
        let consortium = Consortium::make(directory.path(), &spec, &Crypto::portable()).unwrap();
        let chain = consortium.genesis.chain_id();
        let member = consortium.of_role(Role::Validator).next().unwrap().clone();
        let key = Msp::load(&member.folder).unwrap().enrolment.identity().unwrap().key;
        let name = format!("{}/validator", member.organisation);
        let one = OneSigner::make(&consortium, directory.path());
        let fixture = Self { directory, one, name, chain, key };
        fixture.signs_once_more();
        fixture
    }

    /// Slot 7 has one text, on whatever signer the record lies.
    fn signs_once_more(&self) {
        let _process = SignerProcess::start(&self.one.config, &self.one.socket, &[]);
        self.is_signed_once(&self.one.socket);
    }

    fn is_signed_once(&self, socket: &Path) {
        let key = self.key.clone();
        let signer = RemoteSigner::open(place(socket), self.chain, key, false).unwrap();
        settle(&signer);
        let sign = |request: SignRequest| signer.sign(&[request]).remove(0).is_ok();
        assert!(sign(request(self.chain, 1)) && !sign(request(self.chain, 2)));
    }

    fn log(&self) -> PathBuf {
        let name = self.name.replace('/', "_");
        self.one.config.with_file_name("guard").join(format!("{name}.slots"))
    }

    fn state(&self) -> State {
        inspect::inspect(&self.log(), self.chain, &self.key).unwrap().state
    }

    fn arguments(&self, command: &str, config: &Path, more: &[&Path]) -> Vec<String> {
        let mut words = vec!["signer".to_owned(), command.to_owned(), "--config".to_owned()];
        words.extend([config.display().to_string(), "--validator".into(), self.name.clone()]);
        words.extend(more.iter().map(|path| path.display().to_string()));
        words
    }
}

/// The program on a disk that takes nothing.
fn on_full_disk(arguments: &[String]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh", BINARY]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn failed(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{errors}");
    assert!(errors.contains("error: ") && errors.contains("fix: "), "{errors}");
    assert!(errors.contains("File too large"), "{errors}");
    errors
}

fn done(arguments: &[String]) {
    let output = Command::new(BINARY).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Aim: an export that cannot write its file leaves none and the log signs on; an import that cannot
/// write leaves no log.
#[test]
fn a_record_survives_a_full_disk_on_its_way() {
    let fixture = Fixture::new();
    let file = fixture.directory.path().join("record");
    let export = fixture.arguments("export", &fixture.one.config, &[Path::new("--out"), &file]);
    failed(&on_full_disk(&export).output().unwrap());
    assert!(!file.exists() && !file.with_extension("new").exists());
    assert_eq!(fixture.state(), State::InUse);
    fixture.signs_once_more();

    let nowhere = fixture.directory.path().join("missing/record");
    let lost = fixture.arguments("export", &fixture.one.config, &[Path::new("--out"), &nowhere]);
    assert!(!Command::new(BINARY).args(lost).output().unwrap().status.success());
    assert_eq!(fixture.state(), State::InUse);
    done(&export);
    assert_eq!(fixture.state(), State::Retired);

    let home = fixture.directory.path().join("elsewhere");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    let config = home.join("signer.toml");
    fs::copy(&fixture.one.config, &config).unwrap();
    let import = fixture.arguments("import", &config, &[&file]);
    failed(&on_full_disk(&import).output().unwrap());
    let made = home.join("guard").join(fixture.log().file_name().unwrap());
    assert!(!made.exists(), "half a log");
    done(&import);
    let socket = home.join("s");
    let _process = SignerProcess::start(&config, &socket, &[]);
    fixture.is_signed_once(&socket);
}

/// Aim: a fence that cannot be written is no fence that can be forgotten: the signer ends with 70,
/// answers nothing more, and the record it leaves is the one from before, whole.
#[test]
fn a_fence_on_a_full_disk_ends_the_signer() {
    let fixture = Fixture::new();
    let before = fs::read(fixture.log()).unwrap();
    let config = fixture.one.config.display().to_string();
    let child = on_full_disk(&["signer".into(), "--config".into(), config]).spawn().unwrap();
    let mut child = answering(child, &fixture.one.socket);
    let (place, key) = (place(&fixture.one.socket), fixture.key.clone());
    let signer = RemoteSigner::open(place, fixture.chain, key, true).unwrap();
    let floor = Floor { sequence: SequenceNumber(9), epoch: Epoch(0), view: View(0) };
    assert!(signer.record(signer.opening(), &RecordCall::Fence(floor)).is_err());
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "the signer goes on without its record");
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(70));
    assert!(signer.sign(&[request(fixture.chain, 1)]).remove(0).is_err());
    assert_eq!(fs::read(fixture.log()).unwrap(), before);
    fixture.signs_once_more();
}

/// Waits until a signer answers on its socket.
fn answering(mut child: Child, socket: &Path) -> Child {
    let end = Instant::now() + PATIENCE;
    while remote::status(&place(socket)).is_err() {
        assert!(child.try_wait().unwrap().is_none() && Instant::now() < end, "no signer");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child
}
