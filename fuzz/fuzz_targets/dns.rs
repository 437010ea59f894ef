#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| banger_agent::fuzzing::dns(data));
