//! What to do with a running demo: look, kill, start, trade, stop.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::api::grpc::proto::StatusReply;
use crate::cli::demo::Demo;
use crate::cli::demo::place;
use crate::cli::demo::place::Place;
use crate::cli::demo::process;
use crate::cli::demo::story;
use crate::cli::demo::watch::Watch;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Cell;
use crate::membership::identity::Role;
use crate::types::digest::Digest;
use crate::types::quorum;
use crate::types::receipt::Status;

impl Demo {
    /// Where each validator stands.
    pub fn status(&self) -> Result<(), Failure> {
        let place = place::readable(&self.folder)?;
        let statuses = Watch::new(&place)?.statuses();
        let row = |(i, status): (usize, &Option<StatusReply>)| row(&place, i, status.as_ref());
        let rows: Vec<Vec<Cell>> = statuses.iter().enumerate().map(row).collect();
        self.output.table(COLUMNS, &rows, "no validators");
        let running = (0..rows.len()).filter(|i| process::running(&place, *i).is_some()).count();
        if running == 0 {
            self.output.note(&format!("\nStopped. Go on with: obelisk demo{}", self.suffix));
        }
        Ok(())
    }

    /// Stops all validators in order.
    pub fn stop(&self) -> Result<(), Failure> {
        let place = place::existing(&self.folder)?;
        let stopped = self.stop_all(&place)?;
        let fields = [("stopped", Cell::Number(stopped as u64))];
        let text = match stopped {
            0 => "No validator was running.".to_owned(),
            stopped => format!("{stopped} validators stopped; the chain stays."),
        };
        self.output.line(&text, &fields);
        Ok(())
    }

    /// Sends SIGTERM to all that run and waits for them; says how many there were.
    pub fn stop_all(&self, place: &Place) -> Result<usize, Failure> {
        let numbers = 0..place.marker.validators;
        let running: Vec<_> =
            numbers.filter_map(|i| Some((i, process::running(place, i)?))).collect();
        for (_, process) in &running {
            process::signal(process, Signal::SIGTERM)?;
        }
        for (i, process) in &running {
            let name = &place.marker.organisations[*i];
            let (number, pid) = (i + 1, process.pid);
            if !process::gone_within(process, STOPPED_WITHIN) {
                let tail = process::log_tail(place, *i);
                let cause = format!(
                    "validator {number} ({name}, process {pid}) does not stop; its log \
                     ends:\n{tail}"
                );
                let fix = format!("end it with `obelisk demo kill {number}{}`", self.suffix);
                return Err(Failure::new(Exit::Internal, cause, fix));
            }
            self.step(&format!("Validator {number} ({name}, process {pid}) stopped"));
        }
        Ok(running.len())
    }

    /// Kills one validator.
    pub fn kill(&self, validator: &str) -> Result<(), Failure> {
        let place = place::existing(&self.folder)?;
        let i = number(&place, validator)?;
        let name = &place.marker.organisations[i];
        let Some(process) = process::running(&place, i) else {
            let cause = format!("validator {} ({name}) does not run", i + 1);
            let fix = format!("start it with `obelisk demo start {}{}`", i + 1, self.suffix);
            return Err(Failure::new(Exit::NotFound, cause, fix));
        };
        let before = Watch::new(&place)?.status(i);
        process::signal(&process, Signal::SIGKILL)?;
        if !process::gone_within(&process, STOPPED_WITHIN) {
            let cause = format!("the process {} survives SIGKILL", process.pid);
            let fix = "it hangs in the kernel, most often in a write: check the disk";
            return Err(Failure::new(Exit::Internal, cause, fix));
        }
        if let Some(status) = &before {
            let path = place.file(i, STOPPED_FILE);
            fs::write(&path, status.height.to_string())
                .map_err(|error| place::unreadable("write", &path, &error))?;
        }
        let (role, height) = match &before {
            Some(status) => (role(status), status.height.to_string()),
            None => ("silent", "?".to_owned()),
        };
        let n = place.marker.validators;
        let left = (0..n).filter(|i| process::running(&place, *i).is_some()).count();
        let text = format!(
            "Killed validator {} ({name}, process {}, {role}) at height {height}.\n{}",
            i + 1,
            process.pid,
            self.after_kill(i, left, n)
        );
        self.output.line(
            &text,
            &[
                ("validator", Cell::Number(i as u64 + 1)),
                ("organisation", Cell::text_of(name)),
                ("pid", Cell::Number(process.pid.into())),
                ("height", Cell::maybe(before.map(|status| Cell::Number(status.height)))),
                ("running", Cell::Number(left as u64)),
            ],
        );
        Ok(())
    }

    fn after_kill(&self, i: usize, left: usize, n: usize) -> String {
        let (number, more) = (i + 1, &self.suffix);
        let needed = quorum::quorum(n);
        match left >= needed {
            true => format!(
                "{left} of {n} run, {needed} are needed: the network goes on. See for yourself:\n  \
                 obelisk demo trade 10{more}\n  obelisk demo start {number}{more}"
            ),
            false => format!(
                "{left} of {n} run, {needed} are needed: nothing commits until one is back:\n  \
                 obelisk demo start {number}{more}"
            ),
        }
    }

    /// Starts one validator and waits until it stands where the others stood.
    pub fn start(&self, validator: &str) -> Result<(), Failure> {
        let place = place::existing(&self.folder)?;
        let i = number(&place, validator)?;
        let name = &place.marker.organisations[i];
        if let Some(process) = process::running(&place, i) {
            let cause = format!("validator {} ({name}) runs, process {}", i + 1, process.pid);
            return Err(Failure::new(Exit::Refused, cause, "see `obelisk demo status`"));
        }
        let watch = Watch::new(&place)?;
        let n = place.marker.validators;
        let others = watch.statuses();
        // Without a quorum nobody gets ready, so only its answer is waited for.
        let enough = others.iter().flatten().count() + 1 >= quorum::quorum(n);
        let target = others.iter().flatten().map(|status| status.height).max().filter(|_| enough);
        let path = place.file(i, STOPPED_FILE);
        let noted = fs::read_to_string(&path).ok().and_then(|text| text.parse::<u64>().ok());
        let mut child = process::start(&place, i)?;
        let mut first = noted;
        let status = watch.until_caught_up(&place, i, &mut child, target, |height| {
            first = Some(first.map_or(height, |first| first.min(height)));
        })?;
        // Only a note for this command; the next kill writes a new one.
        let _ = fs::remove_file(&path);
        let (from, to) = (first.unwrap_or(status.height), status.height);
        let seconds = self.began.elapsed().as_secs_f64();
        let what = match target {
            Some(_) if to > from => format!("caught up from height {from} to {to}"),
            Some(_) => format!("is at height {to}, as the others"),
            None => format!("answers at height {to}; the network needs more validators"),
        };
        let number = i + 1;
        let text = format!(
            "Validator {number} ({name}, process {}) {what} in {seconds:.1} s.",
            child.id()
        );
        self.output.line(
            &text,
            &[
                ("validator", Cell::Number(number as u64)),
                ("organisation", Cell::text_of(name)),
                ("pid", Cell::Number(child.id().into())),
                ("from", Cell::Number(from)),
                ("to", Cell::Number(to)),
                ("ready", Cell::Flag(status.ready)),
            ],
        );
        Ok(())
    }

    /// Further credits are applied for.
    pub fn trade(&self, count: u32) -> Result<(), Failure> {
        let place = place::existing(&self.folder)?;
        let watch = Watch::new(&place)?;
        let statuses = watch.statuses();
        let runs = |i: usize| statuses.get(i).is_some_and(Option::is_some);
        let party = story::party(&place, &watch, "importer", Role::Client, runs)?;
        let n = place.marker.validators;
        let running = statuses.iter().flatten().count();
        let from = statuses.iter().flatten().map(|status| status.height).max().unwrap_or(0);
        let mut to = from;
        for k in 1..=count {
            let credit = format!("lc-{}-{k}", from + 1);
            let (_, located) = party.invoke(&watch, &story::application(&credit))?;
            let receipt = &located.receipt;
            if receipt.status != Status::Ok {
                let cause = format!("{}: {}", receipt.status.name(), receipt.error);
                let fix = format!("deploy the contract with `obelisk demo{}`", self.suffix);
                return Err(Failure::new(Exit::Refused, cause, fix));
            }
            to = located.height.0;
            self.step(&format!("Credit {credit} applied for in block {to}"));
        }
        let fields = json!({
            "transactions": count, "from": from, "to": to, "running": running, "validators": n,
        });
        match self.output.is_json() {
            true => self.output.value(&fields),
            false => self.output.note(&format!(
                "{count} transactions committed with {running} of {n} validators running: height \
                 {from} to {to}."
            )),
        }
        Ok(())
    }
}

/// Position of a validator named by number (from 1) or organisation.
fn number(place: &Place, validator: &str) -> Result<usize, Failure> {
    let names = &place.marker.organisations[..place.marker.validators];
    let by_number = validator.parse().ok().and_then(|number: usize| number.checked_sub(1));
    let found = by_number.or_else(|| names.iter().position(|name| name == validator));
    found.filter(|i| *i < names.len()).ok_or_else(|| {
        let known = names.iter().enumerate().map(|(i, name)| format!("{} {name}", i + 1));
        let known: Vec<String> = known.collect();
        let cause = format!("there is no validator {validator:?}");
        Failure::new(Exit::NotFound, cause, format!("choose one of: {}", known.join(", ")))
    })
}

fn row(place: &Place, i: usize, status: Option<&StatusReply>) -> Vec<Cell> {
    let process = process::running(place, i);
    let digest = |bytes: &[u8]| {
        let bytes = <[u8; 32]>::try_from(bytes).ok()?;
        Some(Cell::Hash(Digest(bytes)))
    };
    let known =
        |field: fn(&StatusReply) -> u64| Cell::maybe(status.map(|s| Cell::Number(field(s))));
    let state = match (&process, status) {
        (None, _) => "stopped",
        (_, None) => "silent",
        (_, Some(status)) if status.ready => "ready",
        _ => "not ready",
    };
    let memory = process.as_ref().map(|process| process.resident_bytes() / MEBIBYTE);
    vec![
        Cell::Number(i as u64 + 1),
        Cell::text_of(&place.marker.organisations[i]),
        Cell::text_of(state),
        Cell::maybe(process.map(|process| Cell::Number(process.pid.into()))),
        known(|status| status.height),
        known(|status| status.view),
        Cell::maybe(status.map(|status| Cell::text_of(role(status)))),
        Cell::maybe(status.and_then(|status| digest(&status.block_hash))),
        Cell::maybe(status.and_then(|status| digest(&status.state_root))),
        Cell::maybe(memory.map(Cell::Number)),
    ]
}

fn role(status: &StatusReply) -> &'static str {
    match (status.seat, status.primary) {
        (Some(seat), Some(primary)) if seat == primary => "primary",
        (Some(_), _) => "backup",
        (None, _) => "observer",
    }
}

const COLUMNS: &[&str] = &[
    "no",
    "validator",
    "state",
    "pid",
    "height",
    "view",
    "role",
    "block",
    "state root",
    "memory MiB",
];
const STOPPED_FILE: &str = "stopped-at";
const STOPPED_WITHIN: Duration = Duration::from_secs(30);
const MEBIBYTE: u64 = 1024 * 1024;
