//! Seeded mutations of valid samples through every decoder of outside bytes: nothing panics, and
//! what is accepted encodes to the same bytes.
//!
//! The fuzz targets of `fuzz/` search further; this runs in every test run. `OBELISK_MUTATIONS`
//! sets the number of mutations per sample.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use obelisk::signer::SignError;
use obelisk::signer::SignRequest;
use obelisk::signer::guard::format::Floor;
use obelisk::signer::guard::hand_over::Record;
use obelisk::signer::guard::standing::Answer;
use obelisk::signer::guard::standing::Opening;
use obelisk::signer::guard::standing::RecordCall;
use obelisk::signer::guard::standing::Standing;
use obelisk::signer::sessions::Stored;
use obelisk::signer::wire::Ask;
use obelisk::signer::wire::Reply;
use obelisk::signer::wire::Request;
use obelisk::types::block::Block;
use obelisk::types::codec::Decode;
use obelisk::types::codec::Encode;
use obelisk::types::digest::Digest;
use obelisk::types::genesis::Genesis;
use obelisk::types::ids::ChainId;
use obelisk::types::ids::Epoch;
use obelisk::types::ids::ReplicaId;
use obelisk::types::ids::SequenceNumber;
use obelisk::types::ids::View;
use obelisk::types::signature::Signature;
use obelisk::types::vote::Phase;
use obelisk::types::vote::Slot;
use obelisk::types::vote_signature::SessionTerms;

use crate::decoders::DECODERS;

/// Aim: the frozen files are samples that their decoders accept, and mutated they break nothing.
#[test]
fn mutated_samples_break_no_decoder() {
    let per_sample = match std::env::var("OBELISK_MUTATIONS") {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => 300,
    };
    for decoder in DECODERS {
        let samples = samples(decoder.name);
        assert!(!samples.is_empty(), "{} has no sample", decoder.name);
        for sample in &samples {
            assert!((decoder.accepts)(sample), "{} refuses its sample", decoder.name);
        }
        let mut chance = Chance(0x5eed ^ decoder.name.len() as u64);
        let mut accepted = 0;
        for sample in &samples {
            for _ in 0..per_sample {
                let other = &samples[chance.below(samples.len())];
                let bytes = mutated(sample, other, &mut chance);
                accepted += usize::from((decoder.accepts)(&bytes));
            }
            for cut in 0..sample.len().min(64) {
                (decoder.accepts)(&sample[..cut]);
                (decoder.accepts)(&sample[..sample.len() - cut]);
            }
        }
        println!("{}: {} samples, {accepted} mutations accepted", decoder.name, samples.len());
    }
}

/// Aim: a checkpoint interval beyond every window is refused; doubling it once overflowed.
#[test]
fn genesis_with_a_huge_checkpoint_interval_is_refused() {
    let genesis = samples("genesis").remove(0);
    let read = Genesis::from_bytes(&genesis.clone().into()).expect("the frozen document");
    let interval = read.parameters.checkpoint_interval.to_be_bytes();
    let window = read.parameters.window.to_be_bytes();
    let wanted = [interval, window].concat();
    let at = genesis.windows(16).position(|bytes| bytes == wanted).expect("the parameters");
    for huge in [1 << 63, u64::MAX, 3] {
        let mut changed = genesis.clone();
        changed[at..at + 8].copy_from_slice(&huge.to_be_bytes());
        assert!(Genesis::from_bytes(&changed.into()).is_err(), "interval {huge}");
    }
}

/// Aim: each decoder has its fuzz target, and each target its decoder.
#[test]
fn every_decoder_has_a_fuzz_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let targets: BTreeSet<String> = fs::read_dir(folder)
        .expect("the targets")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    let decoders: BTreeSet<String> = DECODERS.iter().map(|d| d.name.to_owned()).collect();
    let missing: Vec<&String> = decoders.difference(&targets).collect();
    assert!(missing.is_empty(), "no fuzz target for {missing:?}");
    let optional =
        ["frame", "wasm", "rest_call", "rest_submission", "enrolment"].map(str::to_owned);
    let unknown: Vec<&String> =
        targets.difference(&decoders).filter(|name| !optional.contains(name)).collect();
    assert!(unknown.is_empty(), "no decoder for the fuzz targets {unknown:?}");
}

fn vectors(folder: &str, keep: impl Fn(&str) -> bool) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(folder);
    let mut paths: Vec<_> = fs::read_dir(folder)
        .expect("frozen files")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| keep(&path.file_name().expect("a name").to_string_lossy()))
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("readable")).collect()
}

fn chain(prefix: &str) -> Vec<Vec<u8>> {
    vectors("chain", |name| name.starts_with(prefix))
}

fn blocks() -> Vec<Block> {
    let read = |bytes: Vec<u8>| Block::from_bytes(&bytes.into()).expect("a frozen block");
    chain("block-").into_iter().map(read).collect()
}

/// What nodes ask a signer.
fn signer_requests() -> Vec<Vec<u8>> {
    let (key, chain) = (Digest([7; 32]), ChainId(Digest([9; 32])));
    let (epoch, view, sequence) = (Epoch(1), View(2), SequenceNumber(3));
    let at = Slot { epoch, view, sequence, phase: Phase::Commit };
    let (slot, opening) = (Some(at), Opening([2; 16]));
    let text = Bytes::from_static(b"a text");
    let requests = vec![
        SignRequest { slot, text: text.clone(), ahead: true },
        SignRequest { slot: None, text: text.clone(), ahead: false },
    ];
    let asks = [
        Ask::Open { key, chain, has_signed: true },
        Ask::Sign { key, requests },
        Ask::Forget { key, sequence },
        Ask::Transport { key, text },
        Ask::Status,
        Ask::Record { key, opening, call: RecordCall::Examine(vec![(at, key)]) },
        Ask::Record { key, opening, call: RecordCall::Fence(Floor::default()) },
        Ask::Record { key, opening, call: RecordCall::Settle },
    ];
    asks.map(|ask| Request { deadline_ms: 500, ask }.to_bytes().to_vec()).to_vec()
}

/// What a signer answers.
fn signer_replies() -> Vec<Vec<u8>> {
    let (epoch, view, sequence) = (Epoch(1), View(2), SequenceNumber(3));
    let slot = Slot { epoch, view, sequence, phase: Phase::Prepare };
    let results = vec![
        Ok(Signature([5; 64]).into()),
        Err(SignError::Conflict { slot }),
        Err(SignError::Forgotten { slot, floor: sequence }),
        Err(SignError::Mislabelled { reason: "not carried" }),
        Err(SignError::Guard { reason: "disk".to_owned() }),
        Err(SignError::Key { reason: "token".to_owned() }),
    ];
    let replies = [
        Reply::Refused("no such key".to_owned()),
        Reply::Opened {
            identity: [3; 16],
            fencing_epoch: 1,
            opening: Opening([2; 16]),
            parallel: 4,
            bundles: true,
        },
        Reply::Signed(results),
        Reply::Forgotten,
        Reply::Signature(Signature([4; 64])),
        Reply::Status(Bytes::from_static(b"{}")),
        Reply::Record(Answer { standing: Standing::Incomplete, floor: sequence }),
    ];
    replies.map(|reply| reply.to_bytes().to_vec()).to_vec()
}

/// A record on its way to another signer.
fn signer_record() -> Vec<u8> {
    let (epoch, view) = (Epoch(0), View(2));
    let slot = |n| Slot { epoch, view, sequence: SequenceNumber(n), phase: Phase::Commit };
    let record = Record {
        chain: ChainId(Digest([9; 32])),
        key: Digest([7; 32]),
        identity: [3; 16],
        fencing_epoch: 1,
        floor: Floor { sequence: SequenceNumber(4), epoch, view },
        slots: (4..7).map(|n| (slot(n), Digest([1; 32]))).collect(),
    };
    record.to_bytes().to_vec()
}

/// Files of session keys, certified and not.
fn session_keys() -> Vec<Vec<u8>> {
    let genesis = Genesis::from_bytes(&samples("genesis").remove(0).into()).expect("frozen");
    let key = genesis.replicas.get(ReplicaId(0)).expect("one").key.clone();
    let (first, last) = (SequenceNumber(5), SequenceNumber(9));
    let stored = |signature| Stored {
        chain: ChainId(Digest([9; 32])),
        owner: Digest([7; 32]),
        terms: SessionTerms { epoch: Epoch(0), first, last, key: key.clone() },
        signature,
        secret: vec![3; 48].into(),
    };
    [None, Some(Signature([4; 64]))].map(|s| stored(s).to_bytes().to_vec()).to_vec()
}

/// What an applicant sends to a membership service.
#[cfg(feature = "rest")]
fn enrolment() -> Vec<u8> {
    use obelisk::api::ca::EnrolmentRequest;
    use obelisk::membership::enrolment::Applicant;
    use obelisk::membership::enrolment::Possession;
    use obelisk::membership::enrolment::Secret;
    use obelisk::membership::identity::Role;

    let genesis = Genesis::from_bytes(&samples("genesis").remove(0).into()).expect("frozen");
    let key = |id| genesis.replicas.get(ReplicaId(id)).expect("four").key.clone();
    let (enrolment_key, tls_key) = (key(0), key(1));
    let (organisation, name) = ("bank".to_owned(), "alice".to_owned());
    let applicant = Applicant { organisation, role: Role::Client, name, enrolment_key, tls_key };
    let proof = Possession { enrolment: Signature([4; 64]), tls: Signature([5; 64]) };
    let secret = Secret::read(&"0123456789abcdef".repeat(2)).expect("a secret");
    serde_json::to_vec(&EnrolmentRequest::new(&applicant, &secret, &proof)).expect("JSON")
}

fn samples(decoder: &str) -> Vec<Vec<u8>> {
    let batches = || blocks().into_iter().flat_map(|block| block.batches);
    match decoder {
        "genesis" => chain("genesis"),
        "transaction" => batches()
            .flat_map(|batch| batch.transactions().to_vec())
            .map(|tx| tx.to_bytes().to_vec())
            .collect(),
        "batch" => batches().map(|batch| batch.to_bytes().to_vec()).collect(),
        "block" => chain("block-"),
        "result" => chain("result-"),
        "quorum_certificate" => {
            blocks().iter().map(|block| block.certificate.to_bytes().to_vec()).collect()
        }
        "envelope" => chain("message-"),
        "evidence" => chain("evidence"),
        "transaction_proof" => chain("transaction-proof"),
        "receipt_proof" => chain("receipt-proof"),
        "signer_request" => signer_requests(),
        "signer_reply" => signer_replies(),
        "signer_record" => vec![signer_record()],
        "checkpoint_proof" => chain("checkpoint"),
        "state_proof" => chain("state-"),
        "x509" => vectors("membership", |name| {
            ["root", "enrolment", "tls"].iter().any(|kind| name.starts_with(kind))
        }),
        "pem" => samples("x509")
            .iter()
            .map(|der| obelisk::membership::pem::encode("CERTIFICATE", der).as_bytes().to_vec())
            .collect(),
        "guard_log" => chain("guard"),
        "order_log" => chain("order"),
        "segment" => chain("segment"),
        "config" => vec![CONFIG.as_bytes().to_vec()],
        #[cfg(feature = "grpc")]
        "frame" => frames(),
        #[cfg(feature = "wasm")]
        "wasm" => wasm(),
        #[cfg(feature = "rest")]
        "rest_call" => rest_calls(),
        #[cfg(feature = "rest")]
        "rest_submission" => rest_submissions(),
        "session_key" => session_keys(),
        #[cfg(feature = "rest")]
        "enrolment" => vec![enrolment()],
        _ => Vec::new(),
    }
}

const CONFIG: &str = r#"
[node]
role = "validator"
data = "data"
identity = "msp"
genesis = "genesis.bin"

[network]
listen = "127.0.0.1:7051"

[[network.peers]]
organisation = "bank"
name = "validator-1"
address = "node1.bank.example:7051"

[consensus]
request_timeout_ms = 2000
in_flight_max = 4

[log]
level = "info"
format = "json"
"#;

#[cfg(feature = "grpc")]
fn frames() -> Vec<Vec<u8>> {
    use obelisk::consensus::Envelope;
    use obelisk::network::Class;
    use obelisk::network::Message;
    use obelisk::network::frame;
    use obelisk::types::ids::Height;
    use prost::Message as _;

    let blocks: Vec<Block> = blocks();
    let chain_id = blocks[0].header.chain;
    let votes = chain("message-").into_iter().map(|bytes| {
        Message::Consensus(Envelope::from_bytes(&bytes.into()).expect("a frozen message"))
    });
    let batch = blocks[0].batches[0].clone();
    let asks = [
        Message::BatchRequest(batch.id()),
        Message::Tip { height: Height(6) },
        Message::BlocksRequest { from: Height(2) },
        Message::WitnessRequest,
    ];
    let shown = chain("message-").into_iter().take(2).map(Bytes::from);
    let shown = shown.map(|bytes| Envelope::from_bytes(&bytes).expect("a frozen message"));
    let witness = Message::Witness(shown.collect());
    let encoded = blocks.iter().map(Block::to_bytes).collect();
    let data = [
        Message::Batch(batch.to_bytes()),
        Message::Blocks { from: Height(1), blocks: encoded },
        witness,
    ];
    let lots = [votes.chain(asks).collect::<Vec<_>>(), data.to_vec()];
    let mut frames: Vec<Vec<u8>> = lots
        .into_iter()
        .map(|lot| frame::messages(lot.into_iter().map(Into::into).collect()).encode_to_vec())
        .collect();
    frames.push(frame::hello(&chain_id, Class::Vote).encode_to_vec());
    frames
}

#[cfg(feature = "wasm")]
fn wasm() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("contracts/wasm");
    vec![fs::read(folder.join("asset.wasm")).expect("the sample contract is committed")]
}

#[cfg(feature = "rest")]
fn rest_calls() -> Vec<Vec<u8>> {
    use base64::Engine;

    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let query = serde_json::json!({
        "jsonrpc": "2.0", "method": "query", "id": 7, "params": {
            "type": 1,
            "chaincodeID": { "name": "notes" },
            "ctorMsg": { "function": "get", "args": ["a", "b"] },
        },
    });
    let batch = blocks().remove(1).batches.remove(0);
    let transaction = &batch.transactions()[0];
    let signed = base64(&transaction.to_bytes());
    let certificate = batch.certificate(&transaction.payload().creator).expect("it is there");
    let invoke = serde_json::json!({
        "jsonrpc": "2.0", "method": "invoke", "id": "x", "params": {
            "chaincodeID": { "name": "notes" },
            "signedTransaction": signed,
            "certificate": base64(certificate),
        },
    });
    [query, invoke].map(|call| call.to_string().into_bytes()).to_vec()
}

#[cfg(feature = "rest")]
fn rest_submissions() -> Vec<Vec<u8>> {
    use base64::Engine;

    let transaction = samples("transaction").remove(1);
    let text = base64::engine::general_purpose::STANDARD.encode(&transaction);
    let json = serde_json::json!({ "transaction": text });
    vec![transaction, json.to_string().into_bytes()]
}

/// A repeatable source of numbers: xorshift64* (Vigna, "An experimental exploration of Marsaglia's
/// xorshift generators, scrambled", 2016).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).expect("64 bits");
        usize::try_from(self.next() % bound).expect("below a length")
    }
}

/// One to four changes of the kinds that break decoders: bits, lengths, cuts, splices.
fn mutated(sample: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..=chance.below(4) {
        if bytes.is_empty() {
            bytes.push(0);
        }
        let at = chance.below(bytes.len());
        match chance.below(8) {
            0 => bytes[at] ^= 1 << chance.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][chance.below(5)],
            2 => bytes[at] = bytes[at].wrapping_add(1),
            3 => bytes.truncate(at),
            4 => drop(bytes.remove(at)),
            5 => bytes.insert(at, [0, 0xff][chance.below(2)]),
            6 => {
                let end = bytes.len().min(at + 4);
                bytes[at..end].fill([0, 0xff][chance.below(2)]);
            }
            _ => {
                let from = chance.below(other.len());
                let end = other.len().min(from + 1 + chance.below(64));
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..end]);
            }
        }
    }
    bytes
}
