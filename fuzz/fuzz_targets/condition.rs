//! The condition column of a policy line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_acl::fuzzing::condition;

fuzz_target!(|input: &[u8]| {
    condition(input);
});
