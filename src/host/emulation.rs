//! Whether this processor is played by a program: figures taken there say nothing of the machine.
//!
//! Sources: the link `/proc/thread-self/exe`, which QEMU's user mode does not rewrite (it does
//! rewrite `/proc/self/exe`); the hypervisor leaf of CPUID; `/proc/sysinfo`, whose manufacturer is
//! "QEMU" under QEMU's translator and "IBM" under KVM; on Power the device tree, where only KVM
//! leaves a node `hypervisor`.

use std::fs;

use crate::host::tree::Tree;

/// What plays the processor; `None` where the processor is real, also under a hypervisor.
pub fn emulated_by(tree: &Tree) -> Option<String> {
    let translator = "QEMU, all instructions translated";
    user_mode(tree).or_else(|| {
        let sysinfo = tree.text("proc/sysinfo");
        let maker = sysinfo.lines().find_map(|line| line.strip_prefix("Manufacturer:"));
        let cpuinfo = tree.text("proc/cpuinfo");
        let power = cpuinfo.contains("(emulated by qemu)")
            && !tree.exists("proc/device-tree/hypervisor/compatible");
        let translated = maker.is_some_and(|maker| maker.trim() == "QEMU")
            || power
            || cpuinfo.contains("QEMU TCG CPU")
            || (tree.is_machine() && cpuid_names_tcg());
        translated.then(|| translator.to_owned())
    })
}

/// A program of another architecture under `qemu-<architecture>`.
fn user_mode(tree: &Tree) -> Option<String> {
    let program = fs::read_link(tree.path("proc/thread-self/exe")).ok()?;
    let name = program.file_name()?.to_str()?;
    name.starts_with("qemu-").then(|| format!("QEMU user mode ({name})"))
}

#[cfg(target_arch = "x86_64")]
fn cpuid_names_tcg() -> bool {
    let leaf = std::arch::x86_64::__cpuid(HYPERVISOR_LEAF);
    let name = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
    name.as_flattened() == b"TCGTCGTCGTCG"
}

#[cfg(target_arch = "x86_64")]
const HYPERVISOR_LEAF: u32 = 0x4000_0000;

#[cfg(not(target_arch = "x86_64"))]
fn cpuid_names_tcg() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::recorded::put;

    fn machine(files: &[(&str, &str)]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            put(folder.path(), path, text.as_bytes());
        }
        emulated_by(&Tree::below(folder.path()))
    }

    /// Aim: a translated processor is told from a virtual one on each architecture.
    #[test]
    fn translation_is_told_from_virtualisation() {
        let sysinfo = |maker| format!("Manufacturer:         {maker}\nType:  3931\n");
        assert!(machine(&[("proc/sysinfo", &sysinfo("QEMU"))]).is_some());
        assert_eq!(machine(&[("proc/sysinfo", &sysinfo("IBM"))]), None);
        let power = ("proc/cpuinfo", "model\t\t: IBM pSeries (emulated by qemu)\n");
        assert!(machine(&[power]).is_some());
        let kvm = ("proc/device-tree/hypervisor/compatible", "linux,kvm");
        assert_eq!(machine(&[power, kvm]), None);
        let x86 = |name| format!("model name\t: {name}\nflags\t: hypervisor\n");
        assert!(machine(&[("proc/cpuinfo", &x86("QEMU TCG CPU version 2.5+"))]).is_some());
        assert_eq!(machine(&[("proc/cpuinfo", &x86("AMD EPYC"))]), None);
    }

    /// Aim: QEMU's user mode is seen by the program that really runs.
    #[test]
    fn user_mode_is_seen_by_its_program() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("proc/thread-self/exe");
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/usr/bin/qemu-s390x-static", &link).unwrap();
        let found = emulated_by(&Tree::below(folder.path())).unwrap();
        assert!(found.contains("qemu-s390x-static"), "{found}");
    }
}
