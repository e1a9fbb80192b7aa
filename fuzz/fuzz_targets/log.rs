//! A segment of the store, written as the input says, damaged, and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_core::fuzzing::log;

fuzz_target!(|input: &[u8]| {
    log(input);
});
