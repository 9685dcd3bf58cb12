//! Bytes that a checksum let through must be unpacked or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dropsonde_store::fuzzing::chunk(bytes));
