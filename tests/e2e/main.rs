//! The whole product: the real binary, real sockets, and clients that others wrote.
//!
//! Every test starts its own broker on ports of the system's choice, in a directory of its own.
//! The clients are rumqttc (3.1.1 and 5.0), `mosquitto_pub` and `mosquitto_sub`, paho, and mqtt.js, in
//! a page in Chromium too; where a
//! peer has to misbehave, bytes made by hand ([`raw`]). `scripts/setup-tests` installs what is
//! missing.
//!
//! A test waits for what it waits for, with [`harness::PATIENCE`] as the bound, and measures no
//! time. That something does *not* arrive is shown by what arrives after it.
//!
//! The thirteen rules (DESIGN, section 3) have tests whose names begin with `rule_`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "what is not as it should be is a failed test"
)]

mod administration;
mod audit;
mod authentication;
mod bad_input;
mod browser;
mod changes;
mod client;
mod exchange;
mod failing_disk;
mod full_disk;
mod harness;
mod limits;
mod oauth;
mod others;
mod overload;
mod policy;
mod process;
mod quickstart;
mod raw;
mod reload;
mod sessions;
mod store;
mod transports;
