//! Floor 5: what the outside may ask of a node, over REST and gRPC.
//!
//! ```text
//! REST  -- rest/<resource>.rs --\
//!                                +--> Action -- Service::perform (role? then pipeline::Handle) --> Answer
//! gRPC  -- grpc/<service>.rs  --/
//! ```
//!
//! * One enum of requests, one table of permissions (`action`): deny by default.
//! * One shape of failure (`failure`): code, message, hint.
//! * `ca` is the membership service: a process of its own, with a register instead of a pipeline.
//! * The node never signs for a client; requests that write carry a signed transaction.
//! * Bytes from outside are parsed into types here and nowhere else; bodies, streams, connections
//!   and waits are bounded (`types::limits`).

pub mod action;
pub mod auth;
#[cfg(feature = "rest")]
pub mod ca;
mod checkpoint;
pub mod failure;
pub mod scan;
pub mod status;

#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(feature = "rest")]
pub mod listen;
#[cfg(feature = "rest")]
pub mod openapi;
#[cfg(feature = "rest")]
pub mod rest;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
#[cfg(feature = "grpc")]
use tokio::sync::watch;

use crate::api::action::AccusationEntry;
use crate::api::action::Action;
use crate::api::action::Answer;
use crate::api::action::ChainTip;
use crate::api::action::CommittedTransaction;
use crate::api::action::Evidence;
use crate::api::action::Follower;
use crate::api::action::Kind;
use crate::api::action::PastValue;
use crate::api::action::StateEvidence;
use crate::api::action::StateValue;
use crate::api::auth::Caller;
use crate::api::auth::Connection;
use crate::api::checkpoint::Checkpoints;
use crate::api::failure::Failure;
use crate::consensus::evidence::Accusation;
use crate::consensus::evidence::Judge;
use crate::ledger::LedgerError;
use crate::ledger::WorldState;
use crate::ledger::read_write_set::StateKey;
use crate::pipeline::handle::Handle;
use crate::pipeline::refusal::Refusal;
use crate::types::block::Block;
use crate::types::codec::Decode;
use crate::types::codec::Encode;
use crate::types::evidence::CheckpointProof;
use crate::types::evidence::ReceiptProof;
use crate::types::evidence::TransactionProof;
use crate::types::ids::Height;
use crate::types::ids::TxId;
use crate::types::limits;
use crate::types::receipt::BlockResult;

/// What both interfaces serve; cheap to clone.
#[derive(Clone)]
pub struct Service {
    handle: Handle,
    open: bool,
    reads: Arc<Semaphore>,
    followers: Arc<Semaphore>,
    checkpoints: Checkpoints,
}

impl Service {
    /// Serves a node. `open` lets callers without a certificate read and hand in transactions
    /// (which carry their own signatures); meant for loopback and networks of one's own.
    pub fn new(handle: Handle, open: bool) -> Self {
        let reads = Arc::new(Semaphore::new(limits::READS_MAX));
        let followers = Arc::new(Semaphore::new(limits::SUBSCRIBERS_MAX));
        Self { handle, open, reads, followers, checkpoints: Checkpoints::default() }
    }

    /// Who is behind a connection.
    pub fn caller(&self, connection: &Connection) -> Result<Caller, Failure> {
        connection
            .caller(self.handle.directory())
            .map_err(|reason| Failure::new("unauthenticated", reason))
    }

    /// Refuses what the caller may not do, then does it.
    pub async fn perform(&self, caller: &Caller, action: Action) -> Result<Answer, Failure> {
        self.authorise(caller, action.kind())?;
        match action {
            Action::Receipt { id, wait } => {
                let wait = wait.min(Duration::from_millis(limits::RECEIPT_WAIT_MS_MAX));
                match self.handle.receipt(id, wait).await {
                    Err(Refusal::TimedOut(0)) => Err(no_receipt_yet(id)),
                    answer => Ok(Answer::Receipt(answer?)),
                }
            }
            Action::Submit { transaction, certificate } => {
                Ok(Answer::Submitted(self.handle.submit(*transaction, certificate).await?))
            }
            Action::SubmitMany(many) => {
                Ok(Answer::SubmittedMany(self.handle.submit_many(many).await))
            }
            Action::Query { chaincode, function, args } => match caller {
                Caller::Member(member) => {
                    let (handle, who) = (self.handle.clone(), member.clone());
                    let query = move || handle.query(&who, chaincode, function, args);
                    let what = "the list of queries under way";
                    let (height, value) = in_place(&self.reads, what, query).await??;
                    Ok(Answer::Value { height, value })
                }
                Caller::Anonymous => Err(self.refusal(caller)),
            },
            Action::Follow(from) => {
                let place = place(&self.followers, "the list of subscribers")?;
                Ok(Answer::Follow(Follower::new(self.handle.subscribe(from), place)))
            }
            Action::Status => Ok(Answer::Status(Box::new(self.handle.status()))),
            Action::Genesis => Ok(Answer::Genesis(self.handle.genesis().clone())),
            Action::Alive => Ok(Answer::Alive),
            Action::Ready => {
                let status = self.handle.status();
                Ok(Answer::Ready { reasons: status.not_ready, warnings: status.warnings })
            }
            Action::Metrics => Ok(Answer::Metrics(self.handle.render_metrics())),
            Action::Registrar => Err(registrar_is_off()),
            read => {
                let service = self.clone();
                let work = move || service.read(read);
                in_place(&self.reads, "the list of reads under way", work).await?
            }
        }
    }

    /// Refuses a caller whose role does not allow this kind of action.
    pub fn authorise(&self, caller: &Caller, kind: Kind) -> Result<(), Failure> {
        match kind.allows(caller, self.open) {
            true => Ok(()),
            false => Err(self.refusal(caller)),
        }
    }

    fn refusal(&self, caller: &Caller) -> Failure {
        match caller {
            Caller::Anonymous => {
                Failure::new("unauthenticated", "this needs an identity and none was shown")
            }
            Caller::Member(member) => {
                let role = member.role.name();
                Failure::new("unauthorised", format!("the role {role} does not allow this"))
            }
        }
    }

    fn read(&self, action: Action) -> Result<Answer, Failure> {
        match action {
            Action::Chain => self.chain(),
            Action::Checkpoint => match self.checkpoint()? {
                Some(checkpoint) => Ok(Answer::Checkpoint(checkpoint)),
                None => Err(Failure::not_found("no stable checkpoint with a block yet")
                    .hint("checkpoints come every few blocks; ask again later")),
            },
            Action::Block(Height(0)) => Ok(Answer::Genesis(self.handle.genesis().clone())),
            Action::Block(height) => {
                let (block, result) = self.block(height)?;
                Ok(Answer::Block { block: Arc::new(block), result: Arc::new(result) })
            }
            Action::Result(height) => Ok(Answer::Result(Arc::new(self.block(height)?.1))),
            Action::Transaction(id) => self.transaction(id),
            Action::Proof(id) => self.proof(id),
            Action::State { chaincode, key, proof } => {
                self.state(StateKey { namespace: chaincode, key }, proof)
            }
            Action::Scan(scan) => self.scan(&scan),
            Action::History { chaincode, key, limit } => {
                let past = self.handle.ledger().history(&chaincode, &key, limit)?;
                let value = |(height, index, deleted)| PastValue { height, index, deleted };
                Ok(Answer::History(past.into_iter().map(value).collect()))
            }
            Action::Accusations => self.accusations(),
            _ => Err(Failure::internal("not a read of the ledger")),
        }
    }

    fn accusations(&self) -> Result<Answer, Failure> {
        let pieces = self
            .handle
            .evidence()
            .map_err(|error| Failure::internal(format!("the evidence cannot be read: {error}")))?;
        let judge = Judge::of(self.handle.genesis())
            .map_err(|error| Failure::internal(error.to_string()))?;
        let entry = |evidence: Bytes| {
            let accusation = Accusation::from_bytes(&evidence).ok()?;
            let (culprit, offence) = (accusation.culprit, judge.offence(&accusation));
            Some(AccusationEntry { culprit, offence, evidence })
        };
        Ok(Answer::Accusations(pieces.into_iter().filter_map(entry).collect()))
    }

    fn chain(&self) -> Result<Answer, Failure> {
        let tip = self.handle.ledger().tip();
        let previous = match tip.height {
            Height(0) => None,
            height => self.handle.ledger().block(height)?.map(|b| b.header.previous),
        };
        let chain = self.handle.chain();
        Ok(Answer::Chain(ChainTip { chain, height: tip.height, hash: tip.hash, previous }))
    }

    fn checkpoint(&self) -> Result<Option<Arc<CheckpointProof>>, Failure> {
        match self.handle.checkpoint() {
            Some(votes) => Ok(self.checkpoints.evidence(self.handle.ledger(), &votes)?),
            None => Ok(None),
        }
    }

    fn block(&self, height: Height) -> Result<(Block, BlockResult), Failure> {
        let ledger = self.handle.ledger();
        match (ledger.block(height)?, ledger.result(height)?) {
            (Some(block), Some(result)) => Ok((block, result)),
            _ => {
                let tip = ledger.tip().height;
                let text = format!("no block {height}: the newest one here is {tip}");
                Err(Failure::not_found(text))
            }
        }
    }

    fn placed(&self, id: TxId) -> Result<(Height, u32), Failure> {
        self.handle.ledger().locate(&id)?.ok_or_else(|| {
            Failure::not_found(format!("no transaction {id} in any block here"))
                .hint("check the id; one just submitted needs a moment, ask for its receipt")
        })
    }

    fn transaction(&self, id: TxId) -> Result<Answer, Failure> {
        let (height, index) = self.placed(id)?;
        let (block, _) = self.block(height)?;
        let all = block.batches.iter().flat_map(|b| b.transactions());
        let Some(transaction) = all.into_iter().nth(index as usize) else {
            return Err(Failure::internal(format!("block {height} has no position {index}")));
        };
        let creator = transaction.payload().creator;
        Ok(Answer::Transaction(Box::new(CommittedTransaction {
            transaction: transaction.clone(),
            certificate: self.handle.ledger().certificate(&creator)?,
            height,
            index,
            block_time_ms: block.header.time_ms,
        })))
    }

    fn proof(&self, id: TxId) -> Result<Answer, Failure> {
        let (height, index) = self.placed(id)?;
        let (block, result) = self.block(height)?;
        let proofs = (TransactionProof::of(&block, index), ReceiptProof::of(&result, index));
        let (Some(transaction), Some(receipt)) = proofs else {
            return Err(Failure::internal(format!("block {height} has no position {index}")));
        };
        let receipts_root = result.receipts_root;
        Ok(Answer::Proof(Box::new(Evidence { transaction, index, receipt, receipts_root })))
    }

    fn state(&self, key: StateKey, proof: bool) -> Result<Answer, Failure> {
        let ledger = self.handle.ledger();
        if !proof {
            let view = ledger.view();
            let (height, value) = (view.tip().height, view.get(&key)?);
            return Ok(Answer::State(Box::new(StateValue { height, value, proof: None })));
        }
        let proven = ledger.prove(std::slice::from_ref(&key))?;
        let tip = proven.tip;
        let checkpoint =
            self.checkpoint()?.filter(|c| (c.height, c.hash) == (tip.height, tip.hash));
        let value = proven.proof.entries.first().and_then(|(_, value)| value.clone());
        let evidence = StateEvidence {
            state_root: proven.state_root,
            hash: tip.hash,
            receipts_root: proven.receipts_root,
            proof: proven.proof.to_bytes(),
            checkpoint,
        };
        let height = tip.height;
        Ok(Answer::State(Box::new(StateValue { height, value, proof: Some(evidence) })))
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        match &error {
            LedgerError::TooLarge { .. } => Self::new("too-large", error.to_string()),
            _ => Self::internal(error.to_string()),
        }
    }
}

/// Resolves when the node stops; the sender being gone means the same.
#[cfg(feature = "grpc")]
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopped| *stopped).await;
}

/// A place in a bounded list, or "busy".
fn place(list: &Arc<Semaphore>, what: &'static str) -> Result<OwnedSemaphorePermit, Failure> {
    let retry_after_ms = limits::BUSY_RETRY_MS;
    let busy = |_| Failure::from(Refusal::Busy { what, retry_after_ms });
    Arc::clone(list).try_acquire_owned().map_err(busy)
}

/// Does work that takes long or may wait for the disk on a thread of its own, in a place of a
/// bounded list.
async fn in_place<T: Send + 'static>(
    list: &Arc<Semaphore>,
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let place = place(list, what)?;
    let held = move || {
        // Held by the work, not by the caller: who hangs up does not make room.
        let _place = place;
        work()
    };
    let cut_short = |_| Failure::internal("the read was cut short");
    tokio::task::spawn_blocking(held).await.map_err(cut_short)
}

fn no_receipt_yet(id: TxId) -> Failure {
    Failure::not_found(format!("no receipt of {id}: it is not committed here"))
        .hint("check the id; for one just submitted, ask again and say how long to wait")
}

fn registrar_is_off() -> Failure {
    Failure::new("not-offered", "custodial login is off: this node holds no client's key").hint(
        "keep the key with the client: sign with the client library or `obelisk chaincode \
         invoke`, and connect with a TLS certificate; see docs/api.md",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A caller who hangs up leaves its work in its place, so that hanging up again and again
    /// starts no more work than there are places.
    #[tokio::test]
    async fn work_keeps_its_place_when_the_caller_hangs_up() {
        let list = Arc::new(Semaphore::new(1));
        let (started, running) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let work = move || {
            started.send(()).expect("heard");
            let _ = released.recv();
        };
        let asked = tokio::spawn({
            let list = list.clone();
            async move { in_place(&list, "the list", work).await.is_ok() }
        });
        tokio::task::yield_now().await;
        running.recv().expect("started");
        asked.abort();
        assert!(asked.await.expect_err("hung up").is_cancelled());
        let refused = in_place(&list, "the list", || ()).await.expect_err("no place");
        assert_eq!(refused.code.word, "busy");
        drop(release);
        let _place = list.acquire().await.expect("its place is free when it ends");
    }
}
