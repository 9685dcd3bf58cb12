//! A folder with such a file must open, and answer. The first byte says what kind of file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dropsonde_store::fuzzing::file(bytes));
