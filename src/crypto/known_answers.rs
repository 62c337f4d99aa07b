//! Known answers: what a (provider, operation) pair must compute before it is used.
//!
//! Run at every start, negative cases included: a library that accepts a wrong signature on one
//! machine forks that machine (OpenSSL's s390x path once accepted malformed signatures). Vectors:
//! RFC 8032 7.1 (Ed25519), RFC 6979 A.2.5 (P-256), FIPS 180-4 examples (SHA-256).

use crate::crypto::KeyTable;
use crate::crypto::PROVIDERS;
use crate::crypto::Provider;
use crate::crypto::key_tables;
use crate::crypto::keys::Secret;
use crate::crypto::prepared::PreparedKey;
use crate::crypto::validity;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

/// What a provider can be chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// SHA-256.
    Hash,
    /// Checking signatures.
    Verify(Algorithm),
    /// Making signatures with software keys.
    Sign(Algorithm),
}

impl Operation {
    /// All, for tables.
    pub const ALL: [Self; 5] = [
        Self::Hash,
        Self::Verify(Algorithm::EcdsaP256),
        Self::Verify(Algorithm::Ed25519),
        Self::Sign(Algorithm::EcdsaP256),
        Self::Sign(Algorithm::Ed25519),
    ];

    /// Name in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Verify(_) => "verify",
            Self::Sign(_) => "sign",
        }
    }

    /// Name of the algorithm in output.
    pub fn algorithm(self) -> &'static str {
        match self {
            Self::Hash => "sha256",
            Self::Verify(a) | Self::Sign(a) => a.name(),
        }
    }
}

/// Runs the known answers of one pair. The error says which answer was wrong.
pub fn check(provider: &Provider, operation: Operation) -> Result<(), &'static str> {
    match operation {
        Operation::Hash => check_hash(provider),
        Operation::Verify(algorithm) => check_verify(provider, algorithm),
        Operation::Sign(algorithm) => check_sign(provider, algorithm),
    }
}

/// A key pair with a signed message.
pub struct Example {
    /// P-256 scalar or Ed25519 seed.
    pub secret: [u8; 32],
    /// The public half.
    pub public: PublicKey,
    /// The message.
    pub message: &'static [u8],
    /// Its deterministic signature (low s).
    pub signature: Signature,
}

impl Example {
    /// The example of an algorithm.
    pub fn of(algorithm: Algorithm) -> Self {
        let (secret, public, message, signature): (_, _, &'static [u8], _) = match algorithm {
            Algorithm::EcdsaP256 => (P256_SECRET, P256_PUBLIC, b"test", P256_SIGNATURE),
            Algorithm::Ed25519 => (ED_SECRET, ED_PUBLIC, &[0xaf, 0x82], ED_SIGNATURE),
        };
        let mut bytes = [0; 32];
        hex::decode_to_slice(secret, &mut bytes).expect("a constant");
        let public = hex::decode(public).expect("a constant");
        Self {
            secret: bytes,
            public: PublicKey::new(algorithm, &public).expect("a constant of that length"),
            message,
            signature: signature_of(signature),
        }
    }

    /// The private key as a file.
    pub fn pkcs8(&self) -> zeroize::Zeroizing<Vec<u8>> {
        match self.public.algorithm() {
            Algorithm::EcdsaP256 => {
                let key = p256::SecretKey::from_slice(&self.secret).expect("a constant scalar");
                Secret::of_p256(&key).to_pkcs8()
            }
            Algorithm::Ed25519 => Secret::of_seed(zeroize::Zeroizing::new(self.secret)).to_pkcs8(),
        }
    }
}

fn check_hash(provider: &Provider) -> Result<(), &'static str> {
    for (message, expected) in SHA256 {
        let mut digest = [0; 32];
        hex::decode_to_slice(expected, &mut digest).expect("a constant");
        if (provider.sha256)(&[message]) != digest {
            return Err("SHA-256 of a known message is wrong");
        }
        let (left, right) = message.split_at(message.len() / 2);
        if (provider.sha256)(&[left, &[], right]) != digest {
            return Err("SHA-256 of a message in parts is wrong");
        }
    }
    let text: Vec<u8> = (0..=255).collect();
    for len in 0..text.len() {
        if (provider.sha256)(&[&text[..len]]) != (PROVIDERS[0].sha256)(&[&text[..len]]) {
            return Err("SHA-256 differs from the portable provider");
        }
    }
    Ok(())
}

fn check_verify(provider: &Provider, algorithm: Algorithm) -> Result<(), &'static str> {
    let Example { public, message, signature, .. } = Example::of(algorithm);
    let key = (provider.prepare)(&public).ok_or("a valid public key is refused")?;
    check_answers(&key, algorithm)?;
    let other = other_key(&public);
    if (provider.prepare)(&other).is_some_and(|key| key(message, &signature)) {
        return Err("a signature is accepted under another key");
    }
    Ok(())
}

/// The answers to the same questions of `table`, which the provider computed for the example's key.
pub fn check_table(provider: &Provider, table: &KeyTable) -> Result<(), &'static str> {
    let example = Example::of(Algorithm::EcdsaP256);
    let answer = |message: &[u8], signature: &Signature| {
        validity::signature_is_well_formed(Algorithm::EcdsaP256, signature)
            && key_tables::accepts(table, message, signature)
    };
    check_answers(&answer, Algorithm::EcdsaP256)?;
    let (mut one, mut minus_one) = ([0; 32], validity::P256_ORDER);
    one[31] = 1;
    minus_one[31] -= 1;
    let own = table(&[0; 32], &one).ok_or("the table does not know its key")?;
    // [n - 1]Q = -Q has the x of Q.
    if own != example.public.as_bytes()[1..33] || table(&[0; 32], &minus_one) != Some(own) {
        return Err("the table is of another key");
    }
    if table(&[0; 32], &[0; 32]).is_some() {
        return Err("the point at infinity has an x");
    }
    if (provider.table)(&other_key(&example.public)).is_some() {
        return Err("there is a table of a point that is not on the curve");
    }
    Ok(())
}

/// What every way to check must say of an example and of what resembles it.
fn check_answers(
    accepts: &dyn Fn(&[u8], &Signature) -> bool,
    algorithm: Algorithm,
) -> Result<(), &'static str> {
    let Example { message, signature, .. } = Example::of(algorithm);
    if !accepts(message, &signature) {
        return Err("a valid signature is refused");
    }
    if accepts(b"another message", &signature) {
        return Err("the signature of another message is accepted");
    }
    for bit in [0, 255, 256, 511] {
        let mut flipped = signature;
        flipped.0[bit / 8] ^= 1 << (bit % 8);
        if accepts(message, &flipped) {
            return Err("a changed signature is accepted");
        }
    }
    for (first, second) in [(0, 0), (0, 1), (1, 0), (1, 1), (0xff, 0xff)] {
        let mut degenerate = signature;
        degenerate.0[..32].fill(first);
        degenerate.0[32..].fill(second);
        if accepts(message, &degenerate) {
            return Err("a degenerate signature is accepted");
        }
    }
    Ok(())
}

/// Bytes of another key, which need not be one.
fn other_key(public: &PublicKey) -> PublicKey {
    let mut bytes = public.as_bytes().to_vec();
    bytes[10] ^= 1;
    PublicKey::new(public.algorithm(), &bytes).expect("same length")
}

fn check_sign(provider: &Provider, algorithm: Algorithm) -> Result<(), &'static str> {
    let example = Example::of(algorithm);
    let key = (provider.load)(algorithm, &example.pkcs8())
        .map_err(|_| "a valid private key is refused")?;
    if key.public_key() != &example.public {
        return Err("the public key of a known private key is wrong");
    }
    let signature = key.sign(example.message).map_err(|_| "signing failed")?;
    if algorithm == Algorithm::Ed25519 && signature != example.signature {
        return Err("the signature of a known message is wrong");
    }
    if !validity::signature_is_well_formed(algorithm, &signature) {
        return Err("a signature is not of the accepted form");
    }
    let reference = PreparedKey::new(&PROVIDERS[0], &example.public);
    if !reference.verify(example.message, &signature).valid {
        return Err("a signature does not verify with the portable provider");
    }
    Ok(())
}

fn signature_of(text: &str) -> Signature {
    let mut bytes = [0; 64];
    hex::decode_to_slice(text, &mut bytes).expect("a constant");
    Signature(bytes)
}

const SHA256: [(&[u8], &str); 3] = [
    (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
        b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    ),
];

const P256_SECRET: &str = "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721";
const P256_PUBLIC: &str = concat!(
    "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6",
    "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299",
);
const P256_SIGNATURE: &str = concat!(
    "f1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d38367",
    "019f4113742a2b14bd25926b49c649155f267e60d3814b4c0cc84250e46f0083",
);
const ED_SECRET: &str = "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7";
const ED_PUBLIC: &str = "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025";
const ED_SIGNATURE: &str = concat!(
    "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac",
    "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
);
