//! What hangs on the machine: disks, the crypto adapters of IBM Z, and what the machine itself runs
//! in.

use serde::Deserialize;

use crate::host::emulation;
use crate::host::tree::Tree;

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Name of the kernel, `nvme0n1`.
    pub name: String,
    /// True for turning platters; virtual disks often claim it wrongly.
    pub rotational: bool,
    /// I/O scheduler in use; empty where there is none to choose.
    pub scheduler: String,
    /// Size, bytes.
    pub bytes: u64,
    /// NUMA node of its controller.
    pub numa: Option<usize>,
}

/// How a crypto adapter is set up, by the letter behind its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterMode {
    /// Clear-key RSA only: of no use to a ledger.
    Accelerator,
    /// CCA coprocessor.
    Cca,
    /// EP11 coprocessor: PKCS#11 keys that never leave the card.
    Ep11,
}

/// A crypto adapter of IBM Z (Crypto Express).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// Number on the bus, hexadecimal, as in `/sys/bus/ap/devices/card0a`.
    pub id: String,
    /// Type of the kernel, `CEX8P`.
    pub kind: String,
    /// Mode; `None` for a type that is not known here.
    pub mode: Option<AdapterMode>,
    /// Configured and switched on.
    pub online: bool,
    /// Stopped by an error of its own.
    pub check_stopped: bool,
    /// Requests answered since boot.
    pub requests: u64,
}

/// A queue: one domain of one adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Card and domain, `0a.0017`.
    pub id: String,
    /// Usable.
    pub online: bool,
    /// Pattern of the current master key, where one is set and valid.
    pub master_key: Option<String>,
}

impl Queue {
    /// Numbers of card and domain.
    pub fn apqn(&self) -> Option<(u8, u8)> {
        let (card, domain) = self.id.split_once('.')?;
        let read = |digits| u8::from_str_radix(digits, 16).ok();
        Some((read(card)?, read(domain)?))
    }
}

/// The crypto adapters, as the kernel's AP bus shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApBus {
    /// Whether there is such a bus.
    pub present: bool,
    /// Adapters.
    pub adapters: Vec<Adapter>,
    /// Queues.
    pub queues: Vec<Queue>,
    /// Protected keys (`pkey`) can be used.
    pub pkey: bool,
    /// The device that programs open, `/dev/z90crypt`, is there.
    pub device: bool,
}

impl ApBus {
    /// Queues of adapters in EP11 mode that are online.
    pub fn ep11_queues(&self) -> impl Iterator<Item = &Queue> {
        let ep11 = |queue: &&Queue| {
            let card = queue.id.split('.').next();
            let of_card = |adapter: &&Adapter| card == Some(adapter.id.as_str());
            let adapter = self.adapters.iter().find(of_card);
            queue.online && adapter.is_some_and(|a| a.mode == Some(AdapterMode::Ep11))
        };
        self.queues.iter().filter(ep11)
    }
}

/// Kinds of surroundings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Surroundings {
    /// No hypervisor.
    BareMetal,
    /// A partition of IBM Z or LinuxONE.
    Lpar,
    /// A KVM guest of IBM Z, LinuxONE or Power.
    Kvm,
    /// A guest whose memory the host cannot read.
    SecureExecution,
    /// A partition of Power.
    #[serde(rename = "powervm")]
    PowerVm,
    /// A virtual machine of x86.
    VirtualMachine,
    /// An instance of a public cloud that names itself.
    Cloud,
    /// Another hypervisor, or a program that plays the processor: no profile is for it.
    #[serde(skip_deserializing)]
    Other,
}

impl Surroundings {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::BareMetal => "bare metal",
            Self::Lpar => "a partition of LinuxONE or IBM Z",
            Self::Kvm => "a KVM guest",
            Self::SecureExecution => "a Secure Execution guest",
            Self::PowerVm => "a PowerVM partition",
            Self::VirtualMachine => "a virtual machine",
            Self::Cloud => "an instance of a public cloud",
            Self::Other => "other surroundings",
        }
    }
}

/// What the system runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its kind.
    pub surroundings: Surroundings,
    /// Hypervisor, partitioning or translator: `KVM`, `LPAR OBELISK1`, `PowerVM`, `QEMU, all
    /// instructions translated`; `None` on bare metal.
    pub hypervisor: Option<String>,
    /// Container engine.
    pub container: Option<String>,
    /// A guest whose memory the host cannot read (Secure Execution).
    pub secure_execution: bool,
}

impl Place {
    /// For people.
    pub fn described(&self) -> String {
        let mut text = self.hypervisor.clone().unwrap_or_else(|| "bare metal".to_owned());
        if self.secure_execution {
            text.push_str(", Secure Execution");
        }
        if let Some(engine) = &self.container {
            text = format!("{text}, container of {engine}");
        }
        text
    }
}

/// Disks; loop devices, memory disks and the like are left out.
pub fn disks(tree: &Tree) -> Vec<Disk> {
    let real = |name: &String| {
        !["loop", "ram", "zram", "fd", "sr", "nbd"].iter().any(|head| name.starts_with(head))
    };
    let names = tree.names("sys/block").into_iter().filter(real);
    names.map(|name| disk(tree, name)).collect()
}

fn disk(tree: &Tree, name: String) -> Disk {
    let base = format!("sys/block/{name}");
    let schedulers = tree.text(&format!("{base}/queue/scheduler"));
    // The one in use stands in brackets; a single one stands alone.
    let chosen = schedulers.split(['[', ']']).nth(1).unwrap_or(&schedulers).trim().to_owned();
    Disk {
        rotational: tree.number(&format!("{base}/queue/rotational")) == Some(1),
        scheduler: chosen,
        bytes: tree.number(&format!("{base}/size")).unwrap_or(0).saturating_mul(SECTOR_BYTES),
        numa: tree
            .number(&format!("{base}/device/numa_node"))
            .and_then(|n| usize::try_from(n).ok()),
        name,
    }
}

/// The crypto adapters.
pub fn ap_bus(tree: &Tree) -> ApBus {
    let names = tree.names("sys/bus/ap/devices");
    let (cards, queues): (Vec<String>, Vec<String>) =
        names.into_iter().partition(|name| name.starts_with("card"));
    ApBus {
        present: tree.exists("sys/bus/ap"),
        adapters: cards.iter().filter_map(|name| adapter(tree, name)).collect(),
        queues: queues
            .into_iter()
            .filter(|name| name.contains('.'))
            .map(|n| queue(tree, n))
            .collect(),
        pkey: tree.exists("sys/devices/virtual/misc/pkey"),
        device: tree.exists("sys/devices/virtual/misc/z90crypt") || tree.exists("dev/z90crypt"),
    }
}

fn adapter(tree: &Tree, name: &str) -> Option<Adapter> {
    let id = name.strip_prefix("card")?.to_owned();
    let at = |file: &str| tree.text(&format!("sys/bus/ap/devices/{name}/{file}"));
    let kind = at("type");
    let mode = match kind.chars().last() {
        Some('A') => Some(AdapterMode::Accelerator),
        Some('C') => Some(AdapterMode::Cca),
        Some('P') => Some(AdapterMode::Ep11),
        _ => None,
    };
    Some(Adapter {
        id,
        mode,
        kind,
        online: at("online") == "1" && at("config") != "0",
        check_stopped: at("chkstop") == "1",
        requests: at("request_count").parse().unwrap_or(0),
    })
}

fn queue(tree: &Tree, id: String) -> Queue {
    let at = |file: &str| tree.text(&format!("sys/bus/ap/devices/{id}/{file}"));
    // EP11: "WK CUR: valid 0x..."; CCA: "AES CUR: valid 0x...".
    let patterns = at("mkvps");
    let master_key = patterns.lines().find_map(|line| line.split_once("CUR: valid "));
    Queue {
        online: at("online") == "1" && at("chkstop") != "1",
        master_key: master_key.map(|(_, pattern)| pattern.trim().to_owned()),
        id,
    }
}

/// What the system runs in.
pub fn place(tree: &Tree) -> Place {
    let (surroundings, hypervisor) = hypervisor(tree);
    let secure_execution = tree.number("sys/firmware/uv/prot_virt_guest") == Some(1);
    Place {
        surroundings: match secure_execution {
            true => Surroundings::SecureExecution,
            false => surroundings,
        },
        hypervisor,
        container: container(tree),
        secure_execution,
    }
}

fn hypervisor(tree: &Tree) -> (Surroundings, Option<String>) {
    // A translator shows the guest what the hypervisor shows that it stands in for.
    if let Some(translator) = emulation::emulated_by(tree) {
        return (Surroundings::Other, Some(translator));
    }
    let sysinfo = tree.text("proc/sysinfo");
    let value = |name: &str| {
        let line = sysinfo.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches(':').trim().to_owned())
    };
    if let Some(program) = value("VM00 Control Program") {
        return match program.starts_with("KVM") {
            true => (Surroundings::Kvm, Some(program)),
            false => (Surroundings::Other, Some(program)),
        };
    }
    if let Some(name) = value("LPAR Name") {
        return (Surroundings::Lpar, Some(format!("LPAR {name}")));
    }
    let cpuinfo = tree.text("proc/cpuinfo");
    if cpuinfo.contains("IBM pSeries (emulated by qemu)") {
        return (Surroundings::Kvm, Some("KVM".to_owned()));
    }
    // Every guest of this platform has the file, under QEMU too.
    if tree.exists("proc/ppc64/lparcfg") {
        return (Surroundings::PowerVm, Some("PowerVM".to_owned()));
    }
    let virtual_x86 = cpuinfo.lines().any(|line| {
        line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "hypervisor")
    });
    let vendor = tree.text("sys/class/dmi/id/sys_vendor");
    let asset = tree.text("sys/class/dmi/id/chassis_asset_tag");
    // An instance without a hypervisor has the cloud's network disks as well.
    let cloud = CLOUD_VENDORS.contains(&vendor.as_str()) || asset == AZURE_ASSET;
    let named = || Some(vendor.clone()).filter(|vendor| !vendor.is_empty());
    match (cloud, virtual_x86) {
        (true, false) => (Surroundings::Cloud, None),
        (true, true) => (Surroundings::Cloud, named()),
        (false, true) => {
            let unnamed = || Some("a hypervisor".to_owned());
            (Surroundings::VirtualMachine, named().or_else(unnamed))
        }
        (false, false) => (Surroundings::BareMetal, None),
    }
}

fn container(tree: &Tree) -> Option<String> {
    // systemd writes it for its own containers and for engines that follow its interface.
    let told = tree.text("run/systemd/container");
    if !told.is_empty() {
        return Some(told);
    }
    [("run/.containerenv", "podman"), (".dockerenv", "docker")]
        .into_iter()
        .find(|(path, _)| tree.exists(path))
        .map(|(_, name)| name.to_owned())
}

const SECTOR_BYTES: u64 = 512;
/// Makers by which Amazon EC2 and Google Compute Engine name themselves (cloud-init, ds-identify).
const CLOUD_VENDORS: &[&str] = &["Amazon EC2", "Google"];
/// The asset tag of every instance of Azure, whose maker is that of any Hyper-V (the same source).
const AZURE_ASSET: &str = "7783-7084-3265-9085-8269-3286-77";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::recorded;

    /// Two EP11 adapters with one master key, and protected keys.
    #[test]
    fn a_linuxone_partition_shows_its_adapters() {
        let (folder, tree) = recorded::machine("linuxone-lpar");
        let bus = ap_bus(&tree);
        assert_eq!(
            (bus.adapters.len(), bus.queues.len(), bus.pkey, bus.device),
            (2, 2, true, true)
        );
        let ep11 = |a: &Adapter| a.mode == Some(AdapterMode::Ep11) && a.online && !a.check_stopped;
        assert!(bus.adapters.iter().all(ep11));
        assert_eq!(bus.queues[0].master_key, bus.queues[1].master_key);
        assert!(bus.queues[0].master_key.as_ref().is_some_and(|key| key.starts_with("0xa1b2")));
        let apqns: Vec<_> = bus.ep11_queues().map(Queue::apqn).collect();
        assert_eq!(apqns, [Some((2, 23)), Some((10, 23))]);
        let path = "sys/bus/ap/devices/card0a/type";
        recorded::put(folder.path(), path, b"CEX8A\n");
        recorded::put(folder.path(), "sys/bus/ap/devices/card0a/chkstop", b"1\n");
        let bus = ap_bus(&tree);
        assert_eq!(bus.adapters[1].mode, Some(AdapterMode::Accelerator));
        assert!(bus.adapters[1].check_stopped);
        assert_eq!(bus.ep11_queues().count(), 1);
    }

    /// Partitions, virtual machines and containers are told apart.
    #[test]
    fn the_place_is_recognised() {
        for (name, expected) in [
            ("linuxone-lpar", Some("LPAR OBELISK1")),
            ("power-lpar", Some("PowerVM")),
            ("x86-small-vm", Some("QEMU")),
            ("x86-server", None),
        ] {
            let (folder, tree) = recorded::machine(name);
            assert_eq!(place(&tree).hypervisor.as_deref(), expected, "{name}");
            assert_eq!(place(&tree).container, None);
            let kind = match name {
                "linuxone-lpar" => Surroundings::Lpar,
                "power-lpar" => Surroundings::PowerVm,
                "x86-small-vm" => Surroundings::VirtualMachine,
                _ => Surroundings::BareMetal,
            };
            assert_eq!(place(&tree).surroundings, kind, "{name}");
            recorded::put(folder.path(), "run/systemd/container", b"systemd-nspawn");
            recorded::put(folder.path(), "sys/firmware/uv/prot_virt_guest", b"1\n");
            assert_eq!(place(&tree).container.as_deref(), Some("systemd-nspawn"));
            assert!(place(&tree).secure_execution);
            assert_eq!(place(&tree).surroundings, Surroundings::SecureExecution);
        }
    }

    /// z/VM is no KVM; clouds name themselves; a translated processor has no profile.
    #[test]
    fn surroundings_have_kinds() {
        let kind = |machine: &str, path: &str, text: &str| {
            let (folder, tree) = recorded::machine(machine);
            recorded::put(folder.path(), path, text.as_bytes());
            place(&tree).surroundings
        };
        let program = |name| format!("Manufacturer: IBM\nVM00 Control Program: {name}\n");
        let sysinfo = |text: &str| kind("linuxone-lpar", "proc/sysinfo", text);
        assert_eq!(sysinfo(&program("KVM/Linux")), Surroundings::Kvm);
        assert_eq!(sysinfo(&program("z/VM    7.3.0")), Surroundings::Other);
        assert_eq!(sysinfo("Manufacturer: QEMU\n"), Surroundings::Other);
        for machine in ["x86-small-vm", "x86-server"] {
            let dmi = |file: &str, text| kind(machine, &format!("sys/class/dmi/id/{file}"), text);
            assert_eq!(dmi("sys_vendor", "Amazon EC2"), Surroundings::Cloud);
            assert_eq!(dmi("chassis_asset_tag", AZURE_ASSET), Surroundings::Cloud);
        }
    }

    /// QEMU's pSeries has a partition's file as well, and is no partition; KVM is told from a translator.
    #[test]
    fn a_power_guest_of_qemu_is_no_partition() {
        let (folder, tree) = recorded::machine("power-lpar");
        let cpuinfo = b"model\t\t: IBM pSeries (emulated by qemu)\n";
        recorded::put(folder.path(), "proc/cpuinfo", cpuinfo);
        let translator = place(&tree).hypervisor.unwrap();
        assert!(translator.starts_with("QEMU, "), "{translator}");
        recorded::put(folder.path(), "proc/device-tree/hypervisor/compatible", b"linux,kvm");
        assert_eq!(place(&tree).hypervisor.as_deref(), Some("KVM"));
    }

    /// Disks with the scheduler in use; an empty tree has none of all this.
    #[test]
    fn disks_tell_their_scheduler() {
        let (_folder, tree) = recorded::machine("x86-server");
        let disks = disks(&tree);
        let told: Vec<_> = disks.iter().map(|d| (d.name.as_str(), d.scheduler.as_str())).collect();
        assert_eq!(told, [("nvme0n1", "none"), ("sda", "mq-deadline")]);
        assert_eq!(
            (disks[0].numa, disks[0].rotational, disks[1].rotational),
            (Some(1), false, true)
        );
        let nothing = Tree::below("/nonexistent");
        assert_eq!((super::disks(&nothing).len(), ap_bus(&nothing).present), (0, false));
    }
}
