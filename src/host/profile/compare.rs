//! A profile against a machine: what was found, what is wanted, what to do.

use crate::host::detect::Host;
use crate::host::devices;
use crate::host::devices::AdapterMode;
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
    /// Whether it fits; where there is nothing to set, it does.
    pub fits: bool,
    /// Shell commands that set it, now and after the next start; none where only firmware can.
    pub commands: Vec<String>,
}

/// Compares every setting. The machine must be of the profile's family.
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
    let wanted = |setting: &Setting| match setting.kind {
        Kind::HugePages => huge_pages_wanted(host, sizing).to_string(),
        _ => setting.value.clone(),
    };
    let one = |setting: &Setting| self::one(setting, wanted(setting), tree);
    Ok(profile.settings.iter().flat_map(one).collect())
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
    let found = found(setting, tree);
    let fits = match &found {
        None => absence_fits(setting.kind),
        Some(found) => holds(setting, found, &wanted),
    };
    let commands = commands(setting, &wanted);
    vec![Compared { setting: setting.clone(), wanted, found, fits, commands }]
}

/// A file of `/sys` that is not there belongs to hardware or a kernel that is not there.
fn absence_fits(kind: Kind) -> bool {
    matches!(kind, Kind::Sysfs | Kind::Sysctl)
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
        Kind::HugePages => tree.field("proc/meminfo", "HugePages_Total:").map(|n| n.to_string()),
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
        let lines: Vec<&str> = found.lines().map(str::trim).collect();
        return wanted.lines().all(|line| lines.contains(&line.trim()));
    }
    let numbers = (found.trim().parse::<u64>(), wanted.trim().parse::<u64>());
    match (setting.rule, numbers) {
        (Rule::AtLeast, (Ok(found), Ok(wanted))) => found >= wanted,
        (Rule::AtMost, (Ok(found), Ok(wanted))) => found <= wanted,
        (Rule::Equal, _) => found.trim() == wanted.trim(),
        _ => false,
    }
}

/// One comparison per disk.
fn schedulers(setting: &Setting, tree: &Tree) -> Vec<Compared> {
    let disks = devices::disks(tree).into_iter();
    let disks =
        disks.filter(|disk| disk.name.starts_with(&setting.name) && !disk.scheduler.is_empty());
    let compared = disks.map(|disk| {
        let fits = disk.scheduler == setting.value;
        let name = disk.name;
        let file = format!("/sys/block/{name}/queue/scheduler");
        let rule = format!(
            "ACTION==\"add|change\", KERNEL==\"{name}\", ATTR{{queue/scheduler}}=\"{}\"",
            setting.value
        );
        let commands = vec![
            format!("echo {} > {file}", setting.value),
            append(&rule, "/etc/udev/rules.d/60-obelisk-scheduler.rules"),
        ];
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
            "add {name}={wanted} to the kernel line (GRUB_CMDLINE_LINUX in /etc/default/grub and \
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
            let words = wanted.lines().collect::<Vec<_>>().join("; ");
            vec![format!("edit /{name}: {words}")]
        }
        Kind::Adapter => vec![
            "set the mode of the adapters on the hardware management console, then: chzcrypt -e -a"
                .to_owned(),
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
/// Tables of the store, with room for those to come.
const TABLES: u64 = 8;
