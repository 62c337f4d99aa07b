//! Bytes from outside: every message reads back, and no bytes panic.

use bytes::Bytes;
use proptest::prelude::*;

use super::words::*;
use crate::consensus::pbft::PLUGIN;
use crate::consensus::pbft::message::Message;
use crate::consensus::pbft::message::Status;
use crate::types::digest::Digest;
use crate::types::ids::Epoch;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::vote::Phase;

fn samples() -> Vec<crate::consensus::Envelope> {
    let one = proposal(0, 1, &[1, 2]);
    let demands = [0, 1, 2].map(|i| view_change(i, 1, 4, vec![prepared(0, &proposal(0, 5, &[1]))]));
    let status = Status {
        view: View(3),
        active: false,
        delivered: SequenceNumber(7),
        stable: SequenceNumber(4),
        ask: ReplicaId(1),
        answer: true,
        held: Bytes::from_static(&[1, 3]),
        waiting: vec![batch(1).id],
    };
    let commit = certificate(Phase::Commit, 0, 1, Digest::of(&[b"block"]));
    let checkpoint = certificate(Phase::Checkpoint, 0, 4, Digest::of(&[b"state"]));
    vec![
        vote(1, Phase::Prepare, 2, 3, Digest::of(&[b"x"])),
        vote(1, Phase::Checkpoint, 0, 4, Digest::of(&[b"x"])),
        pre_prepare(0, &one),
        demands[0].clone(),
        new_view(1, &demands, &[proposal(0, 5, &[1])]),
        message(1, &Message::Status(status)),
        message(1, &Message::Stable(checkpoint)),
        message(1, &Message::Committed { proposal: one, certificate: commit }),
    ]
}

/// Encoding and decoding are inverse for every kind of message.
#[test]
fn messages_round_trip() {
    for envelope in samples() {
        let (epoch, message) = Message::from_body(&envelope.body).unwrap();
        assert_eq!(message.to_body(epoch), envelope.body);
        assert_eq!(epoch, Epoch(0));
    }
}

/// The slot of a message is that of the draft it was signed as; what fills none has none.
#[test]
fn slots_are_read_from_the_bodies() {
    let slot = |e: &crate::consensus::Envelope| (PLUGIN.slot)(Epoch(0), e);
    let phases: Vec<_> = samples().iter().map(|e| slot(e).map(|slot| slot.phase)).collect();
    let fills =
        [Phase::Prepare, Phase::Checkpoint, Phase::PrePrepare, Phase::ViewChange, Phase::NewView];
    assert_eq!(phases[..5], fills.map(Some));
    assert_eq!(phases[5..], [None; 3]);
    assert!(samples().iter().all(|e| (PLUGIN.slot)(Epoch(1), e).is_none()));
}

/// Claims list the outer signature first and every nested one once.
#[test]
fn claims_list_every_signature_once() {
    let counts: Vec<usize> =
        samples().iter().map(|e| (PLUGIN.claims)(&chain(), e).unwrap().len()).collect();
    // The new-view's three view-changes share their certificates: 1 + 3 + 3 + 3.
    assert_eq!(counts, [1, 1, 1, 7, 10, 1, 4, 4]);
    for envelope in samples() {
        let claims = (PLUGIN.claims)(&chain(), &envelope).unwrap();
        let own = (claims[0].replica, &claims[0].signature);
        assert_eq!(own, (envelope.sender, &envelope.signature));
    }
}

/// A vote with a phase of another message, or a checkpoint with a view, is malformed.
#[test]
fn misplaced_phases_are_malformed() {
    for phase in [Phase::PrePrepare, Phase::ViewChange, Phase::NewView] {
        let envelope = vote(1, phase, 0, 1, Digest::ZERO);
        assert!((PLUGIN.claims)(&chain(), &envelope).is_err());
    }
    assert!((PLUGIN.claims)(&chain(), &vote(1, Phase::Checkpoint, 1, 4, Digest::ZERO)).is_err());
}

/// Every cut of every message is an error.
#[test]
fn cut_messages_are_errors() {
    for envelope in samples() {
        for len in 0..envelope.body.len() {
            assert!(Message::from_body(&envelope.body.slice(..len)).is_err());
        }
    }
}

/// A message has one encoding: whatever a changed byte makes of it is refused, or means exactly
/// these bytes.
#[test]
fn changed_messages_are_refused_or_mean_their_bytes() {
    for envelope in samples() {
        for at in 0..envelope.body.len() {
            for change in [0x01, 0x80, 0xff, envelope.body[at]] {
                let mut bytes = envelope.body.to_vec();
                bytes[at] ^= change;
                let body = Bytes::from(bytes);
                if let Ok((epoch, message)) = Message::from_body(&body) {
                    assert_eq!(message.to_body(epoch), body, "byte {at} of {message:?}");
                }
            }
        }
    }
}

proptest! {
    /// Changed bytes decode to an error or a message, and a core takes whatever decodes.
    #[test]
    fn changed_bytes_never_panic(
        which in 0usize..8,
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        sender in 0u16..6,
    ) {
        let mut envelope = samples().swap_remove(which);
        let mut bytes = envelope.body.to_vec();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        envelope.body = Bytes::from(bytes);
        envelope.sender = ReplicaId(sender);
        let _ = (PLUGIN.claims)(&chain(), &envelope);
        let mut three = Solo::new(setup(4, 3));
        three.receive(envelope.clone());
        three.receive(envelope);
    }

    /// Arbitrary bytes decode to an error or a message.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::from_body(&Bytes::from(bytes));
    }
}
