//! A batch: the transactions one validator admitted, the unit of dissemination and of signature
//! checking.
//!
//! ```text
//! batch   author u16 | certificates u32 x bytes | transactions u32 x (payload bytes | signature 64)
//! id      H("obelisk.batch.1" | author u16 | certificates u32 x H(certificate) | tx count u32
//!         | transaction root)
//! ```
//!
//! A batch is self-contained: it carries the certificate of every creator that its transactions
//! name, so whoever holds the genesis document can check it. The id covers signatures too: two
//! bodies never share an id. A batch is valid when it is well-formed and every signature holds
//! under its creator's certificate; that does not depend on time or state, so all correct
//! validators agree on it.

use bytes::Bytes;

use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::BatchId;
use crate::types::ids::CertificateId;
use crate::types::ids::ReplicaId;
use crate::types::limits;
use crate::types::merkle;
use crate::types::transaction::Transaction;

const TAG: &[u8] = b"obelisk.batch.1";

/// Transactions of one author, with the certificates of their creators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    author: ReplicaId,
    certificates: Vec<Bytes>,
    /// SHA-256 of each certificate, in the same order.
    certificate_ids: Vec<CertificateId>,
    transactions: Vec<Transaction>,
    transaction_root: Digest,
    id: BatchId,
}

/// What the consensus core knows of a batch: enough to propose it and to form a block header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchRef {
    /// Identity of the body.
    pub id: BatchId,
    /// Validator that made it.
    pub author: ReplicaId,
    /// Number of transactions.
    pub transactions: u32,
    /// Encoded length, bytes.
    pub bytes: u32,
    /// Merkle root over the transactions' leaves.
    pub transaction_root: Digest,
}

impl Batch {
    /// Forms a batch. `certificates` are DER; the caller keeps within the limits of a batch.
    pub fn new(
        author: ReplicaId,
        certificates: Vec<Bytes>,
        transactions: Vec<Transaction>,
    ) -> Self {
        let leaves: Vec<Digest> = transactions.iter().map(Transaction::leaf).collect();
        let transaction_root = merkle::root(&leaves);
        let certificate_ids: Vec<CertificateId> =
            certificates.iter().map(|der| CertificateId(Digest::of(&[der]))).collect();
        let mut w = Writer::with_capacity(128 + 32 * certificates.len());
        w.raw(TAG);
        author.encode(&mut w);
        w.list(&certificate_ids);
        w.count(transactions.len());
        transaction_root.encode(&mut w);
        let id = BatchId(Digest::of(&[&w.finish()]));
        Self { author, certificates, certificate_ids, transactions, transaction_root, id }
    }

    /// Identity of the body.
    pub fn id(&self) -> BatchId {
        self.id
    }

    /// Validator that made it.
    pub fn author(&self) -> ReplicaId {
        self.author
    }

    /// Certificates of the creators, DER.
    pub fn certificates(&self) -> &[Bytes] {
        &self.certificates
    }

    /// Their ids, in the same order.
    pub fn certificate_ids(&self) -> &[CertificateId] {
        &self.certificate_ids
    }

    /// The certificate a creator field names, when the batch carries it.
    pub fn certificate(&self, id: &CertificateId) -> Option<&Bytes> {
        let at = self.certificate_ids.iter().position(|known| known == id)?;
        self.certificates.get(at)
    }

    /// The transactions, in order.
    pub fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }

    /// Length of the encoded batch, bytes.
    pub fn encoded_len(&self) -> usize {
        let certificates: usize = self.certificates.iter().map(|c| 4 + c.len()).sum();
        let transactions: usize = self.transactions.iter().map(Transaction::encoded_len).sum();
        10 + certificates + transactions
    }

    /// What consensus needs to know of it.
    pub fn reference(&self) -> BatchRef {
        BatchRef {
            id: self.id,
            author: self.author,
            transactions: u32::try_from(self.transactions.len()).expect("below BATCH_TXS_MAX"),
            bytes: u32::try_from(self.encoded_len()).expect("below BATCH_BYTES_MAX"),
            transaction_root: self.transaction_root,
        }
    }
}

impl Encode for Batch {
    fn encode(&self, w: &mut Writer) {
        self.author.encode(w);
        w.count(self.certificates.len());
        for certificate in &self.certificates {
            w.bytes(certificate);
        }
        w.list(&self.transactions);
    }

    fn size_hint(&self) -> usize {
        self.encoded_len()
    }
}

impl Decode for Batch {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = r.position();
        let author = ReplicaId::decode(r)?;
        let count = r.count("certificates", limits::BATCH_TXS_MAX)?;
        let certificates = (0..count)
            .map(|_| r.bytes("certificate", limits::CERTIFICATE_BYTES_MAX))
            .collect::<Result<Vec<_>, _>>()?;
        let transactions: Vec<Transaction> = r.list("transactions", limits::BATCH_TXS_MAX)?;
        if transactions.is_empty() {
            return Err(DecodeError::Invalid { field: "batch", reason: "holds no transaction" });
        }
        let found = r.position() - start;
        if found > limits::BATCH_BYTES_MAX {
            return Err(DecodeError::TooLong {
                field: "batch",
                found,
                limit: limits::BATCH_BYTES_MAX,
            });
        }
        Ok(Self::new(author, certificates, transactions))
    }
}

impl Encode for BatchRef {
    fn encode(&self, w: &mut Writer) {
        self.id.encode(w);
        self.author.encode(w);
        w.u32(self.transactions);
        w.u32(self.bytes);
        self.transaction_root.encode(w);
    }
}

impl Decode for BatchRef {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            id: BatchId::decode(r)?,
            author: ReplicaId::decode(r)?,
            transactions: r.u32("batch transactions")?,
            bytes: r.u32("batch bytes")?,
            transaction_root: Digest::decode(r)?,
        })
    }
}
