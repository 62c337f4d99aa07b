//! The few file operations of the slot guard, so that tests can make each of them fail.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

/// An open log.
pub trait LogFile: Send {
    /// Writes all bytes at an offset.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts or extends the file.
    fn set_len(&mut self, len: u64) -> io::Result<()>;

    /// Returns when everything written, and the length, is on the medium.
    fn sync(&mut self) -> io::Result<()>;
}

impl LogFile for File {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Makes a folder for this user alone, and those above it, where they are missing.
pub fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes `path` hold exactly `bytes`, or leaves it as it was: temporary file, sync, rename, sync of
/// the directory. Returns the open file.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<File> {
    Place::open(path)?.fill(bytes)
}

/// A file on its way to its path: beside it, under a temporary name.
pub struct Place {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
}

impl Place {
    /// A place whose folder takes `len` bytes: they are zeros so far, and on the medium.
    pub fn reserve(path: &Path, len: usize) -> io::Result<Self> {
        let place = Self::open(path)?;
        let written = place.file.write_all_at(&vec![0; len], 0);
        match written.and_then(|()| place.file.sync_all()) {
            Ok(()) => Ok(place),
            Err(error) => {
                place.leave();
                Err(error)
            }
        }
    }

    fn open(path: &Path) -> io::Result<Self> {
        let temporary = with_suffix(path, ".new");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        Ok(Self { path: path.to_owned(), temporary, file })
    }

    /// Puts the bytes there and the file in its path.
    pub fn fill(self, bytes: &[u8]) -> io::Result<File> {
        self.file.write_all_at(bytes, 0)?;
        self.file.sync_all()?;
        fs::rename(&self.temporary, &self.path)?;
        let directory = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(self.file)
    }

    /// Removes what was reserved.
    pub fn leave(self) {
        // What stays behind holds zeros alone.
        let _ = fs::remove_file(self.temporary);
    }
}

/// Opens, and makes where missing, the lock file beside the log. The log itself cannot carry the
/// lock: a rewrite replaces it.
pub fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(with_suffix(path, ".lock"))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
