//! The end of a round: its log made durable, its messages signed and sent.
//!
//! ```text
//! effects of a round -- due --> signer: guard sync, then sign --> send, loopback
//!                   \--------> log sync ---------------------^
//! ```
//!
//! Place: the consensus driver's (`order`), after each round of the core.
//!
//! Invariants: those of the driver. A vote is inside the gate from before it is signed until it is noted
//! among the witnesses or given up.

use crate::consensus::CoreStatus;
use crate::consensus::Draft;
use crate::consensus::Envelope;
use crate::network::Message;
use crate::pipeline::order::Order;
use crate::pipeline::order::OrderError;
use crate::pipeline::order::outgoing::Outgoing;
use crate::signer::SignError;
use crate::signer::SignRequest;
use crate::signer::guard::cleared::Signed;
use crate::types::ids::ReplicaId;
use crate::types::limits;
use crate::types::vote::Slot;
use crate::types::vote_signature::VoteSignature;

/// What a round waits for.
pub struct Round {
    outgoing: Vec<Outgoing>,
    /// Votes signed ahead with it, whose texts are the last.
    ahead: Vec<Slot>,
}

impl Order {
    /// Makes the round durable, signs its messages, sends them.
    pub(super) fn release(&mut self) -> Result<(), OrderError> {
        if let Some(error) = self.failed.take() {
            return Err(error.into());
        }
        if let Some(error) = self.diverged.take() {
            return Err(error);
        }
        self.tell_status();
        match self.signing.is_apart() {
            true => self.release_apart(),
            false => self.release_here(),
        }
    }

    /// This thread asks the signer.
    fn release_here(&mut self) -> Result<(), OrderError> {
        let outgoing = self.take_due();
        if outgoing.is_empty() {
            return Ok(());
        }
        let (signer, texts) = (self.parts.signer.clone(), self.texts(&outgoing));
        let signed = self.sync_while(|| signer.sign(&texts))?;
        self.send_all(outgoing, signed)
    }

    /// Threads of `signing` ask it: what they are through with is sent, and what is due is handed to
    /// them.
    fn release_apart(&mut self) -> Result<(), OrderError> {
        while let Some((round, mut signed)) = self.signing.finished() {
            let ahead = signed.split_off(signed.len() - round.ahead.len());
            self.send_all(round.outgoing, signed)?;
            for (slot, result) in round.ahead.into_iter().zip(ahead) {
                self.outgoing.extend(self.ahead.answered(slot, result));
            }
        }
        self.ahead.take_over(&mut self.outgoing);
        let CoreStatus { delivered, view, .. } = self.parts.core.status();
        self.outgoing.extend(self.ahead.forget(delivered, view));
        if self.signing.is_full() {
            // What a signer that hangs leaves over is as if lost on the network.
            let excess = self.outgoing.len().saturating_sub(limits::UNSIGNED_MESSAGES_MAX);
            self.outgoing.drain(..excess);
        } else {
            self.begin_round()?;
        }
        self.send_ready()
    }

    fn begin_round(&mut self) -> Result<(), OrderError> {
        let outgoing = self.take_due();
        if outgoing.is_empty() {
            return Ok(());
        }
        let mut texts = self.texts(&outgoing);
        let (ahead, more): (Vec<Slot>, Vec<SignRequest>) =
            self.ahead.begin(&self.parts.chain).into_iter().unzip();
        texts.extend(more);
        self.signing.begin(Round { outgoing, ahead }, texts);
        // Before it is taken back.
        self.sync_while(|| ())
    }

    /// Sends what was signed ahead and is cast now.
    fn send_ready(&mut self) -> Result<(), OrderError> {
        let ready = self.ahead.take_ready();
        if ready.is_empty() {
            return Ok(());
        }
        self.sync_while(|| ())?;
        for (draft, signature) in ready {
            self.send(None, draft, Ok(signature))?;
            self.parts.metrics.votes_signed_ahead.inc();
            self.parts.gate.leave();
        }
        Ok(())
    }

    fn texts(&self, outgoing: &[Outgoing]) -> Vec<SignRequest> {
        outgoing.iter().filter_map(|one| one.request(&self.parts.chain)).collect()
    }

    /// What is to be signed now; votes wait while the gate is closed. A round that has votes is
    /// inside the gate until `send_all` is through with it.
    fn take_due(&mut self) -> Vec<Outgoing> {
        if self.outgoing.is_empty() && self.unsigned.is_empty() {
            return Vec::new();
        }
        let all = self.unsigned.drain(..).chain(self.outgoing.drain(..));
        let entered = self.parts.gate.enter();
        let (votes, now): (Vec<_>, Vec<_>) =
            all.partition(|outgoing| !entered && outgoing.is_vote());
        votes.into_iter().for_each(|vote| self.keep_unsigned(vote));
        if entered && !now.iter().any(Outgoing::is_vote) {
            self.parts.gate.leave();
        }
        now
    }

    /// Makes the log durable while `other` runs.
    fn sync_while<T>(&mut self, other: impl FnOnce() -> T) -> Result<T, OrderError> {
        match std::mem::take(&mut self.dirty) {
            true => {
                let pending = self.parts.wal.begin_sync();
                Ok(self.syncer.sync_while(pending, other)?)
            }
            false => Ok(other()),
        }
    }

    fn send_all(&mut self, outgoing: Vec<Outgoing>, signed: Signed) -> Result<(), OrderError> {
        let mut signed = signed.into_iter();
        let is_inside = outgoing.iter().any(Outgoing::is_vote);
        for message in outgoing {
            match message {
                Outgoing::Signed { to, envelope } => {
                    self.parts.transport.send(to, Message::Consensus(envelope));
                }
                Outgoing::Draft { to, draft } => {
                    let result = signed.next().expect("one signature per request");
                    self.send(to, draft, result)?;
                }
            }
        }
        if is_inside {
            self.parts.gate.leave();
        }
        // What a closed gate holds back is told by whoever closed it.
        let is_silenced = !self.unsigned.is_empty() && self.parts.gate.is_open();
        match (self.silenced, is_silenced) {
            (false, true) => tracing::error!("votes wait for the signer and are not cast"),
            (true, false) => tracing::info!("the votes that waited are signed"),
            _ => {}
        }
        self.silenced = is_silenced;
        self.parts.metrics.votes_waiting.set(self.unsigned.len() as i64);
        Ok(())
    }

    /// Keeps a message for the signer's return; the oldest gives way, as if lost on the network.
    fn keep_unsigned(&mut self, message: Outgoing) {
        if self.unsigned.len() == limits::UNSIGNED_MESSAGES_MAX {
            self.unsigned.pop_front();
        }
        self.unsigned.push_back(message);
    }

    fn send(
        &mut self,
        to: Option<ReplicaId>,
        draft: Draft,
        result: Result<VoteSignature, SignError>,
    ) -> Result<(), OrderError> {
        let signature = match result {
            Ok(signature) => {
                self.parts.metrics.signatures_made.inc();
                signature
            }
            Err(error @ SignError::Guard { .. }) => return Err(OrderError::Signer(error)),
            Err(SignError::Key { reason }) => {
                tracing::debug!(reason, "a consensus message waits for the signer");
                self.keep_unsigned(Outgoing::Draft { to, draft });
                return Ok(());
            }
            // A refused or unsigned vote is simply not cast: silence is safe.
            Err(error) => {
                self.refusals.add(&error);
                return Ok(());
            }
        };
        let envelope = Envelope { sender: self.parts.me, body: draft.body, signature };
        if let Some(slot) = draft.slot {
            self.parts.witnesses.signed(slot, &envelope);
        }
        match to {
            Some(to) if to == self.parts.me => self.loopback.push_back(envelope),
            Some(to) => self.parts.transport.send(to, Message::Consensus(envelope)),
            None => {
                self.parts.transport.broadcast(Message::Consensus(envelope.clone()));
                self.loopback.push_back(envelope);
            }
        }
        Ok(())
    }
}
