//! A profile against a machine: what was found, what is wanted, what to do.

use crate::host::detect::Host;
use crate::host::devices;
use crate::host::devices::AdapterMode;
use crate::host::devices::ApBus;
use crate::host::devices::Place;
use crate::host::devices::Queue;
use crate::host::profile;
use crate::host::profile::Kind;
use crate::host::profile::Profile;
use crate::host::profile::ProfileError;
use crate::host::profile::Rule;
use crate::host::profile::Setting;
use crate::host::sizing::Sizing;
use crate::host::tree::Tree;

/// One setting, compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// The setting.
    pub setting: Setting,
    /// The value wanted on this machine, where it is computed.
    pub wanted: String,
    /// What was found; `None` where the machine has no such thing.
    pub found: Option<String>,
    /// Whether it fits; it does where the setting is not for a machine without the thing.
    pub fits: bool,
    /// Lines of a shell that set it, now and after the next start; what no command does is a
    /// comment.
    pub commands: Vec<String>,
}

/// Compares every setting. The machine must be of the profile's family and surroundings.
pub fn compare(
    profile: &Profile,
    tree: &Tree,
    host: &Host,
    sizing: &Sizing,
) -> Result<Vec<Compared>, ProfileError> {
    let found = host.architecture.name();
    if profile.architecture != found {
        let (name, wanted) = (profile.name.clone(), profile.architecture.clone());
        return Err(ProfileError::Foreign { name, wanted, found: found.to_owned() });
    }
    surrounded(profile, &devices::place(tree))?;
    let wanted = |setting: &Setting| match (setting.kind, setting.rule) {
        (Kind::HugePages, _) => huge_pages_wanted(host, sizing).to_string(),
        (Kind::File, _) => filled(&setting.value, &devices::ap_bus(tree)),
        (_, Rule::OneOf) => setting.value.split_whitespace().next().unwrap_or("").to_owned(),
        _ => setting.value.clone(),
    };
    let one = |setting: &Setting| self::one(setting, wanted(setting), tree);
    Ok(profile.settings.iter().flat_map(one).collect())
}

fn surrounded(profile: &Profile, place: &Place) -> Result<(), ProfileError> {
    if profile.surroundings.contains(&place.surroundings) {
        return Ok(());
    }
    let fits = |other: &Profile| {
        other.architecture == profile.architecture
            && other.surroundings.contains(&place.surroundings)
    };
    let fitting = profile::all()?.into_iter().filter(fits).map(|other| other.name);
    let fitting = fitting.collect::<Vec<_>>().join(" or ");
    let names: Vec<_> = profile.surroundings.iter().map(|kind| kind.name()).collect();
    Err(ProfileError::Elsewhere {
        name: profile.name.clone(),
        wanted: names.join(" or "),
        found: place.described(),
        fix: match fitting.is_empty() {
            true => "no profile is for it".to_owned(),
            false => format!("choose {fitting}"),
        },
    })
}

/// Lines with the queues and the master key of this machine's adapters in EP11 mode.
fn filled(lines: &str, bus: &ApBus) -> String {
    let apqns = bus.ep11_queues().filter_map(Queue::apqn);
    let apqns: Vec<_> = apqns.map(|(card, domain)| format!("{card} {domain}")).collect();
    let key = bus.ep11_queues().find_map(|queue| queue.master_key.as_deref());
    let pattern = key.map(|key| key.chars().take(WKVP_LETTERS).collect());
    let unknown = || "pattern of the master key, once one is loaded".to_owned();
    let pattern: String = pattern.unwrap_or_else(unknown);
    lines.replace("{apqns}", &apqns.join("\n")).replace("{wkvp}", &pattern)
}

/// Pages for the store's memtables, and one arena block per table beside them.
pub fn huge_pages_wanted(host: &Host, sizing: &Sizing) -> u64 {
    match u64::try_from(host.huge_page_bytes).unwrap_or(0) {
        0 => 0,
        page => (sizing.memtables_total_bytes as u64).div_ceil(page) + TABLES,
    }
}

fn one(setting: &Setting, wanted: String, tree: &Tree) -> Vec<Compared> {
    if setting.kind == Kind::Scheduler {
        return schedulers(setting, tree);
    }
    let compared = |found, fits, commands, wanted| {
        vec![Compared { setting: setting.clone(), wanted, found, fits, commands }]
    };
    if setting.only_where.as_ref().is_some_and(|path| !there_is(tree, path)) {
        return compared(None, true, Vec::new(), wanted);
    }
    match found(setting, tree) {
        Some(found) => {
            let fits = holds(setting, &found, &wanted);
            compared(Some(found), fits, commands(setting, &wanted), wanted)
        }
        None if matches!(setting.kind, Kind::Sysfs | Kind::Sysctl) => {
            let line = format!("# this kernel has no {}: no command sets it", setting.name);
            compared(None, false, vec![line], wanted)
        }
        None => compared(None, false, commands(setting, &wanted), wanted),
    }
}

/// Whether a path exists, or with `*` at its end any name that begins so.
fn there_is(tree: &Tree, path: &str) -> bool {
    match path.strip_suffix('*').and_then(|path| path.rsplit_once('/')) {
        Some((folder, head)) => tree.names(folder).iter().any(|name| name.starts_with(head)),
        None => tree.exists(path),
    }
}

fn found(setting: &Setting, tree: &Tree) -> Option<String> {
    let name = &setting.name;
    let there = |path: &str| tree.exists(path).then(|| tree.text(path));
    match setting.kind {
        Kind::KernelLine => {
            let line = tree.text("proc/cmdline");
            line.split_whitespace().rev().find_map(|word| {
                let (key, value) = word.split_once('=').unwrap_or((word, ""));
                (key == name).then(|| value.to_owned())
            })
        }
        Kind::Sysctl => there(&sysctl_path(name)),
        Kind::Sysfs => there(name).map(|text| match text.split(['[', ']']).nth(1) {
            Some(chosen) => chosen.to_owned(),
            None => text,
        }),
        Kind::HugePages => {
            Some(tree.field("proc/meminfo", "HugePages_Total:").unwrap_or(0).to_string())
        }
        Kind::Module => tree.exists(&format!("sys/module/{name}")).then(|| "loaded".to_owned()),
        Kind::Udev => there(&format!("etc/udev/rules.d/{name}")),
        Kind::File => there(name),
        Kind::Adapter => {
            let mode = match name.as_str() {
                "ep11" => AdapterMode::Ep11,
                "cca" => AdapterMode::Cca,
                _ => AdapterMode::Accelerator,
            };
            let adapters = devices::ap_bus(tree).adapters;
            let usable =
                |a: &&devices::Adapter| a.mode == Some(mode) && a.online && !a.check_stopped;
            Some(adapters.iter().filter(usable).count().to_string())
        }
        Kind::Scheduler => None,
    }
}

fn holds(setting: &Setting, found: &str, wanted: &str) -> bool {
    if matches!(setting.kind, Kind::File | Kind::Udev) {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = found.lines().map(words).collect();
        return wanted.lines().all(|line| lines.contains(&words(line)));
    }
    let numbers = (found.trim().parse::<u64>(), wanted.trim().parse::<u64>());
    match (setting.rule, numbers) {
        (Rule::AtLeast, (Ok(found), Ok(wanted))) => found >= wanted,
        (Rule::AtMost, (Ok(found), Ok(wanted))) => found <= wanted,
        (Rule::Equal, _) => found.trim() == wanted.trim(),
        (Rule::OneOf, _) => setting.value.split_whitespace().any(|word| word == found.trim()),
        _ => false,
    }
}

/// One comparison per disk; the profile's udev rule keeps it so.
fn schedulers(setting: &Setting, tree: &Tree) -> Vec<Compared> {
    let disks = devices::disks(tree).into_iter();
    let disks =
        disks.filter(|disk| disk.name.starts_with(&setting.name) && !disk.scheduler.is_empty());
    let compared = disks.map(|disk| {
        let fits = disk.scheduler == setting.value;
        let name = disk.name;
        let commands = vec![format!("echo {} > /sys/block/{name}/queue/scheduler", setting.value)];
        let setting = Setting { name, ..setting.clone() };
        let wanted = setting.value.clone();
        Compared { setting, wanted, found: Some(disk.scheduler), fits, commands }
    });
    compared.collect()
}

/// How to set it now, and how it stays set.
fn commands(setting: &Setting, wanted: &str) -> Vec<String> {
    let name = &setting.name;
    match setting.kind {
        Kind::KernelLine => vec![format!(
            "# add {name}={wanted} to the kernel line (GRUB_CMDLINE_LINUX in /etc/default/grub and \
             update-grub; parameters= in /etc/zipl.conf and zipl), then restart"
        )],
        Kind::Sysctl => vec![
            format!("sysctl -w {name}={wanted}"),
            append(&format!("{name} = {wanted}"), SYSCTL_FILE),
        ],
        Kind::Sysfs => vec![
            format!("echo {wanted} > /{name}"),
            append(&format!("w /{name} - - - - {wanted}"), "/etc/tmpfiles.d/obelisk-host.conf"),
        ],
        Kind::HugePages => vec![
            format!("sysctl -w vm.nr_hugepages={wanted}"),
            append(&format!("vm.nr_hugepages = {wanted}"), SYSCTL_FILE),
        ],
        Kind::Module => {
            vec![format!("modprobe {name}"), append(name, "/etc/modules-load.d/obelisk.conf")]
        }
        Kind::Udev => vec![
            append(wanted, &format!("/etc/udev/rules.d/{name}")),
            "udevadm control --reload && udevadm trigger".to_owned(),
        ],
        Kind::File => {
            let head = format!("# edit /{name}, these lines belong there:");
            let lines = wanted.lines().map(|line| format!("#   {line}"));
            std::iter::once(head).chain(lines).collect()
        }
        Kind::Adapter => vec![
            "# set the mode of the adapters on the hardware management console, then:".to_owned(),
            "# chzcrypt -e -a".to_owned(),
        ],
        Kind::Scheduler => Vec::new(),
    }
}

fn append(line: &str, file: &str) -> String {
    format!("echo '{line}' >> {file}")
}

fn sysctl_path(name: &str) -> String {
    format!("proc/sys/{}", name.replace('.', "/"))
}

const SYSCTL_FILE: &str = "/etc/sysctl.d/60-obelisk.conf";
/// `0x` and the 16 bytes that openCryptoki compares; the kernel shows 32.
const WKVP_LETTERS: usize = 2 + 32;
/// Tables of the store, with room for those to come.
const TABLES: u64 = 8;
