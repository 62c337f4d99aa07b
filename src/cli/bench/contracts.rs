//! `obelisk bench contracts`: what a signed transfer of the sample contract `asset` costs after its
//! signature is checked: decoding its batch, executing it, committing it; and a call of the
//! contract alone, by how instances are made.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;

use crate::chaincode::Caller;
use crate::chaincode::Package;
use crate::chaincode::contracts::Contracts;
use crate::chaincode::contracts::Options;
use crate::chaincode::memory_stub::MemoryChain;
use crate::chaincode::wasm::WasmRuntime;
use crate::cli::Context;
use crate::cli::bench::chain;
use crate::cli::bench::chain::Scratch;
use crate::cli::bench::chain::broken;
use crate::cli::bench::machine::Machine;
use crate::cli::bench::measure::Effort;
use crate::cli::bench::measure::Watch;
use crate::cli::bench::report::Destination;
use crate::cli::bench::report::Report;
use crate::cli::bench::report::Row;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::client::identity::ClientIdentity;
use crate::client::invocation::Invocation;
use crate::crypto::routing::Crypto;
use crate::crypto::routing::Routing;
use crate::ledger::Ledger;
use crate::membership::consortium::Consortium;
use crate::membership::consortium::Spec;
use crate::membership::directory::Directory;
use crate::membership::identity::Role;
use crate::membership::msp::Msp;
use crate::pipeline::execute::Executor;
use crate::storage::RocksSizing;
use crate::storage::STORES;
use crate::types::batch::Batch;
use crate::types::block::Block;
use crate::types::codec::Decode;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::genesis::Genesis;
use crate::types::ids::CertificateId;
use crate::types::ids::Height;
use crate::types::receipt::Status;
use crate::types::signature::Algorithm;
use crate::types::transaction::Transaction;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Blocks of one run
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1000))]
    blocks: u64,
    /// Transfers of one block
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=4096))]
    transfers: u64,
    /// Accounts that transfers choose from
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1000..))]
    accounts: u64,
    /// Leave out the contract alone
    #[arg(long)]
    stations_only: bool,
    /// Where the store lies
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    effort: Effort,
    #[command(flatten)]
    to: Destination,
}

pub fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let scratch = Scratch::new(arguments.data.as_deref())?;
    let machine = Machine::this(Some(scratch.path()));
    let mut rows = Vec::new();
    if !arguments.stations_only {
        for (name, runtime) in
            [("pooled", WasmRuntime::new()), ("on-demand", WasmRuntime::on_demand())]
        {
            calls(name, runtime.map_err(defect)?, arguments, &mut rows)?;
        }
    }
    stations(arguments, scratch.path(), &mut rows)?;
    Report::new("contracts", machine, rows).deliver(&arguments.to, context)
}

/// The contract alone, with state in memory.
fn calls(
    name: &str,
    runtime: WasmRuntime,
    arguments: &Arguments,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let effort = &arguments.effort;
    let package = Package::new(Bytes::from_static(ASSET_WASM));
    let compile = effort.sample(1, || {
        assert!(runtime.compile(&package).is_ok(), "the sample contract compiles");
    });
    rows.push(Row::times(format!("chaincode::compile/instances={name}"), &compile));
    let contracts = Contracts::new(Options::default()).map_err(defect)?;
    let mut chain = MemoryChain::new(Arc::new(contracts.with_runtime("wasm", Arc::new(runtime))));
    let caller = Caller {
        organisation: "bank".to_owned(),
        name: "admin1".to_owned(),
        role: "admin".to_owned(),
        attributes: Vec::new(),
        certificate: CertificateId(Digest::ZERO),
    };
    let mut transact = |contract: &str, function: &str, args: &[&[u8]]| {
        chain.transact(&caller, contract, function, args).map_err(|fault| broken(&fault))?;
        Ok::<u64, Failure>(chain.fuel_used)
    };
    transact("lifecycle", "deploy", &[b"asset", b"1", b"wasm", ASSET_WASM])?;
    for first in (0..ACCOUNTS).step_by(500) {
        let first = first.to_string();
        transact("asset", "open_many", &[b"a", first.as_bytes(), b"500", b"1000000000"])?;
    }
    let (mut call, mut fuel, mut failed) = (0, 0, None);
    let transfers = effort.sample(1, || {
        call += 1;
        let (from, to) = (account(call % ACCOUNTS), account((call + ACCOUNTS / 2) % ACCOUNTS));
        let args: [&[u8]; 4] = [from.as_bytes(), to.as_bytes(), b"1", &PADDING];
        match transact("asset", "transfer", &args) {
            Ok(used) => fuel = used,
            Err(failure) => failed = Some(failure),
        }
    });
    if let Some(failure) = failed {
        return Err(failure);
    }
    rows.push(Row::times(format!("chaincode::transfer/instances={name}"), &transfers));
    rows.push(Row::once(format!("chaincode::fuel/instances={name}"), "fuel", 1, fuel as f64));
    Ok(())
}

/// A validator's stations behind the signature check, on one thread, with the store that nodes
/// have.
fn stations(arguments: &Arguments, folder: &Path, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let store = STORES.last().expect("the store in memory is always there");
    let member = Member::new(&folder.join("network"))?;
    let kv = (store.open)(&folder.join("kv"), &RocksSizing::default()).map_err(|e| broken(&e))?;
    let ledger = Ledger::open(&folder.join("ledger"), &member.genesis, kv);
    let ledger = Arc::new(ledger.map_err(|e| broken(&e))?);
    let verify = |check: &crate::crypto::Check<'_>| Crypto::portable().verify(check);
    let directory = Directory::new(&member.genesis, Arc::new(verify)).map_err(|e| broken(&e))?;
    let contracts = Arc::new(Contracts::new(Options::default()).map_err(defect)?);
    let parameters = member.genesis.parameters;
    let executor = Executor::new(ledger.clone(), Arc::new(directory), contracts, parameters);
    let mut executor = executor.map_err(|e| broken(&e))?;
    let mut commit = |txs: &[Transaction], certificate: &Bytes| {
        let block = chain::block(member.genesis.chain_id(), &ledger.tip(), certificate, txs);
        let executed = executor.execute(block).map_err(|e| broken(&e))?;
        let failed = executed.receipts.iter().find(|receipt| receipt.status != Status::Ok);
        if let Some(failed) = failed {
            return Err(Failure::new(Exit::Internal, failed.error.clone(), "report it"));
        }
        ledger.commit(vec![executed]).map(drop).map_err(|e| broken(&e))
    };
    let deploy = Invocation::new("lifecycle", "deploy").arg("asset").arg("1").arg("wasm");
    let deploy = member.sign(&member.admin, deploy.arg(ASSET_WASM), Height(0))?;
    commit(&[deploy], member.admin.certificate())?;
    for first in (0..arguments.accounts).step_by(1000) {
        let open = Invocation::new("asset", "open_many").arg("a").arg(first.to_string());
        let open = member.sign(&member.client, open.arg("1000").arg("1000000000"), Height(0))?;
        commit(&[open], member.client.certificate())?;
    }
    let (mut decode, mut execute, mut write) = (Vec::new(), Vec::new(), Vec::new());
    let mut number = 0;
    for _ in 0..arguments.effort.runs() {
        let transactions = arguments.blocks * arguments.transfers;
        let blocks = transfers(&member, &ledger, arguments, &mut number)?;
        let bodies: Vec<Bytes> =
            blocks.iter().flat_map(|block| &block.batches).map(|batch| batch.to_bytes()).collect();
        let watch = Watch::start();
        for body in &bodies {
            Batch::from_bytes(body).map_err(|e| broken(&e))?;
        }
        decode.push(watch.per(transactions));
        let (watch, mut executed) = (Watch::start(), Vec::new());
        for block in blocks {
            executed.push(executor.execute(block).map_err(|e| broken(&e))?);
        }
        execute.push(watch.per(transactions));
        let watch = Watch::start();
        for block in executed {
            ledger.commit(vec![block]).map_err(|e| broken(&e))?;
        }
        write.push(watch.per(transactions));
    }
    let of = format!("txs={}", arguments.transfers);
    rows.push(Row::times(format!("types::decode_batch/{of}"), &decode));
    rows.push(Row::times(format!("pipeline::execute/contract=asset/{of}"), &execute));
    let store = store.name;
    rows.push(Row::times(format!("pipeline::commit/contract=asset/store={store}/{of}"), &write));
    Ok(())
}

/// The blocks of one run, signed here.
fn transfers(
    member: &Member,
    ledger: &Ledger,
    arguments: &Arguments,
    number: &mut u64,
) -> Result<Vec<Block>, Failure> {
    let mut tip = ledger.tip();
    let mut blocks = Vec::new();
    for _ in 0..arguments.blocks {
        let mut txs = Vec::new();
        for _ in 0..arguments.transfers {
            // A step without a common divisor visits accounts in no order.
            *number += 7919;
            let accounts = arguments.accounts;
            let (from, to) = (*number % accounts, (*number + accounts / 2) % accounts);
            let transfer = Invocation::new("asset", "transfer").arg(account(from)).arg(account(to));
            let transfer = transfer.arg("1").arg(PADDING);
            txs.push(member.sign(&member.client, transfer, tip.height)?);
        }
        let certificate = member.client.certificate();
        let block = chain::block(member.genesis.chain_id(), &tip, certificate, &txs);
        tip = block.header.tip();
        blocks.push(block);
    }
    Ok(blocks)
}

/// A network of one validator, its client and its admin.
struct Member {
    genesis: Genesis,
    client: ClientIdentity,
    admin: ClientIdentity,
}

impl Member {
    fn new(folder: &Path) -> Result<Self, Failure> {
        let crypto = Crypto::new(&Routing::default()).map_err(|e| broken(&e))?;
        let now = crate::host::clock::now_ms();
        let spec = Spec::local("bench", 1, Algorithm::EcdsaP256, now);
        let made = Consortium::make(folder, &spec, &crypto).map_err(|e| broken(&e))?;
        let identity = |role| -> Result<ClientIdentity, Failure> {
            let member = made.of_role(role).next().expect("one of each role is made");
            let msp = Msp::load(&member.folder).map_err(|e| broken(&e))?;
            ClientIdentity::from_pair(&msp.enrolment, &crypto).map_err(|e| broken(&e))
        };
        let (client, admin) = (identity(Role::Client)?, identity(Role::Admin)?);
        Ok(Self { genesis: made.genesis, client, admin })
    }

    fn sign(
        &self,
        who: &ClientIdentity,
        call: Invocation,
        tip: Height,
    ) -> Result<Transaction, Failure> {
        call.sign(who, self.genesis.chain_id(), tip).map_err(|e| broken(&e))
    }
}

fn account(number: u64) -> String {
    format!("a{number}")
}

fn defect(text: String) -> Failure {
    Failure::new(Exit::Internal, text, "build with the feature \"wasm\" on a supported machine")
}

const ASSET_WASM: &[u8] = include_bytes!("../../../contracts/wasm/asset.wasm");
/// Accounts of the contract alone.
const ACCOUNTS: u64 = 10_000;
/// Makes a transfer one of about 256 signed bytes.
const PADDING: [u8; 86] = [b'x'; 86];
