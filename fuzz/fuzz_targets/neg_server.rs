#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| grasp_sync::fuzzing::neg_server(data));
