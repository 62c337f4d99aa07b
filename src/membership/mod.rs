//! Floor 2: who the members are, and how a certificate proves it.
//!
//! ```text
//! authority    makes organisation roots, enrolment and TLS certificates
//! certificate  X.509 bytes -> structure, strictly; one encoding per certificate
//! identity     structure -> Identity {organisation, role, name, attributes, purpose, key}
//! directory    certificate -> Identity, where a root of the genesis document signed it
//! msp          the folder that holds one identity: certificate, key, roots, TLS
//! consortium   all folders of a new network, and its genesis document
//! founding     a genesis document from the roots of organisations that have their own
//! enrolment    what somebody sends to become a member, and the one-time secret
//! register     who may enrol and who did: the membership service's durable record
//! ```
//!
//! An identity is the URI `obelisk://<organisation>/<role>/<name>` in the subject alternative name;
//! the common name is decoration and never read. Whether a certificate is acceptable depends on its
//! bytes and the genesis document alone, never on a clock, so all validators agree; validity in
//! time is asked of the `Identity` with block time or clock time.
//!
//! Failure: every refusal is a `MembershipError` that names cause and fix; bytes from outside never
//! panic.

pub mod authority;
pub mod certificate;
pub mod consortium;
mod der;
pub mod directory;
pub mod enrolment;
pub mod error;
pub mod founding;
pub mod identity;
pub mod msp;
pub mod pem;
pub mod register;

#[cfg(test)]
mod tests;
