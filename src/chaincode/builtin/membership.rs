//! `membership`: certificates that an organisation has revoked.
//!
//! ```text
//! key    "revoked/" organisation "/" certificate id as 64 hex digits
//! value  "obelisk.revoked.1" | reason string | height u64 | block time u64 ms
//!        | admin's certificate 32
//! ```
//!
//! `revoke(certificate, reason)` by an admin counts for certificates of the admin's own
//! organisation only: the organisation is part of the key, so writing another's certificate id has
//! no effect on it. Execution asks `is_revoked` for the creator of each transaction, so a
//! revocation holds from the next transaction on, at the same point on every validator. A
//! revocation is final: a holder gets a new certificate.

use bytes::Bytes;

use crate::chaincode::Call;
use crate::chaincode::Fault;
use crate::chaincode::builtin;
use crate::chaincode::builtin::Builtin;
use crate::chaincode::builtin::Services;
use crate::chaincode::contracts::Contracts;
use crate::chaincode::contracts::ReadState;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::CertificateId;
use crate::types::ids::Height;
use crate::types::limits;

/// The contract's name.
pub const NAME: &str = "membership";

const TAG: &[u8] = b"obelisk.revoked.1";

/// A revocation, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Why.
    pub reason: String,
    /// Block that holds it.
    pub height: Height,
    /// Time of that block, milliseconds since 1970.
    pub block_time_ms: u64,
    /// The admin who asked for it.
    pub by: CertificateId,
}

/// The contract.
pub struct Membership;

impl Builtin for Membership {
    fn name(&self) -> &'static str {
        NAME
    }

    fn functions(&self) -> &'static [&'static str] {
        &["revoke(certificate, reason)", "status(certificate)", "status(certificate, organisation)"]
    }

    fn run(&self, _: &Contracts, call: &Call, services: &mut Services<'_>) -> Result<Bytes, Fault> {
        match call.function.as_str() {
            "revoke" => revoke(call, services),
            "status" => status(call, services),
            _ => Err(builtin::unknown_function(self, call)),
        }
    }
}

/// True where `organisation` revoked the certificate `id` of one of its own members.
pub fn is_revoked(
    read: &mut ReadState<'_>,
    organisation: &str,
    id: &CertificateId,
) -> Result<bool, Fault> {
    Ok(read(NAME, &key(organisation, id))?.is_some())
}

/// Where a revocation is recorded within the namespace `membership`.
pub fn key(organisation: &str, id: &CertificateId) -> Vec<u8> {
    format!("revoked/{organisation}/{id}").into_bytes()
}

/// The organisation and the certificate of a key of this namespace; none where it is another kind.
pub fn revoked(key: &[u8]) -> Option<(&str, CertificateId)> {
    let key = std::str::from_utf8(key).ok()?;
    let (organisation, id) = key.strip_prefix("revoked/")?.split_once('/')?;
    Some((organisation, CertificateId(id.parse().ok()?)))
}

fn revoke(call: &Call, services: &mut Services<'_>) -> Result<Bytes, Fault> {
    builtin::require_admin(call)?;
    builtin::require_args(call, 2, "revoke(certificate, reason)")?;
    let id = certificate(call)?;
    let reason = builtin::text(call, 1, "reason")?;
    if id == call.caller.certificate {
        return Err(builtin::refused(
            "an admin cannot revoke the certificate that signs the request; use another admin's",
        ));
    }
    let at = key(&call.caller.organisation, &id);
    if services.get(&at)?.is_some() {
        return Err(builtin::refused("this certificate is revoked already"));
    }
    let revocation = Revocation {
        reason: reason.to_owned(),
        height: call.height,
        block_time_ms: call.block_time_ms,
        by: call.caller.certificate,
    };
    services.put(&at, &revocation.to_bytes())?;
    let shown = shown(&call.caller.organisation, &id, Some(&revocation));
    services.emit("revoked", &shown)?;
    Ok(shown)
}

fn status(call: &Call, services: &mut Services<'_>) -> Result<Bytes, Fault> {
    let organisation = match call.args.len() {
        1 => call.caller.organisation.as_str(),
        2 => builtin::text(call, 1, "organisation")?,
        count => {
            let form = "status(certificate) or status(certificate, organisation)";
            return Err(builtin::refused(format!("expected {form}, got {count} arguments")));
        }
    };
    let id = certificate(call)?;
    let revocation = services
        .get(&key(organisation, &id))?
        .map(|bytes| Revocation::from_bytes(&bytes))
        .transpose()
        .map_err(|error| builtin::damaged("revocation", &error))?;
    Ok(shown(organisation, &id, revocation.as_ref()))
}

fn certificate(call: &Call) -> Result<CertificateId, Fault> {
    let digest: Digest = builtin::text(call, 0, "certificate id")?
        .parse()
        .map_err(|error| builtin::refused(format!("certificate id: {error}")))?;
    Ok(CertificateId(digest))
}

fn shown(organisation: &str, id: &CertificateId, revocation: Option<&Revocation>) -> Bytes {
    let mut shown = serde_json::json!({
        "certificate": id.to_string(),
        "organisation": organisation,
        "revoked": revocation.is_some(),
    });
    if let Some(revocation) = revocation {
        shown["reason"] = revocation.reason.as_str().into();
        shown["height"] = revocation.height.0.into();
        shown["block_time_ms"] = revocation.block_time_ms.into();
        shown["by"] = revocation.by.to_string().into();
    }
    Bytes::from(shown.to_string())
}

impl Encode for Revocation {
    fn encode(&self, w: &mut Writer) {
        w.raw(TAG);
        w.string(&self.reason);
        self.height.encode(w);
        w.u64(self.block_time_ms);
        self.by.encode(w);
    }
}

impl Decode for Revocation {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if r.raw("revocation tag", TAG.len())? != TAG {
            return Err(DecodeError::Invalid { field: "revocation", reason: "unknown version" });
        }
        Ok(Self {
            reason: r.string("reason", limits::NAME_BYTES_MAX)?,
            height: Height::decode(r)?,
            block_time_ms: r.u64("block time")?,
            by: CertificateId::decode(r)?,
        })
    }
}
