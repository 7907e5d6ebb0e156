#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| llama3_core_fuzz::html(data));
