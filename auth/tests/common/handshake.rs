//! TLS handshakes in memory, in the time of the tests.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use portcullis_auth::tls::Loaded;
use portcullis_core::gate::with_reason;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, ClientConfig, ClientConnection, ServerConfig, ServerConnection};

/// A clock that stands still, so many days after the start.
#[derive(Debug)]
pub(crate) struct Day(pub(crate) i64);

impl TimeProvider for Day {
    fn current_time(&self) -> Option<UnixTime> {
        let since = crate::common::day(self.0).duration_since(UNIX_EPOCH);
        Some(UnixTime::since_unix_epoch(since.unwrap_or(Duration::ZERO)))
    }
}

/// The loaded configuration with the clock of the tests.
pub(crate) fn at_day(loaded: &Loaded, day: i64) -> Arc<ServerConfig> {
    let mut config = (*loaded.config).clone();
    config.time_provider = Arc::new(Day(day));
    Arc::new(config)
}

/// A handshake that failed: the reason, as the gate hears it, and what the client is told.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) why: String,
    pub(crate) alert: Option<AlertDescription>,
}

/// Runs a handshake to its end.
pub(crate) fn handshake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> Result<(ServerConnection, ClientConnection), Failed> {
    handshake_with("localhost", server, client)
}

/// The same for a client that asks for this name.
pub(crate) fn handshake_with(
    name: &'static str,
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> Result<(ServerConnection, ClientConnection), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let work = async { in_memory(name, server, client) };
    let (result, reason) = runtime.block_on(with_reason(work));
    result.map_err(|failed| Failed {
        why: reason.unwrap_or(failed.why),
        ..failed
    })
}

fn in_memory(
    name: &'static str,
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> Result<(ServerConnection, ClientConnection), Failed> {
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            if let Err(error) = server.process_new_packets() {
                return Err(Failed {
                    why: error.to_string(),
                    alert: alert(&mut server, &mut client),
                });
            }
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets().map_err(|error| Failed {
                why: format!("client: {error}"),
                alert: None,
            })?;
        }
        if !client.is_handshaking() && !server.is_handshaking() && !client.wants_write() {
            return Ok((server, client));
        }
    }
    panic!("the handshake does not end")
}

/// What the client is told.
fn alert(server: &mut ServerConnection, client: &mut ClientConnection) -> Option<AlertDescription> {
    let mut wire = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut wire).unwrap();
    }
    let mut bytes = wire.as_slice();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        if let Err(rustls::Error::AlertReceived(alert)) = client.process_new_packets() {
            return Some(alert);
        }
    }
    None
}
