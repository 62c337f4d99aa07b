//! Many transactions over one stream: admitted in groups, answered by number as they commit.
//!
//! ```text
//! SubmitMany --> parse --> pending[id] = number --> admission (several groups at once)
//! committed block --> receipts whose id is pending --> one SubmitOutcomes per block
//! ```
//!
//! Invariants: every transaction read is answered exactly once, unless the stream ends first: as
//! committed or failed (with the height), as refused, or as expired once the chain is past its
//! `valid_until`. The subscription begins before the first transaction is read, and an id is
//! pending before it is admitted, so no commit is missed. At most `STREAM_PENDING_MAX` are pending;
//! beyond that the stream is not read, and flow control slows the client down.

use std::collections::HashMap;
use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::Streaming;

use crate::api;
use crate::api::Service;
use crate::api::action::Action;
use crate::api::action::Answer;
use crate::api::action::Follower;
use crate::api::auth::Caller;
use crate::api::failure::Failure;
use crate::api::grpc::follow;
use crate::api::grpc::node;
use crate::api::grpc::node::Answers;
use crate::api::grpc::proto;
use crate::membership::certificate;
use crate::pipeline::publish::Committed;
use crate::pipeline::refusal::Refusal;
use crate::types::digest::Digest;
use crate::types::ids::CertificateId;
use crate::types::ids::Height;
use crate::types::ids::TxId;
use crate::types::limits;
use crate::types::receipt::Status as Outcome;
use crate::types::transaction::Transaction;

/// Serves one stream in a task of its own.
pub fn start(
    service: Service,
    caller: Caller,
    incoming: Streaming<proto::SubmitMany>,
    blocks: Follower,
    stop: watch::Receiver<bool>,
) -> Answers<proto::SubmitOutcomes> {
    let (answers, receiver) = mpsc::channel(limits::STREAM_ANSWERS_MAX);
    let stream = Submission {
        service,
        caller,
        pending: Pending::default(),
        certificates: HashMap::new(),
        next_number: 0,
        admissions: FuturesOrdered::new(),
        answers,
    };
    tokio::spawn(stream.run(incoming, blocks, stop));
    ReceiverStream::new(receiver)
}

struct Submission {
    service: Service,
    caller: Caller,
    pending: Pending,
    certificates: HashMap<CertificateId, Bytes>,
    next_number: u64,
    admissions: FuturesOrdered<BoxFuture<'static, Admitted>>,
    answers: mpsc::Sender<Result<proto::SubmitOutcomes, Status>>,
}

/// What admission said about a group, in order.
struct Admitted {
    ids: Vec<TxId>,
    answers: Result<Vec<Result<TxId, Refusal>>, Failure>,
}

/// The client is gone or was told why the stream ends.
struct Ended;

impl Submission {
    async fn run(
        mut self,
        mut incoming: Streaming<proto::SubmitMany>,
        mut blocks: Follower,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut reading = true;
        while reading || !self.pending.is_empty() || !self.admissions.is_empty() {
            let room = self.pending.len() < limits::STREAM_PENDING_MAX
                && self.admissions.len() < GROUPS_IN_FLIGHT_MAX;
            let step = tokio::select! {
                message = incoming.message(), if reading && room => match message {
                    Ok(Some(message)) => self.read(message).await,
                    Ok(None) => {
                        reading = false;
                        Ok(())
                    }
                    Err(_) => Err(Ended),
                },
                Some(admitted) = self.admissions.next() => self.admitted(admitted).await,
                committed = blocks.next() => match committed {
                    Ok(Some(committed)) => self.committed(&committed).await,
                    Ok(None) => self.end(follow::stopping()).await,
                    Err(error) => self.end(Failure::from(error).into()).await,
                },
                () = self.answers.closed() => Err(Ended),
                () = api::stopped(&mut stop) => self.end(follow::stopping()).await,
            };
            if step.is_err() {
                return;
            }
        }
    }

    /// Numbers and parses a message's transactions and starts their admission.
    async fn read(&mut self, message: proto::SubmitMany) -> Result<(), Ended> {
        if message.transactions.len() > limits::SUBMIT_TXS_MAX {
            let text = format!("more than {} transactions in a message", limits::SUBMIT_TXS_MAX);
            return self.end(Failure::new("too-large", text).into()).await;
        }
        if let Err(failure) = self.keep_certificates(message.certificates) {
            return self.end(failure.into()).await;
        }
        let mut outcomes = proto::SubmitOutcomes::default();
        let mut group = Vec::with_capacity(message.transactions.len());
        for bytes in message.transactions {
            let number = self.next_number;
            self.next_number += 1;
            let refusal = match node::transaction(&bytes) {
                Err(failure) => failure,
                Ok(tx) => match self.pending.insert(&tx, number) {
                    true => {
                        let certificate = self.certificates.get(&tx.payload().creator).cloned();
                        group.push((tx, certificate));
                        continue;
                    }
                    false => Failure::from(Refusal::Duplicate(tx.id())),
                },
            };
            outcomes.refused.push(refused(number, &refusal));
        }
        if !group.is_empty() {
            let (service, caller) = (self.service.clone(), self.caller.clone());
            self.admissions.push_back(Box::pin(admit(service, caller, group)));
        }
        self.answer(outcomes).await
    }

    fn keep_certificates(&mut self, certificates: Vec<Bytes>) -> Result<(), Failure> {
        for der in certificates {
            if self.certificates.len() >= limits::STREAM_CERTIFICATES_MAX {
                let text = format!(
                    "more than {} certificates on a stream",
                    limits::STREAM_CERTIFICATES_MAX
                );
                return Err(Failure::new("too-large", text).hint("open another stream"));
            }
            if let Some(der) = node::certificate(der)? {
                // Known by its form with low s, as at admission.
                let der = certificate::canonical(&der);
                self.certificates.insert(CertificateId(Digest::of(&[&der])), der);
            }
        }
        Ok(())
    }

    /// Answers the refused ones of a group; the others wait for their block.
    async fn admitted(&mut self, admitted: Admitted) -> Result<(), Ended> {
        let answers = match admitted.answers {
            Ok(answers) => answers,
            Err(failure) => return self.end(failure.into()).await,
        };
        let mut outcomes = proto::SubmitOutcomes::default();
        for (id, answer) in admitted.ids.iter().zip(answers) {
            if let Err(refusal) = answer
                && let Some(number) = self.pending.remove(id)
            {
                outcomes.refused.push(refused(number, &Failure::from(refusal)));
            }
        }
        self.answer(outcomes).await
    }

    /// Answers those that the block holds, and those that can no longer be in any block.
    async fn committed(&mut self, committed: &Committed) -> Result<(), Ended> {
        let height = committed.block.header.height;
        let mut outcomes = proto::SubmitOutcomes { height: height.0, ..Default::default() };
        for receipt in &committed.result.receipts {
            // A repeated id was answered by its first execution.
            if self.pending.is_empty() || receipt.status == Outcome::Duplicate {
                continue;
            }
            let Some(number) = self.pending.remove(&receipt.tx) else { continue };
            match receipt.status {
                Outcome::Ok => outcomes.committed.push(number),
                status => outcomes.failed.push(proto::FailedTransaction {
                    number,
                    status: status as u32,
                    error: receipt.error.clone(),
                }),
            }
        }
        for (number, valid_until) in self.pending.expired(height) {
            let expired = Failure::from(Refusal::Expired { valid_until, height });
            outcomes.refused.push(refused(number, &expired));
        }
        self.answer(outcomes).await
    }

    async fn answer(&mut self, outcomes: proto::SubmitOutcomes) -> Result<(), Ended> {
        let parts = outcomes.committed.len() + outcomes.failed.len() + outcomes.refused.len();
        match parts {
            0 => Ok(()),
            _ => self.answers.send(Ok(outcomes)).await.map_err(|_| Ended),
        }
    }

    async fn end(&mut self, status: Status) -> Result<(), Ended> {
        // Whether the client still hears it does not matter: the stream ends.
        let _ = self.answers.send(Err(status)).await;
        Err(Ended)
    }
}

async fn admit(
    service: Service,
    caller: Caller,
    group: Vec<(Transaction, Option<Bytes>)>,
) -> Admitted {
    let ids = group.iter().map(|(tx, _)| tx.id()).collect();
    let answers = match service.perform(&caller, Action::SubmitMany(group)).await {
        Ok(Answer::SubmittedMany(answers)) => Ok(answers),
        Ok(_) => Err(Failure::internal("not answers to a submission")),
        Err(failure) => Err(failure),
    };
    Admitted { ids, answers }
}

fn refused(number: u64, failure: &Failure) -> proto::RefusedTransaction {
    proto::RefusedTransaction {
        number,
        code: failure.code.word.to_owned(),
        message: failure.to_string(),
        retry_after_ms: failure.retry_after_ms,
    }
}

/// Transactions that wait for their block. Lookups only: the order of the map reaches no output.
#[derive(Default)]
struct Pending {
    numbers: HashMap<TxId, u64>,
    /// Ids in the order sent with their last height. Clients sign with a growing tip, so expired
    /// ones gather at the front; one that does not is found when those before it are gone.
    order: VecDeque<(Height, TxId)>,
}

impl Pending {
    fn len(&self) -> usize {
        self.numbers.len()
    }

    fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// False where the id is pending already.
    fn insert(&mut self, tx: &Transaction, number: u64) -> bool {
        let id = tx.id();
        if self.numbers.contains_key(&id) {
            return false;
        }
        self.numbers.insert(id, number);
        self.order.push_back((tx.payload().valid_until, id));
        true
    }

    fn remove(&mut self, id: &TxId) -> Option<u64> {
        self.numbers.remove(id)
    }

    /// Takes out those at the front that no later block can hold, and forgets answered ones.
    fn expired(&mut self, height: Height) -> Vec<(u64, Height)> {
        let mut expired = Vec::new();
        while let Some((valid_until, id)) = self.order.front().copied() {
            match self.numbers.get(&id) {
                None => {}
                Some(_) if valid_until > height => break,
                Some(number) => {
                    expired.push((*number, valid_until));
                    self.numbers.remove(&id);
                }
            }
            self.order.pop_front();
        }
        expired
    }
}

/// Groups whose signatures are being checked while the next ones are read.
const GROUPS_IN_FLIGHT_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::codec::Encode;
    use crate::types::ids::ChainId;
    use crate::types::signature::Signature;
    use crate::types::transaction::Payload;

    fn transaction(nonce: u8, valid_until: u64) -> Transaction {
        let payload = Payload {
            chain: ChainId::default(),
            creator: CertificateId::default(),
            nonce: [nonce; 16],
            valid_until: Height(valid_until),
            client_time_ms: 0,
            chaincode: "c".into(),
            function: "f".into(),
            args: Vec::new(),
        };
        Transaction::parse(payload.to_bytes(), Signature([0; 64])).unwrap()
    }

    /// Each pending id is given back once: by its block, or by expiry at `valid_until`.
    #[test]
    fn pending_transactions_are_answered_once() {
        let mut pending = Pending::default();
        let txs: Vec<Transaction> = (0..4).map(|i| transaction(i, 10 + u64::from(i))).collect();
        for (number, tx) in (0..).zip(&txs) {
            assert!(pending.insert(tx, number));
            assert!(!pending.insert(tx, 99), "a second insert of one id is refused");
        }
        assert_eq!(pending.remove(&txs[1].id()), Some(1));
        assert_eq!(pending.remove(&txs[1].id()), None);
        assert_eq!(pending.expired(Height(9)), []);
        assert_eq!(pending.expired(Height(12)), [(0, Height(10)), (2, Height(12))]);
        assert_eq!(pending.len(), 1);
        assert_eq!(pending.expired(Height(20)), [(3, Height(13))]);
        assert!(pending.is_empty() && pending.order.is_empty());
    }
}
