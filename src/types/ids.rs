//! Identifiers and counters, each a type of its own so that no two can be exchanged by mistake.
//!
//! Words: Castro and Liskov 1999 (view, sequence number, replica); the ledger's height counts
//! blocks only, while a sequence number may be filled by a null request and then has no block. So
//! `height <= sequence` always.

use std::fmt;

use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $int:ty, $write:ident, $read:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl $name {
            /// The next value; `None` where the counter would wrap.
            pub fn next(self) -> Option<Self> {
                self.0.checked_add(1).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl Encode for $name {
            fn encode(&self, w: &mut Writer) {
                w.$write(self.0);
            }
        }

        impl Decode for $name {
            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                r.$read(stringify!($name)).map(Self)
            }
        }
    };
}

counter!(
    /// Number of blocks below this one; the first block after genesis has height 1.
    Height, u64, u64, u64
);
counter!(
    /// PBFT sequence number; the first assigned one is 1.
    SequenceNumber, u64, u64, u64
);
counter!(
    /// PBFT view; view v has replica `v mod n` as primary.
    View, u64, u64, u64
);
counter!(
    /// Number of the replica set; grows by one with each membership change.
    Epoch, u64, u64, u64
);
counter!(
    /// Index of a replica in its epoch's replica set.
    ReplicaId, u16, u16, u16
);

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.short())
            }
        }

        impl Encode for $name {
            fn encode(&self, w: &mut Writer) {
                self.0.encode(w);
            }
        }

        impl Decode for $name {
            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Digest::decode(r).map(Self)
            }
        }
    };
}

digest_id!(
    /// SHA-256 of the genesis document: two networks never share one, whatever they are called.
    ChainId
);
digest_id!(
    /// SHA-256 of a transaction's payload bytes.
    TxId
);
digest_id!(
    /// Identity of a batch; covers author, certificates, transactions and their signatures.
    BatchId
);
digest_id!(
    /// SHA-256 of a block header; what commit votes sign.
    BlockHash
);
digest_id!(
    /// SHA-256 of an X.509 certificate's DER bytes: how a transaction names its creator.
    CertificateId
);
