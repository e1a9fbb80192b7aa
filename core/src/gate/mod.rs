//! Everything before CONNECT is believed, and the sockets afterwards.
//!
//! Accept, the PROXY header of trusted proxies, address bans and connection rates (asked of the
//! `Admission` modules before TLS), caps on connections, TLS, the WebSocket upgrade, one deadline
//! from accept to CONNACK. A stranger costs a descriptor and a
//! few KiB for at most that long, and moves counters.

mod driver;
mod handshake;
mod listener;
pub mod proxy;
mod reason;
mod stream;
mod task;
pub mod websocket;

pub(crate) use listener::{Bound, Shared, bind};
pub use listener::{Endpoint, Listener, Transport};
pub use proxy::{Prefix, PrefixError};
pub use reason::{note_reason, with_reason};
pub use websocket::upgrade::WebSocketRules;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::budget::{CONNECTION, Level};
use crate::engine::Engine;

/// Connections that may be on their way from accept to CONNACK while memory is spent.
const LAST: u64 = 16;

/// What all listeners share.
pub(crate) struct Gate {
    pub(crate) engine: Arc<Engine>,
    places: Mutex<Places>,
    /// TLS handshakes in flight.
    handshakes: Semaphore,
    /// Numbers of authentication exchanges.
    exchanges: AtomicU64,
    /// Becomes true when the broker ends.
    stopping: watch::Receiver<bool>,
}

#[derive(Default)]
struct Places {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A connection's place within the connection limits; given back when dropped.
pub(crate) struct Place {
    address: Option<IpAddr>,
    gate: Arc<Gate>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.engine.metrics.connections.sub(1);
        let mut places = self.gate.places.lock();
        places.all -= 1;
        if let Some(address) = self.address
            && let Some(count) = places.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                places.by_address.remove(&address);
            }
        }
    }
}

impl Gate {
    pub(crate) fn new(engine: Arc<Engine>, stopping: watch::Receiver<bool>) -> Self {
        let handshakes = engine.settings.load().limits.handshakes;
        Self {
            engine,
            places: Mutex::default(),
            handshakes: Semaphore::new(handshakes),
            exchanges: AtomicU64::new(1),
            stopping,
        }
    }

    /// Memory is spent, and as many are on their way to a CONNACK as it may have then. Clients that
    /// come back to take what waits for them get through, a few at a time.
    fn is_spent(&self) -> bool {
        let metrics = &self.engine.metrics;
        let under_way = metrics
            .connections
            .value()
            .saturating_sub(metrics.clients.value());
        self.engine.budget.level() == Level::Spent && under_way >= LAST
    }

    /// A place for one more connection, or the limit that has no room.
    fn place(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Place, &'static str> {
        let limits = self.engine.settings.load();
        let mut places = self.places.lock();
        if places.all >= limits.limits.connections {
            return Err("limits.connections");
        }
        let key = match address {
            Some(address) => Some(places.claim(address, limits.limits.connections_per_ip)?),
            None => None,
        };
        places.all += 1;
        self.engine.metrics.connections.inc();
        self.engine.budget.grew(CONNECTION);
        Ok(Place {
            address: key,
            gate: Arc::clone(self),
        })
    }
}

impl Places {
    /// Counts one more connection of this source.
    fn claim(&mut self, address: IpAddr, limit: usize) -> Result<IpAddr, &'static str> {
        let key = source(address);
        let count = self.by_address.entry(key).or_insert(0);
        if *count >= limit {
            return Err("limits.connections-per-ip");
        }
        *count += 1;
        Ok(key)
    }
}

impl Place {
    /// Counts the connection for the address that a proxy gave; until now it counted for none.
    fn claim(&mut self, address: IpAddr) -> Result<(), &'static str> {
        let limit = self.gate.engine.settings.load().limits.connections_per_ip;
        self.address = Some(self.gate.places.lock().claim(address, limit)?);
        Ok(())
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => {
            let prefix = u128::from(v6) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(prefix))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::source;

    #[test]
    fn an_ipv6_source_is_its_64() {
        let address = |text: &str| text.parse().unwrap();
        assert_eq!(
            source(address("2001:db8:1:2:3:4:5:6")),
            address("2001:db8:1:2::")
        );
        assert_eq!(source(address("::ffff:192.0.2.1")), address("192.0.2.1"));
        assert_eq!(source(address("192.0.2.1")), address("192.0.2.1"));
    }
}
