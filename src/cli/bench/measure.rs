//! How things are measured: repeated runs of an operation in this process; CPU time, memory and
//! written bytes of others; and the two yardsticks of a run, one signature verification and one
//! sync of the disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use clap::Args;
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

/// How long a bench takes.
#[derive(Args, Clone, Copy, Debug)]
pub struct Effort {
    /// Runs of each row; the report gives their median, least and greatest
    #[arg(long, value_name = "N", default_value_t = 7)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Milliseconds of one run of a small operation
    #[arg(long, value_name = "MS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=60_000))]
    run_ms: u64,
}

/// One run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Wall time of one operation, microseconds.
    pub wall_us: f64,
    /// CPU time of one operation, all threads of this process, microseconds.
    pub cpu_us: f64,
    /// Operations.
    pub count: u64,
}

/// Wall and CPU time from a moment on.
pub struct Watch {
    wall: Instant,
    cpu: Duration,
}

impl Watch {
    /// From now on.
    pub fn start() -> Self {
        Self { wall: Instant::now(), cpu: process_cpu() }
    }

    /// What each of `count` operations took since then.
    pub fn per(&self, count: u64) -> Sample {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / count.max(1) as f64;
        let wall_us = each(self.wall.elapsed());
        Sample { wall_us, cpu_us: each(process_cpu().saturating_sub(self.cpu)), count }
    }
}

impl Effort {
    /// Runs `operation`, which does `items` of what is counted, for one warm-up and all runs.
    pub fn sample(&self, items: usize, mut operation: impl FnMut()) -> Vec<Sample> {
        let window = Duration::from_millis(self.run_ms);
        operation();
        let warm = Instant::now();
        operation();
        // The clock is read once for many short operations.
        let between = CLOCK_EVERY.as_nanos() / warm.elapsed().as_nanos().max(1);
        let between = between.clamp(1, BETWEEN_CLOCKS_MAX);
        let run = |_| {
            let (watch, mut rounds) = (Watch::start(), 0);
            while rounds == 0 || watch.wall.elapsed() < window {
                for _ in 0..between {
                    operation();
                    rounds += 1;
                }
            }
            watch.per(rounds * items as u64)
        };
        (0..self.runs).map(run).collect()
    }

    /// Number of runs.
    pub fn runs(&self) -> u32 {
        self.runs
    }
}

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
    let mut times = syncs(folder, SYNCS);
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

/// Times of appending 4 KiB to a new file and syncing it, milliseconds; none where the folder
/// cannot be written.
pub fn syncs(folder: &Path, count: u64) -> Vec<f64> {
    let path = folder.join(format!("obelisk-sync-probe-{}", std::process::id()));
    let Ok(file) = File::create_new(&path) else { return Vec::new() };
    let block = [7; 4096];
    let times = (0..count)
        .filter_map(|at| {
            let start = Instant::now();
            file.write_all_at(&block, at * block.len() as u64).ok()?;
            file.sync_data().ok()?;
            Some(start.elapsed().as_secs_f64() * 1000.0)
        })
        .collect();
    let _ = std::fs::remove_file(&path);
    times
}

fn process_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
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
const CLOCK_EVERY: Duration = Duration::from_micros(200);
const BETWEEN_CLOCKS_MAX: u128 = 4096;
