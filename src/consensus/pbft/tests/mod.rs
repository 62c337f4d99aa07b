//! Tests of PBFT: a few replicas in one process, messages delivered by hand or in a seeded order.
//! Signatures are stand-ins: the driver checks them before a core sees a message.

mod cluster;
mod normal;
mod runs;
