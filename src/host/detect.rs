//! What the machine offers: cores, memory, limits of the container, page size, crypto instructions.
//!
//! Sources: `/proc/cpuinfo`, `/proc/meminfo`, `/proc/self/{cgroup,auxv}`, `/sys/fs/cgroup`
//! (version 2, walked from the process's group to the root: the tightest limit counts),
//! `/sys/devices/system/{cpu,node}`; on IBM Z the query masks that
//! libcrypto reports (`cpacf`). What is missing gets a cautious value and a remark.

use std::path::PathBuf;

use crate::host::cpacf::Cpacf;
use crate::host::tree;
use crate::host::tree::Tree;

/// Processor family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    X86_64,
    /// IBM Z and LinuxONE, big-endian.
    S390x,
    /// IBM Power, little-endian.
    Ppc64le,
    /// Another one: everything works, nothing is tuned.
    Other,
}

/// Instructions that speed up what a ledger does most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CryptoFeatures {
    /// Names as the kernel gives them, in a fixed order: `sha_ni`, `avx2`, `msa`, `vcrypto`...
    pub names: Vec<&'static str>,
    /// SHA-256 in hardware.
    pub sha256: bool,
    /// AES in hardware.
    pub aes: bool,
    /// Elliptic-curve signatures in hardware (KDSA of IBM z15 and later).
    pub ecdsa: bool,
    /// Where this is known from.
    pub told_by: &'static str,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Processor family.
    pub architecture: Architecture,
    /// Processor name, for people.
    pub processor: String,
    /// Hardware threads that are online.
    pub threads: usize,
    /// Cores; equal to `threads` where the topology is hidden.
    pub cores: usize,
    /// Threads that this process may use at once: the machine's, the container's quota rounded up,
    /// its set of processors; at least 1.
    pub threads_usable: usize,
    /// Numbers of the processors that this process may run on; empty where it is not known.
    pub allowed: Vec<usize>,
    /// NUMA nodes; at least 1.
    pub numa_nodes: usize,
    /// Memory of the machine, bytes.
    pub memory_bytes: u64,
    /// Memory that this process may use: the machine's or the container's limit.
    pub memory_usable_bytes: u64,
    /// Memory page, bytes.
    pub page_bytes: usize,
    /// Huge page, bytes; 0 where there are none.
    pub huge_page_bytes: usize,
    /// Huge pages set aside by the operator.
    pub huge_pages: u64,
    /// Crypto instructions.
    pub crypto: CryptoFeatures,
    /// What could not be read or looks wrong, for the operator.
    pub remarks: Vec<String>,
}

/// Looks at this machine. `cpu_info` is what libcrypto says of the processor
/// (`OPENSSL_CPU_INFO`): on IBM Z the only honest source, since facility bits promise functions
/// that the query of the instruction may deny.
pub fn detect(cpu_info: Option<&str>) -> Host {
    look(&Tree::machine(), this_architecture(), cpu_info)
}

/// Looks at a tree: this machine's or a recorded one, whose `proc/sys/kernel/arch` tells the
/// processor family (Linux 6.1 and later write it).
pub fn detect_tree(tree: &Tree, cpu_info: Option<&str>) -> Host {
    let architecture = match tree.text("proc/sys/kernel/arch").as_str() {
        "x86_64" => Architecture::X86_64,
        "s390x" => Architecture::S390x,
        "ppc64le" => Architecture::Ppc64le,
        "" => this_architecture(),
        _ => Architecture::Other,
    };
    look(tree, architecture, cpu_info)
}

fn look(tree: &Tree, architecture: Architecture, cpu_info: Option<&str>) -> Host {
    let mut remarks = Vec::new();
    let cpuinfo = tree.text("proc/cpuinfo");
    let threads = threads(tree, &cpuinfo).unwrap_or_else(|| {
        remarks.push("the number of processors cannot be read; assuming 1".to_owned());
        1
    });
    let meminfo = tree.text("proc/meminfo");
    let memory_bytes = kilobytes(&meminfo, "MemTotal:").unwrap_or_else(|| {
        remarks.push("the size of the memory cannot be read; assuming 2 GiB".to_owned());
        MEMORY_ASSUMED_BYTES
    });
    let limits = container_limits(tree);
    let allowed = allowed(tree);
    let threads_usable = threads
        .min(limits.threads.unwrap_or(threads))
        .min(allowed.as_ref().map_or(threads, Vec::len))
        .max(1);
    if threads_usable < 2 {
        remarks.push("one processor thread: consensus and verification share it".to_owned());
    }
    Host {
        architecture,
        processor: processor(&cpuinfo),
        threads,
        cores: cores(tree, threads),
        threads_usable,
        allowed: allowed.unwrap_or_default(),
        numa_nodes: tree.list("sys/devices/system/node/online").map_or(1, |nodes| nodes.len()),
        memory_bytes,
        memory_usable_bytes: memory_bytes.min(limits.memory_bytes.unwrap_or(memory_bytes)),
        page_bytes: page_bytes(tree),
        huge_page_bytes: kilobytes(&meminfo, "Hugepagesize:")
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(0),
        huge_pages: tree::field(&meminfo, "HugePages_Total:").unwrap_or(0),
        crypto: crypto(architecture, &cpuinfo, tree, cpu_info),
        remarks,
    }
}

impl Architecture {
    /// The kernel's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::S390x => "s390x",
            Self::Ppc64le => "ppc64le",
            Self::Other => "other",
        }
    }
}

fn this_architecture() -> Architecture {
    match std::env::consts::ARCH {
        "x86_64" => Architecture::X86_64,
        "s390x" => Architecture::S390x,
        "powerpc64" => Architecture::Ppc64le,
        _ => Architecture::Other,
    }
}

fn threads(tree: &Tree, cpuinfo: &str) -> Option<usize> {
    let online = tree.list("sys/devices/system/cpu/online").map(|list| list.len());
    // x86 and Power write one "processor : n" per thread, IBM Z "processor n: ...".
    let named = cpuinfo.lines().filter(|line| {
        line.strip_prefix("processor").is_some_and(|rest| {
            rest.trim_start_matches([' ', '\t']).starts_with([':', '0'])
                || rest.trim_start().starts_with(|c: char| c.is_ascii_digit())
        })
    });
    online.or_else(|| Some(named.count()).filter(|count| *count > 0))
}

fn allowed(tree: &Tree) -> Option<Vec<usize>> {
    let status = tree.text("proc/self/status");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    tree::list(list)
}

fn cores(tree: &Tree, threads: usize) -> usize {
    let siblings = tree.list("sys/devices/system/cpu/cpu0/topology/thread_siblings_list");
    (threads / siblings.map_or(1, |siblings| siblings.len())).max(1)
}

fn processor(cpuinfo: &str) -> String {
    let value = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    value("model name")
        .or_else(|| {
            // IBM Z: the machine type stands in each processor's line.
            let first = value("processor 0")?;
            let (_, machine) = first.rsplit_once("machine = ")?;
            Some(format!("IBM Z type {}", machine.trim()))
        })
        .or_else(|| value("cpu\t"))
        .or_else(|| value("cpu"))
        .unwrap_or_else(|| "unknown".to_owned())
}

#[derive(Default)]
struct ContainerLimits {
    threads: Option<usize>,
    memory_bytes: Option<u64>,
}

fn container_limits(tree: &Tree) -> ContainerLimits {
    let groups = tree.text("proc/self/cgroup");
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let mut limits = ContainerLimits::default();
    // A group is also bound by all groups above it.
    let mut path = PathBuf::from("sys/fs/cgroup").join(own.trim_start_matches('/'));
    while path.starts_with("sys/fs/cgroup") {
        let read = |name: &str| tree.text(&path.join(name).to_string_lossy());
        if let Ok(bytes) = read("memory.max").parse() {
            limits.memory_bytes = Some(limits.memory_bytes.map_or(bytes, |b: u64| b.min(bytes)));
        }
        if let Some(threads) = quota(&read("cpu.max")) {
            limits.threads = Some(limits.threads.map_or(threads, |t| t.min(threads)));
        }
        if !path.pop() {
            break;
        }
    }
    limits
}

/// `cpu.max` is "quota period" in microseconds, or "max period".
fn quota(cpu_max: &str) -> Option<usize> {
    let (quota, period) = cpu_max.split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    if period == 0 {
        return None;
    }
    usize::try_from(quota.div_ceil(period)).ok().map(|threads| threads.max(1))
}

fn page_bytes(tree: &Tree) -> usize {
    let auxv = auxiliary(tree, AT_PAGESZ);
    auxv.and_then(|bytes| usize::try_from(bytes).ok())
        .filter(|bytes| bytes.is_power_of_two())
        .unwrap_or(PAGE_ASSUMED_BYTES)
}

/// A value of the auxiliary vector: pairs of machine words, in the machine's byte order.
fn auxiliary(tree: &Tree, key: u64) -> Option<u64> {
    let bytes = tree.bytes("proc/self/auxv");
    bytes.chunks_exact(16).find_map(|pair| {
        let word = |at: usize| u64::from_ne_bytes(pair[at..at + 8].try_into().expect("8 bytes"));
        (word(0) == key).then(|| word(8))
    })
}

fn crypto(
    architecture: Architecture,
    cpuinfo: &str,
    tree: &Tree,
    cpu_info: Option<&str>,
) -> CryptoFeatures {
    match architecture {
        Architecture::X86_64 => x86(cpuinfo),
        Architecture::S390x => s390x(cpuinfo, cpu_info.and_then(Cpacf::parse)),
        Architecture::Ppc64le => power(tree),
        Architecture::Other => CryptoFeatures::default(),
    }
}

fn x86(cpuinfo: &str) -> CryptoFeatures {
    let flags = words(cpuinfo, "flags");
    let has = |name: &str| flags.contains(&name);
    let names = X86_NAMES.iter().copied().filter(|name| has(name)).collect();
    let told_by = "/proc/cpuinfo";
    CryptoFeatures { names, sha256: has("sha_ni"), aes: has("aes"), ecdsa: false, told_by }
}

/// The facility bits say which assists are installed; whether each function is really offered only
/// the query of the instruction tells. Without the answer of libcrypto nothing is claimed.
fn s390x(cpuinfo: &str, cpacf: Option<Cpacf>) -> CryptoFeatures {
    let features = words(cpuinfo, "features");
    let facilities = words(cpuinfo, "facilities");
    let mut names: Vec<&'static str> =
        S390X_NAMES.iter().copied().filter(|name| features.contains(name)).collect();
    for (bit, name) in S390X_FACILITIES {
        if facilities.contains(bit) {
            names.push(name);
        }
    }
    let told_by = match cpacf {
        Some(_) => "query masks of the instructions, by libcrypto",
        None => "facility bits only: the functions are not proved",
    };
    let cpacf = cpacf.unwrap_or_default();
    let (sha256, aes, ecdsa) = (cpacf.sha256(), cpacf.aes_gcm(), cpacf.ecdsa_p256());
    CryptoFeatures { names, sha256, aes, ecdsa, told_by }
}

fn power(tree: &Tree) -> CryptoFeatures {
    let hwcap2 = auxiliary(tree, AT_HWCAP2).unwrap_or(0);
    let names = POWER_NAMES.iter().filter(|(bit, _)| hwcap2 & bit != 0).map(|(_, n)| *n).collect();
    let vector_crypto = hwcap2 & POWER_VECTOR_CRYPTO != 0;
    let told_by = "the auxiliary vector";
    CryptoFeatures { names, sha256: vector_crypto, aes: vector_crypto, ecdsa: false, told_by }
}

fn words<'a>(cpuinfo: &'a str, name: &str) -> Vec<&'a str> {
    let line = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value)
    });
    line.map(|value| value.split_whitespace().collect()).unwrap_or_default()
}

fn kilobytes(meminfo: &str, name: &str) -> Option<u64> {
    tree::field(meminfo, name)?.checked_mul(1024)
}

const X86_NAMES: &[&str] =
    &["sha_ni", "aes", "vaes", "pclmulqdq", "vpclmulqdq", "avx2", "avx512f", "bmi2", "adx"];
const S390X_NAMES: &[&str] = &["msa", "vx", "vxe", "vxe2", "sie"];
/// Facility bits of the message-security assist (z/Architecture Principles of Operation).
const S390X_FACILITIES: &[(&str, &str)] =
    &[("76", "msa3"), ("77", "msa4"), ("57", "msa5"), ("146", "msa8"), ("155", "msa9")];
const POWER_VECTOR_CRYPTO: u64 = 0x0200_0000;
const POWER_NAMES: &[(u64, &str)] = &[(POWER_VECTOR_CRYPTO, "vcrypto"), (0x0020_0000, "darn")];
const AT_PAGESZ: u64 = 6;
const AT_HWCAP2: u64 = 26;
const MEMORY_ASSUMED_BYTES: u64 = 2 << 30;
const PAGE_ASSUMED_BYTES: usize = 4096;

#[cfg(test)]
mod tests;
