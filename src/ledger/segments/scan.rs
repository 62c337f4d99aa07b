//! Opening one segment file: the index of a sealed one, a scan of the last one, and the decision
//! whether bytes that are not a record are a torn tail or damage.

use std::fs::File;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

use crate::ledger::error::LedgerError;
use crate::ledger::segments::record::HEADER_BYTES;
use crate::ledger::segments::record::Header;
use crate::ledger::segments::record::Kind;
use crate::ledger::segments::record::MARK;
use crate::ledger::segments::record::RECORD_HEAD_BYTES;
use crate::ledger::segments::record::RecordHead;
use crate::ledger::segments::record::parse_index;
use crate::types::ids::ChainId;

/// A file that was opened.
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) header: Header,
    pub(crate) offsets: Vec<u32>,
    /// Length of the file, bytes.
    pub(crate) len: u64,
    /// End of the last record where more may be appended; `None` for a sealed file.
    pub(crate) open_end: Option<u64>,
}

/// Opens a file. Only the `last` one may be unsealed or end in a torn tail; `verify` checks every
/// record of a sealed one.
pub(crate) fn open(
    path: &Path,
    first: u64,
    chain: ChainId,
    last: bool,
    verify: bool,
) -> Result<Opened, LedgerError> {
    let file = OpenOptions::new()
        .read(true)
        .write(last)
        .open(path)
        .map_err(LedgerError::io("opening", path))?;
    let len = file.metadata().map_err(LedgerError::io("reading", path))?.len();
    let mut head = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(HEADER_BYTES)];
    file.read_exact_at(&mut head, 0).map_err(LedgerError::io("reading", path))?;
    let header = Header::parse(&head).map_err(|reason| LedgerError::damaged(path, reason))?;
    if header.chain != chain {
        let what = path.display().to_string();
        return Err(LedgerError::OtherChain { what, found: header.chain, wanted: chain });
    }
    if header.first_height != first {
        return Err(LedgerError::damaged(path, "its header and its name differ in height"));
    }
    let sealed = sealed_offsets(&file, &header, len, path)?;
    match sealed {
        Some(offsets) if !verify => Ok(Opened { file, header, offsets, len, open_end: None }),
        None if !last => Err(LedgerError::damaged(path, "the index at its end is missing")),
        sealed => scan(file, path, header, sealed, len),
    }
}

/// The offsets from the index at the end of a sealed file; `None` where there is no good index.
fn sealed_offsets(
    file: &File,
    header: &Header,
    len: u64,
    path: &Path,
) -> Result<Option<Vec<u32>>, LedgerError> {
    if len < (HEADER_BYTES + RECORD_HEAD_BYTES + 12) as u64 {
        return Ok(None);
    }
    let read = |bytes: &mut [u8], at| {
        file.read_exact_at(bytes, at).map_err(LedgerError::io("reading", path))
    };
    let mut own = [0; 8];
    read(&mut own, len - 8)?;
    let own = u64::from_be_bytes(own);
    let payload = len.checked_sub(own).and_then(|n| n.checked_sub(RECORD_HEAD_BYTES as u64));
    let Some(payload) = payload.and_then(|n| usize::try_from(n).ok()) else { return Ok(None) };
    if own < HEADER_BYTES as u64 {
        return Ok(None);
    }
    let mut head = [0; RECORD_HEAD_BYTES];
    read(&mut head, own)?;
    let Some(head) = RecordHead::parse(header, &head) else { return Ok(None) };
    if head.kind != Kind::Index || head.length != payload {
        return Ok(None);
    }
    let mut bytes = vec![0; payload];
    read(&mut bytes, own + RECORD_HEAD_BYTES as u64)?;
    if !head.check_body(header, &bytes) {
        return Ok(None);
    }
    let index = parse_index(bytes.into()).filter(|(offsets, at)| {
        *at == own && head.height == header.first_height + offsets.len() as u64
    });
    Ok(index.map(|(offsets, _)| offsets))
}

/// Reads every record and checks it.
fn scan(
    file: File,
    path: &Path,
    header: Header,
    sealed: Option<Vec<u32>>,
    len: u64,
) -> Result<Opened, LedgerError> {
    let mut bytes = vec![0; usize::try_from(len).expect("a file fits the address space")];
    file.read_exact_at(&mut bytes, 0).map_err(LedgerError::io("reading", path))?;
    let bytes = Bytes::from(bytes);
    let mut offsets = Vec::new();
    let mut at = HEADER_BYTES;
    let mut next = header.first_height;
    while let Some(head) = record_at(&bytes, at, &header)
        .filter(|head| head.kind == Kind::Block && head.height == next)
    {
        let offset = u32::try_from(at).map_err(|_| LedgerError::damaged(path, "above 4 GiB"))?;
        offsets.push(offset);
        at += RECORD_HEAD_BYTES + head.length;
        next += 1;
    }
    if let Some(indexed) = sealed {
        if indexed != offsets {
            let reason = format!("the record of block {next} at {at} does not match its checksum");
            return Err(LedgerError::damaged(path, reason));
        }
        return Ok(Opened { file, header, offsets, len, open_end: None });
    }
    let end = at as u64;
    let mut len = len;
    if bytes[at..].iter().any(|byte| *byte != 0) {
        if let Some(later) = later_group(&bytes, at, next, &header) {
            let reason = format!(
                "the record of block {next} at {at} is bad, but block {later} after it is good, \
                 so this was durable once and has changed since"
            );
            return Err(LedgerError::damaged(path, reason));
        }
        // Cut, not skipped: bytes left behind could be read as records after the next append.
        file.set_len(end).map_err(LedgerError::io("cutting the torn tail of", path))?;
        file.sync_all().map_err(LedgerError::io("syncing", path))?;
        len = end;
    }
    Ok(Opened { file, header, offsets, len, open_end: Some(end) })
}

/// The whole and unchanged record that starts at `at`.
fn record_at(bytes: &Bytes, at: usize, header: &Header) -> Option<RecordHead> {
    let head = RecordHead::parse(header, bytes.get(at..)?)?;
    let start = at + RECORD_HEAD_BYTES;
    let payload = bytes.get(start..start.checked_add(head.length)?)?;
    head.check_body(header, payload).then_some(head)
}

/// The height of a good record behind `at` whose group began after block `bad` was durable.
fn later_group(bytes: &Bytes, at: usize, bad: u64, header: &Header) -> Option<u64> {
    bytes[at..]
        .windows(MARK.len())
        .enumerate()
        .filter(|(_, window)| *window == MARK)
        .filter_map(|(offset, _)| record_at(bytes, at + offset, header))
        .find(|head| head.group > bad)
        .map(|head| head.height)
}
