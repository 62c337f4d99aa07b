//! Round trips, limits and refusals of frames.

use proptest::prelude::*;

use super::*;
use crate::types::ids::ReplicaId;
use crate::types::signature::Signature;

fn chain(name: &str) -> ChainId {
    ChainId(Digest::of(&[name.as_bytes()]))
}

fn through(sent: Vec<Message>, class: Class) -> Result<Vec<Message>, FrameError> {
    let frame = messages(sent.into_iter().map(Outgoing::from).collect());
    accept_messages(decode(Bytes::from(frame.encode_to_vec()))?, class)
}

fn vote(len: usize) -> Message {
    Message::Consensus(envelope(len))
}

fn envelope(len: usize) -> Envelope {
    Envelope {
        sender: ReplicaId(3),
        body: Bytes::from(vec![7; len]),
        signature: Signature([9; 64]).into(),
    }
}

/// Every kind of message survives the way there unchanged.
#[test]
fn messages_round_trip() {
    let votes = vec![
        vote(200),
        Message::BatchRequest(BatchId(Digest::of(&[b"batch"]))),
        Message::Tip { height: Height(0) },
        Message::Tip { height: Height(u64::MAX) },
        Message::BlocksRequest { from: Height(7) },
        Message::WitnessRequest,
    ];
    assert_eq!(through(votes.clone(), Class::Vote).unwrap(), votes);
    let data = vec![
        Message::Batch(Bytes::from(vec![1; 100_000])),
        Message::Blocks { from: Height(1), blocks: vec![] },
        Message::Blocks { from: Height(9), blocks: vec![Bytes::from_static(b"a"); 32] },
        Message::Witness(vec![]),
        Message::Witness(vec![envelope(57); limits::WITNESS_ENVELOPES_MAX]),
    ];
    assert_eq!(through(data.clone(), Class::Data).unwrap(), data);
}

/// The size that queues book is never below what travels.
#[test]
fn booked_size_covers_the_wire() {
    for message in [
        vote(0),
        vote(20_000),
        Message::Tip { height: Height(u64::MAX) },
        Message::Blocks { from: Height(9), blocks: vec![Bytes::from(vec![0; 300]); 32] },
        Message::WitnessRequest,
        Message::Witness(vec![envelope(300); limits::WITNESS_ENVELOPES_MAX]),
    ] {
        let out = Outgoing::from(message);
        let booked = out.bytes;
        assert!(messages(vec![out]).encoded_len() <= booked);
    }
}

/// Blocks that exceed a frame are cut to a prefix that fits.
#[test]
fn blocks_are_cut_to_the_frame() {
    let block = Bytes::from(vec![0; 5 * 1024 * 1024]);
    let out = Outgoing::from(Message::Blocks { from: Height(4), blocks: vec![block; 9] });
    let frame = messages(vec![out]);
    assert!(frame.encoded_len() <= limits::FRAME_BYTES_MAX);
    let Some(Body::Blocks(blocks)) = &frame.messages[0].body else { panic!() };
    assert_eq!(blocks.blocks.len(), 6);
}

/// The hello of the same chain and version is accepted; others are refused with both values.
#[test]
fn hello_names_both_values() {
    let ours = chain("ours");
    for class in [Class::Vote, Class::Data] {
        assert_eq!(accept_hello(&hello(&ours, class), &ours), Ok(class));
    }
    let text = accept_hello(&hello(&chain("x"), Class::Vote), &ours).unwrap_err().to_string();
    assert!(text.contains(&ours.to_string()) && text.contains(&chain("x").to_string()), "{text}");
    let mut other = hello(&ours, Class::Vote);
    other.hello.as_mut().unwrap().protocol = 99;
    let text = accept_hello(&other, &ours).unwrap_err().to_string();
    assert!(text.contains("99") && text.contains(&PROTOCOL_VERSION.to_string()), "{text}");
    let mut classless = hello(&ours, Class::Vote);
    classless.hello.as_mut().unwrap().traffic_class = 7;
    assert!(accept_hello(&classless, &ours).is_err());
    assert_eq!(
        accept_hello(&messages(vec![]), &ours),
        Err(FrameError::HelloOutOfPlace("is missing"))
    );
}

/// A message kind of a later version is refused, not skipped.
#[test]
fn unknown_kind_is_refused() {
    // Frame { messages: Message { field 15: bytes "x" } }
    let bytes = Bytes::from_static(&[0x12, 0x03, 0x7a, 0x01, b'x']);
    let frame = decode(bytes).unwrap();
    assert_eq!(accept_messages(frame, Class::Vote), Err(FrameError::UnknownMessage));
    // Frame { field 9: 1 }
    assert!(decode(Bytes::from_static(&[0x48, 0x01])).is_err());
}

/// Lists of empty items, cheap to send and dear to build, are refused before they are built.
#[test]
fn lists_are_counted_before_they_are_built() {
    let flood = Bytes::from([0x12, 0x00].repeat(limits::FRAME_MESSAGES_MAX + 1));
    assert!(matches!(decode(flood), Err(FrameError::Malformed(_))));
    for (field, items) in
        [(0x32, limits::CATCH_UP_BLOCKS_MAX + 2), (0x42, limits::WITNESS_ENVELOPES_MAX + 1)]
    {
        let inner = [0x12, 0x00].repeat(items);
        let mut message = vec![field, u8::try_from(inner.len()).unwrap()];
        message.extend(&inner);
        let mut frame = vec![0x12, u8::try_from(message.len()).unwrap()];
        frame.extend(&message);
        let refused = decode(Bytes::from(frame)).unwrap_err();
        assert!(refused.to_string().contains("too many blocks or votes"), "{refused}");
    }
    let huge = Bytes::from(vec![0; limits::FRAME_BYTES_MAX + 1]);
    assert!(matches!(decode(huge), Err(FrameError::TooLarge { .. })));
}

/// Class, size and place of messages are checked.
#[test]
fn misplaced_messages_are_refused() {
    let tip = Message::Tip { height: Height(1) };
    assert!(matches!(through(vec![tip], Class::Data), Err(FrameError::WrongClass { .. })));
    let batch = Message::Batch(Bytes::from(vec![0; limits::BATCH_BYTES_MAX + 1]));
    assert!(matches!(through(vec![batch], Class::Data), Err(FrameError::TooLarge { .. })));
    let again = hello(&chain("ours"), Class::Vote);
    assert!(accept_messages(again, Class::Vote).is_err());
}

/// A kept vote does not keep the buffer of a whole frame.
#[test]
fn small_bodies_have_their_own_memory() {
    let frame = messages(vec![Outgoing::from(vote(100)), Outgoing::from(vote(50_000))]);
    let bytes = Bytes::from(frame.encode_to_vec());
    let range = bytes.as_ptr_range();
    let accepted = accept_messages(decode(bytes.clone()).unwrap(), Class::Vote).unwrap();
    let inside: Vec<bool> = accepted
        .iter()
        .map(|m| match m {
            Message::Consensus(e) => range.contains(&e.body.as_ptr()),
            _ => panic!(),
        })
        .collect();
    assert_eq!(inside, [false, true]);
}

proptest! {
    /// No bytes panic the decoder.
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(frame) = decode(Bytes::from(bytes)) {
            let _ = accept_messages(frame, Class::Vote);
        }
    }

    /// Damaged frames are refused or decode to something, without a panic.
    #[test]
    fn damaged_frames_are_survived(at in 0_usize..300, bit in 0_u8..8) {
        let frame = messages(vec![
            Outgoing::from(vote(100)),
            Outgoing::from(Message::BatchRequest(BatchId::default())),
            Outgoing::from(Message::Tip { height: Height(300) }),
        ]);
        let mut bytes = frame.encode_to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(frame) = decode(Bytes::from(bytes)) {
            let _ = accept_messages(frame, Class::Vote);
        }
    }
}
