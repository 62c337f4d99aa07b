//! Steps of status, retransmission and catch-up.

use bytes::Bytes;

use super::words::*;
use crate::consensus::Effect;
use crate::consensus::Input;
use crate::consensus::Timer;
use crate::consensus::pbft::message::Message;
use crate::consensus::pbft::message::Status;
use crate::types::certificate::QuorumCertificate;
use crate::types::digest::Digest;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::proposal::Proposal;
use crate::types::vote::Phase;

fn status(view: u64, delivered: u64, stable: u64) -> Status {
    Status {
        view: View(view),
        active: true,
        delivered: SequenceNumber(delivered),
        stable: SequenceNumber(stable),
        ask: ReplicaId(3),
        answer: false,
        held: Bytes::new(),
        waiting: Vec::new(),
    }
}

fn says(sender: u16, status: Status) -> crate::consensus::Envelope {
    message(sender, &Message::Status(status))
}

/// Messages for replica 2 among the effects.
fn sent(effects: &[Effect]) -> Vec<Message> {
    let all = effects.iter().filter_map(|e| match e {
        Effect::Send { to, message } if to.0 == 2 => Some(decode(message)),
        Effect::Forward { to, message } if to.0 == 2 => {
            Some(Message::from_body(&message.body).unwrap().1)
        }
        _ => None,
    });
    all.collect()
}

fn targets(effects: &[Effect]) -> Vec<(u64, Vec<u16>)> {
    let all = effects.iter().filter_map(|e| match e {
        Effect::CatchUp { sequence, from } => {
            Some((sequence.0, from.iter().map(|r| r.0).collect()))
        }
        _ => None,
    });
    all.collect()
}

/// A laggard gets the committed proposals it misses, and delivers them with their proof.
#[test]
fn laggard_gets_committed_proposals() {
    let mut three = Solo::new(setup(4, 3));
    for n in 1..=3 {
        three.commit(0, &proposal(0, n, &[n]));
    }
    let answer = sent(&three.receive(says(2, status(0, 1, 0))));
    let committed: Vec<Message> =
        answer.into_iter().filter(|m| matches!(m, Message::Committed { .. })).collect();
    assert_eq!(committed.len(), 2);
    let mut two = Solo::new(setup(4, 2));
    two.commit(0, &proposal(0, 1, &[1]));
    let mut effects = Vec::new();
    for m in committed.iter().rev() {
        effects.extend(two.receive(message(3, m)));
    }
    assert!(effects.iter().any(|e| matches!(e, Effect::FetchBatch { .. })));
    assert!(deliveries(&effects).is_empty(), "bodies first");
    effects.extend(two.step(Input::BatchAvailable(batch(2))));
    effects.extend(two.step(Input::BatchAvailable(batch(3))));
    assert_eq!(deliveries(&effects).len(), 2);
    assert_eq!(two.0.tip, three.0.tip);
}

/// A committed message with a proposal that its certificate does not fit is not delivered.
#[test]
fn committed_message_must_fit_the_chain() {
    let mut two = Solo::new(setup(4, 2));
    two.has(&[1, 2]);
    let (_, digest) = two.0.tip.extend(chain(), &proposal(0, 1, &[1]));
    let certificate = certificate(Phase::Commit, 0, 1, digest);
    let forged = Message::Committed { proposal: proposal(0, 1, &[2]), certificate };
    assert!(deliveries(&two.receive(message(3, &forged))).is_empty());
    assert!(two.0.finals.is_empty());
}

/// Signatures below a quorum, of one replica many times, or of a stranger, prove nothing: neither
/// a committed proposal nor a stable checkpoint.
#[test]
fn certificates_below_a_quorum_prove_nothing() {
    let p = proposal(0, 1, &[1]);
    let (_, commit) = setup(4, 2).tip.extend(chain(), &p);
    let state = Digest::of(&[b"state"]);
    for signers in [vec![], vec![0, 1], vec![0, 1, 1], vec![0, 1, 4]] {
        let signed = |phase, n, digest| QuorumCertificate {
            signatures: signers.iter().map(|i| (ReplicaId(*i), signature(*i))).collect(),
            ..certificate(phase, 0, n, digest)
        };
        let mut two = Solo::new(setup(4, 2));
        two.has(&[1]);
        let certificate = signed(Phase::Commit, 1, commit);
        let committed = Message::Committed { proposal: p.clone(), certificate };
        assert!(deliveries(&two.receive(message(3, &committed))).is_empty(), "{signers:?}");
        two.receive(message(3, &Message::Stable(signed(Phase::Checkpoint, 4, state))));
        assert_eq!(two.0.log.low().0, 0, "{signers:?}");
    }
}

/// Only two replicas send bulk in answer; all send their own votes, signed as they were.
#[test]
fn votes_come_from_all_and_bulk_from_two() {
    let mut three = Solo::new(setup(4, 3));
    let p = proposal(0, 1, &[1]);
    let own = three.prepare(0, &p);
    three.loopback(&own);
    let mut asking = status(0, 0, 0);
    asking.ask = ReplicaId(0);
    let answer = sent(&three.receive(says(2, asking)));
    let phases: Vec<Phase> = answer
        .iter()
        .filter_map(|m| match m {
            Message::Vote(vote) => Some(vote.slot.phase),
            _ => None,
        })
        .collect();
    assert_eq!(phases, [Phase::Prepare, Phase::Commit]);
    assert!(answer.iter().any(|m| matches!(m, Message::PrePrepare { .. })), "0 may hide it");
    assert!(!answer.iter().any(|m| matches!(m, Message::Committed { .. })));
}

/// A status is answered by a status once; an answer is not answered.
#[test]
fn answers_are_not_answered() {
    let mut three = Solo::new(setup(4, 3));
    let answer = sent(&three.receive(says(2, status(0, 0, 0))));
    assert!(matches!(&answer[..], [Message::Status(s)] if s.answer));
    let mut last = status(0, 0, 0);
    last.answer = true;
    assert!(sent(&three.receive(says(2, last))).is_empty());
}

/// A replica in a lower view, or waiting for this one, gets the new-view.
#[test]
fn lower_view_gets_the_new_view() {
    let demands = [0, 1, 2].map(|i| view_change(i, 1, 0, Vec::new()));
    let mut three = Solo::new(setup(4, 3));
    three.receive(new_view(1, &demands, &[]));
    let answer = sent(&three.receive(says(2, status(0, 0, 0))));
    assert!(answer.iter().any(|m| matches!(m, Message::NewView(_))));
    let mut waiting = status(1, 0, 0);
    waiting.active = false;
    let answer = sent(&three.receive(says(2, waiting)));
    assert!(answer.iter().any(|m| matches!(m, Message::NewView(_))));
    let answer = sent(&three.receive(says(2, status(1, 0, 0))));
    assert!(!answer.iter().any(|m| matches!(m, Message::NewView(_))));
}

/// Stuck at H because checkpoint votes were lost: the certificate comes with a status.
#[test]
fn lost_checkpoint_votes_are_repaired() {
    let mut three = Solo::new(setup(4, 3));
    let state = Digest::of(&[b"state"]);
    three.receive_all([0, 1, 2].map(|i| vote(i, Phase::Checkpoint, 0, 4, state)));
    let answer = sent(&three.receive(says(2, status(0, 8, 0))));
    let proof = answer.iter().find(|m| matches!(m, Message::Stable(_))).expect("the proof");
    let mut two = Solo::new(setup(4, 2));
    let undue = certificate(Phase::Checkpoint, 0, 3, state);
    two.receive(message(3, &Message::Stable(undue)));
    assert_eq!(two.0.log.low().0, 0, "no checkpoint is due there");
    two.receive(message(3, proof));
    assert_eq!(two.0.log.low().0, 4);
}

/// f+1 replicas that say they are ahead are believed as far as f+1 of them are; one alone is tried
/// a few times, one step at a time.
#[test]
fn catch_up_follows_proof_not_claims() {
    let mut three = Solo::new(setup(4, 3));
    let mut claims = 0;
    for _ in 0..20 {
        three.receive(says(0, status(0, u64::MAX, 0)));
        let effects = three.step(Input::TimerFired(Timer::Retransmit));
        assert!(targets(&effects).iter().all(|t| *t == (1, vec![0])));
        claims += targets(&effects).len();
    }
    assert_eq!(claims, 4);
    three.receive(says(1, status(0, 7, 0)));
    let effects = three.step(Input::TimerFired(Timer::Retransmit));
    assert_eq!(targets(&effects), [(7, vec![0, 1])]);
}

/// The primary gets batches that others wait for and it never saw.
#[test]
fn primary_fetches_what_others_wait_for() {
    let mut zero = Solo::new(setup(4, 0));
    let mut asking = status(0, 0, 0);
    asking.waiting = vec![batch(5).id];
    let effects = zero.receive(says(2, asking));
    let fetch = Effect::FetchBatch { id: batch(5).id, from: vec![ReplicaId(2)] };
    assert!(effects.contains(&fetch));
}

/// After a long idle time a null request far above proves that nothing lies between.
#[test]
fn null_requests_nobody_holds_are_skipped() {
    let mut three = Solo::new(setup(4, 3));
    let one = proposal(0, 1, &[1]);
    three.execute(0, &one);
    let null = Proposal::null(SequenceNumber(500));
    let (_, digest) = three.0.tip.extend(chain(), &null);
    let proof = Message::Committed {
        proposal: null.clone(),
        certificate: certificate(Phase::Commit, 0, 500, digest),
    };
    three.receive(message(0, &proof));
    three.receive(says(0, status(0, 500, 0)));
    let mut delivered = Vec::new();
    for _ in 0..8 {
        delivered.extend(deliveries(&three.step(Input::TimerFired(Timer::Retransmit))));
    }
    assert_eq!(delivered.len(), 1);
    assert_eq!(delivered[0].proposal, null);
    let mut other = Solo::new(setup(4, 3));
    other.receive(message(0, &proof));
    assert!(other.0.null_ahead.is_none(), "it holds another last block");
}

/// A block came after the proof that there was none: the proof was about another last block.
#[test]
fn null_request_over_another_block_is_not_skipped_to() {
    let mut three = Solo::new(setup(4, 3));
    three.execute(0, &proposal(0, 1, &[1]));
    let null = Proposal::null(SequenceNumber(500));
    let (_, digest) = three.0.tip.extend(chain(), &null);
    let certificate = certificate(Phase::Commit, 0, 500, digest);
    three.receive(message(0, &Message::Committed { proposal: null, certificate }));
    assert!(three.0.null_ahead.is_some());
    three.execute(0, &proposal(0, 2, &[2]));
    three.receive(says(0, status(0, 500, 0)));
    for _ in 0..8 {
        assert!(deliveries(&three.step(Input::TimerFired(Timer::Retransmit))).is_empty());
    }
    assert_eq!(three.0.tip.sequence.0, 2);
}

/// Fetched blocks move the tip, their batches leave custody, and older or equal ones are nothing.
#[test]
fn restored_moves_the_tip_forward_only() {
    let mut three = Solo::new(setup(4, 3));
    three.has(&[1, 2]);
    let tip = three.0.tip.extend(chain(), &proposal(0, 1, &[1])).0;
    three.step(Input::BatchesCommitted(vec![batch(1).id]));
    three.step(Input::Restored { tip, checkpoint: state_digest(&tip) });
    assert_eq!((three.0.tip, three.0.batches.len()), (tip, 1));
    let genesis = setup(4, 3).tip;
    three.step(Input::Restored { tip: genesis, checkpoint: Digest::ZERO });
    assert_eq!(three.0.tip, tip);
    let effects = three.commit(0, &proposal(0, 2, &[2]));
    assert_eq!(deliveries(&effects).len(), 1, "the pipe goes on above");
}

/// A primary that proposes in a view others left is told where they stand, and answers no more.
#[test]
fn primary_of_a_past_view_is_told() {
    let mut three = Solo::new(setup(4, 3));
    let demands = [0, 1, 2].map(|i| view_change(i, 3, 0, Vec::new()));
    three.receive(new_view(3, &demands, &[]));
    let effects = three.receive(pre_prepare(2, &Proposal::null(SequenceNumber(1))));
    let told = sent(&effects);
    let [Message::Status(status)] = told.as_slice() else { panic!("one status, not {told:?}") };
    assert_eq!((status.view, status.active, status.answer), (View(3), true, true));
    let effects = three.receive(message(
        1,
        &Message::PrePrepare { view: View(2), proposal: Proposal::null(SequenceNumber(1)) },
    ));
    assert!(effects.is_empty(), "who is not that view's primary is not answered");
}

/// Who sees f+1 others vote in a higher view asks for that view, though nothing else is missing.
#[test]
fn replica_in_a_past_view_asks_for_the_present_one() {
    let mut two = Solo::new(setup(4, 2));
    let null = Proposal::null(SequenceNumber(1)).digest(&chain());
    let first = two.receive(vote(1, Phase::Prepare, 3, 1, null));
    assert!(!arms_retransmission(&first), "one replica alone may lie");
    let second = two.receive(vote(3, Phase::Prepare, 3, 1, null));
    assert!(arms_retransmission(&second));
    two.receive(vote(0, Phase::Prepare, 0, 1, null));
    let tick = broadcasts(&two.step(Input::TimerFired(Timer::Retransmit)));
    assert!(tick.iter().any(|m| matches!(m, Message::Status(s) if s.view == View(0))));
}

/// A silent network: the others may be in another view whose primary is silent too, and nobody
/// would speak first. A backup asks after several null requests did not come, and only then.
#[test]
fn backup_asks_in_silence() {
    let mut idle = setup(4, 2);
    idle.tuning.null_request_ms = 100;
    let mut two = Solo::new(idle);
    let asks = |effects: &[Effect]| {
        broadcasts(effects).iter().any(|m| matches!(m, Message::Status(s) if !s.answer))
    };
    let fired = |two: &mut Solo| two.step(Input::TimerFired(Timer::NullRequest));
    two.commit(0, &Proposal::null(SequenceNumber(1)));
    let heard = fired(&mut two);
    assert!(!asks(&heard), "something was delivered");
    assert!(heard.contains(&Effect::Arm { timer: Timer::NullRequest, after_ms: 300 }));
    let silence = fired(&mut two);
    assert!(asks(&silence));
    assert!(silence.contains(&Effect::Arm { timer: Timer::NullRequest, after_ms: 300 }));
}

fn arms_retransmission(effects: &[Effect]) -> bool {
    effects.iter().any(|e| matches!(e, Effect::Arm { timer: Timer::Retransmit, .. }))
}
