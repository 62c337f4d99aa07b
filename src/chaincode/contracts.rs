//! All contracts of a chain, as the pipeline's execution sees them: a name becomes code, code runs.
//!
//! `resolve` reads lifecycle's small record of the name each time, through the caller's recorded
//! reads, so an upgrade by an earlier transaction takes effect at once. Code is immutable and named
//! by its digest; what `Runtime::load` made of it is kept in a bounded cache, so the package bytes
//! are read only when the code is not at hand. Whether it was at hand changes no result.
//!
//! Depth of calls and the namespace of each contract are the caller's part: `Stub::call` of the
//! pipeline resolves and invokes again, and refuses the ninth level (`limits::CALL_DEPTH_MAX`).

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use bytes::Bytes;
use lru::LruCache;

use crate::chaincode::Call;
use crate::chaincode::Contract;
use crate::chaincode::Fault;
use crate::chaincode::Outcome;
use crate::chaincode::Package;
use crate::chaincode::RUNTIMES;
use crate::chaincode::Runtime;
use crate::chaincode::Stub;
use crate::chaincode::builtin;
use crate::chaincode::builtin::Builtin;
use crate::chaincode::builtin::lifecycle;
use crate::types::digest::Digest;
use crate::types::genesis::ChainParameters;
use crate::types::limits;
use crate::types::receipt::Status;

/// Reads one key of any namespace, recorded as a read of the running transaction; must see the
/// transaction's own writes.
pub type ReadState<'a> = dyn FnMut(&str, &[u8]) -> Result<Option<Bytes>, Fault> + 'a;

/// What a set of contracts needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Parameters of the network, shown by `configure`.
    pub parameters: ChainParameters,
    /// Loaded packages kept ready.
    pub loaded_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { parameters: ChainParameters::default(), loaded_max: limits::LOADED_CONTRACTS_MAX }
    }
}

/// A name that became code; cheap to clone.
#[derive(Clone)]
pub struct Resolved(Code);

#[derive(Clone)]
enum Code {
    Builtin(&'static dyn Builtin),
    Loaded(Arc<dyn Contract>),
}

/// Contracts ready to run, by kind and digest of the package.
type Loaded = LruCache<(&'static str, Digest), Arc<dyn Contract>>;

/// The contracts of a chain.
pub struct Contracts {
    options: Options,
    runtimes: BTreeMap<&'static str, Arc<dyn Runtime>>,
    loaded: Mutex<Loaded>,
}

impl Contracts {
    /// The built-in contracts and every runtime of this build; the error says which runtime cannot
    /// start on this machine and why.
    pub fn new(options: Options) -> Result<Self, String> {
        let mut runtimes = BTreeMap::new();
        for row in RUNTIMES {
            runtimes.insert(row.kind, (row.make)()?);
        }
        let room = NonZeroUsize::new(options.loaded_max).unwrap_or(NonZeroUsize::MIN);
        Ok(Self { options, runtimes, loaded: Mutex::new(LruCache::new(room)) })
    }

    /// Adds a runtime that is no row of the table: tests, or one that needs more than a package.
    #[must_use]
    pub fn with_runtime(mut self, kind: &'static str, runtime: Arc<dyn Runtime>) -> Self {
        self.runtimes.insert(kind, runtime);
        self
    }

    /// Finds the code of the contract `name`. Unknown and retired names are
    /// `Status::UnknownChaincode`.
    pub fn resolve(&self, name: &str, read: &mut ReadState<'_>) -> Result<Resolved, Fault> {
        if let Some(builtin) = builtin::find(name) {
            return Ok(Resolved(Code::Builtin(builtin)));
        }
        let record = lifecycle::active(name, read)?;
        let (kind, runtime) = self.runtime(&record.kind)?;
        if let Some(contract) = self.cached(kind, &record.package) {
            return Ok(Resolved(Code::Loaded(contract)));
        }
        let bytes = lifecycle::package(&record.package, read)?;
        let package = Package { digest: record.package, bytes };
        let contract = self.keep(kind, package.digest, runtime.load(&package)?);
        Ok(Resolved(Code::Loaded(contract)))
    }

    /// Runs `call` with at most `fuel`. On a fault the caller drops all writes of the transaction
    /// and counts all fuel as used.
    pub fn invoke(
        &self,
        resolved: &Resolved,
        call: &Call,
        stub: &mut dyn Stub,
        fuel: u64,
    ) -> Result<Outcome, Fault> {
        let outcome = match &resolved.0 {
            Code::Builtin(builtin) => builtin.invoke(self, call, stub, fuel)?,
            Code::Loaded(contract) => {
                refuse_reserved(call)?;
                contract.invoke(call, stub, fuel)?
            }
        };
        if outcome.value.len() > limits::RETURN_BYTES_MAX {
            return Err(Fault::new(
                Status::LimitExceeded,
                format!(
                    "the return value has {} bytes, the limit is {}; return less or emit an event",
                    outcome.value.len(),
                    limits::RETURN_BYTES_MAX
                ),
            ));
        }
        Ok(outcome)
    }

    /// Checks a package of `kind` and keeps it ready to run.
    pub fn load(&self, kind: &str, package: &Package) -> Result<Arc<dyn Contract>, Fault> {
        let (kind, runtime) = self.runtime(kind)?;
        match self.cached(kind, &package.digest) {
            Some(contract) => Ok(contract),
            None => Ok(self.keep(kind, package.digest, runtime.load(package)?)),
        }
    }

    /// Parameters of the network.
    pub fn parameters(&self) -> &ChainParameters {
        &self.options.parameters
    }

    fn runtime(&self, kind: &str) -> Result<(&'static str, &Arc<dyn Runtime>), Fault> {
        let row = self.runtimes.get_key_value(kind).ok_or_else(|| no_runtime(kind))?;
        Ok((*row.0, row.1))
    }

    fn cached(&self, kind: &'static str, package: &Digest) -> Option<Arc<dyn Contract>> {
        self.lock().get(&(kind, *package)).cloned()
    }

    fn keep(
        &self,
        kind: &'static str,
        package: Digest,
        contract: Arc<dyn Contract>,
    ) -> Arc<dyn Contract> {
        self.lock().put((kind, package), contract.clone());
        contract
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Loaded> {
        // A cache stays right whatever a panicking thread did: entries are inserted whole.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `init` is lifecycle's: a contract is initialised once, at its deployment.
fn refuse_reserved(call: &Call) -> Result<(), Fault> {
    let by_lifecycle = call.calling_chaincode.as_deref() == Some(lifecycle::NAME);
    if call.function == lifecycle::INIT && !by_lifecycle {
        return Err(Fault::new(
            Status::Unauthorised,
            "the function \"init\" runs once, when lifecycle deploys the contract",
        ));
    }
    Ok(())
}

fn no_runtime(kind: &str) -> Fault {
    let text = match kind {
        "wasm" => {
            "this node was built without the feature \"wasm\", so it cannot run the contract; \
                   use a build with it"
                .to_owned()
        }
        _ => {
            format!("no runtime for packages of kind {kind:?}; the kind of this build is \"wasm\"")
        }
    };
    Fault::new(Status::UnknownChaincode, text)
}

#[cfg(test)]
pub(crate) mod tests;
