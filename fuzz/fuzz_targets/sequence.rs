//! Steps of two clients through connections, guard and engine.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_core::fuzzing::sequence;

fuzz_target!(|input: &[u8]| {
    sequence(input);
});
