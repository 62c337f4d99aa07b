//! A node under a service manager, and `obelisk host` on recorded and real machines: the binary
//! from outside.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use nix::unistd::mkfifo;
use serde_json::Value;

use super::ports::Ports;

const BINARY: &str = env!("CARGO_BIN_EXE_obelisk");

fn obelisk(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(BINARY).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A network of one.
fn solo(folder: &Path, ports: &Ports) -> String {
    let port = ports.first();
    let out = folder.join("net");
    let (out_text, port) = (out.display().to_string(), port.to_string());
    let (code, _, errors) = obelisk(&[
        "network",
        "create",
        "--out",
        &out_text,
        "--validators",
        "1",
        "--consensus",
        "noops",
        "--base-port",
        &port,
    ]);
    assert_eq!(code, Some(0), "{errors}");
    out.join("org1/node.toml").display().to_string()
}

/// Reads what the node says until `wanted` appears.
fn hear(socket: &UnixDatagram, wanted: &str, heard: &mut Vec<String>, node: &mut Child) {
    let limit = Instant::now() + Duration::from_secs(60);
    let mut buffer = [0; 4096];
    while !heard.iter().any(|message| message.contains(wanted)) {
        assert!(Instant::now() < limit, "no {wanted} in {heard:?}");
        assert!(node.try_wait().unwrap().is_none(), "the node ended: {heard:?}");
        if let Ok(length) = socket.recv(&mut buffer) {
            heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    }
}

/// A node below `folder` that tells the socket how it stands and feeds a watchdog of so many
/// microseconds.
fn supervised(folder: &Path, ports: &Ports, watchdog_usec: &str) -> (UnixDatagram, Child) {
    let config = solo(folder, ports);
    let path = folder.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let node = Command::new(BINARY)
        .args(["node", "--config", &config])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", watchdog_usec)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    (socket, node)
}

/// READY comes once the node serves, with height, view and role; the watchdog is fed while
/// consensus turns; SIGTERM is answered with STOPPING.
#[test]
fn a_node_tells_the_service_manager_how_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let ports = Ports::reserve();
    let (socket, mut node) = supervised(folder.path(), &ports, "3000000");
    let mut heard = Vec::new();
    hear(&socket, "READY=1", &mut heard, &mut node);
    assert!(heard[0].contains("EXTEND_TIMEOUT_USEC="), "{heard:?}");
    let ready = heard.last().unwrap().clone();
    assert!(ready.contains("height 0, view 0"), "{ready}");
    heard.clear();
    hear(&socket, "WATCHDOG=1", &mut heard, &mut node);
    let pid = node.id().to_string();
    let (code, shown, errors) = obelisk(&["host", "show", "--process", &pid, "--json"]);
    assert_eq!(code, Some(0), "{errors}");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let threads = shown["running"].as_array().unwrap();
    for name in ["consensus", "verify-0", "execute", "network"] {
        let found = threads.iter().find(|thread| thread["name"] == name);
        assert!(found.is_some_and(|t| !t["processors"].as_array().unwrap().is_empty()), "{name}");
    }
    kill(Pid::from_raw(i32::try_from(node.id()).unwrap()), Signal::SIGTERM).unwrap();
    heard.clear();
    let limit = Instant::now() + Duration::from_secs(60);
    let mut buffer = [0; 4096];
    while !heard.iter().any(|message: &String| message.contains("STOPPING=1")) {
        assert!(Instant::now() < limit, "{heard:?}");
        if let Ok(length) = socket.recv(&mut buffer) {
            heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    }
    assert!(node.wait().unwrap().success());
}

/// A consensus thread that the kernel stops gets no more food from the process around it.
#[test]
fn a_stopped_process_feeds_no_watchdog() {
    let folder = tempfile::tempdir().unwrap();
    let ports = Ports::reserve();
    let (socket, mut node) = supervised(folder.path(), &ports, "300000");
    let mut heard = Vec::new();
    hear(&socket, "WATCHDOG=1", &mut heard, &mut node);
    let pid = Pid::from_raw(i32::try_from(node.id()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    // What was under way may still arrive; then silence.
    let mut buffer = [0; 4096];
    while socket.recv(&mut buffer).is_ok() {}
    let silent = socket.recv(&mut buffer).is_err();
    kill(pid, Signal::SIGKILL).unwrap();
    node.wait().unwrap();
    assert!(silent);
}

/// What comes before the ledger takes a minute on a slow machine: the service manager is asked for
/// time from the first moment, here while the configuration cannot be read to its end.
#[test]
fn a_node_asks_for_time_before_it_reads_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let (config, path) = (folder.path().join("node.toml"), folder.path().join("notify"));
    mkfifo(&config, Mode::S_IRWXU).unwrap();
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut node = Command::new(BINARY)
        .args(["node", "--config", &config.display().to_string()])
        .env("NOTIFY_SOCKET", &path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut heard = Vec::new();
    // Twice: it goes on asking.
    for _ in 0..2 {
        hear(&socket, "EXTEND_TIMEOUT_USEC=", &mut heard, &mut node);
        assert!(heard.last().unwrap().contains("STATUS=reading configuration"), "{heard:?}");
        heard.clear();
    }
    node.kill().unwrap();
    node.wait().unwrap();
}

fn recorded(name: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hosts");
    let text = fs::read_to_string(path.join(format!("{name}.tree"))).unwrap();
    for part in text.split("\n>>> ").skip(1) {
        let (head, body) = part.split_once('\n').unwrap_or((part, ""));
        if head.starts_with("auxv") {
            continue;
        }
        let path = root.path().join(head);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{}\n", body.trim_end())).unwrap();
    }
    root
}

/// `host check` and `host apply --dry-run`: every setting with what was found; a profile of another
/// family is refused.
#[test]
fn host_profiles_are_compared_and_printed() {
    let root = recorded("linuxone-lpar");
    let place = root.path().display().to_string();
    let profile = ["--profile", "linuxone-lpar-ep11", "--root", &place];
    let (code, text, errors) = obelisk(&[&["host", "check"][..], &profile].concat());
    assert_eq!(code, Some(1), "{errors}");
    assert!(text.contains("vm.dirty_bytes") && text.contains("differs"), "{text}");
    let accelerator = ["host", "check", "--profile", "linuxone-lpar-accelerator", "--root", &place];
    let (_, nothing, _) = obelisk(&accelerator);
    let told =
        |line: &str| line.starts_with("nothing") && line.contains("an accelerator holds no keys");
    assert!(nothing.lines().any(told), "{nothing}");
    let (_, json, _) = obelisk(&[&accelerator[..], &["--json"]].concat());
    let rows: Value = serde_json::from_str(&json).unwrap();
    let of = |row: &&Value| row["setting"] == "opencryptoki" && row["result"] == "nothing";
    let row = rows.as_array().unwrap().iter().find(of).unwrap();
    assert!(row["wanted"].is_null() && !row["why"].as_str().unwrap().is_empty(), "{row}");
    assert!(errors.contains("host apply --dry-run"), "{errors}");
    let (code, text, errors) = obelisk(&[&["host", "apply", "--dry-run"][..], &profile].concat());
    assert_eq!(code, Some(0), "{errors}");
    assert!(text.contains("sysctl -w vm.dirty_bytes=268435456"), "{text}");
    assert!(text.lines().all(|line| !line.contains("swappiness")), "{text}");
    let script = root.path().join("apply");
    fs::write(&script, &text).unwrap();
    assert!(Command::new("sh").arg("-n").arg(&script).status().unwrap().success(), "{text}");
    let (code, _, errors) = obelisk(&[&["host", "apply"][..], &profile].concat());
    assert_eq!(code, Some(2), "{errors}");
    let (code, _, errors) = obelisk(&["host", "check", "--profile", "power-kvm", "--root", &place]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("is for ppc64le"), "{errors}");
    let guest = ["host", "check", "--profile", "linuxone-secure-execution", "--root", &place];
    let (code, _, errors) = obelisk(&guest);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("is for a Secure Execution guest"), "{errors}");
    let (code, _, errors) = obelisk(&["host", "check", "--profile", "z", "--root", &place]);
    assert_eq!(code, Some(2), "{errors}");
    let (code, list, _) = obelisk(&["host", "profiles", "--json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!((code, list.as_array().unwrap().len()), (Some(0), 9));
}

/// `host show` on a recorded LinuxONE partition, and on this machine.
#[test]
fn host_show_tells_what_the_machine_offers() {
    let root = recorded("linuxone-lpar");
    let place = root.path().display().to_string();
    let (code, text, errors) = obelisk(&["host", "show", "--root", &place]);
    assert_eq!(code, Some(0), "{errors}");
    for words in [
        "2 drawers",
        "LPAR OBELISK1",
        "card 0a CEX8P: online",
        "consensus: 2-3",
        "facility bits only",
        "scheduler mq-deadline",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    let (_, json, _) = obelisk(&["host", "show", "--root", &place, "--json"]);
    let shown: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(shown["architecture"], "s390x");
    assert_eq!(shown["topology"].as_array().unwrap().len(), 16);
    assert_eq!(shown["crypto"]["sha256"], false);
    let (code, own, errors) = obelisk(&["host", "show"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(own.contains("block cache"), "{own}");
    let (code, _, errors) = obelisk(&["host", "show", "--root", "/nonexistent"]);
    assert_eq!(code, Some(4), "{errors}");
}
