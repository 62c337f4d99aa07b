//! Texts that the guard has cleared, and the three ways to sign them.
//!
//! A `ClearedToSign` is made by the guard alone and consumed by signing, so no path reaches a key
//! without the guard: neither the validator's own, nor a session's, nor through a bundle.
//!
//! Source for bundles: design of the signer, strict mode; the tree is RFC 9162's (`types::merkle`).

use std::sync::Arc;

use bytes::Bytes;

use crate::crypto::CryptoError;
use crate::crypto::SigningKey;
use crate::signer::SignError;
use crate::signer::SignRequest;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::limits;
use crate::types::merkle;
use crate::types::merkle::Path;
use crate::types::signature::Signature;
use crate::types::vote::Slot;
use crate::types::vote_signature::VoteSignature;
use crate::types::vote_signature::bundle_text;

/// A text that may be signed: its slot is recorded, or no slot governs it.
#[derive(Debug)]
pub struct ClearedToSign {
    slot: Option<Slot>,
    text: Bytes,
}

/// What became of each request.
pub type Cleared = Vec<Result<ClearedToSign, SignError>>;

/// One signature or refusal per request.
pub type Signed = Vec<Result<VoteSignature, SignError>>;

impl ClearedToSign {
    pub(super) fn new(request: &SignRequest) -> Self {
        Self { slot: request.slot, text: request.text.clone() }
    }

    /// The slot it was cleared for.
    pub fn slot(&self) -> Option<Slot> {
        self.slot
    }

    /// Signs it with the replica's key or a session's.
    pub fn sign(self, key: &dyn SigningKey) -> Result<Signature, SignError> {
        key.sign(&self.text).map_err(unavailable)
    }
}

/// Signs each text that was cleared with the replica's key; the others keep their refusals.
pub fn sign_each(cleared: Cleared, key: &dyn SigningKey) -> Signed {
    let texts: Vec<&[u8]> = cleared.iter().flatten().map(|one| &one.text[..]).collect();
    let mut signatures = sign_many(key, &texts).into_iter();
    let mut next = || signatures.next().expect("one signature per text");
    cleared.into_iter().map(|one| one.and_then(|_| next().map(VoteSignature::from))).collect()
}

/// Signs all texts that were cleared with as few signatures of the replica's key as bundles allow.
pub fn sign_bundles(cleared: Cleared, chain: &ChainId, key: &dyn SigningKey) -> Signed {
    let texts: Vec<&Bytes> = cleared.iter().flatten().map(|one| &one.text).collect();
    let bundles: Vec<Bundle> =
        texts.chunks(limits::BUNDLE_TEXTS_MAX).map(|texts| Bundle::of(texts, chain)).collect();
    let roots: Vec<&[u8]> = bundles.iter().map(|bundle| &bundle.text[..]).collect();
    let signatures = sign_many(key, &roots);
    let mut spread = Vec::with_capacity(texts.len());
    for (bundle, signature) in bundles.iter().zip(signatures) {
        spread.extend(bundle.spread(&signature));
    }
    let mut spread = spread.into_iter();
    let mut next = || spread.next().expect("one signature per text");
    cleared.into_iter().map(|one| one.and_then(|_| next())).collect()
}

/// Texts under one signature.
struct Bundle {
    leaves: Vec<Digest>,
    text: Bytes,
}

impl Bundle {
    /// A lone text needs no root above it.
    fn of(texts: &[&Bytes], chain: &ChainId) -> Self {
        let leaves: Vec<Digest> = texts.iter().map(|text| Digest::of(&[text])).collect();
        let text = match texts {
            [one] => (*one).clone(),
            _ => bundle_text(chain, &merkle::root(&leaves)),
        };
        Self { leaves, text }
    }

    fn spread(
        &self,
        signature: &Result<Signature, SignError>,
    ) -> Vec<Result<VoteSignature, SignError>> {
        let one = |index| match signature {
            Ok(signature) if self.leaves.len() == 1 => Ok(VoteSignature::Direct(*signature)),
            Ok(signature) => Ok(VoteSignature::Bundle {
                path: Arc::new(Path::among(&self.leaves, index)),
                signature: *signature,
            }),
            Err(error) => Err(SignError::Key { reason: error.to_string() }),
        };
        (0..self.leaves.len()).map(one).collect()
    }
}

/// Exactly one answer per text, whatever the key returns.
fn sign_many(key: &dyn SigningKey, texts: &[&[u8]]) -> Vec<Result<Signature, SignError>> {
    let mut signed: Vec<_> =
        key.sign_many(texts).into_iter().map(|one| one.map_err(unavailable)).collect();
    let missing = || Err(SignError::Key { reason: "it returned too few signatures".to_owned() });
    signed.resize_with(texts.len(), missing);
    signed
}

fn unavailable(error: CryptoError) -> SignError {
    SignError::Key { reason: error.to_string() }
}
