//! Where a figure was taken and with which program: what a reader needs to judge it later.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::cli::bench::measure;
use crate::cli::host::processor_of_libcrypto;
use crate::crypto::PROVIDERS;
use crate::crypto::routing::Crypto;
use crate::crypto::routing::Routing;
use crate::host::detect;
use crate::host::devices;
use crate::host::emulation;
use crate::host::tree::Tree;

/// A machine, as far as figures depend on it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Machine {
    /// `x86_64`, `s390x`, `ppc64le` or `other`.
    pub architecture: String,
    /// `big` or `little`.
    pub byte_order: String,
    /// Name of the processor.
    pub processor: String,
    /// Hardware threads online.
    pub threads: usize,
    /// Cores.
    pub cores: usize,
    /// Hardware threads of one core (SMT).
    pub threads_per_core: usize,
    /// Threads that this process may use.
    pub threads_usable: usize,
    /// NUMA nodes.
    pub numa_nodes: usize,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Memory that this process may use, bytes.
    pub memory_usable_bytes: u64,
    /// Memory page, bytes.
    pub page_bytes: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Hypervisor or partitioning; `None` on bare metal.
    pub hypervisor: Option<String>,
    /// Container engine.
    pub container: Option<String>,
    /// What plays the processor; `None` where it is real.
    pub emulated_by: Option<String>,
    /// Crypto instructions, by the kernel's names.
    pub crypto_features: Vec<String>,
    /// Functions of IBM Z's crypto instructions, as libcrypto reports them; empty elsewhere.
    pub cpacf: Vec<String>,
    /// Providers of the build, with versions where the library tells one.
    pub providers: Vec<String>,
    /// Which provider does what under `auto`.
    pub routes: Vec<String>,
    /// Appending 4 KiB to a file and syncing it, median, milliseconds; `None` where no disk was
    /// measured.
    pub sync_ms: Option<f64>,
}

/// How the program was built.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Build {
    /// Version of Obelisk.
    pub version: String,
    /// Cargo's profile.
    pub profile: String,
    /// Optimisation level of this package; its dependencies always have 3 in a release.
    pub opt_level: String,
    /// Features that change what is measured.
    pub features: Vec<String>,
}

impl Machine {
    /// This machine, with the disk under `folder`.
    pub fn this(folder: Option<&Path>) -> Self {
        let tree = Tree::machine();
        let told = processor_of_libcrypto(&tree);
        let host = detect::detect(told.as_deref());
        let place = devices::place(&tree);
        let cpacf = told.as_deref().and_then(crate::host::cpacf::Cpacf::parse);
        let names = |names: Vec<&'static str>| names.into_iter().map(str::to_owned).collect();
        Self {
            architecture: host.architecture.name().to_owned(),
            byte_order: if cfg!(target_endian = "big") { "big" } else { "little" }.to_owned(),
            processor: host.processor,
            threads: host.threads,
            cores: host.cores,
            threads_per_core: host.threads / host.cores.max(1),
            threads_usable: host.threads_usable,
            numa_nodes: host.numa_nodes,
            memory_bytes: host.memory_bytes,
            memory_usable_bytes: host.memory_usable_bytes,
            page_bytes: host.page_bytes,
            kernel: tree.text("proc/sys/kernel/osrelease"),
            hypervisor: place.hypervisor,
            container: place.container,
            emulated_by: emulation::emulated_by(&tree),
            crypto_features: names(host.crypto.names),
            cpacf: names(cpacf.map(|cpacf| cpacf.names()).unwrap_or_default()),
            providers: providers(),
            routes: routes(),
            sync_ms: folder.map(measure::sync_ms).filter(|ms| *ms > 0.0),
        }
    }

    /// One line for people.
    pub fn described(&self) -> String {
        let place = match (&self.emulated_by, &self.hypervisor) {
            (Some(by), _) => by.clone(),
            (None, Some(hypervisor)) => format!("under {hypervisor}"),
            (None, None) => "bare metal".to_owned(),
        };
        let sync = self.sync_ms.map(|ms| format!(", one sync {ms:.2} ms")).unwrap_or_default();
        format!(
            "{} ({}), {} cores with {} threads, {} NUMA nodes, {} MiB, {place}, Linux {}{sync}",
            self.processor,
            self.architecture,
            self.cores,
            self.threads,
            self.numa_nodes,
            self.memory_usable_bytes >> 20,
            self.kernel,
        )
    }
}

impl Build {
    /// This program.
    pub fn this() -> Self {
        let features = [
            ("aws-lc", cfg!(feature = "aws-lc")),
            ("hwloc", cfg!(feature = "hwloc")),
            ("openssl", cfg!(feature = "openssl")),
            ("pkcs11", cfg!(feature = "pkcs11")),
            ("ring", cfg!(feature = "ring")),
            ("rocksdb", cfg!(feature = "rocksdb")),
            ("wasm", cfg!(feature = "wasm")),
        ];
        let features = features.into_iter().filter(|(_, on)| *on);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            profile: env!("OBELISK_PROFILE").to_owned(),
            opt_level: env!("OBELISK_OPT_LEVEL").to_owned(),
            features: features.map(|(name, _)| name.to_owned()).collect(),
        }
    }

    /// True for the optimisation that releases have.
    pub fn is_optimised(&self) -> bool {
        self.opt_level == "3"
    }

    /// One line for people.
    pub fn described(&self) -> String {
        format!(
            "obelisk {}, {}, opt-level {}, {}",
            self.version,
            self.profile,
            self.opt_level,
            self.features.join(" ")
        )
    }
}

/// Rust libraries are pinned in `Cargo.lock`; OpenSSL is the system's.
fn providers() -> Vec<String> {
    let version = |name: &str| -> Option<String> {
        match name {
            #[cfg(feature = "openssl")]
            "openssl" => Some(openssl::version::version().to_owned()),
            _ => None,
        }
    };
    let described = PROVIDERS.iter().map(|provider| match version(provider.name) {
        Some(version) => format!("{} ({version})", provider.name),
        None => provider.name.to_owned(),
    });
    described.collect()
}

fn routes() -> Vec<String> {
    let Ok(crypto) = Crypto::new(&Routing::default()) else { return Vec::new() };
    let chosen = crypto.report().iter().filter(|route| route.chosen).map(|route| {
        let operation = route.operation;
        format!("{} {}: {}", operation.name(), operation.algorithm(), route.provider)
    });
    chosen.collect()
}
