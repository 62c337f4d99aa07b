//! Fuzzes the decoder `enrolment` of `tests/decoders.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| obelisk_fuzz::run("enrolment", data));
