//! Blocks and events from a height on, for ever. The subscription reads what is not in memory from
//! the store, so a slow client costs nobody else anything and loses nothing: its stream waits.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::api;
use crate::api::action::Follower;
use crate::api::failure::Failure;
use crate::api::grpc::node::Answers;
use crate::api::grpc::proto;
use crate::pipeline::publish::Committed;
use crate::types::codec::Encode;
use crate::types::limits;

/// Blocks with their results.
pub fn blocks(
    subscription: Follower,
    stop: watch::Receiver<bool>,
) -> Answers<proto::CommittedBlock> {
    each(subscription, stop, |committed| {
        Some(proto::CommittedBlock {
            block: committed.block.to_bytes(),
            result: committed.result.to_bytes(),
        })
    })
}

/// Events that match.
pub fn events(
    subscription: Follower,
    wanted: proto::EventsRequest,
    stop: watch::Receiver<bool>,
) -> Answers<proto::BlockEvents> {
    each(subscription, stop, move |committed| {
        let found = matching(committed, &wanted);
        (wanted.progress || !found.events.is_empty()).then_some(found)
    })
}

fn matching(committed: &Committed, wanted: &proto::EventsRequest) -> proto::BlockEvents {
    let transactions = committed.block.batches.iter().flat_map(|b| b.transactions());
    let mut events = Vec::new();
    for ((index, tx), receipt) in (0u32..).zip(transactions).zip(&committed.result.receipts) {
        let chaincode = &tx.payload().chaincode;
        if !wanted.chaincode.is_empty() && wanted.chaincode != *chaincode {
            continue;
        }
        for event in &receipt.events {
            if wanted.name.is_empty() || wanted.name == event.name {
                events.push(proto::ContractEvent {
                    tx: tx.id().to_bytes(),
                    index,
                    chaincode: chaincode.clone(),
                    name: event.name.clone(),
                    payload: event.payload.clone(),
                });
            }
        }
    }
    proto::BlockEvents { height: committed.block.header.height.0, events }
}

/// One task per stream; it ends when the client is gone, the node stops or the store fails.
fn each<T: Send + 'static>(
    mut subscription: Follower,
    mut stop: watch::Receiver<bool>,
    mut render: impl FnMut(&Committed) -> Option<T> + Send + 'static,
) -> Answers<T> {
    let (sender, receiver) = mpsc::channel(limits::STREAM_ANSWERS_MAX);
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                next = subscription.next() => next,
                () = sender.closed() => return,
                () = api::stopped(&mut stop) => Ok(None),
            };
            let answer = match next {
                Ok(Some(committed)) => match render(&Arc::clone(&committed)) {
                    Some(message) => Ok(message),
                    None => continue,
                },
                Ok(None) => Err(stopping()),
                Err(error) => Err(Failure::from(error).into()),
            };
            let last = answer.is_err();
            if sender.send(answer).await.is_err() || last {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// What a stream ends with when the node goes down.
pub fn stopping() -> Status {
    Failure::new("stopping", "the node is stopping")
        .hint("connect to another node and go on from the last height received")
        .into()
}
