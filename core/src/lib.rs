//! The Portcullis broker core: wire format, gate, guard, engine, bus, and the extension points
//! that modules implement. It has no policy of its own.
//!
//! ```text
//! socket -> gate -> wire -> guard -> engine -> guard -> wire -> socket
//!                                       |
//!                                      bus
//! ```
//!
//! Sans-IO: `wire`, `guard`, `engine` and `connection` take bytes or packets and a clock reading.
//! Sockets, timers and tasks live in `gate` alone.

#[doc(hidden)]
pub mod benching;
pub mod broker;
pub mod budget;
pub mod bus;
pub mod clock;
mod connection;
mod engine;
pub mod fuzzing;
pub mod gate;
pub mod guard;
pub mod hook;
pub mod journal;
pub mod message;
pub mod metrics;
pub mod secret;
pub mod settings;
#[cfg(test)]
mod sim;
pub mod store;
mod sys;
pub mod ticket;
pub mod topic;
pub mod wire;
