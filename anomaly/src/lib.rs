//! Is it behaving? Rate limits, floods, bans.
//!
//! [`Limiter`] holds what one address, one client and one identity may cost; [`Bans`] is what an
//! operator decided. Both are [`Admission`](portcullis_core::hook::Admission) modules: they can
//! slow, refuse and disconnect, never allow.
//!
//! What holds, against whom:
//!
//! - **A stranger** spends the budget of his own address (IPv4 /32, IPv6 /64) and its surroundings
//!   (/24, /48), never that of somebody's name: what is claimed is not looked at.
//! - **A proven client** spends its own: over its publish limits it is read more slowly and loses
//!   nothing; what its publishes cause in deliveries is counted by principal, over all its
//!   connections and reconnects, and slows them likewise; with floods that have no use (subscription churn, pings, acknowledgements of nothing,
//!   refused actions) it is
//!   slowed, then disconnected.
//! - **A device that flaps**, or two that fight for one client id, are delayed, then refused, by
//!   principal *and* client id, so nobody can lock out somebody else's.
//! - Every table is bounded; what is said when it is full stands at the table.
//!
//! Connections without an address (Unix sockets) are exempt from what is counted by address:
//! file permissions guard those. Loopback is an address like any other.
//!
//! Time is an argument. Not here: how many connections there are (core's gate counts), what a
//! normal day looks like (baselines come later).

mod bans;
mod bucket;
mod fan_out;
mod limiter;
mod meter;
mod recent;
mod settings;
mod sources;

pub use bans::{Ban, BanError, Bans, Network, NetworkError, Target};
pub use limiter::{Limiter, LimiterStats};
pub use settings::{Rate, Settings};
