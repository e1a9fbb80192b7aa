//! Listening sockets and the accept loop.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use crate::clock::Now;
use crate::hook::{Arrival, Event, Verdict};

use super::stream::Stream;
use super::{Gate, handshake};

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
        let mut spare = File::open("/dev/null").ok();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => break,
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
    let verdict = gate.engine.modules.arrive(
        &Arrival {
            address,
            listener: &shared.name,
        },
        now,
    );
    let wait = match verdict {
        Verdict::Admit => Duration::ZERO,
        Verdict::Slow(wait) => wait,
        Verdict::Refuse { reason, code, .. } => {
            metrics.refused_arrivals.inc();
            refused(gate, shared, peer, "admission", Some(code), &reason, now);
            return;
        }
    };
    let place = match gate.place(address) {
        Ok(place) => place,
        Err(limit) => {
            metrics.shed.inc();
            metrics.limits_hit.inc();
            refused(gate, shared, peer, "limit", None, limit, now);
            return;
        }
    };
    if let Stream::Tcp(tcp) = &stream {
        prepare(tcp);
    }
    let work = handshake::run(
        Arc::clone(gate),
        Arc::clone(shared),
        stream,
        peer,
        place,
        wait,
        now,
    );
    tokio::spawn(work);
}

/// Small packets go out at once, and a peer that is gone is noticed. Failures are no reason to
/// refuse: some transports have no such options.
fn prepare(tcp: &TcpStream) {
    let socket = socket2::SockRef::from(tcp);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
}

/// Tells the observers of a connection that is refused before it has an identity.
pub(super) fn refused(
    gate: &Gate,
    shared: &Shared,
    peer: Option<SocketAddr>,
    check: &str,
    code: Option<crate::wire::ReasonCode>,
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
