//! Every profile parses and says all it must; recorded machines are compared.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::host::detect;
use crate::host::devices;
use crate::host::profile::compare::Compared;
use crate::host::profile::compare::compare;
use crate::host::profile::topic::Topic;
use crate::host::recorded;
use crate::host::sizing;
use crate::host::tree::Tree;

fn compared(profile: &str, tree: &Tree) -> Result<Vec<Compared>, ProfileError> {
    let host = detect::detect_tree(tree, None);
    compare(&named(profile).unwrap(), tree, &host, &sizing::size(&host))
}

fn misfits(profile: &str, tree: &Tree) -> Vec<String> {
    let all = compared(profile, tree).unwrap();
    all.into_iter().filter(|c| !c.fits).map(|c| c.setting.name).collect()
}

const TRANSLATED: &str = "Manufacturer:         QEMU\nType:                 3931\n";
const KVM_SYSINFO: &str = "Manufacturer:         IBM\nType:                 3931\n\
                           LPAR Name:            OBELISK1\nVM00 Control Program: KVM/Linux\n";

/// A machine that the profile is for.
fn machine_of(profile: &Profile) -> (tempfile::TempDir, Tree) {
    let (recorded, files): (&str, &[(&str, &str)]) = match profile.surroundings[0] {
        Surroundings::Lpar => ("linuxone-lpar", &[]),
        Surroundings::Kvm if profile.architecture == "s390x" => {
            ("linuxone-lpar", &[("proc/sysinfo", KVM_SYSINFO)])
        }
        Surroundings::SecureExecution => {
            let guest = ("sys/firmware/uv/prot_virt_guest", "1\n");
            ("linuxone-lpar", &[("proc/sysinfo", KVM_SYSINFO), guest])
        }
        Surroundings::PowerVm => ("power-lpar", &[]),
        Surroundings::Kvm => {
            let cpuinfo = ("proc/cpuinfo", "model\t\t: IBM pSeries (emulated by qemu)\n");
            ("power-lpar", &[cpuinfo, ("proc/device-tree/hypervisor/compatible", "linux,kvm")])
        }
        Surroundings::BareMetal => ("x86-server", &[]),
        Surroundings::VirtualMachine => ("x86-small-vm", &[]),
        Surroundings::Cloud => ("x86-small-vm", &[("sys/class/dmi/id/sys_vendor", "Google\n")]),
        Surroundings::Other => panic!("{} is for nothing that is known", profile.name),
    };
    let (folder, tree) = recorded::machine(recorded);
    for (path, text) in files {
        recorded::put(folder.path(), path, text.as_bytes());
    }
    (folder, tree)
}

/// Every file of the folder is part of the binary, and every profile has the settings of its board.
#[test]
fn every_file_is_known_and_every_profile_whole() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("firmware-config");
    let mut on_disk = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let inner = if path.is_dir() { path.read_dir().unwrap().collect() } else { Vec::new() };
        let inner = inner.into_iter().map(|entry: std::io::Result<_>| entry.unwrap().path());
        for file in inner.chain(path.is_file().then_some(path)) {
            let name = file.strip_prefix(&folder).unwrap().with_extension("");
            on_disk.insert(name.display().to_string());
        }
    }
    let known: BTreeSet<String> = FILES.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(on_disk, known);
    let profiles = all().unwrap();
    assert_eq!(profiles.len(), 9);
    for profile in profiles {
        assert!(profile.settings.len() > 12, "{}", profile.name);
        assert!(["x86_64", "s390x", "ppc64le"].contains(&profile.architecture.as_str()));
        assert!(profile.tried.len() > 10, "{} does not say where it was tried", profile.name);
        let names: BTreeSet<_> =
            profile.settings.iter().map(|s| (format!("{:?}", s.kind), &s.name)).collect();
        assert_eq!(names.len(), profile.settings.len(), "{}: one is set twice", profile.name);
    }
}

/// Aim: every profile speaks of every topic once: a setting, or why there is none.
#[test]
fn every_profile_speaks_of_every_topic() {
    let mut said = BTreeSet::new();
    for profile in all().unwrap() {
        for topic in Topic::ALL {
            let of_topic = |setting: &&Setting| Topic::of(setting) == Some(topic);
            let set = profile.settings.iter().filter(of_topic).count();
            let reasons = profile.nothing.iter().filter(|nothing| nothing.of == topic).count();
            let (name, topic) = (&profile.name, topic.name());
            assert!((set > 0) != (reasons > 0) && reasons < 2, "{name}: {topic}");
            said.insert((name.clone(), topic));
        }
        // A scheduler stays chosen only by a rule.
        for setting in profile.settings.iter().filter(|s| s.kind == Kind::Scheduler) {
            let words =
                [format!("KERNEL==\"{}*\"", setting.name), format!("=\"{}\"", setting.value)];
            let rule = |s: &Setting| {
                s.kind == Kind::Udev && words.iter().all(|word| s.value.contains(word))
            };
            let (name, disks) = (&profile.name, &setting.name);
            assert!(profile.settings.iter().any(rule), "{name}: no rule for {disks}");
        }
    }
    assert_eq!(said.len(), 9 * 10);
}

/// Aim: a topic that is left out, and one that is set and denied, are errors of the file.
#[test]
fn a_topic_left_out_is_refused() {
    let profile = named("x86-vm").unwrap();
    let covered = |settings: &[Setting], nothing: &[Nothing]| {
        topic::covered(settings, nothing).err().unwrap_or_default()
    };
    assert_eq!(covered(&profile.settings, &profile.nothing), "");
    let reason = covered(&profile.settings, &profile.nothing[1..]);
    assert!(reason.contains("ap-masks: neither"), "{reason}");
    let rest: Vec<_> = profile.settings.iter().filter(|s| s.kind != Kind::Udev).cloned().collect();
    assert!(covered(&rest, &profile.nothing).contains("udev: neither"));
    let twice = [&profile.nothing[..], &profile.nothing[..1]].concat();
    assert!(covered(&profile.settings, &twice).contains("more than one"));
    let denied = Nothing { of: Topic::Sysctl, ..profile.nothing[0].clone() };
    let denied = [&profile.nothing[..], &[denied]].concat();
    assert!(covered(&profile.settings, &denied).contains("sysctl: settings, and"));
}

/// Unknown keys, kinds and rules, and settings without their reason, are refused.
#[test]
fn mistakes_in_a_file_are_refused() {
    let good = "title = \"t\"\ntried = \"never\"\n[[setting]]\nkind = \"sysctl\"\nname = \"vm.a\"\n\
                rule = \"at-least\"\nvalue = \"1\"\nunit = \"u\"\nwhy = \"w\"\nsource = \"s\"\n";
    assert!(parse("good", good).is_ok());
    let nothing = "title = \"t\"\ntried = \"never\"\n[[nothing]]\nof = \"smt\"\n\
                   why = \"w\"\nsource = \"s\"\n";
    assert!(parse("good", nothing).is_ok());
    for (from, to, word) in [
        ("smt", "threads", "threads"),
        ("why = \"w\"", "why = \" \"", "must be told"),
        ("source", "sauce", "sauce"),
    ] {
        let error = parse("bad", &nothing.replace(from, to)).err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|text| text.contains(word)), "{from}: {error:?}");
    }
    for (from, to, word) in [
        ("unit", "units", "units"),
        ("sysctl", "sysctrl", "sysctrl"),
        ("at-least", "at-all", "at-all"),
        ("why = \"w\"", "why = \" \"", "must be told"),
        ("value = \"1\"", "value = \"one\"", "need a number"),
        ("title", "titel", "titel"),
    ] {
        let error = parse("bad", &good.replace(from, to)).err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|text| text.contains(word)), "{from}: {error:?}");
    }
    let error = named("linuxone").unwrap_err().to_string();
    assert!(error.contains("linuxone-lpar-ep11"), "{error}");
}

/// A partition against its profile: what differs is named with the way there; what is put right
/// fits.
#[test]
fn a_linuxone_partition_is_compared_and_put_right() {
    let (folder, tree) = recorded::machine("linuxone-lpar");
    let root = folder.path();
    let before = misfits("linuxone-lpar-ep11", &tree);
    for name in ["vm.dirty_bytes", "zcrypt_cex4", "60-obelisk-z90crypt.rules", "dasda"] {
        assert!(before.iter().any(|misfit| misfit == name), "{name}: {before:?}");
    }
    for name in ["ep11", "vm.swappiness", "transparent_hugepage", "nvme0n1", "store"] {
        assert!(!before.iter().any(|misfit| misfit == name), "{name}: {before:?}");
    }
    for misfit in compared("linuxone-lpar-ep11", &tree).unwrap().iter().filter(|c| !c.fits) {
        assert!(!misfit.commands.is_empty(), "{}", misfit.setting.name);
        let (name, wanted) = (&misfit.setting.name, misfit.wanted.as_bytes());
        match misfit.setting.kind {
            Kind::Sysctl => {
                let path = format!("proc/sys/{}", name.replace('.', "/"));
                recorded::put(root, &path, wanted);
            }
            Kind::Module => recorded::put(root, &format!("sys/module/{name}/refcnt"), b"0"),
            Kind::Udev => recorded::put(root, &format!("etc/udev/rules.d/{name}"), wanted),
            Kind::File => recorded::put(root, name, wanted),
            Kind::Scheduler => {
                recorded::put(root, &format!("sys/block/{name}/queue/scheduler"), b"[none]");
            }
            kind => panic!("{kind:?} {name} differs"),
        }
    }
    assert_eq!(misfits("linuxone-lpar-ep11", &tree), Vec::<String>::new());
    recorded::put(root, "sys/bus/ap/devices/card02/online", b"0");
    recorded::put(root, "sys/block/nvme0n1/queue/scheduler", b"none [mq-deadline]");
    assert_eq!(misfits("linuxone-lpar-ep11", &tree), ["nvme0n1", "ep11"]);
}

/// Aim: the token's configuration names this machine's queues and its master key.
#[test]
fn the_token_is_told_its_queues_and_its_master_key() {
    let (folder, tree) = recorded::machine("linuxone-lpar");
    let file = "etc/opencryptoki/ep11tok.conf";
    let wanted = |tree: &Tree| {
        let all = compared("linuxone-lpar-ep11", tree).unwrap();
        all.into_iter().find(|c| c.setting.name == file).unwrap()
    };
    let pattern = "0xa1b2c3d4e5f60718293a4b5c6d7e8f90";
    let text = format!(
        "APQN_ALLOWLIST\n2 23\n10 23\nEND\nEXPECTED_WKVP \"{pattern}\"\n\
         OPTIMIZE_SINGLE_PART_OPERATIONS\nPKEY_MODE ENABLE4NONEXTR"
    );
    assert_eq!(wanted(&tree).wanted, text);
    // The kernel shows 32 bytes of the pattern, the token compares 16.
    let long = format!("WK CUR: valid {pattern}00112233445566778899aabbccddeeff\n");
    for queue in ["02.0017", "0a.0017"] {
        let path = format!("sys/bus/ap/devices/{queue}/mkvps");
        recorded::put(folder.path(), &path, long.as_bytes());
    }
    assert_eq!(wanted(&tree).wanted, text);
    recorded::put(folder.path(), file, text.replace("2 23\n", "  2\t23\n").as_bytes());
    assert!(wanted(&tree).fits);
    recorded::put(folder.path(), file, text.replace("10 23\n", "").as_bytes());
    assert!(!wanted(&tree).fits);
    recorded::put(folder.path(), "sys/bus/ap/devices/card0a/type", b"CEX8A\n");
    assert!(wanted(&tree).fits);
}

/// A profile of another family or of other surroundings is refused, and names those that fit.
#[test]
fn a_profile_that_does_not_match_is_refused() {
    let (folder, tree) = recorded::machine("linuxone-lpar");
    let refusal = |profile: &str| compared(profile, &tree).unwrap_err().to_string();
    let error = refusal("power-powervm");
    assert!(error.contains("is for ppc64le, this machine is s390x"), "{error}");
    // As the profile wants it but for the protection itself.
    recorded::put(folder.path(), "proc/cmdline", b"swiotlb=262144 transparent_hugepage=madvise\n");
    for profile in ["linuxone-secure-execution", "linuxone-kvm"] {
        let error = refusal(profile);
        assert!(error.contains("this machine is LPAR OBELISK1"), "{error}");
        let fix = "choose linuxone-lpar-ep11 or linuxone-lpar-accelerator";
        assert!(error.ends_with(fix), "{error}");
    }
    recorded::put(folder.path(), "sys/firmware/uv/prot_virt_guest", b"0\n");
    assert!(refusal("linuxone-secure-execution").contains("LPAR OBELISK1"));
    recorded::put(folder.path(), "proc/sysinfo", TRANSLATED.as_bytes());
    for profile in ["linuxone-kvm", "linuxone-lpar-ep11"] {
        assert!(refusal(profile).ends_with("no profile is for it"), "{}", refusal(profile));
    }
    let (_folder, tree) = recorded::machine("x86-server");
    let error = compared("x86-vm", &tree).unwrap_err().to_string();
    assert!(
        error.contains("a virtual machine, this machine is bare metal; choose x86-bare"),
        "{error}"
    );
}

/// Aim: what a machine must have does not fit by being absent; what it may lack is not compared.
#[test]
fn absence_fits_only_where_the_profile_says_so() {
    let (folder, tree) = recorded::machine("linuxone-lpar");
    let root = folder.path();
    let of = |tree: &Tree, name: &str| {
        let all = compared("linuxone-lpar-ep11", tree).unwrap();
        all.into_iter().find(|c| c.setting.name == name).unwrap()
    };
    for name in ["sys/devices/system/cpu/dispatching", "sys/bus/ap/apmask"] {
        std::fs::remove_file(root.join(name)).unwrap();
        let absent = of(&tree, name);
        assert_eq!((absent.found, absent.fits), (None, false), "{name}");
        assert!(absent.commands[0].starts_with("# this kernel has no"), "{:?}", absent.commands);
    }
    std::fs::remove_file(root.join("proc/sys/kernel/yama/ptrace_scope")).unwrap();
    assert!(!of(&tree, "kernel.yama.ptrace_scope").fits);
    std::fs::remove_dir_all(root.join("sys/kernel/mm/transparent_hugepage")).unwrap();
    assert!(of(&tree, "sys/kernel/mm/transparent_hugepage/enabled").fits);
    // Without adapters their number alone is wrong, and nothing else is asked of them.
    std::fs::remove_dir_all(root.join("sys/bus/ap/devices")).unwrap();
    let misfits = misfits("linuxone-lpar-ep11", &tree);
    assert!(misfits.contains(&"ep11".to_owned()), "{misfits:?}");
    assert!(!misfits.iter().any(|m| m.contains("opencryptoki") || m == "pkey"), "{misfits:?}");
    assert_eq!(devices::ap_bus(&tree).adapters.len(), 0);
}

/// The kernel writes `on` where all threads are enabled, and a number where fewer are.
#[test]
fn a_power_partition_with_all_threads_fits() {
    let (folder, tree) = recorded::machine("power-lpar");
    let control = "sys/devices/system/cpu/smt/control";
    let fits = |text: &[u8]| {
        recorded::put(folder.path(), control, text);
        !misfits("power-powervm", &tree).iter().any(|name| name == control)
    };
    assert!(fits(b"on\n") && fits(b"notimplemented\n"));
    assert!(!fits(b"4\n") && !fits(b"off\n"));
}

/// Each profile can be compared with a machine of its kind, and what `host apply` prints is a
/// script that a shell reads.
#[test]
fn every_profile_is_comparable() {
    for profile in all().unwrap() {
        let (_folder, tree) = machine_of(&profile);
        let compared = compared(&profile.name, &tree).unwrap();
        assert!(compared.len() >= 10, "{}", profile.name);
        assert!(compared.iter().all(|c| c.fits || !c.commands.is_empty()));
        let lines: Vec<String> = compared.into_iter().flat_map(|c| c.commands).collect();
        let commands = ["# ", "sysctl -w ", "echo ", "modprobe ", "udevadm control --reload"];
        for line in &lines {
            let known = commands.iter().any(|command| line.starts_with(command));
            assert!(known && !line.contains('\n'), "{}: {line}", profile.name);
        }
        let (folder, script) = (tempfile::tempdir().unwrap(), lines.join("\n"));
        let path = folder.path().join("apply");
        std::fs::write(&path, script).unwrap();
        let read = std::process::Command::new("sh").arg("-n").arg(&path).status().unwrap();
        assert!(read.success(), "{}", profile.name);
    }
}
