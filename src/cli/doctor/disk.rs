//! Checks of the disk that holds the ledger: a block waits for one sync of it.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::doctor::finding::Answer;
use crate::cli::doctor::finding::Check;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::scope::Scope;
use crate::host::devices;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "disk.sync", about: "how long does a durable write take", run: sync },
    Check { id: "disk.space", about: "is there room for the ledger to grow", run: space },
    Check { id: "disk.files", about: "may more files be made", run: files },
    Check { id: "disk.file-system", about: "does the file system keep its word", run: file_system },
    Check { id: "disk.options", about: "are write barriers on", run: options },
    Check { id: "disk.scheduler", about: "does the I/O scheduler suit the disks", run: scheduler },
    Check { id: "disk.direct-io", about: "can the store bypass the page cache", run: direct_io },
];

/// The data directory, or the nearest folder above it that is there already, as the mounts name it:
/// from the root, without links.
fn place(scope: &Scope) -> Result<PathBuf, Finding> {
    let data = std::path::absolute(&scope.config()?.node.data);
    let data = data.map_err(|error| Finding::skipped(error.to_string()))?;
    let there = data.ancestors().find(|folder| folder.is_dir());
    let there = there.ok_or_else(|| Finding::skipped("the data directory has no parent"))?;
    there.canonicalize().map_err(|error| Finding::skipped(error.to_string()))
}

fn sync(scope: &Scope) -> Answer {
    let place = place(scope)?;
    let mut times = (scope.probes.syncs)(&place).map_err(|error| {
        Finding::error(
            format!("cannot write to {}: {error}", place.display()),
            mend(&error, &place),
        )
    })?;
    times.sort_unstable();
    let at = |tenth: usize| times.get(times.len() * tenth / 10).copied().unwrap_or_default();
    let (median, ninth) = (at(5), at(9));
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let text = format!("median {}, nine of ten within {}", ms(median), ms(ninth));
    let fix = "move node.data to a disk with a lower write latency (NVMe, FCP)";
    Ok(if median > SYNC_SLOW {
        Finding::error(format!("{text}: a block takes at least three of these"), fix)
    } else if ninth > SYNC_LATE {
        Finding::warning(text, fix)
    } else {
        Finding::ok(text)
    })
}

/// What helps against a write that failed.
fn mend(error: &io::Error, place: &Path) -> String {
    let place = place.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("free or add space below {place}")
        }
        io::ErrorKind::ReadOnlyFilesystem => "mount -o remount,rw the file system".to_owned(),
        io::ErrorKind::PermissionDenied => {
            format!("run the doctor as the user that owns {place}")
        }
        _ => {
            "dmesg tells what the disk answered; replace it, or put node.data on another".to_owned()
        }
    }
}

fn space(scope: &Scope) -> Answer {
    let place = place(scope)?;
    let space = (scope.probes.space)(&place).map_err(|e| Finding::skipped(e.to_string()))?;
    let (free, total) = (space.free_bytes >> 20, space.total_bytes >> 20);
    let text = format!("{free} of {total} MiB free");
    let fix = format!("free or add space below {}", place.display());
    Ok(if free < SPACE_MIB_MIN {
        Finding::error(format!("{text}: the node stops when a write fails"), fix)
    } else if free < SPACE_MIB_LOW || free * 10 < total {
        Finding::warning(text, fix)
    } else {
        Finding::ok(text)
    })
}

fn files(scope: &Scope) -> Answer {
    let place = place(scope)?;
    let space = (scope.probes.space)(&place).map_err(|e| Finding::skipped(e.to_string()))?;
    Ok(match (space.total_files, space.free_files) {
        (0, _) => return Err(Finding::skipped("this file system does not count files")),
        (_, free @ 0..10_000) => Finding::warning(
            format!("{free} more files may be made"),
            "remove small files, or make a file system with more inodes",
        ),
        (_, free) => Finding::ok(format!("{free} more files may be made")),
    })
}

fn file_system(scope: &Scope) -> Answer {
    let place = place(scope)?;
    let found = (scope.probes.file_system)(&place).map_err(|e| Finding::skipped(e.to_string()))?;
    let fix = "put node.data on ext4 or xfs of a local disk";
    Ok(match found {
        "tmpfs" => Finding::error("tmpfs: nothing survives a restart, votes included", fix),
        "nfs" | "fuse" => {
            Finding::error(format!("{found}: locks and syncs are not what the node relies on"), fix)
        }
        "overlay" => Finding::warning(
            "overlay: a container's layer, gone with it",
            "mount a volume at node.data",
        ),
        name => Finding::ok(name),
    })
}

fn options(scope: &Scope) -> Answer {
    let place = place(scope)?;
    let mounts = scope.tree.text("proc/self/mounts");
    let mut best: Option<(usize, &str, &str)> = None;
    for line in mounts.lines() {
        let mut words = line.split_whitespace().skip(1);
        let (Some(point), _, Some(options)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if place.starts_with(point) && best.is_none_or(|(len, _, _)| len <= point.len()) {
            best = Some((point.len(), point, options));
        }
    }
    let Some((_, point, options)) = best else {
        return Err(Finding::skipped("the mount of the data directory is not known"));
    };
    let has = |word: &str| options.split(',').any(|option| option == word);
    let fix = format!("mount -o remount,barrier=1 {point}, and correct /etc/fstab");
    Ok(if has("nobarrier") || has("barrier=0") {
        Finding::error(format!("{point}: barriers are off, a power cut loses synced votes"), fix)
    } else if has("ro") {
        Finding::error(
            format!("{point} is mounted read-only"),
            format!("mount -o remount,rw {point}"),
        )
    } else {
        Finding::ok(format!("{point}: {options}"))
    })
}

fn scheduler(scope: &Scope) -> Answer {
    let disks = devices::disks(&scope.tree);
    if disks.is_empty() {
        return Err(Finding::skipped("no disk is known"));
    }
    let fast = |name: &str| name.starts_with("nvme") || name.starts_with("vd");
    let slow = disks.iter().find(|disk| {
        fast(&disk.name) && !matches!(disk.scheduler.as_str(), "none" | "")
            || matches!(disk.scheduler.as_str(), "bfq" | "cfq")
    });
    Ok(match slow {
        Some(disk) => Finding::warning(
            format!("{}: {} adds latency to every sync", disk.name, disk.scheduler),
            format!("echo none > /sys/block/{}/queue/scheduler", disk.name),
        ),
        None => {
            let all = disks.iter().map(|d| format!("{}: {}", d.name, d.scheduler));
            Finding::ok(all.collect::<Vec<_>>().join(", "))
        }
    })
}

fn direct_io(scope: &Scope) -> Answer {
    let place = place(scope)?;
    if !scope.placement.sizing.direct_io {
        return Err(Finding::skipped("not used on this machine"));
    }
    Ok(match (scope.probes.direct_io)(&place) {
        Ok(()) => Finding::ok("the file system allows it"),
        Err(error) => Finding::error(
            format!("{}: {error}: the store cannot be opened", place.display()),
            "put node.data on ext4 or xfs, or set host.memory_mib below 65536",
        ),
    })
}

/// A median above it leaves no room for ten blocks a second.
const SYNC_SLOW: Duration = Duration::from_millis(30);
/// Nine of ten should be below it.
const SYNC_LATE: Duration = Duration::from_millis(20);
/// The store alone may want as much for one compaction, MiB.
const SPACE_MIB_MIN: u64 = 2 * 1024;
/// A day of 1,000 transactions a second writes about as much, MiB; estimated from 256-byte
/// transactions with their receipts.
const SPACE_MIB_LOW: u64 = 64 * 1024;
