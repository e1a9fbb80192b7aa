//! Listening sockets and the accept loop.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::clock::Now;
use crate::hook::{Arrival, Event, Verdict};
use crate::metrics::Metrics;
use crate::wire::ReasonCode;

use super::proxy::Prefix;
use super::stream::Stream;
use super::task::Task;
use super::websocket::upgrade::WebSocketRules;
use super::{Gate, Place, handshake};

/// Connections that the kernel may hold for us.
const BACKLOG: i32 = 4096;

/// A dead peer's unacknowledged bytes end its connection after this time.
const USER_TIMEOUT: Duration = Duration::from_mins(2);

/// A listener as configured.
#[derive(Clone)]
pub struct Listener {
    /// Its name; policies may ask for it.
    pub name: Arc<str>,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// What the bytes are, behind TLS where there is TLS.
    pub transport: Transport,
    /// Who must begin every connection with a PROXY header and is believed; everybody else is
    /// turned away. `None`: no proxy, clients connect directly.
    pub trusted_proxies: Option<Vec<Prefix>>,
    /// TLS; `None` listens in plaintext.
    pub tls: Option<Arc<ServerConfig>>,
    /// The authentication methods looked at; `None`: all that are configured.
    pub methods: Option<Vec<Box<str>>>,
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket, for local clients; only the broker's own user may connect.
    Unix(PathBuf),
}

/// What a listener speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// MQTT itself.
    Mqtt,
    /// MQTT over WebSocket.
    WebSocket(WebSocketRules),
}

/// A listener that is bound and does not accept yet.
pub(crate) struct Bound {
    pub(crate) shared: Arc<Shared>,
    pub(crate) address: Option<SocketAddr>,
    socket: Socketed,
}

enum Socketed {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// What the connections of a listener know of it.
pub(crate) struct Shared {
    pub(crate) name: Arc<str>,
    pub(crate) methods: Option<Vec<Box<str>>>,
    pub(crate) loopback: bool,
    pub(super) transport: Transport,
    pub(super) trusted_proxies: Option<Vec<Prefix>>,
    /// Swapped in whole when certificates, CAs or CRLs change.
    pub(crate) tls: ArcSwapOption<ServerConfig>,
}

/// Binds a listener.
pub(crate) fn bind(listener: &Listener) -> io::Result<Bound> {
    let (socket, address, loopback) = match &listener.endpoint {
        Endpoint::Tcp(address) => {
            let socket = Socket::new(
                Domain::for_address(*address),
                Type::STREAM.nonblocking(),
                Some(Protocol::TCP),
            )?;
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            prepare(&socket);
            socket.bind(&(*address).into())?;
            socket.listen(BACKLOG)?;
            let socket = TcpListener::from_std(socket.into())?;
            let address = socket.local_addr()?;
            (
                Socketed::Tcp(socket),
                Some(address),
                address.ip().is_loopback(),
            )
        }
        Endpoint::Unix(path) => {
            // A socket that a killed broker left behind; anything else is in the way.
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            let socket = UnixListener::bind(path)?;
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
            (Socketed::Unix(socket, path.clone()), None, true)
        }
    };
    Ok(Bound {
        shared: Arc::new(Shared {
            name: Arc::clone(&listener.name),
            methods: listener.methods.clone(),
            loopback,
            transport: listener.transport.clone(),
            trusted_proxies: listener.trusted_proxies.clone(),
            tls: ArcSwapOption::new(listener.tls.clone()),
        }),
        address,
        socket,
    })
}

impl Bound {
    /// Accepts until the broker ends.
    pub(crate) async fn accept(self, gate: Arc<Gate>) {
        let mut stopping = gate.stopping.clone();
        let mut stopped = pin!(stopping.wait_for(|stop| *stop));
        let mut spare = File::open("/dev/null").ok();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = &mut stopped => break,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    gate.engine.metrics.accepted.inc();
                    arrived(&gate, &self.shared, stream, peer);
                }
                Err(error) if out_of_descriptors(&error) => {
                    // Without a descriptor the connection can be neither served nor refused, and
                    // stays in the backlog, so that accept would fail on and on. The spare one
                    // takes it in to close it.
                    drop(spare.take());
                    if self.socket.shed().await {
                        gate.engine.metrics.shed.inc();
                    }
                    spare = File::open("/dev/null").ok();
                    if spare.is_none() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    tracing::warn!(
                        listener = &*self.shared.name,
                        "no file descriptor left; a connection was shed"
                    );
                }
                Err(error) => {
                    tracing::warn!(listener = &*self.shared.name, %error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        if let Socketed::Unix(_, path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Socketed {
    async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Tcp(socket) => socket
                .accept()
                .await
                .map(|(stream, peer)| (Stream::Tcp(stream), Some(peer))),
            Self::Unix(socket, _) => socket
                .accept()
                .await
                .map(|(stream, _)| (Stream::Unix(stream), None)),
        }
    }

    /// Takes one connection in and closes it at once.
    async fn shed(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(20), self.accept())
            .await
            .is_ok_and(|accepted| accepted.is_ok())
    }
}

fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Decides whether a new connection is looked at, and starts its handshake.
fn arrived(gate: &Arc<Gate>, shared: &Arc<Shared>, stream: Stream, peer: Option<SocketAddr>) {
    let now = Now::read();
    let address = peer.map(|peer| peer.ip().to_canonical());
    let metrics = &gate.engine.metrics;
    // Over a Unix socket comes the broker's own user alone.
    if peer.is_some() && gate.is_spent() {
        metrics.memory_arrivals_shed.inc();
        let (check, code, reason) = Turned::Limit("limits.memory").counted(metrics);
        refused(gate, shared, peer, check, code, &reason, now);
        return;
    }
    let admitted = match &shared.trusted_proxies {
        None => admit(gate, shared, address, now),
        // A proxy stands for its clients: they are asked about and counted, once it has said who
        // they are.
        Some(proxies) if address.is_some_and(|peer| proxies.iter().any(|p| p.contains(peer))) => {
            gate.place(None)
                .map(|place| (place, Duration::ZERO))
                .map_err(Turned::Limit)
        }
        Some(_) => {
            metrics.untrusted_proxies.inc();
            let reason = "the peer is not in trusted-proxies";
            refused(gate, shared, peer, "proxy", None, reason, now);
            return;
        }
    };
    let (place, wait) = match admitted {
        Ok(admitted) => admitted,
        Err(turned) => {
            let (check, code, reason) = turned.counted(metrics);
            refused(gate, shared, peer, check, code, &reason, now);
            return;
        }
    };
    let work = handshake::run(
        Arc::clone(gate),
        Arc::clone(shared),
        stream,
        peer,
        place,
        wait,
    );
    tokio::spawn(Task::Arriving(Box::pin(work)));
}

/// Why an address gets no further.
pub(super) enum Turned {
    /// An admission module says so.
    Refused(ReasonCode, String),
    /// A limit on connections.
    Limit(&'static str),
}

impl Turned {
    /// Counts it and puts it into words: the check, a code, the reason.
    pub(super) fn counted(self, metrics: &Metrics) -> (&'static str, Option<ReasonCode>, String) {
        match self {
            Self::Refused(code, reason) => {
                metrics.refused_arrivals.inc();
                ("admission", Some(code), reason)
            }
            Self::Limit(limit) => {
                metrics.shed.inc();
                metrics.limits_hit.inc();
                ("limit", None, limit.to_owned())
            }
        }
    }
}

/// Whether an address may come in now: a place, and how long it has to wait first.
fn admit(
    gate: &Arc<Gate>,
    shared: &Shared,
    address: Option<IpAddr>,
    now: Now,
) -> Result<(Place, Duration), Turned> {
    let wait = may_arrive(gate, shared, address, now)?;
    let place = gate.place(address).map_err(Turned::Limit)?;
    Ok((place, wait))
}

/// Asks the admission modules about an address; how long it has to wait.
pub(super) fn may_arrive(
    gate: &Gate,
    shared: &Shared,
    address: Option<IpAddr>,
    now: Now,
) -> Result<Duration, Turned> {
    let arrival = Arrival {
        address,
        listener: &shared.name,
        proven: false,
    };
    match gate.engine.modules.arrive(&arrival, now) {
        Verdict::Admit => Ok(Duration::ZERO),
        Verdict::Slow(wait) => Ok(wait),
        Verdict::Refuse { code, reason, .. } => Err(Turned::Refused(code, reason)),
    }
}

/// Small packets go out at once, and a peer that is gone is noticed. What is accepted inherits it
/// from the socket that listens. Failures are no reason not to listen: the options are not
/// everywhere.
fn prepare(socket: &Socket) {
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
}

/// Tells the observers of a connection that is refused before it has an identity.
pub(super) fn refused(
    gate: &Gate,
    shared: &Shared,
    peer: Option<SocketAddr>,
    check: &str,
    code: Option<ReasonCode>,
    reason: &str,
    now: Now,
) {
    let event = Event::ConnectionRefused {
        listener: &shared.name,
        peer,
        client_id: None,
        claimed: None,
        check,
        code,
        reason,
    };
    gate.engine.modules.observe(&event, now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_accepted_sends_small_packets_at_once_and_notices_a_dead_peer() {
        let bound = bind(&Listener {
            name: "test".into(),
            endpoint: Endpoint::Tcp(([127, 0, 0, 1], 0).into()),
            transport: Transport::Mqtt,
            trusted_proxies: None,
            tls: None,
            methods: None,
        })
        .unwrap();
        let address = bound.address.unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let (stream, _) = bound.socket.accept().await.unwrap();
        let Stream::Tcp(tcp) = stream else {
            panic!("a TCP listener accepted something else");
        };
        let socket = socket2::SockRef::from(&tcp);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        drop(client);
    }
}
