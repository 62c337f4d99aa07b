//! ledger

pub mod read_write_set;
