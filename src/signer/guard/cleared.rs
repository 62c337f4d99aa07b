//! Texts that the guard has cleared, and the three ways to sign them.
//!
//! A `ClearedToSign` is made by the guard alone and consumed by signing, so no path reaches a key
//! without the guard: neither the validator's own, nor a session's, nor through a bundle.
//!
//! A text that is signed ahead of its vote has a random leaf beside it, so that no other text's path
//! helps to show its signature.
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
    ahead: bool,
}

/// What became of each request.
pub type Cleared = Vec<Result<ClearedToSign, SignError>>;

/// One signature or refusal per request.
pub type Signed = Vec<Result<VoteSignature, SignError>>;

impl ClearedToSign {
    pub(super) fn new(request: &SignRequest) -> Self {
        Self { slot: request.slot, text: request.text.clone(), ahead: request.ahead }
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
    let leaves: Vec<Result<Leaf, SignError>> =
        cleared.into_iter().map(|one| one.and_then(Leaf::of)).collect();
    let bundles = arranged(leaves.iter().flatten());
    let roots: Vec<Bytes> = bundles.iter().map(|bundle| bundle.text(chain)).collect();
    let signatures = sign_many(key, &roots.iter().map(|text| &text[..]).collect::<Vec<_>>());
    let mut spread: Vec<_> = bundles
        .iter()
        .zip(&signatures)
        .flat_map(|(bundle, signature)| bundle.spread(signature))
        .collect();
    spread.sort_by_key(|(number, _)| *number);
    let mut spread = spread.into_iter();
    let mut next = || spread.next().map(|(_, signature)| signature);
    let answer =
        |one: Result<Leaf, SignError>| one.and_then(|_| next().expect("one signature per text"));
    leaves.into_iter().map(answer).collect()
}

/// A text as it stands in a bundle.
struct Leaf {
    text: Bytes,
    digest: Digest,
    /// Random, the next leaf: where the text is signed ahead. The paths of other texts hold the node over
    /// both then, which says nothing of this one's path to whoever does not know it.
    blind: Option<Digest>,
}

impl Leaf {
    fn of(one: ClearedToSign) -> Result<Self, SignError> {
        let mut blind = [0; 32];
        if one.ahead {
            getrandom::fill(&mut blind).map_err(|error| SignError::Key {
                reason: format!("the system gives no random bytes: {error}"),
            })?;
        }
        let blind = one.ahead.then_some(Digest(blind));
        Ok(Self { digest: Digest::of(&[&one.text]), text: one.text, blind })
    }
}

/// Texts under one signature.
#[derive(Default)]
struct Bundle<'a> {
    leaves: Vec<Digest>,
    /// Each text with its number among all and the place of its leaf.
    texts: Vec<(usize, usize, &'a Bytes)>,
}

/// Bundles of as many texts as fit. Those with a blind come first: they have even places, so the blind is the
/// sibling.
fn arranged<'a>(leaves: impl Iterator<Item = &'a Leaf>) -> Vec<Bundle<'a>> {
    let mut leaves: Vec<(usize, &Leaf)> = leaves.enumerate().collect();
    leaves.sort_by_key(|(_, leaf)| leaf.blind.is_none());
    let mut bundles: Vec<Bundle<'_>> = Vec::new();
    for (number, leaf) in leaves {
        let needed = 1 + usize::from(leaf.blind.is_some());
        let fits = |bundle: &Bundle<'_>| bundle.leaves.len() + needed <= limits::BUNDLE_TEXTS_MAX;
        if !bundles.last().is_some_and(fits) {
            bundles.push(Bundle::default());
        }
        bundles.last_mut().expect("one was made").put(number, leaf);
    }
    bundles
}

impl<'a> Bundle<'a> {
    fn put(&mut self, number: usize, leaf: &'a Leaf) {
        self.texts.push((number, self.leaves.len(), &leaf.text));
        self.leaves.push(leaf.digest);
        self.leaves.extend(leaf.blind);
    }

    /// A lone text needs no root above it.
    fn text(&self, chain: &ChainId) -> Bytes {
        match (&self.texts[..], &self.leaves[..]) {
            ([(.., text)], [_]) => Bytes::clone(text),
            (_, leaves) => bundle_text(chain, &merkle::root(leaves)),
        }
    }

    fn spread(
        &self,
        signature: &Result<Signature, SignError>,
    ) -> impl Iterator<Item = (usize, Result<VoteSignature, SignError>)> {
        let one = move |place: usize| match signature {
            Ok(signature) if self.leaves.len() == 1 => Ok(VoteSignature::Direct(*signature)),
            Ok(signature) => Ok(VoteSignature::Bundle {
                path: Arc::new(Path::among(&self.leaves, place)),
                signature: *signature,
            }),
            Err(error) => Err(SignError::Key { reason: error.to_string() }),
        };
        self.texts.iter().map(move |(number, place, _)| (*number, one(*place)))
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
