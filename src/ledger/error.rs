//! Why the ledger refused: one enum, each text with its cause and its fix.

use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::storage::StorageError;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::ids::Height;

/// What a block's execution is agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roots {
    /// Root of the world state after the block.
    pub state: Digest,
    /// Merkle root over the receipts' digests.
    pub receipts: Digest,
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state root {}, receipts root {}", self.state, self.receipts)
    }
}

/// Two computations of one block that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("divergence at height {height}: recorded {recorded}; computed {computed}")]
pub struct Divergence {
    /// The block.
    pub height: Height,
    /// What was recorded when the block was committed.
    pub recorded: Roots,
    /// What came out now.
    pub computed: Roots,
}

/// Why the ledger refused.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The store refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The device or file system failed.
    #[error("ledger: {doing} {path} failed; check disk space, permissions and the kernel log",
        path = path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// Bytes on disk are not what was written.
    #[error(
        "ledger: {what} is damaged: {reason}; move it away and let this node fetch its blocks again"
    )]
    Damaged { what: String, reason: String },
    /// Another process holds the directory.
    #[error("ledger: {} is in use by another process; stop that one first", path.display())]
    InUse { path: PathBuf },
    /// The files are another network's.
    #[error(
        "ledger: {what} belongs to chain {found}, the genesis document to chain {wanted}; use \
         another data directory"
    )]
    OtherChain { what: String, found: ChainId, wanted: ChainId },
    /// A block that does not follow the last one, or does not fit its receipts and writes.
    #[error("ledger: block {height} cannot be committed: {reason}")]
    Unfit { height: Height, reason: String },
    /// More was asked than one answer may hold.
    #[error("ledger: {found} {what}, the limit is {limit}; ask for fewer at once")]
    TooLarge { what: &'static str, found: usize, limit: usize },
    /// Blocks on disk wait to be executed again.
    #[error("ledger: applied up to {applied}, stored up to {stored}: reapply those blocks first")]
    Unapplied { applied: Height, stored: Height },
    /// The applied state is ahead of the stored blocks: the segment files were lost or cut.
    #[error(
        "ledger: the state is at height {applied} but the segment files end at {stored}: blocks \
         that were durable are gone; restore the segment files, or remove the whole data directory \
         and let this node fetch everything from its peers"
    )]
    BlocksLost { applied: Height, stored: Height },
    /// Two computations of one block differ.
    #[error("ledger: {0}; this node must not vote until its state is rebuilt from its peers")]
    Divergence(Box<Divergence>),
    /// An earlier failure left memory and disk apart.
    #[error("ledger: stopped by an earlier failure; restart the process")]
    Stopped,
}

impl From<Divergence> for LedgerError {
    fn from(divergence: Divergence) -> Self {
        Self::Divergence(Box::new(divergence))
    }
}

impl LedgerError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    pub(crate) fn damaged(what: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { what: what.display().to_string(), reason: reason.into() }
    }
}
