//! Every profile parses and says all it must; recorded machines are compared.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::host::detect;
use crate::host::profile::compare::Compared;
use crate::host::profile::compare::compare;
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

/// Unknown keys, kinds and rules, and settings without their reason, are refused.
#[test]
fn mistakes_in_a_file_are_refused() {
    let good = "title = \"t\"\ntried = \"never\"\n[[setting]]\nkind = \"sysctl\"\nname = \"vm.a\"\n\
                rule = \"at-least\"\nvalue = \"1\"\nunit = \"u\"\nwhy = \"w\"\nsource = \"s\"\n";
    assert!(parse("good", good).is_ok());
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
    for name in ["vm.dirty_bytes", "zcrypt_cex4", "60-obelisk-z90crypt.rules"] {
        assert!(before.iter().any(|misfit| misfit == name), "{name}: {before:?}");
    }
    for name in ["ep11", "vm.swappiness", "transparent_hugepage", "dasda", "nvme0n1", "store"] {
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
            kind => panic!("{kind:?} {name} differs"),
        }
    }
    assert_eq!(misfits("linuxone-lpar-ep11", &tree), Vec::<String>::new());
    recorded::put(root, "sys/bus/ap/devices/card02/online", b"0");
    recorded::put(root, "sys/block/nvme0n1/queue/scheduler", b"none [mq-deadline]");
    assert_eq!(misfits("linuxone-lpar-ep11", &tree), ["nvme0n1", "ep11"]);
}

/// A profile of another family is refused; a guest without protection is no Secure Execution guest.
#[test]
fn a_profile_that_does_not_match_is_refused() {
    let (folder, tree) = recorded::machine("linuxone-lpar");
    let error = compared("power-powervm", &tree).unwrap_err().to_string();
    assert!(error.contains("is for ppc64le, this machine is s390x"), "{error}");
    recorded::put(folder.path(), "sys/firmware/uv/prot_virt_guest", b"0\n");
    let misfits = misfits("linuxone-secure-execution", &tree);
    assert!(misfits.iter().any(|name| name == "sys/firmware/uv/prot_virt_guest"), "{misfits:?}");
}

/// Each profile can be compared with the recorded machine of its family.
#[test]
fn every_profile_is_comparable() {
    for profile in all().unwrap() {
        let name = match profile.architecture.as_str() {
            "s390x" => "linuxone-lpar",
            "ppc64le" => "power-lpar",
            _ => "x86-server",
        };
        let (_folder, tree) = recorded::machine(name);
        let compared = compared(&profile.name, &tree).unwrap();
        assert!(compared.len() >= 10, "{}", profile.name);
        assert!(compared.iter().all(|c| c.fits || !c.commands.is_empty()));
    }
}
