//! Checks of what the system lets one process take. The doctor's own limits are read: run it as the
//! service would run, with `systemd-run -p` or in the unit's environment, to see the service's.

use crate::cli::doctor::finding::Answer;
use crate::cli::doctor::finding::Check;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::scope::Scope;
use crate::host::tree::Tree;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "limits.open-files", about: "may enough files be open", run: open_files },
    Check { id: "limits.locked-memory", about: "may keys be locked in memory", run: locked_memory },
    Check {
        id: "limits.core-files",
        about: "are core files, which hold keys, off",
        run: core_files,
    },
    Check { id: "limits.processes", about: "may enough threads be started", run: processes },
    Check { id: "limits.control-group", about: "may the service start enough threads", run: tasks },
    Check {
        id: "limits.tracing",
        about: "is another process kept from reading memory",
        run: tracing,
    },
];

/// Soft limit of `/proc/self/limits`; `u64::MAX` where there is none.
fn soft(tree: &Tree, name: &str) -> Option<u64> {
    let text = tree.text("proc/self/limits");
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn told(value: Option<u64>) -> Result<u64, Finding> {
    value.ok_or_else(|| Finding::skipped("the kernel does not say"))
}

fn shown(value: u64) -> String {
    if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() }
}

fn open_files(scope: &Scope) -> Answer {
    let limit = told(soft(&scope.tree, "Max open files"))?;
    let fix = "LimitNOFILE=65536 in the unit, or ulimit -n 65536";
    Ok(match limit {
        0..1024 => Finding::error(format!("{limit}: the store alone needs more"), fix),
        1024..65536 => Finding::warning(format!("{limit}: a grown store needs 65536"), fix),
        _ => Finding::ok(shown(limit)),
    })
}

fn locked_memory(scope: &Scope) -> Answer {
    let limit = told(soft(&scope.tree, "Max locked memory"))?;
    Ok(match limit {
        0..65536 => Finding::warning(
            format!("{limit} bytes: key pages may be swapped out"),
            "LimitMEMLOCK=256M in the unit",
        ),
        _ => Finding::ok(format!("{} bytes", shown(limit))),
    })
}

fn core_files(scope: &Scope) -> Answer {
    let limit = told(soft(&scope.tree, "Max core file size"))?;
    Ok(match limit {
        0 => Finding::ok("off"),
        _ => Finding::warning(
            "on: a crash writes keys to the disk",
            "LimitCORE=0 in the unit, or ulimit -c 0",
        ),
    })
}

fn processes(scope: &Scope) -> Answer {
    let limit = told(soft(&scope.tree, "Max processes"))?;
    Ok(match limit {
        0..512 => Finding::warning(
            format!("{limit}: threads of a large machine do not fit"),
            "LimitNPROC=4096 in the unit, or ulimit -u 4096",
        ),
        _ => Finding::ok(shown(limit)),
    })
}

fn tasks(scope: &Scope) -> Answer {
    let groups = scope.tree.text("proc/self/cgroup");
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let path = format!("sys/fs/cgroup{}/pids.max", own.trim_end_matches('/'));
    match scope.tree.number(&path) {
        None => Ok(Finding::ok("no limit of the control group")),
        Some(limit @ 0..128) => Ok(Finding::error(
            format!("{limit} tasks: threads of the node do not fit"),
            "TasksMax=512 in the unit",
        )),
        Some(limit) => Ok(Finding::ok(format!("{limit} tasks"))),
    }
}

fn tracing(scope: &Scope) -> Answer {
    match scope.tree.number("proc/sys/kernel/yama/ptrace_scope") {
        None => Err(Finding::skipped("the kernel has no such restriction (Yama)")),
        Some(0) => Ok(Finding::warning(
            "any process of the same user may read a running signer's memory",
            "sysctl -w kernel.yama.ptrace_scope=1",
        )),
        Some(mode) => Ok(Finding::ok(format!("restricted, mode {mode}"))),
    }
}
