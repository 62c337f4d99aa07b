//! The membership service over HTTPS: enrols who was registered, and nothing else.
//!
//! ```text
//! POST /enrol   EnrolmentRequest (JSON) -> EnrolmentAnswer: two certificates and the root, PEM
//! GET  /root    the organisation's root, PEM
//!
//! connection -> body within limit -> keys proven -> pace of the name -> register (own thread) -> JSON
//! ```
//!
//! Callers have no certificate yet: what they have is the one-time secret, which TLS carries to
//! the service alone. The same request gets the same answer for ever, so that an answer that was
//! lost is asked for again. Failures have the shape and the words of `failure`.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::get;
use axum::routing::post;
use bytes::Bytes;
use lru::LruCache;
use serde::Deserialize;
use serde::Serialize;
use tokio::sync::Semaphore;
use zeroize::Zeroize;

use crate::api::auth::Connection;
use crate::api::failure::Failure;
use crate::api::rest;
use crate::api::rest::route::Reply;
use crate::crypto::routing::Crypto;
use crate::host::clock::now_ms;
use crate::membership::authority::Authority;
use crate::membership::enrolment::Applicant;
use crate::membership::enrolment::Possession;
use crate::membership::enrolment::Secret;
use crate::membership::identity;
use crate::membership::identity::Role;
use crate::membership::pem;
use crate::membership::register::Register;
use crate::membership::register::RegisterError;
use crate::types::codec::Decode;
use crate::types::codec::Encode;
use crate::types::limits;

/// What an applicant sends. Keys and signatures are hexadecimal, in the encoding of `types`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentRequest {
    /// Role that was registered.
    pub role: String,
    /// Name that was registered.
    pub name: String,
    /// The one-time secret.
    pub secret: String,
    /// Public key of the enrolment certificate.
    pub enrolment_key: String,
    /// Public key of the TLS certificate.
    pub tls_key: String,
    /// The enrolment key's signature (`membership::enrolment`).
    pub enrolment_signature: String,
    /// The TLS key's signature.
    pub tls_signature: String,
}

/// What an applicant gets; PEM.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentAnswer {
    /// Enrolment certificate.
    pub enrolment: String,
    /// TLS certificate.
    pub tls: String,
    /// The organisation's root.
    pub root: String,
}

/// The service; clones share it.
#[derive(Clone)]
pub struct MembershipService(Arc<Shared>);

struct Shared {
    authority: Arc<Authority>,
    register: Mutex<Register>,
    crypto: Arc<Crypto>,
    /// When a name was asked for last.
    paced: Mutex<LruCache<(Role, String), Instant>>,
    slots: Arc<Semaphore>,
}

impl EnrolmentRequest {
    /// The request of an applicant.
    pub fn new(applicant: &Applicant, secret: &Secret, proof: &Possession) -> Self {
        Self {
            role: applicant.role.name().to_owned(),
            name: applicant.name.clone(),
            secret: secret.shown().to_string(),
            enrolment_key: hex::encode(applicant.enrolment_key.to_bytes()),
            tls_key: hex::encode(applicant.tls_key.to_bytes()),
            enrolment_signature: hex::encode(proof.enrolment.to_bytes()),
            tls_signature: hex::encode(proof.tls.to_bytes()),
        }
    }

    /// Reads a body as the service does; `organisation` is the service's own.
    pub fn from_body(
        body: &[u8],
        organisation: &str,
    ) -> Result<(Applicant, Secret, Possession), Failure> {
        let request: Self = serde_json::from_slice(body)
            .map_err(|error| Failure::malformed(format!("the request: {error}")))?;
        request.read(organisation)
    }

    fn read(&self, organisation: &str) -> Result<(Applicant, Secret, Possession), Failure> {
        let role = Role::from_name(&self.role)
            .ok_or_else(|| Failure::malformed("role: not a role of members"))?;
        if !identity::is_name(&self.name) {
            return Err(Failure::malformed("name: not 1 to 64 of a-z, 0-9, '-' and '.'"));
        }
        let secret = Secret::read(&self.secret)
            .ok_or_else(|| Failure::malformed("secret: not 32 hexadecimal digits"))?;
        let applicant = Applicant {
            organisation: organisation.to_owned(),
            role,
            name: self.name.clone(),
            enrolment_key: decoded("enrolment_key", &self.enrolment_key)?,
            tls_key: decoded("tls_key", &self.tls_key)?,
        };
        let proof = Possession {
            enrolment: decoded("enrolment_signature", &self.enrolment_signature)?,
            tls: decoded("tls_signature", &self.tls_signature)?,
        };
        Ok((applicant, secret, proof))
    }
}

impl Drop for EnrolmentRequest {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl MembershipService {
    /// Serves an authority and its register.
    pub fn new(authority: Arc<Authority>, register: Register, crypto: Arc<Crypto>) -> Self {
        let names = NonZeroUsize::new(limits::ENROLMENT_NAMES_PACED_MAX).expect("above zero");
        Self(Arc::new(Shared {
            authority,
            register: Mutex::new(register),
            crypto,
            paced: Mutex::new(LruCache::new(names)),
            slots: Arc::new(Semaphore::new(limits::ENROLMENTS_MAX)),
        }))
    }

    /// Its routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/enrol", post(enrol))
            .route("/root", get(root))
            .fallback(|| async { rest::respond(Err(unknown("unknown-route"))) })
            .method_not_allowed_fallback(|| async { rest::respond(Err(unknown("unknown-method"))) })
            .with_state(self)
    }

    async fn answer(&self, request: axum::extract::Request) -> Result<Reply, Failure> {
        let caller = request.extensions().get::<Connection>().and_then(|c| c.address);
        let from = caller.map_or_else(String::new, |address| address.ip().to_string());
        let body = rest::body(request.into_body(), limits::ENROLMENT_BODY_BYTES_MAX).await?;
        let organisation = &self.0.authority.root().organisation;
        let (applicant, secret, proof) = EnrolmentRequest::from_body(&body, organisation)?;
        self.pace(&applicant)?;
        let Ok(slot) = Arc::clone(&self.0.slots).try_acquire_owned() else {
            return Err(busy("the membership service is busy"));
        };
        let shared = Arc::clone(&self.0);
        let work = move || {
            let _slot = slot;
            shared.enrol(&applicant, &secret, &proof, &from)
        };
        let done = tokio::task::spawn_blocking(work).await;
        Reply::json(&done.map_err(|error| Failure::internal(error.to_string()))??)
    }

    /// Refuses a name that was asked for a moment ago.
    fn pace(&self, applicant: &Applicant) -> Result<(), Failure> {
        let now = Instant::now();
        let mut paced = self.0.paced.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (applicant.role, applicant.name.clone());
        let pause = Duration::from_millis(limits::ENROLMENT_PAUSE_MS);
        // A request that is refused here does not put the next one off.
        if paced.get(&name).is_some_and(|before| now.duration_since(*before) < pause) {
            return Err(busy("this name was asked for a moment ago"));
        }
        paced.put(name, now);
        Ok(())
    }
}

impl Shared {
    fn enrol(
        &self,
        applicant: &Applicant,
        secret: &Secret,
        proof: &Possession,
        from: &str,
    ) -> Result<EnrolmentAnswer, Failure> {
        if !applicant.has_both_keys(proof, &self.crypto) {
            let text = "the request is not signed by both of its keys, or they are one key";
            return Err(Failure::new("bad-signature", text).hint("make two keys, sign with both"));
        }
        // A panic elsewhere aborts the process; a poisoned lock cannot be met.
        let mut register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        let issued = register.enrol(applicant, secret, &self.authority, from, now_ms());
        let issued = issued.map_err(|error| {
            let (role, name) = (applicant.role.name(), &applicant.name);
            tracing::warn!(role, name, from, %error, "enrolment refused");
            Failure::from(error)
        })?;
        let (role, name) = (applicant.role.name(), &applicant.name);
        tracing::info!(role, name, from, "enrolled");
        let text = |der: &Bytes| pem::encode(pem::CERTIFICATE, der).to_string();
        Ok(EnrolmentAnswer {
            enrolment: text(&issued.enrolment),
            tls: text(&issued.tls),
            root: text(&self.authority.root().der),
        })
    }
}

impl From<RegisterError> for Failure {
    /// A register's own troubles are for its operator: callers learn that there are some.
    fn from(error: RegisterError) -> Self {
        let word = match error {
            RegisterError::Unknown => "unauthenticated",
            RegisterError::Locked => "unauthorised",
            RegisterError::Expired => "expired",
            RegisterError::Used => "duplicate",
            _ => {
                tracing::error!(?error, "the register or the authority failed");
                return Self::internal("the membership service cannot issue certificates now");
            }
        };
        let text = error.to_string();
        match text.split_once("; ") {
            Some((cause, fix)) => Self::new(word, cause).hint(fix),
            None => Self::new(word, text),
        }
    }
}

async fn enrol(
    State(service): State<MembershipService>,
    request: axum::extract::Request,
) -> http::Response<Body> {
    rest::respond(service.answer(request).await)
}

async fn root(State(service): State<MembershipService>) -> http::Response<Body> {
    let root = pem::encode(pem::CERTIFICATE, &service.0.authority.root().der).to_string();
    let (media, body) = ("application/x-pem-file", root.into());
    rest::respond(Ok(Reply { status: 200, media, body, retry_after_s: 0 }))
}

fn decoded<T: Decode>(field: &str, text: &str) -> Result<T, Failure> {
    let bytes = hex::decode(text)
        .map_err(|error| Failure::malformed(format!("{field}: not hexadecimal: {error}")))?;
    T::from_bytes(&bytes.into()).map_err(|error| Failure::malformed(format!("{field}: {error}")))
}

fn busy(text: &str) -> Failure {
    Failure { retry_after_ms: limits::ENROLMENT_PAUSE_MS, ..Failure::new("busy", text) }
}

fn unknown(word: &str) -> Failure {
    Failure::new(word, "the membership service knows POST /enrol and GET /root")
        .hint("see docs/membership.md")
}
