//! Steps of the distance between proposals, and of the row with one transaction for each sequence
//! number.

use super::words::*;
use crate::consensus::Core;
use crate::consensus::Effect;
use crate::consensus::Input;
use crate::consensus::Timer;
use crate::consensus::pbft::message::Message;
use crate::types::batch::BatchRef;
use crate::types::ids::SequenceNumber;
use crate::types::limits;
use crate::types::proposal::Proposal;
use crate::types::vote::Phase;

/// The primary of view 0.
fn primary() -> Solo {
    Solo::new(setup(4, 0))
}

fn proposals(effects: &[Effect]) -> Vec<Proposal> {
    let all = broadcasts(effects).into_iter();
    all.filter_map(|m| match m {
        Message::PrePrepare { proposal, .. } => Some(proposal),
        _ => None,
    })
    .collect()
}

/// Batches of each proposal among the effects.
fn sizes(effects: &[Effect]) -> Vec<usize> {
    proposals(effects).iter().map(|p| p.batches.len()).collect()
}

/// The distance that a step armed.
fn armed_ms(effects: &[Effect]) -> Option<u64> {
    effects.iter().find_map(|effect| match effect {
        Effect::Arm { timer: Timer::Proposal, after_ms } => Some(*after_ms),
        _ => None,
    })
}

fn available(solo: &mut Solo, reference: BatchRef) -> Vec<Effect> {
    solo.step(Input::BatchAvailable(reference))
}

/// Nothing in flight: at once. One in flight: what comes waits for the spacing, then goes together.
///
/// ```text
/// b1 -> PRE-PREPARE(1: b1)     b2, b3 -> -     spacing -> PRE-PREPARE(2: b2 b3)
/// ```
#[test]
fn idle_primary_proposes_at_once_and_then_gathers() {
    let mut zero = primary();
    let first = available(&mut zero, batch(1));
    assert_eq!(sizes(&first), [1]);
    assert_eq!(armed_ms(&first), Some(limits::PROPOSAL_SPACING_MS / 4));
    for i in [2, 3] {
        assert!(proposals(&available(&mut zero, batch(i))).is_empty(), "batch {i} waits");
    }
    let second = zero.step(Input::TimerFired(Timer::Proposal));
    assert_eq!(sizes(&second), [2]);
    assert!(armed_ms(&second).is_some(), "the distance is kept from the last proposal");
    assert!(proposals(&available(&mut zero, batch(4))).is_empty());
}

/// The more are in flight, the farther apart, from a quarter of the spacing up to all of it.
#[test]
fn a_fuller_pipe_keeps_more_distance() {
    let mut zero = primary();
    let mut armed = vec![armed_ms(&available(&mut zero, batch(0))).unwrap()];
    for i in 1..limits::PROPOSALS_IN_FLIGHT {
        available(&mut zero, batch(i));
        armed.extend(armed_ms(&zero.step(Input::TimerFired(Timer::Proposal))));
    }
    assert_eq!(armed, [5, 5, 5, 7, 11, 15, 20, 20]);
}

/// A spacing that passed while nothing waited is not asked for again.
#[test]
fn after_the_spacing_the_next_batch_goes_at_once() {
    let mut zero = primary();
    available(&mut zero, batch(1));
    assert!(proposals(&zero.step(Input::TimerFired(Timer::Proposal))).is_empty());
    assert_eq!(sizes(&available(&mut zero, batch(2))), [1]);
}

/// What fills a proposal does not wait: by transactions, by bytes, by number of batches.
#[test]
fn a_full_proposal_does_not_wait() {
    let many = u32::try_from(limits::PROPOSAL_FULL_TXS).unwrap();
    let large = u32::try_from(limits::PROPOSAL_FULL_BYTES).unwrap();
    let full = [BatchRef { transactions: many, ..batch(2) }, BatchRef { bytes: large, ..batch(2) }];
    for reference in full {
        let mut zero = primary();
        available(&mut zero, batch(1));
        assert_eq!(sizes(&available(&mut zero, reference)), [1], "{reference:?}");
    }
    let mut zero = primary();
    let count = u64::from(parameters().block_batches_max);
    let effects: Vec<Effect> = (0..=count).flat_map(|i| available(&mut zero, batch(i))).collect();
    assert_eq!(sizes(&effects), [1, usize::try_from(count).unwrap()]);
}

/// The pipe runs empty before the spacing has passed: what waits goes with the delivery.
///
/// ```text
/// b1 -> PRE-PREPARE(1)   b2 -> -   prepares, commits -> deliver 1, PRE-PREPARE(2: b2)
/// ```
#[test]
fn a_delivery_that_empties_the_pipe_ends_the_wait() {
    let mut zero = primary();
    let effects = available(&mut zero, batch(1));
    let p = proposals(&effects).remove(0);
    zero.loopback(&effects);
    available(&mut zero, batch(2));
    let digest = p.digest(&chain());
    let (_, hash) = zero.0.tip.extend(chain(), &p);
    let effects = zero.receive_all([1, 2].map(|i| vote(i, Phase::Prepare, 0, 1, digest)));
    zero.loopback(&effects);
    let effects = zero.receive_all([1, 2].map(|i| vote(i, Phase::Commit, 0, 1, hash)));
    assert_eq!(deliveries(&effects).len(), 1);
    assert_eq!(sizes(&effects), [1], "{effects:?}");
}

/// However often the spacing passes, no more than the depth is in flight.
#[test]
fn the_depth_bounds_what_is_in_flight() {
    let mut setup = setup(4, 0);
    setup.tuning.in_flight_max = 4;
    let mut zero = Solo::new(setup);
    let mut proposed = 0;
    for i in 0..10 {
        proposed += proposals(&available(&mut zero, batch(i))).len();
        proposed += proposals(&zero.step(Input::TimerFired(Timer::Proposal))).len();
    }
    assert_eq!(proposed, 4);
}

/// Who leaves its view forgets the timer; who begins a view owes no distance to the last one.
#[test]
fn a_view_change_ends_the_wait() {
    let mut zero = primary();
    let effects = available(&mut zero, batch(1));
    let p = proposals(&effects).remove(0);
    assert!(proposals(&available(&mut zero, batch(2))).is_empty());
    let effects = zero.receive_all([1, 2].map(|i| view_change(i, 1, 0, vec![])));
    assert!(effects.contains(&Effect::Disarm(Timer::Proposal)), "{effects:?}");

    let demands: Vec<_> = (0..3).map(|i| view_change(i, 4, 0, vec![prepared(0, &p)])).collect();
    let effects = zero.receive(new_view(4, &demands, &[p]));
    assert_eq!(zero.0.tip.sequence, SequenceNumber(0), "the first is in flight again");
    assert_eq!(sizes(&effects), [1], "and the second goes beside it: {effects:?}");
}

/// `classic`: each transaction is a sequence number, and since each fills one, none waits for
/// another.
#[test]
fn classic_primary_proposes_each_transaction_alone() {
    let mut zero = Solo::with(setup(4, 0), 1);
    zero.0.tuning.in_flight_max = 4;
    let effects: Vec<Effect> = (1..=6).flat_map(|i| available(&mut zero, batch(i))).collect();
    assert_eq!(sizes(&effects), [1, 1, 1, 1]);
}

/// `classic`: a backup has no vote for two transactions of one sequence number, in one batch or in
/// two, nor where a proposal says of a batch that it is smaller than it is.
#[test]
fn classic_backup_refuses_more_than_one_transaction() {
    let pair = BatchRef { transactions: 2, ..batch(1) };
    let one_batch = Proposal { batches: vec![pair], ..proposal(0, 1, &[]) };
    let lie = proposal(0, 1, &[1]);
    for (case, p, held) in [
        ("one batch", one_batch, pair),
        ("two batches", proposal(0, 1, &[1, 2]), batch(1)),
        ("a lie", lie, pair),
    ] {
        let mut three = Solo::with(setup(4, 3), 1);
        let mut effects = available(&mut three, held);
        effects.extend(available(&mut three, batch(2)));
        effects.extend(three.receive(pre_prepare(0, &p)));
        effects.extend(available(&mut three, held));
        assert!(votes(&effects, Phase::Prepare).is_empty(), "{case}: {effects:?}");
    }
    let mut three = Solo::with(setup(4, 3), 1);
    available(&mut three, batch(1));
    let effects = three.receive(pre_prepare(0, &proposal(0, 1, &[1])));
    assert_eq!(votes(&effects, Phase::Prepare).len(), 1, "one transaction is what it takes");
}

/// `classic`: a batch that can never be proposed is not held, or every primary would be suspected.
#[test]
fn classic_holds_no_batch_of_several_transactions() {
    let mut three = Solo::with(setup(4, 3), 1);
    let effects = available(&mut three, BatchRef { transactions: 2, ..batch(1) });
    let waits = |e: &Effect| matches!(e, Effect::Arm { timer: Timer::Request, .. });
    assert!(!effects.iter().any(waits), "{effects:?}");
    assert_eq!(three.0.status().pending_batches, 0);
}
