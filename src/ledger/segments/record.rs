//! The bytes of a segment file's header and records (drawn in `segments`).

use bytes::Bytes;

use crate::ledger::error::LedgerError;
use crate::ledger::segments::StoredBlock;
use crate::types::codec::Decode;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::ids::Height;
use crate::types::limits;

/// Header of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) chain: ChainId,
    pub(crate) first_height: u64,
    salt: [u8; 16],
}

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Block,
    Index,
}

/// The fixed part in front of a record's payload, its own check verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHead {
    pub(crate) kind: Kind,
    pub(crate) length: usize,
    pub(crate) height: u64,
    pub(crate) group: u64,
    fields: [u8; FIELDS_BYTES],
    body: [u8; CHECK_BYTES],
}

impl Header {
    /// A header with a fresh salt.
    pub(crate) fn new(chain: ChainId, first_height: u64) -> Self {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).expect("the operating system gives random bytes");
        Self { chain, first_height, salt }
    }

    pub(crate) fn to_bytes(self) -> Bytes {
        let mut w = Writer::with_capacity(HEADER_BYTES);
        w.raw(MAGIC);
        self.chain.encode(&mut w);
        w.u64(self.first_height);
        w.raw(&self.salt);
        let bytes = w.finish();
        let mut w = Writer::with_capacity(HEADER_BYTES);
        w.raw(&bytes);
        w.raw(&check(&[&bytes]));
        w.finish()
    }

    /// The header of a file that starts with these bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let fields = bytes.get(..HEADER_BYTES).ok_or("it ends inside its header")?;
        let (fields, found) = fields.split_at(HEADER_BYTES - CHECK_BYTES);
        if !fields.starts_with(MAGIC) {
            return Err("it is not an obelisk segment file, version 1");
        }
        if found != check(&[fields]) {
            return Err("the checksum of its header does not match");
        }
        let fields = Bytes::copy_from_slice(fields);
        let mut r = Reader::new(&fields);
        let parse = |r: &mut Reader<'_>| {
            r.raw("magic", MAGIC.len())?;
            let chain = ChainId::decode(r)?;
            Ok(Self { chain, first_height: r.u64("first height")?, salt: r.array("salt")? })
        };
        parse(&mut r).map_err(|_: crate::types::codec::DecodeError| "its header is too short")
    }
}

impl RecordHead {
    /// Reads a head; `None` unless its own check matches.
    pub(crate) fn parse(header: &Header, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEAD_BYTES)?;
        let fields: [u8; FIELDS_BYTES] = bytes[..FIELDS_BYTES].try_into().ok()?;
        let (head, body) = bytes[FIELDS_BYTES..].split_at(CHECK_BYTES);
        if fields[..4] != MARK || head != check(&[&header.salt, &fields]) {
            return None;
        }
        let kind = match fields[4] {
            1 => Kind::Block,
            2 => Kind::Index,
            _ => return None,
        };
        let number = |at: usize| Some(u64::from_be_bytes(fields[at..at + 8].try_into().ok()?));
        let length = u32::from_be_bytes(fields[5..9].try_into().ok()?);
        Some(Self {
            kind,
            length: usize::try_from(length).ok()?,
            height: number(9)?,
            group: number(17)?,
            fields,
            body: body.try_into().ok()?,
        })
    }

    /// True where the payload is the one that was written.
    pub(crate) fn check_body(&self, header: &Header, payload: &[u8]) -> bool {
        payload.len() == self.length && self.body == check(&[&header.salt, &self.fields, payload])
    }
}

/// Bytes that a block takes in a file.
pub(crate) fn stored_len(stored: &StoredBlock) -> usize {
    RECORD_HEAD_BYTES + 4 + stored.block.len() + stored.result.len()
}

/// Appends a block's record.
pub(crate) fn write_block(
    w: &mut Writer,
    header: &Header,
    height: u64,
    group: u64,
    stored: &StoredBlock,
) -> Result<(), LedgerError> {
    let length = stored_len(stored) - RECORD_HEAD_BYTES;
    if length > limits::SEGMENT_RECORD_BYTES_MAX {
        return Err(LedgerError::Unfit {
            height: Height(height),
            reason: format!(
                "block and receipts take {length} bytes, the limit is {}",
                limits::SEGMENT_RECORD_BYTES_MAX
            ),
        });
    }
    let block_len = u32::try_from(stored.block.len()).expect("below the record limit");
    let payload: [&[u8]; 3] = [&block_len.to_be_bytes(), &stored.block, &stored.result];
    write_record(w, header, Kind::Block, height, group, &payload);
    Ok(())
}

/// The record that seals a file: written at `offset`, after `next - 1` is durable.
pub(crate) fn index_record(header: &Header, next: u64, offset: u64, offsets: &[u32]) -> Bytes {
    let mut payload = Writer::with_capacity(4 * offsets.len() + 12);
    payload.count(offsets.len());
    offsets.iter().for_each(|at| payload.u32(*at));
    payload.u64(offset);
    let mut w = Writer::default();
    write_record(&mut w, header, Kind::Index, next, next, &[&payload.finish()]);
    w.finish()
}

/// The offsets of an index record's payload; `None` where it is not one.
pub(crate) fn parse_index(payload: Bytes) -> Option<(Vec<u32>, u64)> {
    let mut r = Reader::new(&payload);
    let count = r.count("offsets", r.remaining() / 4).ok()?;
    let offsets = (0..count).map(|_| r.u32("offset")).collect::<Result<Vec<_>, _>>().ok()?;
    let own = r.u64("own offset").ok()?;
    r.end("index").ok()?;
    Some((offsets, own))
}

/// Takes a block record's payload apart.
pub(crate) fn split_block(payload: Bytes) -> Option<StoredBlock> {
    let mut r = Reader::new(&payload);
    let block = r.bytes("block", payload.len()).ok()?;
    let result = r.raw("result", r.remaining()).ok()?;
    Some(StoredBlock { block, result })
}

fn write_record(
    w: &mut Writer,
    header: &Header,
    kind: Kind,
    height: u64,
    group: u64,
    payload: &[&[u8]],
) {
    let length: usize = payload.iter().map(|part| part.len()).sum();
    let mut fields = Writer::with_capacity(FIELDS_BYTES);
    fields.raw(&MARK);
    fields.u8(match kind {
        Kind::Block => 1,
        Kind::Index => 2,
    });
    fields.count(length);
    fields.u64(height);
    fields.u64(group);
    let fields = fields.finish();
    let mut parts: Vec<&[u8]> = vec![&header.salt, &fields];
    let head = check(&parts);
    parts.extend(payload);
    let body = check(&parts);
    w.raw(&fields);
    w.raw(&head);
    w.raw(&body);
    payload.iter().for_each(|part| w.raw(part));
}

fn check(parts: &[&[u8]]) -> [u8; CHECK_BYTES] {
    let digest = Digest::of(parts);
    digest.0[..CHECK_BYTES].try_into().expect("a digest has 32 bytes")
}

/// First bytes of a file; the last digit is the version of the format.
const MAGIC: &[u8; 16] = b"obelisk.segment1";
/// First bytes of a record.
pub(crate) const MARK: [u8; 4] = *b"rec1";
const CHECK_BYTES: usize = 8;
const FIELDS_BYTES: usize = 25;
/// Header of a file, bytes.
pub(crate) const HEADER_BYTES: usize = 16 + 32 + 8 + 16 + CHECK_BYTES;
/// Fixed part of a record, bytes.
pub(crate) const RECORD_HEAD_BYTES: usize = FIELDS_BYTES + 2 * CHECK_BYTES;
