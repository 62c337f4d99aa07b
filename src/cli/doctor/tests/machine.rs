//! Faults of the machine: processor, memory, limits, clock, crypto.

use super::*;

pub(super) fn machine_plants() -> Vec<Plant> {
    use Outcome::Error;
    use Outcome::Note;
    use Outcome::Warning;
    vec![
        (
            "machine.architecture",
            Warning,
            VM,
            |p| p.put("proc/sys/kernel/arch", "riscv64"),
            nothing,
        ),
        (
            "machine.kernel",
            Warning,
            VM,
            |p| p.put("proc/sys/kernel/osrelease", "5.4.0-150-generic"),
            nothing,
        ),
        (
            "machine.kernel",
            Error,
            VM,
            |p| p.put("proc/sys/kernel/osrelease", "3.10.0-1160.el7"),
            nothing,
        ),
        (
            "machine.processors",
            Warning,
            VM,
            |p| p.put("sys/devices/system/cpu/online", "0"),
            nothing,
        ),
        (
            "machine.pinning",
            Note,
            SERVER,
            |p| p.replace("[storage]", "[host]\npin = false\n[storage]"),
            nothing,
        ),
        (
            "machine.steal",
            Warning,
            VM,
            |p| p.put("proc/stat", "cpu  500 0 100 500 0 0 0 200 0 0"),
            nothing,
        ),
        (
            "machine.governor",
            Warning,
            SERVER,
            |p| p.put("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave"),
            nothing,
        ),
        ("machine.surroundings", Note, VM, |p| p.put("run/systemd/container", "podman"), nothing),
        (
            "machine.entropy",
            Warning,
            VM,
            |p| p.put("proc/sys/kernel/random/entropy_avail", "40"),
            nothing,
        ),
        ("machine.fips", Warning, VM, |p| p.put("proc/sys/crypto/fips_enabled", "1"), nothing),
        ("machine.version", Note, VM, healthy, |scope| {
            scope.features = &[("rocksdb", true), ("pkcs11", false)]
        }),
        (
            "memory.size",
            Error,
            VM,
            |p| p.replace("[storage]", "[host]\nmemory_mib = 500\n[storage]"),
            nothing,
        ),
        ("memory.size", Error, VM, |p| p.put("proc/meminfo", "MemTotal: 500000 kB\n"), nothing),
        ("memory.size", Warning, VM, |p| p.put("proc/meminfo", "MemTotal: 1500000 kB\n"), nothing),
        (
            "memory.available",
            Warning,
            VM,
            |p| p.put("proc/meminfo", "MemTotal: 4028416 kB\nMemAvailable: 100000 kB\n"),
            nothing,
        ),
        // Enough for the store (96 and 128 MiB), not for the tree (a quarter of 3934 MiB) as well.
        (
            "memory.available",
            Warning,
            VM,
            |p| p.put("proc/meminfo", "MemTotal: 4028416 kB\nMemAvailable: 1000000 kB\n"),
            nothing,
        ),
        (
            "memory.limit",
            Note,
            VM,
            |p| {
                let group = "sys/fs/cgroup/system.slice/obelisk.slice/obelisk@node.service";
                p.put(&format!("{group}/memory.max"), "2147483648");
            },
            nothing,
        ),
        (
            "memory.swap",
            Warning,
            VM,
            |p| {
                p.put(
                    "proc/meminfo",
                    "MemTotal: 4028416 kB\nSwapTotal: 900000 kB\nSwapFree: 1000 kB\n",
                )
            },
            nothing,
        ),
        ("memory.swappiness", Warning, VM, |p| p.put("proc/sys/vm/swappiness", "60"), nothing),
        ("memory.overcommit", Error, VM, |p| p.put("proc/sys/vm/overcommit_memory", "2"), nothing),
        (
            "memory.thp",
            Warning,
            VM,
            |p| p.put("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never"),
            nothing,
        ),
        (
            "memory.huge-pages",
            Warning,
            VM,
            |p| {
                let text = "MemTotal: 4028416 kB\nHugePages_Total: 5\nHugepagesize: 2048 kB\n";
                p.put("proc/meminfo", text);
            },
            nothing,
        ),
        (
            "memory.huge-pages",
            Warning,
            VM,
            |p| {
                let text = "MemTotal: 4028416 kB\nHugePages_Total: 1800\nHugepagesize: 2048 kB\n";
                p.put("proc/meminfo", text);
            },
            nothing,
        ),
        ("limits.open-files", Error, VM, |p| limit(p, "Max open files", "256"), nothing),
        ("limits.open-files", Warning, VM, |p| limit(p, "Max open files", "1024"), nothing),
        ("limits.locked-memory", Warning, VM, |p| limit(p, "Max locked memory", "0"), nothing),
        (
            "limits.core-files",
            Warning,
            VM,
            |p| limit(p, "Max core file size", "unlimited"),
            nothing,
        ),
        ("limits.processes", Warning, VM, |p| limit(p, "Max processes", "100"), nothing),
        (
            "limits.control-group",
            Error,
            VM,
            |p| {
                let group = "sys/fs/cgroup/system.slice/obelisk.slice/obelisk@node.service";
                p.put(&format!("{group}/pids.max"), "20");
            },
            nothing,
        ),
        (
            "limits.tracing",
            Warning,
            VM,
            |p| p.put("proc/sys/kernel/yama/ptrace_scope", "0"),
            nothing,
        ),
        (
            "clock.synchronised",
            Warning,
            VM,
            |p| {
                fs::remove_file(p.machine.path().join("run/systemd/timesync/synchronized"))
                    .unwrap();
            },
            nothing,
        ),
        (
            "clock.source",
            Warning,
            VM,
            |p| p.put("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet"),
            nothing,
        ),
        (
            "clock.steady",
            Warning,
            VM,
            |p| {
                p.probes.drift = || Drift { backwards: false, apart: Duration::from_millis(400) };
            },
            nothing,
        ),
        (
            "clock.steady",
            Error,
            VM,
            |p| p.probes.drift = || Drift { backwards: true, apart: Duration::ZERO },
            nothing,
        ),
        ("clock.ledger", Error, VM, |p| p.probes.now_ms -= 60 * 60 * 1000, nothing),
        ("network.mtu", Note, VM, |p| p.put("sys/class/net/eth0/mtu", "1280"), nothing),
        ("network.backlog", Warning, VM, |p| p.put("proc/sys/net/core/somaxconn", "128"), nothing),
        ("network.idle", Note, VM, healthy, nothing),
        (
            "network.idle",
            Outcome::Ok,
            VM,
            |p| p.put("proc/sys/net/ipv4/tcp_slow_start_after_idle", "0"),
            nothing,
        ),
    ]
}

/// The providers' table, to be damaged.
fn routes(scope: &mut Scope) -> &mut Vec<crate::crypto::choice::Route> {
    assert!(scope.routes().is_ok());
    scope.routes.get_mut().unwrap().as_mut().unwrap()
}

fn limit(patient: &Patient, name: &str, value: &str) {
    patient.put("proc/self/limits", &format!("{name}   {value}   {value}   units\n"));
}

pub(super) fn crypto_plants() -> Vec<Plant> {
    use Outcome::Error;
    use Outcome::Note;
    use Outcome::Warning;
    vec![
        ("crypto.known-answers", Warning, VM, healthy, |scope| {
            routes(scope)[0].quarantined = Some("answer 3")
        }),
        (
            "crypto.providers",
            Error,
            VM,
            |p| p.replace("[storage]", "[crypto]\nverify = \"poof\"\n[storage]"),
            nothing,
        ),
        ("crypto.second-opinion", Warning, VM, healthy, |scope| {
            routes(scope).retain(|route| route.chosen)
        }),
        (
            "crypto.hardware",
            Note,
            VM,
            |p| p.put("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu\nprocessor\t: 1\n"),
            nothing,
        ),
        ("crypto.cpacf", Warning, Z, |p| p.cpu_info = Some(cpacf::EMULATED.into()), nothing),
        ("crypto.cpacf", Outcome::Ok, Z, |p| p.cpu_info = Some(cpacf::Z16.into()), nothing),
        ("adapter.online", Warning, Z, |p| p.put("sys/bus/ap/devices/card02/online", "0"), nothing),
        ("adapter.online", Error, Z, |p| p.put("sys/bus/ap/devices/card02/chkstop", "1"), nothing),
        (
            "adapter.mode",
            Note,
            Z,
            |p| {
                p.put("sys/bus/ap/devices/card02/type", "CEX8A");
                p.put("sys/bus/ap/devices/card0a/type", "CEX8A");
            },
            nothing,
        ),
        (
            "adapter.master-keys",
            Error,
            Z,
            |p| p.put("sys/bus/ap/devices/02.0017/mkvps", "WK CUR: valid 0xffff"),
            nothing,
        ),
        (
            "adapter.master-keys",
            Error,
            Z,
            |p| p.put("sys/bus/ap/devices/02.0017/mkvps", "WK CUR: empty -"),
            nothing,
        ),
        (
            "adapter.device",
            Error,
            Z,
            |p| {
                fs::remove_dir_all(p.machine.path().join("sys/devices/virtual/misc/z90crypt"))
                    .unwrap();
            },
            nothing,
        ),
        (
            "adapter.protected-keys",
            Note,
            Z,
            |p| fs::remove_dir_all(p.machine.path().join("sys/devices/virtual/misc/pkey")).unwrap(),
            nothing,
        ),
    ]
}

/// Aim: a fix fits its cause, and what is advised stands where a script looks for it.
#[test]
fn fixes_fit_their_cause() {
    type Case = (&'static str, &'static str, fn(&mut Patient), &'static str);
    fn failing(patient: &mut Patient, syncs: fn(&Path) -> io::Result<Vec<Duration>>) {
        patient.probes.syncs = syncs;
    }
    let cases: Vec<Case> = vec![
        (
            "memory.swappiness",
            VM,
            |p| p.put("proc/sys/vm/swappiness", "60"),
            ">> /etc/sysctl.d/60-obelisk.conf",
        ),
        ("memory.huge-pages", VM, |_| {}, "sysctl -w vm.nr_hugepages="),
        (
            "memory.size",
            VM,
            |p| p.replace("[storage]", "[host]\nmemory_mib = 500\n[storage]"),
            "set host.memory_mib",
        ),
        ("network.idle", VM, |_| {}, "sysctl -w net.ipv4.tcp_slow_start_after_idle=0"),
        ("network.mtu", VM, |p| p.put("sys/class/net/eth0/mtu", "1280"), "ip link set dev"),
        ("config.open", VM, |p| p.replace("open = false", "open = true"), "api.open = false"),
        ("config.file", VM, |p| fs::remove_file(p.config()).unwrap(), "with --config"),
        ("config.file", VM, |p| p.replace("engine =", "engin ="), "correct the line"),
        (
            "adapter.protected-keys",
            Z,
            |p| fs::remove_dir_all(p.machine.path().join("sys/devices/virtual/misc/pkey")).unwrap(),
            "modprobe pkey",
        ),
        ("disk.sync", VM, |p| failing(p, |_| Err(io::Error::from_raw_os_error(28))), "add space"),
        ("disk.sync", VM, |p| failing(p, |_| Err(io::Error::from_raw_os_error(30))), "remount,rw"),
        ("disk.sync", VM, |p| failing(p, |_| Err(io::Error::from_raw_os_error(13))), "as the user"),
        ("disk.sync", VM, |p| failing(p, |_| Err(io::Error::from_raw_os_error(5))), "dmesg"),
    ];
    for (id, machine, plant, words) in cases {
        let mut patient = Patient::fresh(machine);
        plant(&mut patient);
        let found = patient.ask(id, nothing);
        assert!(found.fix.contains(words), "{id}: {found:?}");
    }
}
