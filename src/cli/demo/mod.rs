//! `obelisk demo`: a consortium of real processes on this machine, and a letter of credit that
//! lives its whole life on it.
//!
//! ```text
//! place    the folder: marker, lock, paths
//! network  the consortium in it: organisations, keys, configurations, ports
//! process  one `obelisk node` per validator: start, signal, recognise
//! watch    looks at them over gRPC
//! story    the parties act
//! account  what stands in the blocks
//! operate  status, stop, kill, start, trade
//! ```
//!
//! Everything lies in one folder and survives: started again, the chain goes on. Each `obelisk
//! demo` over a running network tells the story of a further credit.

mod account;
mod network;
mod operate;
mod place;
mod process;
mod story;
mod watch;

use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::time::Instant;

use clap::Args;
use clap::Subcommand;
use serde_json::json;

use crate::cli::Context;
use crate::cli::demo::place::Found;
use crate::cli::demo::place::Marker;
use crate::cli::demo::place::Place;
use crate::cli::demo::story::Told;
use crate::cli::demo::watch::Watch;
use crate::cli::failure::Failure;
use crate::cli::network::ports;
use crate::cli::output::Output;

#[derive(Args, Debug)]
pub struct Arguments {
    /// How many validators; 4 survive one fault, 7 two [default: 4]
    #[arg(long, value_name = "N")]
    validators: Option<usize>,
    /// The demo's folder [default: ~/.local/state/obelisk/demo]
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    /// Stop an earlier demo in the folder, remove it, begin a new chain
    #[arg(long)]
    reset: bool,
    /// First port on loopback [default: the first free ones from 7050 on]
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
    /// Only start the validators
    #[arg(long)]
    no_contract: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Where each validator stands
    Status,
    /// Stop all validators; the chain stays and goes on with the next `obelisk demo`
    Stop,
    /// Kill one validator at once (SIGKILL)
    Kill {
        /// Its number or its organisation
        #[arg(value_name = "VALIDATOR")]
        validator: String,
    },
    /// Start one validator and wait until it has caught up
    Start {
        /// Its number or its organisation
        #[arg(value_name = "VALIDATOR")]
        validator: String,
    },
    /// Apply for further credits, one transaction each, one after the other
    Trade {
        /// How many
        #[arg(value_name = "COUNT", default_value_t = 10)]
        count: u32,
    },
    /// Becomes a node outside of this session
    #[command(name = process::DETACHED, hide = true)]
    DetachedNode {
        /// The node's configuration
        config: PathBuf,
    },
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), Failure> {
    if let Some(Command::DetachedNode { config }) = &arguments.command {
        return Err(process::detached(config));
    }
    let named = arguments.data.is_some();
    let folder = match &arguments.data {
        Some(folder) => absolute(folder)?,
        None => place::default_folder()?,
    };
    let suffix = if named { format!(" --data {}", folder.display()) } else { String::new() };
    let demo = Demo { output: context.output, folder, suffix, began: Instant::now() };
    match &arguments.command {
        None => demo.tell(&arguments),
        Some(Command::Status) => demo.status(),
        Some(Command::Stop) => demo.stop(),
        Some(Command::Kill { validator }) => demo.kill(validator),
        Some(Command::Start { validator }) => demo.start(validator),
        Some(Command::Trade { count }) => demo.trade(*count),
        Some(Command::DetachedNode { .. }) => unreachable!("answered above"),
    }
}

/// One call of the command.
struct Demo {
    output: Output,
    folder: PathBuf,
    /// What must stand behind further commands for the same folder.
    suffix: String,
    began: Instant,
}

impl Demo {
    fn tell(&self, arguments: &Arguments) -> Result<(), Failure> {
        let mut place = self.prepare(arguments)?;
        let mut children = self.start_all(&mut place, arguments.base_port)?;
        let watch = Watch::new(&place)?;
        let n = place.marker.validators;
        let mut seen = usize::MAX;
        watch.until_ready(&place, &mut children, |count| {
            if count != seen {
                seen = count;
                self.step(&format!("{count} of {n} validators are ready"));
            }
        })?;
        if arguments.no_contract {
            return self.closing(&place, &watch, None);
        }
        let told = story::tell(&place, &watch, |meaning| self.step(meaning))?;
        self.closing(&place, &watch, Some(&told))
    }

    /// The folder with a whole consortium in it, made or reused.
    fn prepare(&self, arguments: &Arguments) -> Result<Place, Failure> {
        if let Some(validators) = arguments.validators {
            network::check_validators(validators)?;
        }
        let found = place::find(&self.folder)?;
        let validators = match (&found, arguments.validators) {
            (_, Some(asked)) => asked,
            (Found::Demo(place), None) if !arguments.reset => place.marker.validators,
            _ => VALIDATORS,
        };
        let mut place = match found {
            Found::Demo(place) if place.is_whole() && !arguments.reset => {
                return self.reused(place, validators);
            }
            Found::Demo(place) => {
                self.stop_all(&place)?;
                place.wipe()?;
                place
            }
            Found::Nothing => {
                let marker = self.marker(validators, arguments.base_port)?;
                Place::create(&self.folder, marker)?
            }
        };
        place.marker = self.marker(validators, arguments.base_port)?;
        place.rewrite()?;
        network::make(&place)?;
        let organisations = place.marker.organisations.join(", ");
        self.step(&format!("Made keys, certificates and genesis document for {organisations}"));
        Ok(place)
    }

    fn reused(&self, place: Place, asked: usize) -> Result<Place, Failure> {
        let n = place.marker.validators;
        if asked != n {
            let cause = format!("the demo in {} has {n} validators", self.folder.display());
            let fix = "choose another folder with --data DIR, or begin anew with --reset";
            return Err(Failure::usage(cause, fix));
        }
        self.step(&format!("Found the demo in {}", self.folder.display()));
        Ok(place)
    }

    fn marker(&self, validators: usize, base_port: Option<u16>) -> Result<Marker, Failure> {
        let base_port = ports::free_ports(validators, base_port)?;
        let organisations = network::organisations(validators);
        Ok(Marker { format: place::FORMAT, organisations, validators, base_port })
    }

    /// Starts all validators that do not run; where none runs and the ports were taken meanwhile,
    /// the network moves to others.
    fn start_all(
        &self,
        place: &mut Place,
        base_port: Option<u16>,
    ) -> Result<Vec<(usize, Child)>, Failure> {
        let n = place.marker.validators;
        let missing: Vec<usize> =
            (0..n).filter(|i| process::running(place, *i).is_none()).collect();
        if missing.len() == n {
            let (old, asked) = (place.marker.base_port, base_port);
            let base = match asked {
                Some(asked) => ports::free_ports(n, Some(asked))?,
                None if ports::check_ports(old, n).is_ok() => old,
                None => ports::free_ports(n, None)?,
            };
            if base != old {
                place.move_to(base)?;
                network::write_configurations(place)?;
                self.step(&format!("The ports from {old} on are taken or left; now from {base}"));
            }
        }
        let mut children = Vec::new();
        for i in missing {
            children.push((i, process::start(place, i)?));
        }
        let started = children.len();
        self.step(&format!("Started {started} of {n} validators; logs: */node.log"));
        Ok(children)
    }

    fn closing(&self, place: &Place, watch: &Watch, told: Option<&Told>) -> Result<(), Failure> {
        let statuses = watch.until_equal(place)?;
        let tip = account::agreed(&statuses)?;
        let n = place.marker.validators;
        let pages = match told {
            Some(told) => {
                let (heights, meanings) = (told.from + 1..=told.to, &told.meanings);
                account::read(place, watch, 0, heights, meanings)?
            }
            None => Vec::new(),
        };
        let rest = format!("http://{}/chain", network::rest_plain(&place.marker, 0));
        if self.output.is_json() {
            self.output.value(&json!({
                "folder": place.folder, "validators": n, "height": tip.height,
                "block_hash": hex::encode(&tip.block_hash),
                "state_root": hex::encode(&tip.state_root),
                "rest": rest, "grpc": network::grpc(&place.marker, 0),
                "credit": told.map(|told| &told.credit), "blocks": account::json(&pages),
                "ms": u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            }));
            return Ok(());
        }
        if let Some(told) = told {
            self.output.note(&format!(
                "\nWhat the chain holds, read back and checked against {} validators' keys:\n\n{}",
                n,
                account::text(&pages, n)
            ));
            let status = told.end["status"].as_str().unwrap_or_default();
            self.output.note(&format!(
                "\nThe credit {} is {status}; the bill of lading is held by the {}.",
                told.credit, told.holder
            ));
        }
        self.output.note(&format!(
            "All {n} validators hold block {} ({}) with state root {}.",
            tip.height,
            hex::encode(tip.block_hash.get(..6).unwrap_or_default()),
            hex::encode(tip.state_root.get(..6).unwrap_or_default()),
        ));
        let seconds = self.began.elapsed().as_secs_f64();
        self.output.note(&format!("Done in {seconds:.1} s; the network keeps running.\n"));
        self.output.note(&self.next_commands(place, told, &rest));
        Ok(())
    }

    fn next_commands(&self, place: &Place, told: Option<&Told>, rest: &str) -> String {
        let (me, more) = (program(), &self.suffix);
        let folder = place.folder.display();
        let credit = told.map_or("lc-1", |told| &told.credit);
        let second = place.marker.validators.min(2);
        let commands = [
            (format!("{me} demo status{more}"), "where each validator stands"),
            (format!("{me} demo kill {second}{more}"), "kill one: the others go on"),
            (format!("{me} demo trade 10{more}"), "ten more transactions"),
            (format!("{me} demo start {second}{more}"), "start it: it catches up"),
            (
                format!(
                    "{me} --network {folder} chaincode query {} show {credit}",
                    story::CONTRACT
                ),
                "ask for the credit",
            ),
            (format!("{me} --network {folder} block follow"), "see blocks as they come"),
            (format!("{me} demo{more}"), "one more credit"),
            (format!("{me} demo stop{more}"), "stop; the chain stays"),
        ];
        let mut text = format!("REST: {rest}\nFiles: {folder}\n\nNext:");
        for (command, meaning) in commands {
            text = format!("{text}\n  # {meaning}\n  {command}");
        }
        text
    }

    /// A line of progress, with the time since the beginning.
    fn step(&self, text: &str) {
        if !self.output.is_json() {
            let seconds = self.began.elapsed().as_secs_f64();
            self.output.note(&format!("[{seconds:5.2} s] {text}"));
        }
    }
}

/// How the caller called this program.
fn program() -> String {
    let first = std::env::args().next().unwrap_or_default();
    if first.contains('/') { first } else { "obelisk".to_owned() }
}

fn absolute(folder: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(folder).map_err(|error| place::unreadable("find", folder, &error))
}

const VALIDATORS: usize = 4;
