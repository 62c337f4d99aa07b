//! What to ask of a contract, and how it becomes a signed transaction.
//!
//! The payload is built here, encoded once, and those exact bytes are signed and sent. A fresh
//! random nonce makes equal requests distinct; to send one again, send the same `Transaction`: the
//! network executes an id at most once.

use bytes::Bytes;

use crate::client::identity::ClientIdentity;
use crate::crypto::CryptoError;
use crate::host::clock::now_ms;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::ids::ChainId;
use crate::types::ids::Height;
use crate::types::limits;
use crate::types::transaction::Payload;
use crate::types::transaction::Transaction;

/// Why an invocation could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// A name, the number of arguments or the size is outside the protocol's limits.
    #[error("the transaction would be refused by every node; shorten it")]
    Limits(#[source] DecodeError),
    /// The key failed.
    #[error("the identity's key cannot sign; check the token or key file")]
    Key(#[source] CryptoError),
    /// No random bytes from the operating system.
    #[error("no random nonce from the operating system: {0}")]
    Nonce(getrandom::Error),
}

/// One call of one contract, not yet signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    chaincode: String,
    function: String,
    args: Vec<Bytes>,
    validity_blocks: u64,
}

impl Invocation {
    /// Calls `function` of the contract `chaincode`.
    pub fn new(chaincode: impl Into<String>, function: impl Into<String>) -> Self {
        Self {
            chaincode: chaincode.into(),
            function: function.into(),
            args: Vec::new(),
            validity_blocks: VALIDITY_BLOCKS_DEFAULT,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<[u8]>) -> Self {
        self.args.push(Bytes::copy_from_slice(arg.as_ref()));
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = Bytes>) -> Self {
        self.args.extend(args);
        self
    }

    /// How many blocks after signing it may still execute, at most `limits::VALIDITY_BLOCKS_MAX`.
    pub fn valid_for_blocks(mut self, blocks: u64) -> Self {
        self.validity_blocks = blocks.min(limits::VALIDITY_BLOCKS_MAX);
        self
    }

    /// Name of the contract.
    pub fn chaincode(&self) -> &str {
        &self.chaincode
    }

    /// Name of the function.
    pub fn function(&self) -> &str {
        &self.function
    }

    /// The arguments.
    pub fn arguments(&self) -> &[Bytes] {
        &self.args
    }

    /// Signs for `chain`, whose newest block known to the caller is `tip`.
    pub fn sign(
        &self,
        identity: &ClientIdentity,
        chain: ChainId,
        tip: Height,
    ) -> Result<Transaction, SignError> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(SignError::Nonce)?;
        self.sign_with_nonce(identity, chain, tip, nonce)
    }

    /// As `sign`, with a nonce of the caller's choice; the caller answers for its being fresh.
    pub fn sign_with_nonce(
        &self,
        identity: &ClientIdentity,
        chain: ChainId,
        tip: Height,
        nonce: [u8; 16],
    ) -> Result<Transaction, SignError> {
        self.check_names()?;
        let payload = Payload {
            chain,
            creator: identity.id(),
            nonce,
            valid_until: Height(tip.0.saturating_add(self.validity_blocks)),
            client_time_ms: now_ms(),
            chaincode: self.chaincode.clone(),
            function: self.function.clone(),
            args: self.args.clone(),
        };
        let bytes = payload.to_bytes();
        let signature = identity.sign(&bytes).map_err(SignError::Key)?;
        Transaction::parse(bytes, signature).map_err(SignError::Limits)
    }

    /// The encoder takes lengths below the limits for granted, so they are checked before it.
    fn check_names(&self) -> Result<(), SignError> {
        let too_long = |field, found, limit| {
            Err(SignError::Limits(DecodeError::TooLong { field, found, limit }))
        };
        for (field, name) in [("chaincode", &self.chaincode), ("function", &self.function)] {
            if name.len() > limits::NAME_BYTES_MAX {
                return too_long(field, name.len(), limits::NAME_BYTES_MAX);
            }
        }
        if self.args.len() > limits::ARGS_MAX {
            return too_long("args", self.args.len(), limits::ARGS_MAX);
        }
        let bytes: usize = self.args.iter().map(Bytes::len).sum();
        match bytes > limits::TX_PAYLOAD_BYTES_MAX {
            true => too_long("arguments", bytes, limits::TX_PAYLOAD_BYTES_MAX),
            false => Ok(()),
        }
    }
}

/// Half of what the protocol allows, so that a client whose view of the tip is old is not told
/// "too far ahead", and enough blocks to survive an outage of the network.
const VALIDITY_BLOCKS_DEFAULT: u64 = limits::VALIDITY_BLOCKS_MAX / 2;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::crypto::SigningKey;
    use crate::types::codec::Decode;
    use crate::types::signature::Algorithm;
    use crate::types::signature::PublicKey;
    use crate::types::signature::Signature;

    struct TestKey(ed25519_zebra::SigningKey, PublicKey);

    impl SigningKey for TestKey {
        fn sign(&self, message: &[u8]) -> Result<Signature, CryptoError> {
            Ok(Signature(self.0.sign(message).to_bytes()))
        }

        fn public_key(&self) -> &PublicKey {
            &self.1
        }
    }

    fn identity() -> ClientIdentity {
        let key = ed25519_zebra::SigningKey::from([7; 32]);
        let public = ed25519_zebra::VerificationKey::from(&key);
        let public = PublicKey::new(Algorithm::Ed25519, public.as_ref()).unwrap();
        ClientIdentity::new(Bytes::from_static(b"certificate"), Arc::new(TestKey(key, public)))
    }

    /// A signed invocation decodes to what was asked, names its creator, and its signature holds
    /// over the exact bytes carried.
    #[test]
    fn signed_invocations_carry_what_was_asked() {
        let who = identity();
        let chain = ChainId::default();
        let call = Invocation::new("asset", "transfer").arg("a").arg([0, 255]).valid_for_blocks(9);
        let tx = call.sign(&who, chain, Height(100)).unwrap();
        let again = Transaction::from_bytes(&tx.to_bytes()).unwrap();
        assert_eq!(again, tx);
        let payload = again.payload();
        assert_eq!((payload.chaincode.as_str(), payload.function.as_str()), ("asset", "transfer"));
        assert_eq!(payload.args, [&b"a"[..], &[0, 255]]);
        assert_eq!((payload.creator, payload.valid_until), (who.id(), Height(109)));
        let key = ed25519_zebra::VerificationKey::from(&ed25519_zebra::SigningKey::from([7; 32]));
        let signature = ed25519_zebra::Signature::from(tx.signature().0);
        key.verify(&signature, tx.signed_bytes()).unwrap();
    }

    /// Two signings of the same call differ: the nonce is fresh each time.
    #[test]
    fn equal_invocations_are_distinct_transactions() {
        let (who, call) = (identity(), Invocation::new("c", "f"));
        let sign = || call.sign(&who, ChainId::default(), Height(0)).unwrap().id();
        assert_ne!(sign(), sign());
    }

    /// Names, counts and sizes beyond the protocol's limits are refused before anything is signed.
    #[test]
    fn oversized_invocations_are_refused_before_signing() {
        let who = identity();
        let long = "x".repeat(limits::NAME_BYTES_MAX + 1);
        let many = vec![Bytes::new(); limits::ARGS_MAX + 1];
        let big = vec![0; limits::TX_PAYLOAD_BYTES_MAX];
        for call in [
            Invocation::new(long.clone(), "f"),
            Invocation::new("c", long),
            Invocation::new("c", "f").args(many),
            Invocation::new("c", "f").arg(big),
        ] {
            let refused = call.sign(&who, ChainId::default(), Height(0));
            assert!(matches!(refused, Err(SignError::Limits(_))));
        }
    }
}
