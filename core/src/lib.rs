//! The Portcullis broker core: wire format, gate, guard, engine, bus, and the extension points
//! that modules implement. It has no policy of its own.

pub mod clock;
pub mod hook;
pub mod secret;
pub mod topic;
pub mod wire;
