//! Opening a ledger: every part is checked against the others before anything is served.

use std::collections::BTreeSet;
use std::fs;
use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::RwLock;
use std::sync::atomic::AtomicBool;

use nix::fcntl::Flock;
use nix::fcntl::FlockArg;

use crate::ledger::Ledger;
use crate::ledger::error::Divergence;
use crate::ledger::error::LedgerError;
use crate::ledger::error::Roots;
use crate::ledger::reads;
use crate::ledger::recent::RecentIds;
use crate::ledger::rows;
use crate::ledger::rows::Applied;
use crate::ledger::segments::SegmentSizes;
use crate::ledger::segments::Segments;
use crate::ledger::state_tree::StateTree;
use crate::ledger::state_tree::row_key_hash;
use crate::ledger::state_tree::value_hash;
use crate::storage::Kv;
use crate::storage::WriteBatch;
use crate::storage::tables::Table;
use crate::telemetry::progress::Progress;
use crate::types::block::Tip;
use crate::types::codec::Decode;
use crate::types::digest::Digest;
use crate::types::genesis::Genesis;
use crate::types::ids::ChainId;
use crate::types::ids::Height;
use crate::types::limits;

pub(crate) fn open(
    dir: &Path,
    genesis: &Genesis,
    kv: Arc<dyn Kv>,
    sizes: SegmentSizes,
    progress: &Progress,
) -> Result<Ledger, LedgerError> {
    fs::create_dir_all(dir).map_err(LedgerError::io("creating", dir))?;
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(LedgerError::io("opening", &path))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| LedgerError::InUse { path: dir.to_owned() })?;
    let chain = genesis.chain_id();
    progress.at(format!("checking the files of blocks in {}", dir.display()));
    let segments = Segments::open(&dir.join("segments"), chain, sizes)?;
    check_chain(&*kv, chain)?;
    let applied = applied(&*kv, chain, genesis.time_ms)?;
    check_recorded(&segments, &applied)?;
    let tree = rebuild(&*kv, progress)?;
    if tree.root() != applied.roots.state {
        let (height, recorded) = (applied.tip.height, applied.roots);
        let computed = Roots { state: tree.root(), receipts: recorded.receipts };
        return Err(Divergence { height, recorded, computed }.into());
    }
    progress.at("reading the ids of recent transactions");
    let recent = recent_ids(&segments, applied.tip.height)?;
    Ok(Ledger {
        chain,
        kv,
        segments,
        tree: RwLock::new(tree),
        head: RwLock::new(applied),
        applying: RwLock::new(()),
        recent: RwLock::new(recent),
        committing: Mutex::new(BTreeSet::new()),
        stopped: AtomicBool::new(false),
        _lock: lock,
    })
}

/// Writes the chain's id into a new store and refuses another chain's.
fn check_chain(kv: &dyn Kv, chain: ChainId) -> Result<(), LedgerError> {
    let Some(row) = kv.get(Table::Meta, rows::CHAIN)? else {
        let mut batch = WriteBatch::default();
        batch.put(Table::Meta, rows::CHAIN, chain.0.0);
        kv.write(batch)?;
        return Ok(kv.sync()?);
    };
    let found = ChainId::from_bytes(&row.into()).map_err(|_| rows::bad_row("meta"))?;
    if found != chain {
        let what = "the store".to_owned();
        return Err(LedgerError::OtherChain { what, found, wanted: chain });
    }
    Ok(())
}

fn applied(kv: &dyn Kv, chain: ChainId, time_ms: u64) -> Result<Applied, LedgerError> {
    match kv.get(Table::Meta, rows::APPLIED)? {
        Some(row) => Applied::from_bytes(&row.into()).map_err(|_| rows::bad_row("meta")),
        None => Ok(Applied {
            tip: Tip::genesis(chain, time_ms),
            roots: Roots { state: Digest::ZERO, receipts: Digest::ZERO },
        }),
    }
}

/// The files must hold the block that the state is at, with the same result.
fn check_recorded(segments: &Segments, applied: &Applied) -> Result<(), LedgerError> {
    let (height, stored) = (applied.tip.height, segments.tip());
    if height > stored {
        return Err(LedgerError::BlocksLost { applied: height, stored });
    }
    let Some(found) = segments.read(height)? else { return Ok(()) };
    let result = reads::decode_result(height, &found.result)?;
    if result.hash != applied.tip.hash {
        return Err(LedgerError::Damaged {
            what: "the store or the segment files".to_owned(),
            reason: format!(
                "block {height} has hash {} in the files and {} in the store",
                result.hash, applied.tip.hash
            ),
        });
    }
    let recorded = Roots { state: result.state_root, receipts: result.receipts_root };
    if recorded != applied.roots {
        let computed = applied.roots;
        return Err(Divergence { height, recorded, computed }.into());
    }
    Ok(())
}

/// Builds the tree from the flat state.
fn rebuild(kv: &dyn Kv, progress: &Progress) -> Result<StateTree, LedgerError> {
    let mut tree = StateTree::new();
    let (mut start, mut done) = (Vec::new(), 0);
    loop {
        progress.at(format!("hashing the world state: {done} keys done"));
        let rows = kv.scan(Table::State, &start, &[], REBUILD_ROWS)?;
        let Some((last, _)) = rows.last() else { return Ok(tree) };
        start.clone_from(last);
        start.push(0);
        done += rows.len();
        let mut updates: Vec<_> =
            rows.iter().map(|(key, value)| (row_key_hash(key), Some(value_hash(value)))).collect();
        tree.update(&mut updates);
    }
}

fn recent_ids(segments: &Segments, applied: Height) -> Result<RecentIds, LedgerError> {
    let mut recent = RecentIds::default();
    let first = applied.0.saturating_sub(limits::VALIDITY_BLOCKS_MAX) + 1;
    for height in (first..=applied.0).map(Height) {
        let Some(found) = segments.read(height)? else { continue };
        let result = reads::decode_result(height, &found.result)?;
        recent.add(height, reads::executed_ids(&result.receipts));
    }
    Ok(recent)
}

/// Rows read at a time while the tree is rebuilt: large enough to amortise the hashing of upper
/// levels, small enough to stay below a few MB of values in practice.
const REBUILD_ROWS: usize = 16 * 1024;
