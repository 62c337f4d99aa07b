//! Why a certificate is not accepted.

/// One refusal. Cheap to clone: refusals are cached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Larger than any certificate of a network.
    #[error(
        "the certificate has {found} bytes, the limit is {limit}; use fewer attributes or names"
    )]
    Oversize { found: usize, limit: usize },
    /// Not an X.509 certificate in its one encoding.
    #[error(
        "not an X.509 version 3 certificate in DER: {reason}; let `obelisk ca` issue it, and send \
         the DER bytes, not PEM"
    )]
    Malformed { reason: &'static str },
    /// A public key this network does not use.
    #[error("the certificate's key is not usable: {reason}; make a P-256 or an Ed25519 key")]
    Key { reason: &'static str },
    /// An extension that is missing, repeated, or says the wrong thing.
    #[error("the certificate's {extension} is wrong: {reason}; let `obelisk ca` issue it again")]
    Extension { extension: &'static str, reason: &'static str },
    /// The subject alternative name is no identity.
    #[error(
        "the certificate names no identity: {reason}; the subject alternative name must hold \
         exactly one URI obelisk://<organisation>/<role>/<name>, each part of 1 to 64 characters \
         a-z, 0-9, '-' and '.'"
    )]
    Name { reason: &'static str },
    /// The attributes extension is malformed.
    #[error(
        "the certificate's attributes are wrong: {reason}; issue it again with other attributes"
    )]
    Attributes { reason: &'static str },
    /// The organisation is not in the genesis document.
    #[error(
        "organisation {organisation:?} is no member of this network; check that the certificate \
         and the genesis document belong together"
    )]
    UnknownOrganisation { organisation: String },
    /// Issued by somebody else than the organisation it names.
    #[error(
        "the certificate says organisation {organisation:?}, but {reason}; only the root of that \
         organisation in the genesis document may issue it"
    )]
    Issuer { organisation: String, reason: &'static str },
    /// Signed with the other of two possible values of s: the same certificate has one id only in
    /// its low form.
    #[error(
        "the certificate's ECDSA signature has a high s, and it is known by its form with low s; \
         take that form from `obelisk member show --pem` and name its id"
    )]
    HighS,
    /// Outside its validity.
    #[error(
        "the certificate of {subject} is {state} (time {now_ms} ms, valid from {not_before_ms} to \
         {not_after_ms} ms since 1970); renew it with `obelisk ca`, or correct the clock"
    )]
    Expired {
        subject: String,
        state: &'static str,
        now_ms: u64,
        not_before_ms: u64,
        not_after_ms: u64,
    },
    /// Its organisation has taken it back.
    #[error("the certificate of {subject} is revoked; issue a new one with `obelisk member issue`")]
    Revoked { subject: String },
    /// Good, but not for this use.
    #[error(
        "{subject} presented {found} where {wanted} is needed; use the other certificate of the \
         folder"
    )]
    Purpose { subject: String, found: &'static str, wanted: &'static str },
    /// An organisation's root in the genesis document is not usable.
    #[error(
        "the root certificate of organisation {organisation:?} in the genesis document is not \
         usable"
    )]
    Root { organisation: String, source: Box<MembershipError> },
    /// The genesis document lists organisations or roots twice.
    #[error("the genesis document lists {what} twice; make the document again")]
    Duplicate { what: String },
}
