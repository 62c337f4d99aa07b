//! The demo's processes: one `obelisk node` per validator, in a session of its own, so that it
//! outlives the terminal.
//!
//! ```text
//! node.pid   process id <space> start time in clock ticks <space> boot id
//! ```
//!
//! A process id alone may have passed to another process; with the time it started and the boot it
//! started in, it is the one we started or it is nobody. Nothing else is ever signalled.

use std::fs;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::cli::demo::place;
use crate::cli::demo::place::Place;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;

/// A running validator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    started: u64,
}

/// The process of validator number `i`, from 0, where it runs.
pub fn running(place: &Place, i: usize) -> Option<Process> {
    let text = fs::read_to_string(place.file(i, PID_FILE)).ok()?;
    let mut words = text.split_whitespace();
    let pid = words.next()?.parse().ok()?;
    let started = words.next()?.parse().ok()?;
    let process = Process { pid, started };
    (words.next() == Some(&boot()) && process.is_alive()).then_some(process)
}

/// Starts validator number `i`, from 0. Its output goes to its log, which is appended to.
pub fn start(place: &Place, i: usize) -> Result<Child, Failure> {
    let program = std::env::current_exe().map_err(|error| {
        let cause = format!("cannot find this program's own file: {error}");
        Failure::new(Exit::Internal, cause, "call it by its full path")
    })?;
    let path = place.file(i, LOG_FILE);
    let log = fs::File::options().create(true).append(true).open(&path);
    let log = log.map_err(|error| place::unreadable("open", &path, &error))?;
    let errors = log.try_clone().map_err(|error| place::unreadable("open", &path, &error))?;
    let mut command = Command::new(&program);
    command.args(["demo", DETACHED]).arg(place.file(i, super::network::NODE_FILE));
    command.current_dir(place.validator(i));
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    let child = command.spawn().map_err(|error| {
        let cause = format!("cannot start {}: {error}", program.display());
        Failure::new(Exit::Internal, cause, "check this user's limit of processes (ulimit -u)")
    })?;
    let pid = child.id();
    let started = stat(pid).map_or(0, |stat| stat.started);
    let path = place.file(i, PID_FILE);
    let text = format!("{pid} {started} {}\n", boot());
    fs::write(&path, text).map_err(|error| place::unreadable("write", &path, &error))?;
    Ok(child)
}

/// What `start` runs: leaves the caller's session, then becomes the node. The process keeps its id
/// and start time.
pub fn detached(config: &Path) -> Failure {
    let failed = |doing: &str, error: &dyn std::fmt::Display| {
        let cause = format!("cannot {doing}: {error}");
        Failure::new(Exit::Internal, cause, "see the system's log")
    };
    if let Err(error) = nix::unistd::setsid() {
        return failed("leave the session", &error);
    }
    match std::env::current_exe() {
        Ok(program) => {
            let error = Command::new(program).args(["node", "--config"]).arg(config).exec();
            failed("become a node", &error)
        }
        Err(error) => failed("find this program's own file", &error),
    }
}

/// Sends a signal to a process that is still the one we started.
pub fn signal(process: &Process, signal: Signal) -> Result<(), Failure> {
    let Ok(pid) = i32::try_from(process.pid) else { return Ok(()) };
    if !process.is_alive() {
        return Ok(());
    }
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => {
            let cause = format!("cannot signal the process {pid}: {error}");
            Err(Failure::new(Exit::Refused, cause, "run this as the user who started the demo"))
        }
    }
}

/// Waits until a process is gone; false when it is not within `wait`.
pub fn gone_within(process: &Process, wait: Duration) -> bool {
    let end = Instant::now() + wait;
    while process.is_alive() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(POLL_EVERY);
    }
    true
}

/// The last lines of a validator's log.
pub fn log_tail(place: &Place, i: usize) -> String {
    let read = |path: PathBuf| -> io::Result<String> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read(place.file(i, LOG_FILE)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    match last.is_empty() {
        true => "  (its log is empty)".to_owned(),
        false => last.iter().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n"),
    }
}

impl Process {
    /// True while it runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && !stat.ended)
    }

    /// Memory in use, bytes; 0 where it cannot be read.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

struct Stat {
    ended: bool,
    started: u64,
}

/// State and start time of a process, proc_pid_stat(5): fields 3 and 22. Field 2 may hold spaces
/// and parentheses, so counting begins behind its last parenthesis.
fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X" | "x");
    Some(Stat { ended, started: fields.nth(18)?.parse().ok()? })
}

fn boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    match text.trim() {
        "" => "unknown".to_owned(),
        text => text.to_owned(),
    }
}

/// The hidden word of `detached`.
pub const DETACHED: &str = "detached-node";
/// What a validator says goes here, in its organisation's folder.
pub const LOG_FILE: &str = "node.log";
const PID_FILE: &str = "node.pid";
const POLL_EVERY: Duration = Duration::from_millis(20);
const TAIL_BYTES: u64 = 16 * 1024;
const TAIL_LINES: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;

    /// A program's name may hold anything; the fields behind it are still found.
    #[test]
    fn stat_lines_are_read_behind_the_name() {
        let rest = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        let read = |state: &str| parse_stat(&format!("7 (a) b ( c) {state} {rest}")).unwrap();
        assert!(!read("S").ended && read("Z").ended);
        assert_eq!(read("R").started, 4242);
        assert!(parse_stat("7 (cut off) S 1 2").is_none());
    }

    /// A process id that passed to another process is not taken for ours.
    #[test]
    fn only_the_process_that_was_started_counts() {
        let me = stat(std::process::id()).unwrap();
        let process = Process { pid: std::process::id(), started: me.started };
        assert!(process.is_alive() && process.resident_bytes() > 0);
        assert!(!Process { started: me.started + 1, ..process }.is_alive());
    }
}
