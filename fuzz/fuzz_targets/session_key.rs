//! Fuzzes the decoder `session_key` of `tests/decoders.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| obelisk_fuzz::run("session_key", data));
