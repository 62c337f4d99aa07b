//! Checks of processor, kernel and surroundings.

use crate::cli::doctor::finding::Answer;
use crate::cli::doctor::finding::Check;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::scope::Scope;
use crate::host::detect::Architecture;
use crate::host::devices;
use crate::host::kernel;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "machine.architecture",
        about: "is this processor family supported",
        run: architecture,
    },
    Check { id: "machine.kernel", about: "is the kernel recent enough", run: kernel },
    Check { id: "machine.processors", about: "are there enough processors", run: processors },
    Check {
        id: "machine.pinning",
        about: "do the node's parts get cores of their own",
        run: pinning,
    },
    Check {
        id: "machine.steal",
        about: "does the hypervisor take processor time away",
        run: steal,
    },
    Check { id: "machine.governor", about: "does the clock rate follow short work", run: governor },
    Check { id: "machine.surroundings", about: "what does the system run in", run: surroundings },
    Check { id: "machine.entropy", about: "are random numbers ready", run: entropy },
    Check { id: "machine.fips", about: "does the kernel demand FIPS mode", run: fips },
    Check { id: "machine.version", about: "which build is this", run: version },
];

fn architecture(scope: &Scope) -> Answer {
    let name = scope.host.architecture.name();
    Ok(match scope.host.architecture {
        Architecture::Other => Finding::warning(
            "this processor family is not known: everything runs, nothing is tuned",
            "use x86-64, s390x or ppc64le",
        ),
        _ => Finding::ok(format!("{name}, {}", scope.host.processor)),
    })
}

fn kernel(scope: &Scope) -> Answer {
    let release = kernel::release(&scope.tree);
    let Some(version) = kernel::version(&release) else {
        return Err(Finding::skipped(format!("the kernel's version cannot be read: {release:?}")));
    };
    let fix = "install a kernel of a supported distribution release";
    Ok(match kernel::check(&scope.tree) {
        Err(error) => Finding::refused(&error, fix),
        Ok(()) if version < OLD => Finding::warning(format!("kernel {release} is old"), fix),
        Ok(()) => Finding::ok(format!("kernel {release}")),
    })
}

fn processors(scope: &Scope) -> Answer {
    let (all, usable) = (scope.host.threads, scope.host.threads_usable);
    let nodes = scope.config().map_or(1, |config| config.host.nodes);
    let text = format!("{usable} of {all} hardware threads for {nodes} node(s)");
    Ok(match usable / nodes.max(1) {
        0 | 1 => Finding::warning(
            format!("{text}: consensus and signature checks share one"),
            "give the machine or the container more processors",
        ),
        _ => Finding::ok(text),
    })
}

fn pinning(scope: &Scope) -> Answer {
    let plan = &scope.placement.plan;
    Ok(match plan.is_pinned() {
        true => Finding::ok(plan.reason.clone()),
        false => Finding::note(plan.reason.clone()),
    })
}

fn steal(scope: &Scope) -> Answer {
    let stat = scope.tree.text("proc/stat");
    let times: Vec<u64> = stat
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))
        .map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect())
        .unwrap_or_default();
    // user nice system idle iowait irq softirq steal (proc(5)); guest times are part of user.
    let Some(stolen) = times.get(7) else {
        return Err(Finding::skipped("the kernel does not say"));
    };
    let all: u64 = times.iter().take(8).sum();
    let percent = stolen * 100 / all.max(1);
    Ok(match percent {
        0..=4 => Finding::ok(format!("{percent} % since the start")),
        _ => Finding::warning(
            format!("{percent} % of the processor time since the start went to other guests"),
            "give the guest dedicated or entitled processors",
        ),
    })
}

fn governor(scope: &Scope) -> Answer {
    let governor = scope.tree.text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    Ok(match governor.as_str() {
        "" => return Err(Finding::skipped("the system does not choose the clock rate")),
        "powersave" | "conservative" => Finding::warning(
            format!("governor {governor}: short work runs at a low clock rate"),
            "cpupower frequency-set -g performance",
        ),
        _ => Finding::ok(format!("governor {governor}")),
    })
}

fn surroundings(scope: &Scope) -> Answer {
    let place = devices::place(&scope.tree);
    let hypervisor = place.hypervisor.unwrap_or_else(|| "bare metal".to_owned());
    Ok(match (place.container, place.secure_execution) {
        (Some(engine), _) => Finding::note(format!("{hypervisor}, in a container of {engine}")),
        (None, true) => Finding::ok(format!("{hypervisor}, Secure Execution guest")),
        (None, false) => Finding::ok(hypervisor),
    })
}

fn entropy(scope: &Scope) -> Answer {
    let Some(bits) = scope.tree.number("proc/sys/kernel/random/entropy_avail") else {
        return Err(Finding::skipped("the kernel does not say"));
    };
    Ok(match bits {
        0..128 => Finding::warning(
            format!("{bits} bits: key generation waits for more"),
            "apt-get install rng-tools5, or give the guest a virtio-rng device",
        ),
        _ => Finding::ok(format!("{bits} bits")),
    })
}

fn fips(scope: &Scope) -> Answer {
    Ok(match scope.tree.number("proc/sys/crypto/fips_enabled") {
        Some(1) => Finding::warning(
            "the kernel is in FIPS mode; the node's providers are not certified modules",
            "set crypto.sign and crypto.verify to \"openssl\" with a certified system library",
        ),
        _ => Finding::ok("not demanded"),
    })
}

fn version(scope: &Scope) -> Answer {
    let (with, without): (Vec<_>, Vec<_>) = scope.features.iter().partition(|(_, here)| *here);
    let names = |list: Vec<&(&'static str, bool)>| {
        list.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
    };
    let text = format!("obelisk {} with {}", env!("CARGO_PKG_VERSION"), names(with));
    Ok(match without.is_empty() {
        true => Finding::ok(text),
        false => Finding::advice(
            format!("{text}; without {}", names(without)),
            "install a package of Obelisk, which has them all (./dev package)",
        ),
    })
}

/// Below this, kernels are supported by their distributions alone.
const OLD: (u32, u32) = (5, 10);
