//! Bytes that pass a checksum must be unpacked or rejected.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dropsonde_store::fuzzing::chunk(bytes));
