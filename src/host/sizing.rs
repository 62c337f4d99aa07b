//! What the node takes of the machine: threads and memory, as plain values.
//!
//! ```text
//! memory = usable - reserve                      reserve: system, page cache, other processes
//!        = node's fixed part (256 MiB at most) + memtables + block cache
//! ```
//!
//! Below 8 GiB the node is small: all of it stays under 600 MB, so that four validators of a demo
//! fit a laptop; below 2 GiB storage takes half of that. From there the formulas follow the storage
//! measurements: memtables 6 % of memory, block cache from what is left, four tenths of it below
//! 32 GiB, where the page cache serves better. Thread counts leave the consensus thread a hardware
//! thread of its own where there are enough.

use crate::host::detect::Host;

/// Threads and memory of a node's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizing {
    /// Threads of the verification pool.
    pub verify_threads: usize,
    /// Worker threads of the network and API runtime.
    pub tokio_threads: usize,
    /// RocksDB block cache, bytes.
    pub cache_bytes: usize,
    /// All memtables together, bytes.
    pub memtables_total_bytes: usize,
    /// One memtable of the state, bytes.
    pub memtable_bytes: usize,
    /// Memtables of one table.
    pub memtables: usize,
    /// Background jobs: flush and compaction.
    pub background_jobs: usize,
    /// Whether reads and compaction bypass the page cache.
    pub direct_io: bool,
    /// Size of the huge pages that memtables take, bytes; 0 where too few are set aside.
    pub huge_page_bytes: usize,
    /// What the state tree may grow to, bytes; `tree_keys` tells for how many keys.
    pub tree_bytes: u64,
}

impl Sizing {
    /// Keys of the world state whose tree fits `tree_bytes`.
    pub fn tree_keys(&self) -> u64 {
        self.tree_bytes / TREE_BYTES_PER_KEY
    }
}

/// Sizes for one node that has the machine to itself.
pub fn size(host: &Host) -> Sizing {
    share(host, 1)
}

/// Sizes for one of `nodes` nodes on the same machine.
pub fn share(host: &Host, nodes: usize) -> Sizing {
    let nodes = nodes.max(1);
    let threads = (host.threads_usable / nodes).max(1);
    let memory = host.memory_usable_bytes / nodes as u64;
    let memory = if memory < SMALL_BYTES { small(memory) } else { large(memory) };
    // Nodes that share few threads are rarely busy at once: each may use two.
    let least = host.threads_usable.min(2);
    let set_aside = host.huge_pages.saturating_mul(host.huge_page_bytes as u64) / nodes as u64;
    let fits = set_aside >= memory.memtables_total_bytes as u64;
    let verify = if threads <= 2 { threads } else { threads - 1 };
    Sizing {
        verify_threads: verify.clamp(least, VERIFY_THREADS_MAX),
        // Two, so that one slow handler does not hold up the links.
        tokio_threads: (threads / 4).clamp(least, TOKIO_THREADS_MAX),
        background_jobs: (threads / 4 + 1).clamp(2, 32),
        huge_page_bytes: if fits { host.huge_page_bytes } else { 0 },
        ..memory
    }
}

fn small(memory: u64) -> Sizing {
    let tree_bytes = memory / 4;
    match memory < TINY_BYTES {
        true => Sizing {
            cache_bytes: 64 * MIB,
            memtables_total_bytes: 64 * MIB,
            memtable_bytes: 16 * MIB,
            memtables: 3,
            tree_bytes,
            ..BASE
        },
        false => Sizing {
            cache_bytes: 128 * MIB,
            memtables_total_bytes: 96 * MIB,
            memtable_bytes: 32 * MIB,
            memtables: 2,
            tree_bytes,
            ..BASE
        },
    }
}

fn large(memory: u64) -> Sizing {
    let reserve = (memory / 20).max(GIB);
    let apps = (memory * 3 / 20).min(64 * GIB);
    let memtables = (memory * 6 / 100).clamp(GIB / 4, 32 * GIB);
    // The state tree takes as much again as the node's other parts, at most a quarter of it all.
    let tree = memory / 4;
    let left = memory.saturating_sub(reserve + apps + memtables + tree);
    let cache = if memory < 32 * GIB { left * 2 / 5 } else { left };
    Sizing {
        cache_bytes: bytes(cache.max(64 * MIB as u64)),
        memtables_total_bytes: bytes(memtables),
        memtable_bytes: bytes((memtables / 8).clamp(64 * MIB as u64, GIB)),
        memtables: 4,
        direct_io: memory >= 64 * GIB,
        tree_bytes: tree,
        ..BASE
    }
}

/// Memory beyond the address space cannot be sized for.
fn bytes(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

const BASE: Sizing = Sizing {
    verify_threads: 1,
    tokio_threads: 1,
    cache_bytes: 0,
    memtables_total_bytes: 0,
    memtable_bytes: 0,
    memtables: 0,
    background_jobs: 2,
    direct_io: false,
    huge_page_bytes: 0,
    tree_bytes: 0,
};

const MIB: usize = 1 << 20;
const GIB: u64 = 1 << 30;
/// Below this a node stays under 600 MB in all.
const SMALL_BYTES: u64 = 8 * GIB;
/// Below this storage takes half of what a small node has.
const TINY_BYTES: u64 = 2 * GIB;
/// Leaf, its share of the inner nodes and of the table's slack; estimated from the record's size.
const TREE_BYTES_PER_KEY: u64 = 160;
/// More threads than this only wait for work: a network of 25,000 transactions a second needs less.
const VERIFY_THREADS_MAX: usize = 64;
const TOKIO_THREADS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::detect::detect_tree;
    use crate::host::tree::Tree;

    fn host(threads: usize, memory: u64) -> Host {
        Host {
            threads,
            cores: threads,
            threads_usable: threads,
            memory_bytes: memory,
            memory_usable_bytes: memory,
            huge_pages: 0,
            ..detect_tree(&Tree::below("/nonexistent"), None)
        }
    }

    /// Whatever the machine, storage takes less than the memory and every value is usable.
    #[test]
    fn sizes_fit_every_machine() {
        for threads in [1, 2, 3, 4, 16, 192, 2048] {
            for shift in 27..44 {
                for nodes in [1, 4] {
                    let memory = 1_u64 << shift;
                    let s = share(&host(threads, memory), nodes);
                    assert!(s.verify_threads >= 1 && s.tokio_threads >= 1, "{s:?}");
                    assert!(s.memtable_bytes * 2 <= s.memtables_total_bytes, "{s:?}");
                    assert!(s.memtables >= 2 && s.background_jobs >= 2, "{s:?}");
                    let storage = (s.cache_bytes + s.memtables_total_bytes) as u64;
                    if memory / nodes as u64 >= GIB {
                        assert!(storage * nodes as u64 <= memory * 3 / 4, "{memory} {s:?}");
                    }
                }
            }
        }
    }

    /// A small machine keeps the node below 600 MB: storage takes 224 MiB, or 128 MiB.
    #[test]
    fn small_hosts_stay_small() {
        let s = share(&host(2, 15 * GIB), 4);
        assert_eq!(s.cache_bytes + s.memtables_total_bytes, 224 * MIB);
        assert_eq!((s.verify_threads, s.tokio_threads), (2, 2));
        let tiny = size(&host(1, GIB));
        assert_eq!(tiny.cache_bytes + tiny.memtables_total_bytes, 128 * MIB);
        assert_eq!((tiny.verify_threads, tiny.tokio_threads), (1, 1));
    }

    /// Huge pages are taken where enough are set aside for every node.
    #[test]
    fn huge_pages_are_taken_where_enough_are_set_aside() {
        let with =
            |pages| Host { huge_page_bytes: 2 * MIB, huge_pages: pages, ..host(16, 64 * GIB) };
        let wanted = 64 * GIB * 6 / 100 / (2 << 20) + 1;
        assert_eq!(size(&with(wanted)).huge_page_bytes, 2 * MIB);
        assert_eq!(size(&with(wanted / 2)).huge_page_bytes, 0);
        assert_eq!(share(&with(wanted + 1), 2).huge_page_bytes, 2 * MIB);
        assert_eq!(size(&host(16, 64 * GIB)).huge_page_bytes, 0);
    }

    /// The size classes of the storage design.
    #[test]
    fn large_hosts_follow_the_formulas() {
        let x86 = size(&host(16, 64 * GIB));
        assert!(x86.direct_io && x86.background_jobs == 5 && x86.verify_threads == 15);
        assert_eq!(x86.memtables_total_bytes as u64, 64 * GIB * 6 / 100);
        let power = size(&host(192, 4096 * GIB));
        assert_eq!(power.memtables_total_bytes as u64, 32 * GIB);
        assert_eq!((power.memtable_bytes as u64, power.background_jobs), (GIB, 32));
    }
}
