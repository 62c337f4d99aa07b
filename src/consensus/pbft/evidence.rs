//! Floor 2: which messages of a replica prove that it broke PBFT.
//!
//! | offence | messages |
//! | --- | --- |
//! | two proposals for one sequence number | two pre-prepares of a view's primary |
//! | two votes in one slot | two prepares, or two commits |
//! | two checkpoints | two checkpoint votes for one sequence number |
//! | two view-changes, two new-views | two for one view |
//! | a wrong new-view | one, whose assignments do not follow from the view-changes it shows |
//!
//! Two different texts for one slot are an offence because a correct replica's guard signs one text
//! per slot for ever. Signatures are the judge's business. Failure: anything else proves nothing.

use crate::consensus::Envelope;
use crate::consensus::Setup;
use crate::consensus::Tuning;
use crate::consensus::evidence::Judge;
use crate::consensus::pbft::Pbft;
use crate::consensus::pbft::message::Message;
use crate::consensus::pbft::message::NewView;
use crate::types::block::Tip;
use crate::types::digest::Digest;
use crate::types::ids::ReplicaId;
use crate::types::vote::Phase;

/// The offence that genuine messages prove, if any.
pub fn offence(
    judge: &Judge<'_>,
    culprit: ReplicaId,
    messages: &[Envelope],
) -> Option<&'static str> {
    let read = |envelope: &Envelope| {
        let (epoch, message) = Message::from_body(&envelope.body).ok()?;
        let counts = envelope.sender == culprit && epoch == judge.replicas.epoch();
        counts.then_some(message)
    };
    match messages {
        [one] => match read(one)? {
            Message::NewView(new_view) => wrong_new_view(judge, culprit, &new_view),
            _ => None,
        },
        [a, b] if a.body != b.body => contradiction(judge, culprit, &read(a)?, &read(b)?),
        _ => None,
    }
}

fn contradiction(
    judge: &Judge<'_>,
    culprit: ReplicaId,
    a: &Message,
    b: &Message,
) -> Option<&'static str> {
    let leads = |view| judge.replicas.primary(view) == culprit;
    match (a, b) {
        (
            Message::PrePrepare { view, proposal },
            Message::PrePrepare { view: other, proposal: second },
        ) => {
            let same = view == other && proposal.sequence == second.sequence;
            (same && leads(*view)).then_some(TWO_PROPOSALS)
        }
        (Message::Vote(a), Message::Vote(b)) if a.slot == b.slot => Some(match a.slot.phase {
            Phase::Checkpoint => TWO_CHECKPOINTS,
            _ => TWO_VOTES,
        }),
        (Message::ViewChange(a), Message::ViewChange(b)) if a.view == b.view => {
            Some(TWO_VIEW_CHANGES)
        }
        (Message::NewView(a), Message::NewView(b)) if a.view == b.view && leads(a.view) => {
            Some(TWO_NEW_VIEWS)
        }
        _ => None,
    }
}

/// Computes what the shown view-changes yield, as every replica does.
fn wrong_new_view(
    judge: &Judge<'_>,
    culprit: ReplicaId,
    new_view: &NewView,
) -> Option<&'static str> {
    let setup = Setup {
        chain: judge.chain,
        me: culprit,
        replicas: judge.replicas.clone(),
        parameters: judge.parameters,
        tuning: Tuning::default(),
        tip: Tip::genesis(judge.chain, 0),
        checkpoint: Digest::ZERO,
        log: Vec::new(),
    };
    let bystander = Pbft::new(setup, judge.plugin.sequence_txs_max);
    let leads = judge.replicas.primary(new_view.view) == culprit;
    let plan = bystander.plan(new_view.view, &new_view.view_changes).ok().filter(|_| leads)?;
    let digests = plan.proposals.iter().map(|p| p.digest(&judge.chain));
    let follows = digests.eq(new_view.assignments.iter().copied());
    (!follows).then_some(WRONG_NEW_VIEW)
}

/// Two proposals for one view and sequence number.
pub const TWO_PROPOSALS: &str = "assigned two proposals to one sequence number in one view";
/// Two votes for one slot.
pub const TWO_VOTES: &str = "voted for two digests in one slot";
/// Two states after one sequence number.
pub const TWO_CHECKPOINTS: &str = "signed two checkpoints for one sequence number";
/// Two demands for one view that differ.
pub const TWO_VIEW_CHANGES: &str = "signed two view-changes for one view";
/// Two starts of one view that differ.
pub const TWO_NEW_VIEWS: &str = "signed two new-views for one view";
/// Assignments that do not follow from the view-changes they are shown with.
pub const WRONG_NEW_VIEW: &str = "assigned in a new-view what its view-changes do not yield";
