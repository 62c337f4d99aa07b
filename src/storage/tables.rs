//! The schema on one page: every table, its key and its value. All integers big-endian.
//!
//! ```text
//! table    key                                        value
//! meta     name                                       by name: "applied" = height u64 | block hash | state root ...
//! state    ns length u8 | ns | natural key            value bytes
//! tree     bucket id                                  leaves of a bucket of the state tree
//! hist     ns length u8 | ns | key length u16 | key | height u64 | tx u32   op u8 (0 delete, 1 put)
//! txidx    tx id 32                                   height u64 | tx u32
//! results  height u64                                 encoded BlockResult
//! certs    certificate id 32                          certificate DER
//! ```

/// Tables of the store; column families in RocksDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Single values of the node.
    Meta,
    /// World state, flat.
    State,
    /// The state tree's own records.
    Tree,
    /// History of each key.
    History,
    /// Transactions by id.
    TxIndex,
    /// Results by height.
    Results,
    /// Certificates of transaction creators by id.
    Certificates,
}

impl Table {
    /// All tables.
    pub const ALL: [Self; 7] = [
        Self::Meta,
        Self::State,
        Self::Tree,
        Self::History,
        Self::TxIndex,
        Self::Results,
        Self::Certificates,
    ];

    /// Name of the column family.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::State => "state",
            Self::Tree => "tree",
            Self::History => "hist",
            Self::TxIndex => "txidx",
            Self::Results => "results",
            Self::Certificates => "certs",
        }
    }
}
