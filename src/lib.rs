//! The Portcullis program: configuration, command line, starter PKI and set-up.
//!
//! The broker itself and its modules are packages of their own; this one knows them all and
//! wires them together.

pub mod config;
pub mod pki;
pub mod quickstart;
