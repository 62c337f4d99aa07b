//! Floor 1: the machine: what it offers (`detect`) and what the node takes of it (`sizing`).
//!
//! Everything is read from `/proc` and `/sys` below a root folder that tests replace by recorded
//! trees. Nothing here fails: what cannot be read gets a cautious value and a remark for the
//! operator. Stations receive the results as plain values from assembly.

pub mod clock;
pub mod detect;
pub mod sizing;
