//! Bytes of a connection that speaks 3.1 or 3.1.1, in either direction.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_core::fuzzing::stream;
use portcullis_core::wire::Version;

fuzz_target!(|input: &[u8]| {
    stream(input, Version::V3_1);
    stream(input, Version::V3_1_1);
});
