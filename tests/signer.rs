//! The signer as a process of its own, under real validators: votes go over its socket, it may be
//! killed and started again, and what it must refuse it refuses with one clear error.

#[cfg(feature = "pkcs11")]
#[path = "signer/away.rs"]
mod away;
#[path = "signer/disk.rs"]
mod disk;
#[cfg(feature = "pkcs11")]
#[path = "signer/faults.rs"]
mod faults;
#[cfg(feature = "pkcs11")]
#[path = "signer/modes.rs"]
mod modes;
#[path = "signer/process.rs"]
mod process;
#[path = "signer/record.rs"]
mod record;
#[path = "signer/refusals.rs"]
mod refusals;
#[cfg(feature = "pkcs11")]
#[path = "signer/softhsm.rs"]
pub mod softhsm;
#[cfg(feature = "pkcs11")]
#[path = "signer/token.rs"]
mod token;

use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use obelisk::signer::Signer;
use obelisk::signer::guard::standing::RecordCall;
use obelisk::signer::remote;
use obelisk::signer::remote::Place;
use obelisk::signer::remote::RemoteSigner;
use obelisk::signer::socket;

const BINARY: &str = env!("CARGO_BIN_EXE_obelisk");
const PATIENCE: Duration = Duration::from_secs(60);

/// A signer process; dropped, it is killed.
pub struct SignerProcess {
    child: Child,
    config: PathBuf,
    environment: Vec<(String, String)>,
}

impl SignerProcess {
    /// Starts it and waits until its socket answers.
    pub fn start(config: &Path, socket: &Path, environment: &[(String, String)]) -> Self {
        let child = spawn(config, environment);
        let mut signer =
            Self { child, config: config.to_owned(), environment: environment.to_vec() };
        signer.wait(socket);
        signer
    }

    fn wait(&mut self, socket: &Path) {
        let end = Instant::now() + PATIENCE;
        while remote::status(&place(socket)).is_err() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the signer ended with {status}: {}", self.errors());
            }
            assert!(Instant::now() < end, "the signer does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        let mut errors = self.child.stderr.take().expect("captured once");
        errors.read_to_string(&mut text).unwrap();
        text
    }

    /// SIGKILL, as a crash would.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self, socket: &Path) {
        self.child = spawn(&self.config, &self.environment);
        self.wait(socket);
    }
}

impl Drop for SignerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(config: &Path, environment: &[(String, String)]) -> Child {
    Command::new(BINARY)
        .args(["signer", "--config"])
        .arg(config)
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

fn place(socket: &Path) -> Place {
    let deadline = Duration::from_secs(10);
    Place { socket: socket.to_owned(), user: socket::own_user(), deadline }
}

/// Says, as a node does that compared the record and found it whole, that it may sign.
fn settle(signer: &RemoteSigner) {
    let end = Instant::now() + PATIENCE;
    while signer.record(signer.opening(), &RecordCall::Settle).is_err() {
        assert!(Instant::now() < end, "the record cannot be settled");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a signer that must not start; returns its exit code and standard error.
fn refused(config: &Path, environment: &[(String, String)]) -> (i32, String) {
    let output = spawn(config, environment).wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines = |head: &str| errors.lines().filter(|line| line.starts_with(head)).count();
    assert_eq!((lines("error: "), lines("fix: ")), (1, 1), "{errors}");
    (output.status.code().unwrap_or(-1), errors)
}

/// Every wait has an end: what never comes is named.
#[cfg(feature = "pkcs11")]
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
