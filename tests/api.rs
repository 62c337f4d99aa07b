//! The interfaces through real sockets: one validator with `noops` consensus in this process, real
//! TLS, real certificates, a real contract.

mod creators;
mod fixture;
mod grpc;
mod matrix;
mod rest;
mod revocation;
mod scan;
