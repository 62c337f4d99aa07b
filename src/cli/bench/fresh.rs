//! A network of real node processes for one measurement, gone afterwards.

use std::fs;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::network::create;
use crate::cli::network::create::Plan;
use crate::node::config::SignerMode;
use crate::types::signature::Algorithm;

/// Running validators; killed when dropped.
pub struct Fresh {
    nodes: Vec<Child>,
    /// The client profile's folder.
    pub folder: PathBuf,
}

impl Fresh {
    /// Makes a network in `folder` and starts its validators.
    pub fn start(
        folder: &Path,
        validators: usize,
        algorithm: Algorithm,
        base_port: u16,
    ) -> Result<Self, Failure> {
        let made = create::make(&Plan {
            out: folder.to_owned(),
            validators,
            algorithm,
            base_port,
            name: "bench".into(),
            consensus: create::consensus_for(validators).into(),
            host: "127.0.0.1".into(),
            signer: SignerMode::Embedded,
            cards: Vec::new(),
        })?;
        let binary =
            std::env::current_exe().map_err(|error| failed("find this program", &error))?;
        let mut fresh = Self { nodes: Vec::new(), folder: folder.to_owned() };
        for (number, config) in made.nodes.iter().enumerate() {
            let log = File::create(folder.join(format!("validator{number}.log")))
                .map_err(|error| failed("make a log file", &error))?;
            let errors = log.try_clone().map_err(|error| failed("share a log file", &error))?;
            let child = Command::new(&binary)
                .args(["node", "--config"])
                .arg(config)
                .stdin(Stdio::null())
                .stdout(log)
                .stderr(errors)
                .spawn()
                .map_err(|error| failed("start a validator", &error))?;
            fresh.nodes.push(child);
        }
        Ok(fresh)
    }

    /// Stops the validators. Their folder goes with them, or is named by the failure: their logs may
    /// tell its cause.
    pub fn end<T>(self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        let folder = self.folder.clone();
        drop(self);
        outcome.inspect(|_| drop(fs::remove_dir_all(&folder))).map_err(|failure| {
            let fix = format!("{}; the validators' logs are in {}", failure.fix, folder.display());
            Failure { fix, ..failure }
        })
    }

    /// Process ids of the validators.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(Child::id).collect()
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // Its data is thrown away, so there is nothing to stop in order.
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

fn failed(doing: &str, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Internal, format!("cannot {doing}: {error}"), "see the system's message")
}
