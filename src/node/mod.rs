//! Floor 6: a node, put together from its configuration.
//!
//! `config` is the file an operator writes.

pub mod config;
