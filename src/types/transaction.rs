//! A transaction: what a client signs.
//!
//! ```text
//! payload   tag "obelisk.transaction.1" | chain id 32 | creator 32 | nonce 16 | valid until u64
//!           | client time u64 ms | chaincode string | function string | args u32 x bytes
//!           | confidentiality u8 (0 = open)
//! envelope  payload bytes | signature 64
//! ```
//!
//! The id is SHA-256 of the payload. The payload is kept and forwarded as the exact bytes that were
//! signed. `creator` is the SHA-256 of the client's certificate; the certificate itself travels in
//! the batch. Lifecycle and configuration are calls of the built-in contracts, so a transaction
//! needs no kind. A transaction is valid in blocks of height at most `valid_until`, and its id
//! executes at most once.

use bytes::Bytes;

use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::CertificateId;
use crate::types::ids::ChainId;
use crate::types::ids::Height;
use crate::types::ids::TxId;
use crate::types::limits;
use crate::types::signature::Signature;

/// First bytes of every transaction payload.
pub const TAG: &[u8] = b"obelisk.transaction.1";

/// What a transaction asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The network this is meant for.
    pub chain: ChainId,
    /// SHA-256 of the creator's certificate.
    pub creator: CertificateId,
    /// Chosen by the client; makes equal requests distinct.
    pub nonce: [u8; 16],
    /// Last height at which this may execute.
    pub valid_until: Height,
    /// The client's clock, milliseconds since 1970; information only.
    pub client_time_ms: u64,
    /// Contract to call.
    pub chaincode: String,
    /// Function of the contract.
    pub function: String,
    /// Arguments, as the contract defines them.
    pub args: Vec<Bytes>,
}

impl Encode for Payload {
    fn encode(&self, w: &mut Writer) {
        w.raw(TAG);
        self.chain.encode(w);
        self.creator.encode(w);
        w.raw(&self.nonce);
        self.valid_until.encode(w);
        w.u64(self.client_time_ms);
        w.string(&self.chaincode);
        w.string(&self.function);
        w.count(self.args.len());
        for arg in &self.args {
            w.bytes(arg);
        }
        w.u8(0);
    }

    fn size_hint(&self) -> usize {
        let args: usize = self.args.iter().map(|arg| 4 + arg.len()).sum();
        TAG.len() + 110 + self.chaincode.len() + self.function.len() + args
    }
}

impl Decode for Payload {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if r.raw("transaction tag", TAG.len())? != TAG {
            return Err(DecodeError::Invalid {
                field: "transaction tag",
                reason: "not an obelisk transaction, version 1",
            });
        }
        let payload = Self {
            chain: ChainId::decode(r)?,
            creator: CertificateId::decode(r)?,
            nonce: r.array("nonce")?,
            valid_until: Height::decode(r)?,
            client_time_ms: r.u64("client time")?,
            chaincode: r.string("chaincode", limits::NAME_BYTES_MAX)?,
            function: r.string("function", limits::NAME_BYTES_MAX)?,
            args: {
                let count = r.count("args", limits::ARGS_MAX)?;
                (0..count)
                    .map(|_| r.bytes("argument", limits::TX_PAYLOAD_BYTES_MAX))
                    .collect::<Result<_, _>>()?
            },
        };
        match r.u8("confidentiality")? {
            0 => Ok(payload),
            _ => Err(DecodeError::Invalid {
                field: "confidentiality",
                reason: "confidential transactions are not supported yet",
            }),
        }
    }
}

/// A signed transaction, parsed once; the payload bytes stay as they were signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    id: TxId,
    bytes: Bytes,
    payload: Payload,
    signature: Signature,
}

impl Transaction {
    /// Parses signed bytes. Says nothing about the signature's validity.
    pub fn parse(bytes: Bytes, signature: Signature) -> Result<Self, DecodeError> {
        if bytes.len() > limits::TX_PAYLOAD_BYTES_MAX {
            let (found, limit) = (bytes.len(), limits::TX_PAYLOAD_BYTES_MAX);
            return Err(DecodeError::TooLong { field: "transaction", found, limit });
        }
        let payload = Payload::from_bytes(&bytes)?;
        Ok(Self { id: TxId(Digest::of(&[&bytes])), bytes, payload, signature })
    }

    /// SHA-256 of the payload bytes.
    pub fn id(&self) -> TxId {
        self.id
    }

    /// The signed bytes.
    pub fn signed_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The parsed payload.
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// The creator's signature over the signed bytes.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Digest of id and signature: the leaf of the batch's transaction root.
    pub fn leaf(&self) -> Digest {
        Digest::of(&[&self.id.0.0, &self.signature.0])
    }

    /// Length of the encoded transaction, bytes.
    pub fn encoded_len(&self) -> usize {
        4 + self.bytes.len() + 64
    }
}

impl Encode for Transaction {
    fn encode(&self, w: &mut Writer) {
        w.bytes(&self.bytes);
        self.signature.encode(w);
    }

    fn size_hint(&self) -> usize {
        self.encoded_len()
    }
}

impl Decode for Transaction {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bytes = r.bytes("transaction", limits::TX_PAYLOAD_BYTES_MAX)?;
        let signature = Signature::decode(r)?;
        Self::parse(bytes, signature)
    }
}
