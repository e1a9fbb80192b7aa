//! Many connections on one thread: readiness, reading and writing in large pieces.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use socket2::{Domain, Socket, Type};

use crate::wire::{self, Incoming, Login, Version};

/// One read takes up to so much.
const SCRATCH: usize = 256 << 10;

/// Largest packet that fits into one read with room to spare.
pub(crate) const MAX_PAYLOAD: usize = 128 << 10;

/// Reads of one connection before others get a turn.
const ROUNDS: usize = 8;

/// Nothing more is put into an output that holds so much.
const HIGH_WATER: usize = 64 << 10;

/// What a way to load a broker does with what it is sent.
pub(crate) trait Client {
    /// A packet for connection `who`; what is appended to `reply` is sent. `at` is when it was read.
    fn packet(&mut self, who: usize, packet: Incoming<'_>, reply: &mut Vec<u8>, at: Instant);
}

/// How connections are made.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Addresses to connect from, 127.0.0.1 and those behind it; 1 leaves it to the system.
    pub(crate) sources: u8,
    pub(crate) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    pub(crate) version: Version,
}

/// All connections of a run.
pub(crate) struct Pool {
    target: Target,
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    scratch: Vec<u8>,
    ready: Vec<(usize, bool)>,
    /// Connections that have more to read than one turn takes.
    again: Vec<usize>,
    pending: usize,
    up: usize,
    failures: Failures,
}

/// What went wrong with connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures {
    /// CONNACKs that said no.
    pub(crate) refused: u64,
    /// Connections that ended before they were to.
    pub(crate) closed: u64,
    /// The first of all, in words.
    pub(crate) first: Option<String>,
}

struct Connection {
    stream: Stream,
    state: State,
    receive_maximum: u16,
    /// The beginning of a packet.
    partial: Vec<u8>,
    output: Vec<u8>,
    /// So much of `output` is gone already.
    written: usize,
    /// The socket took less than it was offered.
    blocked: bool,
    /// The CONNACK said no.
    refused: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    Up,
    Closed,
}

enum Stream {
    Plain(TcpStream),
    Tls(TcpStream, Box<ClientConnection>),
    Closed,
}

impl Target {
    /// Begins to connect, for connection `who`.
    fn connect(&self, who: usize) -> io::Result<TcpStream> {
        if self.sources == 1 {
            return TcpStream::connect(self.address);
        }
        let last = who % usize::from(self.sources) + 1;
        let source = Ipv4Addr::new(127, 0, 0, u8::try_from(last).unwrap_or(1));
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        match socket.connect(&self.address.into()) {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => Err(error),
            Ok(()) | Err(_) => Ok(TcpStream::from_std(socket.into())),
        }
    }
}

impl Pool {
    pub(crate) fn new(target: Target) -> io::Result<Self> {
        Ok(Self {
            target,
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            connections: Vec::new(),
            scratch: vec![0; SCRATCH],
            ready: Vec::new(),
            again: Vec::new(),
            pending: 0,
            up: 0,
            failures: Failures::default(),
        })
    }

    pub(crate) fn version(&self) -> Version {
        self.target.version
    }

    /// Connections that wait for their CONNACK.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Connections that are admitted and open.
    pub(crate) fn up(&self) -> usize {
        self.up
    }

    pub(crate) fn failures(&self) -> &Failures {
        &self.failures
    }

    /// What the broker takes unacknowledged from connection `who`.
    pub(crate) fn receive_maximum(&self, who: usize) -> u16 {
        self.connections
            .get(who)
            .map_or(u16::MAX, |connection| connection.receive_maximum)
    }

    /// Opens a connection; its number is one more than the last one's.
    pub(crate) fn open(&mut self, login: &Login<'_>) -> io::Result<usize> {
        let who = self.connections.len();
        let mut socket = self.target.connect(who)?;
        // Batches are made here, not by Nagle.
        socket.set_nodelay(true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut socket, Token(who), interest)?;
        let stream = match &self.target.tls {
            None => Stream::Plain(socket),
            Some((config, name)) => {
                let tls = ClientConnection::new(Arc::clone(config), name.clone());
                let mut tls = Box::new(tls.map_err(io::Error::other)?);
                // `output` has the bound.
                tls.set_buffer_limit(None);
                Stream::Tls(socket, tls)
            }
        };
        let mut output = Vec::new();
        wire::connect(&mut output, self.target.version, login);
        self.connections.push(Connection {
            stream,
            state: State::Opening,
            receive_maximum: u16::MAX,
            partial: Vec::new(),
            output,
            written: 0,
            // Until the first event says that the connection stands.
            blocked: true,
            refused: false,
        });
        self.pending += 1;
        Ok(who)
    }

    /// Says goodbye and closes.
    pub(crate) fn close(&mut self, who: usize) {
        if let Some(output) = self.output(who) {
            output.extend_from_slice(&wire::DISCONNECT);
        }
        self.flush(who);
        self.end(who);
    }

    /// Where to put packets of connection `who`; `None` while it has more than it can send.
    pub(crate) fn output(&mut self, who: usize) -> Option<&mut Vec<u8>> {
        let connection = self.connections.get_mut(who)?;
        let free = connection.state == State::Up && !connection.blocked;
        (free && connection.output.len() < HIGH_WATER).then_some(&mut connection.output)
    }

    /// Sends what there is for connection `who`, as far as the socket takes it.
    pub(crate) fn flush(&mut self, who: usize) {
        let Some(connection) = self.connections.get_mut(who) else {
            return;
        };
        if !connection.blocked
            && let Err(error) = connection.flush()
        {
            self.fail(who, &error.to_string());
        }
    }

    /// Waits for something to happen, at most so long, and handles it.
    pub(crate) fn turn(&mut self, wait: Duration, client: &mut impl Client) -> io::Result<()> {
        let wait = if self.again.is_empty() {
            wait
        } else {
            Duration::ZERO
        };
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        self.ready.clear();
        self.ready
            .extend(self.again.drain(..).map(|who| (who, false)));
        self.ready.extend(
            self.events
                .iter()
                .map(|event| (event.token().0, event.is_writable())),
        );
        let ready = std::mem::take(&mut self.ready);
        for (who, writable) in &ready {
            self.serve(*who, *writable, client);
        }
        self.ready = ready;
        Ok(())
    }

    fn serve(&mut self, who: usize, writable: bool, client: &mut impl Client) {
        let Some(connection) = self.connections.get_mut(who) else {
            return;
        };
        if connection.state == State::Closed {
            return;
        }
        if writable {
            connection.blocked = false;
        }
        let was = connection.state;
        let version = self.target.version;
        let outcome = connection.read(&mut self.scratch, version, who, client);
        // Answers that were written before the end still count as sent.
        let outcome = if connection.blocked {
            outcome
        } else {
            connection.flush().and(outcome)
        };
        if was == State::Opening && connection.state == State::Up {
            self.pending -= 1;
            self.up += 1;
        }
        match outcome {
            Ok(More::No) => {}
            Ok(More::Perhaps) => self.again.push(who),
            Err(error) => self.fail(who, &error.to_string()),
        }
    }

    fn fail(&mut self, who: usize, why: &str) {
        let connection = self.connections.get(who);
        if connection.is_some_and(|connection| connection.refused) {
            self.failures.refused += 1;
        } else {
            self.failures.closed += 1;
        }
        self.failures.first.get_or_insert_with(|| why.to_owned());
        self.end(who);
    }

    fn end(&mut self, who: usize) {
        let Some(connection) = self.connections.get_mut(who) else {
            return;
        };
        match connection.state {
            State::Opening => self.pending -= 1,
            State::Up => self.up -= 1,
            State::Closed => return,
        }
        connection.state = State::Closed;
        connection.partial = Vec::new();
        connection.output = Vec::new();
        connection.written = 0;
        connection.stream = Stream::Closed;
    }
}

/// Whether a connection may have more to read, though it was not said so again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum More {
    No,
    Perhaps,
}

impl Connection {
    fn read(
        &mut self,
        scratch: &mut [u8],
        version: Version,
        who: usize,
        client: &mut impl Client,
    ) -> io::Result<More> {
        for _ in 0..ROUNDS {
            let kept = self.partial.len();
            let (front, free) = scratch
                .split_at_mut_checked(kept)
                .ok_or_else(|| io::Error::other("a packet larger than the buffer"))?;
            front.copy_from_slice(&self.partial);
            let room = free.len();
            let count = match self.stream.read(free) {
                Ok(0) => return Err(io::Error::other("the broker closed the connection")),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(More::No),
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(More::No),
                Err(error) => return Err(error),
            };
            let at = Instant::now();
            let mut rest = scratch.get(..kept + count).unwrap_or_default();
            while let Some((packet, size)) = wire::split(rest, version).map_err(io::Error::other)? {
                rest = rest.get(size..).unwrap_or_default();
                self.take(packet, who, client, at)?;
            }
            self.partial.clear();
            self.partial.extend_from_slice(rest);
            // A short read has emptied the socket; TLS may hold more.
            if count < room && matches!(self.stream, Stream::Plain(_)) {
                return Ok(More::No);
            }
        }
        Ok(More::Perhaps)
    }

    fn take(
        &mut self,
        packet: Incoming<'_>,
        who: usize,
        client: &mut impl Client,
        at: Instant,
    ) -> io::Result<()> {
        match (self.state, packet) {
            (
                State::Opening,
                Incoming::ConnAck {
                    code: 0,
                    receive_maximum,
                },
            ) => {
                self.state = State::Up;
                self.receive_maximum = receive_maximum;
            }
            (State::Opening, Incoming::ConnAck { code, .. }) => {
                self.refused = true;
                return Err(io::Error::other(format!("CONNACK with code {code:#04x}")));
            }
            (_, Incoming::Disconnect { code }) => {
                return Err(io::Error::other(format!(
                    "DISCONNECT with code {code:#04x}"
                )));
            }
            (State::Up, _) => {}
            (State::Opening | State::Closed, _) => {
                return Err(io::Error::other("a packet before the CONNACK"));
            }
        }
        client.packet(who, packet, &mut self.output, at);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = match &mut self.stream {
            Stream::Plain(socket) => {
                let mut sent = Ok(());
                while let Some(rest) = self.output.get(self.written..).filter(|r| !r.is_empty()) {
                    match socket.write(rest) {
                        Ok(count) => self.written += count,
                        Err(error) => {
                            sent = Err(error);
                            break;
                        }
                    }
                }
                sent
            }
            Stream::Tls(socket, tls) => {
                tls.writer().write_all(&self.output)?;
                self.written = self.output.len();
                let mut sent = Ok(());
                while tls.wants_write() && sent.is_ok() {
                    sent = tls.write_tls(socket).map(drop);
                }
                sent
            }
            Stream::Closed => Ok(()),
        };
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        }
        match result {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::NotConnected
                ) =>
            {
                self.blocked = true;
                Ok(())
            }
            other => other,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            Self::Tls(socket, tls) => loop {
                match tls.reader().read(into) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    other => return other,
                }
                if tls.read_tls(socket)? == 0 {
                    return Ok(0);
                }
                tls.process_new_packets().map_err(io::Error::other)?;
            },
            Self::Closed => Ok(0),
        }
    }
}
