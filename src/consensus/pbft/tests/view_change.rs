//! Steps of the view change.

use super::words::*;
use crate::consensus::Effect;
use crate::consensus::Input;
use crate::consensus::Timer;
use crate::consensus::pbft::message::Message;
use crate::consensus::pbft::message::ViewChange;
use crate::types::digest::Digest;
use crate::types::ids::View;
use crate::types::proposal::Proposal;
use crate::types::vote::Phase;

/// Replica 3, which heard the others, so that it may suspect.
fn connected() -> Solo {
    let mut three = Solo::new(setup(4, 3));
    hear(&mut three);
    three
}

fn hear(solo: &mut Solo) {
    let digest = Digest::of(&[b"greeting"]);
    solo.receive_all([0, 1, 2].map(|i| vote(i, Phase::Prepare, 0, 8, digest)));
}

fn demanded(effects: &[Effect]) -> Option<u64> {
    broadcasts(effects).into_iter().find_map(|m| match m {
        Message::ViewChange(demand) => Some(demand.view.0),
        _ => None,
    })
}

fn armed(effects: &[Effect], timer: Timer) -> Option<u64> {
    effects.iter().rev().find_map(|e| match e {
        Effect::Arm { timer: t, after_ms } if *t == timer => Some(*after_ms),
        _ => None,
    })
}

/// A batch that nobody proposes: the timer runs, the next view is demanded, recorded first.
#[test]
fn ignored_batch_makes_a_view_change() {
    let mut three = connected();
    let effects = three.step(Input::BatchAvailable(batch(1)));
    assert_eq!(armed(&effects, Timer::Request), Some(2_000));
    let effects = three.step(Input::TimerFired(Timer::Request));
    assert_eq!(demanded(&effects), Some(1));
    let persist = effects.iter().position(|e| matches!(e, Effect::Persist(_)));
    let broadcast = effects.iter().position(|e| matches!(e, Effect::Broadcast(_)));
    assert!(persist < broadcast);
    assert!(!three.0.view_active);
}

/// A replica that hears nobody does not suspect: it is the one that is cut off.
#[test]
fn replica_that_hears_nobody_stays() {
    let mut three = Solo::new(setup(4, 3));
    three.has(&[1]);
    let effects = three.step(Input::TimerFired(Timer::Request));
    assert_eq!(demanded(&effects), None);
    assert_eq!(armed(&effects, Timer::Request), Some(2_000), "it goes on watching");
}

/// Delivery of something else starts the wait anew; delivery of all ends it.
#[test]
fn progress_resets_the_request_timer() {
    let mut three = connected();
    three.has(&[1, 2]);
    let effects = three.commit(0, &proposal(0, 1, &[1]));
    assert_eq!(armed(&effects, Timer::Request), Some(2_000));
    let effects = three.commit(0, &proposal(0, 2, &[2]));
    assert!(effects.contains(&Effect::Disarm(Timer::Request)));
}

/// The view-change timer starts with a quorum of demands only, and doubles when a view fails.
#[test]
fn view_change_timer_needs_a_quorum_and_doubles() {
    let mut three = connected();
    three.has(&[1]);
    let effects = three.step(Input::TimerFired(Timer::Request));
    assert_eq!(armed(&effects, Timer::ViewChange), None);
    let effects = three.loopback(&effects);
    assert_eq!(armed(&effects, Timer::ViewChange), None);
    three.receive(view_change(1, 1, 0, Vec::new()));
    let effects = three.receive(view_change(2, 1, 0, Vec::new()));
    assert_eq!(armed(&effects, Timer::ViewChange), Some(2_000));
    let effects = three.step(Input::TimerFired(Timer::ViewChange));
    assert_eq!(demanded(&effects), Some(2));
    let mut effects = three.loopback(&effects);
    effects.extend(three.receive(view_change(1, 2, 0, Vec::new())));
    effects.extend(three.receive(view_change(2, 2, 0, Vec::new())));
    assert_eq!(armed(&effects, Timer::ViewChange), Some(4_000));
}

/// One replica's demands change nothing, up to u64::MAX and however often; two pull the rest up to
/// the lower of them.
#[test]
fn views_move_on_the_word_of_f_plus_one() {
    let mut three = connected();
    for view in [1, 7, u64::MAX, 3, u64::MAX] {
        let effects = three.receive(view_change(1, view, 0, Vec::new()));
        assert_eq!(demanded(&effects), None);
    }
    assert_eq!(three.0.view_changes.len(), 1);
    let effects = three.receive(view_change(2, 5, 0, Vec::new()));
    assert_eq!(demanded(&effects), Some(5));
    assert_eq!(three.0.view, View(5));
}

/// At the last view number there is no next one, and nothing overflows.
#[test]
fn last_view_has_no_next() {
    let mut three = connected();
    three.receive(view_change(1, u64::MAX, 0, Vec::new()));
    three.receive(view_change(2, u64::MAX, 0, Vec::new()));
    assert_eq!(three.0.view, View(u64::MAX));
    let effects = three.step(Input::TimerFired(Timer::ViewChange));
    assert_eq!(demanded(&effects), None);
}

/// Prepared at n+1 but not at n: the new view carries n+1 and puts a null request at n.
///
/// ```text
/// view 0: 1 unknown, 2 prepared at 1      NEW-VIEW(1): 1 null, 2 as it was
/// ```
#[test]
fn gap_below_a_prepared_proposal_becomes_null() {
    let two = proposal(0, 2, &[2]);
    let demands = [
        view_change(0, 1, 0, Vec::new()),
        view_change(1, 1, 0, vec![prepared(0, &two)]),
        view_change(2, 1, 0, Vec::new()),
    ];
    let mut one = Solo::new(setup(4, 1));
    one.has(&[2]);
    let effects = one.receive_all(demands);
    let composed = broadcasts(&effects).into_iter().find_map(|m| match m {
        Message::NewView(new_view) => Some(new_view),
        _ => None,
    });
    let null = Proposal::null(crate::types::ids::SequenceNumber(1));
    let expected = vec![null.digest(&chain()), two.digest(&chain())];
    assert_eq!(composed.expect("a quorum demands the view").assignments, expected);
    let effects = one.loopback(&effects);
    let own = votes(&effects, Phase::Prepare);
    assert_eq!(own.iter().map(|v| v.digest).collect::<Vec<_>>(), expected);
    assert!(own.iter().all(|v| v.slot.view == View(1)));
    assert!(one.0.view_active);
}

/// Of two prepared certificates the higher view's wins.
#[test]
fn higher_view_certificate_wins() {
    let (old, new) = (proposal(0, 1, &[1]), proposal(1, 1, &[2]));
    let demands = [
        view_change(0, 2, 0, vec![prepared(0, &old)]),
        view_change(1, 2, 0, vec![prepared(1, &new)]),
        view_change(3, 2, 0, vec![prepared(0, &old)]),
    ];
    let mut three = Solo::new(setup(4, 3));
    three.has(&[1, 2]);
    let effects = three.receive(new_view(2, &demands, std::slice::from_ref(&new)));
    assert_eq!(votes(&effects, Phase::Prepare)[0].digest, new.digest(&chain()));
}

/// A batch in two carried proposals is assigned once: the upper one becomes null.
#[test]
fn batch_in_two_carried_proposals_is_assigned_once() {
    let (low, high) = (proposal(0, 1, &[1]), proposal(1, 2, &[1]));
    let demands = [
        view_change(0, 2, 0, vec![prepared(0, &low)]),
        view_change(1, 2, 0, vec![prepared(1, &high)]),
        view_change(2, 2, 0, Vec::new()),
    ];
    let mut three = Solo::new(setup(4, 3));
    three.has(&[1]);
    let null = Proposal::null(high.sequence);
    let effects = three.receive(new_view(2, &demands, &[low, null.clone()]));
    let own = votes(&effects, Phase::Prepare);
    assert_eq!(own[1].digest, null.digest(&chain()));
}

/// A new-view whose assignments do not follow from its view-changes is evidence, and is not
/// entered; two new-views for one view are evidence too.
#[test]
fn wrong_new_view_is_evidence() {
    let one = proposal(0, 1, &[1]);
    let demands = [0, 1, 2].map(|i| view_change(i, 1, 0, vec![prepared(0, &one)]));
    let mut three = Solo::new(setup(4, 3));
    let effects = three.receive(new_view(1, &demands, &[]));
    assert_eq!(accused(&effects), [1]);
    assert_eq!(three.0.view, View(0));
    three.receive(new_view(1, &demands, std::slice::from_ref(&one)));
    assert_eq!(three.0.view, View(1));
    let others = [0, 1, 3].map(|i| view_change(i, 1, 0, Vec::new()));
    let effects = three.receive(new_view(1, &others, &[]));
    assert_eq!(accused(&effects), [1]);
    assert_eq!(three.0.view, View(1));
}

/// Too few view-changes, another sender than the primary, or a view below: nothing happens.
#[test]
fn improper_new_views_are_dropped() {
    let mut three = Solo::new(setup(4, 3));
    let two = [0, 1].map(|i| view_change(i, 1, 0, Vec::new()));
    three.receive(new_view(1, &two, &[]));
    let demands = [0, 1, 2].map(|i| view_change(i, 1, 0, Vec::new()));
    let mut foreign = new_view(1, &demands, &[]);
    foreign.sender.0 = 2;
    three.receive(foreign);
    assert_eq!(three.0.view, View(0));
    let later = [0, 1, 2].map(|i| view_change(i, 2, 0, Vec::new()));
    three.receive(new_view(2, &later, &[]));
    three.receive(new_view(1, &demands, &[]));
    assert_eq!(three.0.view, View(2));
}

/// View-changes with certificates that do not fit are dropped: a later view's, another digest,
/// outside the window, below a quorum, a stable checkpoint where none is due.
#[test]
fn improper_view_changes_are_dropped() {
    let one = proposal(0, 1, &[1]);
    let mut other = prepared(0, &one);
    other.certificate.vote.digest = Digest::of(&[b"other"]);
    let mut few = prepared(0, &one);
    few.certificate.signatures.pop();
    let mut weak = certificate(Phase::Checkpoint, 0, 4, Digest::of(&[b"state"]));
    weak.signatures.pop();
    let weak = ViewChange { view: View(1), stable: Some(weak), prepared: Vec::new() };
    let bad = [
        message(1, &Message::ViewChange(weak)),
        view_change(1, 2, 0, vec![prepared(0, &proposal(1, 1, &[1]))]),
        view_change(1, 1, 0, vec![prepared(1, &one)]),
        view_change(1, 1, 0, vec![other]),
        view_change(1, 1, 0, vec![few]),
        view_change(1, 1, 0, vec![prepared(0, &proposal(0, 9, &[1]))]),
        view_change(1, 1, 4, vec![prepared(0, &proposal(0, 4, &[1]))]),
        view_change(1, 1, 3, Vec::new()),
    ];
    let mut three = Solo::new(setup(4, 3));
    for envelope in bad {
        three.receive(envelope);
        assert!(three.0.view_changes.is_empty());
    }
    let mut twice = Solo::new(setup(4, 3));
    twice.receive(view_change(1, 1, 0, Vec::new()));
    let effects = twice.receive(view_change(1, 1, 0, vec![prepared(0, &one)]));
    assert_eq!(accused(&effects), [1]);
}

/// A stable checkpoint that comes with the view-changes is learned, and the view change goes on.
#[test]
fn checkpoint_in_a_view_change_moves_the_watermark() {
    let demands = [0, 1, 2].map(|i| view_change(i, 1, 8, Vec::new()));
    let mut three = Solo::new(setup(4, 3));
    three.receive(demands[0].clone());
    assert_eq!(three.0.log.low().0, 8);
    three.receive(new_view(1, &demands, &[]));
    assert!(three.0.view_active);
    assert_eq!(three.0.view, View(1));
}

/// A prepared proposal above the tip whose batch was delivered below cannot have been committed; it
/// is not carried over, or the batch would be ordered twice.
#[test]
fn prepared_proposal_with_a_delivered_batch_is_not_carried() {
    let mut three = Solo::new(setup(4, 3));
    let (low, high) = (proposal(0, 1, &[2]), proposal(0, 2, &[1]));
    three.prepare(0, &low);
    three.prepare(0, &high);
    let committed = proposal(1, 1, &[1]);
    let (_, digest) = three.0.tip.extend(chain(), &committed);
    let certificate = certificate(Phase::Commit, 1, 1, digest);
    let effects =
        three.receive(message(0, &Message::Committed { proposal: committed, certificate }));
    assert_eq!(deliveries(&effects).len(), 1);
    three.receive(view_change(1, 2, 0, Vec::new()));
    let effects = three.receive(view_change(2, 2, 0, Vec::new()));
    let carried = broadcasts(&effects).into_iter().find_map(|m| match m {
        Message::ViewChange(demand) => Some(demand.prepared),
        _ => None,
    });
    assert_eq!(carried.expect("joins"), [prepared(0, &low)]);
}

/// What is delivered here and assigned again is voted for again, so that others get it too.
#[test]
fn delivered_proposals_are_agreed_on_again() {
    let mut three = Solo::new(setup(4, 3));
    let one = proposal(0, 1, &[1]);
    three.commit(0, &one);
    let demands = [0, 1, 2].map(|i| view_change(i, 1, 0, vec![prepared(0, &one)]));
    let effects = three.receive(new_view(1, &demands, std::slice::from_ref(&one)));
    assert_eq!(votes(&effects, Phase::Prepare).len(), 1);
    let digest = one.digest(&chain());
    let effects = three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Prepare, 1, 1, digest)));
    let commits = votes(&effects, Phase::Commit);
    assert_eq!(commits[0].digest, three.0.tip.hash.0);
    assert!(deliveries(&effects).is_empty(), "delivered once");
}

/// After a demand for a view, messages of the old one get no votes.
#[test]
fn old_view_is_left_for_good() {
    let mut three = connected();
    three.has(&[1, 2]);
    three.receive(pre_prepare(0, &proposal(0, 1, &[1])));
    three.step(Input::TimerFired(Timer::Request));
    let effects = three.prepare(0, &proposal(0, 2, &[2]));
    assert!(votes(&effects, Phase::Prepare).is_empty());
    let digest = proposal(0, 1, &[1]).digest(&chain());
    let effects = three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Prepare, 0, 1, digest)));
    assert!(votes(&effects, Phase::Commit).is_empty());
}

/// A replica alone in the next view is joined after a while; one far above is not.
#[test]
fn lone_replica_is_joined_in_time() {
    let mut three = connected();
    three.receive(view_change(1, u64::MAX, 0, Vec::new()));
    three.receive(view_change(2, 1, 0, Vec::new()));
    assert_eq!(three.0.view, View(1), "two are f+1: the lower of them is joined");
    let mut three = connected();
    three.receive(view_change(2, 1, 0, Vec::new()));
    let ticks = (0..100)
        .take_while(|_| demanded(&three.step(Input::TimerFired(Timer::Retransmit))).is_none())
        .count();
    assert_eq!(ticks, 31);
    let mut three = connected();
    three.receive(view_change(2, u64::MAX, 0, Vec::new()));
    for _ in 0..100 {
        assert_eq!(demanded(&three.step(Input::TimerFired(Timer::Retransmit))), None);
    }
}

/// A primary that leaves one batch out while it orders much younger ones is replaced.
#[test]
fn primary_that_leaves_a_batch_out_is_suspected() {
    let mut three = connected();
    three.has(&[1]);
    let mut demanded_at = None;
    for n in 1..=40u64 {
        hear(&mut three);
        let effects = three.execute(0, &proposal(0, n, &[100 + n]));
        if let Some(own) = votes(&effects, Phase::Checkpoint).first() {
            let (n, digest) = (own.slot.sequence.0, own.digest);
            three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Checkpoint, 0, n, digest)));
        }
        let effects = three.step(Input::TimerFired(Timer::Retransmit));
        if demanded(&effects).is_some() {
            demanded_at = Some(n);
            break;
        }
    }
    assert!(demanded_at.is_some_and(|n| n >= 4), "{demanded_at:?}");
}

/// Evidence that others are ahead, or a full window, is no reason to blame the primary.
#[test]
fn laggard_does_not_suspect() {
    let mut three = connected();
    three.has(&[1]);
    let state = Digest::of(&[b"state"]);
    three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Checkpoint, 0, 4, state)));
    let effects = three.step(Input::TimerFired(Timer::Request));
    assert_eq!(demanded(&effects), None);
}
