//! Asks a membership service for certificates.
//!
//! The service is recognised by its identity under the organisation's root, which the caller must
//! have got from somewhere it trusts. What comes back is checked: certificates of that root, for
//! the name and the keys that were sent. Private keys are not sent; the one-time secret is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::Limited;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::api::ca::EnrolmentAnswer;
use crate::api::ca::EnrolmentRequest;
use crate::client::error::ClientError;
use crate::crypto;
use crate::crypto::routing::Crypto;
use crate::membership::directory::Verify;
use crate::membership::directory::identify_under;
use crate::membership::enrolment::Applicant;
use crate::membership::enrolment::Possession;
use crate::membership::enrolment::Secret;
use crate::membership::identity::Identity;
use crate::membership::identity::Purpose;
use crate::membership::identity::Root;
use crate::membership::pem;
use crate::membership::register;
use crate::network::connection;
use crate::network::connection::Traffic;
use crate::network::tls;
use crate::network::tls::Check;
use crate::network::tls::Roots;
use crate::telemetry::metrics::Metrics;
use crate::types::limits;
use crate::types::signature::PublicKey;

/// A membership service.
pub struct Authority<'a> {
    /// host:port.
    pub address: &'a str,
    /// The organisation's root.
    pub root: &'a Root,
    /// Checks signatures.
    pub crypto: Arc<Crypto>,
}

/// Certificates of a new member, DER; checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// Enrolment certificate.
    pub enrolment: Bytes,
    /// TLS certificate.
    pub tls: Bytes,
}

impl Authority<'_> {
    /// Enrols; waits and asks again where the service says so. After a lost answer the caller may
    /// do the same: the same request gets the same certificates.
    pub async fn enrol(
        &self,
        applicant: &Applicant,
        secret: &Secret,
        proof: &Possession,
    ) -> Result<Enrolled, ClientError> {
        let request = EnrolmentRequest::new(applicant, secret, proof);
        let body = serde_json::to_vec(&request).map_err(|error| self.senseless(&error))?;
        let body = Bytes::from(body);
        let mut attempt = 1;
        let answer = loop {
            let wait_ms = match self.ask(body.clone()).await {
                Ok(answer) => break answer,
                Err(ClientError::Refused { retry_after_ms, .. })
                    if retry_after_ms > 0 && attempt < limits::ENROLMENT_ATTEMPTS_MAX =>
                {
                    retry_after_ms
                }
                Err(error) => return Err(error),
            };
            attempt += 1;
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        };
        let answer: EnrolmentAnswer =
            serde_json::from_slice(&answer).map_err(|error| self.senseless(&error))?;
        Ok(Enrolled {
            enrolment: self.checked(
                &answer.enrolment,
                applicant,
                Purpose::Enrolment,
                &applicant.enrolment_key,
            )?,
            tls: self.checked(&answer.tls, applicant, Purpose::Tls, &applicant.tls_key)?,
        })
    }

    /// Sends one body to `/enrol`.
    pub async fn ask(&self, body: Bytes) -> Result<Bytes, ClientError> {
        let limit = Duration::from_millis(limits::REQUEST_MS_MAX);
        match tokio::time::timeout(limit, self.converse(body)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable(&format!("nothing within {} s", limit.as_secs()))),
        }
    }

    async fn converse(&self, body: Bytes) -> Result<Bytes, ClientError> {
        let roots = Roots::new([&self.root.der])?;
        let config = tls::client_config(None, &roots, self.is_the_service(), &["http/1.1"])?;
        let (traffic, metrics) = (Arc::new(Traffic::default()), Arc::new(Metrics::new()));
        let connection = connection::dial(self.address, config, traffic, metrics).await;
        let connection = connection.map_err(|error| self.unreachable(&error))?;
        let (mut sender, talk) = http1::handshake(TokioIo::new(connection))
            .await
            .map_err(|error| self.unreachable(&error))?;
        let talk = tokio::spawn(talk);
        let request = http::Request::post("/enrol")
            .header(http::header::HOST, self.address)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.senseless(&error))?;
        let answer = sender.send_request(request).await.map_err(|e| self.unreachable(&e))?;
        let status = answer.status();
        let limited = Limited::new(answer.into_body(), limits::ENROLMENT_ANSWER_BYTES_MAX);
        let read = limited.collect().await;
        talk.abort();
        let bytes = match read {
            Ok(collected) => collected.to_bytes(),
            Err(error) => return Err(self.unreachable(&error)),
        };
        if status.is_success() { Ok(bytes) } else { Err(self.refusal(&bytes)) }
    }

    /// Recognises the service in the handshake; its chain to the root is proven there.
    fn is_the_service(&self) -> Check {
        let (root, verify) = (self.root.clone(), self.verify());
        Arc::new(move |der| {
            let identity = identify_under(&root, &Bytes::copy_from_slice(der), &verify)
                .map_err(|error| error.to_string())?;
            identity.check_purpose(Purpose::Tls).map_err(|error| error.to_string())?;
            match (identity.role, identity.name.as_str()) == register::SERVICE {
                true => Ok(()),
                false => Err(format!("{identity} is no membership service")),
            }
        })
    }

    /// The certificate, where it is what was asked for.
    fn checked(
        &self,
        text: &str,
        applicant: &Applicant,
        purpose: Purpose,
        key: &PublicKey,
    ) -> Result<Bytes, ClientError> {
        let der = pem::decode(pem::CERTIFICATE, text).map_err(|error| self.senseless(&error))?;
        let der = Bytes::copy_from_slice(&der);
        let identity: Identity = identify_under(self.root, &der, &self.verify())
            .map_err(|error| self.senseless(&error))?;
        let asked = (applicant.role, &applicant.name, purpose, key);
        match (identity.role, &identity.name, identity.purpose, &identity.key) == asked {
            true => Ok(der),
            false => Err(self.senseless(&"a certificate for another member, use or key")),
        }
    }

    fn verify(&self) -> Verify {
        let checker = Arc::clone(&self.crypto);
        Arc::new(move |check: &crypto::Check<'_>| checker.verify(check))
    }

    fn refusal(&self, bytes: &[u8]) -> ClientError {
        let body: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
        let error = &body["error"];
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        if text("code").is_empty() {
            return self.senseless(&"a failure without a code");
        }
        let retry_after_ms = match text("code").as_str() {
            "busy" => limits::ENROLMENT_PAUSE_MS,
            _ => 0,
        };
        ClientError::Refused {
            code: text("code"),
            message: text("message"),
            hint: text("hint"),
            retry_after_ms,
        }
    }

    fn unreachable(&self, error: &dyn std::fmt::Display) -> ClientError {
        ClientError::Unreachable { address: self.address.to_owned(), reason: error.to_string() }
    }

    fn senseless(&self, what: &dyn std::fmt::Display) -> ClientError {
        ClientError::Answer { address: self.address.to_owned(), what: what.to_string() }
    }
}
