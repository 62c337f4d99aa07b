//! Plans over recorded machines; binding and reading back on this one.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::host::recorded;

fn plan(name: &str, home: Option<usize>) -> Plan {
    let (_folder, tree) = recorded::machine(name);
    Plan::new(&Topology::of_tree(&tree), home)
}

/// A LinuxONE partition: the line stays in the first drawer, checks take the rest.
#[test]
fn a_linuxone_partition_keeps_the_line_in_one_drawer() {
    let plan = plan("linuxone-lpar", None);
    assert_eq!(plan.processors(Part::Consensus), [2, 3]);
    assert_eq!(plan.processors(Part::Line), [4, 5]);
    assert_eq!(plan.processors(Part::Network), [0, 1]);
    assert_eq!(plan.processors(Part::Background), [6, 7]);
    assert_eq!(plan.processors(Part::Verify), (8..16).collect::<Vec<_>>());
}

/// A server with the log disk on node 1: everything near the disk comes first, with both threads of
/// each core.
#[test]
fn a_server_starts_at_the_node_of_its_disk() {
    let plan = plan("x86-server", Some(1));
    assert_eq!(plan.processors(Part::Consensus), [8, 24]);
    assert_eq!(plan.processors(Part::Line), [9, 25]);
    assert_eq!(plan.processors(Part::Network), [10, 11, 26, 27]);
    assert_eq!(plan.processors(Part::Background), [12, 13, 28, 29]);
    assert_eq!(plan.processors(Part::Verify).len(), 20);
    assert!(plan.reason.contains("NUMA node 1"), "{}", plan.reason);
}

/// Small machines are left to the system, and say so.
#[test]
fn small_machines_are_not_pinned_and_say_so() {
    for name in ["x86-small-vm", "power-lpar"] {
        let plan = plan(name, None);
        assert!(!plan.is_pinned() && plan.reason.contains("nothing is pinned"), "{name}");
        assert!(plan.processors(Part::Verify).is_empty());
    }
}

/// Whatever the number of cores, parts are disjoint and none is empty.
#[test]
fn parts_are_disjoint_and_never_empty() {
    for cores in PINNED_CORES_MIN..=200 {
        let one = |id| Processor {
            id,
            core: id,
            package: 0,
            book: None,
            drawer: None,
            numa: 0,
            cache: 0,
        };
        let topology = Topology { processors: (0..cores).map(one).collect() };
        let plan = Plan::new(&topology, None);
        let all: Vec<usize> = plan.parts.values().flatten().copied().collect();
        assert_eq!(all.len(), cores);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), cores);
        assert!(Part::ALL.iter().all(|part| !plan.processors(*part).is_empty()), "{cores}");
        assert!(!plan.processors(Part::Consensus).contains(&0));
    }
}

/// Every thread name that the node uses has its part.
#[test]
fn threads_are_known_by_name() {
    for (name, part) in [
        ("consensus", Some(Part::Consensus)),
        ("wal", Some(Part::Consensus)),
        ("verify-12", Some(Part::Verify)),
        ("rocksdb:low3", Some(Part::Background)),
        ("catch-up", Some(Part::Line)),
        ("network", Some(Part::Network)),
        ("obelisk", None),
    ] {
        assert_eq!(Part::of_thread(name), part, "{name}");
    }
}

/// A bound thread is read back on its processor; a thread elsewhere is reported.
#[test]
fn affinity_is_read_back_from_the_kernel() {
    let (go_on, wait) = mpsc::channel::<()>();
    let (started, ready) = mpsc::channel();
    let worker = thread::Builder::new().name("consensus".into()).spawn(move || {
        started.send(nix::unistd::gettid().as_raw()).unwrap();
        let _ = wait.recv();
    });
    let id = ready.recv().unwrap();
    let read = || {
        let all = threads(&Tree::machine(), "self");
        all.into_iter().find(|placed| placed.thread == id).unwrap()
    };
    let before = read();
    assert_eq!(before.part, Some(Part::Consensus));
    let last = *before.processors.last().unwrap();
    let parts = BTreeMap::from([(Part::Consensus, vec![last])]);
    let plan = Plan { parts, reason: String::new() };
    if before.processors.len() > 1 {
        assert!(plan.missed(&before).is_some());
    }
    bind(id, plan.processors(Part::Consensus)).unwrap();
    let after = read();
    assert_eq!(after.processors, [last]);
    assert!(plan.missed(&after).is_none());
    drop(go_on);
    worker.unwrap().join().unwrap();
}
