//! Execution is a function of the committed prefix: how far the disk is never shows in a receipt.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;
use obelisk::chaincode::Call;
use obelisk::chaincode::Caller;
use obelisk::chaincode::Contract;
use obelisk::chaincode::Fault;
use obelisk::chaincode::Outcome;
use obelisk::chaincode::Package;
use obelisk::chaincode::Runtime;
use obelisk::chaincode::Stub;
use obelisk::chaincode::builtin::lifecycle;
use obelisk::chaincode::contracts::Contracts;
use obelisk::chaincode::contracts::Options;
use obelisk::ledger::ExecutedBlock;
use obelisk::ledger::Ledger;
use obelisk::ledger::read_write_set::StateKey;
use obelisk::membership::directory::Directory;
use obelisk::pipeline::commit;
use obelisk::pipeline::execute;
use obelisk::pipeline::execute::Executor;
use obelisk::pipeline::execute::overlay::Overlay;
use obelisk::storage::faulty::FaultPlan;
use obelisk::storage::faulty::FaultyKv;
use obelisk::storage::memory::MemoryKv;
use obelisk::types::codec::Encode;
use obelisk::types::digest::Digest;
use obelisk::types::ids::CertificateId;
use obelisk::types::ids::Height;
use obelisk::types::ids::TxId;
use obelisk::types::limits;
use obelisk::types::receipt::Receipt;
use obelisk::types::receipt::Status;
use obelisk::types::signature::Signature;
use obelisk::types::transaction::Transaction;

use crate::chain_fixture;
use crate::chain_fixture::NAMESPACE;
use crate::chain_fixture::block;
use crate::chain_fixture::genesis;
use crate::chain_fixture::key;
use crate::chain_fixture::transaction;

/// A chain whose commits lag behind execution by a fixed number of blocks.
struct Lagging {
    ledger: Arc<Ledger>,
    executor: Executor,
    waiting: Vec<ExecutedBlock>,
    lag: usize,
}

impl Lagging {
    fn new(dir: &Path, lag: usize) -> Self {
        let genesis = genesis("test");
        let ledger = Ledger::open(dir, &genesis, Arc::new(MemoryKv::new())).expect("opened");
        let ledger = Arc::new(ledger);
        let directory = Directory::new(&genesis, Arc::new(|_| true)).expect("no roots");
        let contracts = Contracts::new(Options::default()).expect("every runtime starts");
        let (directory, contracts) = (Arc::new(directory), Arc::new(contracts));
        let executor = Executor::new(ledger.clone(), directory, contracts, genesis.parameters);
        let executor = executor.expect("nothing is revoked");
        Self { ledger, executor, waiting: Vec::new(), lag }
    }

    /// Executes the next block and commits what is older than the lag.
    fn run(&mut self, txs: &[Transaction]) -> Vec<Receipt> {
        let last = self.waiting.last().map(|executed| executed.block.header.tip());
        let tip = last.unwrap_or_else(|| self.ledger.tip());
        let next = block(&genesis("test"), &tip, txs.to_vec(), 2);
        let executed = self.executor.execute(next).expect("executed");
        let receipts = executed.receipts.clone();
        self.waiting.push(executed);
        while self.waiting.len() > self.lag {
            self.ledger.commit(vec![self.waiting.remove(0)]).expect("committed");
        }
        receipts
    }
}

fn valid_until(nonce: u64, height: u64) -> Transaction {
    let genesis = genesis("test");
    let mut payload = transaction(&genesis, nonce, &[("a", Some("1"))]).payload().clone();
    payload.valid_until = Height(height);
    Transaction::parse(payload.to_bytes(), Signature([1; 64])).expect("a payload parses")
}

/// Ids that come too early, in time, again and too late get the same receipts whether the blocks
/// before are durable, on their way or about to leave the window of recent ids.
#[test]
fn receipts_do_not_depend_on_how_far_the_disk_is() {
    let window = limits::VALIDITY_BLOCKS_MAX;
    let early = valid_until(1, window + 3);
    let short = valid_until(2, 10);
    let long = valid_until(3, window + 1);
    let run = |lag: usize| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut chain = Lagging::new(dir.path(), lag);
        let mut receipts = Vec::new();
        for height in 1..window + 6 {
            let filler = valid_until(1000 + height, height);
            let txs = [filler, early.clone(), short.clone(), long.clone()];
            let shown = height < 6 || height.abs_diff(window) < 6 || height.abs_diff(10) < 3;
            receipts.push(chain.run(if shown { &txs } else { &txs[..1] }));
        }
        receipts
    };
    let prompt = run(0);
    let statuses = |n: usize| {
        let of = |height: usize| prompt[height - 1].get(n).map(|receipt| receipt.status);
        [1, 2, 3, 4, 10, 11].map(of).map(|status| status.expect("shown"))
    };
    use Status::Duplicate;
    use Status::Expired;
    use Status::Unauthorised;
    let again = Duplicate;
    assert_eq!(statuses(1), [Expired, Expired, Unauthorised, again, again, again]);
    assert_eq!(statuses(2), [Unauthorised, again, again, again, again, Expired]);
    assert!(run(6) == prompt);
}

/// Aim: whatever is cached, evicted, too large, deleted, durable or on its way to the disk, a read
/// gives the newest write.
#[test]
fn overlay_reads_the_newest_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let (genesis, kv) = (genesis("test"), Arc::new(MemoryKv::new()));
    let ledger = Ledger::open(dir.path(), &genesis, kv).expect("opened");
    let mut overlay = Overlay::caching(4);
    let mut model: BTreeMap<StateKey, Option<Bytes>> = BTreeMap::new();
    let mut random = 1_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    for nonce in 1..300 {
        let value = format!("{nonce}")
            .repeat([1, 1, limits::STATE_CACHE_VALUE_BYTES_MAX][next(3) as usize]);
        let name = format!("key {}", next(12));
        let writes = [(name.as_str(), (next(4) > 0).then_some(value.as_str()))];
        let tx = transaction(&genesis, nonce, &writes);
        let done = chain_fixture::execute(block(&genesis, &ledger.tip(), vec![tx], 1));
        overlay.add(done.block.header.height, &done.writes[0]);
        model.extend(done.writes[0].0.clone());
        // Reads before the block is durable, after, and after the overlay let go of it.
        for step in 0..3 {
            match step {
                0 => {}
                1 => drop(ledger.commit(vec![done.clone()]).expect("committed")),
                _ => overlay.settle(ledger.tip().height),
            }
            for _ in 0..4 {
                let at = key(&format!("key {}", next(12)));
                let read = overlay.value(&ledger, &at).expect("read");
                assert_eq!(read, model.get(&at).cloned().flatten(), "block {nonce}, {at:?}");
            }
        }
    }
}

/// Aim: the store's log is synced when blocks came, and a failed sync is the process's end.
#[test]
fn store_is_synced_behind_the_blocks() {
    // The first sync is that of opening.
    for fail_sync in [None, Some(2)] {
        let dir = tempfile::tempdir().expect("a directory");
        let kv = Arc::new(FaultyKv::new(FaultPlan { fail_sync, ..FaultPlan::default() }));
        let genesis = genesis("test");
        let ledger = Ledger::open(dir.path(), &genesis, kv.clone()).expect("opened");
        let ledger = Arc::new(ledger);
        let (running, ends) = crossbeam_channel::bounded(1);
        let to_sync = ledger.clone();
        let station = std::thread::spawn(move || commit::sync_store(&to_sync, &ends));
        let tx = transaction(&genesis, 1, &[("a", Some("1"))]);
        let done = chain_fixture::execute(block(&genesis, &ledger.tip(), vec![tx], 1));
        ledger.commit(vec![done]).expect("committed");
        drop(running);
        let ended = station.join().expect("no panic");
        assert_eq!(ended.is_err(), fail_sync.is_some());
        assert_eq!(kv.unsynced() > 0, fail_sync.is_some());
    }
}

/// A contract that tells what accounts `a` and `b` hold and what a scan of all shows, and lets
/// something happen after each of the first two reads.
struct Accounts(Happenings);

type Happenings = Arc<Mutex<Vec<Box<dyn FnOnce() + Send>>>>;

impl Runtime for Accounts {
    fn load(&self, _: &Package) -> Result<Arc<dyn Contract>, Fault> {
        Ok(Arc::new(Self(self.0.clone())))
    }
}

impl Contract for Accounts {
    fn has_init(&self) -> bool {
        false
    }

    fn invoke(&self, _: &Call, stub: &mut dyn Stub, fuel: u64) -> Result<Outcome, Fault> {
        let happen = || {
            let next = self.0.lock().expect("no holder panics").pop();
            next.expect("once per read")();
        };
        let mut said = Vec::new();
        for account in [b"a", b"b"] {
            said.extend(stub.get(account)?);
            happen();
        }
        said.extend(stub.scan(b"", b"", 9)?.into_iter().map(|(_, value)| value));
        Ok(Outcome { value: said.join(&b' ').into(), fuel_left: fuel })
    }
}

/// A query sees the state of one height, whatever is committed between its reads: no account of a
/// transfer before it, the other after it.
#[test]
fn a_query_reads_at_one_height() {
    let dir = tempfile::tempdir().expect("a directory");
    let (genesis, kv) = (genesis("test"), Arc::new(MemoryKv::new()));
    let ledger = Arc::new(Ledger::open(dir.path(), &genesis, kv).expect("opened"));
    let commit = {
        let ledger = ledger.clone();
        move |nonce, a: &str, b: &str, more: Vec<(StateKey, Bytes)>| {
            let tx = transaction(&genesis, nonce, &[("a", Some(a)), ("b", Some(b))]);
            let next = block(&genesis, &ledger.tip(), vec![tx], 1);
            let mut done = chain_fixture::execute(next);
            done.writes[0].0.extend(more.into_iter().map(|(at, value)| (at, Some(value))));
            done.receipts[0].write_set = done.writes[0].digest();
            ledger.commit(vec![done]).expect("committed");
        }
    };
    let package = Digest::of(&[b"package"]);
    let record = lifecycle::Record {
        version: "1".to_owned(),
        kind: "accounts".to_owned(),
        package,
        active: true,
        revision: 1,
        organisation: "org".to_owned(),
        by: "admin".to_owned(),
        tx: TxId::default(),
        height: Height(1),
    };
    let at = |key: Vec<u8>| StateKey { namespace: lifecycle::NAME.to_owned(), key: key.into() };
    let deployed = vec![
        (at(lifecycle::name_key(NAMESPACE)), record.to_bytes()),
        (at(lifecycle::package_key(&package)), Bytes::from_static(b"package")),
    ];
    commit(1, "100", "0", deployed);
    let moves = Happenings::default();
    let contracts = Contracts::new(Options::default()).expect("every runtime starts");
    let contracts = contracts.with_runtime("accounts", Arc::new(Accounts(moves.clone())));
    let ask = || {
        let view = ledger.view();
        let tip = view.tip();
        let call = Call {
            chaincode: NAMESPACE.to_owned(),
            function: "all".to_owned(),
            args: Vec::new(),
            caller: Arc::new(Caller {
                organisation: "org".to_owned(),
                name: "client".to_owned(),
                role: "client".to_owned(),
                attributes: Vec::new(),
                certificate: CertificateId(Digest::ZERO),
            }),
            calling_chaincode: None,
            tx: TxId::default(),
            height: tip.height,
            block_time_ms: tip.time_ms,
        };
        execute::query(&view, &contracts, &call, 1_000_000).expect("read").expect("answered")
    };
    let first = commit.clone();
    *moves.lock().expect("no holder panics") = vec![
        Box::new(move || commit(3, "10", "90", Vec::new())),
        Box::new(move || first(2, "30", "70", Vec::new())),
    ];
    assert_eq!(ask(), "100 0 100 0");
    assert_eq!(ledger.tip().height, Height(3));
    *moves.lock().expect("no holder panics") = vec![Box::new(|| ()), Box::new(|| ())];
    assert_eq!(ask(), "10 90 10 90");
}
