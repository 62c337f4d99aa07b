//! The schema, and the arithmetic of rows.

use super::*;

/// A report as another machine would write it.
pub fn example() -> Report {
    let machine = Machine {
        architecture: "s390x".into(),
        byte_order: "big".into(),
        processor: "IBM Z type 3931".into(),
        threads: 4,
        cores: 2,
        threads_per_core: 2,
        threads_usable: 4,
        numa_nodes: 1,
        memory_bytes: 8 << 30,
        memory_usable_bytes: 4 << 30,
        page_bytes: 4096,
        kernel: "6.12.0".into(),
        hypervisor: Some("KVM/Linux".into()),
        container: None,
        emulated_by: None,
        crypto_features: vec!["msa".into()],
        cpacf: vec!["KIMD-SHA-256".into()],
        providers: vec!["portable".into(), "openssl (OpenSSL 3.0.17)".into()],
        routes: vec!["hash sha256: openssl".into()],
        sync_ms: Some(0.25),
    };
    let build = Build {
        version: "0.1.0".into(),
        profile: "release".into(),
        opt_level: "3".into(),
        features: vec!["rocksdb".into()],
    };
    let sample = |wall_us, cpu_us| Sample { wall_us, cpu_us, count: 100 };
    let samples = [sample(3.0, 2.5), sample(1.0, 0.5), sample(2.0, 1.5)];
    Report {
        schema: SCHEMA.to_owned(),
        command: "crypto".into(),
        taken_ms: 1_700_000_000_000,
        machine,
        build,
        comparable: true,
        remarks: Vec::new(),
        rows: vec![
            Row::times("crypto::sign/provider=openssl/algorithm=p256", &samples),
            Row::once("host::memory_read/bytes=67108864", "MB/s", 5, 9000.0),
        ],
    }
}

/// Aim: the format stays as it is written down: a file of this version is read by every later
/// program of this schema, and a changed field needs a new schema.
#[test]
fn the_schema_is_the_committed_one() {
    let golden = include_str!("../../../../tests/data/bench/report.json");
    let written = format!("{:#}\n", serde_json::to_value(example()).unwrap());
    assert_eq!(written, golden);
    let read: Report = serde_json::from_str(golden).unwrap();
    assert_eq!(read, example());
}

/// Aim: a row gives median, least and greatest of its runs whatever their order.
#[test]
fn rows_sort_their_runs() {
    let row = &example().rows[0];
    assert_eq!((row.min, row.median, row.max, row.value), (1.0, 2.0, 3.0, 2.0));
    assert_eq!((row.count, row.runs, row.cpu_us), (300, 3, Some(1.5)));
    let empty = Row::times("none", &[]);
    assert_eq!((empty.value, empty.runs, empty.count), (0.0, 0, 0));
}

/// Aim: an emulated processor and a build without optimisation make a report not comparable.
#[test]
fn figures_of_no_worth_are_marked() {
    let emulated = Machine { emulated_by: Some("QEMU".into()), ..example().machine };
    let report = Report::new("host", emulated, Vec::new());
    assert!(!report.comparable && report.remarks[0].contains("QEMU"));
    let real = Report::new("host", example().machine, Vec::new());
    assert_eq!(real.comparable, real.build.is_optimised());
}
