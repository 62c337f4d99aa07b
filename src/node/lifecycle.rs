//! Runs a node until a signal or a failure ends it.
//!
//! systemd, where it started the node, hears what goes on (`service`).
//! SIGTERM and SIGINT stop it in order: listeners, network, stations, ledger. A station that fails
//! ends the process at once with exit code 70: after a failed write nothing may be answered or
//! signed any more, and what is durable is found again at the next start.

use std::sync::Arc;

use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::host::kernel;
use crate::host::tree::Tree;
use crate::node::assembly::Node;
use crate::node::assembly::StartError;
use crate::node::config::Config;
use crate::node::placement::Placement;
use crate::node::service::Notifier;
use crate::pipeline::start::Fatal;

/// Exit code of a node that stopped because a part of it failed (EX_SOFTWARE of sysexits.h).
pub const EXIT_FAILED: i32 = 70;

/// Starts the node of a configuration and runs it to its end. `ready` is called once it serves.
pub fn run(
    config: &Config,
    notifier: Notifier,
    ready: impl FnOnce(&Node),
) -> Result<(), StartError> {
    let progress = notifier.progress().clone();
    progress.at("looking at the machine");
    kernel::check(&Tree::machine()).map_err(|error| StartError::Refused(error.to_string()))?;
    let placement = Placement::of_machine(&config.host, &config.node.data);
    tracing::info!(sizing = ?placement.sizing, pinning = placement.plan.reason, "the machine");
    let threads = placement.sizing.tokio_threads;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("network")
        .enable_all()
        .build()
        .map_err(|error| {
            StartError::Failed(format!("cannot start the network threads: {error}"))
        })?;
    let fatal: Fatal = Arc::new(|reason| {
        tracing::error!(reason, "the node stops: a part of it failed");
        eprintln!("obelisk: {reason}");
        std::process::exit(EXIT_FAILED);
    });
    let node = Node::start(config, &placement, runtime.handle(), fatal, &progress)?;
    ready(&node);
    notifier.serving(node.handle().clone(), placement.plan);
    runtime.block_on(terminated());
    tracing::info!("stopping");
    notifier.stopping();
    node.stop();
    Ok(())
}

/// Returns at SIGTERM or SIGINT.
pub(super) async fn terminated() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the default action ends the process, which is safe.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
