//! The slot guard against SIGKILL: a child process signs as fast as it can and says what it signed;
//! it is killed at an arbitrary moment, and everything it said must be on record.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;

use obelisk::crypto::SigningKey;
use obelisk::crypto::routing::Crypto;
use obelisk::signer::SignError;
use obelisk::signer::SignRequest;
use obelisk::signer::Signer;
use obelisk::signer::embedded::EmbeddedSigner;
use obelisk::signer::embedded::Mode;
use obelisk::signer::embedded::StartError;
use obelisk::signer::guard::GuardError;
use obelisk::signer::guard::standing::RecordCall;
use obelisk::types::codec::Encode;
use obelisk::types::digest::Digest;
use obelisk::types::ids::ChainId;
use obelisk::types::ids::Epoch;
use obelisk::types::ids::SequenceNumber;
use obelisk::types::ids::View;
use obelisk::types::signature::Algorithm;
use obelisk::types::vote;
use obelisk::types::vote::Phase;
use obelisk::types::vote::Slot;
use obelisk::types::vote::Vote;
use tempfile::TempDir;

const LOG: &str = "OBELISK_TEST_GUARD_LOG";
const FIRST: &str = "OBELISK_TEST_GUARD_FIRST";

fn chain() -> ChainId {
    ChainId(Digest::of(&[b"guard test"]))
}

fn key() -> Arc<dyn SigningKey> {
    let secret = obelisk::crypto::keys::Secret::of_seed([9; 32].into());
    Crypto::portable().load(Algorithm::Ed25519, &secret.to_pkcs8()).unwrap()
}

fn request(sequence: u64, content: u8) -> SignRequest {
    let slot = Slot {
        epoch: Epoch(0),
        view: View(0),
        sequence: SequenceNumber(sequence),
        phase: Phase::Commit,
    };
    let vote = Vote { slot, digest: Digest([content; 32]) };
    SignRequest {
        slot: Some(slot),
        text: vote::signed_text(&chain(), &vote.to_bytes()),
        ahead: false,
    }
}

/// A signer whose record was compared and found whole.
fn start(log: &Path, has_signed: bool) -> EmbeddedSigner {
    let signer = EmbeddedSigner::start(Mode::Direct, log, chain(), key(), has_signed).unwrap();
    signer.record(signer.opening(), &RecordCall::Settle).unwrap();
    signer
}

/// What the child does; in an ordinary run of the tests it does nothing.
#[test]
fn child_that_signs_until_killed() {
    let Some(log) = std::env::var_os(LOG) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let signer = start(Path::new(&log), first > 0);
    let mut out = std::io::stdout();
    for lot in 0.. {
        let lot_first = first + lot * 7;
        let requests: Vec<_> = (lot_first..lot_first + 7).map(|n| request(n, 1)).collect();
        assert!(signer.sign(&requests).iter().all(Result::is_ok));
        writeln!(out, "signed {}", lot_first + 6).unwrap();
        out.flush().unwrap();
    }
}

fn start_child(log: &Path, first: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["guard::child_that_signs_until_killed", "--exact", "--nocapture"])
        .env(LOG, log)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn signed(line: &str) -> Option<u64> {
    line.strip_prefix("signed ")?.parse().ok()
}

/// Aim: killed at any moment, the signer never signs a second text for a slot it signed before, and
/// no second process uses the guard meanwhile.
#[test]
fn a_killed_signer_never_signs_twice() {
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("guard");
    let mut last = 0;
    for round in 0..8 {
        let mut child = start_child(&log, last);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        for _ in 0..=round * 3 {
            last = lines.find_map(|line| signed(&line)).expect("the child signs");
        }
        let second = EmbeddedSigner::start(Mode::Direct, &log, chain(), key(), true);
        assert!(matches!(second, Err(StartError::Guard(GuardError::Locked { .. }))));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still said before it died counts as well.
        last = lines.filter_map(|line| signed(&line)).last().unwrap_or(last);

        let signer = start(&log, true);
        let others: Vec<_> = (0..=last).map(|n| request(n, 2)).collect();
        for refused in signer.sign(&others) {
            assert!(matches!(refused, Err(SignError::Conflict { .. })), "{refused:?}");
        }
        let again: Vec<_> = (0..=last).map(|n| request(n, 1)).collect();
        assert!(signer.sign(&again).iter().all(Result::is_ok));
    }
}
