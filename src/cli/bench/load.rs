//! `obelisk bench load`: signed asset transfers, from one stream per validator.
//!
//! Each stream signs its transfers itself, with its organisation's client key, right before it
//! sends them, and takes the time from then until the answer "committed" for that very transaction.
//! A closed loop keeps a number of transactions under way; a rate is kept whatever the network
//! does. Warm-up is not counted.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use clap::Args;
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::Semaphore;

use crate::cli::Context;
use crate::cli::bench::fresh::Fresh;
use crate::cli::bench::load_report::Findings;
use crate::cli::bench::machine::Machine;
use crate::cli::bench::measure;
use crate::cli::bench::report::Destination;
use crate::cli::bench::report::Report;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::link;
use crate::cli::network;
use crate::cli::network::ports;
use crate::cli::output::Output;
use crate::cli::profile::Profile;
use crate::client::connection::Client;
use crate::client::error::ClientError;
use crate::client::identity::ClientIdentity;
use crate::client::invocation::Invocation;
use crate::client::submission::Outcomes;
use crate::client::submission::Sender;
use crate::client::trust::Network;
use crate::crypto::routing::Crypto;
use crate::crypto::routing::Routing;
use crate::membership::consortium;
use crate::membership::msp::Msp;
use crate::types::codec::Encode;
use crate::types::genesis::Genesis;
use crate::types::ids::Height;
use crate::types::signature::Algorithm;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Start a network of this many validators for the measurement
    #[arg(long, value_name = "N")]
    fresh: Option<usize>,
    /// Keys of the clients of a fresh network: p256 or ed25519
    #[arg(long, default_value = "p256", value_parser = network::algorithm)]
    algorithm: Algorithm,
    /// Where a fresh network keeps its data; the disk that is measured
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// First port of a fresh network [default: a row of free ones]
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
    /// Signed bytes of one transaction, at least
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Accounts that transfers choose from
    #[arg(long, default_value_t = 10_000)]
    accounts: u64,
    /// 0 chooses accounts evenly; account = accounts * u^(1+skew) otherwise
    #[arg(long, default_value_t = 0.0)]
    skew: f64,
    /// Transactions per second; without it the loop is closed
    #[arg(long)]
    rate: Option<u64>,
    /// Transactions under way in a closed loop
    #[arg(long, default_value_t = 8192)]
    in_flight: usize,
    /// Seconds that count
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Seconds before
    #[arg(long, default_value_t = 5)]
    warm_up: u64,
    /// Processes of the validators, for their CPU time (a fresh network's are known)
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    /// Note the validators' memory each so many seconds; 0 does not
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    memory_every: u64,
    #[command(flatten)]
    to: Destination,
}

/// What all streams share.
struct Shared {
    arguments: Plan,
    network: Network,
    height: AtomicU64,
    counting: AtomicBool,
    stopped: AtomicBool,
    committed: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    latencies: Mutex<Vec<f64>>,
}

#[derive(Clone, Debug)]
struct Plan {
    payload: usize,
    accounts: u64,
    skew: f64,
    rate: Option<u64>,
    in_flight: usize,
    streams: usize,
}

pub fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let (mut pids, mut own) = (arguments.pid.clone(), None);
    let (profile, folder) = match arguments.fresh {
        None => {
            let profile = context.profile()?;
            (profile, std::env::temp_dir())
        }
        Some(validators) => {
            let folder = fresh_folder(arguments)?;
            let port = ports::free_ports(validators, arguments.base_port)?;
            let fresh = Fresh::start(&folder, validators, arguments.algorithm, port)?;
            pids = fresh.pids();
            let profile = Profile::load(&fresh.folder)?;
            own = Some(fresh);
            (profile, folder)
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Internal, error.to_string(), "free some memory"))?;
    let report = runtime.block_on(measured(arguments, &profile, &pids, &folder, context));
    let found = match own {
        Some(fresh) => fresh.end(report)?,
        None => report?,
    };
    let mut machine = Machine::this(None);
    machine.sync_ms = (found.sync_ms > 0.0).then_some(found.sync_ms);
    if !context.output.is_json() {
        found.print(context);
    }
    Report::new("load", machine, found.rows()).deliver_json(&arguments.to, context)
}

fn fresh_folder(arguments: &Arguments) -> Result<PathBuf, Failure> {
    let base = arguments.data.clone().unwrap_or_else(std::env::temp_dir);
    let folder = base.join(format!("obelisk-bench-{}", std::process::id()));
    match folder.exists() {
        false => Ok(folder),
        true => Err(Failure::usage(
            format!("{} exists", folder.display()),
            "remove it, or choose another --data",
        )),
    }
}

/// The network under load, and who loads it.
struct Target {
    clients: Vec<Client>,
    identity: ClientIdentity,
    network: Network,
    crypto: Arc<Crypto>,
    validators: usize,
    algorithm: Algorithm,
}

impl Target {
    /// Connects to every node of the profile, deploys the contract and opens the accounts.
    async fn prepared(
        arguments: &Arguments,
        profile: &Profile,
        context: &Context,
    ) -> Result<Self, Failure> {
        let crypto = Crypto::new(&Routing::default())
            .map_err(|error| Failure::of(Exit::Internal, &error, "report it"))?;
        let crypto = Arc::new(crypto);
        let genesis = Arc::new(read_genesis(profile)?);
        let validators = genesis.replicas.len();
        let network =
            Network::new(genesis, crypto.clone()).map_err(|e| link::client_failure(&e))?;
        let msp = load_msp(&profile.identity)?;
        let client = link::identity(&msp, &crypto)?;
        let admin = match &profile.admin {
            None => client.clone(),
            Some(folder) => link::identity(&load_msp(folder)?, &crypto)?,
        };
        let mut clients = Vec::new();
        for address in &profile.grpc {
            clients.push(ready(address, &network, &msp).await?);
        }
        context.output.note("the network is ready; preparing accounts");
        prepare(&clients[0], &admin, &client, arguments.accounts).await?;
        let algorithm = client_identity_algorithm(&msp)?;
        Ok(Self { clients, identity: client, network, crypto, validators, algorithm })
    }
}

async fn measured(
    arguments: &Arguments,
    profile: &Profile,
    pids: &[u32],
    folder: &Path,
    context: &Context,
) -> Result<Findings, Failure> {
    let target = Target::prepared(arguments, profile, context).await?;
    let Target { clients, identity, network, crypto, validators, algorithm } = target;
    let verification_us = measure::verification_us(&crypto, algorithm);
    let sync_ms = measure::sync_ms(folder);
    let shared = Arc::new(Shared::new(arguments, network, clients.len()));
    let mut tasks = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        let stream = Stream::open(number, client, identity.clone(), &shared).await?;
        tasks.extend(stream);
    }
    let memory: MemoryOverTime = Arc::default();
    let watching = {
        let (memory, pids, output) = (memory.clone(), pids.to_vec(), context.output);
        tokio::spawn(watch_memory(arguments.memory_every, pids, output, memory))
    };
    tokio::time::sleep(Duration::from_secs(arguments.warm_up)).await;
    let counters = Counters::read(&clients, pids, folder).await?;
    shared.counting.store(true, Ordering::Relaxed);
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    shared.counting.store(false, Ordering::Relaxed);
    let seconds = start.elapsed().as_secs_f64();
    let after = Counters::read(&clients, pids, folder).await?;
    shared.stopped.store(true, Ordering::Relaxed);
    for task in tasks {
        task.abort();
    }
    watching.abort();
    let memory = memory.lock().expect("no holder of this lock panics").clone();
    let mut report = Findings {
        algorithm: algorithm.name().to_owned(),
        payload_bytes: arguments.payload,
        mode: arguments.mode(),
        validators,
        seconds,
        verification_us,
        sync_ms,
        memory,
        ..Findings::default()
    };
    shared.fill(&mut report);
    after.fill(&counters, &mut report);
    Ok(report)
}

/// Seconds since the streams opened, and the largest validator's memory then, bytes.
type MemoryOverTime = Arc<Mutex<Vec<(f64, u64)>>>;

/// Notes the memory of the validators again and again, until it is aborted.
async fn watch_memory(every: u64, pids: Vec<u32>, output: Output, memory: MemoryOverTime) {
    if every == 0 || pids.is_empty() {
        return;
    }
    let start = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_secs(every)).await;
        let (seconds, bytes) = (start.elapsed().as_secs_f64(), measure::usage(&pids).resident_max);
        output.note(&format!("after {seconds:.0} s: largest validator {} MB", bytes / 1_000_000));
        memory.lock().expect("no holder of this lock panics").push((seconds, bytes));
    }
}

fn load_msp(folder: &Path) -> Result<Msp, Failure> {
    Msp::load(folder).map_err(|e| Failure::of(Exit::Usage, &e, "check the profile's identity"))
}

fn client_identity_algorithm(msp: &Msp) -> Result<Algorithm, Failure> {
    let identity = msp.enrolment.identity();
    let identity = identity.map_err(|e| Failure::of(Exit::Usage, &e, "issue it again"))?;
    Ok(identity.key.algorithm())
}

/// Waits until a node serves; a fresh one needs a moment.
async fn ready(address: &str, network: &Network, msp: &Msp) -> Result<Client, Failure> {
    let end = Instant::now() + READY_WITHIN;
    loop {
        let attempt = match Client::connect(address, network, msp.tls.as_ref()).await {
            Ok(client) => client.status().await.map(|status| (client, status)),
            Err(error) => Err(error),
        };
        match attempt {
            Ok((client, status)) if status.ready => return Ok(client),
            Ok((_, status)) if Instant::now() > end => {
                let cause = format!("{address} is not ready: {}", status.reasons.join(", "));
                return Err(Failure::new(Exit::Unreachable, cause, "look at its log"));
            }
            Err(error) if Instant::now() > end => return Err(link::client_failure(&error)),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Deploys the asset contract where it is not there yet, and opens the accounts.
async fn prepare(
    client: &Client,
    admin: &ClientIdentity,
    identity: &ClientIdentity,
    accounts: u64,
) -> Result<(), Failure> {
    let show = Invocation::new("lifecycle", "show").arg(CONTRACT);
    if client.query(&show).await.is_err() {
        let deploy = Invocation::new("lifecycle", "deploy")
            .arg(CONTRACT)
            .arg("1")
            .arg("wasm")
            .arg(ASSET_WASM);
        accepted(client.invoke(admin, &deploy, CALL_WITHIN).await)?;
    }
    let balance = Invocation::new(CONTRACT, "balance").arg(account(accounts - 1));
    if client.query(&balance).await.is_ok() {
        return Ok(());
    }
    for first in (0..accounts).step_by(OPEN_MANY) {
        let count = (accounts - first).min(OPEN_MANY as u64);
        let open = Invocation::new(CONTRACT, "open_many")
            .arg("a")
            .arg(first.to_string())
            .arg(count.to_string())
            .arg("1000000000");
        accepted(client.invoke(identity, &open, CALL_WITHIN).await)?;
    }
    Ok(())
}

fn accepted(done: Result<crate::client::connection::Located, ClientError>) -> Result<(), Failure> {
    let located = done.map_err(|error| link::client_failure(&error))?;
    link::receipt_failure(&located).map_or(Ok(()), Err)
}

fn account(number: u64) -> String {
    format!("a{number}")
}

/// One stream: a task that signs and sends, a task that counts.
struct Stream;

type SentAt = Arc<Mutex<HashMap<u64, Instant>>>;

impl Stream {
    async fn open(
        number: usize,
        client: &Client,
        identity: ClientIdentity,
        shared: &Arc<Shared>,
    ) -> Result<[tokio::task::JoinHandle<()>; 2], Failure> {
        let tip = client.tip().await.map_err(|error| link::client_failure(&error))?;
        shared.height.fetch_max(tip.0, Ordering::Relaxed);
        let submission = client.submission().await;
        let (sender, outcomes) = submission.map_err(|error| link::client_failure(&error))?;
        let under_way = shared.arguments.in_flight / shared.arguments.streams;
        let places = Arc::new(Semaphore::new(under_way.max(1)));
        let sent: SentAt = Arc::default();
        let sending =
            send(number as u64, sender, identity, shared.clone(), places.clone(), sent.clone());
        let counting = count(outcomes, shared.clone(), places, sent);
        Ok([tokio::spawn(sending), tokio::spawn(counting)])
    }
}

async fn send(
    number: u64,
    mut sender: Sender,
    identity: ClientIdentity,
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    sent: SentAt,
) {
    let mut random = ChaCha8Rng::seed_from_u64(number);
    let mut certificates = vec![identity.certificate().clone()];
    let (start, mut done, mut next) = (Instant::now(), 0u64, 0u64);
    while !shared.stopped.load(Ordering::Relaxed) {
        let group = match shared.arguments.rate {
            Some(rate) => {
                tokio::time::sleep(PACE).await;
                // The streams take turns, so that the whole comes evenly.
                let due = start.elapsed().as_secs_f64() * rate as f64 + number as f64;
                let due = (due / shared.arguments.streams as f64) as u64;
                let group = due.saturating_sub(done);
                done = due;
                group
            }
            None => take(&places).await,
        };
        if group == 0 {
            continue;
        }
        let mut transactions = Vec::with_capacity(group as usize);
        let begin = Instant::now();
        for _ in 0..group {
            match transfer(&mut random, &identity, &shared) {
                Some(bytes) => transactions.push(bytes),
                None => return,
            }
        }
        let count = transactions.len() as u64;
        sent.lock()
            .expect("no holder of this lock panics")
            .extend((next..next + count).map(|at| (at, begin)));
        next += count;
        if sender.send(transactions, std::mem::take(&mut certificates)).await.is_err() {
            return;
        }
    }
}

/// Takes at least one place and whatever else is free, up to a group.
async fn take(places: &Semaphore) -> u64 {
    let Ok(first) = places.acquire().await else { return 0 };
    first.forget();
    let more = places.available_permits().min(GROUP - 1);
    match places.try_acquire_many(more as u32) {
        Ok(taken) => {
            taken.forget();
            1 + more as u64
        }
        Err(_) => 1,
    }
}

fn transfer(
    random: &mut ChaCha8Rng,
    identity: &ClientIdentity,
    shared: &Shared,
) -> Option<bytes::Bytes> {
    let plan = &shared.arguments;
    let mut choose = || {
        let place = random.random::<f64>().powf(1.0 + plan.skew);
        ((plan.accounts as f64 * place) as u64).min(plan.accounts - 1)
    };
    let (from, mut to) = (choose(), choose());
    if from == to {
        to = (to + 1) % plan.accounts;
    }
    let padding = vec![b'x'; plan.payload.saturating_sub(BARE_PAYLOAD)];
    let invocation = Invocation::new(CONTRACT, "transfer")
        .arg(account(from))
        .arg(account(to))
        .arg("1")
        .arg(padding);
    let tip = Height(shared.height.load(Ordering::Relaxed));
    let signed = invocation.sign(identity, shared.network.chain(), tip).ok()?;
    Some(signed.to_bytes())
}

async fn count(mut outcomes: Outcomes, shared: Arc<Shared>, places: Arc<Semaphore>, sent: SentAt) {
    while let Ok(Some(answers)) = outcomes.next().await {
        let now = Instant::now();
        shared.height.fetch_max(answers.height, Ordering::Relaxed);
        let answered = answers.committed.len() + answers.failed.len() + answers.refused.len();
        let counting = shared.counting.load(Ordering::Relaxed);
        {
            let mut table = sent.lock().expect("no holder of this lock panics");
            let mut times: Vec<f64> = Vec::with_capacity(answers.committed.len());
            for number in &answers.committed {
                if let Some(begin) = table.remove(number) {
                    times.push(now.duration_since(begin).as_secs_f64() * 1000.0);
                }
            }
            for number in answers
                .failed
                .iter()
                .map(|f| f.number)
                .chain(answers.refused.iter().map(|r| r.number))
            {
                table.remove(&number);
            }
            if counting {
                shared.latencies.lock().expect("no holder of this lock panics").extend(times);
            }
        }
        if counting {
            shared.committed.fetch_add(answers.committed.len() as u64, Ordering::Relaxed);
            shared.failed.fetch_add(answers.failed.len() as u64, Ordering::Relaxed);
            shared.refused.fetch_add(answers.refused.len() as u64, Ordering::Relaxed);
        }
        if !answers.refused.is_empty() && shared.arguments.rate.is_none() {
            // Places of refused ones come back slowly, as a client told "busy" should.
            tokio::time::sleep(BUSY_PAUSE).await;
        }
        places.add_permits(answered);
    }
}

fn read_genesis(profile: &Profile) -> Result<Genesis, Failure> {
    consortium::read_genesis(&profile.genesis)
        .map_err(|e| Failure::of(Exit::Usage, &e, "check the profile's genesis"))
}

impl Arguments {
    fn mode(&self) -> String {
        match self.rate {
            Some(rate) => format!("{rate} per second"),
            None => format!("closed loop, {} under way", self.in_flight),
        }
    }
}

impl Shared {
    fn new(arguments: &Arguments, network: Network, streams: usize) -> Self {
        let plan = Plan {
            payload: arguments.payload,
            accounts: arguments.accounts.max(2),
            skew: arguments.skew.max(0.0),
            rate: arguments.rate,
            in_flight: arguments.in_flight.max(1),
            streams,
        };
        Self {
            arguments: plan,
            network,
            height: AtomicU64::new(0),
            counting: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            committed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            latencies: Mutex::default(),
        }
    }

    fn fill(&self, report: &mut Findings) {
        report.committed = self.committed.load(Ordering::Relaxed);
        report.failed = self.failed.load(Ordering::Relaxed);
        report.refused = self.refused.load(Ordering::Relaxed);
        let mut latencies = self.latencies.lock().expect("no holder of this lock panics").clone();
        latencies.sort_by(f64::total_cmp);
        report.latencies_ms = latencies;
    }
}

/// Counters at one moment.
struct Counters {
    validators: measure::Usage,
    generator: measure::Usage,
    written: Option<u64>,
    height: u64,
    sent: u64,
}

impl Counters {
    async fn read(clients: &[Client], pids: &[u32], folder: &Path) -> Result<Self, Failure> {
        let (mut height, mut sent) = (0, 0);
        for client in clients {
            let status = client.status().await.map_err(|error| link::client_failure(&error))?;
            height = height.max(status.height);
            sent += status.peers.iter().map(|peer| peer.bytes_sent).sum::<u64>();
        }
        let validators = measure::usage(pids);
        let generator = measure::usage(&[std::process::id()]);
        let written = measure::device_written(folder);
        Ok(Self { validators, generator, written, height, sent })
    }

    fn fill(&self, before: &Self, report: &mut Findings) {
        let each = |value: f64| value / (report.committed.max(1)) as f64;
        let spent = |now: &measure::Usage, then: &measure::Usage| {
            each(now.cpu.saturating_sub(then.cpu).as_secs_f64() * 1e6)
        };
        let cpu_us = spent(&self.validators, &before.validators);
        let generator = spent(&self.generator, &before.generator);
        let written = self.written.zip(before.written);
        let sent = each((self.sent - before.sent) as f64);
        report.cpu_us = cpu_us;
        report.generator_cpu_us = generator;
        report.written_bytes = written.map(|(now, then)| each(now.saturating_sub(then) as f64));
        report.sent_bytes = sent;
        report.resident_bytes = self.validators.resident_max;
        report.blocks = self.height - before.height;
    }
}

const CONTRACT: &str = "asset";
const ASSET_WASM: &[u8] = include_bytes!("../../../contracts/wasm/asset.wasm");
const OPEN_MANY: usize = 1000;
const GROUP: usize = 64;
/// Payload of a transfer without padding, about.
const BARE_PAYLOAD: usize = 170;
const PACE: Duration = Duration::from_millis(5);
const BUSY_PAUSE: Duration = Duration::from_millis(20);
const READY_WITHIN: Duration = Duration::from_secs(30);
const CALL_WITHIN: Duration = Duration::from_secs(60);
