//! `obelisk host`: what this machine offers, and what a node takes of it.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;
use serde_json::Value;
use serde_json::json;

use crate::cli::Context;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Cell;
use crate::host::cpacf::Cpacf;
use crate::host::detect;
use crate::host::detect::Host;
use crate::host::devices;
use crate::host::devices::ApBus;
use crate::host::devices::Disk;
use crate::host::devices::Place;
use crate::host::pinning;
use crate::host::pinning::Part;
use crate::host::pinning::Placed;
use crate::host::pinning::Plan;
use crate::host::profile;
use crate::host::profile::Profile;
use crate::host::profile::ProfileError;
use crate::host::profile::compare::Compared;
use crate::host::profile::compare::compare;
use crate::host::topology::Topology;
use crate::host::tree;
use crate::host::tree::Tree;
use crate::node::config::Config;
use crate::node::config::HostSection;
use crate::node::placement::Placement;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show processors, memory, crypto hardware and disks, and what a node takes of them
    Show(Show),
    /// List the host profiles of this build
    Profiles,
    /// Compare the machine with a profile; changes nothing
    Check(Check),
    /// Print the commands that bring the machine to a profile
    Apply(Apply),
}

#[derive(Args, Debug)]
pub struct Check {
    #[command(flatten)]
    source: Source,
    /// Name of the profile; `obelisk host profiles` lists them
    #[arg(long, value_name = "NAME")]
    profile: String,
}

#[derive(Args, Debug)]
pub struct Apply {
    #[command(flatten)]
    check: Check,
    /// Print and change nothing; the only way there is: the operator runs the commands
    #[arg(long, required = true)]
    dry_run: bool,
}

#[derive(Args, Debug)]
pub struct Show {
    #[command(flatten)]
    source: Source,
    /// Show where the threads of this process run, as the kernel says
    #[arg(long, value_name = "PID", conflicts_with = "root")]
    process: Option<u32>,
}

/// Which machine, and which configuration.
#[derive(Args, Debug)]
pub struct Source {
    /// Look at a recorded tree of /proc and /sys instead of this machine
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// A node's configuration file: its section `host` counts
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Source {
    fn tree(&self) -> Result<Tree, Failure> {
        let Some(root) = &self.root else { return Ok(Tree::machine()) };
        if !root.join("proc").is_dir() {
            let cause = format!("{} holds no recorded machine", root.display());
            return Err(Failure::new(Exit::NotFound, cause, "name a folder with proc/ and sys/"));
        }
        Ok(Tree::below(root))
    }

    fn section(&self) -> Result<(HostSection, PathBuf), Failure> {
        let Some(path) = &self.config else {
            return Ok((HostSection::default(), PathBuf::from("/var/lib/obelisk")));
        };
        let config = Config::load(path).map_err(|error| {
            Failure::of(Exit::Usage, &error, "correct the file; docs/cli.md shows a whole one")
        })?;
        Ok((config.host, config.node.data))
    }
}

fn profiles(context: &Context) -> Result<(), Failure> {
    let all = profile::all().map_err(|error| profile_failure(&error))?;
    let rows = all.into_iter().map(|p| {
        let texts = [p.name, p.architecture, p.title, p.tried];
        texts.into_iter().map(Cell::Text).collect()
    });
    let columns = ["name", "processor", "for", "tried"];
    context.output.table(&columns, &rows.collect::<Vec<_>>(), "this build has no profile");
    Ok(())
}

fn profile_failure(error: &ProfileError) -> Failure {
    let exit = match error {
        ProfileError::Foreign { .. } | ProfileError::Elsewhere { .. } => Exit::Refused,
        ProfileError::Unknown { .. } => Exit::Usage,
        ProfileError::Syntax { .. } => Exit::Internal,
    };
    Failure::of(exit, error, "`obelisk host profiles` lists the profiles")
}

fn compared(arguments: &Check) -> Result<(Profile, Vec<Compared>), Failure> {
    let tree = arguments.source.tree()?;
    let (section, data) = arguments.source.section()?;
    let profile = profile::named(&arguments.profile).map_err(|error| profile_failure(&error))?;
    let machine = look(&tree, &section, &data);
    let compared = compare(&profile, &tree, machine.host(), &machine.placement.sizing)
        .map_err(|error| profile_failure(&error))?;
    Ok((profile, compared))
}

fn check(arguments: &Check, context: &Context) -> Result<(), Failure> {
    let (profile, compared) = compared(arguments)?;
    let short = |text: &str| text.lines().collect::<Vec<_>>().join("; ");
    let rows = compared.iter().map(|c| {
        let verdict = match (&c.found, c.fits) {
            (None, true) => "not here",
            (_, true) => "fits",
            (_, false) => "differs",
        };
        let found = c.found.as_deref().map(|found| Cell::Text(short(found)));
        let wanted = format!("{} ({})", short(&c.wanted), c.setting.unit);
        vec![
            Cell::text_of(verdict),
            Cell::text_of(&c.setting.name),
            Cell::maybe(found),
            Cell::Text(wanted),
            Cell::text_of(&c.setting.why),
            Cell::text_of(&c.setting.source),
        ]
    });
    let json = context.output.is_json();
    let nothing = profile.nothing.iter().map(|nothing| {
        vec![
            Cell::text_of("nothing"),
            Cell::text_of(nothing.of.name()),
            Cell::None,
            // Where the reasons have no column of their own, this one is free.
            Cell::maybe((!json).then(|| Cell::text_of(&nothing.why))),
            Cell::text_of(&nothing.why),
            Cell::text_of(&nothing.source),
        ]
    });
    let columns = ["result", "setting", "found", "wanted", "why", "source"];
    // The reasons are for reading one at a time; JSON has them all.
    let shown = if json { columns.len() } else { 4 };
    let rows = rows.chain(nothing).map(|row| row.into_iter().take(shown).collect());
    let rows: Vec<Vec<Cell>> = rows.collect();
    context.output.table(&columns[..shown], &rows, "the profile has no setting for this machine");
    let differing = compared.iter().filter(|c| !c.fits).count();
    if differing == 0 {
        return Ok(());
    }
    let profile = &arguments.profile;
    let cause = format!("{differing} settings differ from the profile {profile}");
    let fix = format!("`obelisk host apply --dry-run --profile {profile}` prints the commands");
    Err(Failure::new(Exit::Refused, cause, fix))
}

fn apply(arguments: &Apply, context: &Context) -> Result<(), Failure> {
    let (_, compared) = compared(&arguments.check)?;
    let differing = compared.iter().filter(|c| !c.fits);
    if context.output.is_json() {
        let steps = differing.map(|c| {
            json!({ "setting": c.setting.name, "found": c.found, "wanted": c.wanted,
                    "why": c.setting.why, "commands": c.commands })
        });
        context.output.value(&steps.collect());
        return Ok(());
    }
    for one in differing {
        context.output.note(&format!("# {}: {}", one.setting.name, one.setting.why));
        for command in &one.commands {
            context.output.note(command);
        }
    }
    Ok(())
}

/// All that is known of a machine.
struct Machine {
    placement: Placement,
    topology: Topology,
    disks: Vec<Disk>,
    bus: ApBus,
    place: Place,
    cpacf: Vec<&'static str>,
}

pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Show(arguments) => show(&arguments, context),
        Command::Profiles => profiles(context),
        Command::Check(arguments) => check(&arguments, context),
        Command::Apply(arguments) => apply(&arguments, context),
    }
}

/// What libcrypto says of this processor; a recorded tree has no such voice.
pub fn processor_of_libcrypto(tree: &Tree) -> Option<String> {
    #[cfg(feature = "openssl")]
    if tree.is_machine() {
        return Some(crate::crypto::providers::openssl::processor());
    }
    let _ = tree;
    None
}

fn show(arguments: &Show, context: &Context) -> Result<(), Failure> {
    let tree = arguments.source.tree()?;
    let (section, data) = arguments.source.section()?;
    let machine = look(&tree, &section, &data);
    let threads = match arguments.process {
        None => Vec::new(),
        Some(process) => threads(&tree, process)?,
    };
    match context.output.is_json() {
        true => context.output.value(&machine.json(&threads)),
        false => context.output.object(&machine.fields(&threads)),
    }
    Ok(())
}

fn threads(tree: &Tree, process: u32) -> Result<Vec<Placed>, Failure> {
    let threads = pinning::threads(tree, &process.to_string());
    if threads.is_empty() {
        let cause = format!("there is no process {process}");
        let fix = "name the process id of a running node, as `systemctl status` shows it";
        return Err(Failure::new(Exit::NotFound, cause, fix));
    }
    Ok(threads)
}

fn look(tree: &Tree, section: &HostSection, data: &Path) -> Machine {
    let told = processor_of_libcrypto(tree);
    let host = detect::detect_tree(tree, told.as_deref());
    let topology = match tree.is_machine() {
        true => Topology::of_machine(),
        false => Topology::of_tree(tree),
    };
    let disks = devices::disks(tree);
    let home = match tree.is_machine() {
        true => pinning::node_of_disk(tree, data),
        // A recorded machine has no mounted directory: its first disk with a node stands in.
        false => disks.iter().find_map(|disk| disk.numa),
    };
    Machine {
        placement: Placement::new(section, host, &topology, home),
        topology,
        disks,
        bus: devices::ap_bus(tree),
        place: devices::place(tree),
        cpacf: told.as_deref().and_then(Cpacf::parse).map(|c| c.names()).unwrap_or_default(),
    }
}

impl Machine {
    fn host(&self) -> &Host {
        &self.placement.host
    }

    fn fields(&self, threads: &[Placed]) -> Vec<(&'static str, Cell)> {
        let host = self.host();
        let place = &self.place;
        let text = |text: String| Cell::Text(text);
        let lines = |lines: Vec<String>| Cell::List(lines.into_iter().map(Cell::Text).collect());
        let mut fields = vec![
            ("processor", text(format!("{}, {}", host.processor, host.architecture.name()))),
            ("topology", text(self.topology.described())),
            (
                "usable",
                text(format!("{} threads, {}", host.threads_usable, mib(host.memory_usable_bytes))),
            ),
            ("runs in", text(place.described())),
            ("memory", text(self.memory())),
            ("crypto", text(self.crypto())),
            ("disks", lines(self.disks.iter().map(disk_line).collect())),
        ];
        if self.bus.present {
            fields.push((
                "crypto adapters",
                lines(self.bus.adapters.iter().map(adapter_line).collect()),
            ));
        }
        let s = &self.placement.sizing;
        fields.extend([
            (
                "store",
                text(format!(
                    "block cache {}, memtables {} of {} each, {} background jobs{}",
                    mib(s.cache_bytes as u64),
                    mib(s.memtables_total_bytes as u64),
                    mib(s.memtable_bytes as u64),
                    s.background_jobs,
                    if s.direct_io { ", direct I/O" } else { "" },
                )),
            ),
            ("state tree", text(format!("{}, {} keys", mib(s.tree_bytes), s.tree_keys()))),
            ("threads", text(format!("{} verify, {} network", s.verify_threads, s.tokio_threads))),
            ("pinning", text(self.placement.plan.reason.clone())),
        ]);
        let plan = &self.placement.plan;
        let parts =
            plan.parts.iter().map(|(part, on)| format!("{}: {}", part.name(), tree::to_list(on)));
        fields.push(("cores", lines(parts.collect())));
        if !threads.is_empty() {
            let plan = &self.placement.plan;
            let line = |thread| thread_line(thread, plan);
            fields.push(("running on", lines(threads.iter().map(line).collect())));
        }
        fields.push(("remarks", lines(host.remarks.clone())));
        fields
    }

    fn memory(&self) -> String {
        let host = self.host();
        format!(
            "{}, pages of {} KiB, {} huge pages of {} KiB set aside",
            mib(host.memory_bytes),
            host.page_bytes / 1024,
            host.huge_pages,
            host.huge_page_bytes / 1024
        )
    }

    fn crypto(&self) -> String {
        let crypto = &self.host().crypto;
        let yes = |flag: bool| if flag { "yes" } else { "no" };
        let mut text = format!(
            "{} (SHA-256 {}, AES {}, ECDSA {}; by {})",
            crypto.names.join(" "),
            yes(crypto.sha256),
            yes(crypto.aes),
            yes(crypto.ecdsa),
            crypto.told_by
        );
        if !self.cpacf.is_empty() {
            text = format!("{text}; CPACF: {}", self.cpacf.join(", "));
        }
        text
    }

    fn json(&self, threads: &[Placed]) -> Value {
        let host = self.host();
        let s = &self.placement.sizing;
        let plan = &self.placement.plan;
        let parts = plan.parts.iter().map(|(part, on)| (part.name().to_owned(), json!(on)));
        let processors = self.topology.processors.iter().map(|p| {
            json!({ "id": p.id, "core": p.core, "package": p.package, "book": p.book,
                    "drawer": p.drawer, "numa": p.numa, "cache": p.cache })
        });
        let threads = threads.iter().map(|t| {
            json!({ "thread": t.thread, "name": t.name, "part": t.part.map(Part::name),
                    "processors": t.processors, "planned": plan.missed(t).is_none() })
        });
        let disks = self.disks.iter().map(|d| {
            json!({ "name": d.name, "rotational": d.rotational, "scheduler": d.scheduler,
                    "bytes": d.bytes, "numa": d.numa })
        });
        let adapters = self.bus.adapters.iter().map(|a| {
            json!({ "id": a.id, "type": a.kind, "online": a.online,
                    "check_stopped": a.check_stopped, "requests": a.requests })
        });
        json!({
            "architecture": host.architecture.name(),
            "processor": host.processor,
            "threads": host.threads,
            "threads_usable": host.threads_usable,
            "memory_bytes": host.memory_bytes,
            "memory_usable_bytes": host.memory_usable_bytes,
            "page_bytes": host.page_bytes,
            "huge_page_bytes": host.huge_page_bytes,
            "huge_pages": host.huge_pages,
            "hypervisor": self.place.hypervisor,
            "container": self.place.container,
            "secure_execution": self.place.secure_execution,
            "crypto": { "names": host.crypto.names, "sha256": host.crypto.sha256,
                        "aes": host.crypto.aes, "ecdsa": host.crypto.ecdsa,
                        "told_by": host.crypto.told_by, "cpacf": self.cpacf },
            "disks": disks.collect::<Vec<_>>(),
            "crypto_adapters": adapters.collect::<Vec<_>>(),
            "topology": processors.collect::<Vec<_>>(),
            "sizing": { "cache_bytes": s.cache_bytes, "memtables_total_bytes": s.memtables_total_bytes,
                        "memtable_bytes": s.memtable_bytes, "background_jobs": s.background_jobs,
                        "direct_io": s.direct_io, "tree_bytes": s.tree_bytes,
                        "verify_threads": s.verify_threads, "network_threads": s.tokio_threads },
            "pinning": { "reason": plan.reason,
                         "parts": Value::Object(parts.collect()) },
            "running": threads.collect::<Vec<_>>(),
            "remarks": host.remarks,
        })
    }
}

fn disk_line(disk: &Disk) -> String {
    let kind = if disk.rotational { "rotational" } else { "solid state" };
    let node = disk.numa.map(|node| format!(", NUMA node {node}")).unwrap_or_default();
    format!("{}: {}, {kind}, scheduler {}{node}", disk.name, mib(disk.bytes), disk.scheduler)
}

fn adapter_line(adapter: &devices::Adapter) -> String {
    let state = match (adapter.check_stopped, adapter.online) {
        (true, _) => "check-stopped",
        (false, true) => "online",
        (false, false) => "offline",
    };
    format!("card {} {}: {state}, {} requests", adapter.id, adapter.kind, adapter.requests)
}

fn thread_line(thread: &Placed, plan: &Plan) -> String {
    let part = thread.part.map_or("-", Part::name);
    let on = tree::to_list(&thread.processors);
    match plan.missed(thread) {
        None => format!("{} ({part}): {on}", thread.name),
        Some(wanted) => format!("{} ({part}): {on}, not {}", thread.name, tree::to_list(wanted)),
    }
}

fn mib(bytes: u64) -> String {
    match bytes >> 20 {
        mib if mib >= 10 * 1024 => format!("{} GiB", mib >> 10),
        mib => format!("{mib} MiB"),
    }
}
