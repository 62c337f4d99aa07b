//! The schema on one page: every table, its key and its value. All integers big-endian.
//!
//! ```text
//! table   key                                  value
//! meta    "chain"                              chain id 32
//!         "applied"                            height u64 | block hash 32 | sequence u64
//!                                              | time u64 ms | state root 32 | receipts root 32
//! state   ns length u8 | ns | natural key      value bytes
//! hist    ns length u8 | ns | key length u16   op u8 (0 delete, 1 put)
//!         | key | height u64 | tx u32
//! txidx   tx id 32                             height u64 | tx u32 | executed u8
//! certs   certificate id 32                    certificate DER
//! ```
//!
//! Blocks and their results are not here but in the ledger's segment files; the state tree is in
//! memory and rebuilt from `state`.

/// Tables of the store; column families in RocksDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Single values of the node.
    Meta,
    /// World state, flat.
    State,
    /// History of each key.
    History,
    /// Transactions by id.
    TxIndex,
    /// Certificates of transaction creators by id.
    Certificates,
}

impl Table {
    /// All tables.
    pub const ALL: [Self; 5] =
        [Self::Meta, Self::State, Self::History, Self::TxIndex, Self::Certificates];

    /// Name of the column family.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::State => "state",
            Self::History => "hist",
            Self::TxIndex => "txidx",
            Self::Certificates => "certs",
        }
    }
}
