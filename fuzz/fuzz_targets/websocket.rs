//! The frames of a WebSocket client, and its upgrade request.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_core::fuzzing::websocket;

fuzz_target!(|input: &[u8]| {
    websocket(input);
});
