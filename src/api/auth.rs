//! Who asks: the identity of the TLS client certificate, or nobody.
//!
//! There are no sessions, tokens or passwords: the handshake has proven the key, and the directory
//! says on every request whether the certificate still counts; when one is revoked, its connections
//! are cut besides (`listen`), so that streams end too. Names inside a request never make an identity.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::host::clock::now_ms;
use crate::membership::directory::Directory;
use crate::membership::identity::Identity;
use crate::types::limits;

/// Who asks.
#[derive(Clone, Debug)]
pub enum Caller {
    /// No certificate was shown.
    Anonymous,
    /// A member.
    Member(Arc<Identity>),
}

/// The certificate a connection was made with; kept with the connection.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// Leaf certificate, DER; its chain was checked in the handshake.
    pub certificate: Option<Bytes>,
    /// Where it comes from, where that is known.
    pub address: Option<SocketAddr>,
}

impl Connection {
    /// Who is behind the connection now. The error says why a shown certificate no longer counts.
    pub fn caller(&self, directory: &Directory) -> Result<Caller, String> {
        let Some(der) = &self.certificate else { return Ok(Caller::Anonymous) };
        if der.len() > limits::CERTIFICATE_BYTES_MAX {
            return Err(format!(
                "a certificate has at most {} bytes",
                limits::CERTIFICATE_BYTES_MAX
            ));
        }
        let member = directory.identify_shown(der).map_err(|error| error.to_string())?;
        directory.check_standing(&member, now_ms()).map_err(|error| error.to_string())?;
        Ok(Caller::Member(member))
    }
}

impl Caller {
    /// Role in words, for answers.
    pub fn role_name(&self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Member(member) => member.role.name(),
        }
    }
}
