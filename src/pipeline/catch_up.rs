//! Catching up: blocks that others committed, fetched, verified by their certificates, handed to
//! execution.
//!
//! Serves peers that are behind, and follows peers when this node is: a core that says so, or a
//! peer's tip above ours while ours stands still. Nothing a peer sends is trusted: each block must
//! extend our chain and carry a quorum of commit votes over its hash. A quorum holds a correct
//! replica that checked the client signatures, so they are not checked again. One request is under
//! way at a time; one that brings nothing is repeated with the next peer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::Receiver;
use crossbeam_channel::RecvTimeoutError;
use crossbeam_channel::Sender;

use crate::ledger::Ledger;
use crate::network::Message;
use crate::network::Peer;
use crate::network::Transport;
use crate::pipeline::execute::station::Work;
use crate::pipeline::verification::Verification;
use crate::types::block::Block;
use crate::types::block::Tip;
use crate::types::codec::Decode;
use crate::types::ids::Height;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::limits;

/// What the station consumes.
pub enum CatchUpInput {
    /// The core knows that others committed up to `sequence`.
    Behind { sequence: SequenceNumber, from: Vec<ReplicaId> },
    /// A peer says where its chain ends.
    Tip { peer: Peer, height: Height },
    /// A peer wants blocks from this height up.
    Request { peer: Peer, from: Height },
    /// A peer's answer.
    Blocks { peer: Peer, blocks: Vec<Bytes> },
    /// Ends the station.
    Stop,
}

/// The catch-up station.
pub struct CatchUp {
    ledger: Arc<Ledger>,
    transport: Arc<dyn Transport>,
    verification: Arc<Verification>,
    execute: Sender<Work>,
    /// End of what was handed to execution by this station or is durable.
    tip: Tip,
    tips: BTreeMap<Peer, Height>,
    wanted: SequenceNumber,
    request: Option<(Peer, Instant)>,
    turn: usize,
    announced: Height,
    moved: Instant,
}

impl CatchUp {
    /// A station that starts at the ledger's tip.
    pub fn new(
        ledger: Arc<Ledger>,
        transport: Arc<dyn Transport>,
        verification: Arc<Verification>,
        execute: Sender<Work>,
    ) -> Self {
        let tip = ledger.tip();
        Self {
            ledger,
            transport,
            verification,
            execute,
            tip,
            tips: BTreeMap::new(),
            wanted: SequenceNumber(0),
            request: None,
            turn: 0,
            announced: Height(0),
            moved: Instant::now(),
        }
    }

    /// Runs until `Stop` or the senders are gone.
    pub fn run(mut self, inputs: &Receiver<CatchUpInput>) {
        loop {
            match inputs.recv_timeout(TICK) {
                Ok(CatchUpInput::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(input) => self.input(input),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.tick();
        }
    }

    fn input(&mut self, input: CatchUpInput) {
        match input {
            CatchUpInput::Behind { sequence, .. } => self.wanted = self.wanted.max(sequence),
            CatchUpInput::Tip { peer, height } => {
                if self.tips.len() < TIPS_MAX || self.tips.contains_key(&peer) {
                    self.tips.insert(peer, height);
                }
            }
            CatchUpInput::Request { peer, from } => self.serve(&peer, from),
            CatchUpInput::Blocks { peer, blocks } => self.on_blocks(&peer, blocks),
            CatchUpInput::Stop => {}
        }
    }

    fn tick(&mut self) {
        let durable = self.ledger.tip();
        if durable.height > self.tip.height {
            self.tip = durable;
            self.moved = Instant::now();
        }
        if self.announced != durable.height {
            self.announced = durable.height;
            self.transport.broadcast(Message::Tip { height: durable.height });
        }
        if self.request.as_ref().is_some_and(|(_, since)| since.elapsed() > REQUEST_TIMEOUT) {
            tracing::debug!("a peer did not answer a request for blocks; asking the next");
            self.request = None;
        }
        if self.request.is_none() && self.is_behind() {
            self.ask();
        }
    }

    /// True where the core says so, or a peer is far ahead, or one is ahead while we stand still.
    fn is_behind(&self) -> bool {
        let best = self.tips.values().max().copied().unwrap_or_default();
        let lag = best.0.saturating_sub(self.tip.height.0);
        self.tip.sequence < self.wanted && lag > 0
            || lag > LAG_MAX
            || lag > 0 && self.moved.elapsed() > STANDSTILL
    }

    fn ask(&mut self) {
        let ahead: Vec<&Peer> = self
            .tips
            .iter()
            .filter(|(peer, height)| peer.replica.is_some() && **height > self.tip.height)
            .map(|(peer, _)| peer)
            .collect();
        if ahead.is_empty() {
            return;
        }
        let peer = ahead[self.turn % ahead.len()].clone();
        self.turn = self.turn.wrapping_add(1);
        let from = Height(self.tip.height.0 + 1);
        if let Some(replica) = peer.replica {
            self.transport.send(replica, Message::BlocksRequest { from });
        }
        self.request = Some((peer, Instant::now()));
    }

    fn on_blocks(&mut self, peer: &Peer, blocks: Vec<Bytes>) {
        if self.request.as_ref().is_none_or(|(asked, _)| asked != peer) {
            return;
        }
        self.request = None;
        for bytes in blocks.into_iter().take(limits::CATCH_UP_BLOCKS_MAX) {
            let block = match Block::from_bytes(&bytes) {
                Ok(block) => block,
                Err(error) => return self.distrust(peer, &error.to_string()),
            };
            if block.header.height <= self.tip.height {
                continue;
            }
            if let Err(reason) = self.verification.block(&self.tip, &block) {
                return self.distrust(peer, &reason);
            }
            self.tip = block.header.tip();
            self.moved = Instant::now();
            if self.execute.send(Work::CaughtUp(block)).is_err() {
                return;
            }
        }
    }

    fn distrust(&mut self, peer: &Peer, reason: &str) {
        tracing::warn!(
            organisation = peer.organisation,
            name = peer.name,
            reason,
            "a peer sent a block that does not hold; asking another"
        );
        self.tips.remove(peer);
    }

    fn serve(&self, peer: &Peer, from: Height) {
        let mut blocks = Vec::new();
        let mut bytes = 0;
        for offset in 0..limits::CATCH_UP_BLOCKS_MAX as u64 {
            let Some(height) = from.0.checked_add(offset).map(Height) else { break };
            match self.ledger.block_bytes(height) {
                Ok(Some(block))
                    if bytes + block.len() <= limits::CATCH_UP_BYTES_MAX || blocks.is_empty() =>
                {
                    bytes += block.len();
                    blocks.push(block);
                }
                Ok(_) => break,
                Err(error) => {
                    tracing::error!(%error, %height, "a block cannot be read to serve a peer");
                    break;
                }
            }
        }
        let answer = Message::Blocks { from, blocks };
        match peer.replica {
            Some(replica) => self.transport.send(replica, answer),
            None => self.transport.reply(peer, answer),
        }
    }
}

const TICK: Duration = Duration::from_millis(100);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
const STANDSTILL: Duration = Duration::from_millis(1000);
const LAG_MAX: u64 = 64;
const TIPS_MAX: usize = 256;
