//! Every decoder of bytes that come from outside this process: peers, clients, files. One list,
//! used by the seeded mutation test (`mutations.rs`) and by the fuzz targets (`fuzz/`).
//!
//! A decoder either refuses bytes with a typed error or accepts them; it never panics. Where the
//! format has one encoding per value, `accepts` also checks that what was accepted encodes to the
//! same bytes.

use std::path::Path;
use std::sync::LazyLock;

use bytes::Bytes;
use obelisk::consensus::Envelope;
use obelisk::consensus::PLUGINS;
use obelisk::consensus::evidence::Accusation;
use obelisk::consensus::evidence::Judge;
use obelisk::ledger::segments::SegmentSizes;
use obelisk::ledger::segments::Segments;
use obelisk::ledger::state_tree::StateProof;
use obelisk::membership::certificate;
use obelisk::membership::identity::Identity;
use obelisk::membership::identity::Root;
use obelisk::membership::pem;
use obelisk::node::config::Config;
use obelisk::pipeline::order::wal;
use obelisk::signer::guard::format;
use obelisk::signer::guard::hand_over;
use obelisk::signer::sessions::Stored;
use obelisk::signer::wire;
use obelisk::types::batch::Batch;
use obelisk::types::block::Block;
use obelisk::types::certificate::QuorumCertificate;
use obelisk::types::codec::Decode;
use obelisk::types::codec::Encode;
use obelisk::types::digest::Digest;
use obelisk::types::evidence::CheckpointProof;
use obelisk::types::evidence::ReceiptProof;
use obelisk::types::evidence::TransactionProof;
use obelisk::types::genesis::Genesis;
use obelisk::types::ids::ChainId;
use obelisk::types::ids::Height;
use obelisk::types::receipt::BlockResult;
use obelisk::types::transaction::Transaction;

/// A decoder by name.
pub struct Decoder {
    /// Name, that of its fuzz target.
    pub name: &'static str,
    /// True where the bytes are accepted; panics where a promise is broken.
    pub accepts: fn(&[u8]) -> bool,
}

/// All decoders of this build.
pub const DECODERS: &[Decoder] = &[
    Decoder { name: "genesis", accepts: exact::<Genesis> },
    Decoder { name: "transaction", accepts: exact::<Transaction> },
    Decoder { name: "batch", accepts: exact::<Batch> },
    Decoder { name: "block", accepts: exact::<Block> },
    Decoder { name: "result", accepts: exact::<BlockResult> },
    Decoder { name: "quorum_certificate", accepts: exact::<QuorumCertificate> },
    Decoder { name: "envelope", accepts: envelope },
    Decoder { name: "evidence", accepts: evidence },
    Decoder { name: "transaction_proof", accepts: transaction_proof },
    Decoder { name: "receipt_proof", accepts: receipt_proof },
    Decoder { name: "checkpoint_proof", accepts: exact::<CheckpointProof> },
    Decoder { name: "state_proof", accepts: state_proof },
    Decoder { name: "x509", accepts: x509 },
    Decoder { name: "pem", accepts: pem_text },
    Decoder { name: "guard_log", accepts: guard_log },
    Decoder { name: "order_log", accepts: order_log },
    Decoder { name: "segment", accepts: segment },
    Decoder { name: "config", accepts: config },
    Decoder { name: "signer_request", accepts: exact::<wire::Request> },
    Decoder { name: "signer_reply", accepts: exact::<wire::Reply> },
    Decoder { name: "signer_record", accepts: exact::<hand_over::Record> },
    Decoder { name: "session_key", accepts: session_key },
    #[cfg(feature = "grpc")]
    Decoder { name: "frame", accepts: frame },
    #[cfg(feature = "wasm")]
    Decoder { name: "wasm", accepts: wasm },
    #[cfg(feature = "rest")]
    Decoder { name: "rest_call", accepts: rest_call },
    #[cfg(feature = "rest")]
    Decoder { name: "rest_submission", accepts: rest_submission },
    #[cfg(feature = "rest")]
    Decoder { name: "enrolment", accepts: enrolment },
];

fn exact<T: Decode + Encode>(bytes: &[u8]) -> bool {
    read::<T>(bytes).is_some()
}

fn read<T: Decode + Encode>(bytes: &[u8]) -> Option<T> {
    let value = T::from_bytes(&Bytes::copy_from_slice(bytes)).ok()?;
    assert_eq!(hex::encode(value.to_bytes()), hex::encode(bytes), "two encodings of one value");
    Some(value)
}

/// The network of the frozen files, so that their samples pass the first check.
fn frozen_genesis() -> &'static Genesis {
    static GENESIS: LazyLock<Genesis> = LazyLock::new(|| {
        let bytes = include_bytes!("vectors/chain/genesis.bin");
        Genesis::from_bytes(&Bytes::from_static(bytes)).expect("the frozen document")
    });
    &GENESIS
}

fn chain() -> ChainId {
    frozen_genesis().chain_id()
}

/// A consensus message from a peer: the envelope, then each plug-in's own decoder.
fn envelope(bytes: &[u8]) -> bool {
    let Some(envelope) = read::<Envelope>(bytes) else { return false };
    PLUGINS.iter().filter(|row| (row.claims)(&chain(), &envelope).is_ok()).count() > 0
}

/// Evidence from anyone, judged without signatures: the shape must not break the judge.
fn evidence(bytes: &[u8]) -> bool {
    let Some(accusation) = read::<Accusation>(bytes) else { return false };
    let judge = Judge::of(frozen_genesis()).expect("a known plug-in");
    let judged = judge.judge(&Bytes::copy_from_slice(bytes), |_| true);
    assert!(judged.is_err() || judge.offence(&accusation).is_some());
    true
}

fn transaction_proof(bytes: &[u8]) -> bool {
    let Some(proof) = read::<TransactionProof>(bytes) else { return false };
    let batch = proof.in_batch.root_of(&proof.transaction.leaf());
    let _ = batch.and_then(|root| proof.in_block.root_of(&root));
    let _ = proof.certificate.check_shape(&frozen_genesis().replicas);
    true
}

fn receipt_proof(bytes: &[u8]) -> bool {
    let Some(proof) = read::<ReceiptProof>(bytes) else { return false };
    let _ = proof.in_result.root_of(&proof.receipt.digest());
    true
}

fn state_proof(bytes: &[u8]) -> bool {
    let Some(proof) = read::<StateProof>(bytes) else { return false };
    let _ = proof.verify(&Digest::ZERO);
    true
}

/// A certificate from a peer, a client or a batch: structure, then who it says it is.
fn x509(bytes: &[u8]) -> bool {
    let Ok(read) = certificate::parse(bytes) else { return false };
    let der = Bytes::copy_from_slice(bytes);
    Identity::claimed(&read, der.clone()).is_ok() || Root::claimed(&read, der).is_ok()
}

fn pem_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| pem::decode(pem::CERTIFICATE, text).is_ok())
}

fn guard_log(bytes: &[u8]) -> bool {
    let Ok(header) = format::Header::parse(bytes) else { return false };
    format::scan(bytes, &header).is_ok()
}

fn order_log(bytes: &[u8]) -> bool {
    let path = Path::new("order.1");
    let Ok(Some(generation)) = wal::parse_header(bytes, chain(), path) else { return false };
    wal::parse_records(bytes, generation, path).is_ok()
}

/// A segment file, opened as the ledger opens the last one, and every block of it read.
fn segment(bytes: &[u8]) -> bool {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("00000000000000000001.seg"), bytes).expect("written");
    let Ok(segments) = Segments::open(dir.path(), chain(), SegmentSizes::default()) else {
        return false;
    };
    for height in 1..=segments.tip().0 {
        let stored =
            segments.read(Height(height)).expect("checked at open").expect("below the tip");
        let _ = Block::from_bytes(&stored.block);
    }
    true
}

fn config(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let path = Path::new("/etc/obelisk/node.toml");
    let Ok(config) = Config::parse(text, path) else { return false };
    let written = config.to_toml();
    let again = Config::parse(&written, path).expect("what was written is read");
    assert_eq!(again.to_toml(), written);
    true
}

/// A session key's file. Its checksum stands between a mutation and the fields, so bytes whose sum
/// is wrong are read once more with the right one.
fn session_key(bytes: &[u8]) -> bool {
    let read = |bytes: &[u8]| {
        let Ok(stored) = Stored::from_bytes(bytes) else { return false };
        assert_eq!(hex::encode(stored.to_bytes()), hex::encode(bytes), "two encodings");
        true
    };
    let mended = bytes.split_last_chunk::<32>().map(|(body, _)| {
        let sum = Digest::of(&[body]).0;
        [body, &sum].concat()
    });
    read(bytes) | mended.is_some_and(|bytes| read(&bytes))
}

#[cfg(feature = "grpc")]
fn frame(bytes: &[u8]) -> bool {
    use obelisk::network::Class;
    use obelisk::network::frame;

    let Ok(read) = frame::decode(Bytes::copy_from_slice(bytes)) else { return false };
    let hello = frame::accept_hello(&read, &chain()).is_ok();
    let [votes, data] =
        [Class::Vote, Class::Data].map(|class| frame::accept_messages(read.clone(), class).is_ok());
    hello || votes || data
}

#[cfg(feature = "wasm")]
fn wasm(bytes: &[u8]) -> bool {
    obelisk::chaincode::wasm::module::prepare(&Bytes::copy_from_slice(bytes)).is_ok()
}

#[cfg(feature = "rest")]
fn rest_call(bytes: &[u8]) -> bool {
    use obelisk::api::auth::Caller;
    use obelisk::api::rest::chaincode;

    chaincode::read(&Bytes::copy_from_slice(bytes), &Caller::Anonymous).is_ok()
}

#[cfg(feature = "rest")]
fn rest_submission(bytes: &[u8]) -> bool {
    use obelisk::api::rest::transactions::submission;

    let body = Bytes::copy_from_slice(bytes);
    ["application/json", "application/octet-stream"]
        .iter()
        .any(|media| submission(media, &body).is_ok())
}

/// What somebody without a certificate sends to the membership service.
#[cfg(feature = "rest")]
fn enrolment(bytes: &[u8]) -> bool {
    use obelisk::api::ca::EnrolmentRequest;

    let Ok((applicant, secret, proof)) = EnrolmentRequest::from_body(bytes, "bank") else {
        return false;
    };
    let again = serde_json::to_vec(&EnrolmentRequest::new(&applicant, &secret, &proof));
    let again = EnrolmentRequest::from_body(&again.expect("it is written"), "bank");
    let (same, shown, signed) = again.unwrap_or_else(|_| panic!("what was written is read"));
    assert_eq!((same, signed), (applicant, proof));
    assert_eq!(shown.shown(), secret.shown());
    true
}
