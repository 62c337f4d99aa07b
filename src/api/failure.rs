//! What a caller hears when the answer is no: one shape for REST and gRPC.
//!
//! `CODES` is the whole list of words; each has its HTTP status, its gRPC code and the advice given
//! where the failure itself brings none. REST sends `{"error":{"code","message","hint"}}`, gRPC a
//! status with the metadata named in `proto/obelisk.proto`.

use crate::chaincode::Fault;
use crate::pipeline::refusal::Refusal;
use crate::types::receipt::Status;

/// One word of the list.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// Short stable word.
    pub word: &'static str,
    /// HTTP status.
    pub http: u16,
    /// gRPC status code.
    pub grpc: i32,
    /// What to do, where the failure itself does not say.
    pub hint: &'static str,
}

/// An answer that is no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {hint}")]
pub struct Failure {
    /// Which.
    pub code: &'static Code,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// Above 0 where a later attempt may succeed, milliseconds.
    pub retry_after_ms: u64,
}

impl Failure {
    /// A failure with the list's advice. A word that is not in the list reads as `internal`.
    pub fn new(word: &str, message: impl Into<String>) -> Self {
        let code = CODES.iter().find(|c| c.word == word).unwrap_or(&CODES[0]);
        let hint = code.hint.to_owned();
        Self { code, message: message.into(), hint, retry_after_ms: 0 }
    }

    /// The same with advice of its own.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// A field, parameter or body that cannot be read.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new("malformed", message)
    }

    /// Nothing of that name.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new("not-found", message)
    }

    /// The node failed; the text is for its operator.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new("internal", message)
    }
}

impl From<Refusal> for Failure {
    /// A refusal's text is "cause; fix".
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        let failure = match text.split_once("; ") {
            Some((cause, fix)) => Self::new(refusal.code(), cause).hint(fix),
            None => Self::new(refusal.code(), text),
        };
        match refusal {
            Refusal::Busy { retry_after_ms, .. } => {
                Self { retry_after_ms: retry_after_ms.max(1), ..failure }
            }
            _ => failure,
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let word = match fault.status {
            Status::UnknownChaincode => "unknown-chaincode",
            Status::Unauthorised => "unauthorised",
            Status::LimitExceeded => "limit-exceeded",
            Status::OutOfFuel => "out-of-fuel",
            Status::Trap => "trap",
            _ => "refused",
        };
        Self::new(word, fault.text)
    }
}

const fn code(word: &'static str, http: u16, grpc: i32, hint: &'static str) -> Code {
    Code { word, http, grpc, hint }
}

const INVALID_ARGUMENT: i32 = 3;
const DEADLINE_EXCEEDED: i32 = 4;
const NOT_FOUND: i32 = 5;
const ALREADY_EXISTS: i32 = 6;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const INTERNAL: i32 = 13;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

/// Every code. The first one stands for anything unknown.
pub const CODES: &[Code] = &[
    code("internal", 500, INTERNAL, "see the node's log; the request itself may be fine"),
    code("malformed", 400, INVALID_ARGUMENT, "see docs/api.md for the expected form"),
    code("wrong-chain", 400, INVALID_ARGUMENT, "use this network's genesis document"),
    code("unknown-creator", 400, INVALID_ARGUMENT, "send the creator's certificate along"),
    code("bad-certificate", 403, PERMISSION_DENIED, "enrol again with your organisation's CA"),
    code("bad-signature", 403, PERMISSION_DENIED, "sign with the key of the certificate"),
    code("expired", 409, FAILED_PRECONDITION, "sign it anew with a later valid_until"),
    code("too-far-ahead", 400, OUT_OF_RANGE, "sign it anew with an earlier valid_until"),
    code("duplicate", 409, ALREADY_EXISTS, "ask for its receipt, or sign with a new nonce"),
    code("unauthenticated", 401, UNAUTHENTICATED, "connect with a member's TLS certificate"),
    code("unauthorised", 403, PERMISSION_DENIED, "ask a member whose role allows it"),
    code("too-large", 413, INVALID_ARGUMENT, "send less at once"),
    code("busy", 429, RESOURCE_EXHAUSTED, "try again after the stated time"),
    code("not-found", 404, NOT_FOUND, "check the name; a newer block may not be here yet"),
    code("unknown-route", 404, UNIMPLEMENTED, "see docs/openapi.json for all routes"),
    code("unknown-method", 405, UNIMPLEMENTED, "see docs/openapi.json for the route's methods"),
    code("not-offered", 501, UNIMPLEMENTED, "see docs/api.md for what to use instead"),
    code("timed-out", 504, DEADLINE_EXCEEDED, "ask again for the receipt, or wait longer"),
    code("observer", 503, FAILED_PRECONDITION, "submit to a validator"),
    code("stopping", 503, UNAVAILABLE, "use another node"),
    code("refused", 422, FAILED_PRECONDITION, "the contract says why; change the request"),
    code("unknown-chaincode", 404, NOT_FOUND, "deploy it first, or check the spelling"),
    code("limit-exceeded", 422, RESOURCE_EXHAUSTED, "ask the contract for less at once"),
    code("out-of-fuel", 422, RESOURCE_EXHAUSTED, "ask the contract for less at once"),
    code("trap", 422, INTERNAL, "the contract has a fault; tell its author"),
    code("height-mismatch", 409, FAILED_PRECONDITION, "begin again without a height"),
    code("no-proof", 409, FAILED_PRECONDITION, "try again after the next checkpoint"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ids::Height;
    use crate::types::ids::TxId;

    /// Every refusal's code is in the list, and its answer has a message and a hint.
    #[test]
    fn every_refusal_has_a_code_a_message_and_a_hint() {
        let refusals = [
            Refusal::Malformed("x".into()),
            Refusal::UnknownCreator,
            Refusal::BadCertificate("x".into()),
            Refusal::BadSignature,
            Refusal::Expired { valid_until: Height(1), height: Height(2) },
            Refusal::TooFarAhead { valid_until: Height(9), limit: Height(5) },
            Refusal::Duplicate(TxId::default()),
            Refusal::Unauthorised("x".into()),
            Refusal::TooLarge { what: "x", found: 2, limit: 1 },
            Refusal::Busy { what: "mempool", retry_after_ms: 40 },
            Refusal::NotFound("x".into()),
            Refusal::TimedOut(5),
            Refusal::Observer,
            Refusal::Stopping,
            Refusal::Internal("x".into()),
        ];
        for refusal in refusals {
            let failure = Failure::from(refusal.clone());
            assert_eq!(failure.code.word, refusal.code());
            assert!(!failure.message.is_empty() && !failure.hint.is_empty(), "{failure:?}");
        }
    }

    /// Busy says when to come back, as text and as a number.
    #[test]
    fn busy_says_when_to_come_back() {
        let busy = Failure::from(Refusal::Busy { what: "the mempool", retry_after_ms: 40 });
        assert_eq!((busy.code.http, busy.retry_after_ms), (429, 40));
        assert_eq!(busy.to_string(), "busy: the mempool is full; retry after 40 ms");
    }

    /// Words are unique, so a client can rely on them.
    #[test]
    fn words_are_unique() {
        for (i, a) in CODES.iter().enumerate() {
            assert!(CODES[..i].iter().all(|b| b.word != a.word), "{}", a.word);
        }
    }
}
