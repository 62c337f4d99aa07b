//! `obelisk bench compare`: two reports row by row, with the machines they come from.
//!
//! Exit code 0: compared. 5: compared, but the figures do not speak of the machines (emulation, a
//! build without optimisation) or do not mean the same (another schema, another command). 1: a row
//! is beyond `--worse-than`. 2: a file is no report; nothing is printed but the reason.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use serde_json::json;

use crate::cli::Context;
use crate::cli::bench::report;
use crate::cli::bench::report::Report;
use crate::cli::bench::report::Row;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Cell;
use crate::cli::output::tame;

#[derive(Args, Debug)]
pub struct Arguments {
    /// The report to compare with
    #[arg(value_name = "A.json")]
    a: PathBuf,
    /// The report that is compared
    #[arg(value_name = "B.json")]
    b: PathBuf,
    /// Fail, with exit code 1, where a row of B is more than this many times worse than in A
    #[arg(long, value_name = "RATIO")]
    worse_than: Option<f64>,
}

pub fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    if arguments.worse_than.is_some_and(|limit| !limit.is_finite() || limit <= 0.0) {
        return Err(Failure::usage("the ratio must be above 0", "name one such as 1.2"));
    }
    let (a, b) = (read(&arguments.a)?, read(&arguments.b)?);
    let compared = compare(&a, &b);
    match context.output.is_json() {
        true => context.output.value(&compared.json(&a, &b)),
        false => compared.print(&a, &b, context),
    }
    let limit = arguments.worse_than.unwrap_or(f64::INFINITY);
    let worse: Vec<_> = compared.pairs.iter().filter(|pair| pair.worse() > limit).collect();
    if !worse.is_empty() {
        let names = worse.iter().map(|pair| format!("{} ({:.2})", pair.name, pair.worse()));
        let cause = format!("worse than {limit}: {}", names.collect::<Vec<_>>().join(", "));
        return Err(Failure::new(Exit::Refused, cause, "find what changed, or raise the limit"));
    }
    match compared.warnings.is_empty() {
        true => Ok(()),
        false => {
            let cause = format!("not comparable: {}", compared.warnings.join("; "));
            let fix = "take both reports with one version, optimised, on real processors";
            Err(Failure::new(Exit::Warned, cause, fix))
        }
    }
}

/// What two reports have in common.
#[derive(Clone, Debug, PartialEq)]
struct Compared {
    pairs: Vec<Pair>,
    only_a: Vec<String>,
    only_b: Vec<String>,
    warnings: Vec<String>,
}

/// One row of both.
#[derive(Clone, Debug, PartialEq)]
struct Pair {
    name: String,
    unit: String,
    a: f64,
    b: f64,
    /// `b / a`; `None` where `a` is 0.
    ratio: Option<f64>,
    /// The same of the CPU times.
    cpu_ratio: Option<f64>,
}

impl Pair {
    /// How many times worse B is; below 1 it is better.
    fn worse(&self) -> f64 {
        let ratio = self.ratio.unwrap_or(1.0);
        // Of a rate, more is better.
        match self.unit.ends_with("/s") && ratio > 0.0 {
            true => 1.0 / ratio,
            false => ratio,
        }
    }
}

/// Reads one report; versions of the format that this program does not know are read as far as they
/// have the same fields.
fn read(path: &Path) -> Result<Report, Failure> {
    let shown = path.display();
    let wrong = |reason: String| {
        let cause = format!("{shown} is no report of a bench: {reason}");
        Failure::usage(cause, "name a file that `obelisk bench ... --out FILE` wrote")
    };
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > REPORT_BYTES_MAX {
        return Err(wrong(format!("{size} bytes, at most {REPORT_BYTES_MAX} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let schema = value.get("schema").and_then(Value::as_str).unwrap_or_default();
    if !schema.starts_with(report::SCHEMA_FAMILY) {
        return Err(wrong(format!("its schema is {:?}", tame(schema))));
    }
    let schema = tame(schema);
    let report: Report = serde_json::from_value(value)
        .map_err(|error| wrong(format!("schema {schema}: {}", tame(&error.to_string()))))?;
    match report.rows.iter().find(|row| !row.value.is_finite() || row.name.is_empty()) {
        Some(row) => Err(wrong(format!("the row {:?} has no figure", tame(&row.name)))),
        None => Ok(report),
    }
}

fn compare(a: &Report, b: &Report) -> Compared {
    let of = |report: &Report, name: &str| report.rows.iter().find(|row| row.name == name).cloned();
    let missing = |from: &Report, other: &Report| {
        let rows = from.rows.iter().filter(|row| of(other, &row.name).is_none());
        rows.map(|row| row.name.clone()).collect()
    };
    let mut warnings = Vec::new();
    let mut pairs = Vec::new();
    for row in &a.rows {
        let Some(other) = of(b, &row.name) else { continue };
        match row.unit == other.unit {
            true => pairs.push(pair(row, &other)),
            false => warnings
                .push(format!("{} is in {} in A and in {} in B", row.name, row.unit, other.unit)),
        }
    }
    for (name, report) in [("A", a), ("B", b)] {
        if report.schema != report::SCHEMA {
            let known = report::SCHEMA;
            warnings.push(format!("{name} has the schema {}, not {known}", report.schema));
        }
        if !report.comparable {
            warnings.push(format!("{name}: {}", report.remarks.join("; ")));
        }
    }
    if a.command != b.command {
        warnings.push(format!("A is of bench {}, B of bench {}", a.command, b.command));
    }
    if pairs.is_empty() {
        warnings.push("no row is in both".to_owned());
    }
    Compared { pairs, only_a: missing(a, b), only_b: missing(b, a), warnings }
}

fn pair(a: &Row, b: &Row) -> Pair {
    let ratio = |a: f64, b: f64| (a != 0.0).then(|| b / a);
    let cpu_ratio = a.cpu_us.zip(b.cpu_us).and_then(|(a, b)| ratio(a, b));
    let (name, unit) = (a.name.clone(), a.unit.clone());
    Pair { name, unit, a: a.value, b: b.value, ratio: ratio(a.value, b.value), cpu_ratio }
}

impl Compared {
    fn print(&self, a: &Report, b: &Report, context: &Context) {
        let text = |text: String| Cell::Text(tame(&text));
        context.output.object(&[
            ("A", text(a.machine.described())),
            ("", text(a.build.described())),
            ("B", text(b.machine.described())),
            ("", text(b.build.described())),
        ]);
        context.output.note("");
        let ratio = |ratio: Option<f64>| Cell::maybe(ratio.map(|r| Cell::Text(format!("{r:.3}"))));
        let rows = self.pairs.iter().map(|pair| {
            vec![
                text(pair.name.clone()),
                Cell::Text(report::shown(pair.a)),
                Cell::Text(report::shown(pair.b)),
                text(pair.unit.clone()),
                ratio(pair.ratio),
                ratio(pair.cpu_ratio),
            ]
        });
        let columns = ["row", "A", "B", "unit", "B/A", "CPU B/A"];
        context.output.table(&columns, &rows.collect::<Vec<_>>(), "no row is in both");
        for (name, rows) in [("A", &self.only_a), ("B", &self.only_b)] {
            if !rows.is_empty() {
                let rows = tame(&rows.join(", "));
                context.output.note(&format!("only in {name}: {rows}"));
            }
        }
        for warning in &self.warnings {
            context.output.note(&format!("WARNING: {}", tame(warning)));
        }
    }

    fn json(&self, a: &Report, b: &Report) -> Value {
        let rows = self.pairs.iter().map(|pair| {
            json!({ "name": pair.name, "unit": pair.unit, "a": pair.a, "b": pair.b,
                    "ratio": pair.ratio, "cpu_ratio": pair.cpu_ratio, "worse": pair.worse() })
        });
        json!({
            "a": { "machine": a.machine, "build": a.build, "command": a.command },
            "b": { "machine": b.machine, "build": b.build, "command": b.command },
            "rows": rows.collect::<Vec<_>>(),
            "only_a": self.only_a,
            "only_b": self.only_b,
            "warnings": self.warnings,
        })
    }
}

/// A report of all rows there are is a few dozen KiB.
const REPORT_BYTES_MAX: u64 = 4 << 20;

#[cfg(test)]
mod tests;
