//! The signer's protocol: one frame in, one frame out, over a local socket.
//!
//! ```text
//! frame     u32 length | body                              (big-endian; length at most the limit)
//! request   version u8 = 3 | deadline_ms u32 | what u8 | fields
//!   1 open       key 32 | chain 32 | has_signed u8         the guard is opened, or made
//!   2 sign       key 32 | list of { option slot | bytes | ahead u8 }  consensus texts, under the guard
//!   3 forget     key 32 | sequence u64                     slots below are refused from now on
//!   4 transport  key 32 | bytes                            one TLS handshake text
//!   5 status                                               what the signer holds and did
//!   6 record     key 32 | opening 16 | call                what others saw of the key
//!     call       0 examine | list of { slot 25 | SHA-256 of the text 32 }
//!                1 fence | sequence u64 | epoch u64 | view u64;  2 settle;  3 stop
//!   7 warnings   key 32                                    what an operator should look at
//! reply     what u8 | fields
//!   0 refused    string                                    the request as a whole
//!   1 opened     identity 16 | fencing epoch u64 | opening 16 | parallel u16 | bundles u8
//!   2 signed     list of { 0 | vote signature, or tag and reason }
//!   3 forgotten
//!   4 signature  64
//!   5 status     bytes                                     JSON
//!   6 record     standing u8: 0 complete, 1 incomplete, 2 stopped | floor u64
//!   7 warnings   list of strings
//! ```
//!
//! `key` is the SHA-256 of the encoded public key. `opening` is drawn whenever a process opens the
//! guard's log; a call for another one is refused (`guard::standing`). The deadline counts from the
//! arrival of the request: what has not begun by then is not begun. Decoders refuse every other
//! byte sequence with a typed error; nothing is allocated by a claimed length.

use std::io;
use std::io::Read;
use std::io::Write;

use bytes::Bytes;

use crate::signer::SignError;
use crate::signer::SignRequest;
use crate::signer::guard::cleared::Signed;
use crate::signer::guard::standing::Answer;
use crate::signer::guard::standing::Opening;
use crate::signer::guard::standing::RecordCall;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::ids::SequenceNumber;
use crate::types::limits;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;
use crate::types::vote::Slot;
use crate::types::vote_signature::VoteSignature;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Milliseconds from arrival within which the work must begin.
    pub deadline_ms: u32,
    /// The question.
    pub ask: Ask,
}

/// The questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Opens a validator's guard; `has_signed` is what the node's own data says.
    Open { key: Digest, chain: ChainId, has_signed: bool },
    /// Signs consensus texts.
    Sign { key: Digest, requests: Vec<SignRequest> },
    /// Forgets slots.
    Forget { key: Digest, sequence: SequenceNumber },
    /// Signs one text of a TLS handshake.
    Transport { key: Digest, text: Bytes },
    /// Asks for the state.
    Status,
    /// Says what others saw of a validator's key.
    Record { key: Digest, opening: Opening, call: RecordCall },
    /// Asks what an operator should look at, of one key.
    Warnings { key: Digest },
}

/// What the signer answers.
#[derive(Debug)]
pub enum Reply {
    /// The request as a whole was refused.
    Refused(String),
    /// The guard is open; so many requests may well be under way at once, and one signature stands for
    /// all texts of a request or not.
    Opened {
        identity: [u8; 16],
        fencing_epoch: u64,
        opening: Opening,
        parallel: u16,
        bundles: bool,
    },
    /// One result per text.
    Signed(Signed),
    /// The slots are forgotten.
    Forgotten,
    /// A signature of a transport key.
    Signature(Signature),
    /// JSON.
    Status(Bytes),
    /// How the record stands.
    Record(Answer),
    /// Sentences.
    Warnings(Vec<String>),
}

/// Names a key in requests.
pub fn name_of(key: &PublicKey) -> Digest {
    Digest::of(&[&key.to_bytes()])
}

/// Writes one frame.
pub fn write_frame(stream: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let len = u32::try_from(body.len()).ok().filter(|len| *len as usize <= FRAME_BYTES_MAX);
    let len = len.ok_or_else(|| io::Error::other("the frame is larger than the limit"))?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&len.to_be_bytes());
    frame.extend_from_slice(body);
    stream.write_all(&frame)?;
    stream.flush()
}

/// Reads one frame; `None` where the other side ended the connection between frames.
pub fn read_frame(stream: &mut impl Read) -> io::Result<Option<Bytes>> {
    let mut len = [0; 4];
    let mut have = 0;
    while have < len.len() {
        match stream.read(&mut len[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let len = u32::from_be_bytes(len) as usize;
    if len > FRAME_BYTES_MAX {
        let text = format!("a frame of {len} bytes, the limit is {FRAME_BYTES_MAX}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    // Grows with the bytes that arrive, not with the length claimed.
    let mut body = Vec::with_capacity(len.min(FIRST_READ_BYTES));
    if stream.take(len as u64).read_to_end(&mut body)? < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(body.into()))
}

impl Encode for Request {
    fn encode(&self, w: &mut Writer) {
        w.u8(VERSION);
        w.u32(self.deadline_ms);
        match &self.ask {
            Ask::Open { key, chain, has_signed } => {
                w.u8(OPEN);
                key.encode(w);
                chain.encode(w);
                w.u8(u8::from(*has_signed));
            }
            Ask::Sign { key, requests } => {
                w.u8(SIGN);
                key.encode(w);
                w.list(requests);
            }
            Ask::Forget { key, sequence } => {
                w.u8(FORGET);
                key.encode(w);
                sequence.encode(w);
            }
            Ask::Transport { key, text } => {
                w.u8(TRANSPORT);
                key.encode(w);
                w.bytes(text);
            }
            Ask::Status => w.u8(STATUS),
            Ask::Record { key, opening, call } => {
                w.u8(RECORD);
                key.encode(w);
                opening.encode(w);
                call.encode(w);
            }
            Ask::Warnings { key } => {
                w.u8(WARNINGS);
                key.encode(w);
            }
        }
    }
}

impl Decode for Request {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if r.u8("protocol version")? != VERSION {
            let reason = "another version of the signer's protocol; install one release everywhere";
            return Err(DecodeError::Invalid { field: "protocol version", reason });
        }
        let deadline_ms = r.u32("deadline")?;
        let ask = match r.u8("request")? {
            OPEN => Ask::Open {
                key: Digest::decode(r)?,
                chain: ChainId::decode(r)?,
                has_signed: flag(r, "has signed")?,
            },
            SIGN => Ask::Sign {
                key: Digest::decode(r)?,
                requests: r.list("texts", limits::SIGNER_TEXTS_MAX)?,
            },
            FORGET => Ask::Forget { key: Digest::decode(r)?, sequence: SequenceNumber::decode(r)? },
            TRANSPORT => Ask::Transport {
                key: Digest::decode(r)?,
                text: r.bytes("handshake text", limits::SIGNER_HANDSHAKE_BYTES_MAX)?,
            },
            STATUS => Ask::Status,
            RECORD => Ask::Record {
                key: Digest::decode(r)?,
                opening: Opening::decode(r)?,
                call: RecordCall::decode(r)?,
            },
            WARNINGS => Ask::Warnings { key: Digest::decode(r)? },
            _ => return Err(DecodeError::Invalid { field: "request", reason: "unknown" }),
        };
        Ok(Self { deadline_ms, ask })
    }
}

impl Encode for SignRequest {
    fn encode(&self, w: &mut Writer) {
        w.option(self.slot.as_ref());
        w.bytes(&self.text);
        w.u8(u8::from(self.ahead));
    }
}

impl Decode for SignRequest {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let slot = r.option("slot")?;
        let text = r.bytes("text", limits::CONSENSUS_MESSAGE_BYTES_MAX)?;
        Ok(Self { slot, text, ahead: flag(r, "ahead")? })
    }
}

impl Encode for Reply {
    fn encode(&self, w: &mut Writer) {
        match self {
            Self::Refused(reason) => {
                w.u8(REFUSED);
                w.string(cut(reason));
            }
            Self::Opened { identity, fencing_epoch, opening, parallel, bundles } => {
                w.u8(OPEN);
                w.raw(identity);
                w.u64(*fencing_epoch);
                opening.encode(w);
                w.u16(*parallel);
                w.u8(u8::from(*bundles));
            }
            Self::Signed(results) => {
                w.u8(SIGN);
                w.count(results.len());
                results.iter().for_each(|result| encode_result(result, w));
            }
            Self::Forgotten => w.u8(FORGET),
            Self::Signature(signature) => {
                w.u8(TRANSPORT);
                signature.encode(w);
            }
            Self::Status(json) => {
                w.u8(STATUS);
                w.bytes(json);
            }
            Self::Record(answer) => {
                w.u8(RECORD);
                answer.encode(w);
            }
            Self::Warnings(warnings) => {
                w.u8(WARNINGS);
                w.count(warnings.len().min(limits::SIGNER_WARNINGS_MAX));
                let few = warnings.iter().take(limits::SIGNER_WARNINGS_MAX);
                few.for_each(|warning| w.string(cut(warning)));
            }
        }
    }
}

impl Decode for Reply {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match r.u8("reply")? {
            REFUSED => Self::Refused(reason(r)?),
            OPEN => Self::Opened {
                identity: r.array("identity")?,
                fencing_epoch: r.u64("epoch")?,
                opening: Opening::decode(r)?,
                parallel: r.u16("parallel")?,
                bundles: flag(r, "bundles")?,
            },
            SIGN => {
                let count = r.count("results", limits::SIGNER_TEXTS_MAX)?;
                let mut results = Vec::with_capacity(count.min(r.remaining()));
                for _ in 0..count {
                    results.push(decode_result(r)?);
                }
                Self::Signed(results)
            }
            FORGET => Self::Forgotten,
            TRANSPORT => Self::Signature(Signature::decode(r)?),
            STATUS => Self::Status(r.bytes("status", limits::SIGNER_STATUS_BYTES_MAX)?),
            RECORD => Self::Record(Answer::decode(r)?),
            WARNINGS => {
                let count = r.count("warnings", limits::SIGNER_WARNINGS_MAX)?;
                let mut warnings = Vec::new();
                for _ in 0..count {
                    warnings.push(r.string("warning", REASON_BYTES_MAX)?);
                }
                Self::Warnings(warnings)
            }
            _ => return Err(DecodeError::Invalid { field: "reply", reason: "unknown" }),
        })
    }
}

fn encode_result(result: &Result<VoteSignature, SignError>, w: &mut Writer) {
    match result {
        Ok(signature) => {
            w.u8(0);
            signature.encode(w);
        }
        Err(SignError::Conflict { slot }) => {
            w.u8(1);
            slot.encode(w);
        }
        Err(SignError::Forgotten { slot, floor }) => {
            w.u8(2);
            slot.encode(w);
            floor.encode(w);
        }
        Err(SignError::Mislabelled { .. }) => w.u8(3),
        Err(SignError::Guard { reason }) => {
            w.u8(4);
            w.string(cut(reason));
        }
        Err(SignError::Key { reason }) => {
            w.u8(5);
            w.string(cut(reason));
        }
    }
}

fn decode_result(r: &mut Reader<'_>) -> Result<Result<VoteSignature, SignError>, DecodeError> {
    Ok(match r.u8("result")? {
        0 => Ok(VoteSignature::decode(r)?),
        1 => Err(SignError::Conflict { slot: Slot::decode(r)? }),
        2 => {
            Err(SignError::Forgotten { slot: Slot::decode(r)?, floor: SequenceNumber::decode(r)? })
        }
        3 => Err(SignError::Mislabelled { reason: "slot and text contradict each other" }),
        4 => Err(SignError::Guard { reason: reason(r)? }),
        5 => Err(SignError::Key { reason: reason(r)? }),
        _ => return Err(DecodeError::Invalid { field: "result", reason: "unknown" }),
    })
}

fn reason(r: &mut Reader<'_>) -> Result<String, DecodeError> {
    r.string("reason", REASON_BYTES_MAX)
}

fn flag(r: &mut Reader<'_>, field: &'static str) -> Result<bool, DecodeError> {
    match r.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Invalid { field, reason: "a flag is 0 or 1" }),
    }
}

/// The longest prefix that fits, in whole characters.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

const VERSION: u8 = 3;
const REFUSED: u8 = 0;
const OPEN: u8 = 1;
const SIGN: u8 = 2;
const FORGET: u8 = 3;
const TRANSPORT: u8 = 4;
const STATUS: u8 = 5;
const RECORD: u8 = 6;
const WARNINGS: u8 = 7;

/// One largest consensus text and the fields around it.
const FRAME_BYTES_MAX: usize = limits::FRAME_BYTES_MAX;
const REASON_BYTES_MAX: usize = 1024;
const FIRST_READ_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::guard::format::Floor;
    use crate::signer::guard::standing::Standing;
    use crate::types::ids::Epoch;
    use crate::types::ids::View;
    use crate::types::vote::Phase;

    fn slot() -> Slot {
        let (epoch, view, sequence) = (Epoch(1), View(2), SequenceNumber(3));
        Slot { epoch, view, sequence, phase: Phase::Commit }
    }

    fn requests() -> Vec<Request> {
        let (key, opening) = (Digest([7; 32]), Opening([2; 16]));
        let text = Bytes::from_static(b"text");
        let sign = SignRequest { slot: Some(slot()), text: text.clone(), ahead: true };
        let free = SignRequest { slot: None, text: Bytes::new(), ahead: false };
        [
            Ask::Open { key, chain: ChainId(Digest([1; 32])), has_signed: true },
            Ask::Sign { key, requests: vec![sign, free] },
            Ask::Forget { key, sequence: SequenceNumber(9) },
            Ask::Transport { key, text },
            Ask::Status,
            Ask::Record { key, opening, call: RecordCall::Examine(vec![(slot(), key)]) },
            Ask::Record { key, opening, call: RecordCall::Fence(Floor::default()) },
            Ask::Record { key, opening, call: RecordCall::Settle },
            Ask::Record { key, opening, call: RecordCall::Stop },
            Ask::Warnings { key },
        ]
        .map(|ask| Request { deadline_ms: 500, ask })
        .to_vec()
    }

    fn replies() -> Vec<Reply> {
        let floor = SequenceNumber(4);
        vec![
            Reply::Refused("no such key".into()),
            Reply::Opened {
                identity: [3; 16],
                fencing_epoch: 5,
                opening: Opening([2; 16]),
                parallel: 4,
                bundles: true,
            },
            Reply::Signed(vec![
                Ok(Signature([6; 64]).into()),
                Err(SignError::Conflict { slot: slot() }),
                Err(SignError::Forgotten { slot: slot(), floor }),
                Err(SignError::Mislabelled { reason: "slot and text contradict each other" }),
                Err(SignError::Guard { reason: "disk".into() }),
                Err(SignError::Key { reason: "token".into() }),
            ]),
            Reply::Forgotten,
            Reply::Signature(Signature([8; 64])),
            Reply::Warnings(vec!["token hsm is away".into(), String::new()]),
            Reply::Status(Bytes::from_static(b"{}")),
            Reply::Record(Answer { standing: Standing::Complete, floor }),
            Reply::Record(Answer { standing: Standing::Incomplete, floor }),
            Reply::Record(Answer { standing: Standing::Stopped, floor }),
        ]
    }

    /// Every message survives its encoding; cut anywhere or with a byte more it is refused.
    #[test]
    fn messages_have_one_encoding() {
        for request in requests() {
            let bytes = request.to_bytes();
            assert_eq!(Request::from_bytes(&bytes).unwrap(), request);
            (0..bytes.len()).for_each(|len| {
                Request::from_bytes(&bytes.slice(..len)).unwrap_err();
            });
            let longer = Bytes::from([&bytes[..], &[0]].concat());
            Request::from_bytes(&longer).unwrap_err();
        }
        for reply in replies() {
            let bytes = reply.to_bytes();
            let read = Reply::from_bytes(&bytes).unwrap();
            assert_eq!(format!("{read:?}"), format!("{reply:?}"));
            (0..bytes.len()).for_each(|len| {
                Reply::from_bytes(&bytes.slice(..len)).unwrap_err();
            });
        }
    }

    /// Frames come back as they went; a torn one, and a length above the limit, are errors.
    #[test]
    fn frames_are_bounded() {
        let mut stream = Vec::new();
        write_frame(&mut stream, b"one").unwrap();
        write_frame(&mut stream, b"").unwrap();
        let mut source = &stream[..];
        assert_eq!(read_frame(&mut source).unwrap().unwrap(), &b"one"[..]);
        assert_eq!(read_frame(&mut source).unwrap().unwrap(), &b""[..]);
        assert!(read_frame(&mut source).unwrap().is_none());
        read_frame(&mut &stream[..6]).unwrap_err();
        let error = read_frame(&mut &[0xFF; 8][..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
