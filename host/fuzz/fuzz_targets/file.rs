//! A folder with an arbitrary file must open and answer queries. The first byte chooses the kind of file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dropsonde_store::fuzzing::file(bytes));
