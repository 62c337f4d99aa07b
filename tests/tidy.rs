//! House rules as tests: floors, sizes, headers, imports, banned calls.
//!
//! A rule stands here only if a newcomer could break it without noticing. Each failure names file
//! and line.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Module to floor; a module imports only lower floors, its own, or what `SIDEWAYS` allows.
const FLOORS: &[(&str, u8)] = &[
    ("types", 0),
    ("crypto", 1),
    ("storage", 1),
    ("host", 1),
    ("telemetry", 1),
    ("consensus", 2),
    ("membership", 2),
    ("ledger", 2),
    ("signer", 2),
    ("chaincode", 3),
    ("network", 3),
    ("pipeline", 4),
    ("api", 5),
    ("client", 5),
    ("node", 6),
    ("cli", 7),
    // The simulator stands beside the house: it may use floors 0 to 4.
    ("sim", 5),
];

/// Neighbours on one floor that may import each other, with the reason.
const SIDEWAYS: &[(&str, &str)] = &[
    // The server and the client library share the generated messages of one protocol.
    ("client", "api"),
    // `obelisk sim` replays seeds.
    ("cli", "sim"),
];

const FILE_LINES_MAX: usize = 600;
/// rustfmt keeps code at 100; drawings, tables and messages may take a little more.
const LINE_COLUMNS_MAX: usize = 110;
const FUNCTION_LINES_MAX: usize = 70;

/// Text that must not appear, where it may, and what to do instead.
const BANNED: &[(&str, &[&str], &str)] = &[
    (
        "by_checked_signatures",
        &["types/verified.rs", "pipeline/", "sim/", "consensus/pbft/tests", "consensus/noops"],
        "only verification makes `Verified`",
    ),
    ("process::exit", &["main.rs", "node/", "cli/"], "return an error"),
    ("todo!(", &[], "finish it or leave it out"),
    ("unimplemented!(", &[], "finish it or leave it out"),
    ("dbg!(", &[], "use tracing"),
    ("use crate::{", &[], "one `use crate::module::Item;` per line"),
    ("HashMap<", &["consensus/"], ""),
];

struct Source {
    path: PathBuf,
    name: String,
    text: String,
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("readable source folder") {
            let path = entry.expect("readable entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(&root).expect("below root").display().to_string();
                let text = fs::read_to_string(&path).expect("UTF-8 source");
                found.push(Source { path, name, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn report(rule: &str, failures: Vec<String>) {
    assert!(failures.is_empty(), "{rule}:\n  {}", failures.join("\n  "));
}

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// A module imports only lower floors.
#[test]
fn modules_import_only_lower_floors() {
    let mut failures = Vec::new();
    for source in sources("src") {
        let module = source.name.split('/').next().expect("a first part");
        let Some(own) = floor(module) else { continue };
        for (number, line) in (1..).zip(source.text.lines()) {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for rest in line.split("crate::").skip(1) {
                let used: String =
                    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some(other) = floor(&used) else { continue };
                let allowed =
                    used == module || other < own || SIDEWAYS.contains(&(module, used.as_str()));
                if !allowed {
                    failures.push(format!("{}:{number}: {module} imports {used}", source.name));
                }
            }
        }
    }
    report("a module imports only lower floors", failures);
}

/// Files, lines and functions stay short; every module says what it is.
#[test]
fn files_stay_small_and_open_with_their_purpose() {
    let mut failures = Vec::new();
    for source in sources("src") {
        let lines: Vec<&str> = source.text.lines().collect();
        if lines.len() > FILE_LINES_MAX {
            failures.push(format!("{}: {} lines", source.name, lines.len()));
        }
        if !source.text.starts_with("//!") {
            failures.push(format!("{}: no module header", source.name));
        }
        for (number, line) in (1..).zip(&lines) {
            if line.chars().count() > LINE_COLUMNS_MAX {
                failures.push(format!("{}:{number}: over {LINE_COLUMNS_MAX} columns", source.name));
            }
        }
        let is_tests = source.name.contains("tests") || source.name.contains("conformance");
        if !is_tests {
            long_functions(&source.name, &lines, &mut failures);
        }
    }
    report("files, functions and lines have limits", failures);
}

/// A function runs from its `fn` line to the closing brace at the same indentation.
fn long_functions(name: &str, lines: &[&str], failures: &mut Vec<String>) {
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let is_fn =
            ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "async fn ", "pub async fn "]
                .iter()
                .any(|head| code.starts_with(head));
        if !is_fn {
            continue;
        }
        // A signature without a body, as in a trait.
        let head_end = lines[start..].iter().find(|l| l.ends_with('{') || l.ends_with(';'));
        if head_end.is_some_and(|l| l.ends_with(';')) {
            continue;
        }
        let close = format!("{}}}", &line[..line.len() - code.len()]);
        let end = lines[start..].iter().position(|l| *l == close).unwrap_or(0);
        if end > FUNCTION_LINES_MAX {
            failures.push(format!("{name}:{}: function of {end} lines", start + 1));
        }
    }
}

/// Calls that have a better place.
#[test]
fn banned_calls_do_not_appear() {
    let mut failures = Vec::new();
    for source in sources("src") {
        for (number, line) in (1..).zip(source.text.lines()) {
            for (text, allowed, instead) in BANNED {
                let unordered = *text == "HashMap<";
                let inside = allowed.iter().any(|place| source.name.contains(place));
                let hit = line.contains(text) && if unordered { inside } else { !inside };
                if hit && !line.trim_start().starts_with("//") {
                    failures.push(format!("{}:{number}: {text}: {instead}", source.name));
                }
            }
        }
    }
    report("banned calls", failures);
}

/// Floors 0 to 2 and the cores do no async and no wall clock.
#[test]
fn lower_floors_are_synchronous() {
    let mut failures = Vec::new();
    for source in sources("src") {
        let module = source.name.split('/').next().expect("a first part");
        if floor(module).is_none_or(|floor| floor > 2) {
            continue;
        }
        for (number, line) in (1..).zip(source.text.lines()) {
            let clock = module == "consensus"
                && (line.contains("Instant::now") || line.contains("SystemTime"));
            if line.contains("async fn") || line.contains(".await") || clock {
                failures.push(format!("{}:{number}: {}", source.name, line.trim()));
            }
        }
    }
    report("floors 0 to 2 are synchronous, cores know no clock", failures);
}
