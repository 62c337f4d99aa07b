//! Tests of PBFT: a few replicas in one process, messages delivered by hand or in a seeded order.
//! Signatures are stand-ins: the driver checks them before a core sees a message.

mod catch_up;
mod checkpoint;
mod cluster;
mod decode;
mod normal;
mod recovery;
mod runs;
mod spacing;
mod view_change;
mod words;
