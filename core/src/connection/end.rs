//! How a connection ends: by its client, or by the broker.

use crate::clock::Now;
use crate::engine::Fate;
use crate::hook::{Disconnected, Event};
use crate::settings::Settings;
use crate::ticket::Progress;
use crate::wire::{self, Disconnect, ReasonCode};

use super::{Connection, End, granted_expiry};

impl Connection {
    pub(super) fn disconnect(&self, disconnect: &Disconnect<'_>, settings: &Settings) -> End {
        // [MQTT-3.14.2-2]: no expiry at DISCONNECT where there was none at CONNECT.
        if disconnect.session_expiry.is_some_and(|expiry| expiry > 0) && !self.terms.has_expiry {
            return End::server(
                ReasonCode::ProtocolError,
                "a session expiry at DISCONNECT where CONNECT had none",
            );
        }
        End::Client {
            will: disconnect.reason != ReasonCode::Success,
            expiry: disconnect
                .session_expiry
                .map(|expiry| granted_expiry(expiry, settings)),
            reason: disconnect.reason,
        }
    }

    /// Whether all that its answers promise is on disk.
    fn is_recorded(&self) -> bool {
        let barrier = self.barrier.as_ref();
        self.sealed.is_none()
            && barrier.is_none_or(|barrier| barrier.poll(None) == Progress::Complete)
            && self.attached.is_recorded()
    }

    /// The connection is over; what is told to the client, if anything.
    pub(crate) fn finish(&mut self, end: &End, now: Now) -> Vec<u8> {
        let mut farewell = std::mem::take(&mut self.replies);
        if !self.is_recorded() {
            farewell.clear();
        }
        let publish = |will| if will { Fate::Publish } else { Fate::Discard };
        let (will, expiry, how, reason) = match end {
            End::Client {
                will,
                expiry,
                reason,
            } => (
                publish(*will),
                *expiry,
                Disconnected::ByClient,
                format!("DISCONNECT 0x{:02x}", *reason as u8),
            ),
            End::Lost(reason) => (
                Fate::Publish,
                None,
                Disconnected::ConnectionLost,
                reason.clone(),
            ),
            End::Server(close) => {
                let takes = self.terms.max_packet.is_none_or(|max| max.get() >= 4);
                if self.terms.version.is_v5() && takes {
                    // The whole reason is for the record; the client gets the code.
                    wire::disconnect(&mut farewell, close.code, None);
                }
                if matches!(
                    close.code,
                    ReasonCode::MalformedPacket | ReasonCode::ProtocolError
                ) {
                    self.engine.metrics.malformed.inc();
                }
                let how = Disconnected::ByServer(close.code);
                let will = if close.code == ReasonCode::ServerShuttingDown {
                    Fate::Keep
                } else {
                    publish(close.will)
                };
                (will, None, how, close.reason.clone())
            }
        };
        let event = Event::Disconnected {
            who: self.guard.subject().snapshot(),
            peer: self.guard.subject().peer(),
            how,
            reason: &reason,
        };
        self.engine.modules.observe(&event, now);
        self.engine.detach(&self.attached, will, expiry, now);
        farewell
    }
}
