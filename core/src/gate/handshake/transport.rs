//! What lies below MQTT: the PROXY header, TLS, the upgrade to WebSocket, whole packets.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use crate::clock::Now;
use crate::wire::split_frame;

use super::super::listener::{Transport, Turned, may_arrive};
use super::super::proxy::{self, Header, MAX_V2, Progress};
use super::super::reason::with_reason;
use super::super::stream::Stream;
use super::super::websocket::{WebSocket, upgrade};
use super::{Failed, Handshake};

/// Room that is made for bytes that have not arrived, at least.
const CHUNK: usize = 512;

impl Handshake<'_> {
    /// Behind a trusted proxy: whose connection it is, and whether that client may come in.
    pub(super) async fn proxied(&mut self) -> Result<(), Failed> {
        if self.shared.trusted_proxies.is_none() {
            return Ok(());
        }
        let engine = &self.gate.engine;
        let mut header = Vec::new();
        let client = loop {
            match proxy::parse(&header) {
                Ok(Progress::Done(Header::Client(client))) => break client,
                // The proxy itself, a health check: no client to ask about.
                Ok(Progress::Done(Header::Proxy)) => return Ok(()),
                Ok(Progress::More(more)) => {
                    // Not a byte further: what follows is TLS.
                    let mut wanted = (&mut self.stream).take(more.min(MAX_V2) as u64);
                    match wanted.read_buf(&mut header).await {
                        Ok(0) => return Err(Failed::silent("network", "closed in a PROXY header")),
                        Ok(_) => {}
                        Err(error) => return Err(Failed::silent("network", error.to_string())),
                    }
                }
                Err(error) => {
                    engine.metrics.untrusted_proxies.inc();
                    return Err(Failed::silent("proxy", error.to_string()));
                }
            }
        };
        let address = client.ip().to_canonical();
        self.peer = Some(SocketAddr::new(address, client.port()));
        let admitted =
            may_arrive(self.gate, self.shared, Some(address), Now::read()).and_then(|wait| {
                self.place
                    .claim(address)
                    .map_err(Turned::Limit)
                    .map(|()| wait)
            });
        match admitted {
            Ok(wait) => {
                self.clock.pause(wait).await;
                Ok(())
            }
            Err(turned) => {
                // As for everybody who is turned away on arrival: closed without a word.
                self.stream = Stream::Closed;
                let (check, _, reason) = turned.counted(&engine.metrics);
                Err(Failed::silent(check, reason))
            }
        }
    }

    /// On a WebSocket listener: the HTTP request, its answer, and the stream that follows.
    pub(super) async fn upgrade(&mut self) -> Result<(), Failed> {
        let Transport::WebSocket(rules) = &self.shared.transport else {
            return Ok(());
        };
        let engine = &self.gate.engine;
        let network = |error: std::io::Error| Failed::silent("network", error.to_string());
        let mut request = Vec::new();
        let granted = loop {
            let seen = request.len();
            request.reserve(CHUNK);
            if self.stream.read_buf(&mut request).await.map_err(network)? == 0 {
                return Err(Failed::silent("network", "closed before its upgrade"));
            }
            match upgrade::judge(&request, seen, rules) {
                Ok(None) => {}
                Ok(Some(granted)) => break granted,
                Err(rejection) => {
                    engine.metrics.refused_upgrades.inc();
                    // Who is gone already misses nothing.
                    let _ = self.stream.write_all(rejection.response()).await;
                    return Err(Failed::silent("websocket", rejection.to_string()));
                }
            }
        };
        let sent = self.stream.write_all(&granted.response).await;
        sent.map_err(network)?;
        self.stream.flush().await.map_err(network)?;
        self.bearer = granted.bearer;
        let inner = std::mem::replace(&mut self.stream, Stream::Closed);
        let max_packet = engine.settings.load().mqtt.max_packet_size;
        let socket = WebSocket::new(inner, max_packet, Arc::clone(&engine.metrics));
        self.stream = Stream::WebSocket(Box::new(socket));
        Ok(())
    }

    pub(super) async fn tls(&mut self) -> Result<(), Failed> {
        let Some(config) = self.shared.tls.load_full() else {
            return Ok(());
        };
        let tcp = match std::mem::replace(&mut self.stream, Stream::Closed) {
            Stream::Tcp(tcp) => tcp,
            other @ (Stream::Unix(_) | Stream::Tls(_) | Stream::WebSocket(_) | Stream::Closed) => {
                self.stream = other;
                return Ok(());
            }
        };
        // A stranger who says nothing holds no handshake place.
        let metrics = &self.gate.engine.metrics;
        let readable = tcp.readable().await;
        let _permit = {
            let _stopped = self.clock.stop();
            self.gate.handshakes.acquire().await
        };
        match readable {
            Ok(()) => {}
            Err(error) => return Err(Failed::silent("network", error.to_string())),
        }
        let accept = TlsAcceptor::from(config).accept(tcp);
        // In a box: nobody keeps its memory afterwards.
        let (accepted, reason) = Box::pin(with_reason(accept)).await;
        match accepted {
            Ok(stream) => {
                self.stream = Stream::Tls(Box::new(stream));
                Ok(())
            }
            Err(error) => {
                metrics.tls_failures.inc();
                Err(Failed::silent(
                    "tls",
                    reason.unwrap_or_else(|| error.to_string()),
                ))
            }
        }
    }

    /// Reads until `input` holds a whole packet; returns it as its own buffer.
    pub(super) async fn packet(&mut self, max: u32) -> Result<Vec<u8>, Failed> {
        loop {
            match split_frame(&self.input, max) {
                Ok(Some(frame)) => {
                    let size = frame.size;
                    let rest = self.input.split_off(size);
                    return Ok(std::mem::replace(&mut self.input, rest));
                }
                Ok(None) => {}
                Err(error) => {
                    self.gate.engine.metrics.malformed.inc();
                    return Err(Failed::silent("protocol", error.to_string()));
                }
            }
            // Memory is taken as bytes arrive, never as the header promises.
            self.input.reserve(CHUNK);
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => return Err(Failed::silent("network", "closed before CONNECT")),
                Ok(_) => {}
                Err(error) => return Err(Failed::silent("network", error.to_string())),
            }
        }
    }
}
