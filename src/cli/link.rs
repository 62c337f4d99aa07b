//! The one place where commands meet a running node: profile, identity, connection, and the
//! client's errors as exit codes.
//!
//! The nodes of the profile are tried in order; the first that answers serves the whole command.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cli::Context;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::member;
use crate::cli::profile::Profile;
use crate::client::connection::Client;
use crate::client::connection::Located;
use crate::client::error::ClientError;
use crate::client::identity::ClientIdentity;
use crate::client::invocation::Invocation;
use crate::client::trust::Network;
use crate::crypto::routing::Crypto;
use crate::membership::consortium;
use crate::membership::msp::Msp;
use crate::node::key;
use crate::types::receipt::Status;
use crate::types::transaction::Transaction;

/// Which identity of the profile signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The client.
    Client,
    /// The admin: deploys, upgrades, revokes.
    Admin,
}

/// A node that answers, and who asks.
pub struct Link {
    runtime: tokio::runtime::Runtime,
    profile: Profile,
    network: Network,
    msp: Msp,
    client: Client,
}

impl Link {
    /// Connects to the first node that answers.
    pub fn open(context: &Context, who: Who) -> Result<Self, Failure> {
        let mut link = Self::prepare(context, who)?;
        let mut last = None;
        for address in link.profile.grpc.clone() {
            let tls = link.msp.tls.as_ref();
            match link.runtime.block_on(Client::connect(&address, &link.network, tls)) {
                Ok(client) => {
                    link.client = client;
                    return Ok(link);
                }
                Err(error) => last = Some(client_failure(&error)),
            }
        }
        Err(last.expect("a profile names at least one node"))
    }

    /// All but the connection.
    pub fn prepare(context: &Context, who: Who) -> Result<Self, Failure> {
        let profile = context.profile()?;
        let genesis = consortium::read_genesis(&profile.genesis)
            .map_err(|error| Failure::of(Exit::Usage, &error, "check the profile's genesis"))?;
        let crypto = Arc::new(Crypto::portable());
        let network =
            Network::new(Arc::new(genesis), crypto).map_err(|error| client_failure(&error))?;
        let folder = match who {
            Who::Client => &profile.identity,
            Who::Admin => profile.admin.as_ref().unwrap_or(&profile.identity),
        };
        let msp = Msp::load(folder).map_err(|error| {
            Failure::of(Exit::Usage, &error, "check the profile's identity, or use --identity")
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| {
            Failure::of(Exit::Internal, &error, "check this user's limits of open files")
        })?;
        let client = {
            // The client spawns its connection's task on the runtime it is made in.
            let _inside = runtime.enter();
            Client::new(&profile.grpc[0], &network, msp.tls.as_ref())
                .map_err(|error| client_failure(&error))?
        };
        Ok(Self { runtime, profile, network, msp, client })
    }

    /// The profile in use.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The network as its genesis document describes it.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The connection; clones share it.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A client of another node, by the same identity.
    pub fn client_of(&self, address: &str) -> Result<Client, Failure> {
        let _inside = self.runtime.enter();
        Client::new(address, &self.network, self.msp.tls.as_ref())
            .map_err(|error| client_failure(&error))
    }

    /// Runs a call to its end.
    pub fn wait<T>(
        &self,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, Failure> {
        self.runtime.block_on(call).map_err(|error| client_failure(&error))
    }

    /// As `wait`, for calls whose failure is part of the answer.
    pub fn attempt<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }

    /// Who signs.
    pub fn identity(&self) -> Result<ClientIdentity, Failure> {
        identity(&self.msp, self.network.crypto())
    }

    /// Signs, submits, waits for the commit.
    pub fn invoke(
        &self,
        invocation: &Invocation,
        wait: Duration,
    ) -> Result<(Transaction, Located), Failure> {
        let identity = self.identity()?;
        let transaction = self.wait(self.client.sign(&identity, invocation))?;
        let certificate: Option<&Bytes> = Some(identity.certificate());
        let located = self
            .wait(self.client.submit_and_wait(&transaction, certificate, wait))
            .map_err(|mut failure| {
                failure.cause = format!("{} (transaction {})", failure.cause, transaction.id());
                failure
            })?;
        Ok((transaction, located))
    }
}

/// Who signs with the enrolment key of a folder, in its file or on its token.
pub fn identity(msp: &Msp, crypto: &Crypto) -> Result<ClientIdentity, Failure> {
    let key = key::of_pair(&msp.enrolment, crypto)
        .map_err(|error| member::key_failure(&error, "issue the identity again"))?;
    Ok(ClientIdentity::new(msp.enrolment.certificate.clone(), key))
}

/// A client's error in exit codes.
pub fn client_failure(error: &ClientError) -> Failure {
    let exit = match error {
        ClientError::Refused { code, .. } => match code.as_str() {
            "not-found" | "unknown-chaincode" => Exit::NotFound,
            "internal" => Exit::Internal,
            "stopping" => Exit::Unreachable,
            _ => Exit::Refused,
        },
        ClientError::Unreachable { .. } => Exit::Unreachable,
        ClientError::Sign(_) | ClientError::Membership(_) => Exit::Usage,
        ClientError::TimedOut(_) | ClientError::Proof(_) | ClientError::Answer { .. } => {
            Exit::Refused
        }
        _ => Exit::Internal,
    };
    match error {
        ClientError::Refused { code, message, hint, .. } => {
            let hint = if hint.is_empty() { "see docs/api.md" } else { hint };
            Failure::new(exit, format!("{code}: {message}"), hint)
        }
        ClientError::Unreachable { address, reason } => {
            let cause = format!("no answer from {address}: {reason}");
            Failure::new(exit, cause, "start the node, or name another one with --node ADDRESS")
        }
        error => Failure::of(exit, error, "ask another node with --node ADDRESS"),
    }
}

/// A committed transaction that failed, as a refusal of the command.
pub fn receipt_failure(located: &Located) -> Option<Failure> {
    let receipt = &located.receipt;
    let fix = match receipt.status {
        Status::Ok => return None,
        Status::Refused => "the contract says why; change the request",
        Status::Trap => "the contract has a fault; tell its author",
        Status::OutOfFuel | Status::LimitExceeded => "ask the contract for less at once",
        Status::Expired => "send it again: it waited longer than it was valid",
        Status::Duplicate => "ask for the receipt of the first one",
        Status::UnknownChaincode => "deploy it first, or check the spelling",
        Status::Unauthorised => "ask a member whose role allows it",
    };
    let exit = match receipt.status {
        Status::UnknownChaincode => Exit::NotFound,
        _ => Exit::Refused,
    };
    let what = receipt.status.name();
    let cause = format!("{what} in block {}: {}", located.height, receipt.error);
    Some(Failure::new(exit, crate::cli::output::tame(&cause), fix))
}
