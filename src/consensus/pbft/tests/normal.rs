//! Steps of the normal case.

use super::words::*;
use crate::consensus::Draft;
use crate::consensus::Effect;
use crate::consensus::Input;
use crate::consensus::Timer;
use crate::consensus::pbft::message::Message;
use crate::types::batch::BatchRef;
use crate::types::digest::Digest;
use crate::types::ids::SequenceNumber;
use crate::types::limits;
use crate::types::proposal::Proposal;
use crate::types::vote::Phase;

fn backup() -> Solo {
    Solo::new(setup(4, 3))
}

fn foreseen(effects: &[Effect]) -> Vec<Draft> {
    let named = |effect: &Effect| match effect {
        Effect::Foresee(draft) => Some(draft.clone()),
        _ => None,
    };
    effects.iter().filter_map(named).collect()
}

/// A backup votes once it has the body, commits once prepared, delivers once committed.
///
/// ```text
/// 0  PRE-PREPARE(1) -> 3      prepare x 3 -> 3      commit x 3 -> 3
/// 3                  PREPARE               COMMIT             deliver 1
/// ```
#[test]
fn backup_goes_through_the_three_phases() {
    let mut three = backup();
    three.has(&[1]);
    let p = proposal(0, 1, &[1]);
    let digest = p.digest(&chain());
    let effects = three.receive(pre_prepare(0, &p));
    assert_eq!(votes(&effects, Phase::Prepare)[0].digest, digest);
    assert!(matches!(effects[0], Effect::Persist(_)), "the record comes before the vote");
    let prepares = [0, 1, 2].map(|i| vote(i, Phase::Prepare, 0, 1, digest));
    let effects = three.receive_all(prepares);
    let (tip, commit) = setup(4, 3).tip.extend(chain(), &p);
    assert_eq!(votes(&effects, Phase::Commit)[0].digest, commit);
    assert!(matches!(effects[0], Effect::Persist(_)), "the certificate comes before the vote");
    let effects = three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Commit, 0, 1, commit)));
    let delivered = deliveries(&effects);
    assert_eq!(delivered[0].proposal, p);
    assert_eq!(delivered[0].certificate.vote.digest, tip.hash.0);
    assert_eq!(three.0.tip.sequence, SequenceNumber(1));
}

/// Without a spacing the primary proposes at once, several in flight, no more than its depth, each
/// batch once.
#[test]
fn primary_fills_the_pipe_and_no_more() {
    let mut setup = setup(4, 0);
    setup.tuning.proposal_spacing_ms = 0;
    setup.tuning.in_flight_max = 4;
    let mut zero = Solo::new(setup);
    let effects: Vec<Effect> =
        (1..=6).flat_map(|i| zero.step(Input::BatchAvailable(batch(i)))).collect();
    let proposed: Vec<Proposal> = broadcasts(&effects)
        .into_iter()
        .filter_map(|m| match m {
            Message::PrePrepare { proposal, .. } => Some(proposal),
            _ => None,
        })
        .collect();
    assert_eq!(proposed.len(), 4);
    assert!(proposed.iter().all(|p| p.batches.len() == 1));
    assert!(proposed.windows(2).all(|w| w[0].time_ms < w[1].time_ms));
    assert_eq!(zero.0.batches.len(), 6);
}

/// A missing body: no vote, a fetch; the vote follows the body, from whatever source.
///
/// ```text
/// 0  PRE-PREPARE(1: b1) -> 3   fetch b1 from 0 and its author   b1 -> 3   PREPARE(1)
/// ```
#[test]
fn missing_body_is_fetched_before_the_vote() {
    let mut three = backup();
    let p = proposal(0, 1, &[1]);
    let effects = three.receive(pre_prepare(0, &p));
    assert!(votes(&effects, Phase::Prepare).is_empty());
    assert!(effects.iter().any(|e| matches!(e, Effect::FetchBatch { .. })));
    let again = three.step(Input::TimerFired(Timer::Retransmit));
    assert!(again.iter().any(|e| matches!(e, Effect::FetchBatch { .. })), "asked again");
    let effects = three.step(Input::BatchAvailable(batch(1)));
    assert_eq!(votes(&effects, Phase::Prepare).len(), 1);
}

/// Prepared by all others while the body is missing: whoever commits holds it.
#[test]
fn commit_vote_waits_for_the_body() {
    let mut three = backup();
    let p = proposal(0, 1, &[1]);
    three.receive(pre_prepare(0, &p));
    let digest = p.digest(&chain());
    let effects = three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Prepare, 0, 1, digest)));
    assert!(votes(&effects, Phase::Commit).is_empty());
    let effects = three.step(Input::BatchAvailable(batch(1)));
    assert_eq!(votes(&effects, Phase::Commit).len(), 1);
}

/// A body asked for in vain is not asked for without end.
#[test]
fn fetches_are_bounded() {
    let mut three = backup();
    three.receive(pre_prepare(0, &proposal(0, 1, &[1])));
    let mut asked = 0;
    for _ in 0..100 {
        let effects = three.step(Input::TimerFired(Timer::Retransmit));
        asked += effects.iter().filter(|e| matches!(e, Effect::FetchBatch { .. })).count();
    }
    assert_eq!(asked, 16);
}

/// A quorum of commits for something whose body is missing waits for the body.
#[test]
fn delivery_waits_for_the_body() {
    let mut three = backup();
    let p = proposal(0, 1, &[1]);
    three.receive(pre_prepare(0, &p));
    let (_, digest) = three.0.tip.extend(chain(), &p);
    let effects = three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Commit, 0, 1, digest)));
    assert!(deliveries(&effects).is_empty());
    let effects = three.step(Input::BatchAvailable(batch(1)));
    assert_eq!(deliveries(&effects).len(), 1);
}

/// COMMIT has no gaps: 2 prepared before 1 waits for 1.
///
/// ```text
/// prepared(2) -> -        prepared(1) -> COMMIT(1), COMMIT(2)
/// ```
#[test]
fn commits_are_contiguous() {
    let mut three = backup();
    three.has(&[1, 2]);
    let (one, two) = (proposal(0, 1, &[1]), proposal(0, 2, &[2]));
    three.receive(pre_prepare(0, &one));
    let effects = three.prepare(0, &two);
    assert!(votes(&effects, Phase::Commit).is_empty());
    let digest = one.digest(&chain());
    let effects = three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Prepare, 0, 1, digest)));
    let sequences: Vec<u64> =
        votes(&effects, Phase::Commit).iter().map(|v| v.slot.sequence.0).collect();
    assert_eq!(sequences, [1, 2]);
}

/// Beside each prepare vote goes the commit vote that will follow it, once, and the same bytes are
/// cast later; a null request is no exception.
///
/// ```text
/// PRE-PREPARE(1), (2), (3) -> PREPARE(1..3), foreseen: COMMIT(1..3)     prepared(1..3) -> COMMIT(1..3)
/// ```
#[test]
fn commit_votes_are_foreseen() {
    let mut three = backup();
    three.has(&[1, 3]);
    let proposals = [proposal(0, 1, &[1]), Proposal::null(SequenceNumber(2)), proposal(0, 3, &[3])];
    let mut named: Vec<Draft> = Vec::new();
    for (p, n) in proposals.iter().zip(1..) {
        let effects = three.receive(pre_prepare(0, p));
        named.extend(foreseen(&effects));
        assert_eq!(named.len(), n, "one for each");
    }
    assert!(foreseen(&three.receive(pre_prepare(0, &proposals[2]))).is_empty());
    let mut cast: Vec<Draft> = Vec::new();
    for p in &proposals {
        let effects = three.prepare(0, p);
        assert!(foreseen(&effects).is_empty());
        cast.extend(effects.into_iter().filter_map(|effect| match effect {
            Effect::Broadcast(draft) => Some(draft),
            _ => None,
        }));
    }
    assert_eq!(named, cast);
}

/// Pre-prepares are accepted in order: 2 waits for 1, and needs no second sending.
#[test]
fn pre_prepares_wait_for_their_turn() {
    let mut three = backup();
    three.has(&[1, 2]);
    let effects = three.receive(pre_prepare(0, &proposal(0, 2, &[2])));
    assert!(votes(&effects, Phase::Prepare).is_empty());
    let effects = three.receive(pre_prepare(0, &proposal(0, 1, &[1])));
    assert_eq!(votes(&effects, Phase::Prepare).len(), 2);
}

/// Proposals that break a rule get no vote: wrong view, stale or far time, repeated, unknown or
/// misdescribed batches, too many of them, a changed null request.
#[test]
fn unacceptable_proposals_get_no_vote() {
    let good = proposal(0, 1, &[1]);
    let wrong_ref = BatchRef { bytes: 301, ..batch(1) };
    // Not held here: nothing but the limit speaks against them.
    let bytes = |i: u64, bytes: u32| BatchRef { bytes, ..batch(i) };
    let (half, whole) = (5 * 1024 * 1024, 9 * 1024 * 1024);
    let transactions = u32::try_from(limits::SEQUENCE_TXS_MAX + 1).unwrap();
    let crowd = BatchRef { transactions, ..batch(77) };
    let bad = [
        Proposal { view: crate::types::ids::View(1), ..good.clone() },
        Proposal { time_ms: 0, ..good.clone() },
        Proposal { time_ms: NOW + 60_001, ..good.clone() },
        Proposal { time_ms: NOW - 60_001, ..good.clone() },
        Proposal { batches: vec![batch(1), batch(1)], ..good.clone() },
        Proposal { batches: vec![wrong_ref], ..good.clone() },
        Proposal { batches: (0..33).map(batch).collect(), ..good.clone() },
        Proposal { batches: Vec::new(), ..good.clone() },
        Proposal { batches: vec![bytes(77, whole)], ..good.clone() },
        Proposal { batches: vec![bytes(77, half), bytes(78, half)], ..good.clone() },
        Proposal { batches: vec![crowd], ..good.clone() },
    ];
    for p in bad {
        let mut three = backup();
        three.has(&(0..40).collect::<Vec<_>>());
        let effects = three.receive(pre_prepare(0, &p));
        assert!(votes(&effects, Phase::Prepare).is_empty(), "{p:?}");
        let effects = three.receive(pre_prepare(0, &good));
        assert_eq!(votes(&effects, Phase::Prepare).len(), 1, "a good one is still taken");
    }
}

/// A body that arrives with other properties than the proposal names is never voted for.
#[test]
fn misdescribed_body_is_refused_when_it_arrives() {
    let mut three = backup();
    let mut p = proposal(0, 1, &[1]);
    p.batches[0].bytes += 1;
    three.receive(pre_prepare(0, &p));
    let effects = three.step(Input::BatchAvailable(batch(1)));
    assert!(votes(&effects, Phase::Prepare).is_empty());
}

/// A batch that is delivered, or in another proposal of the view, is not taken again.
#[test]
fn batch_is_ordered_once() {
    let mut three = backup();
    three.commit(0, &proposal(0, 1, &[1]));
    let effects = three.receive(pre_prepare(0, &proposal(0, 2, &[1])));
    assert!(votes(&effects, Phase::Prepare).is_empty());
    three.has(&[2]);
    three.receive(pre_prepare(0, &proposal(0, 2, &[2])));
    let effects = three.receive(pre_prepare(0, &proposal(0, 3, &[2])));
    assert!(votes(&effects, Phase::Prepare).is_empty());
}

/// Only the view's primary assigns; a pre-prepare from anyone else, or from outside, is nothing.
#[test]
fn only_the_primary_assigns() {
    let mut three = backup();
    three.has(&[1]);
    for sender in [1, 2, 9] {
        let mut envelope = pre_prepare(0, &proposal(0, 1, &[1]));
        envelope.sender.0 = sender;
        assert!(votes(&three.receive(envelope), Phase::Prepare).is_empty());
    }
}

/// Sequence numbers 0, H+1 and u64::MAX leave no trace; h+1 and H are in the window.
#[test]
fn watermarks_bound_the_log() {
    let mut three = backup();
    let digest = Digest::of(&[b"x"]);
    for n in [0, 9, 10, u64::MAX] {
        for phase in [Phase::Prepare, Phase::Commit, Phase::Checkpoint] {
            three.receive(vote(1, phase, 0, n, digest));
        }
        three.receive(pre_prepare(
            0,
            &Proposal { sequence: SequenceNumber(n), ..proposal(0, 1, &[1]) },
        ));
    }
    assert_eq!(three.0.log.entries().count(), 0);
    assert!(three.0.early.is_empty() && three.0.checkpoints.votes.is_empty());
    for n in [1, 8] {
        three.receive(vote(1, Phase::Prepare, 0, n, digest));
    }
    assert_eq!(three.0.log.entries().count(), 2);
}

/// Votes for what nobody proposed are kept once per replica, whatever their number and views.
#[test]
fn votes_of_one_replica_take_one_place() {
    let mut three = backup();
    for view in [0, 5, u64::MAX, 7] {
        for digest in [b"a", b"b"] {
            three.receive(vote(1, Phase::Commit, view, 1, Digest::of(&[digest])));
        }
    }
    let entry = three.0.log.get(SequenceNumber(1)).unwrap();
    assert_eq!(entry.commits.len(), 1);
}

/// Two different pre-prepares, or votes, of one replica for one slot: accused once, with both.
#[test]
fn equivocation_is_evidence() {
    let mut three = backup();
    three.has(&[1, 2]);
    three.receive(pre_prepare(0, &proposal(0, 1, &[1])));
    let effects = three.receive(pre_prepare(0, &proposal(0, 1, &[2])));
    assert_eq!(accused(&effects), [0]);
    let again = three.receive(pre_prepare(0, &proposal(0, 1, &[1, 2])));
    assert!(accused(&again).is_empty(), "once");
    for phase in [Phase::Prepare, Phase::Commit] {
        let mut three = backup();
        three.receive(vote(1, phase, 0, 1, Digest::of(&[b"a"])));
        let same = three.receive(vote(1, phase, 0, 1, Digest::of(&[b"a"])));
        assert!(accused(&same).is_empty());
        let effects = three.receive(vote(1, phase, 0, 1, Digest::of(&[b"b"])));
        let [Effect::Accuse(evidence), ..] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!((evidence.culprit.0, evidence.messages.len()), (1, 2));
        assert_ne!(evidence.messages[0].body, evidence.messages[1].body);
    }
}

/// Every message twice changes nothing: the same votes, delivered once.
#[test]
fn duplicates_change_nothing() {
    let mut three = backup();
    let p = proposal(0, 1, &[1]);
    let (_, digest) = three.0.tip.extend(chain(), &p);
    three.commit(0, &p);
    let mut effects = three.prepare(0, &p);
    effects.extend(three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Commit, 0, 1, digest))));
    assert!(broadcasts(&effects).is_empty() && deliveries(&effects).is_empty());
    assert!(records(&effects).is_empty() && accused(&effects).is_empty());
}

/// Three equal commits of one replica are one commit.
#[test]
fn one_replica_is_no_quorum() {
    let mut three = backup();
    let p = proposal(0, 1, &[1]);
    three.prepare(0, &p);
    let (_, digest) = three.0.tip.extend(chain(), &p);
    let effects = three.receive_all([1, 1, 1].map(|i| vote(i, Phase::Commit, 0, 1, digest)));
    assert!(deliveries(&effects).is_empty());
}

/// An idle primary proposes a null request after its time; it is agreed on and makes no block.
#[test]
fn null_request_fills_an_idle_time() {
    let mut idle = setup(4, 0);
    idle.tuning.null_request_ms = 100;
    let mut zero = Solo::new(idle);
    let effects = zero.step(Input::TimerFired(Timer::NullRequest));
    let null = Proposal::null(SequenceNumber(1));
    assert!(matches!(&broadcasts(&effects)[0],
        Message::PrePrepare { proposal, .. } if *proposal == null));
    assert!(effects.contains(&Effect::Arm { timer: Timer::NullRequest, after_ms: 100 }));
    let mut three = backup();
    let effects = three.commit(0, &null);
    assert_eq!(deliveries(&effects)[0].proposal, null);
    assert_eq!(three.0.tip.height.0, 0);
}

/// What waits for execution is bounded by the window, however fast agreement is.
#[test]
fn slow_execution_holds_delivery_back() {
    let mut three = backup();
    for n in 1..=8 {
        three.commit(0, &proposal(0, n, &[n]));
    }
    assert_eq!(three.0.tip.sequence.0, 8);
    let state = Digest::of(&[b"state"]);
    three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Checkpoint, 0, 4, state)));
    let effects = three.commit(0, &proposal(0, 9, &[9]));
    assert!(deliveries(&effects).is_empty(), "nothing is executed yet");
}
