#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| diffluent::fuzzing::message_set(data));
