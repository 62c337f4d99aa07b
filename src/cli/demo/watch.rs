//! Looks at the demo's validators from outside, as any client does: over gRPC, with TLS, by the
//! identity of a member.

use std::future::Future;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::api::grpc::proto::StatusReply;
use crate::cli::demo::network;
use crate::cli::demo::place::Place;
use crate::cli::demo::process;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::link::client_failure;
use crate::client::connection::Client;
use crate::client::trust::Network;
use crate::crypto::routing::Crypto;
use crate::membership::consortium;
use crate::membership::consortium::GENESIS_FILE;
use crate::membership::identity::Role;
use crate::membership::msp::Msp;

/// Connections to all validators of a demo, running or not.
pub struct Watch {
    runtime: tokio::runtime::Runtime,
    network: Network,
    clients: Vec<Client>,
}

impl Watch {
    /// Prepares connections; nothing is sent yet.
    pub fn new(place: &Place) -> Result<Self, Failure> {
        let genesis = consortium::read_genesis(&place.folder.join(GENESIS_FILE))
            .map_err(|error| Failure::of(Exit::Internal, &error, RESET))?;
        let network = Network::new(Arc::new(genesis), Arc::new(Crypto::portable()))
            .map_err(|error| client_failure(&error))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| {
            Failure::of(Exit::Internal, &error, "check this user's limit of open files")
        })?;
        let mut watch = Self { runtime, network, clients: Vec::new() };
        for i in 0..place.marker.validators {
            let organisation = place.marker.organisations[i].clone();
            watch.clients.push(watch.client(place, i, &organisation, Role::Client)?);
        }
        Ok(watch)
    }

    /// A connection to validator number `i`, from 0, by a member.
    pub fn client(
        &self,
        place: &Place,
        i: usize,
        organisation: &str,
        role: Role,
    ) -> Result<Client, Failure> {
        let msp = Msp::load(&network::member(place, organisation, role))
            .map_err(|error| Failure::of(Exit::Internal, &error, RESET))?;
        // The client puts its connection's task on the runtime it is made in.
        let _inside = self.runtime.enter();
        Client::new(&network::grpc(&place.marker, i), &self.network, msp.tls.as_ref())
            .map_err(|error| client_failure(&error))
    }

    /// The network as its genesis document describes it.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Runs a call to its end.
    pub fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }

    /// Where each validator stands; none where it does not answer.
    pub fn statuses(&self) -> Vec<Option<StatusReply>> {
        let asked = self.clients.iter().map(|client| async {
            tokio::time::timeout(ANSWER_WITHIN, client.status()).await.ok()?.ok()
        });
        self.wait(futures_util::future::join_all(asked))
    }

    /// Where one validator stands.
    pub fn status(&self, i: usize) -> Option<StatusReply> {
        let asked = async { tokio::time::timeout(ANSWER_WITHIN, self.clients[i].status()).await };
        self.wait(asked).ok()?.ok()
    }

    /// Waits until all validators are ready; fails as soon as one of `children` ends.
    pub fn until_ready(
        &self,
        place: &Place,
        children: &mut [(usize, Child)],
        mut progress: impl FnMut(usize),
    ) -> Result<(), Failure> {
        let end = Instant::now() + READY_WITHIN;
        loop {
            for (i, child) in children.iter_mut() {
                still_running(place, *i, child)?;
            }
            let statuses = self.statuses();
            let ready = |status: &Option<StatusReply>| status.as_ref().is_some_and(|s| s.ready);
            let count = statuses.iter().filter(|status| ready(status)).count();
            progress(count);
            if count == statuses.len() {
                return Ok(());
            }
            if Instant::now() >= end {
                let late = statuses.iter().position(|status| !ready(status)).unwrap_or(0);
                return Err(not_ready(place, late, statuses[late].as_ref()));
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Waits until all running validators stand at one height and returns their statuses.
    pub fn until_equal(&self, place: &Place) -> Result<Vec<Option<StatusReply>>, Failure> {
        let end = Instant::now() + EQUAL_WITHIN;
        loop {
            let statuses = self.statuses();
            let mut heights = statuses.iter().flatten().map(|status| status.height);
            let first = heights.next();
            if first.is_some() && heights.all(|height| Some(height) == first) {
                return Ok(statuses);
            }
            if Instant::now() >= end {
                let seen = statuses.iter().map(|status| match status {
                    Some(status) => status.height.to_string(),
                    None => "-".to_owned(),
                });
                let seen: Vec<String> = seen.collect();
                let cause = format!("the validators stay at different heights: {}", seen.join(" "));
                let fix = format!("see the logs {}/*/node.log", place.folder.display());
                return Err(Failure::new(Exit::Internal, cause, fix));
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Waits until validator number `i` is ready and has reached `height`; the height at which it
    /// first answered comes back.
    pub fn until_caught_up(
        &self,
        place: &Place,
        i: usize,
        child: &mut Child,
        height: Option<u64>,
        mut progress: impl FnMut(u64),
    ) -> Result<StatusReply, Failure> {
        let end = Instant::now() + CAUGHT_UP_WITHIN;
        loop {
            still_running(place, i, child)?;
            let status = self.status(i);
            if let Some(status) = &status {
                progress(status.height);
                let reached = height.is_none_or(|height| status.ready && status.height >= height);
                if reached {
                    return Ok(status.clone());
                }
            }
            if Instant::now() >= end {
                return Err(not_ready(place, i, status.as_ref()));
            }
            std::thread::sleep(POLL_EVERY);
        }
    }
}

fn still_running(place: &Place, i: usize, child: &mut Child) -> Result<(), Failure> {
    let Ok(Some(ended)) = child.try_wait() else { return Ok(()) };
    let name = &place.marker.organisations[i];
    let log = place.file(i, process::LOG_FILE);
    let tail = process::log_tail(place, i);
    let cause = format!("validator {} ({name}) ended at once, {ended}:\n{tail}", i + 1);
    let fix = format!("its log may say more: {}; {RESET}", log.display());
    Err(Failure::new(Exit::Internal, cause, fix))
}

fn not_ready(place: &Place, i: usize, status: Option<&StatusReply>) -> Failure {
    let name = &place.marker.organisations[i];
    let why = match status {
        Some(status) if !status.reasons.is_empty() => status.reasons.join(", "),
        Some(status) => format!("it stays at height {}", status.height),
        None => "it does not answer".to_owned(),
    };
    let tail = process::log_tail(place, i);
    let cause = format!("validator {} ({name}) is not ready: {why}; its log ends:\n{tail}", i + 1);
    let log = place.file(i, process::LOG_FILE);
    let fix = format!("its log may say more: {}; `obelisk demo stop` ends all", log.display());
    Failure::new(Exit::Internal, cause, fix)
}

const RESET: &str = "`obelisk demo --reset` makes everything new";
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const POLL_EVERY: Duration = Duration::from_millis(50);
const READY_WITHIN: Duration = Duration::from_secs(60);
const EQUAL_WITHIN: Duration = Duration::from_secs(60);
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(300);
