//! Checks of memory, swap and huge pages.

use crate::cli::doctor::finding::Answer;
use crate::cli::doctor::finding::Check;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::scope::Scope;
use crate::host::profile::compare;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "memory.size", about: "is there enough memory", run: size },
    Check { id: "memory.available", about: "is it free", run: available },
    Check { id: "memory.limit", about: "does a container limit it", run: limit },
    Check { id: "memory.swap", about: "is memory swapped out", run: swap },
    Check { id: "memory.swappiness", about: "does the kernel swap early", run: swappiness },
    Check { id: "memory.overcommit", about: "may address space be reserved", run: overcommit },
    Check { id: "memory.thp", about: "do transparent huge pages stall threads", run: thp },
    Check { id: "memory.huge-pages", about: "are huge pages set aside and used", run: huge_pages },
];

fn size(scope: &Scope) -> Answer {
    let section = scope.config().map(|config| config.host.clone()).unwrap_or_default();
    let nodes = section.nodes.max(1) as u64;
    let offered = scope.host.memory_usable_bytes >> 20;
    let chosen = section.memory_mib > 0 && section.memory_mib < offered;
    let usable = if chosen { section.memory_mib } else { offered };
    let each = usable / nodes;
    let (by, fix) = match chosen {
        true => (" by host.memory_mib", "set host.memory_mib higher, or to 0 for all there is"),
        false => ("", "give the machine or the container more memory"),
    };
    let text = format!("{each} MiB for each of {nodes} node(s){by}");
    Ok(match each {
        0..768 => Finding::error(format!("{text}: a node needs 768 MiB under load"), fix),
        768..2048 => Finding::warning(format!("{text}: 2048 MiB are recommended"), fix),
        _ => Finding::ok(text),
    })
}

fn available(scope: &Scope) -> Answer {
    let Some(kib) = scope.tree.field("proc/meminfo", "MemAvailable:") else {
        return Err(Finding::skipped("the kernel does not say"));
    };
    let sizing = &scope.placement.sizing;
    let store = (sizing.memtables_total_bytes + sizing.cache_bytes) as u64;
    let wanted = store.saturating_add(sizing.tree_bytes) >> 20;
    let text = format!("{} MiB free, store and state tree may take {wanted} MiB", kib >> 10);
    Ok(match kib >> 10 < wanted {
        true => Finding::warning(text, "stop other programs, or set host.memory_mib"),
        false => Finding::ok(text),
    })
}

fn limit(scope: &Scope) -> Answer {
    let (all, usable) = (scope.host.memory_bytes, scope.host.memory_usable_bytes);
    Ok(match usable < all {
        true => Finding::note(format!("{} of {} MiB, by a control group", usable >> 20, all >> 20)),
        false => Finding::ok("no limit below the machine's memory"),
    })
}

fn swap(scope: &Scope) -> Answer {
    let of = |name| scope.tree.field("proc/meminfo", name).unwrap_or(0);
    let (total, free) = (of("SwapTotal:"), of("SwapFree:"));
    let used = total.saturating_sub(free) >> 10;
    Ok(match (total, used) {
        (0, _) => Finding::ok("no swap"),
        (_, 0..=64) => Finding::ok(format!("{} MiB of swap, {used} MiB used", total >> 10)),
        _ => Finding::warning(
            format!("{used} MiB are swapped out: votes wait for the disk"),
            "find who takes the memory (ps aux --sort -rss), then swapoff -a && swapon -a",
        ),
    })
}

fn swappiness(scope: &Scope) -> Answer {
    match scope.tree.number("proc/sys/vm/swappiness") {
        None => Err(Finding::skipped("the kernel does not say")),
        Some(value @ 0..=10) => Ok(Finding::ok(value.to_string())),
        Some(value) => Ok(Finding::warning(
            format!("{value}: idle parts of the node are swapped out early"),
            "echo 'vm.swappiness = 10' >> /etc/sysctl.d/60-obelisk.conf && sysctl --system",
        )),
    }
}

fn overcommit(scope: &Scope) -> Answer {
    match scope.tree.number("proc/sys/vm/overcommit_memory") {
        None => Err(Finding::skipped("the kernel does not say")),
        Some(2) => Ok(Finding::error(
            "mode 2: contracts cannot reserve their address space",
            "sysctl -w vm.overcommit_memory=0",
        )),
        Some(mode) => Ok(Finding::ok(format!("mode {mode}"))),
    }
}

fn thp(scope: &Scope) -> Answer {
    let text = scope.tree.text("sys/kernel/mm/transparent_hugepage/enabled");
    match text.split(['[', ']']).nth(1) {
        None => Err(Finding::skipped("the kernel has none")),
        Some("always") => Ok(Finding::warning(
            "always: the kernel may stop a thread to compact memory",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        )),
        Some(mode) => Ok(Finding::ok(mode)),
    }
}

fn huge_pages(scope: &Scope) -> Answer {
    let (host, sizing) = (&scope.host, &scope.placement.sizing);
    if host.huge_page_bytes == 0 {
        return Err(Finding::skipped("the kernel has none"));
    }
    let wanted = compare::huge_pages_wanted(host, sizing);
    let (pages, kib) = (host.huge_pages, host.huge_page_bytes >> 10);
    let share = pages.saturating_mul(host.huge_page_bytes as u64) * 2 > host.memory_bytes;
    Ok(match (pages, sizing.huge_page_bytes > 0) {
        (0, _) => Finding::advice(
            format!("none set aside; {wanted} of {kib} KiB would hold the store's memtables"),
            format!("sysctl -w vm.nr_hugepages={wanted}"),
        ),
        (_, true) if !share => Finding::ok(format!("{pages} of {kib} KiB, used by the store")),
        (_, true) => Finding::warning(
            format!("{pages} of {kib} KiB: more than half of the memory is set aside"),
            format!("sysctl -w vm.nr_hugepages={wanted}"),
        ),
        (_, false) => Finding::warning(
            format!("{pages} of {kib} KiB are too few for the store ({wanted}): they lie idle"),
            format!("sysctl -w vm.nr_hugepages={wanted}, or 0 to give them back"),
        ),
    })
}
