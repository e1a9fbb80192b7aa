//! TLS handshakes in memory, in the time of the tests.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use portcullis_auth::tls::Loaded;
use portcullis_core::gate::with_reason;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, ConnectionCommon, ServerConfig,
    ServerConnection,
};

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
        if let Err(error) = carry(&mut client, &mut server) {
            // What the client is told.
            let alert = match carry(&mut server, &mut client) {
                Err(rustls::Error::AlertReceived(alert)) => Some(alert),
                Ok(()) | Err(_) => None,
            };
            return Err(Failed {
                why: error.to_string(),
                alert,
            });
        }
        carry(&mut server, &mut client).map_err(|error| Failed {
            why: format!("client: {error}"),
            alert: None,
        })?;
        if !client.is_handshaking() && !server.is_handshaking() && !client.wants_write() {
            return Ok((server, client));
        }
    }
    panic!("the handshake does not end")
}

/// Gives `to` what `from` has to say.
fn carry<A, B>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
) -> Result<(), rustls::Error> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut bytes = wire.as_slice();
    while !bytes.is_empty() {
        to.read_tls(&mut bytes).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}
