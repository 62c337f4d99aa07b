//! Which library TLS runs on: handshake, AES-GCM of every record, checks of chains.
//!
//! | row | feature | `auto` on | why |
//! | --- | --- | --- | --- |
//! | aws-lc | `grpc` | x86-64, arm64 | assembly for all it does there |
//! | openssl | `openssl` | s390x, ppc64le | CPACF and in-core AES-GCM, which aws-lc lacks or has in part |
//!
//! The choice is a value that assembly hands to listeners and diallers; the process has no default.
//! Peers with different rows speak with each other: suites and groups are standard ones.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;

use crate::crypto::choice::PREFERENCE;
use crate::crypto::routing::AUTO;
use crate::network::tls::TlsError;

/// A row: the name in the configuration, and rustls's view of the library.
type Row = (&'static str, fn() -> CryptoProvider);

/// The libraries of this build.
pub const TLS_PROVIDERS: &[Row] = &[
    ("aws-lc", aws_lc_rs::default_provider),
    #[cfg(feature = "openssl")]
    ("openssl", rustls_openssl::default_provider),
];

/// One of them, in use.
#[derive(Clone)]
pub struct TlsProvider {
    name: &'static str,
    rustls: Arc<CryptoProvider>,
}

impl TlsProvider {
    /// By name, or `auto`.
    pub fn named(name: &str) -> Result<Self, TlsError> {
        if name == AUTO {
            return Ok(Self::auto());
        }
        let row = TLS_PROVIDERS.iter().find(|(row, _)| *row == name);
        let known = || TLS_PROVIDERS.iter().map(|(row, _)| *row).collect::<Vec<_>>().join(", ");
        row.map(Self::of)
            .ok_or_else(|| TlsError::Provider { name: name.to_owned(), known: known() })
    }

    /// The row that stands first in the order of preference of all crypto on this architecture:
    /// `crypto::choice` gives its reason.
    pub fn auto() -> Self {
        let row = |name: &&str| TLS_PROVIDERS.iter().find(|(row, _)| row == name);
        Self::of(PREFERENCE.iter().find_map(row).unwrap_or(&TLS_PROVIDERS[0]))
    }

    /// Every one of this build.
    pub fn all() -> impl Iterator<Item = Self> {
        TLS_PROVIDERS.iter().map(Self::of)
    }

    /// Name in configuration and output.
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn rustls(&self) -> Arc<CryptoProvider> {
        self.rustls.clone()
    }

    fn of(row: &Row) -> Self {
        Self { name: row.0, rustls: Arc::new(row.1()) }
    }
}

impl fmt::Debug for TlsProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsProvider({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Aim: every row can be named, `auto` is the preferred row of the build, and another name is
    /// refused with those that are known.
    #[test]
    fn rows_are_chosen_by_name() {
        for (name, _) in TLS_PROVIDERS {
            assert_eq!(TlsProvider::named(name).unwrap().name(), *name);
        }
        let wanted = match cfg!(any(target_arch = "s390x", target_arch = "powerpc64")) {
            true if cfg!(feature = "openssl") => "openssl",
            _ => "aws-lc",
        };
        assert_eq!(TlsProvider::named("auto").unwrap().name(), wanted);
        let refused = TlsProvider::named("opensssl").unwrap_err().to_string();
        assert!(refused.contains("opensssl") && refused.contains("aws-lc"), "{refused}");
    }

    /// Aim: every row offers AES-GCM in TLS 1.3 and a group that all others offer as well.
    #[test]
    fn rows_can_speak_with_each_other() {
        for provider in TlsProvider::all() {
            let suites = provider.rustls().cipher_suites.clone();
            let offers = |wanted| suites.iter().any(|suite| suite.suite() == wanted);
            assert!(offers(rustls::CipherSuite::TLS13_AES_256_GCM_SHA384), "{provider:?}");
            assert!(offers(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256), "{provider:?}");
            let groups = provider.rustls().kx_groups.clone();
            assert!(groups.iter().any(|g| g.name() == rustls::NamedGroup::X25519), "{provider:?}");
        }
    }
}
