//! Blocks and events from any height, for ever: a broken connection is made again and the stream
//! goes on at the height where it was, so nothing is lost and nothing comes twice.
//!
//! Every block is checked before it is given out: certificate, bodies, and that it follows the one
//! before. Events are the node's word; who must not trust it reads blocks.

use std::time::Duration;

use tonic::Request;
use tonic::Status;
use tonic::Streaming;

use crate::api::grpc::proto;
use crate::client::connection::Client;
use crate::client::error::ClientError;
use crate::types::block::Block;
use crate::types::ids::BlockHash;
use crate::types::ids::Height;
use crate::types::receipt::BlockResult;

/// Events of one block.
pub use crate::api::grpc::proto::BlockEvents;
/// One event.
pub use crate::api::grpc::proto::ContractEvent;

/// A stream of checked blocks.
pub struct Blocks {
    client: Client,
    stream: Option<Streaming<proto::CommittedBlock>>,
    next: Height,
    last: Option<BlockHash>,
    patience: Patience,
}

/// A stream of events.
pub struct Events {
    client: Client,
    stream: Option<Streaming<proto::BlockEvents>>,
    wanted: proto::EventsRequest,
    patience: Patience,
}

/// How often in a row a connection may fail.
struct Patience {
    failures: u32,
}

impl Client {
    /// Follows the chain from a height (0 and 1 both mean the first block).
    pub fn blocks(&self, from: Height) -> Blocks {
        Blocks {
            client: self.clone(),
            stream: None,
            next: Height(from.0.max(1)),
            last: None,
            patience: Patience { failures: 0 },
        }
    }

    /// Follows the events of a contract (empty: of all) with a name (empty: all) from a height.
    pub fn events(&self, from: Height, chaincode: &str, name: &str) -> Events {
        let wanted = proto::EventsRequest {
            from: from.0.max(1),
            chaincode: chaincode.to_owned(),
            name: name.to_owned(),
            progress: true,
        };
        let patience = Patience { failures: 0 };
        Events { client: self.clone(), stream: None, wanted, patience }
    }
}

impl Blocks {
    /// The next block as soon as it exists. An error that is not a broken connection ends it.
    pub async fn next(&mut self) -> Result<(Block, BlockResult), ClientError> {
        loop {
            let Some(stream) = &mut self.stream else {
                let message = proto::BlocksRequest { from: self.next.0 };
                let opened = self.client.node.clone().blocks(Request::new(message)).await;
                match opened {
                    Ok(stream) => self.stream = Some(stream.into_inner()),
                    Err(status) => self.patience.after(&self.client, &status).await?,
                }
                continue;
            };
            match stream.message().await {
                Ok(Some(message)) => {
                    self.patience.failures = 0;
                    return self.checked(&message);
                }
                Ok(None) => self.stream = None,
                Err(status) => {
                    self.stream = None;
                    self.patience.after(&self.client, &status).await?;
                }
            }
        }
    }

    /// The height that comes next.
    pub fn height(&self) -> Height {
        self.next
    }

    fn checked(
        &mut self,
        message: &proto::CommittedBlock,
    ) -> Result<(Block, BlockResult), ClientError> {
        let block: Block = self.client.decoded(&message.block)?;
        let result: BlockResult = self.client.decoded(&message.result)?;
        let hash = self.client.network().verifier().check_block(&block)?;
        let follows = self.last.is_none_or(|last| block.header.previous == last);
        if block.header.height != self.next || !follows || result.hash != hash {
            let what = format!("not the block {} of the same chain", self.next);
            return Err(ClientError::answer(self.client.address(), what));
        }
        (self.next, self.last) = (Height(self.next.0 + 1), Some(hash));
        Ok((block, result))
    }
}

impl Events {
    /// The events of the next block that has any.
    pub async fn next(&mut self) -> Result<BlockEvents, ClientError> {
        loop {
            let Some(stream) = &mut self.stream else {
                let opened =
                    self.client.node.clone().events(Request::new(self.wanted.clone())).await;
                match opened {
                    Ok(stream) => self.stream = Some(stream.into_inner()),
                    Err(status) => self.patience.after(&self.client, &status).await?,
                }
                continue;
            };
            match stream.message().await {
                Ok(Some(events)) => {
                    self.patience.failures = 0;
                    if events.height < self.wanted.from {
                        continue;
                    }
                    self.wanted.from = events.height.saturating_add(1);
                    if !events.events.is_empty() {
                        return Ok(events);
                    }
                }
                Ok(None) => self.stream = None,
                Err(status) => {
                    self.stream = None;
                    self.patience.after(&self.client, &status).await?;
                }
            }
        }
    }

    /// The first height not yet seen: where a new stream would go on.
    pub fn height(&self) -> Height {
        Height(self.wanted.from)
    }
}

impl Patience {
    /// Waits before the next attempt, longer each time; gives up on what will not get better.
    async fn after(&mut self, client: &Client, status: &Status) -> Result<(), ClientError> {
        let error = client.failed(status);
        self.failures += 1;
        if !error.is_transient() || self.failures > FAILURES_MAX {
            return Err(error);
        }
        let doubled = PAUSE_FIRST * 2u32.saturating_pow(self.failures.min(8) - 1);
        tokio::time::sleep(doubled.min(PAUSE_LAST)).await;
        Ok(())
    }
}

/// Attempts in a row; with the pauses about a minute.
const FAILURES_MAX: u32 = 20;
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LAST: Duration = Duration::from_secs(5);
