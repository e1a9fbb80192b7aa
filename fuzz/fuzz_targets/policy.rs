//! Whole policy files.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_acl::fuzzing::policy_is_what_it_is_written_as;

fuzz_target!(|input: &[u8]| {
    policy_is_what_it_is_written_as(input);
});
