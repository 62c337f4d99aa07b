//! The units: known to systemd, below the promised exposure, and of one mind with the program.
//!
//! Where `systemd-analyze` is missing the tests say so loudly and prove nothing.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// Each service with its promised exposure, times ten.
const UNITS: [(&str, u32); 3] =
    [("obelisk@.service", 12), ("obelisk-signer@.service", 6), ("obelisk-ca.service", 12)];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

/// The exposure of a unit, times ten, by systemd's own reckoning; `None` without the tool.
fn exposure(unit: &Path, threshold: u32) -> Option<(bool, String)> {
    let threshold = format!("--threshold={threshold}");
    let mut ask = Command::new("systemd-analyze");
    ask.args(["security", "--offline=true", "--no-pager", &threshold]).arg(unit);
    let answer = ask.output().ok()?;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert!(text.contains("Overall exposure level"), "{complaint}{text}");
    Some((answer.status.success(), text))
}

/// A copy of a unit under a name that systemd accepts; templates need an instance. Our binary is
/// not installed here, so another stands in.
fn instance(unit: &str, into: &Path) -> PathBuf {
    let text = fs::read_to_string(folder().join(unit)).unwrap();
    let text = text.replace("/usr/bin/obelisk", "/bin/true");
    let path = into.join(unit.replace('@', "@one"));
    fs::write(&path, text).unwrap();
    path
}

/// Node and membership service at most 1.2, signer at most 0.6 (scale 0 to 10, lower is better).
#[test]
fn units_are_less_exposed_than_promised() {
    let scratch = tempfile::tempdir().unwrap();
    for (unit, tenths) in UNITS {
        let Some((below, text)) = exposure(&instance(unit, scratch.path()), tenths) else {
            eprintln!("SKIPPED: systemd-analyze is not installed; exposure of {unit} not checked");
            return;
        };
        let last = text.lines().last().unwrap_or_default().to_owned();
        eprintln!("{unit}: {last}");
        let exposed: Vec<&str> = text.lines().filter(|line| line.contains('✗')).collect();
        assert!(below, "{unit}: {last}\n{}", exposed.join("\n"));
    }
}

/// A unit without its sandbox is above the threshold: the test above can fail.
#[test]
fn a_unit_without_its_sandbox_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let unit = instance("obelisk@.service", scratch.path());
    let text = fs::read_to_string(&unit).unwrap();
    let text = text.replace("ProtectSystem=strict\n", "").replace("NoNewPrivileges=yes\n", "");
    fs::write(&unit, text.replace("CapabilityBoundingSet=\n", "")).unwrap();
    match exposure(&unit, 12) {
        Some((below, _)) => assert!(!below),
        None => eprintln!("SKIPPED: systemd-analyze is not installed"),
    }
}

/// systemd knows every word of every unit.
#[test]
fn units_have_no_unknown_words() {
    let scratch = tempfile::tempdir().unwrap();
    let slice = "obelisk.slice";
    let units = UNITS.map(|(unit, _)| instance(unit, scratch.path()));
    instance(slice, scratch.path());
    for unit in units.iter().map(PathBuf::as_path).chain([Path::new(slice)]) {
        let mut ask = Command::new("systemd-analyze");
        ask.args(["verify", "--man=no", "--recursive-errors=no"]).arg(scratch.path().join(unit));
        let unit = unit.file_name().unwrap_or_default().to_string_lossy();
        let Ok(answer) = ask.output() else {
            eprintln!("SKIPPED: systemd-analyze is not installed; {unit} not verified");
            return;
        };
        let text = String::from_utf8_lossy(&answer.stderr).into_owned();
        let own: Vec<&str> =
            text.lines().filter(|line| line.contains(&format!("{unit}:"))).collect();
        assert!(own.is_empty(), "{unit}: {}", own.join("\n"));
    }
}

/// A signer is tried again without end where its token may come back, never where only an operator
/// can mend it, and says itself when it is ready.
#[test]
fn the_signer_waits_for_its_token() {
    let text = fs::read_to_string(folder().join("obelisk-signer@.service")).unwrap();
    for line in [
        "Type=notify",
        "TimeoutStartSec=90",
        "Restart=on-failure",
        "RestartPreventExitStatus=2 4 78",
        "StartLimitIntervalSec=0",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}");
    }
}

/// Every directive of the sandbox that could be weakened silently stands with its reason above, and
/// the commands of the units exist.
#[test]
fn units_call_what_exists() {
    let mut commands = Vec::new();
    for (unit, _) in UNITS {
        let text = fs::read_to_string(folder().join(unit)).unwrap();
        let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let mut words = start.split_whitespace();
        assert_eq!(words.next(), Some("/usr/bin/obelisk"));
        commands.push(words.next().unwrap().to_owned());
        let condition = text.lines().any(|line| line.starts_with("ConditionPathExists=/etc/"));
        assert!(condition, "{unit} starts unconfigured");
    }
    assert_eq!(commands, ["node", "signer", "ca"]);
    let tree = obelisk::cli::tree();
    for command in commands {
        assert!(tree.get_subcommands().any(|sub| sub.get_name() == command), "{command}");
    }
    for name in ["token-crypto-express.conf", "node-processors.conf"] {
        let text = fs::read_to_string(folder().join("drop-ins").join(name)).unwrap();
        assert!(text.starts_with("# For obelisk") && text.contains("[Service]"), "{name}");
    }
}
