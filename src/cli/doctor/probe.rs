//! The measurements on the running machine.

use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use nix::fcntl::OFlag;
use nix::sys::statfs;
use nix::sys::statvfs;
use nix::unistd::geteuid;

use crate::cli::doctor::scope::Drift;
use crate::cli::doctor::scope::Probes;
use crate::cli::doctor::scope::Space;
use crate::host::clock;
use crate::signer::remote;

/// Probes of this machine.
pub fn live() -> Probes {
    Probes {
        syncs,
        space,
        file_system,
        drift,
        direct_io,
        signer: remote::status,
        user: geteuid().as_raw(),
        now_ms: clock::now_ms(),
    }
}

/// A file that is removed again, whatever happens in between.
struct Scratch(PathBuf);

impl Scratch {
    fn open(directory: &Path, flags: OFlag) -> io::Result<(Self, std::fs::File)> {
        let path = directory.join(format!(".doctor-{}", std::process::id()));
        let mut options = OpenOptions::new();
        options.create_new(true).write(true).mode(0o600).custom_flags(flags.bits());
        let file = options.open(&path)?;
        Ok((Self(path), file))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind is empty of meaning and named after the doctor.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn syncs(directory: &Path) -> io::Result<Vec<Duration>> {
    let (_scratch, mut file) = Scratch::open(directory, OFlag::empty())?;
    let page = [0x5a; 4096];
    // Written ahead, as the node's logs are: a sync that allocates is another thing.
    for _ in 0..SYNCS {
        file.write_all(&page)?;
    }
    file.sync_all()?;
    io::Seek::rewind(&mut file)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let start = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    Ok(times)
}

fn space(directory: &Path) -> io::Result<Space> {
    let found = statvfs::statvfs(directory)?;
    let unit = found.fragment_size();
    Ok(Space {
        free_bytes: found.blocks_available().saturating_mul(unit),
        total_bytes: found.blocks().saturating_mul(unit),
        free_files: found.files_available(),
        total_files: found.files(),
    })
}

fn file_system(directory: &Path) -> io::Result<&'static str> {
    let kind = statfs::statfs(directory)?.filesystem_type();
    let known = [
        (statfs::TMPFS_MAGIC, "tmpfs"),
        (statfs::NFS_SUPER_MAGIC, "nfs"),
        (statfs::OVERLAYFS_SUPER_MAGIC, "overlay"),
        (statfs::EXT4_SUPER_MAGIC, "ext4"),
        (statfs::XFS_SUPER_MAGIC, "xfs"),
        (statfs::BTRFS_SUPER_MAGIC, "btrfs"),
        (statfs::FUSE_SUPER_MAGIC, "fuse"),
    ];
    Ok(known.iter().find(|(magic, _)| *magic == kind).map_or("another", |(_, name)| name))
}

fn drift() -> Drift {
    let (start, wall) = (Instant::now(), SystemTime::now());
    let mut last = start;
    let mut backwards = false;
    while start.elapsed() < DRIFT_SAMPLE {
        std::thread::sleep(DRIFT_SAMPLE / 20);
        let now = Instant::now();
        backwards |= now < last;
        last = now;
    }
    let by_wall = wall.elapsed().unwrap_or(Duration::MAX);
    let apart = by_wall.abs_diff(start.elapsed());
    Drift { backwards, apart }
}

fn direct_io(directory: &Path) -> io::Result<()> {
    Scratch::open(directory, OFlag::O_DIRECT).map(drop)
}

/// Appends measured: enough for a median and a ninth decile, little enough for a slow disk.
const SYNCS: usize = 40;
const DRIFT_SAMPLE: Duration = Duration::from_millis(200);
