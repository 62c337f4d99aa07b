//! Fuzzes the decoder `state_proof` of `tests/decoders.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| obelisk_fuzz::run("state_proof", data));
