//! Fuzzes the decoder `signer_request` of `tests/decoders.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| obelisk_fuzz::run("signer_request", data));
