//! The bytes of the slot guard's log, and the rule that tells a torn tail from damage.
//!
//! All integers big-endian. The file is one header and then 64-byte records; what follows the last
//! record is zero (written ahead, so that a sync allocates nothing).
//!
//! ```text
//! header, 128 bytes                         record, 64 bytes (never crosses a disk sector)
//!   0  magic "OBLGUARD"                 8      0  append number u8: 1..255, then 1 again
//!   8  version u16 = 1                  2      1  index within the append u16
//!  10  fencing epoch u64                8      3  slot: phase u8 | epoch u64 | view u64
//!  18  guard identity                  16                | sequence u64               25
//!  34  chain id                        32     28  SHA-256 of the text                 32
//!  66  key fingerprint, SHA-256        32     60  check                                4
//!  98  floor: sequence u64              8
//! 106  floor: epoch u64                 8     check = SHA-256("obelisk.guard.1" | guard identity
//! 114  floor: view u64                  8             | file offset u64 | the bytes before)[..4],
//! 122  state u16                        2             with the lowest bit set
//! 124  check                            4
//!
//! state  0 in use | 1 unproven | 2 stopped | 3 retired
//! ```
//!
//! Sequence-bound slots below the floor's sequence, and view-change and new-view slots below its
//! (epoch, view), were forgotten and are refused.
//!
//! One append is one write and one sync, and nothing is appended before that sync returned. So at
//! most the last append can be torn, and nothing in it was ever cleared for signing. A torn record
//! is zero, or ends in a zero byte, or is cut by the end of the file; the surviving records of a
//! torn append carry one append number and the index of their place. Every other deviation is
//! damage of records that may have been signed, and the guard does not open.

use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::ids::Epoch;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::vote::Slot;

use bytes::Bytes;

/// Length of the header, bytes.
pub const HEADER_BYTES: usize = 128;
/// Length of a record, bytes.
pub const RECORD_BYTES: usize = 64;

/// What the head of the file states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Grows each time the identity is allowed to sign from a new guard.
    pub fencing_epoch: u64,
    /// Drawn when the guard is made; tells a clone from the original.
    pub identity: [u8; 16],
    /// The chain whose texts it governs.
    pub chain: ChainId,
    /// SHA-256 of the encoded public key.
    pub key: Digest,
    /// What was forgotten.
    pub floor: Floor,
    /// Whether it signs.
    pub state: State,
}

/// Whether a guard signs. The numbers are part of the format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It signs.
    #[default]
    InUse = 0,
    /// What its key signed is not known for certain: it signs once peers have shown what they saw.
    Unproven = 1,
    /// Another signer uses the key: it signs when an operator has said that this one is to.
    Stopped = 2,
    /// The record was handed over: it never signs again.
    Retired = 3,
}

/// Below it nothing is signed any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// Sequence-bound slots below this number are refused.
    pub sequence: SequenceNumber,
    /// With `view`: view-change and new-view slots below this pair are refused.
    pub epoch: Epoch,
    /// See `epoch`.
    pub view: View,
}

impl State {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::InUse => "in use",
            Self::Unproven => "waiting for peers",
            Self::Stopped => "stopped: another signer uses the key",
            Self::Retired => "retired: handed over",
        }
    }

    fn from_number(number: u16) -> Option<Self> {
        let all = [Self::InUse, Self::Unproven, Self::Stopped, Self::Retired];
        all.into_iter().find(|state| *state as u16 == number)
    }
}

/// An append, and a place in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Append {
    number: u8,
    index: u16,
}

/// What a whole log says.
#[derive(Debug, PartialEq, Eq)]
pub struct Scan {
    /// The records, in file order.
    pub records: Vec<(Slot, Digest)>,
    /// Offset behind the last record.
    pub end: u64,
    /// The append of the last record.
    pub last: Append,
    /// True where an unfinished append follows `end` and must be wiped before the next one.
    pub torn: bool,
}

/// Bytes that are no guard log, or a damaged one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Offset from the start of the file.
    pub offset: u64,
    /// What is wrong there.
    pub reason: &'static str,
}

impl Append {
    /// The append that follows this one.
    pub fn following(self) -> Self {
        Self { number: if self.number == u8::MAX { 1 } else { self.number + 1 }, index: 0 }
    }
}

impl Header {
    /// The header's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(HEADER_BYTES);
        w.raw(MAGIC);
        w.u16(VERSION);
        w.u64(self.fencing_epoch);
        w.raw(&self.identity);
        self.chain.encode(&mut w);
        self.key.encode(&mut w);
        self.floor.sequence.encode(&mut w);
        self.floor.epoch.encode(&mut w);
        self.floor.view.encode(&mut w);
        w.u16(self.state as u16);
        let mut bytes = w.finish().to_vec();
        bytes.extend_from_slice(&check(&self.identity, 0, &bytes));
        bytes
    }

    /// Reads the header at the start of `file`.
    pub fn parse(file: &[u8]) -> Result<Self, Damage> {
        let damage = |reason| Damage { offset: 0, reason };
        let Some(head) = file.get(..HEADER_BYTES) else {
            return Err(damage("the file is shorter than a guard's header"));
        };
        let bytes = Bytes::copy_from_slice(head);
        let mut r = Reader::new(&bytes);
        if &head[..MAGIC.len()] != MAGIC {
            return Err(damage("the file does not begin as a guard's log"));
        }
        let header = Self::fields(&mut r).map_err(|_| damage("the header is malformed"))?;
        if header.to_bytes() != head {
            return Err(damage("the header's check does not match, or its version is unknown"));
        }
        Ok(header)
    }

    fn fields(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.raw("magic and version", MAGIC.len() + 2)?;
        Ok(Self {
            fencing_epoch: r.u64("fencing epoch")?,
            identity: r.array("guard identity")?,
            chain: ChainId::decode(r)?,
            key: Digest::decode(r)?,
            floor: Floor {
                sequence: SequenceNumber::decode(r)?,
                epoch: Epoch::decode(r)?,
                view: View::decode(r)?,
            },
            state: State::from_number(r.u16("state")?)
                .ok_or(DecodeError::Invalid { field: "state", reason: "unknown" })?,
        })
    }
}

/// Appends one record's bytes for the file offset `offset` to `out` and moves `append` on.
pub fn write_record(
    out: &mut Vec<u8>,
    header: &Header,
    append: &mut Append,
    offset: u64,
    record: (&Slot, &Digest),
) {
    let mut w = Writer::with_capacity(RECORD_BYTES);
    w.u8(append.number);
    w.u16(append.index);
    record.0.encode(&mut w);
    record.1.encode(&mut w);
    let body = w.finish();
    out.extend_from_slice(&body);
    out.extend_from_slice(&check(&header.identity, offset, &body));
    append.index += 1;
}

/// Reads all records behind the header of `file`.
pub fn scan(file: &[u8], header: &Header) -> Result<Scan, Damage> {
    let mut scan = Scan {
        records: Vec::new(),
        end: HEADER_BYTES as u64,
        last: Append::default(),
        torn: false,
    };
    let mut hole = false;
    let mut torn_append = None;
    for (i, piece) in file[HEADER_BYTES..].chunks(RECORD_BYTES).enumerate() {
        let offset = (HEADER_BYTES + i * RECORD_BYTES) as u64;
        let damage = |reason| Damage { offset, reason };
        match read_record(piece, header, offset) {
            Found::Record(found, slot, digest) if !hole => {
                if found != next_in_append(scan.last) && found != scan.last.following() {
                    return Err(damage("a record out of order: records before it are missing"));
                }
                scan.records.push((slot, digest));
                scan.last = found;
                scan.end = offset + RECORD_BYTES as u64;
            }
            Found::Record(found, ..) => {
                let remains = (found.number, Some(found.index));
                check_torn(&scan, &mut torn_append, offset, remains).map_err(damage)?;
            }
            Found::Unfinished(number) => {
                check_torn(&scan, &mut torn_append, offset, (number, None)).map_err(damage)?;
                hole = true;
            }
            Found::Zero => hole = true,
            Found::Damaged => return Err(damage("a record's check does not match its bytes")),
        }
    }
    scan.torn = torn_append.is_some();
    Ok(scan)
}

/// A record or its remains behind the first gap: only the append that was never synced may leave
/// them.
fn check_torn(
    scan: &Scan,
    torn_append: &mut Option<u8>,
    offset: u64,
    (number, index): (u8, Option<u16>),
) -> Result<(), &'static str> {
    let places = (offset - scan.end) / RECORD_BYTES as u64;
    let in_place = [next_in_append(scan.last), scan.last.following()].into_iter().any(|first| {
        let place = u64::from(first.index) + places;
        first.number == number && index.is_none_or(|index| u64::from(index) == place)
    });
    if !in_place || *torn_append.get_or_insert(number) != number {
        return Err("records before this one are missing or zero");
    }
    Ok(())
}

fn next_in_append(last: Append) -> Append {
    Append { number: last.number, index: last.index.saturating_add(1) }
}

enum Found {
    /// Nothing was written here.
    Zero,
    /// A whole record.
    Record(Append, Slot, Digest),
    /// The beginning of a record of that append: writing did not reach its end.
    Unfinished(u8),
    /// Neither.
    Damaged,
}

fn read_record(piece: &[u8], header: &Header, offset: u64) -> Found {
    if piece.iter().all(|byte| *byte == 0) {
        return Found::Zero;
    }
    let body_len = RECORD_BYTES - CHECK_BYTES;
    if piece.len() < RECORD_BYTES || piece[RECORD_BYTES - 1] == 0 {
        return if piece[0] == 0 { Found::Damaged } else { Found::Unfinished(piece[0]) };
    }
    if piece[body_len..] != check(&header.identity, offset, &piece[..body_len]) {
        return Found::Damaged;
    }
    let bytes = Bytes::copy_from_slice(&piece[..body_len]);
    let mut r = Reader::new(&bytes);
    let mut fields = || {
        let append = Append { number: r.u8("append")?, index: r.u16("index")? };
        Ok::<_, DecodeError>(Found::Record(append, Slot::decode(&mut r)?, Digest::decode(&mut r)?))
    };
    fields().unwrap_or(Found::Damaged)
}

/// Binds bytes to this guard and to their place in the file. The last byte is never zero, so that a
/// record whose writing did not reach its end is recognised.
fn check(identity: &[u8; 16], offset: u64, body: &[u8]) -> [u8; CHECK_BYTES] {
    let digest = Digest::of(&[CHECK_TAG, identity, &offset.to_be_bytes(), body]);
    let [a, b, c, d, ..] = digest.0;
    [a, b, c, d | 1]
}

const MAGIC: &[u8] = b"OBLGUARD";
const VERSION: u16 = 1;
const CHECK_TAG: &[u8] = b"obelisk.guard.1";
const CHECK_BYTES: usize = 4;
