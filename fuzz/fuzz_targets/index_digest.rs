#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| banger::git::fuzzing::index_digest(data));
