//! The result of a bench: one JSON schema for every command and architecture, a table for people.
//!
//! `docs/benchmarking.md` describes each field; a change of their meaning is a new `SCHEMA`. A row
//! is named `module::operation/key=value`; equal names mean the same work on every machine.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use serde::Serialize;

use crate::cli::Context;
use crate::cli::bench::machine::Build;
use crate::cli::bench::machine::Machine;
use crate::cli::bench::measure::Sample;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Cell;
use crate::cli::output::time;
use crate::host::clock::now_ms;

/// Name and version of the format.
pub const SCHEMA: &str = "obelisk.bench.1";
/// What the names of all versions begin with.
pub const SCHEMA_FAMILY: &str = "obelisk.bench.";

/// Where the result goes.
#[derive(Args, Clone, Debug, Default)]
pub struct Destination {
    /// Write the JSON into this file as well, for `bench compare`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What one run found.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// `SCHEMA`.
    pub schema: String,
    /// `load`, `crypto`, ...
    pub command: String,
    /// When it began, milliseconds since 1970.
    pub taken_ms: u64,
    /// Where.
    pub machine: Machine,
    /// With which program.
    pub build: Build,
    /// False where the figures say nothing of the machine: emulation, or a build without
    /// optimisation.
    pub comparable: bool,
    /// What a reader must know of this run.
    pub remarks: Vec<String>,
    /// The figures.
    pub rows: Vec<Row>,
}

/// One figure.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Row {
    /// `module::operation/key=value`.
    pub name: String,
    /// Unit of `value`, `min`, `median` and `max`; times are wall time of one operation.
    pub unit: String,
    /// The figure to compare: the median of the runs.
    pub value: f64,
    /// Operations in all runs together.
    pub count: u64,
    /// Runs.
    pub runs: u32,
    /// Least of the runs.
    pub min: f64,
    /// Middle one.
    pub median: f64,
    /// Greatest.
    pub max: f64,
    /// CPU time of one operation over all threads of the processes measured, microseconds, median
    /// of the runs; `None` where it was not measured.
    pub cpu_us: Option<f64>,
}

impl Row {
    /// Microseconds per operation.
    pub fn times(name: impl Into<String>, samples: &[Sample]) -> Self {
        let walls = samples.iter().map(|sample| sample.wall_us).collect();
        let cpus: Vec<f64> = samples.iter().map(|sample| sample.cpu_us).collect();
        let count = samples.iter().map(|sample| sample.count).sum();
        Self { cpu_us: Some(middle(cpus)), ..Self::values(name, "us", count, walls) }
    }

    /// Several findings of one figure; none makes a row of zeros.
    pub fn values(name: impl Into<String>, unit: &str, count: u64, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (min, max) = (values.first().copied(), values.last().copied());
        let runs = u32::try_from(values.len()).unwrap_or(u32::MAX);
        let median = middle(values);
        Self {
            name: name.into(),
            unit: unit.to_owned(),
            value: median,
            count,
            runs,
            min: min.unwrap_or(0.0),
            median,
            max: max.unwrap_or(0.0),
            cpu_us: None,
        }
    }

    /// A figure found once.
    pub fn once(name: impl Into<String>, unit: &str, count: u64, value: f64) -> Self {
        Self::values(name, unit, count, vec![value])
    }
}

impl Report {
    /// A result of this program on this machine, now.
    pub fn new(command: &str, machine: Machine, rows: Vec<Row>) -> Self {
        let build = Build::this();
        let mut remarks = Vec::new();
        if let Some(by) = &machine.emulated_by {
            remarks.push(format!("the processor is played by {by}: the figures say nothing of it"));
        }
        if !build.is_optimised() {
            let level = &build.opt_level;
            remarks.push(format!("built with opt-level {level}: compare releases, opt-level 3"));
        }
        Self {
            schema: SCHEMA.to_owned(),
            command: command.to_owned(),
            taken_ms: now_ms(),
            comparable: remarks.is_empty(),
            machine,
            build,
            remarks,
            rows,
        }
    }

    /// Prints it and writes the file that was asked for.
    pub fn deliver(&self, to: &Destination, context: &Context) -> Result<(), Failure> {
        if !context.output.is_json() {
            self.table(context);
        }
        self.deliver_json(to, context)
    }

    /// As `deliver`, but people were told already.
    pub fn deliver_json(&self, to: &Destination, context: &Context) -> Result<(), Failure> {
        let json = serde_json::to_value(self)
            .map_err(|error| Failure::of(Exit::Internal, &error, "report it"))?;
        if let Some(path) = &to.out {
            let text = format!("{json:#}\n");
            std::fs::write(path, text).map_err(|error| {
                let cause = format!("cannot write {}: {error}", path.display());
                Failure::usage(cause, "name a file in a folder that exists")
            })?;
        }
        if context.output.is_json() {
            context.output.value(&json);
        }
        Ok(())
    }

    fn table(&self, context: &Context) {
        let text = |text: String| Cell::Text(text);
        let taken = format!("{} at {}", self.command, time(self.taken_ms));
        let mut fields = vec![
            ("bench", text(taken)),
            ("machine", text(self.machine.described())),
            ("build", text(self.build.described())),
        ];
        if !self.remarks.is_empty() {
            fields.push(("NOT COMPARABLE", text(self.remarks.join("\n"))));
        }
        context.output.object(&fields);
        context.output.note("");
        let figure = |value: f64| Cell::Text(shown(value));
        let rows = self.rows.iter().map(|row| {
            let cpu = row.cpu_us.map(figure);
            vec![
                Cell::text_of(&row.name),
                figure(row.value),
                Cell::text_of(&row.unit),
                figure(row.min),
                figure(row.max),
                Cell::maybe(cpu),
                Cell::Number(row.count),
                Cell::Number(row.runs.into()),
            ]
        });
        let columns = ["row", "median", "unit", "min", "max", "cpu us", "count", "runs"];
        context.output.table(&columns, &rows.collect::<Vec<_>>(), "nothing was measured");
    }
}

/// A figure with three digits or more.
pub fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
pub mod tests;
