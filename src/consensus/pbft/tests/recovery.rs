//! Restart in every state: the same votes again, never other ones.

use super::words::*;
use crate::consensus::Effect;
use crate::consensus::Executed;
use crate::consensus::Input;
use crate::consensus::LogRecord;
use crate::consensus::Setup;
use crate::consensus::Timer;
use crate::consensus::pbft::Pbft;
use crate::consensus::pbft::message::Message;
use crate::consensus::pbft::recovery::Record;
use crate::types::block::Tip;
use crate::types::codec::Decode;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::proposal::Proposal;
use crate::types::vote::Phase;

/// Replica `me` built again from a log and a ledger's tip; the effects of `Start`.
fn restart(me: u16, tip: Tip, log: Vec<LogRecord>) -> (Solo, Vec<Effect>) {
    let setup = Setup { tip, log, ..setup(4, me) };
    let mut solo = Solo(Pbft::new(setup, limits::SEQUENCE_TXS_MAX));
    solo.step(Input::Clock(NOW));
    let effects = solo.step(Input::Start);
    (solo, effects)
}

fn genesis() -> Tip {
    setup(4, 0).tip
}

fn bodies(effects: &[Effect], phase: Phase) -> Vec<Vec<u8>> {
    let drafts = effects.iter().filter_map(|e| match e {
        Effect::Broadcast(d) if d.slot.is_some_and(|s| s.phase == phase) => Some(d.body.to_vec()),
        _ => None,
    });
    drafts.collect()
}

/// After the prepare vote: the vote is repeated, another proposal for the slot gets none.
#[test]
fn restart_after_prepare_repeats_the_vote() {
    let mut three = Solo::new(setup(4, 3));
    three.has(&[1, 2]);
    let before = three.receive(pre_prepare(0, &proposal(0, 1, &[1])));
    let (mut three, after) = restart(3, genesis(), records(&before));
    assert_eq!(bodies(&before, Phase::Prepare), bodies(&after, Phase::Prepare));
    three.has(&[2]);
    let effects = three.receive(pre_prepare(0, &proposal(0, 1, &[2])));
    assert!(votes(&effects, Phase::Prepare).is_empty());
}

/// After the commit vote: prepare and commit are repeated byte for byte, and the certificate still
/// goes into a view-change.
#[test]
fn restart_after_commit_repeats_both_votes() {
    let mut three = Solo::new(setup(4, 3));
    let p = proposal(0, 1, &[1]);
    let before = three.prepare(0, &p);
    let (mut three, after) = restart(3, genesis(), records(&before));
    for phase in [Phase::Prepare, Phase::Commit] {
        assert_eq!(bodies(&before, phase).len(), 1);
        assert_eq!(bodies(&before, phase), bodies(&after, phase));
    }
    three.receive(view_change(1, 1, 0, Vec::new()));
    let effects = three.receive(view_change(2, 1, 0, Vec::new()));
    let carried = broadcasts(&effects).into_iter().find_map(|m| match m {
        Message::ViewChange(demand) => Some(demand.prepared),
        _ => None,
    });
    assert_eq!(carried.expect("joins").first().expect("one").proposal, p);
}

/// Delivered, not executed: delivered again from the votes of the others.
#[test]
fn restart_before_execution_delivers_again() {
    let mut three = Solo::new(setup(4, 3));
    let p = proposal(0, 1, &[1]);
    let before = three.commit(0, &p);
    let (mut three, _) = restart(3, genesis(), records(&before));
    three.has(&[1]);
    let (_, digest) = genesis().extend(chain(), &p);
    let effects = three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Commit, 0, 1, digest)));
    assert_eq!(deliveries(&effects).len(), 1);
}

/// The primary repeats its pre-prepare and goes on above it.
#[test]
fn restarted_primary_goes_on_above_what_it_proposed() {
    let mut zero = Solo::new(setup(4, 0));
    let before = zero.step(Input::BatchAvailable(batch(1)));
    let (mut zero, after) = restart(0, genesis(), records(&before));
    assert_eq!(bodies(&before, Phase::PrePrepare), bodies(&after, Phase::PrePrepare));
    zero.has(&[1]);
    let effects = zero.step(Input::BatchAvailable(batch(2)));
    let next = broadcasts(&effects).into_iter().find_map(|m| match m {
        Message::PrePrepare { proposal, .. } => Some(proposal),
        _ => None,
    });
    let next = next.expect("proposes");
    assert_eq!((next.sequence.0, next.batches), (2, vec![batch(2)]));
}

/// Of two prepared certificates for one sequence number the higher view's counts, whatever the
/// order of the records.
#[test]
fn restart_keeps_the_highest_prepared_certificate() {
    let (old, new) = (proposal(0, 1, &[1]), proposal(1, 1, &[2]));
    let commit = |p: &Proposal| genesis().extend(chain(), p).1;
    let record = |view, p: &Proposal| {
        Record::Prepared { prepared: prepared(view, p), commit: commit(p) }.to_log()
    };
    for log in [[record(0, &old), record(1, &new)], [record(1, &new), record(0, &old)]] {
        let (three, _) = restart(3, genesis(), log.to_vec());
        assert_eq!(three.0.log.prepared(), [prepared(1, &new)]);
        let vote = three.0.log.get(SequenceNumber(1)).and_then(|entry| entry.commit_vote);
        assert_eq!(vote, Some((View(1), commit(&new))));
    }
}

/// In the middle of a view change: the same demand, byte for byte, and no vote in the old view.
#[test]
fn restart_within_a_view_change_stays_in_it() {
    let mut three = Solo::new(setup(4, 3));
    three.prepare(0, &proposal(0, 1, &[1]));
    three.receive(view_change(1, 1, 0, Vec::new()));
    let before = three.receive(view_change(2, 1, 0, Vec::new()));
    let (mut three, after) = restart(3, genesis(), records(&before));
    assert_eq!(bodies(&before, Phase::ViewChange), bodies(&after, Phase::ViewChange));
    assert_eq!((three.0.view, three.0.view_active), (View(1), false));
    let effects = three.prepare(0, &proposal(0, 2, &[2]));
    assert!(votes(&effects, Phase::Prepare).is_empty());
}

/// A primary that restarts within its view change starts that view no more: it may have done so.
#[test]
fn restarted_new_primary_composes_nothing() {
    let mut one = Solo::new(setup(4, 1));
    one.receive(view_change(0, 1, 0, Vec::new()));
    let before = one.receive(view_change(2, 1, 0, Vec::new()));
    let (mut one, after) = restart(1, genesis(), records(&before));
    let mut effects = one.loopback(&after);
    effects.extend(one.receive(view_change(0, 1, 0, Vec::new())));
    effects.extend(one.receive(view_change(2, 1, 0, Vec::new())));
    assert!(bodies(&effects, Phase::NewView).is_empty());
}

/// A demand that the guard refuses is no demand: the replica leaves the view for the next one.
#[test]
fn refused_view_change_is_given_up_for_the_next_view() {
    let mut three = Solo::new(setup(4, 3));
    three.receive(view_change(1, 1, 0, Vec::new()));
    let effects = three.receive(view_change(2, 1, 0, Vec::new()));
    let draft = effects.iter().find_map(|e| match e {
        Effect::Broadcast(draft)
            if !bodies(std::slice::from_ref(e), Phase::ViewChange).is_empty() =>
        {
            Some(draft.clone())
        }
        _ => None,
    });
    let slot = draft.expect("demands view 1").slot.expect("under a slot");
    let effects = three.step(Input::Refused(slot));
    assert_eq!((three.0.view, three.0.view_active), (View(2), false));
    assert_eq!(bodies(&effects, Phase::ViewChange).len(), 1);
    assert!(!records(&effects).is_empty(), "recorded before it is sent");
    let again = three.step(Input::Refused(slot));
    assert!(bodies(&again, Phase::ViewChange).is_empty(), "a view that was left already");
}

/// A primary whose assignment the guard refuses cannot lead its view and says so.
#[test]
fn refused_assignment_ends_the_primarys_view() {
    let mut zero = Solo::new(setup(4, 0));
    let effects = zero.step(Input::BatchAvailable(batch(1)));
    let slot = effects.iter().find_map(|e| match e {
        Effect::Broadcast(draft) => draft.slot.filter(|s| s.phase == Phase::PrePrepare),
        _ => None,
    });
    let effects = zero.step(Input::Refused(slot.expect("proposes")));
    assert_eq!(bodies(&effects, Phase::ViewChange).len(), 1);
    assert_eq!((zero.0.view, zero.0.view_active), (View(1), false));
}

/// In a later view: the view, its assignments and the votes in it come back.
#[test]
fn restart_in_a_later_view_comes_back_to_it() {
    let one = proposal(0, 1, &[1]);
    let demands = [0, 1, 2].map(|i| view_change(i, 1, 0, vec![prepared(0, &one)]));
    let mut three = Solo::new(setup(4, 3));
    three.has(&[1]);
    let mut before = three.receive(new_view(1, &demands, std::slice::from_ref(&one)));
    let digest = one.digest(&chain());
    before.extend(three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Prepare, 1, 1, digest))));
    let (three, after) = restart(3, genesis(), records(&before));
    assert_eq!((three.0.view, three.0.view_active), (View(1), true));
    for phase in [Phase::Prepare, Phase::Commit] {
        assert_eq!(bodies(&before, phase), bodies(&after, phase));
    }
}

/// A log that was never compacted gives the same votes as one that was.
#[test]
fn compacted_and_full_logs_agree() {
    let mut three = Solo::new(setup(4, 3));
    let mut all = Vec::new();
    for n in 1..=6 {
        all.extend(three.execute(0, &proposal(0, n, &[n])));
    }
    let own = votes(&all, Phase::Checkpoint)[0].digest;
    let stable = three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Checkpoint, 0, 4, own)));
    all.extend(stable.clone());
    all.extend(three.prepare(0, &proposal(0, 7, &[7])));
    let compacted = records(&all);
    let full: Vec<LogRecord> = all
        .iter()
        .filter_map(|e| match e {
            Effect::Persist(record) => Some(record.clone()),
            _ => None,
        })
        .collect();
    assert!(compacted.len() < full.len());
    let (a, first) = restart(3, three.0.tip, compacted);
    let (b, second) = restart(3, three.0.tip, full);
    for phase in [Phase::Prepare, Phase::Commit, Phase::Checkpoint] {
        assert_eq!(bodies(&first, phase), bodies(&second, phase));
    }
    assert_eq!((a.0.log.low().0, b.0.log.low().0), (4, 4));
    assert!(a.0.batches.is_recent(&batch(4).id) && b.0.batches.is_recent(&batch(4).id));
}

/// A checkpoint vote that was not yet stable is repeated.
#[test]
fn restart_repeats_checkpoint_votes() {
    let mut three = Solo::new(setup(4, 3));
    let before: Vec<Effect> =
        (1..=5).flat_map(|n| three.execute(0, &proposal(0, n, &[n]))).collect();
    let (_, after) = restart(3, three.0.tip, records(&before));
    assert_eq!(bodies(&before, Phase::Checkpoint), bodies(&after, Phase::Checkpoint));
}

/// Null requests leave no block: the log brings the tip back to the last executed one.
#[test]
fn restart_remembers_executed_null_requests() {
    let mut three = Solo::new(setup(4, 3));
    let mut effects = three.execute(0, &proposal(0, 1, &[1]));
    let ledger = three.0.tip;
    for n in 2..=3 {
        effects.extend(three.execute(0, &Proposal::null(SequenceNumber(n))));
    }
    let (three, _) = restart(3, ledger, records(&effects));
    assert_eq!(three.0.tip, Tip { sequence: SequenceNumber(3), ..ledger });
    let (behind, _) = restart(3, genesis(), records(&effects));
    assert_eq!(behind.0.tip, genesis(), "another last block: the certificate proves nothing");
}

/// The same where agreement runs ahead of execution, and where the log is compacted meanwhile: the
/// stable checkpoint stands for an executed null request, and no block brings the tip there.
///
/// ```text
/// null 1..6 delivered, 1..4 executed -> CHECKPOINT(4) x 3 -> h = 4, compacted -> crash -> tip = 4
/// ```
#[test]
fn restart_remembers_executed_null_requests_below_delivered_ones() {
    let mut three = Solo::new(setup(4, 3));
    let ledger = three.0.tip;
    let mut effects: Vec<Effect> =
        (1..=6).flat_map(|n| three.commit(0, &Proposal::null(SequenceNumber(n)))).collect();
    for n in 1..=4 {
        let sequence = SequenceNumber(n);
        let checkpoint = state_digest(&Tip { sequence, ..ledger });
        effects.extend(three.step(Input::Executed(Executed { sequence, checkpoint })));
    }
    let (executed, _) = restart(3, ledger, records(&effects));
    assert_eq!(executed.0.tip, Tip { sequence: SequenceNumber(4), ..ledger });
    let own = votes(&effects, Phase::Checkpoint)[0].digest;
    effects.extend(three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Checkpoint, 0, 4, own))));
    assert!(effects.iter().any(|e| matches!(e, Effect::Compact(_))));
    let (compacted, _) = restart(3, ledger, records(&effects));
    assert_eq!(compacted.0.log.low().0, 4);
    assert_eq!(compacted.0.tip, Tip { sequence: SequenceNumber(4), ..ledger });
}

/// What the driver says of the ledger's state is said of its last block's sequence number, not of
/// the null request above it.
#[test]
fn state_of_the_last_block_is_no_vote_for_a_null_request_above() {
    let null = Proposal::null(SequenceNumber(4));
    let (_, digest) = genesis().extend(chain(), &null);
    let log = vec![Record::Null { certificate: certificate(Phase::Commit, 0, 4, digest) }.to_log()];
    let (three, effects) = restart(3, genesis(), log);
    assert_eq!(three.0.tip.sequence.0, 4);
    assert!(votes(&effects, Phase::Checkpoint).is_empty());
}

/// Every record reads back as it was written.
#[test]
fn records_round_trip() {
    let mut three = Solo::new(setup(4, 3));
    let mut effects: Vec<Effect> =
        (1..=4).flat_map(|n| three.execute(0, &proposal(0, n, &[n]))).collect();
    effects.extend(three.execute(0, &Proposal::null(SequenceNumber(5))));
    three.receive(view_change(1, 1, 0, Vec::new()));
    effects.extend(three.receive(view_change(2, 1, 4, Vec::new())));
    let demands = [0, 1, 2].map(|i| view_change(i, 2, 4, Vec::new()));
    effects.extend(three.receive(new_view(2, &demands, &[])));
    effects.extend(three.step(Input::TimerFired(Timer::Retransmit)));
    let kinds: std::collections::BTreeSet<u8> = effects
        .iter()
        .filter_map(|e| match e {
            Effect::Persist(record) => Some(record),
            _ => None,
        })
        .map(|record| {
            let read = Record::from_bytes(&record.0).unwrap();
            assert_eq!(read.to_log(), *record);
            record.0[0]
        })
        .collect();
    assert_eq!(kinds, (1..=8).collect());
}
