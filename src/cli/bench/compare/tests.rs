//! Ratios, warnings, and files that are no reports.

use super::*;
use crate::cli::bench::report::tests::example;

fn scaled(factor: f64) -> Report {
    let mut report = example();
    for row in &mut report.rows {
        row.value *= factor;
        row.cpu_us = row.cpu_us.map(|us| us * factor);
    }
    report
}

/// Aim: each row that both have gets its ratio, others are named, and of a rate more is better.
#[test]
fn rows_are_compared_by_name() {
    let mut b = scaled(2.0);
    b.rows.push(Row::once("host::new", "us", 1, 1.0));
    let compared = compare(&example(), &b);
    assert_eq!(compared.pairs.len(), 2);
    assert_eq!((compared.pairs[0].ratio, compared.pairs[0].cpu_ratio), (Some(2.0), Some(2.0)));
    assert_eq!((compared.pairs[0].worse(), compared.pairs[1].worse()), (2.0, 0.5));
    assert_eq!((compared.only_a, compared.only_b), (vec![], vec!["host::new".to_owned()]));
    assert_eq!(compared.warnings, Vec::<String>::new());
    let zero = compare(&scaled(0.0), &example());
    assert_eq!(zero.pairs[0].ratio, None);
}

/// Aim: whatever makes a comparison meaningless is said.
#[test]
fn meaningless_comparisons_warn() {
    let warned = |change: fn(&mut Report)| {
        let mut b = example();
        change(&mut b);
        compare(&example(), &b).warnings.join("; ")
    };
    let emulated = warned(|b| {
        b.comparable = false;
        b.remarks = vec!["played by QEMU".into()];
    });
    assert!(emulated.contains("B: played by QEMU"), "{emulated}");
    assert!(warned(|b| b.schema = "obelisk.bench.2".into()).contains("obelisk.bench.2"));
    assert!(warned(|b| b.command = "host".into()).contains("bench host"));
    assert!(warned(|b| b.rows[0].unit = "ms".into()).contains("in us in A and in ms in B"));
    assert!(warned(|b| b.rows.clear()).contains("no row is in both"));
}

/// Aim: a file that is no report gets one error that names it and the reason.
#[test]
fn bad_files_get_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let refused = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let failure = read(&path).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.cause.contains("report.json"), "{failure}");
        failure.cause
    };
    refused("");
    refused("no JSON");
    assert!(refused("[1, 2]").contains("schema"));
    assert!(refused("{\"schema\": \"obelisk.story.1\"}").contains("obelisk.story.1"));
    assert!(refused("{\"schema\": \"obelisk.bench.1\"}").contains("missing field"));
    let mut value = serde_json::to_value(example()).unwrap();
    value["rows"][0]["value"] = "fast".into();
    assert!(refused(&value.to_string()).contains("fast"));
    assert!(refused("{\"schema\": \"obelisk.bench.\\u001b[2J\"}").contains("\\u{1b}"));
    let text = "x".repeat(REPORT_BYTES_MAX as usize + 1);
    assert!(refused(&text).contains("at most"));
    let absent = read(&folder.path().join("absent.json")).unwrap_err();
    assert!(absent.cause.contains("absent.json"));
}
