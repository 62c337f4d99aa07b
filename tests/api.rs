//! The interfaces through real sockets: one validator with `noops` consensus in this process, real
//! TLS, real certificates, a real contract.

mod fixture;
mod grpc;
mod matrix;
mod rest;
