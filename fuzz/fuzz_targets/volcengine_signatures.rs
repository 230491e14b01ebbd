#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pentimento_fuzz::targets::volcengine_signatures(data));
