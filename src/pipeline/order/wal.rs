//! The order station's write-ahead log: what must survive a crash before a vote may leave.
//!
//! Two files, `order.0` and `order.1`, take turns. Each generation begins with what is still needed
//! and then grows by appending; at `WAL_BYTES_MAX` the other file is written anew. Files are reused
//! in place, so that a sync seldom has to allocate (a growing file costs up to three times more per
//! sync).
//!
//! ```text
//! file    page of 4096: "OBWAL001" | generation u64 | chain id 32 | checksum 8, rest zero;  then records
//! record  "OBWR" | length u32 | kind u8 | checksum 8 | payload
//!         checksum = first 8 bytes of SHA-256(generation u64 | kind | length u32 | payload)
//! kind    1 = record of the consensus core, 2 = encoded batch
//! ```
//!
//! Invariants:
//! * `sync` returns after everything appended is on disk; a failed write or sync poisons the log
//!   and the process stops.
//! * A new generation's records are synced before its header is written, so the highest valid
//!   header always has its records behind it.
//! * At open the tail ends at the first record that does not check. A valid record behind it means
//!   damage in the middle, which is an error that names file and offset: a torn tail has nothing
//!   valid behind it.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::consensus::LogRecord;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::limits;

const MAGIC: &[u8; 8] = b"OBWAL001";
const MARK: &[u8; 4] = b"OBWR";
const PAGE: usize = 4096;
const RECORD_HEAD: usize = 17;
const KIND_RECORD: u8 = 1;
const KIND_BATCH: u8 = 2;

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The device failed; nothing after this may be sent.
    #[error("write-ahead log {path}: {doing}")]
    Io {
        path: PathBuf,
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    /// Bytes in the middle are not what was written.
    #[error(
        "write-ahead log {path} is damaged at offset {offset}; this validator may have voted on what \
         is lost: keep the file, and let the node catch up from its peers with an empty data directory"
    )]
    Damaged { path: PathBuf, offset: usize },
    /// Written by another network's node.
    #[error("write-ahead log {path} belongs to chain {found}, this node runs {expected}")]
    OtherChain { path: PathBuf, found: ChainId, expected: ChainId },
}

/// What an open log held.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Records of the core, in order.
    pub records: Vec<LogRecord>,
    /// Encoded batches, in order.
    pub batches: Vec<Bytes>,
}

/// The log of one validator.
pub struct Wal {
    directory: PathBuf,
    chain: ChainId,
    file: Arc<File>,
    path: PathBuf,
    generation: u64,
    /// End of what was appended.
    end: usize,
    /// Appended and not yet handed to the file.
    buffer: Vec<u8>,
}

/// Bytes on their way to the disk.
pub struct PendingSync {
    file: Arc<File>,
    path: PathBuf,
    offset: usize,
    bytes: Vec<u8>,
}

impl PendingSync {
    /// Writes and syncs; an error means that nothing may be sent any more.
    pub fn complete(self) -> Result<(), WalError> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all_at(&self.bytes, self.offset as u64);
        let (doing, result) = match written {
            Err(source) => ("write", Err(source)),
            Ok(()) => ("sync", self.file.sync_data()),
        };
        result.map_err(|source| WalError::Io { path: self.path, doing, source })
    }
}

impl Wal {
    /// Whether a validator has written a log there; its two files take turns, either may be alone.
    pub fn exists(directory: &Path) -> bool {
        (0..2).any(|turn| directory.join(format!("order.{turn}")).exists())
    }

    /// Opens or creates the log in `directory` and returns what it holds.
    pub fn open(directory: &Path, chain: ChainId) -> Result<(Self, Recovered), WalError> {
        let mut newest: Option<(u64, PathBuf, Vec<u8>)> = None;
        for turn in 0..2 {
            let path = directory.join(format!("order.{turn}"));
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(WalError::Io { path, doing: "read", source }),
            };
            if let Some(generation) = parse_header(&bytes, chain, &path)?
                && newest.as_ref().is_none_or(|(g, ..)| generation > *g)
            {
                newest = Some((generation, path, bytes));
            }
        }
        let Some((generation, path, bytes)) = newest else {
            let wal = Self::begin(directory, chain, 1, &[], &[])?;
            return Ok((wal, Recovered::default()));
        };
        let (recovered, end) = parse_records(&bytes, generation, &path)?;
        let file = Arc::new(open_file(&path)?);
        let directory = directory.to_owned();
        let wal = Self { directory, chain, file, path, generation, end, buffer: Vec::new() };
        Ok((wal, recovered))
    }

    /// Appends a record of the core; durable after `sync`.
    pub fn append_record(&mut self, record: &LogRecord) {
        self.append(KIND_RECORD, &record.0);
    }

    /// Appends an encoded batch; durable after `sync`.
    pub fn append_batch(&mut self, batch: &[u8]) {
        self.append(KIND_BATCH, batch);
    }

    /// Makes everything appended durable.
    pub fn sync(&mut self) -> Result<(), WalError> {
        self.begin_sync().complete()
    }

    /// Takes what was appended since the last sync, to be made durable by whoever completes it;
    /// appending may go on meanwhile, a second sync may not begin before the first is complete.
    pub fn begin_sync(&mut self) -> PendingSync {
        let (bytes, offset) = (std::mem::take(&mut self.buffer), self.end);
        self.end += bytes.len();
        PendingSync { file: self.file.clone(), path: self.path.clone(), offset, bytes }
    }

    /// True when the file is large enough to be worth a new generation.
    pub fn is_long(&self) -> bool {
        self.end + self.buffer.len() > limits::WAL_BYTES_MAX
    }

    /// Starts a new generation that holds only `records` and `batches`; durable on return.
    pub fn replace(&mut self, records: &[LogRecord], batches: &[Bytes]) -> Result<(), WalError> {
        *self = Self::begin(&self.directory, self.chain, self.generation + 1, records, batches)?;
        Ok(())
    }

    fn begin(
        directory: &Path,
        chain: ChainId,
        generation: u64,
        records: &[LogRecord],
        batches: &[Bytes],
    ) -> Result<Self, WalError> {
        let path = directory.join(format!("order.{}", generation % 2));
        let file = Arc::new(open_file(&path)?);
        let (directory, buffer) = (directory.to_owned(), Vec::new());
        let mut wal = Self { directory, chain, file, path, generation, end: PAGE, buffer };
        batches.iter().for_each(|batch| wal.append_batch(batch));
        records.iter().for_each(|record| wal.append_record(record));
        wal.sync()?;
        let mut page = Vec::with_capacity(PAGE);
        page.extend_from_slice(MAGIC);
        page.extend_from_slice(&generation.to_be_bytes());
        page.extend_from_slice(&chain.0.0);
        let checksum = Digest::of(&[&page]);
        page.extend_from_slice(&checksum.0[..8]);
        page.resize(PAGE, 0);
        let io = |doing| {
            let path = wal.path.clone();
            move |source| WalError::Io { path, doing, source }
        };
        wal.file.write_all_at(&page, 0).map_err(io("write the header"))?;
        wal.file.sync_all().map_err(io("sync the header"))?;
        File::open(&wal.directory).and_then(|d| d.sync_all()).map_err(io("sync the directory"))?;
        Ok(wal)
    }

    fn append(&mut self, kind: u8, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("records stay below their limits");
        self.buffer.extend_from_slice(MARK);
        self.buffer.extend_from_slice(&length.to_be_bytes());
        self.buffer.push(kind);
        self.buffer.extend_from_slice(&checksum(self.generation, kind, payload));
        self.buffer.extend_from_slice(payload);
    }
}

fn open_file(path: &Path) -> Result<File, WalError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let io = |doing| move |source| WalError::Io { path: path.to_owned(), doing, source };
    let file = options.open(path).map_err(io("open"))?;
    // Reserves the blocks once; a shorter file than this is new.
    let length = file.metadata().map_err(io("inspect"))?.len();
    if length < limits::WAL_BYTES_MAX as u64 {
        let size = i64::try_from(limits::WAL_BYTES_MAX).expect("a file size");
        nix::fcntl::posix_fallocate(&file, 0, size).map_err(|e| WalError::Io {
            path: path.to_owned(),
            doing: "reserve",
            source: e.into(),
        })?;
    }
    Ok(file)
}

fn checksum(generation: u64, kind: u8, payload: &[u8]) -> [u8; 8] {
    let length = (payload.len() as u32).to_be_bytes();
    let digest = Digest::of(&[&generation.to_be_bytes(), &[kind], &length, payload]);
    digest.0[..8].try_into().expect("8 of 32 bytes")
}

/// The generation of a file; `None` where its header was never finished.
pub fn parse_header(bytes: &[u8], chain: ChainId, path: &Path) -> Result<Option<u64>, WalError> {
    if bytes.len() < PAGE
        || &bytes[..8] != MAGIC
        || Digest::of(&[&bytes[..48]]).0[..8] != bytes[48..56]
    {
        return Ok(None);
    }
    let found = ChainId(Digest(bytes[16..48].try_into().expect("32 bytes")));
    if found != chain {
        return Err(WalError::OtherChain { path: path.to_owned(), found, expected: chain });
    }
    Ok(Some(u64::from_be_bytes(bytes[8..16].try_into().expect("8 bytes"))))
}

/// The records of a file whose header says `generation`, and the offset behind the last one; the
/// file holds a whole header.
pub fn parse_records(
    bytes: &[u8],
    generation: u64,
    path: &Path,
) -> Result<(Recovered, usize), WalError> {
    let mut recovered = Recovered::default();
    let mut at = PAGE;
    while let Some((kind, payload)) = record_at(bytes, at, generation) {
        at += RECORD_HEAD + payload.len();
        match kind {
            KIND_RECORD => recovered.records.push(LogRecord(Bytes::copy_from_slice(payload))),
            _ => recovered.batches.push(Bytes::copy_from_slice(payload)),
        }
    }
    let behind = (at + 1..bytes.len().saturating_sub(RECORD_HEAD)).any(|offset| {
        &bytes[offset..offset + 4] == MARK && record_at(bytes, offset, generation).is_some()
    });
    if behind {
        return Err(WalError::Damaged { path: path.to_owned(), offset: at });
    }
    Ok((recovered, at))
}

fn record_at(bytes: &[u8], at: usize, generation: u64) -> Option<(u8, &[u8])> {
    let head = bytes.get(at..at + RECORD_HEAD)?;
    if &head[..4] != MARK {
        return None;
    }
    let length = u32::from_be_bytes(head[4..8].try_into().expect("4 bytes")) as usize;
    let kind = head[8];
    let payload = bytes.get(at + RECORD_HEAD..(at + RECORD_HEAD).checked_add(length)?)?;
    let known = matches!(kind, KIND_RECORD | KIND_BATCH);
    (known && checksum(generation, kind, payload) == head[9..17]).then_some((kind, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> ChainId {
        ChainId(Digest::of(&[b"wal"]))
    }

    fn record(text: &str) -> LogRecord {
        LogRecord(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// What was synced comes back in order, also over generations.
    #[test]
    fn synced_records_come_back_in_order_over_generations() {
        let dir = tempfile::tempdir().unwrap();
        let (mut wal, held) = Wal::open(dir.path(), chain()).unwrap();
        assert!(held.records.is_empty());
        wal.append_record(&record("a"));
        wal.append_batch(b"body");
        wal.sync().unwrap();
        wal.append_record(&record("b"));
        wal.sync().unwrap();
        drop(wal);
        let (mut wal, held) = Wal::open(dir.path(), chain()).unwrap();
        assert_eq!(held.records, [record("a"), record("b")]);
        assert_eq!(held.batches, [Bytes::from_static(b"body")]);
        for turn in 0..5 {
            wal.replace(&[record(&format!("kept {turn}"))], &[]).unwrap();
            wal.append_record(&record("new"));
            wal.sync().unwrap();
        }
        drop(wal);
        let (_, held) = Wal::open(dir.path(), chain()).unwrap();
        assert_eq!(held.records, [record("kept 4"), record("new")]);
    }

    /// A tail cut at any byte loses only the last record; damage before a valid record is named.
    #[test]
    fn torn_tail_is_cut_and_damage_in_the_middle_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (mut wal, _) = Wal::open(dir.path(), chain()).unwrap();
        wal.append_record(&record("first"));
        wal.append_record(&record("second"));
        wal.sync().unwrap();
        let (path, end) = (wal.path.clone(), wal.end);
        drop(wal);
        let whole = std::fs::read(&path).unwrap();
        let second = end - RECORD_HEAD - "second".len();
        for cut in second..end {
            let mut torn = whole.clone();
            torn[cut..end].fill(0xee);
            std::fs::write(&path, &torn).unwrap();
            let (_, held) = Wal::open(dir.path(), chain()).unwrap();
            assert_eq!(held.records, [record("first")], "cut at {cut}");
        }
        let mut damaged = whole.clone();
        damaged[PAGE + RECORD_HEAD] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert!(matches!(
            Wal::open(dir.path(), chain()),
            Err(WalError::Damaged { offset: PAGE, .. })
        ));
    }

    /// Another chain's log is refused.
    #[test]
    fn log_of_another_chain_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Wal::open(dir.path(), chain()).unwrap());
        let other = ChainId(Digest::of(&[b"other"]));
        assert!(matches!(Wal::open(dir.path(), other), Err(WalError::OtherChain { .. })));
    }
}
