//! A topic filter and a topic name, separated by a line feed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_core::fuzzing::topic_filter;

fuzz_target!(|input: &[u8]| {
    topic_filter(input);
});
