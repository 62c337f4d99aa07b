//! What the benches of storage and contracts share: a scratch folder, blocks made here, and
//! writes without a contract.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::ledger::ExecutedBlock;
use crate::ledger::read_write_set::StateKey;
use crate::ledger::read_write_set::WriteSet;
use crate::types::batch::Batch;
use crate::types::block::Block;
use crate::types::block::BlockHeader;
use crate::types::block::Tip;
use crate::types::certificate::QuorumCertificate;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::genesis::ChainParameters;
use crate::types::genesis::Genesis;
use crate::types::ids::CertificateId;
use crate::types::ids::ChainId;
use crate::types::ids::Epoch;
use crate::types::ids::Height;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::proposal::Proposal;
use crate::types::receipt::Receipt;
use crate::types::receipt::Status;
use crate::types::replica_set::Replica;
use crate::types::replica_set::ReplicaSet;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;
use crate::types::transaction::Payload;
use crate::types::transaction::Transaction;
use crate::types::vote::Phase;
use crate::types::vote::Slot;
use crate::types::vote::Vote;

/// A folder for one bench, gone afterwards.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new folder in `base`, or where temporary files go.
    pub fn new(base: Option<&Path>) -> Result<Self, Failure> {
        let base = base.map_or_else(std::env::temp_dir, Path::to_owned);
        let folder = base.join(format!("obelisk-bench-{}", std::process::id()));
        std::fs::create_dir(&folder).map_err(|error| {
            let cause = format!("cannot make {}: {error}", folder.display());
            Failure::usage(cause, "name a folder that can be written with --data")
        })?;
        Ok(Self(folder))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A failure of the part that is measured.
pub fn broken(error: &dyn std::error::Error) -> Failure {
    Failure::of(Exit::Internal, error, "check the disk with `obelisk doctor`")
}

/// A genesis document of one validator.
pub fn genesis() -> Genesis {
    let key = PublicKey::new(Algorithm::Ed25519, &[7; 32]).expect("32 bytes are a key");
    let member = Replica { organisation: "org".to_owned(), name: "v0".to_owned(), key };
    Genesis {
        network: "bench".to_owned(),
        time_ms: 1_700_000_000_000,
        consensus: "pbft".to_owned(),
        parameters: ChainParameters::default(),
        replicas: ReplicaSet::new(Epoch(0), vec![member]).expect("one member is a set"),
        organisations: Vec::new(),
    }
}

/// The block after `tip`, with batches as validators close them, certified by nobody.
pub fn block(chain: ChainId, tip: &Tip, certificate: &Bytes, txs: &[Transaction]) -> Block {
    let certificates = || vec![certificate.clone()];
    let batches: Vec<Arc<Batch>> = txs
        .chunks(limits::BATCH_TARGET_TXS)
        .map(|txs| Arc::new(Batch::new(ReplicaId(0), certificates(), txs.to_vec())))
        .collect();
    let proposal = Proposal {
        view: View(0),
        sequence: SequenceNumber(tip.sequence.0 + 1),
        time_ms: tip.time_ms + 1,
        batches: batches.iter().map(|batch| batch.reference()).collect(),
    };
    let header = BlockHeader::following(chain, tip, &proposal);
    let slot =
        Slot { epoch: Epoch(0), view: View(0), sequence: header.sequence, phase: Phase::Commit };
    let vote = Vote { slot, digest: header.hash().0 };
    let signatures =
        (0..3).map(|replica| (ReplicaId(replica), Signature([2; 64]).into())).collect();
    Block { header, certificate: QuorumCertificate { vote, signatures }, batches }
}

/// A block whose transactions write what `writes` says, executed by no contract.
pub fn written(
    chain: ChainId,
    tip: &Tip,
    writes: Vec<Vec<(StateKey, Bytes)>>,
    nonce: u64,
) -> Result<ExecutedBlock, DecodeError> {
    let certificate = Bytes::from_static(b"certificate of the client");
    let creator = CertificateId(Digest::of(&[&certificate]));
    let transaction = |at: usize| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&nonce.to_be_bytes());
        bytes[8..].copy_from_slice(&(at as u64).to_be_bytes());
        let payload = Payload {
            chain,
            creator,
            nonce: bytes,
            valid_until: Height(u64::MAX),
            client_time_ms: 0,
            chaincode: "asset".to_owned(),
            function: "transfer".to_owned(),
            args: vec![Bytes::from_static(&[b'x'; 96])],
        };
        Transaction::parse(payload.to_bytes(), Signature([1; 64]))
    };
    let txs = (0..writes.len()).map(transaction).collect::<Result<Vec<_>, _>>()?;
    let block = block(chain, tip, &certificate, &txs);
    let writes: Vec<WriteSet> = writes
        .into_iter()
        .map(|writes| {
            let writes = writes.into_iter().map(|(key, value)| (key, Some(value)));
            WriteSet(writes.collect::<BTreeMap<_, _>>())
        })
        .collect();
    let receipt = |(tx, writes): (&Transaction, &WriteSet)| Receipt {
        tx: tx.id(),
        status: Status::Ok,
        error: String::new(),
        value: Bytes::new(),
        events: Vec::new(),
        write_set: writes.digest(),
        fuel: 100,
    };
    let receipts = txs.iter().zip(&writes).map(receipt).collect();
    Ok(ExecutedBlock { block, receipts, writes })
}
