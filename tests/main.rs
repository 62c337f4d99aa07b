//! The integration tests, one binary: each topic is a module.

mod tidy;
