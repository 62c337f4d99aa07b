//! Station 4: every validator executes every ordered transaction, in order.
//!
//! Takes a final block, gives receipts and writes. The result is a function of the committed prefix
//! alone: it reads the state below, the block's own time and height, and the certificates the block
//! carries; never a clock.
//!
//! Per transaction, in this order (the first that fails decides the receipt's status):
//! 1. its `valid_until` covers this height and is not further ahead than allowed (`Expired`);
//! 2. its id was not executed before, in this block or below (`Duplicate`);
//! 3. its creator's certificate holds at block time, is not revoked, and its role may submit
//!    (`Unauthorised`);
//! 4. the contract runs (`Refused`, `Trap`, `OutOfFuel`, `LimitExceeded`, `UnknownChaincode`).
//!
//! A failed transaction keeps its place in the block, its error and no writes: nothing vanishes.

pub mod overlay;
pub mod station;
pub mod transaction;

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::chaincode::Call;
use crate::chaincode::Caller;
use crate::chaincode::Fault;
use crate::chaincode::builtin::membership;
use crate::chaincode::contracts::Contracts;
use crate::ledger::ExecutedBlock;
use crate::ledger::Ledger;
use crate::ledger::LedgerError;
use crate::ledger::StateView;
use crate::ledger::read_write_set::WriteSet;
use crate::membership::directory::Directory;
use crate::membership::error::MembershipError;
use crate::membership::identity::Identity;
use crate::membership::identity::Purpose;
use crate::membership::identity::Role;
use crate::pipeline::execute::overlay::Overlay;
use crate::pipeline::execute::transaction::Finished;
use crate::pipeline::execute::transaction::Transaction as Execution;
use crate::types::block::Block;
use crate::types::block::BlockHeader;
use crate::types::genesis::ChainParameters;
use crate::types::ids::CertificateId;
use crate::types::ids::Height;
use crate::types::ids::TxId;
use crate::types::limits;
use crate::types::receipt::Receipt;
use crate::types::receipt::Status;
use crate::types::transaction::Transaction;

/// Executes blocks one after the other.
pub struct Executor {
    ledger: Arc<Ledger>,
    directory: Arc<Directory>,
    contracts: Arc<Contracts>,
    parameters: ChainParameters,
    overlay: Overlay,
    /// Output of the block at hand so far, at most `BLOCK_OUTPUT_BYTES_MAX`.
    block_output_bytes: usize,
    /// Ids of blocks above the ledger's tip, with their heights.
    recent: HashSet<TxId>,
    recent_per_block: VecDeque<(Height, Vec<TxId>)>,
    /// Keys of the membership contract's state: one per revoked certificate. A copy of the state,
    /// so that a transaction costs no read for it.
    revoked: HashSet<Bytes>,
    /// Creators of the block at hand; as many as it carries certificates, at most.
    creators: HashMap<CertificateId, Creator>,
}

/// A creator of transactions.
#[derive(Clone)]
struct Creator {
    identity: Arc<Identity>,
    caller: Arc<Caller>,
}

impl Executor {
    /// An executor on top of the ledger's state.
    pub fn new(
        ledger: Arc<Ledger>,
        directory: Arc<Directory>,
        contracts: Arc<Contracts>,
        parameters: ChainParameters,
    ) -> Result<Self, LedgerError> {
        let mut executor = Self {
            ledger,
            directory,
            contracts,
            parameters,
            overlay: Overlay::default(),
            block_output_bytes: 0,
            recent: HashSet::new(),
            recent_per_block: VecDeque::new(),
            revoked: HashSet::new(),
            creators: HashMap::new(),
        };
        executor.load_revoked()?;
        Ok(executor)
    }

    /// Executes a final block. An error is the node's own failure; the process must stop.
    pub fn execute(&mut self, block: Block) -> Result<ExecutedBlock, LedgerError> {
        let height = block.header.height;
        self.settle();
        self.recent_per_block.push_back((height, Vec::new()));
        self.block_output_bytes = 0;
        self.creators.clear();
        let count = block.header.transactions as usize;
        let mut receipts = Vec::with_capacity(count);
        let mut writes = Vec::with_capacity(count);
        for batch in &block.batches {
            for tx in batch.transactions() {
                let der = batch.certificate(&tx.payload().creator);
                let (receipt, written) = self.transaction(&block.header, tx, der)?;
                receipts.push(receipt);
                writes.push(written);
            }
        }
        Ok(ExecutedBlock { block, receipts, writes })
    }

    /// Values kept: above the ledger, and in the cache.
    pub fn held(&self) -> (usize, usize) {
        self.overlay.held()
    }

    /// Every certificate that is revoked, with its organisation.
    pub fn revoked(&self) -> impl Iterator<Item = (&str, CertificateId)> {
        self.revoked.iter().filter_map(|key| membership::revoked(key))
    }

    fn transaction(
        &mut self,
        header: &BlockHeader,
        tx: &Transaction,
        der: Option<&Bytes>,
    ) -> Result<(Receipt, WriteSet), LedgerError> {
        let id = tx.id();
        // Before the duplicate check, whose table forgets by window and knows executed ids only:
        // what it answers for an id outside its validity depends on how far the disk is.
        if let Err(fault) = self.check_window(header, tx) {
            return Ok((failed(id, fault, 0), WriteSet::default()));
        }
        if self.recent.contains(&id) || self.ledger.contains(&id)? {
            let fault = Fault::new(Status::Duplicate, "this id executed before");
            return Ok((failed(id, fault, 0), WriteSet::default()));
        }
        self.recent.insert(id);
        self.recent_per_block.back_mut().expect("pushed by execute").1.push(id);
        let caller = match self.check_creator(header, tx, der) {
            Ok(caller) => caller,
            Err(fault) => return Ok((failed(id, fault, 0), WriteSet::default())),
        };
        let payload = tx.payload();
        let call = Call {
            chaincode: payload.chaincode.clone(),
            function: payload.function.clone(),
            args: payload.args.clone(),
            caller,
            calling_chaincode: None,
            tx: id,
            height: header.height,
            block_time_ms: header.time_ms,
        };
        let fuel = self.parameters.fuel_max;
        let run = Execution::new(&*self.ledger, &self.overlay, &self.contracts, false);
        let finished = run.run(&call, fuel)?;
        let (value, fuel_left) = match finished.outcome.clone() {
            Ok(done) => done,
            Err(fault) => return Ok((failed(id, fault, fuel), WriteSet::default())),
        };
        let output_bytes = self.block_output_bytes + output_bytes(&value, &finished);
        if output_bytes > limits::BLOCK_OUTPUT_BYTES_MAX {
            let text = "the block's transactions before left no room for its output: sign anew";
            let fault = Fault::new(Status::LimitExceeded, text);
            return Ok((failed(id, fault, fuel), WriteSet::default()));
        }
        self.block_output_bytes = output_bytes;
        let receipt = Receipt {
            tx: id,
            status: Status::Ok,
            error: String::new(),
            value,
            events: finished.events,
            write_set: finished.writes.digest(),
            fuel: fuel.saturating_sub(fuel_left),
        };
        self.overlay.add(header.height, &finished.writes);
        self.note_revocations(&finished.writes);
        Ok((receipt, finished.writes))
    }

    fn check_window(&self, header: &BlockHeader, tx: &Transaction) -> Result<(), Fault> {
        let until = tx.payload().valid_until;
        if until < header.height {
            return Err(Fault::new(Status::Expired, format!("valid until height {until}")));
        }
        let limit = header.height.0.saturating_add(limits::VALIDITY_BLOCKS_MAX);
        if until.0 > limit {
            let text = format!("valid until height {until}, at most {limit} is allowed here");
            return Err(Fault::new(Status::Expired, text));
        }
        Ok(())
    }

    fn check_creator(
        &mut self,
        header: &BlockHeader,
        tx: &Transaction,
        der: Option<&Bytes>,
    ) -> Result<Arc<Caller>, Fault> {
        let creator = tx.payload().creator;
        let unauthorised = |text: String| Fault::new(Status::Unauthorised, text);
        // Asked before `known`: what this node remembers must not decide what a block means.
        let Some(der) = der else {
            return Err(unauthorised("the block lacks the creator's certificate".into()));
        };
        let Creator { identity, caller } =
            self.creator(&creator, der).map_err(|error| unauthorised(error.to_string()))?;
        if !identity.valid_at(header.time_ms) {
            return Err(unauthorised("the certificate is not valid at block time".into()));
        }
        let key = || membership::key(&identity.organisation, &creator);
        if !self.revoked.is_empty() && self.revoked.contains(key().as_slice()) {
            return Err(unauthorised("the certificate is revoked".into()));
        }
        if !may_submit(&identity) {
            let (role, kind) = (identity.role.name(), identity.purpose.described());
            return Err(unauthorised(format!("role {role} with {kind} may not submit")));
        }
        Ok(caller)
    }

    fn creator(&mut self, id: &CertificateId, der: &Bytes) -> Result<Creator, MembershipError> {
        if let Some(creator) = self.creators.get(id) {
            return Ok(creator.clone());
        }
        let identity = match self.directory.known(id) {
            Some(identity) => identity,
            None => self.directory.identify(der)?,
        };
        let caller = Arc::new(caller(&identity));
        let creator = Creator { identity, caller };
        self.creators.insert(*id, creator.clone());
        Ok(creator)
    }

    fn settle(&mut self) {
        let durable = self.ledger.tip().height;
        self.overlay.settle(durable);
        while self.recent_per_block.front().is_some_and(|(height, _)| *height <= durable) {
            let (_, ids) = self.recent_per_block.pop_front().expect("front exists");
            for id in ids {
                self.recent.remove(&id);
            }
        }
    }

    fn load_revoked(&mut self) -> Result<(), LedgerError> {
        let mut start = Bytes::new();
        loop {
            let page = self.ledger.scan(membership::NAME, &start, &[], REVOKED_PAGE)?;
            self.revoked.extend(page.iter().map(|(key, _)| key.clone()));
            match page.last() {
                Some((last, _)) if page.len() == REVOKED_PAGE => {
                    start = [last.as_ref(), &[0]].concat().into();
                }
                _ => return Ok(()),
            }
        }
    }

    fn note_revocations(&mut self, writes: &WriteSet) {
        for (at, value) in &writes.0 {
            if at.namespace == membership::NAME {
                match value {
                    Some(_) => self.revoked.insert(at.key.clone()),
                    None => self.revoked.remove(&at.key),
                };
            }
        }
    }
}

/// Runs a read-only call on a view of the durable state: all its reads are of one height, which the
/// call should name as its own.
pub fn query(
    view: &StateView<'_>,
    contracts: &Contracts,
    call: &Call,
    fuel: u64,
) -> Result<Result<Bytes, Fault>, LedgerError> {
    let overlay = Overlay::caching(QUERY_CACHE_ENTRIES);
    let finished = Execution::new(view, &overlay, contracts, true).run(call, fuel)?;
    Ok(finished.outcome.map(|(value, _)| value))
}

/// True where the certificate is an enrolment certificate of a role that may submit transactions.
pub fn may_submit(identity: &Identity) -> bool {
    identity.purpose == Purpose::Enrolment && matches!(identity.role, Role::Client | Role::Admin)
}

/// What a contract learns of its caller.
pub fn caller(identity: &Identity) -> Caller {
    Caller {
        organisation: identity.organisation.clone(),
        name: identity.name.clone(),
        role: identity.role.name().to_owned(),
        attributes: identity.attributes.clone(),
        certificate: identity.certificate,
    }
}

/// Bytes that a transaction leaves behind: what it wrote, returned and emitted.
fn output_bytes(value: &Bytes, finished: &Finished) -> usize {
    let writes = finished.writes.0.iter();
    let written: usize =
        writes.map(|(at, v)| at.key.len() + v.as_ref().map_or(0, Bytes::len)).sum();
    let emitted: usize = finished.events.iter().map(|e| e.name.len() + e.payload.len()).sum();
    value.len() + written + emitted
}

fn failed(tx: TxId, fault: Fault, fuel: u64) -> Receipt {
    let mut error = fault.text;
    let mut end = error.len().min(limits::ERROR_TEXT_BYTES_MAX);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    error.truncate(end);
    let (value, events) = (Bytes::new(), Vec::new());
    Receipt { tx, status: fault.status, error, value, events, write_set: Default::default(), fuel }
}

/// A query reads few keys twice.
const QUERY_CACHE_ENTRIES: usize = 16;
const REVOKED_PAGE: usize = 1024;
