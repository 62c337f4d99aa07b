//! Which thread runs where: a plan over the cores, its application, and the proof by reading back.
//!
//! ```text
//! cores, nearest to the log disk first
//!   consensus   one core alone, with the thread that syncs its log
//!   line        one core: execute, commit, votes, batches, batcher, catch-up
//!   network     an eighth: links and interfaces
//!   background  an eighth: flush and compaction of RocksDB
//!   verify      the rest: signature checks
//! ```
//!
//! Below `PINNED_CORES_MIN` cores nothing is pinned: parts that wait for each other would only
//! wait longer. Cores are taken in the order node of the log disk, drawer, book, package, so that
//! the parts of the line share caches; signature checks, which share nothing, get what is left.
//! Core 0 is not given to consensus: interrupts arrive there. Threads are found by name in
//! `/proc/self/task`, so no station knows of this, and threads that RocksDB starts later are placed
//! at the next `apply`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nix::sched::CpuSet;
use nix::sched::sched_setaffinity;
use nix::unistd::Pid;

use crate::host::topology::Processor;
use crate::host::topology::Topology;
use crate::host::tree;
use crate::host::tree::Tree;

/// A part of the node that gets processors of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The consensus driver.
    Consensus,
    /// The stations between admission and publication.
    Line,
    /// Links to peers and clients.
    Network,
    /// Flush and compaction.
    Background,
    /// Signature checks.
    Verify,
}

/// Which processors each part gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Processors by part, ascending; empty where nothing is pinned.
    pub parts: BTreeMap<Part, Vec<usize>>,
    /// Why it is so, for the operator.
    pub reason: String,
}

/// A thread and the processors it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Thread id.
    pub thread: i32,
    /// Its name.
    pub name: String,
    /// Its part; `None` for threads that are left to the system.
    pub part: Option<Part>,
    /// Processors that the kernel lets it use, read back.
    pub processors: Vec<usize>,
}

impl Part {
    /// Every part, in the order in which cores are given.
    pub const ALL: [Self; 5] =
        [Self::Consensus, Self::Line, Self::Network, Self::Background, Self::Verify];

    /// The name in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Consensus => "consensus",
            Self::Line => "line",
            Self::Network => "network",
            Self::Background => "background",
            Self::Verify => "verify",
        }
    }

    /// The part of a thread, by the name that the thread gave itself.
    pub fn of_thread(name: &str) -> Option<Self> {
        let family = name.split(['-', ':']).next().unwrap_or(name);
        match family {
            "consensus" | "wal" => Some(Self::Consensus),
            "execute" | "commit" | "votes" | "batches" | "batcher" | "catch" => Some(Self::Line),
            "network" => Some(Self::Network),
            "rocksdb" => Some(Self::Background),
            "verify" => Some(Self::Verify),
            _ => None,
        }
    }
}

impl Plan {
    /// A plan for one node on those processors. `home` is the NUMA node of the disk that holds the
    /// ledger, where it is known.
    pub fn new(topology: &Topology, home: Option<usize>) -> Self {
        let cores = cores_in_order(topology, home);
        let count = cores.len();
        if count < PINNED_CORES_MIN {
            let plural = if count == 1 { "" } else { "s" };
            let reason = format!(
                "{count} core{plural}: nothing is pinned, the system schedules (from \
                 {PINNED_CORES_MIN} cores on each part gets its own)"
            );
            return Self { parts: BTreeMap::new(), reason };
        }
        let eighth = (count / 8).max(1);
        let shares = [1, 1, eighth, eighth, usize::MAX];
        let mut rest = cores.iter();
        let mut parts = BTreeMap::new();
        for (part, share) in Part::ALL.into_iter().zip(shares) {
            let taken = rest.by_ref().take(share).flatten();
            let mut processors: Vec<usize> = taken.map(|p| p.id).collect();
            processors.sort_unstable();
            parts.insert(part, processors);
        }
        let place = match home {
            Some(node) => format!("near the log disk's NUMA node {node}"),
            None => "the log disk's NUMA node is not known".to_owned(),
        };
        Self { parts, reason: format!("{count} cores: consensus has one of its own, {place}") }
    }

    /// True where threads are bound.
    pub fn is_pinned(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Processors of a part; empty where nothing is pinned.
    pub fn processors(&self, part: Part) -> &[usize] {
        self.parts.get(&part).map_or(&[], Vec::as_slice)
    }

    /// Binds every thread of this process that has a part, and reads all of them back.
    pub fn apply(&self) -> Vec<Placed> {
        let threads = threads(&Tree::machine(), "self");
        for thread in &threads {
            if let Some(wanted) = self.missed(thread)
                && let Err(reason) = bind(thread.thread, wanted)
            {
                let name = &thread.name;
                tracing::warn!(thread = name, %reason, "a thread is not on its processors");
            }
        }
        self::threads(&Tree::machine(), "self")
    }

    /// Processors that a thread should be on and is not; `None` where it is right, or left to the
    /// system.
    pub fn missed(&self, thread: &Placed) -> Option<&[usize]> {
        let wanted = self.processors(thread.part?);
        (!wanted.is_empty() && thread.processors != wanted).then_some(wanted)
    }
}

/// The threads of a process with what the kernel says of their processors. `process` is a number,
/// or `self`.
pub fn threads(tree: &Tree, process: &str) -> Vec<Placed> {
    let folder = format!("proc/{process}/task");
    let placed = tree.names(&folder).into_iter().filter_map(|id| {
        let thread = id.parse().ok()?;
        let name = tree.text(&format!("{folder}/{id}/comm"));
        let status = tree.text(&format!("{folder}/{id}/status"));
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        let processors = tree::list(list)?;
        Some(Placed { thread, part: Part::of_thread(&name), name, processors })
    });
    placed.collect()
}

/// The NUMA node of the device under a directory; `None` where the system does not say.
pub fn node_of_disk(tree: &Tree, directory: &Path) -> Option<usize> {
    use std::os::unix::fs::MetadataExt;

    let device = fs::metadata(directory).ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let link = fs::canonicalize(tree.path(&format!("sys/dev/block/{major}:{minor}"))).ok()?;
    let node = |folder: &Path| -> Option<usize> {
        fs::read_to_string(folder.join("numa_node")).ok()?.trim().parse().ok()
    };
    // A partition lies in its disk, the disk below its controller; the kernel writes -1 for "none".
    link.ancestors().find_map(|folder| node(folder).or_else(|| node(&folder.join("device"))))
}

fn bind(thread: i32, processors: &[usize]) -> nix::Result<()> {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor)?;
    }
    sched_setaffinity(Pid::from_raw(thread), &set)
}

/// Cores with their threads: the home node first, then drawer by drawer, so that neighbours in the
/// list are near each other. The machine's first core goes behind the first two.
fn cores_in_order(topology: &Topology, home: Option<usize>) -> Vec<Vec<Processor>> {
    let mut cores: BTreeMap<usize, Vec<Processor>> = BTreeMap::new();
    for processor in &topology.processors {
        cores.entry(processor.core).or_default().push(*processor);
    }
    let mut cores: Vec<Vec<Processor>> = cores.into_values().collect();
    cores.sort_by_key(|threads| {
        let first = threads[0];
        let away = home.is_some_and(|node| node != first.numa);
        (away, first.numa, first.drawer, first.book, first.package, first.cache, first.id)
    });
    if cores.len() > 2 && cores[0].iter().any(|p| p.id == 0) {
        cores[..3].rotate_left(1);
    }
    cores
}

/// Fewer cores are not divided: consensus, line, network and background have one each, and at
/// least one is left for signature checks.
const PINNED_CORES_MIN: usize = 6;

#[cfg(test)]
mod tests;
