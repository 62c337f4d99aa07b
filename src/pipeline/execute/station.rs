//! The execute station: takes final proposals from order and fetched blocks from catch-up, keeps
//! one chain of them.
//!
//! Whatever comes first at a height is executed; the other source's copy is dropped. Both carry the
//! same content, since both are final.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;
use crossbeam_channel::Sender;

use crate::ledger::LedgerError;
use crate::pipeline::commit::Finished;
use crate::pipeline::execute::Executor;
use crate::pipeline::order::Ordered;
use crate::telemetry::metrics;
use crate::telemetry::metrics::Metrics;
use crate::types::block::Block;
use crate::types::block::BlockHeader;
use crate::types::block::Tip;
use crate::types::ids::ChainId;

/// What the station consumes.
pub enum Work {
    /// The core delivered it.
    Ordered(Ordered),
    /// Peers committed it; its certificate was checked.
    CaughtUp(Block),
}

/// The execute station.
pub struct ExecuteStation {
    /// Runs the transactions.
    pub executor: Executor,
    /// The network.
    pub chain: ChainId,
    /// End of what was executed.
    pub tip: Tip,
    /// Next station.
    pub finished: Sender<Finished>,
    /// Time of each block, and what is kept of the state.
    pub metrics: Arc<Metrics>,
}

impl ExecuteStation {
    /// Runs until its sources are gone. An error means the node's storage failed.
    pub fn run(mut self, work: &Receiver<Work>) -> Result<(), LedgerError> {
        for item in work {
            let done = match item {
                Work::Ordered(ordered) => self.ordered(ordered)?,
                Work::CaughtUp(block) => self.block(block, true)?,
            };
            if let Some(done) = done
                && self.finished.send(done).is_err()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    fn ordered(&mut self, ordered: Ordered) -> Result<Option<Finished>, LedgerError> {
        let Ordered { delivered, batches } = ordered;
        let sequence = delivered.proposal.sequence;
        if sequence <= self.tip.sequence {
            return Ok(None);
        }
        if delivered.proposal.is_null() {
            self.tip.sequence = sequence;
            return Ok(Some(Finished::Null { sequence }));
        }
        let header = BlockHeader::following(self.chain, &self.tip, &delivered.proposal);
        self.block(Block { header, certificate: delivered.certificate, batches }, false)
    }

    fn block(&mut self, block: Block, caught_up: bool) -> Result<Option<Finished>, LedgerError> {
        let follows = block.header.height.0 == self.tip.height.0 + 1
            && block.header.previous == self.tip.hash;
        if !follows {
            return Ok(None);
        }
        self.tip = block.header.tip();
        let began = Instant::now();
        let executed = Box::new(self.executor.execute(block)?);
        metrics::observe(&self.metrics.execute_seconds, began.elapsed());
        let (above, cached) = self.executor.held();
        metrics::show(&self.metrics.held_entries("state_above_the_disk"), above as u64);
        metrics::show(&self.metrics.held_entries("state_cache"), cached as u64);
        Ok(Some(Finished::Block { executed, caught_up }))
    }
}
