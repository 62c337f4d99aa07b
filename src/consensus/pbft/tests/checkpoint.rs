//! Steps of checkpoints.

use super::words::*;
use crate::consensus::Effect;
use crate::consensus::Executed;
use crate::consensus::Input;
use crate::types::digest::Digest;
use crate::types::ids::SequenceNumber;
use crate::types::vote::Phase;

/// Replica 3 with 1 to `n` delivered and executed.
fn executed(n: u64) -> (Solo, Vec<Effect>) {
    let mut three = Solo::new(setup(4, 3));
    let effects = (1..=n).flat_map(|i| three.execute(0, &proposal(0, i, &[i]))).collect();
    (three, effects)
}

/// The vote names the executed sequence number, not the agreed one; a quorum moves h and H.
///
/// ```text
/// executed 4 -> CHECKPOINT(4)     checkpoint(4) x 3 -> h = 4, H = 12, log below forgotten
/// ```
#[test]
fn quorum_of_checkpoints_moves_the_watermarks() {
    let (mut three, effects) = executed(5);
    let own = votes(&effects, Phase::Checkpoint);
    assert_eq!(own.len(), 1);
    assert_eq!(own[0].slot.sequence.0, 4);
    let effects =
        three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Checkpoint, 0, 4, own[0].digest)));
    assert!(effects.iter().any(|e| matches!(e, Effect::Compact(_))));
    assert_eq!((three.0.log.low().0, three.0.log.high().0), (4, 12));
    assert!(three.0.log.entries().all(|(n, _)| n.0 > 4));
    assert!(three.0.checkpoints.votes.is_empty());
}

/// Agreement ahead of execution: the digest belongs to the sequence number executed.
#[test]
fn checkpoint_follows_execution_not_agreement() {
    let mut three = Solo::new(setup(4, 3));
    for n in 1..=7 {
        three.commit(0, &proposal(0, n, &[n]));
    }
    let checkpoint = Digest::of(&[b"after four"]);
    let effects = three.step(Input::Executed(Executed { sequence: SequenceNumber(4), checkpoint }));
    let own = votes(&effects, Phase::Checkpoint);
    assert_eq!((own[0].slot.sequence.0, own[0].digest), (4, checkpoint));
}

/// Votes with different digests, or of one replica many times, make no checkpoint.
#[test]
fn different_digests_are_no_quorum() {
    let (mut three, _) = executed(4);
    for (i, text) in [b"a", b"b", b"c"].into_iter().enumerate() {
        let sender = u16::try_from(i).unwrap();
        three.receive(vote(sender, Phase::Checkpoint, 0, 4, Digest::of(&[text])));
    }
    assert_eq!(three.0.log.low().0, 0);
    let effects = three.receive(vote(0, Phase::Checkpoint, 0, 4, Digest::of(&[b"z"])));
    assert_eq!(accused(&effects), [0]);
}

/// Another digest than a quorum's: said once, no commit votes until restored, then they resume.
///
/// ```text
/// own(4) = x   checkpoint(4, y) x 3 -> Diverged, CatchUp     Restored(4) -> votes again
/// ```
#[test]
fn diverged_replica_stops_voting_until_restored() {
    let (mut three, _) = executed(4);
    let other = Digest::of(&[b"another state"]);
    let effects = three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Checkpoint, 0, 4, other)));
    assert!(effects.iter().any(|e| matches!(e, Effect::Diverged { .. })));
    assert!(effects.iter().any(|e| matches!(e, Effect::CatchUp { .. })));
    let effects = three.commit(0, &proposal(0, 5, &[5]));
    assert!(votes(&effects, Phase::Commit).is_empty());
    assert_eq!(deliveries(&effects).len(), 1, "order is still followed");
    let tip = three.0.tip;
    three.step(Input::Restored { tip, checkpoint: state_digest(&tip) });
    let effects = three.prepare(0, &proposal(0, 6, &[6]));
    assert_eq!(votes(&effects, Phase::Commit).len(), 1);
}

/// The quorum's certificate comes before this replica executed that far: compared then.
#[test]
fn divergence_is_noticed_after_late_execution() {
    let mut three = Solo::new(setup(4, 3));
    for n in 1..=4 {
        three.commit(0, &proposal(0, n, &[n]));
    }
    let state = Digest::of(&[b"the quorum's state"]);
    three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Checkpoint, 0, 4, state)));
    let checkpoint = Digest::of(&[b"mine"]);
    let effects = three.step(Input::Executed(Executed { sequence: SequenceNumber(4), checkpoint }));
    assert!(effects.iter().any(|e| matches!(e, Effect::Diverged { .. })));
}

/// A restored replica's own vote above H counts once the watermark has moved.
#[test]
fn own_vote_above_the_watermark_is_cast_again() {
    let mut three = Solo::new(setup(4, 3));
    let mut tip = three.0.tip;
    for n in 1..=12 {
        tip = tip.extend(chain(), &proposal(0, n, &[n])).0;
    }
    let effects = three.step(Input::Restored { tip, checkpoint: state_digest(&tip) });
    assert_eq!(votes(&effects, Phase::Checkpoint).len(), 1);
    three.loopback(&effects);
    assert!(three.0.checkpoints.votes.is_empty(), "above H");
    let state = Digest::of(&[b"after eight"]);
    let effects = three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Checkpoint, 0, 8, state)));
    assert_eq!(votes(&effects, Phase::Checkpoint)[0].slot.sequence.0, 12);
}

/// A stable checkpoint far beyond the log asks for blocks at once; a near one waits for the log.
#[test]
fn far_checkpoint_asks_for_blocks() {
    let mut three = Solo::new(setup(4, 3));
    let state = Digest::of(&[b"state"]);
    let effects = three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Checkpoint, 0, 4, state)));
    assert!(!effects.iter().any(|e| matches!(e, Effect::CatchUp { .. })));
    three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Checkpoint, 0, 8, state)));
    let effects = three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Checkpoint, 0, 12, state)));
    let asked = effects.iter().find_map(|e| match e {
        Effect::CatchUp { sequence, from } => Some((sequence.0, from.len())),
        _ => None,
    });
    assert_eq!(asked, Some((12, 3)));
}
