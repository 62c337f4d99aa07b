//! `obelisk bench host`: what a validator asks of the machine below it: syncs, clocks, memory,
//! waking another thread; the last also with the threads bound to cores, where there are several.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::time::Instant;
use std::time::SystemTime;

use clap::Args;
use nix::sched::CpuSet;
use nix::sched::sched_setaffinity;
use nix::unistd::Pid;

use crate::cli::Context;
use crate::cli::bench::chain::Scratch;
use crate::cli::bench::machine::Machine;
use crate::cli::bench::measure;
use crate::cli::bench::measure::Effort;
use crate::cli::bench::measure::Sample;
use crate::cli::bench::report::Destination;
use crate::cli::bench::report::Report;
use crate::cli::bench::report::Row;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::host::detect;
use crate::host::topology::Topology;
use crate::types::digest::Digest;

#[derive(Args, Debug)]
pub struct Arguments {
    /// The disk that is measured
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    effort: Effort,
    #[command(flatten)]
    to: Destination,
}

pub fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let scratch = Scratch::new(arguments.data.as_deref())?;
    let machine = Machine::this(Some(scratch.path()));
    let effort = &arguments.effort;
    let mut rows = Vec::new();
    let syncs: Vec<f64> = measure::syncs(scratch.path(), u64::from(effort.runs()) * SYNCS)
        .chunks(SYNCS as usize)
        .map(|run| 1000.0 * run.iter().sum::<f64>() / run.len() as f64)
        .collect();
    let count = syncs.len() as u64 * SYNCS;
    rows.push(Row::values("host::fdatasync/bytes=4096", "us", count, syncs));
    let monotonic = effort.sample(1, || {
        black_box(Instant::now());
    });
    rows.push(Row::times("host::clock_read/clock=monotonic", &monotonic));
    let wall = effort.sample(1, || {
        black_box(SystemTime::now());
    });
    rows.push(Row::times("host::clock_read/clock=realtime", &wall));
    memory(effort, &mut rows);
    let topology = Topology::of_machine();
    for (name, on) in placements(&topology) {
        let samples = wakeups(effort, on)?;
        rows.push(Row::times(format!("host::wakeup/threads={name}"), &samples));
    }
    for (name, on) in work_placements(&machine) {
        let samples = work(effort, on)?;
        rows.push(Row::times(format!("host::work/thread={name}"), &samples));
    }
    Report::new("host", machine, rows).deliver(&arguments.to, context)
}

/// Megabytes per second of one thread over memory that no cache holds.
fn memory(effort: &Effort, rows: &mut Vec<Row>) {
    let from = vec![1_u64; MEMORY_BYTES / 8];
    let mut to = vec![0_u64; MEMORY_BYTES / 8];
    let mut add = |operation: &str, samples: &[Sample]| {
        let count = samples.iter().map(|sample| sample.count).sum();
        let rates = samples.iter().map(|s| MEMORY_BYTES as f64 / s.wall_us.max(0.001)).collect();
        let name = format!("host::memory_{operation}/bytes={MEMORY_BYTES}");
        rows.push(Row::values(name, "MB/s", count, rates));
    };
    let read = effort.sample(1, || {
        black_box(black_box(&from).iter().fold(0, |sum: u64, word| sum ^ word));
    });
    add("read", &read);
    let copy = effort.sample(1, || black_box(&mut to).copy_from_slice(black_box(&from)));
    add("copy", &copy);
}

/// Where two threads that wake each other run: processors of the first and of the second, or
/// nothing where the system chooses.
type Pair = Option<(usize, usize)>;

fn placements(topology: &Topology) -> Vec<(&'static str, Pair)> {
    let mut found = vec![("unbound", None)];
    let allowed = detect::detect(None).allowed;
    let usable: Vec<_> = topology.processors.iter().filter(|p| allowed.contains(&p.id)).collect();
    let Some(first) = usable.first() else { return found };
    found.push(("one-processor", Some((first.id, first.id))));
    let second = |fits: &dyn Fn(usize, usize) -> bool| {
        usable.iter().find(|p| p.id != first.id && fits(p.core, p.numa)).map(|p| p.id)
    };
    let sibling = second(&|core, _| core == first.core);
    let neighbour = second(&|core, numa| core != first.core && numa == first.numa);
    let far = second(&|_, numa| numa != first.numa);
    let pairs = [("one-core", sibling), ("two-cores", neighbour), ("two-nodes", far)];
    found.extend(pairs.into_iter().filter_map(|(name, to)| Some((name, Some((first.id, to?))))));
    found
}

/// One way of waking another thread: half of a round through two channels.
fn wakeups(effort: &Effort, on: Pair) -> Result<Vec<Sample>, Failure> {
    let (ask, asked): (Sender<()>, Receiver<()>) = mpsc::channel();
    let (answer, answered) = mpsc::channel();
    let other = std::thread::spawn(move || -> Result<(), Failure> {
        on.map_or(Ok(()), |(_, second)| bind(second))?;
        while asked.recv().is_ok() {
            if answer.send(()).is_err() {
                break;
            }
        }
        Ok(())
    });
    let effort = *effort;
    let first = std::thread::spawn(move || -> Result<Vec<Sample>, Failure> {
        on.map_or(Ok(()), |(first, _)| bind(first))?;
        let samples = effort.sample(2, || {
            if ask.send(()).is_ok() {
                let _ = answered.recv();
            }
        });
        Ok(samples)
    });
    let samples = first.join().map_err(|_| stopped())??;
    other.join().map_err(|_| stopped())??;
    Ok(samples)
}

fn work_placements(machine: &Machine) -> Vec<(&'static str, Option<usize>)> {
    let mut found = vec![("unbound", None)];
    let allowed = detect::detect(None).allowed;
    // With one processor there is nothing to choose.
    if let (Some(last), true) = (allowed.last(), machine.threads_usable > 1) {
        found.push(("bound", Some(*last)));
    }
    found
}

/// A fixed piece of work, 1 MiB of SHA-256: how much it varies between runs shows what binding a
/// thread to a processor is worth here.
fn work(effort: &Effort, on: Option<usize>) -> Result<Vec<Sample>, Failure> {
    let effort = *effort;
    let thread = std::thread::spawn(move || -> Result<Vec<Sample>, Failure> {
        on.map_or(Ok(()), bind)?;
        let text = vec![7; 1 << 20];
        Ok(effort.sample(1, || {
            black_box(Digest::of(&[black_box(&text)]));
        }))
    });
    thread.join().map_err(|_| stopped())?
}

fn bind(processor: usize) -> Result<(), Failure> {
    let mut set = CpuSet::new();
    let bound = set.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    bound.map_err(|error| {
        let cause = format!("cannot bind a thread to processor {processor}: {error}");
        Failure::new(Exit::Internal, cause, "run it outside of a container that forbids it")
    })
}

fn stopped() -> Failure {
    Failure::new(Exit::Internal, "a measuring thread stopped", "report it")
}

const SYNCS: u64 = 40;
const MEMORY_BYTES: usize = 64 << 20;
