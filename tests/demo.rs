//! `obelisk demo` as a person uses it: the real program, real processes, a folder of its own.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use super::ports::Ports;

/// A demo in a temporary folder, on ports of its own; dropped, its processes end.
struct Demo {
    folder: tempfile::TempDir,
    ports: Ports,
}

impl Demo {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { folder, ports: Ports::reserve() }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("demo")
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_obelisk"));
        command.args(["--json", "demo"]).args(words).arg("--data").arg(self.data());
        // Flags alone mean "start"; the other commands find the ports in the folder.
        let starts = words.first().is_none_or(|word| word.starts_with("--"));
        if starts && !words.contains(&"--base-port") {
            command.arg("--base-port").arg(self.ports.first().to_string());
        }
        command.output().expect("the program starts")
    }

    fn done(&self, words: &[&str]) -> Value {
        let output = self.run(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "demo {words:?}: {errors}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text:?}"))
    }

    fn refused(&self, words: &[&str], exit: i32) -> String {
        let output = self.run(words);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(exit), "demo {words:?}: {errors}");
        errors
    }

    /// Waits until these validators stand at one height, and checks that it is one chain.
    fn agreed(&self, numbers: &[u64]) -> Value {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            let rows = self.done(&["status"]);
            let rows: Vec<&Value> = rows
                .as_array()
                .expect("a table")
                .iter()
                .filter(|row| numbers.contains(&row["no"].as_u64().expect("a number")))
                .collect();
            if rows.iter().all(|row| row["height"].is_u64() && row["height"] == rows[0]["height"]) {
                for row in &rows {
                    assert_eq!(row["block"], rows[0]["block"], "{rows:?}");
                    assert_eq!(row["state_root"], rows[0]["state_root"], "{rows:?}");
                }
                return rows[0].clone();
            }
            assert!(Instant::now() < end, "validators stay apart: {rows:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if self.data().exists() {
            self.run(&["stop"]);
        }
    }
}

/// A credit lives its whole life; one validator of four dies, the rest go on, it comes back and
/// catches up; stopped and started again, the chain goes on.
#[test]
fn four_validators_survive_a_kill_and_a_restart() {
    let demo = Demo::new();
    let told = demo.done(&[]);
    assert_eq!(told["validators"], 4);
    let height = told["height"].as_u64().expect("a height");
    let blocks = told["blocks"].as_array().expect("blocks");
    let calls: Vec<(&str, &str)> = blocks
        .iter()
        .flat_map(|block| block["transactions"].as_array().expect("transactions"))
        .map(|t| (t["call"].as_str().expect("a call"), t["status"].as_str().expect("a status")))
        .collect();
    assert_eq!(calls[0], ("lifecycle.deploy", "ok"));
    assert_eq!(calls.last(), Some(&("letter-of-credit.pay", "ok")));
    assert_eq!(calls.iter().filter(|(_, status)| *status == "refused").count(), 1);
    assert!(blocks.iter().all(|block| block["signatures"].as_u64() >= Some(3)));
    demo.agreed(&[1, 2, 3, 4]);

    let killed = demo.done(&["kill", "2"]);
    assert_eq!(killed["running"], 3);
    let traded = demo.done(&["trade", "5"]);
    assert!(traded["to"].as_u64() >= Some(height + 1), "{traded}");
    let started = demo.done(&["start", "advising-bank"]);
    assert!(started["to"].as_u64() >= traded["to"].as_u64(), "{started}");
    let before = demo.agreed(&[1, 2, 3, 4]);

    assert_eq!(demo.done(&["stop"])["stopped"], 4);
    assert_eq!(demo.done(&["stop"])["stopped"], 0);
    let again = demo.done(&[]);
    assert!(again["height"].as_u64() > before["height"].as_u64(), "{again}");
    assert_ne!(again["credit"], told["credit"]);
    let calls = again["blocks"][0]["transactions"][0]["call"].as_str();
    assert_eq!(calls, Some("letter-of-credit.apply"), "the contract is deployed once");
    demo.agreed(&[1, 2, 3, 4]);
}

/// The primary dies: the others elect another and go on.
#[test]
fn the_primary_is_replaced() {
    let demo = Demo::new();
    demo.done(&[]);
    let rows = demo.done(&["status"]);
    let primary = rows
        .as_array()
        .expect("a table")
        .iter()
        .find(|row| row["role"] == "primary")
        .map(|row| row["no"].as_u64().expect("a number"))
        .expect("somebody is primary");
    demo.done(&["kill", &primary.to_string()]);
    demo.done(&["trade", "3"]);
    let others: Vec<u64> = (1..=4).filter(|number| *number != primary).collect();
    let stands = demo.agreed(&others);
    assert!(stands["view"].as_u64() >= Some(1), "{stands}");
    demo.done(&["start", &primary.to_string()]);
    demo.agreed(&[1, 2, 3, 4]);
}

/// Wrong requests are refused with cause and fix, and touch nothing.
#[test]
fn wrong_requests_are_refused() {
    let demo = Demo::new();
    for words in [&["status"][..], &["stop"], &["kill", "1"], &["trade"]] {
        let text = demo.refused(words, 4);
        assert!(text.contains("there is no demo") && text.contains("obelisk demo"), "{text}");
    }
    assert!(demo.refused(&["--validators", "0"], 2).contains("not possible"));
    let foreign = demo.data().join("thesis.txt");
    std::fs::create_dir_all(demo.data()).expect("a folder");
    std::fs::write(&foreign, "words").expect("a file");
    for words in [&[][..], &["--reset"], &["status"]] {
        assert!(demo.refused(words, 2).contains("holds no demo"));
    }
    assert_only(&demo.data(), "thesis.txt");
}

/// A port that is taken is named, and nothing is left behind.
#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port();
    let demo = Demo::new();
    let text = demo.refused(&["--base-port", &port.to_string()], 1);
    assert!(text.contains(&port.to_string()) && text.contains("--base-port"), "{text}");
    assert!(!demo.data().exists());
}

/// A node that does not come up: its last words are shown.
#[test]
fn last_words_of_a_node_are_shown() {
    let demo = Demo::new();
    demo.done(&["--validators", "1", "--no-contract"]);
    demo.done(&["stop"]);
    std::fs::remove_file(demo.data().join("issuing-bank/validator/validator/key.pem"))
        .expect("the key is there");
    let text = demo.refused(&[], 70);
    assert!(text.contains("ended at once") && text.contains("key.pem"), "{text}");
    assert!(demo.done(&["--reset", "--validators", "1", "--no-contract"])["height"].is_u64());
}

fn assert_only(folder: &Path, name: &str) {
    let names: Vec<_> = std::fs::read_dir(folder)
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name())
        .collect();
    assert_eq!(names, [std::ffi::OsString::from(name)]);
}
