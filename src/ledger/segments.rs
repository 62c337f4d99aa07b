//! Block store: append-only segment files, the only sync of a block.
//!
//! ```text
//! segments/<first height, 20 digits>.seg
//! open     header | block record ... | zeros up to the preallocated size
//! sealed   header | block record ... | index record                 never written again
//! header   "obelisk.segment1" 16 | chain id 32 | first height u64 | salt 16 | check 8
//! record   "rec1" | kind u8 | payload length u32 | height u64 | group u64 | head check 8
//!          | body check 8 | payload
//! kind 1   block length u32 | encoded Block | encoded BlockResult
//! kind 2   count u32 | record offsets u32 x count | offset of this record u64
//! check    the first 8 bytes of SHA-256: of the header; of salt | the record's first 25 bytes;
//!          of salt | the record's first 25 bytes | payload
//! ```
//!
//! Several blocks are appended with one write and one `fdatasync`; they form a group, named by the
//! first height of it. A record of group `g` therefore proves that everything below height `g` was
//! durable before it was written. At open the last file is scanned: what follows the last good
//! record is a torn tail and is cut, unless a record of a later group follows, which proves that
//! durable bytes have changed: that is `Damaged`. The salt (random per file, never sent anywhere)
//! keeps a client from planting a record inside a transaction. A file gets its name only once its
//! header is durable; the file before it is sealed first.
//!
//! After a failed write or sync nothing is known about the file: the ledger stops (`LedgerError`).
//! Model: the block files of Hyperledger Fabric and reth's static files; the group rule is ours.

mod record;
mod scan;
#[cfg(test)]
mod tests;

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::RwLock;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use nix::fcntl::fallocate;

use crate::ledger::error::LedgerError;
use crate::ledger::segments::record::Header;
use crate::ledger::segments::record::RecordHead;
use crate::types::codec::Writer;
use crate::types::ids::ChainId;
use crate::types::ids::Height;
use crate::types::limits;

/// Sizes of the segment files; smaller ones make tests of rotation short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSizes {
    /// A file that reached this is sealed, bytes; a group larger than it has a file of its own.
    pub segment_bytes: u64,
    /// A file grows by at least this many bytes at a time.
    pub preallocated_bytes: u64,
    /// Bytes of sealed files verified at open, newest first.
    pub verified_bytes: u64,
}

impl Default for SegmentSizes {
    fn default() -> Self {
        Self {
            segment_bytes: limits::SEGMENT_BYTES_MAX,
            preallocated_bytes: limits::SEGMENT_PREALLOCATED_BYTES,
            verified_bytes: limits::OPEN_VERIFIED_BYTES_MAX,
        }
    }
}

/// One block with its result, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlock {
    /// The encoded `Block`.
    pub block: Bytes,
    /// The encoded `BlockResult`.
    pub result: Bytes,
}

/// The block store of one chain.
#[derive(Debug)]
pub struct Segments {
    dir: PathBuf,
    chain: ChainId,
    sizes: SegmentSizes,
    writer: Mutex<Option<Writing>>,
    index: RwLock<Vec<Segment>>,
}

/// The file being appended to.
#[derive(Debug)]
struct Writing {
    file: Arc<File>,
    header: Header,
    path: PathBuf,
    /// End of the last record; everything behind it is zero.
    end: u64,
    allocated: u64,
}

/// Where the records of one file start.
#[derive(Debug)]
struct Segment {
    header: Header,
    path: PathBuf,
    /// Offset of each record, by height from the first.
    offsets: Vec<u32>,
    /// Kept open while the file is written; sealed files are opened for each read.
    file: Option<Arc<File>>,
}

impl Segments {
    /// Opens the files of `dir`, cuts a torn tail and refuses damaged ones.
    pub fn open(dir: &Path, chain: ChainId, sizes: SegmentSizes) -> Result<Self, LedgerError> {
        fs::create_dir_all(dir).map_err(LedgerError::io("creating", dir))?;
        let mut index: Vec<Segment> = Vec::new();
        let mut writer = None;
        let names = segment_files(dir)?;
        let mut verify_from = names.len();
        let mut bytes = 0;
        for (at, (_, path)) in names.iter().enumerate().rev() {
            bytes += fs::metadata(path).map_err(LedgerError::io("reading", path))?.len();
            if bytes > sizes.verified_bytes {
                break;
            }
            verify_from = at;
        }
        for (at, (first, path)) in names.iter().enumerate() {
            let wanted = index.last().map_or(1, Segment::end);
            if *first != wanted {
                let reason =
                    format!("it starts at block {first}; blocks from {wanted} are missing");
                return Err(LedgerError::damaged(path, reason));
            }
            let last = at + 1 == names.len();
            let opened = scan::open(path, *first, chain, last, at >= verify_from)?;
            if let Some(end) = opened.open_end {
                let file = Arc::new(opened.file);
                writer = Some(Writing {
                    file: Arc::clone(&file),
                    header: opened.header,
                    path: path.clone(),
                    end,
                    allocated: opened.len,
                });
                index.push(Segment::new(opened.header, path, opened.offsets, Some(file)));
            } else {
                index.push(Segment::new(opened.header, path, opened.offsets, None));
            }
        }
        let (writer, index) = (Mutex::new(writer), RwLock::new(index));
        Ok(Self { dir: dir.to_owned(), chain, sizes, writer, index })
    }

    /// Height of the last block stored; 0 for none.
    pub fn tip(&self) -> Height {
        let index = self.index.read().expect("no holder of this lock panics");
        Height(index.last().map_or(1, Segment::end) - 1)
    }

    /// Appends the blocks that follow the tip, in order, and makes them durable with one sync.
    pub fn append(&self, blocks: &[StoredBlock]) -> Result<(), LedgerError> {
        if blocks.is_empty() {
            return Ok(());
        }
        let mut writer = self.writer.lock().expect("no holder of this lock panics");
        let group = self.tip().0 + 1;
        let bytes: u64 = blocks.iter().map(|b| record::stored_len(b) as u64).sum();
        self.rotate(&mut writer, group, bytes)?;
        let writing = writer.as_mut().expect("rotate leaves an open file");
        let mut buffer = Writer::with_capacity(usize::try_from(bytes).unwrap_or(0));
        let mut offsets = Vec::with_capacity(blocks.len());
        for (height, block) in (group..).zip(blocks) {
            let offset = writing.end + buffer.len() as u64;
            offsets.push(u32::try_from(offset).map_err(|_| LedgerError::Unfit {
                height: Height(height),
                reason:
                    "its segment file would exceed 4 GiB; commit fewer blocks at once".to_owned(),
            })?);
            record::write_block(&mut buffer, &writing.header, height, group, block)?;
        }
        writing.write(&buffer.finish(), self.sizes.preallocated_bytes)?;
        let mut index = self.index.write().expect("no holder of this lock panics");
        index.last_mut().expect("rotate leaves an open file").offsets.extend(offsets);
        Ok(())
    }

    /// The block at a height with its result; `None` above the tip and at 0.
    pub fn read(&self, height: Height) -> Result<Option<StoredBlock>, LedgerError> {
        let (file, header, path, offset) = {
            let index = self.index.read().expect("no holder of this lock panics");
            let at = index.partition_point(|s| s.header.first_height <= height.0);
            let Some(segment) = at.checked_sub(1).and_then(|at| index.get(at)) else {
                return Ok(None);
            };
            let slot = usize::try_from(height.0 - segment.header.first_height);
            let Some(offset) = slot.ok().and_then(|slot| segment.offsets.get(slot)) else {
                return Ok(None);
            };
            (segment.file.clone(), segment.header, segment.path.clone(), u64::from(*offset))
        };
        let file = match file {
            Some(file) => file,
            None => Arc::new(File::open(&path).map_err(LedgerError::io("opening", &path))?),
        };
        let damaged = |reason: &str| {
            LedgerError::damaged(&path, format!("record of block {height} at {offset}: {reason}"))
        };
        let mut head = [0; record::RECORD_HEAD_BYTES];
        file.read_exact_at(&mut head, offset).map_err(LedgerError::io("reading", &path))?;
        let head = RecordHead::parse(&header, &head).ok_or_else(|| damaged("bad head"))?;
        let mut payload = vec![0; head.length];
        file.read_exact_at(&mut payload, offset + record::RECORD_HEAD_BYTES as u64)
            .map_err(LedgerError::io("reading", &path))?;
        if head.height != height.0 || !head.check_body(&header, &payload) {
            return Err(damaged("its checksum does not match"));
        }
        record::split_block(payload.into()).map(Some).ok_or_else(|| damaged("bad payload"))
    }

    /// Makes sure that an open file has room for `bytes` more, or is new.
    fn rotate(
        &self,
        writer: &mut Option<Writing>,
        next: u64,
        bytes: u64,
    ) -> Result<(), LedgerError> {
        let Some(open) = writer else {
            *writer = Some(self.create(next)?);
            return Ok(());
        };
        let empty = open.header.first_height == next;
        if empty || open.end + bytes <= self.sizes.segment_bytes {
            return Ok(());
        }
        let mut index = self.index.write().expect("no holder of this lock panics");
        let segment = index.last_mut().expect("the open file is indexed");
        let record = record::index_record(&open.header, next, open.end, &segment.offsets);
        open.write(&record, 0)?;
        open.file.set_len(open.end).map_err(LedgerError::io("sealing", &open.path))?;
        open.file.sync_all().map_err(LedgerError::io("syncing", &open.path))?;
        segment.file = None;
        drop(index);
        *writer = Some(self.create(next)?);
        Ok(())
    }

    fn create(&self, first: u64) -> Result<Writing, LedgerError> {
        let header = Header::new(self.chain, first);
        let path = self.dir.join(format!("{first:020}.{EXTENSION}"));
        let unnamed = path.with_extension(UNNAMED_EXTENSION);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&unnamed)
            .map_err(LedgerError::io("creating", &unnamed))?;
        let bytes = header.to_bytes();
        let end = bytes.len() as u64;
        let file = Arc::new(file);
        let mut writing = Writing {
            file: Arc::clone(&file),
            header,
            path: unnamed.clone(),
            end: 0,
            allocated: 0,
        };
        writing.write(&bytes, self.sizes.preallocated_bytes)?;
        file.sync_all().map_err(LedgerError::io("syncing", &unnamed))?;
        fs::rename(&unnamed, &path).map_err(LedgerError::io("naming", &path))?;
        sync_directory(&self.dir)?;
        writing.path = path.clone();
        debug_assert_eq!(writing.end, end);
        let mut index = self.index.write().expect("no holder of this lock panics");
        index.push(Segment::new(header, &path, Vec::new(), Some(file)));
        Ok(writing)
    }
}

impl Segment {
    fn new(header: Header, path: &Path, offsets: Vec<u32>, file: Option<Arc<File>>) -> Self {
        Self { header, path: path.to_owned(), offsets, file }
    }

    /// Height after its last record.
    fn end(&self) -> u64 {
        self.header.first_height + self.offsets.len() as u64
    }
}

impl Writing {
    /// Writes at the end and makes it durable.
    fn write(&mut self, bytes: &[u8], step: u64) -> Result<(), LedgerError> {
        let needed = self.end + bytes.len() as u64;
        if needed > self.allocated {
            let length = (needed - self.allocated).max(step);
            preallocate(&self.file, self.allocated, length)
                .map_err(LedgerError::io("preallocating", &self.path))?;
            self.allocated += length;
        }
        self.file
            .write_all_at(bytes, self.end)
            .map_err(LedgerError::io("appending to", &self.path))?;
        self.file.sync_data().map_err(LedgerError::io("syncing", &self.path))?;
        self.end = needed;
        Ok(())
    }
}

/// Reserves space, so that appends change no metadata; file systems without the call just grow.
fn preallocate(file: &File, from: u64, length: u64) -> Result<(), std::io::Error> {
    let (offset, len) = (from.cast_signed(), length.cast_signed());
    match fallocate(file, FallocateFlags::empty(), offset, len) {
        Ok(()) => Ok(()),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => file.set_len(from + length),
        Err(e) => Err(e.into()),
    }
}

/// The segment files by first height; files that never got their name are removed.
fn segment_files(dir: &Path) -> Result<Vec<(u64, PathBuf)>, LedgerError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(LedgerError::io("reading", dir))? {
        let path = entry.map_err(LedgerError::io("reading", dir))?.path();
        let extension = path.extension().and_then(|e| e.to_str());
        if extension == Some(UNNAMED_EXTENSION) {
            fs::remove_file(&path).map_err(LedgerError::io("removing", &path))?;
        } else if extension == Some(EXTENSION) {
            let first = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok());
            let first = first.ok_or_else(|| {
                LedgerError::damaged(&path, "its name is not a height of 20 digits")
            })?;
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

fn sync_directory(dir: &Path) -> Result<(), LedgerError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(LedgerError::io("syncing the directory", dir))
}

const EXTENSION: &str = "seg";
const UNNAMED_EXTENSION: &str = "new";
