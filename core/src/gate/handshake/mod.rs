//! From accept to CONNACK: one task, one deadline, which stands still while a client sits out a delay
//! or waits in a queue of ours ([`StopClock`]).
//!
//! The order is the defence: address and rate (before TLS, `listener`; behind a proxy once its header
//! has named the client), TLS, the upgrade to WebSocket, the first packet with its own size limit, may this source try at all, is the record able to take it, who is it,
//! is it admitted, its will, its session. Nothing that fails on the way has touched a session, a
//! will or a connection (rule 2). The client is told one code whatever the reason; the whole
//! reason goes to the observers.

mod admit;
mod identify;
mod renew;
mod transport;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::Now;
use crate::connection::Connection;
use crate::hook::{Event, Snapshot, StopClock, TimeUp};
use crate::wire::{self, ConnAck, ReasonCode, Version};

use super::driver::{Driver, Renew, say_goodbye};
use super::listener::{Shared, refused};
use super::stream::Stream;
use super::{Gate, Place};

/// Steps of one exchange; SCRAM takes two.
const MAX_STEPS: u32 = 8;

/// Why a handshake ends without a connection.
struct Failed {
    /// What the client is told; nothing where it did not even speak MQTT.
    code: Option<ReasonCode>,
    check: &'static str,
    reason: String,
    client_id: Option<String>,
    claimed: Option<String>,
    version: Version,
}

impl Failed {
    fn silent(check: &'static str, reason: impl Into<String>) -> Self {
        Self {
            code: None,
            check,
            reason: reason.into(),
            client_id: None,
            claimed: None,
            version: Version::V3_1_1,
        }
    }
}

/// Carries a new connection to its CONNACK, or ends it and gives nothing.
pub(super) async fn run(
    gate: Arc<Gate>,
    shared: Arc<Shared>,
    stream: Stream,
    peer: Option<SocketAddr>,
    place: Place,
    wait: Duration,
) -> Option<Driver> {
    let clock = StopClock::new(gate.engine.settings.load().limits.connect_deadline);
    let mut handshake = Handshake {
        gate: &gate,
        shared: &shared,
        peer,
        place,
        stream,
        bearer: None,
        input: Vec::new(),
        clock: clock.clone(),
    };
    let work = async {
        handshake.clock.pause(wait).await;
        handshake.proxied().await?;
        handshake.tls().await?;
        handshake.upgrade().await?;
        handshake.connect().await
    };
    let result = tokio::select! {
        biased;
        result = work => Ok(result),
        up = clock.up() => Err(up),
    };
    let Handshake {
        stream,
        input,
        peer,
        place,
        ..
    } = handshake;
    match result {
        Ok(Ok(ready)) => {
            let Ready {
                connection,
                renewal,
                now,
            } = ready;
            Some(Driver::new(stream, connection, input, renewal, place, now))
        }
        Ok(Err(failed)) => {
            let event = Event::ConnectionRefused {
                listener: &shared.name,
                peer,
                client_id: failed.client_id.as_deref(),
                claimed: failed.claimed.as_deref(),
                check: failed.check,
                code: failed.code,
                reason: &failed.reason,
            };
            gate.engine.modules.observe(&event, Now::read());
            let mut farewell = Vec::new();
            if let Some(code) = failed.code {
                wire::connack(&mut farewell, failed.version, &ConnAck::refusal(code));
            }
            Box::pin(say_goodbye(stream, Vec::new(), farewell, Some(place))).await;
            None
        }
        Err(up) => {
            gate.engine.metrics.connect_timeouts.inc();
            let reason = match up {
                TimeUp::Deadline => "no CONNACK within limits.connect-deadline",
                TimeUp::Waited => "two minutes of waiting for its turn are enough",
            };
            refused(&gate, &shared, peer, "deadline", None, reason, Now::read());
            None
        }
    }
}

struct Handshake<'g> {
    gate: &'g Gate,
    shared: &'g Shared,
    /// The client, as far as it is known: behind a proxy the one that its header names.
    peer: Option<SocketAddr>,
    place: Place,
    stream: Stream,
    /// The token of the WebSocket upgrade: a secret.
    bearer: Option<Box<[u8]>>,
    input: Vec<u8>,
    /// The one deadline.
    clock: StopClock,
}

/// A refusal before it is one: the code, the kind of check, the whole reason.
type Denied = (ReasonCode, &'static str, String);

/// A client that is who it says and may come in.
struct Proven {
    snapshot: Snapshot,
    until: Option<SystemTime>,
    data: Option<Vec<u8>>,
    /// How credentials and bans stood before it was judged.
    generation: u64,
}

struct Ready {
    connection: Connection,
    renewal: Option<Box<dyn Renew>>,
    /// When it was admitted.
    now: Now,
}
