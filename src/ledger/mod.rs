//! Floor 2: what the network agreed on, durably: blocks, results, world state and its commitment.
//!
//! ```text
//!  commit(executed blocks)
//!    1 check that each follows the last        nothing changed yet
//!    2 state tree -> state root -> result      memory
//!    3 append blocks and results, one sync     segments/   the only sync: durable from here on
//!    4 one write batch per block               Kv          not synced, rebuildable
//! ```
//!
//! Invariants:
//! * A block is in the segment files, durable, before the store knows of it; so the files are never
//!   behind the store. Where they are, durable data was lost: `BlocksLost`, and nothing is served.
//! * The store's row "applied" is written with the writes it speaks of, atomically. Blocks above it
//!   are given out by `unapplied` and come back, executed again, through `reapply`, which refuses
//!   any root that differs from the recorded one (`Divergence`).
//! * The tree in memory always has the root of the applied height; at open it is rebuilt from the
//!   flat state and compared.
//! * After an error that may have left memory, files and store apart, every further change is
//!   refused (`Stopped`): the process must stop and open the ledger anew.
//!
//! Reads (`reads`) need no lock against commits except proofs, which wait for the commit at hand so
//! that values and tree are of one height. Reads that must agree, or must know their height, go
//! through a view (`view`): execution alone may ask the newest state, as it is its only writer.

mod commit;
mod error;
mod open;
pub mod read_write_set;
mod reads;
mod recent;
mod rows;
pub mod segments;
pub mod state_tree;
mod view;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::RwLock;
use std::sync::atomic::AtomicBool;

use nix::fcntl::Flock;

use crate::ledger::read_write_set::WriteSet;
use crate::ledger::recent::RecentIds;
use crate::ledger::rows::Applied;
use crate::ledger::segments::SegmentSizes;
use crate::ledger::segments::Segments;
use crate::ledger::state_tree::StateTree;
use crate::storage::Kv;
use crate::telemetry::progress::Progress;
use crate::types::block::Block;
use crate::types::genesis::Genesis;
use crate::types::ids::CertificateId;
use crate::types::ids::ChainId;
use crate::types::receipt::Receipt;

pub use crate::ledger::error::Divergence;
pub use crate::ledger::error::LedgerError;
pub use crate::ledger::error::Roots;
pub use crate::ledger::reads::Proven;
pub use crate::ledger::reads::Unapplied;
pub use crate::ledger::view::StatePage;
pub use crate::ledger::view::StateView;
pub use crate::ledger::view::WorldState;

/// A block with what its execution gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutedBlock {
    /// The block.
    pub block: Block,
    /// One receipt per transaction, in block order.
    pub receipts: Vec<Receipt>,
    /// One write set per transaction, in block order; empty for a failed one.
    pub writes: Vec<WriteSet>,
}

/// The ledger of one chain in one directory. Shared as `Arc<Ledger>`.
#[derive(Debug)]
pub struct Ledger {
    chain: ChainId,
    kv: Arc<dyn Kv>,
    segments: Segments,
    /// Held while a block goes through steps 2 to 4; `head` changes under it.
    tree: RwLock<StateTree>,
    head: RwLock<Applied>,
    /// Held while a block's rows and its height become visible, one after the other.
    applying: RwLock<()>,
    recent: RwLock<RecentIds>,
    /// One commit at a time; the ids of certificates known to be stored.
    committing: Mutex<BTreeSet<CertificateId>>,
    stopped: AtomicBool,
    /// Keeps a second process out for as long as this lives.
    _lock: Flock<File>,
}

impl Ledger {
    /// Opens or creates the ledger of a directory: `dir/segments` holds the blocks, `kv` the rest.
    ///
    /// Refuses damaged files, files of another chain, a directory in use, and a store that is ahead
    /// of the files. Blocks above the applied height must be reapplied before the first commit.
    pub fn open(dir: &Path, genesis: &Genesis, kv: Arc<dyn Kv>) -> Result<Self, LedgerError> {
        Self::open_sized(dir, genesis, kv, SegmentSizes::default())
    }

    /// As `open`, with sizes of segment files other than the default.
    pub fn open_sized(
        dir: &Path,
        genesis: &Genesis,
        kv: Arc<dyn Kv>,
        sizes: SegmentSizes,
    ) -> Result<Self, LedgerError> {
        open::open(dir, genesis, kv, sizes, &Progress::default())
    }

    /// As `open`; tells how far it is, since a large state takes minutes.
    pub fn open_telling(
        dir: &Path,
        genesis: &Genesis,
        kv: Arc<dyn Kv>,
        progress: &Progress,
    ) -> Result<Self, LedgerError> {
        open::open(dir, genesis, kv, SegmentSizes::default(), progress)
    }

    /// The chain this ledger belongs to.
    pub fn chain(&self) -> ChainId {
        self.chain
    }
}
