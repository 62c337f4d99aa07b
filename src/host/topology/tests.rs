//! Recorded machines, read through `/sys` and through hwloc.

use crate::host::recorded;
use crate::host::topology::Topology;
use crate::host::tree::Tree;

fn of(name: &str) -> Topology {
    let (_folder, tree) = recorded::machine(name);
    Topology::of_tree(&tree)
}

/// The shape of each recorded machine.
#[test]
fn recorded_machines_have_their_shape() {
    for (name, expected) in [
        ("linuxone-lpar", "16 threads, 8 cores, 5 packages, 3 books, 2 drawers, 1 NUMA node"),
        ("power-lpar", "32 threads, 4 cores, 2 packages, 2 NUMA nodes"),
        ("x86-server", "32 threads, 16 cores, 2 packages, 2 NUMA nodes"),
        ("x86-small-vm", "2 threads, 2 cores, 1 package, 1 NUMA node"),
    ] {
        assert_eq!(of(name).described(), expected, "{name}");
    }
}

/// Threads of one core, nodes by the system's number, and drawers.
#[test]
fn places_are_read() {
    let server = of("x86-server").processors;
    assert_eq!((server[3].core, server[19].core, server[19].numa), (3, 3, 0));
    assert_eq!((server[31].package, server[31].numa, server[31].cache), (1, 1, 1));
    let power = of("power-lpar").processors;
    assert_eq!((power[7].core, power[8].core, power[0].numa, power[31].numa), (0, 1, 2, 3));
    let z = of("linuxone-lpar").processors;
    assert_eq!((z[7].drawer, z[7].book, z[7].package), (Some(0), Some(1), 2));
    assert_eq!((z[8].drawer, z[8].book), (Some(1), Some(2)));
}

/// hwloc's view of a machine and ours are the same value.
#[cfg(feature = "hwloc")]
#[test]
fn hwloc_and_sysfs_agree_on_recorded_machines() {
    for name in ["linuxone-lpar", "power-lpar", "x86-server", "x86-small-vm"] {
        let xml = recorded::data().join(format!("{name}.xml"));
        let by_hwloc = super::hwloc::of_xml(&xml).unwrap();
        assert_eq!(by_hwloc, of(name), "{name}");
    }
}

/// A recording that is none is an error of one line, no crash.
#[cfg(feature = "hwloc")]
#[test]
fn a_file_that_is_no_topology_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.xml");
    std::fs::write(&path, "<topology>").unwrap();
    assert!(super::hwloc::of_xml(&path).is_err());
}

/// An empty tree is one processor; this machine has some.
#[test]
fn nothing_readable_is_one_processor() {
    assert_eq!(Topology::of_tree(&Tree::below("/nonexistent")).processors.len(), 1);
    assert!(!Topology::of_machine().processors.is_empty());
}

/// Only the processors that the process may use count.
#[test]
fn what_is_not_allowed_is_left_out() {
    let inside = of("x86-server").within(&[1, 17, 8]);
    assert_eq!((inside.processors.len(), inside.cores()), (3, 2));
}
