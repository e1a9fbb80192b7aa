//! Lines of filters and topics: the cover of a filter agrees with every topic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_acl::fuzzing::cover_agrees_with_topics;

fuzz_target!(|input: &[u8]| {
    cover_agrees_with_topics(input);
});
