//! Which hardware thread lies where: cores, packages, books and drawers of IBM Z, NUMA nodes,
//! caches.
//!
//! With the feature `hwloc` the machine is asked through libhwloc (`topology/hwloc.rs`); without
//! it, and for recorded trees, `/sys/devices/system` is read here. Both give the same value for the
//! same machine; a test compares them on recorded machines.
//!
//! Numbers of cores, packages, books, drawers and caches are dense and in the order of the first
//! hardware thread in each: two machines with the same shape compare equal, whatever ids their
//! firmware gave. NUMA nodes keep their number, since the operator uses it (`numactl`).

#[cfg(feature = "hwloc")]
pub mod hwloc;

use std::collections::BTreeMap;

use crate::host::tree::Tree;

/// One hardware thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Number of the operating system.
    pub id: usize,
    /// Core.
    pub core: usize,
    /// Package: socket, or chip of IBM Z.
    pub package: usize,
    /// Book, on IBM Z.
    pub book: Option<usize>,
    /// Drawer, on IBM Z.
    pub drawer: Option<usize>,
    /// NUMA node, by the system's number.
    pub numa: usize,
    /// Which of the largest shared caches it uses.
    pub cache: usize,
}

/// A machine's online hardware threads, ascending by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The threads; never empty for a readable machine.
    pub processors: Vec<Processor>,
}

impl Topology {
    /// This machine, by libhwloc where the build has it.
    pub fn of_machine() -> Self {
        #[cfg(feature = "hwloc")]
        match hwloc::of_machine() {
            Ok(topology) if !topology.processors.is_empty() => return topology,
            Ok(_) => tracing::warn!("hwloc sees no processor; reading /sys instead"),
            Err(reason) => tracing::warn!(%reason, "hwloc failed; reading /sys instead"),
        }
        Self::of_tree(&Tree::machine())
    }

    /// A machine's `/sys/devices/system`.
    pub fn of_tree(tree: &Tree) -> Self {
        let online = tree.list("sys/devices/system/cpu/online").unwrap_or_else(|| vec![0]);
        let nodes = nodes_of(tree);
        let found: Vec<Raw> = online.iter().map(|id| raw(tree, *id, &nodes)).collect();
        Self::from_raw(found)
    }

    /// How many different values the threads have.
    pub fn count<T: Ord>(&self, of: impl Fn(&Processor) -> Option<T>) -> usize {
        self.processors.iter().filter_map(of).collect::<std::collections::BTreeSet<T>>().len()
    }

    /// Cores.
    pub fn cores(&self) -> usize {
        self.count(|p| Some(p.core))
    }

    /// Only the threads of that list; what the process may use.
    pub fn within(&self, allowed: &[usize]) -> Self {
        let inside = |p: &&Processor| allowed.contains(&p.id);
        Self { processors: self.processors.iter().filter(inside).copied().collect() }
    }

    /// One line: `16 threads, 8 cores, 5 packages, 3 books, 2 drawers, 1 NUMA node`.
    pub fn described(&self) -> String {
        let counts = [
            (self.processors.len(), "thread"),
            (self.cores(), "core"),
            (self.count(|p| Some(p.package)), "package"),
            (self.count(|p| p.book), "book"),
            (self.count(|p| p.drawer), "drawer"),
            (self.count(|p| Some(p.numa)), "NUMA node"),
        ];
        let told = counts.iter().filter(|(count, _)| *count > 0);
        let told = told.map(|(n, what)| format!("{n} {what}{}", if *n == 1 { "" } else { "s" }));
        told.collect::<Vec<_>>().join(", ")
    }

    /// Dense numbers from the ids that firmware and kernel give.
    fn from_raw(mut found: Vec<Raw>) -> Self {
        found.sort_by_key(|raw| raw.id);
        let mut drawers = Dense::default();
        let mut books = Dense::default();
        let mut packages = Dense::default();
        let mut cores = Dense::default();
        let mut caches = Dense::default();
        let processors = found.iter().map(|raw| Processor {
            id: raw.id,
            core: cores.number(raw.core.clone()),
            package: packages.number(raw.package.clone()),
            book: raw.book.clone().map(|id| books.number(id)),
            drawer: raw.drawer.clone().map(|id| drawers.number(id)),
            numa: raw.numa,
            cache: caches.number(raw.cache.clone()),
        });
        Self { processors: processors.collect() }
    }
}

/// A thread with ids that are distinct within the machine and mean nothing else.
struct Raw {
    id: usize,
    core: Vec<u64>,
    package: Vec<u64>,
    book: Option<Vec<u64>>,
    drawer: Option<Vec<u64>>,
    numa: usize,
    cache: Vec<u64>,
}

/// Numbers ids in the order in which they come.
#[derive(Default)]
struct Dense(BTreeMap<Vec<u64>, usize>);

impl Dense {
    fn number(&mut self, id: Vec<u64>) -> usize {
        let next = self.0.len();
        *self.0.entry(id).or_insert(next)
    }
}

fn nodes_of(tree: &Tree) -> BTreeMap<usize, usize> {
    let mut nodes = BTreeMap::new();
    for node in tree.list("sys/devices/system/node/online").unwrap_or_default() {
        let path = format!("sys/devices/system/node/node{node}/cpulist");
        for processor in tree.list(&path).unwrap_or_default() {
            nodes.insert(processor, node);
        }
    }
    nodes
}

/// Ids of the kernel count within the next larger part only, so each is prefixed by those above.
fn raw(tree: &Tree, id: usize, nodes: &BTreeMap<usize, usize>) -> Raw {
    let base = format!("sys/devices/system/cpu/cpu{id}");
    let at = |name: &str| tree.number(&format!("{base}/topology/{name}"));
    let drawer = at("drawer_id").map(|drawer| vec![drawer]);
    let within = |above: &Option<Vec<u64>>, id: u64| {
        let mut path = above.clone().unwrap_or_default();
        path.push(id);
        path
    };
    let book = at("book_id").map(|book| within(&drawer, book));
    // A hypervisor may hide packages; the kernel then writes -1 or nothing.
    let package = within(&book, at("physical_package_id").unwrap_or(0));
    let core = match at("core_id") {
        Some(core) => within(&Some(package.clone()), core),
        None => within(&Some(package.clone()), id as u64),
    };
    let cache = cache(tree, &base).map_or_else(|| package.clone(), |first| vec![first]);
    Raw { id, core, package, book, drawer, numa: nodes.get(&id).copied().unwrap_or(0), cache }
}

/// The first thread of those that share the largest data cache.
fn cache(tree: &Tree, base: &str) -> Option<u64> {
    let folder = format!("{base}/cache");
    let largest = tree
        .names(&folder)
        .into_iter()
        .filter_map(|name| {
            let level = tree.number(&format!("{folder}/{name}/level"))?;
            let first = first_of_mask(&tree.text(&format!("{folder}/{name}/shared_cpu_map")))?;
            Some((level, first))
        })
        .max_by_key(|(level, _)| *level)?;
    Some(largest.1)
}

/// Lowest bit of a kernel mask, `00000000,0000ff00`: words of 32 bits, highest first.
fn first_of_mask(mask: &str) -> Option<u64> {
    for (word, digits) in (0_u64..).zip(mask.rsplit(',')) {
        let bits = u32::from_str_radix(digits.trim(), 16).ok()?;
        if bits != 0 {
            return Some(word * 32 + u64::from(bits.trailing_zeros()));
        }
    }
    None
}

#[cfg(test)]
mod tests;
