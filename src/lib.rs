//! The Portcullis program: configuration, command line, starter PKI and set-up.
//!
//! The broker itself and its modules are packages of their own; this one knows them all and
//! wires them together.

#![deny(clippy::print_stdout)]

pub mod ask;
pub mod cli;
pub mod config;
pub mod console;
pub mod control;
pub mod http;
pub mod keeper;
pub mod learn;
pub mod log;
pub mod memory;
pub mod numbers;
pub mod operate;
pub mod passwd;
pub mod pki;
pub mod quickstart;
pub mod reload;
pub mod rollback;
pub mod run;
pub mod shadow;
pub mod store;
pub mod token;
pub mod wiring;
