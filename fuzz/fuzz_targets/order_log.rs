//! Fuzzes the decoder `order_log` of `tests/decoders.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| obelisk_fuzz::run("order_log", data));
