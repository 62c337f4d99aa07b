//! What is read from outside the processes: CPU time, memory, bytes written; and the two yardsticks
//! of a run, one signature verification and one sync of the disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use nix::sys::stat::major;
use nix::sys::stat::minor;
use nix::time::ClockId;
use nix::time::clock_gettime;
use nix::unistd::SysconfVar;
use nix::unistd::sysconf;

use crate::crypto::Check;
use crate::crypto::known_answers::Example;
use crate::crypto::routing::Crypto;
use crate::types::signature::Algorithm;

/// Use of the machine by a set of processes since they started; memory is the largest of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Resident set of the largest process, bytes.
    pub resident_max: u64,
}

/// Reads `/proc` of the processes; those that are gone count nothing.
pub fn usage(pids: &[u32]) -> Usage {
    let mut total = Usage::default();
    for pid in pids {
        total.cpu += cpu(*pid).unwrap_or_default();
        let resident = field(*pid, "status", "VmRSS:").unwrap_or(0) * 1024;
        total.resident_max = total.resident_max.max(resident);
    }
    total
}

/// CPU time of one signature verification as the nodes do it, microseconds.
pub fn verification_us(crypto: &Crypto, algorithm: Algorithm) -> f64 {
    let example = Example::of(algorithm);
    let check =
        Check { key: &example.public, message: example.message, signature: &example.signature };
    let key = crypto.key(check.key);
    let (mut best, mut rounds) = (f64::MAX, 0);
    while rounds < VERIFY_ROUNDS {
        let before = thread_cpu();
        for _ in 0..VERIFY_CALLS {
            std::hint::black_box(key.verify(check.message, check.signature));
        }
        let spent = thread_cpu().saturating_sub(before);
        best = best.min(spent.as_secs_f64() * 1e6 / f64::from(VERIFY_CALLS));
        rounds += 1;
    }
    best
}

/// Bytes written so far to the block device under `folder`, by anyone; `None` where the file system
/// has no device of its own. A process's own count (`write_bytes` in `/proc`) is no use: it counts
/// whole large folios of the page cache for every small append.
pub fn device_written(folder: &Path) -> Option<u64> {
    let device = std::fs::metadata(folder).ok()?.dev();
    let (major, minor) = (major(device), minor(device));
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    // Field 7: sectors of 512 bytes (kernel, Documentation/block/stat.rst).
    let sectors: u64 = stat.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * 512)
}

/// Median time of appending 4 KiB to a new file and syncing it, milliseconds; 0 where the folder
/// cannot be written.
pub fn sync_ms(folder: &Path) -> f64 {
    let path = folder.join("sync-probe");
    let Ok(file) = File::create(&path) else { return 0.0 };
    let block = [7; 4096];
    let mut times: Vec<f64> = (0..SYNCS)
        .filter_map(|at| {
            let start = Instant::now();
            file.write_all_at(&block, at * block.len() as u64).ok()?;
            file.sync_data().ok()?;
            Some(start.elapsed().as_secs_f64() * 1000.0)
        })
        .collect();
    let _ = std::fs::remove_file(&path);
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn cpu(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces; times are fields 14 and 15 of the line.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let per_second = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    Some(Duration::from_micros(ticks * 1_000_000 / per_second.max(1)))
}

fn field(pid: u32, file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

const VERIFY_ROUNDS: u32 = 7;
const VERIFY_CALLS: u32 = 500;
const SYNCS: u64 = 100;
