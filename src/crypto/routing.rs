//! Which provider does what, and `Crypto`, the one object through which the node checks, signs and
//! hashes.
//!
//! At start every (operation, provider) pair runs its known answers; a pair that fails is
//! quarantined, reported and never used. `auto` then takes the fastest verifier per algorithm after
//! a short calibration, in favour of a fixed order of preference unless another is clearly faster,
//! and for signing the preferred provider that wipes its keys (`choice`). An operator may name a
//! provider instead; naming one that is missing or quarantined refuses the start, with the reason.
//!
//! One in `SECOND_OPINION_EVERY` checks is repeated on a second provider. A difference means that
//! one of two libraries is wrong on a signature, which is how nodes fork: it is logged as an error,
//! counted, handed to the callback, and the portable provider decides.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use lru::LruCache;
use zeroize::Zeroizing;

use crate::crypto::Check;
use crate::crypto::CryptoError;
use crate::crypto::PROVIDERS;
use crate::crypto::Provider;
use crate::crypto::SigningKey;
use crate::crypto::batch;
use crate::crypto::calibration;
use crate::crypto::calibration::CLASSES;
use crate::crypto::choice;
use crate::crypto::choice::Batching;
use crate::crypto::choice::Effort;
use crate::crypto::choice::Route;
use crate::crypto::choice::Tabling;
use crate::crypto::key_tables;
use crate::crypto::key_tables::KeyTables;
use crate::crypto::key_tables::Tabled;
use crate::crypto::known_answers::Operation;
use crate::crypto::prepared::PreparedCheck;
use crate::crypto::prepared::PreparedKey;
use crate::crypto::profile::Profile;
use crate::types::digest;
use crate::types::digest::Digest;
use crate::types::limits;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

/// The word that lets the start choose.
pub const AUTO: &str = "auto";

/// One check in this many is repeated on a second provider: about 0.1 % of the cost.
pub const SECOND_OPINION_EVERY: u64 = 1024;

/// What the operator chose: per operation a provider's name or `auto`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Checks ECDSA P-256 signatures.
    pub verify_p256: String,
    /// Checks Ed25519 signatures singly (batches have one implementation).
    pub verify_ed25519: String,
    /// Signs with P-256 software keys.
    pub sign_p256: String,
    /// Signs with Ed25519 software keys.
    pub sign_ed25519: String,
    /// SHA-256.
    pub hash: String,
}

impl Routing {
    /// The same provider (or `auto`) for everything.
    pub fn all(name: &str) -> Self {
        let name = || name.to_string();
        Self {
            verify_p256: name(),
            verify_ed25519: name(),
            sign_p256: name(),
            sign_ed25519: name(),
            hash: name(),
        }
    }

    pub(super) fn of(&self, operation: Operation) -> &str {
        match operation {
            Operation::Hash => &self.hash,
            Operation::Verify(Algorithm::EcdsaP256) => &self.verify_p256,
            Operation::Verify(Algorithm::Ed25519) => &self.verify_ed25519,
            Operation::Sign(Algorithm::EcdsaP256) => &self.sign_p256,
            Operation::Sign(Algorithm::Ed25519) => &self.sign_ed25519,
        }
    }
}

impl Default for Routing {
    fn default() -> Self {
        Self::all(AUTO)
    }
}

/// Why no `Crypto` could be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoutingError {
    /// The configured name is no provider of this build.
    #[error(
        "crypto provider {name:?} for {operation} {algorithm} is not in this build; choose auto or \
         one of: {known}"
    )]
    Unknown { name: String, operation: &'static str, algorithm: &'static str, known: String },
    /// A token, which is chosen by its key (decision 0013).
    #[error(
        "{name:?} is no crypto provider for {operation} {algorithm}: a token serves the keys that are \
         on it; name it in a [[token]] section of signer.toml and choose auto here"
    )]
    Token { name: String, operation: &'static str, algorithm: &'static str },
    /// The configured provider fails its known answers on this machine.
    #[error(
        "crypto provider {name} must not be used for {operation} {algorithm} here: {reason}; \
         choose auto or another provider, and check the library's version"
    )]
    Quarantined {
        name: &'static str,
        operation: &'static str,
        algorithm: &'static str,
        reason: &'static str,
    },
    /// Every provider fails.
    #[error("no crypto provider passes its known answers for {operation} {algorithm}: bad memory?")]
    NoneLeft { operation: &'static str, algorithm: &'static str },
}

/// Two providers disagreed on one signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The key.
    pub key: PublicKey,
    /// SHA-256 of the message.
    pub message: Digest,
    /// The signature.
    pub signature: Signature,
    /// Provider that was asked first (or `batch`).
    pub first: &'static str,
    /// Provider that was asked for a second opinion.
    pub second: &'static str,
    /// What the first said.
    pub first_valid: bool,
}

/// Called on every divergence.
pub type OnDivergence = Box<dyn Fn(&Divergence) + Send + Sync>;

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Signatures checked.
    pub checked: u64,
    /// Of those, invalid.
    pub invalid: u64,
    /// Of those, asked again after a no: Ed25519 from the reference, P-256 from the library after the
    /// table.
    pub rechecked: u64,
    /// P-256 checks with the table of their key.
    pub tabled: u64,
    /// Tables in memory.
    pub tables: u64,
    /// Repeated on a second provider.
    pub second_opinions: u64,
    /// Second opinions that differed.
    pub divergences: u64,
}

/// Which of a group of checks hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    len: usize,
    invalid: Vec<usize>,
}

impl Verdicts {
    pub(super) fn new(len: usize, mut invalid: Vec<usize>) -> Self {
        invalid.sort_unstable();
        Self { len, invalid }
    }

    /// Whether every signature is valid.
    pub fn all_valid(&self) -> bool {
        self.invalid.is_empty()
    }

    /// Places of the invalid ones, ascending.
    pub fn invalid(&self) -> &[usize] {
        &self.invalid
    }

    /// Whether the check at `place` holds; false beyond the group.
    pub fn is_valid(&self, place: usize) -> bool {
        place < self.len && self.invalid.binary_search(&place).is_err()
    }

    /// Number of checks of the group.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the group was empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The chosen providers with their caches and counters. Cheap to share behind an `Arc`.
pub struct Crypto {
    /// By class of size, for `Digest::of`.
    hashes: [&'static Provider; CLASSES],
    batching: Batching,
    tabling: Tabling,
    tables: Option<KeyTables>,
    profile: Profile,
    chosen: [&'static Provider; Operation::ALL.len()],
    second: [Option<&'static Provider>; Algorithm::ALL.len()],
    report: Vec<Route>,
    keys: Mutex<LruCache<PublicKey, Arc<PreparedKey>>>,
    on_divergence: Option<OnDivergence>,
    checked: AtomicU64,
    invalid: AtomicU64,
    rechecked: AtomicU64,
    tabled: AtomicU64,
    second_opinions: AtomicU64,
    divergences: AtomicU64,
}

impl Crypto {
    /// Runs the known answers of every pair, calibrates where something is `auto` (at most about
    /// 100 ms), and chooses.
    pub fn new(routing: &Routing) -> Result<Self, RoutingError> {
        Self::build(PROVIDERS, routing, Profile::default(), Effort::Start)
    }

    /// The portable provider for everything, without calibration: tests, tools, simulator.
    pub fn portable() -> Self {
        Self::new(&Routing::all(crate::crypto::providers::portable::NAME))
            .expect("the portable provider is in every build and passes its known answers")
    }

    /// The same, in favour of what `profile` says was chosen the last time, and measuring as much
    /// as `effort` says.
    pub fn with_profile(
        routing: &Routing,
        profile: Profile,
        effort: Effort,
    ) -> Result<Self, RoutingError> {
        Self::build(PROVIDERS, routing, profile, effort)
    }

    #[cfg(test)]
    pub(super) fn over(
        providers: &'static [Provider],
        routing: &Routing,
    ) -> Result<Self, RoutingError> {
        Self::build(providers, routing, Profile::default(), Effort::Start)
    }

    fn build(
        providers: &'static [Provider],
        routing: &Routing,
        mut profile: Profile,
        effort: Effort,
    ) -> Result<Self, RoutingError> {
        let mut report = choice::tested(providers);
        let mut batching = choice::calibrate(providers, routing, effort, &mut report);
        let mut chosen = [&providers[0]; Operation::ALL.len()];
        let mut hashes = [&providers[0]; CLASSES];
        for (place, operation) in Operation::ALL.into_iter().enumerate() {
            for (class, class_name) in calibration::classes(operation).into_iter().enumerate() {
                // A key is prepared by one provider, whatever the size of the groups it is in.
                let by = if operation == Operation::Hash { class } else { 0 };
                let wanted = routing.of(operation);
                let name = choice::choose(&report, operation, by, wanted, &profile)?;
                if by == class && wanted == AUTO {
                    profile.record(operation.name(), operation.algorithm(), class_name, name);
                }
                let provider = choice::by_name(providers, name);
                match operation {
                    Operation::Hash => hashes[class] = provider,
                    _ => chosen[place] = provider,
                }
                for route in &mut report {
                    if route.operation == operation && route.provider == name {
                        route.classes[class] = true;
                        route.chosen = true;
                    }
                }
            }
        }
        chosen[index(Operation::Hash)] = hashes[1];
        let ed25519 = Operation::Verify(Algorithm::Ed25519);
        let single = report.iter().find(|r| r.operation == ed25519 && r.chosen);
        batching.from = choice::batch_from(&batching, single.and_then(|r| r.times[0]));
        let second = Algorithm::ALL.map(|algorithm| {
            let verify = Operation::Verify(algorithm);
            let first = chosen[index(verify)].name;
            let name = choice::healthy(&report, verify).find(|name| *name != first)?;
            Some(choice::by_name(providers, name))
        });
        let p256 = Operation::Verify(Algorithm::EcdsaP256);
        let single = report.iter().find(|r| r.operation == p256 && r.chosen);
        let tabling = choice::tables(providers, routing, effort, single.and_then(|r| r.times[0]));
        let tables = tabling.provider.filter(|_| tabling.used).map(|name| {
            let most = NonZeroUsize::new(limits::KEY_TABLES_MAX).expect("a constant above zero");
            KeyTables::new(choice::by_name(providers, name).table, most)
        });
        let capacity = NonZeroUsize::new(limits::VERIFY_KEYS_MAX).expect("a constant above zero");
        Ok(Self {
            hashes,
            batching,
            tabling,
            tables,
            profile,
            chosen,
            second,
            report,
            keys: Mutex::new(LruCache::new(capacity)),
            on_divergence: None,
            checked: AtomicU64::new(0),
            invalid: AtomicU64::new(0),
            rechecked: AtomicU64::new(0),
            tabled: AtomicU64::new(0),
            second_opinions: AtomicU64::new(0),
            divergences: AtomicU64::new(0),
        })
    }

    /// Sets who is told about divergences (beside the log and the counter).
    pub fn with_alarm(mut self, on_divergence: OnDivergence) -> Self {
        self.on_divergence = Some(on_divergence);
        self
    }

    /// Makes the chosen providers the process's hash, for `Digest::of`. False where one was
    /// installed before.
    pub fn install_hash(&self) -> bool {
        digest::install(self.hashes.map(|provider| provider.sha256))
    }

    /// Loads a private key from PKCS#8 DER into the provider chosen for signing.
    pub fn load(
        &self,
        algorithm: Algorithm,
        der: &[u8],
    ) -> Result<Arc<dyn SigningKey>, CryptoError> {
        (self.chosen[index(Operation::Sign(algorithm))].load)(algorithm, der)
    }

    /// Makes a private key, PKCS#8 DER.
    pub fn generate(&self, algorithm: Algorithm) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        (self.chosen[index(Operation::Sign(algorithm))].generate)(algorithm)
    }

    /// The key, parsed; cached (least recently used out). Callers with a table of identities keep
    /// the `Arc` there and skip the look-up.
    pub fn key(&self, public: &PublicKey) -> Arc<PreparedKey> {
        let keys = || self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys().get(public) {
            return key.clone();
        }
        // Parsed outside the lock: a flood of new keys must not stop those who only look up.
        let provider = self.chosen[index(Operation::Verify(public.algorithm()))];
        let key = Arc::new(PreparedKey::new(provider, public));
        keys().put(public.clone(), key.clone());
        key
    }

    /// Checks one signature.
    pub fn verify(&self, check: &Check<'_>) -> bool {
        let key = self.key(check.key);
        let checks =
            [PreparedCheck { key: &key, message: check.message, signature: check.signature }];
        self.verify_group(&checks).all_valid()
    }

    /// Checks a group in the calling thread: Ed25519 as a batch, P-256 with the tables of keys that
    /// have one, the rest one by one.
    pub fn verify_group(&self, checks: &[PreparedCheck<'_>]) -> Verdicts {
        let mut invalid = Vec::new();
        let mut ed25519 = Vec::new();
        let mut rechecked = 0;
        let ed25519_count = checks.iter().filter(|c| is_ed25519(c)).count();
        let batched = ed25519_count >= self.batching.from;
        if batched {
            ed25519.reserve_exact(ed25519_count);
        }
        let tabled = self.with_tables(checks);
        let mut places = tabled.iter().map(|tabled| tabled.place).peekable();
        for (place, check) in checks.iter().enumerate() {
            if batched && is_ed25519(check) {
                ed25519.push(place);
                continue;
            }
            if places.next_if_eq(&place).is_some() {
                continue;
            }
            let verdict = check.key.verify(check.message, check.signature);
            rechecked += u64::from(verdict.rechecked);
            if !verdict.valid {
                invalid.push(place);
            }
        }
        if batched {
            rechecked += batch::find_invalid(checks, &ed25519, &mut invalid);
        }
        rechecked += key_tables::find_invalid(&tabled, &mut invalid);
        self.tabled.fetch_add(tabled.len() as u64, Ordering::Relaxed);
        let first = |place: usize| {
            if tabled.binary_search_by_key(&place, |tabled| tabled.place).is_ok() {
                "table"
            } else if batched && is_ed25519(&checks[place]) {
                "batch"
            } else {
                self.chosen(Operation::Verify(checks[place].key.algorithm()))
            }
        };
        self.ask_second(checks, first, &mut invalid);
        self.rechecked.fetch_add(rechecked, Ordering::Relaxed);
        self.invalid.fetch_add(invalid.len() as u64, Ordering::Relaxed);
        Verdicts::new(checks.len(), invalid)
    }

    /// What every pair did in its tests and measurements.
    pub fn report(&self) -> &[Route] {
        &self.report
    }

    /// How groups of Ed25519 signatures are checked.
    pub fn batching(&self) -> Batching {
        self.batching
    }

    /// Whether P-256 keys get tables.
    pub fn tabling(&self) -> Tabling {
        self.tabling
    }

    /// What was chosen, to be kept for the next start.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// What is wrong with the providers, in words: pairs that failed their known answers, and
    /// differences between two of them.
    pub fn warnings(&self) -> Vec<String> {
        let failed = self.report.iter().filter_map(|route| {
            let answer = route.quarantined?;
            let (operation, algorithm) = (route.operation.name(), route.operation.algorithm());
            let provider = route.provider;
            Some(format!("crypto provider {provider} fails {operation} {algorithm} ({answer})"))
        });
        let divergences = self.divergences.load(Ordering::Relaxed);
        let differ = (divergences > 0).then(|| {
            format!("crypto providers disagreed on {divergences} signatures: see the log")
        });
        let tables = self.tabling.quarantined.map(|answer| {
            let provider = self.tabling.provider.unwrap_or_default();
            format!("crypto provider {provider} fails key tables P-256 ({answer})")
        });
        failed.chain(tables).chain(differ).collect()
    }

    /// The provider chosen for an operation (for texts of the middle class, where it is hashing).
    pub fn chosen(&self, operation: Operation) -> &'static str {
        self.chosen[index(operation)].name
    }

    /// Counts since the start.
    pub fn counts(&self) -> Counts {
        Counts {
            checked: self.checked.load(Ordering::Relaxed),
            invalid: self.invalid.load(Ordering::Relaxed),
            rechecked: self.rechecked.load(Ordering::Relaxed),
            tabled: self.tabled.load(Ordering::Relaxed),
            tables: self.tables.as_ref().map_or(0, |tables| tables.len() as u64),
            second_opinions: self.second_opinions.load(Ordering::Relaxed),
            divergences: self.divergences.load(Ordering::Relaxed),
        }
    }

    /// Those checks whose keys have a table, in order of place.
    fn with_tables<'a>(&self, checks: &[PreparedCheck<'a>]) -> Vec<Tabled<'a>> {
        let mut tabled = Vec::new();
        let Some(tables) = &self.tables else { return tabled };
        let mut from = 0;
        for run in checks.chunk_by(|a, b| std::ptr::eq(a.key, b.key)) {
            if let Some(table) = tables.of(run[0].key, run.len()) {
                let with = |(at, check): (usize, &PreparedCheck<'a>)| Tabled {
                    place: from + at,
                    check: *check,
                    table: table.clone(),
                };
                tabled.extend(run.iter().enumerate().map(with));
            }
            from += run.len();
        }
        tabled
    }

    /// Repeats those checks whose number since the start is a multiple of `SECOND_OPINION_EVERY`.
    /// `first` names who answered.
    fn ask_second(
        &self,
        checks: &[PreparedCheck<'_>],
        first: impl Fn(usize) -> &'static str,
        invalid: &mut Vec<usize>,
    ) {
        let before = self.checked.fetch_add(checks.len() as u64, Ordering::Relaxed);
        let mut place = (SECOND_OPINION_EVERY - 1 - before % SECOND_OPINION_EVERY) as usize;
        while place < checks.len() {
            let found = invalid.iter().position(|i| *i == place);
            match (self.second_opinion(&checks[place], first(place), found.is_none()), found) {
                (true, Some(at)) => {
                    invalid.swap_remove(at);
                }
                (false, None) => invalid.push(place),
                (true, None) | (false, Some(_)) => {}
            }
            place += SECOND_OPINION_EVERY as usize;
        }
    }

    /// Asks a second provider. Returns the verdict to use.
    fn second_opinion(
        &self,
        check: &PreparedCheck<'_>,
        first: &'static str,
        first_valid: bool,
    ) -> bool {
        let (public, algorithm) = (check.key.public(), check.key.algorithm());
        let Some(second) = self.second[algorithm as usize] else {
            return first_valid;
        };
        self.second_opinions.fetch_add(1, Ordering::Relaxed);
        let agrees = |provider: &Provider| {
            PreparedKey::new(provider, public).verify(check.message, check.signature).valid
                == first_valid
        };
        if agrees(second) {
            return first_valid;
        }
        let divergence = Divergence {
            key: public.clone(),
            message: Digest::of(&[check.message]),
            signature: *check.signature,
            first,
            second: second.name,
            first_valid,
        };
        self.divergences.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            key = %hex::encode(public.as_bytes()),
            message_sha256 = %divergence.message,
            signature = %hex::encode(divergence.signature.0),
            first,
            first_valid,
            second = second.name,
            "two crypto providers disagree on a signature: this node may fork; the portable \
             provider decided, name another provider in the configuration and restart",
        );
        if let Some(alarm) = &self.on_divergence {
            alarm(&divergence);
        }
        if agrees(&PROVIDERS[0]) { first_valid } else { !first_valid }
    }
}

impl fmt::Debug for Crypto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chosen = self.chosen.map(|p| p.name);
        f.debug_struct("Crypto").field("chosen", &chosen).field("counts", &self.counts()).finish()
    }
}

fn is_ed25519(check: &PreparedCheck<'_>) -> bool {
    check.key.algorithm() == Algorithm::Ed25519
}

fn index(operation: Operation) -> usize {
    match operation {
        Operation::Hash => 0,
        Operation::Verify(algorithm) => 1 + algorithm as usize,
        Operation::Sign(algorithm) => 3 + algorithm as usize,
    }
}

#[cfg(test)]
mod tests;
