//! A PROXY header, version 1 or 2.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_core::fuzzing::proxy;

fuzz_target!(|input: &[u8]| {
    proxy(input);
});
