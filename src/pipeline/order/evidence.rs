//! Evidence that replicas broke the protocol, kept as files: proof for the consortium, not for the
//! protocol.
//!
//! ```text
//! <dir>/<culprit>-<first 16 hex digits of the SHA-256 of its bytes>.evidence     consensus/evidence.rs
//! ```
//!
//! One file holds one piece in its portable form: copying the file is exporting it, and whoever has
//! the genesis document can judge it. Invariants: a file gets its name when its bytes are durable;
//! at most `EVIDENCE_PER_CULPRIT_MAX` pieces against one replica and `EVIDENCE_BYTES_MAX` in all;
//! what is kept first stays. Failure: a piece that cannot be kept is logged in full; consensus goes
//! on.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;

use bytes::Bytes;

use crate::consensus::Evidence;
use crate::consensus::evidence::Accusation;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::ids::ReplicaId;
use crate::types::limits;

/// The folder of one node.
pub struct EvidenceFolder {
    directory: PathBuf,
    chain: ChainId,
    writing: Mutex<()>,
}

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is durable.
    New,
    /// The same bytes are there already.
    Known,
    /// A limit is reached.
    Full,
}

impl EvidenceFolder {
    /// Opens or creates the folder.
    pub fn open(directory: &Path, chain: ChainId) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self { directory: directory.to_owned(), chain, writing: Mutex::new(()) })
    }

    /// Keeps a piece, durably, where the limits allow it.
    pub fn keep(&self, evidence: &Evidence) -> io::Result<Kept> {
        let bytes = Accusation::of(self.chain, evidence).to_bytes();
        let _writing = self.writing.lock().expect("no holder of this lock panics");
        let name = name(evidence.culprit, &bytes);
        let path = self.directory.join(&name);
        if path.exists() {
            return Ok(Kept::Known);
        }
        let mut total = bytes.len();
        let mut against = 0;
        for (_, culprit, len) in pieces(&self.directory)? {
            total = total.saturating_add(len);
            against += usize::from(culprit == evidence.culprit);
        }
        if against >= limits::EVIDENCE_PER_CULPRIT_MAX || total > limits::EVIDENCE_BYTES_MAX {
            return Ok(Kept::Full);
        }
        let unfinished = self.directory.join("unfinished");
        let mut file = File::create(&unfinished)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        File::open(&self.directory)?.sync_all()?;
        Ok(Kept::New)
    }

    /// Keeps a piece; where it cannot be kept, the log has it in full.
    pub fn keep_or_tell(&self, evidence: &Evidence) {
        let (culprit, offence) = (evidence.culprit, evidence.offence);
        let lost = match self.keep(evidence) {
            Ok(Kept::New | Kept::Known) => {
                return tracing::error!(%culprit, offence, "a replica broke the protocol");
            }
            Ok(Kept::Full) => "the limit on kept evidence is reached".to_owned(),
            Err(error) => error.to_string(),
        };
        let messages: Vec<String> =
            evidence.messages.iter().map(|m| hex::encode(m.to_bytes())).collect();
        tracing::error!(%culprit, offence, lost, ?messages, "evidence that is not kept");
    }

    /// All pieces, in order of their names; together at most `EVIDENCE_BYTES_MAX`.
    pub fn all(&self) -> io::Result<Vec<Bytes>> {
        read(&self.directory)
    }
}

/// All pieces of a folder, in order of their names: culprit by culprit.
pub fn read(directory: &Path) -> io::Result<Vec<Bytes>> {
    let mut found = pieces(directory)?;
    found.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    let mut all = Vec::with_capacity(found.len());
    let mut total = 0usize;
    for (path, _, len) in found {
        total = total.saturating_add(len);
        if total > limits::EVIDENCE_BYTES_MAX {
            break;
        }
        all.push(fs::read(path)?.into());
    }
    Ok(all)
}

/// Path, culprit and length of every piece; other files are none of ours.
fn pieces(directory: &Path) -> io::Result<Vec<(PathBuf, ReplicaId, usize)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stem = name.strip_suffix(SUFFIX).and_then(|stem| stem.split_once('-'));
        if let Some(culprit) = stem.and_then(|(culprit, _)| culprit.parse().ok()) {
            let len = usize::try_from(fs::metadata(&path)?.len()).unwrap_or(usize::MAX);
            found.push((path, ReplicaId(culprit), len));
        }
    }
    Ok(found)
}

fn name(culprit: ReplicaId, bytes: &Bytes) -> String {
    let digest = Digest::of(&[bytes]);
    format!("{}-{}{SUFFIX}", culprit.0, hex::encode(&digest.0[..8]))
}

/// Name of the folder within the directory of the order station.
pub const FOLDER: &str = "evidence";
const SUFFIX: &str = ".evidence";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::Envelope;
    use crate::types::signature::Signature;

    fn chain() -> ChainId {
        ChainId(Digest::of(&[b"evidence"]))
    }

    fn piece(culprit: u16, number: usize, len: usize) -> Evidence {
        let culprit = ReplicaId(culprit);
        let body = Bytes::from([vec![0; len], number.to_be_bytes().to_vec()].concat());
        let messages =
            vec![Envelope { sender: culprit, body, signature: Signature([1; 64]).into() }];
        Evidence { culprit, offence: "test", messages }
    }

    /// A piece is kept once, survives a restart, and reads back as the bytes that are judged.
    #[test]
    fn a_piece_is_kept_once_and_survives() {
        let dir = tempfile::tempdir().unwrap();
        let folder = EvidenceFolder::open(dir.path(), chain()).unwrap();
        assert_eq!(folder.keep(&piece(2, 1, 10)).unwrap(), Kept::New);
        assert_eq!(folder.keep(&piece(10, 1, 10)).unwrap(), Kept::New);
        let again = EvidenceFolder::open(dir.path(), chain()).unwrap();
        assert_eq!(again.keep(&piece(2, 1, 10)).unwrap(), Kept::Known);
        std::fs::write(dir.path().join("notes.txt"), "not ours").unwrap();
        let wanted: Vec<Bytes> = [2, 10]
            .map(|culprit| Accusation::of(chain(), &piece(culprit, 1, 10)).to_bytes())
            .to_vec();
        assert_eq!(again.all().unwrap(), wanted);
    }

    /// One replica cannot fill the folder with its offences, and all together stay below a limit.
    #[test]
    fn pieces_are_bounded_by_culprit_and_in_all() {
        let dir = tempfile::tempdir().unwrap();
        let folder = EvidenceFolder::open(dir.path(), chain()).unwrap();
        for number in 0..limits::EVIDENCE_PER_CULPRIT_MAX {
            assert_eq!(folder.keep(&piece(1, number, 10)).unwrap(), Kept::New);
        }
        assert_eq!(folder.keep(&piece(1, 99, 10)).unwrap(), Kept::Full);
        assert_eq!(folder.keep(&piece(2, 0, 10)).unwrap(), Kept::New);
        let huge = piece(3, 0, limits::EVIDENCE_BYTES_MAX);
        assert_eq!(folder.keep(&huge).unwrap(), Kept::Full);
    }
}
