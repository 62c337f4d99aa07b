//! One suite over every row of `PROVIDERS`: the same verdict from each, singly and in batches.
//!
//! `verdict` is the heart: it asks every provider and the batch and insists on one answer.
//! `wycheproof` feeds it the published vectors, `edges` the points and numbers that libraries
//! disagree on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;

use p256::elliptic_curve::PrimeField;
use proptest::prelude::*;

use crate::crypto::Check;
use crate::crypto::KeyTable;
use crate::crypto::PROVIDERS;
use crate::crypto::Provider;
use crate::crypto::batch;
use crate::crypto::key_tables;
use crate::crypto::key_tables::Tabled;
use crate::crypto::keys::Secret;
use crate::crypto::known_answers;
use crate::crypto::known_answers::Example;
use crate::crypto::known_answers::Operation;
use crate::crypto::prepared::PreparedCheck;
use crate::crypto::prepared::PreparedKey;
use crate::crypto::routing::Crypto;
use crate::crypto::validity;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

mod edges;
mod wycheproof;

/// What every provider, singly and in a batch, says of one signature.
fn verdict(public: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    let mut verdicts = Vec::new();
    for provider in PROVIDERS {
        let key = PreparedKey::new(provider, public);
        let valid = key.verify(message, signature).valid;
        verdicts.push((provider.name, valid));
        // A library's own word never goes beyond the rule once the bytes are in order.
        let raw = (provider.verify)(&Check { key: public, message, signature });
        assert!(valid || !raw || !key.accepts_bytes_of(signature), "{} accepts", provider.name);
        if public.algorithm() == Algorithm::Ed25519 {
            let checks = vec![PreparedCheck { key: &key, message, signature }; batch::BATCH_MIN];
            let indices: Vec<usize> = (0..checks.len()).collect();
            let mut invalid = Vec::new();
            batch::find_invalid(&checks, &indices, &mut invalid);
            assert!(invalid.is_empty() || invalid.len() == checks.len());
            verdicts.push(("batch", invalid.is_empty()));
        }
        if let Some(table) = table_of(provider, public) {
            verdicts.push(("table", by_table(&key, table, message, signature)));
        }
    }
    if let Some(table) = reference_table(public) {
        let key = PreparedKey::new(&PROVIDERS[0], public);
        verdicts.push(("table of the reference", by_table(&key, table, message, signature)));
    }
    let first = verdicts[0].1;
    assert!(
        verdicts.iter().all(|(_, valid)| *valid == first),
        "{verdicts:?}: key {} message {} signature {}",
        hex::encode(public.as_bytes()),
        hex::encode(message),
        hex::encode(signature.0),
    );
    first
}

/// What the equation over a table says, alone and among others; the library is not asked.
fn by_table(
    key: &PreparedKey,
    table: Arc<KeyTable>,
    message: &[u8],
    signature: &Signature,
) -> bool {
    let alone = key.accepts_bytes_of(signature) && key_tables::accepts(&table, message, signature);
    let check = PreparedCheck { key, message, signature };
    let group = [0, 1, 2].map(|place| Tabled { place, check, table: table.clone() });
    let mut invalid = Vec::new();
    let asked_again = key_tables::find_invalid(&group, &mut invalid);
    assert_eq!(invalid, if alone { vec![] } else { vec![0, 1, 2] });
    assert!(asked_again == 0 || !alone, "a yes needs no second question");
    alone
}

/// A provider's table of the key, computed once per key.
fn table_of(provider: &'static Provider, public: &PublicKey) -> Option<Arc<KeyTable>> {
    type Tables = BTreeMap<(&'static str, Vec<u8>), Option<Arc<KeyTable>>>;
    static TABLES: Mutex<Tables> = Mutex::new(BTreeMap::new());
    if public.algorithm() != Algorithm::EcdsaP256 || !validity::key_is_well_formed(public) {
        return None;
    }
    let at = (provider.name, public.as_bytes().to_vec());
    let known = TABLES.lock().unwrap().get(&at).cloned();
    known.unwrap_or_else(|| {
        let table = (provider.table)(public).map(Arc::new);
        TABLES.lock().unwrap().insert(at, table.clone());
        table
    })
}

/// The same sums in plain arithmetic: the equation is tested in every build.
fn reference_table(public: &PublicKey) -> Option<Arc<KeyTable>> {
    if public.algorithm() != Algorithm::EcdsaP256 {
        return None;
    }
    let key = p256::PublicKey::from_sec1_bytes(public.as_bytes()).ok()?;
    Some(Arc::new(Box::new(move |first, second| {
        let scalar = |bytes: &[u8; 32]| p256::Scalar::from_repr((*bytes).into()).unwrap();
        let sum =
            p256::ProjectivePoint::GENERATOR * scalar(first) + key.to_projective() * scalar(second);
        let point = p256::EncodedPoint::from(p256::AffinePoint::from(sum));
        point.x().map(|x| (*x).into())
    })))
}

/// Aim: the tables of every provider that keeps some pass their known answers, and OpenSSL on x86-64
/// keeps some.
#[test]
fn known_answers_hold_with_tables() {
    for provider in PROVIDERS {
        let table = table_of(provider, &Example::of(Algorithm::EcdsaP256).public);
        let found = table.map(|table| known_answers::check_table(provider, &table));
        assert!(matches!(found, None | Some(Ok(()))), "{} {found:?}", provider.name);
        if cfg!(target_arch = "x86_64") {
            assert_eq!(found.is_some(), provider.name == "openssl");
        }
    }
}

/// Aim: sums over tables are those of plain arithmetic at the edges of the scalars, where windows of
/// bits carry over, and for random ones.
#[test]
fn tables_add_up_as_plain_arithmetic_does() {
    let public = Example::of(Algorithm::EcdsaP256).public;
    let reference = reference_table(&public).unwrap();
    let mut scalars = vec![[0; 32], validity::P256_ORDER];
    scalars[1][31] -= 1;
    for bit in 0..255 {
        let mut power = [0u8; 32];
        power[31 - bit / 8] = 1 << (bit % 8);
        scalars.push(power);
        let mut below: [u8; 32] = power;
        below.iter_mut().skip(32 - bit / 8).for_each(|byte| *byte = 0xff);
        below[31 - bit / 8] = (1u8 << (bit % 8)) - 1;
        scalars.push(below);
    }
    for table in PROVIDERS.iter().filter_map(|provider| table_of(provider, &public)) {
        for (at, first) in scalars.iter().enumerate() {
            let second = &scalars[(7 * at + 3) % scalars.len()];
            assert_eq!(table(first, second), reference(first, second), "{first:?} {second:?}");
        }
    }
}

fn public(algorithm: Algorithm, hex_digits: &str) -> PublicKey {
    PublicKey::new(algorithm, &hex::decode(hex_digits).unwrap()).unwrap()
}

fn signature(hex_digits: &str) -> Signature {
    Signature(hex::decode(hex_digits).unwrap().try_into().unwrap())
}

/// A signature by the portable provider.
fn sign(secret: &Secret, message: &[u8]) -> Signature {
    let key = (PROVIDERS[0].load)(secret.algorithm, &secret.to_pkcs8()).unwrap();
    key.sign(message).unwrap()
}

/// Aim: every (operation, provider) pair of this build passes its known answers.
#[test]
fn known_answers_hold() {
    for provider in PROVIDERS {
        for operation in Operation::ALL {
            let found = known_answers::check(provider, operation);
            assert_eq!(found, Ok(()), "{} {operation:?}", provider.name);
        }
    }
}

/// Aim: the vectors of RFC 8032, 7.1 (tests 1 to 3 and SHA(abc)) verify and are what is signed.
#[test]
fn rfc_8032_vectors() {
    let vectors = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "",
            concat!(
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155",
                "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "72",
            concat!(
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da",
                "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
        ),
        (
            "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
            concat!(
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a",
                "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
            concat!(
                "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589",
                "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
            ),
        ),
    ];
    for (seed, message, expected) in vectors {
        let seed: [u8; 32] = hex::decode(seed).unwrap().try_into().unwrap();
        let (message, expected) = (hex::decode(message).unwrap(), signature(expected));
        let secret = Secret::of_seed(zeroize::Zeroizing::new(seed));
        assert!(verdict(&secret.public, &message, &expected));
        for provider in PROVIDERS {
            let key = (provider.load)(Algorithm::Ed25519, &secret.to_pkcs8()).unwrap();
            assert_eq!(key.sign(&message).unwrap(), expected, "{}", provider.name);
        }
    }
}

/// Aim: the P-256 SHA-256 vectors of RFC 6979, A.2.5; "sample" has a high s and is valid only in
/// its low form, which is what the portable provider signs.
#[test]
fn rfc_6979_vectors() {
    let example = Example::of(Algorithm::EcdsaP256);
    assert!(verdict(&example.public, b"test", &example.signature));
    let mut high = signature(concat!(
        "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716",
        "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
    ));
    assert!(!verdict(&example.public, b"sample", &high));
    validity::normalise_s(&mut high);
    assert!(verdict(&example.public, b"sample", &high));
    let key = (PROVIDERS[0].load)(Algorithm::EcdsaP256, &example.pkcs8()).unwrap();
    assert_eq!(key.sign(b"sample").unwrap(), high);
}

/// Aim: what any provider generates, every provider loads as the same key; what any provider signs,
/// every provider accepts, for empty and large messages too.
#[test]
fn generate_load_sign_verify_matrix() {
    for algorithm in Algorithm::ALL {
        for generator in PROVIDERS {
            let der = (generator.generate)(algorithm).unwrap();
            for signer in PROVIDERS {
                let key = (signer.load)(algorithm, &der).unwrap();
                assert_eq!(*key.public_key(), Secret::parse(algorithm, &der).unwrap().public);
                for message in [&b""[..], b"short", &[0xa5; 70_000]] {
                    let signature = key.sign(message).unwrap();
                    let pair = (generator.name, signer.name);
                    assert!(verdict(key.public_key(), message, &signature), "{pair:?}");
                }
            }
        }
    }
}

/// Aim: key files that OpenSSL writes (version 1, with and without the public point) load in all.
#[test]
fn foreign_key_files_load() {
    let files = [
        // openssl genpkey -algorithm ED25519 (the seed of RFC 8032, 7.1 test 1)
        (
            Algorithm::Ed25519,
            concat!(
                "302e020100300506032b657004220420",
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            ),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        ),
        // ECPrivateKey without its optional public point (the key of RFC 6979, A.2.5)
        (
            Algorithm::EcdsaP256,
            concat!(
                "3041020100301306072a8648ce3d020106082a8648ce3d030107042730250201010420",
                "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721",
            ),
            concat!(
                "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6",
                "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299",
            ),
        ),
    ];
    for (algorithm, file, expected) in files {
        for provider in PROVIDERS {
            let key = (provider.load)(algorithm, &hex::decode(file).unwrap()).unwrap();
            assert_eq!(*key.public_key(), public(algorithm, expected), "{}", provider.name);
        }
    }
}

/// Aim: bytes that are no key are refused by every provider with an error that names the algorithm.
#[test]
fn bad_key_files_are_refused() {
    for provider in PROVIDERS {
        for algorithm in Algorithm::ALL {
            for bytes in [&b""[..], b"-----BEGIN PRIVATE KEY-----", &[0x30, 0x00], &[0xff; 200]] {
                let error = (provider.load)(algorithm, bytes).err().expect("no key");
                assert!(error.to_string().contains(algorithm.name()), "{error}");
            }
        }
    }
}

/// Aim: one flipped bit anywhere in message, signature or key makes a signature invalid.
#[test]
fn tampering_is_found() {
    for algorithm in Algorithm::ALL {
        let secret = Secret::random(algorithm).unwrap();
        let message = *b"pay 100 to the seller";
        let signature = sign(&secret, &message);
        assert!(verdict(&secret.public, &message, &signature));
        for bit in (0..512).step_by(7) {
            let mut changed = signature;
            changed.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!verdict(&secret.public, &message, &changed), "signature bit {bit}");
        }
        for bit in (0..message.len() * 8).step_by(13) {
            let mut changed = message;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!verdict(&secret.public, &changed, &signature), "message bit {bit}");
        }
        for bit in (0..algorithm.public_key_len() * 8).step_by(17) {
            let mut changed = secret.public.as_bytes().to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            let key = PublicKey::new(algorithm, &changed).unwrap();
            assert!(!verdict(&key, &message, &signature), "key bit {bit}");
        }
        let other = Secret::random(algorithm).unwrap();
        assert!(!verdict(&other.public, &message, &signature), "another key");
    }
}

/// Aim: one prepared key and one signing key serve many threads at once.
#[test]
fn keys_are_shared_by_threads() {
    for provider in PROVIDERS {
        for algorithm in Algorithm::ALL {
            let der = (provider.generate)(algorithm).unwrap();
            let signer = (provider.load)(algorithm, &der).unwrap();
            let key = Arc::new(PreparedKey::new(provider, signer.public_key()));
            std::thread::scope(|scope| {
                for thread in 0..4u8 {
                    let (key, signer) = (key.clone(), signer.clone());
                    scope.spawn(move || {
                        for round in 0..10 {
                            let message = [thread, round];
                            let signature = signer.sign(&message).unwrap();
                            assert!(key.verify(&message, &signature).valid);
                            assert!(!key.verify(&[round, thread, 0], &signature).valid);
                        }
                    });
                }
            });
        }
    }
}

/// How one check of a random group is spoiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Message,
    R,
    S,
    OtherKey,
    Zeros,
}

fn any_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        12 => Just(Fault::None),
        1 => Just(Fault::Message),
        1 => Just(Fault::R),
        1 => Just(Fault::S),
        1 => Just(Fault::OtherKey),
        1 => Just(Fault::Zeros),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Aim: a random group of both algorithms over few keys gets exactly the verdicts of single
    /// checks, which are exactly the unspoiled ones; where no byte rule is involved the batch of
    /// ed25519-zebra agrees.
    #[test]
    fn group_equals_single(
        plan in prop::collection::vec((any::<bool>(), 0usize..3, any_fault()), 0..60),
    ) {
        let secrets = Algorithm::ALL.map(|algorithm| {
            [1u8, 2, 3].map(|i| match algorithm {
                Algorithm::Ed25519 => Secret::of_seed(zeroize::Zeroizing::new([i; 32])),
                Algorithm::EcdsaP256 => {
                    Secret::of_p256(&p256::SecretKey::from_slice(&[i; 32]).unwrap())
                }
            })
        });
        let crypto = Crypto::portable();
        let mut group = Vec::new();
        for (place, (ed25519, who, fault)) in plan.iter().enumerate() {
            // Mostly Ed25519: the portable P-256 is slow and never batched.
            let of_algorithm = &secrets[usize::from(*ed25519 || place % 3 != 0)];
            let mut message = vec![place as u8; 32];
            let mut signature = sign(&of_algorithm[*who], &message);
            let mut key = &of_algorithm[*who].public;
            match fault {
                Fault::None => {}
                Fault::Message => message[5] ^= 1,
                Fault::R => signature.0[4] ^= 1,
                Fault::S => signature.0[36] ^= 1,
                Fault::OtherKey => key = &of_algorithm[(*who + 1) % 3].public,
                Fault::Zeros => signature = Signature([0; 64]),
            }
            group.push((crypto.key(key), message, signature));
        }
        let checks: Vec<PreparedCheck<'_>> = group
            .iter()
            .map(|(key, message, signature)| PreparedCheck { key, message, signature })
            .collect();
        let verdicts = crypto.verify_group(&checks);
        for (place, check) in checks.iter().enumerate() {
            let single = check.key.verify(check.message, check.signature).valid;
            prop_assert_eq!(single, verdicts.is_valid(place));
            prop_assert_eq!(single, plan[place].2 == Fault::None);
        }
        let mut oracle = ed25519_zebra::batch::Verifier::new();
        let mut all_valid = true;
        for (place, check) in checks.iter().enumerate() {
            if check.key.algorithm() == Algorithm::Ed25519 {
                let key: [u8; 32] = check.key.public().as_bytes().try_into().unwrap();
                let signature = ed25519_zebra::Signature::from_bytes(&check.signature.0);
                oracle.queue((key.into(), signature, check.message));
                all_valid &= verdicts.is_valid(place);
            }
        }
        let oracle = oracle.verify(p256::elliptic_curve::rand_core::OsRng).is_ok();
        prop_assert_eq!(oracle, all_valid);
    }
}
