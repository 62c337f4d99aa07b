//! Checks of the clocks. Time never decides safety; a wrong one makes certificates look expired and
//! blocks look late.

use std::process::Command;
use std::time::Duration;

use crate::cli::doctor::finding::Answer;
use crate::cli::doctor::finding::Check;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::scope::Scope;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "clock.synchronised", about: "is the clock kept right", run: synchronised },
    Check { id: "clock.source", about: "is reading the clock cheap", run: source },
    Check { id: "clock.steady", about: "do the clocks run without jumps", run: steady },
    Check { id: "clock.ledger", about: "is the clock behind the last block", run: ledger },
];

fn synchronised(scope: &Scope) -> Answer {
    let tree = &scope.tree;
    if tree.exists("run/systemd/timesync/synchronized") {
        return Ok(Finding::ok("by systemd-timesyncd"));
    }
    let daemons = [
        ("run/chrony/chronyd.pid", "chrony", "chronyc tracking"),
        ("run/chronyd.pid", "chrony", "chronyc tracking"),
        ("run/ntpd.pid", "ntpd", "ntpq -p"),
    ];
    if let Some((_, name, ask)) = daemons.iter().find(|(path, _, _)| tree.exists(path)) {
        return Ok(Finding::advice(format!("{name} runs, how well is not known here"), *ask));
    }
    if tree.is_machine() && kernel_says_so() {
        return Ok(Finding::ok("the kernel is told the time"));
    }
    Ok(Finding::warning(
        "nothing keeps the clock right",
        "apt-get install chrony, or systemctl enable --now systemd-timesyncd",
    ))
}

/// The kernel's own flag, through systemd's tool where it is there.
fn kernel_says_so() -> bool {
    let mut ask = Command::new("timedatectl");
    let answer = ask.args(["show", "--property", "NTPSynchronized", "--value"]).output();
    answer.is_ok_and(|answer| answer.stdout.starts_with(b"yes"))
}

fn source(scope: &Scope) -> Answer {
    let path = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = scope.tree.text(path);
    match source.as_str() {
        "" => Err(Finding::skipped("the kernel does not say")),
        "hpet" | "acpi_pm" | "jiffies" | "refined-jiffies" | "pit" => Ok(Finding::warning(
            format!("{source}: every look at the clock asks a device"),
            format!(
                "grep . /{}, then write tsc or kvm-clock to /{path}",
                path.replace("current", "available")
            ),
        )),
        _ => Ok(Finding::ok(source)),
    }
}

fn steady(scope: &Scope) -> Answer {
    let drift = (scope.probes.drift)();
    let fix = "check the hypervisor's clock and what steps the time (chronyc makestep, ntpdate)";
    Ok(match (drift.backwards, drift.apart) {
        (true, _) => Finding::error("the monotonic clock went backwards", fix),
        (false, apart) if apart > APART_MAX => Finding::warning(
            format!("the wall clock moved by {} ms beside the monotonic one", apart.as_millis()),
            fix,
        ),
        (false, apart) => {
            Finding::ok(format!("{} us apart in a fifth of a second", apart.as_micros()))
        }
    })
}

fn ledger(scope: &Scope) -> Answer {
    let Ok(heights) = scope.ledger()? else {
        return Err(Finding::skipped("the ledger is refused or in use: see data"));
    };
    let behind = heights.time_ms.saturating_sub(scope.probes.now_ms);
    Ok(match behind {
        0..=10_000 => Finding::ok("the last block lies in the past"),
        _ => Finding::error(
            format!("the last block is {} s in the future of this clock", behind / 1000),
            "set the clock: chronyc makestep, or timedatectl set-time",
        ),
    })
}

/// A step within the sample; slewing moves at most half a millisecond per second.
const APART_MAX: Duration = Duration::from_millis(50);
