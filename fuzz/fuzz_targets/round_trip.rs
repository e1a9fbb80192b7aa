//! Packets made from the input are encoded and decode to the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_core::fuzzing::round_trip;

fuzz_target!(|input: &[u8]| {
    round_trip(input);
});
