//! The wire format.

mod packet;
mod reason;

pub use packet::*;
pub use reason::ReasonCode;
