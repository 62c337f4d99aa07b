//! Recorded trees of `/proc` and `/sys` from different machines.

use std::fs;
use std::path::Path;

use super::*;

fn below(root: &Path, architecture: Architecture) -> Host {
    look(&Tree::below(root), architecture, None)
}

fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

fn auxv(pairs: &[(u64, u64)]) -> Vec<u8> {
    pairs.iter().flat_map(|(k, v)| [k.to_ne_bytes(), v.to_ne_bytes()].concat()).collect()
}

const X86_CPUINFO: &[u8] = b"processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Processor\n\
flags\t\t: fpu aes pclmulqdq avx2 sha_ni vaes\n\nprocessor\t: 1\n\
model name\t: Intel(R) Xeon(R) Processor\nflags\t\t: fpu aes avx2 sha_ni\n";

const MEMINFO: &[u8] = b"MemTotal:       16393216 kB\nMemFree:         1000000 kB\n\
HugePages_Total:       3\nHugepagesize:       2048 kB\n";

/// A small virtual machine: two threads, no limits.
#[test]
fn x86_virtual_machine() {
    let auxv = auxv(&[(16, 1), (AT_PAGESZ, 4096), (0, 0)]);
    let folder = tree(&[
        ("proc/cpuinfo", X86_CPUINFO),
        ("proc/meminfo", MEMINFO),
        ("proc/self/cgroup", b"0::/\n"),
        ("proc/self/auxv", &auxv),
        ("sys/devices/system/cpu/online", b"0-1\n"),
        ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", b"0-1\n"),
        ("sys/devices/system/node/online", b"0\n"),
    ]);
    let host = below(folder.path(), Architecture::X86_64);
    assert_eq!(host.processor, "Intel(R) Xeon(R) Processor");
    assert_eq!((host.threads, host.cores, host.threads_usable, host.numa_nodes), (2, 1, 2, 1));
    assert_eq!(host.memory_bytes, 16_393_216 * 1024);
    assert_eq!(host.memory_usable_bytes, host.memory_bytes);
    assert_eq!((host.page_bytes, host.huge_page_bytes, host.huge_pages), (4096, 2 << 20, 3));
    assert_eq!(host.crypto.names, ["sha_ni", "aes", "vaes", "pclmulqdq", "avx2"]);
    assert!(host.crypto.sha256 && host.crypto.aes && !host.crypto.ecdsa);
    assert_eq!(host.remarks, Vec::<String>::new());
}

/// In a container the tightest limit on the way to the root counts.
#[test]
fn container_limits_count() {
    let folder = tree(&[
        ("proc/cpuinfo", X86_CPUINFO),
        ("proc/meminfo", b"MemTotal: 67108864 kB\n"),
        ("proc/self/cgroup", b"0::/machine.slice/node-1\n"),
        ("proc/self/status", b"Name:\tobelisk\nCpus_allowed_list:\t0-5,8\n"),
        ("sys/devices/system/cpu/online", b"0-15\n"),
        ("sys/fs/cgroup/machine.slice/node-1/memory.max", b"max\n"),
        ("sys/fs/cgroup/machine.slice/node-1/cpu.max", b"350000 100000\n"),
        ("sys/fs/cgroup/machine.slice/memory.max", b"2147483648\n"),
        ("sys/fs/cgroup/machine.slice/cpu.max", b"max 100000\n"),
    ]);
    let host = below(folder.path(), Architecture::X86_64);
    assert_eq!((host.threads, host.threads_usable), (16, 4));
    assert_eq!(host.memory_usable_bytes, 2 << 30);
    fs::write(folder.path().join("sys/fs/cgroup/machine.slice/node-1/cpu.max"), "max 100000")
        .unwrap();
    assert_eq!(below(folder.path(), Architecture::X86_64).threads_usable, 7);
}

/// IBM Z: processors are numbered otherwise, assists are facility bits.
#[test]
fn ibm_z() {
    let cpuinfo = b"vendor_id       : IBM/S390\n# processors    : 2\nbogomips per cpu: 3241.00\n\
features\t: esan3 zarch stfle msa ldisp eimm vx vxe vxe2 sie\n\
facilities      : 0 1 2 17 57 76 77 129 146 155\n\
processor 0: version = 00,  identification = 0133E8,  machine = 8561\n\
processor 1: version = 00,  identification = 0133E8,  machine = 8561\n";
    let folder = tree(&[("proc/cpuinfo", cpuinfo), ("proc/meminfo", b"MemTotal: 8388608 kB\n")]);
    let host = below(folder.path(), Architecture::S390x);
    assert_eq!((host.processor.as_str(), host.threads), ("IBM Z type 8561", 2));
    let names = ["msa", "vx", "vxe", "vxe2", "sie", "msa3", "msa4", "msa5", "msa8", "msa9"];
    assert_eq!(host.crypto.names, names);
    assert!(!host.crypto.sha256 && !host.crypto.ecdsa, "facility bits alone prove nothing");
    let look = |info| look(&Tree::below(folder.path()), Architecture::S390x, Some(info)).crypto;
    let z16 = look(crate::host::cpacf::Z16);
    assert!(z16.sha256 && z16.aes && z16.ecdsa && z16.told_by.contains("query"));
    let emulated = look(crate::host::cpacf::EMULATED);
    assert!(!emulated.sha256 && !emulated.aes && !emulated.ecdsa);
}

/// A recorded tree tells its own processor family.
#[test]
fn recorded_machines_tell_their_family() {
    for (name, architecture, huge) in [
        ("linuxone-lpar", Architecture::S390x, 1 << 20),
        ("power-lpar", Architecture::Ppc64le, 2 << 20),
        ("x86-server", Architecture::X86_64, 2 << 20),
    ] {
        let (_folder, tree) = crate::host::recorded::machine(name);
        let host = detect_tree(&tree, None);
        assert_eq!((host.architecture, host.huge_page_bytes), (architecture, huge), "{name}");
    }
}

/// Power: vector crypto is told by the auxiliary vector; pages have 64 KiB.
#[test]
fn power() {
    let auxv = auxv(&[(AT_PAGESZ, 65536), (AT_HWCAP2, 0x0220_0000)]);
    let cpuinfo = b"processor\t: 0\ncpu\t\t: POWER10 (architected), altivec supported\n\
processor\t: 1\ncpu\t\t: POWER10 (architected), altivec supported\n";
    let folder = tree(&[
        ("proc/cpuinfo", cpuinfo),
        ("proc/meminfo", b"MemTotal: 8388608 kB\n"),
        ("proc/self/auxv", &auxv),
        ("sys/devices/system/node/online", b"0,8\n"),
    ]);
    let host = below(folder.path(), Architecture::Ppc64le);
    assert_eq!(host.crypto.names, ["vcrypto", "darn"]);
    assert_eq!((host.page_bytes, host.threads, host.numa_nodes), (65536, 2, 2));
    assert!(host.processor.starts_with("POWER10"));
}

/// Nothing readable, or nonsense: cautious values, remarks, no panic.
#[test]
fn unreadable_trees_are_survived() {
    let host = below(Path::new("/nonexistent"), Architecture::X86_64);
    assert_eq!((host.threads, host.threads_usable, host.page_bytes), (1, 1, 4096));
    assert_eq!(host.remarks.len(), 3);
    let folder = tree(&[
        ("proc/cpuinfo", &[0xff; 100]),
        ("proc/meminfo", b"MemTotal: lots\nMemTotal:"),
        ("proc/self/auxv", &[6; 33]),
        ("proc/self/cgroup", b"0::/../../../etc\n"),
        ("sys/devices/system/cpu/online", b"5-2,,-,18446744073709551615-0"),
        ("sys/fs/cgroup/cpu.max", b"18446744073709551615 0"),
        ("sys/fs/cgroup/memory.max", b"-1"),
    ]);
    assert_eq!(below(folder.path(), Architecture::X86_64).threads, 1);
}

/// This machine gives plausible values.
#[test]
fn this_machine() {
    let host = detect(None);
    assert!(host.threads_usable >= 1 && host.threads_usable <= host.threads);
    assert!(host.memory_usable_bytes > 64 << 20 && host.page_bytes >= 4096);
}
