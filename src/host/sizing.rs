//! What the node takes of the machine: threads and memory, as plain values.
//!
//! ```text
//! memory = usable - reserve                      reserve: system, page cache, other processes
//!        = node's fixed part (256 MiB at most) + memtables + block cache
//! ```
//!
//! Below 8 GiB the node is small: all of it stays under 600 MB, so that four validators of a demo
//! fit a laptop. From there the formulas follow the storage measurements: memtables 6 % of memory,
//! block cache from what is left, four tenths of it below 32 GiB, where the page cache serves
//! better. Thread counts leave the consensus thread a hardware thread of its own where there are
//! enough.

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
    /// Whether reads and compaction should bypass the page cache.
    pub direct_io: bool,
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
    let memory = if memory < SMALL_BYTES { small() } else { large(memory) };
    Sizing {
        // On two threads both verify: the pool runs below the consensus thread's priority anyway.
        verify_threads: if threads <= 2 { threads } else { threads - 1 }.min(VERIFY_THREADS_MAX),
        tokio_threads: (threads / 4).clamp(1, TOKIO_THREADS_MAX),
        background_jobs: (threads / 4 + 1).clamp(2, 32),
        ..memory
    }
}

fn small() -> Sizing {
    Sizing {
        cache_bytes: 64 * MIB,
        memtables_total_bytes: 64 * MIB,
        memtable_bytes: 16 * MIB,
        memtables: 3,
        ..BASE
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
};

const MIB: usize = 1 << 20;
const GIB: u64 = 1 << 30;
/// Below this a node stays under 600 MB in all.
const SMALL_BYTES: u64 = 8 * GIB;
/// More threads than this only wait for work: a network of 25,000 transactions a second needs less.
const VERIFY_THREADS_MAX: usize = 64;
const TOKIO_THREADS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::host::detect::Architecture;
    use crate::host::detect::detect_below;

    fn host(threads: usize, memory: u64) -> Host {
        Host {
            threads,
            cores: threads,
            threads_usable: threads,
            memory_bytes: memory,
            memory_usable_bytes: memory,
            ..detect_below(Path::new("/nonexistent"), Architecture::Other)
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

    /// A small machine keeps the node below 600 MB: storage takes 128 MiB.
    #[test]
    fn small_hosts_stay_small() {
        let s = share(&host(2, 15 * GIB), 4);
        assert_eq!(s.cache_bytes + s.memtables_total_bytes, 128 * MIB);
        assert_eq!((s.verify_threads, s.tokio_threads), (1, 1));
        assert_eq!(size(&host(2, 4 * GIB)).verify_threads, 2);
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
