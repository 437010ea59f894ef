#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| banger_image::fuzzing::kernel(data));
