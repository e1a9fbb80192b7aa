//! One admitted connection, without I/O.
//!
//! The driver (`gate`) owns the socket and the clock: it feeds bytes and the time in, writes what
//! comes out, and sleeps until the deadline. So the whole behaviour of a client - floods, alias
//! games, acknowledgements out of order, silence - is tested with byte strings and an invented
//! clock.
//!
//! Acknowledgements to the publisher keep the order of receipt, refusals included. One that must
//! wait - for the disk, or for a receiver whose queue is full - holds back those behind it, while
//! reading goes on: PUBREL and PUBACK must get through. Only a rate limit pauses reading.

mod end;
mod publish;
mod renewal;
mod subscribe;
mod time;

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use crate::budget::{LARGE, Level};
use crate::clock::Now;
use crate::engine::{Ahead, Attached, Close, Engine, Routing, Session, Taken, Tickets};
use crate::guard::{Inbound, Subject};
use crate::hook::{BatchFacts, Watch};
use crate::settings::Settings;
use crate::ticket::{Progress, Ticket};
use crate::wire::{
    self, AckKind, DecodeError, Packet, PacketId, QoS, ReasonCode, Version, decode, split_frame,
};

use renewal::Renewal;
pub(crate) use time::{granted_expiry, granted_keep_alive};

/// A receiver without progress that holds publishers, or a socket that takes no bytes, is ended
/// after this time (rule 13).
pub(crate) const STALL: Duration = Duration::from_secs(5);

/// How many deliveries a batch may cause, those included that come to nothing; see
/// [`Connection::waited`].
const PORTION: RangeInclusive<u16> = 1 << 8..=1 << 12;

/// A batch that caused so many bytes for each of the deliveries that it may cause ends too.
const DELIVERED: u64 = 1 << 10;

/// From this wait on many want a turn.
const CROWDED: Duration = Duration::from_millis(10);

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The client said goodbye.
    Client {
        will: bool,
        /// Its last word on the session's life, seconds.
        expiry: Option<u32>,
        reason: ReasonCode,
    },
    /// The network connection is gone.
    Lost(String),
    /// The broker ends it.
    Server(Close),
}

impl End {
    fn server(code: ReasonCode, reason: impl Into<String>) -> Self {
        Self::Server(Close {
            code,
            reason: reason.into(),
            will: true,
        })
    }
}

impl From<DecodeError> for End {
    fn from(error: DecodeError) -> Self {
        Self::server(error.reason(), format!("malformed packet: {error}"))
    }
}

/// What the handshake leaves to the connection.
pub(crate) struct Terms {
    pub(crate) version: Version,
    /// As asked for, seconds; 0 for none.
    pub(crate) keep_alive: u16,
    /// When the identity ends.
    pub(crate) until: Option<SystemTime>,
    /// Whether the client may set a session expiry at DISCONNECT: it asked for one at CONNECT.
    pub(crate) has_expiry: bool,
    /// The method of an enhanced authentication, which a re-authentication must use again.
    pub(crate) auth_method: Option<Box<str>>,
    /// Largest packet that the client takes, bytes.
    pub(crate) max_packet: Option<NonZeroU32>,
}

/// An admitted connection.
pub(crate) struct Connection {
    engine: Arc<Engine>,
    attached: Attached,
    guard: Inbound,
    watch: Watch,
    terms: Terms,
    aliases: Vec<Option<Box<str>>>,
    acks: VecDeque<PendingAck>,
    /// Weight of messages whose acknowledgements are held back, bytes.
    held_bytes: usize,
    facts: BatchFacts,
    replies: Vec<u8>,
    /// What must be on disk before more is sent.
    barrier: Option<Ticket>,
    /// Output that waits for the disk.
    sealed: Option<Box<Sealed>>,
    heard: Instant,
    /// When reading goes on; a rate limit.
    paused: Option<Instant>,
    stalled: Option<Instant>,
    /// What was last taken to be written has messages in it.
    carries_messages: bool,
    /// What was last received has woken others.
    has_woken: bool,
    /// What was last received has caused so much that others should have a turn.
    has_caused_much: bool,
    /// A batch that caused so many deliveries ends: it is priced, others get a turn, and what else
    /// was read comes with the next.
    portion: u16,
    ahead: Ahead,
    /// When the client last published, if it has since it last took something.
    published: Option<Instant>,
    renewal: Renewal,
}

/// Output, and what must be on disk before it is written.
struct Sealed {
    output: Vec<u8>,
    barrier: Ticket,
}

/// An acknowledgement in its place in the order of receipt.
struct PendingAck {
    id: PacketId,
    kind: AckKind,
    reason: ReasonCode,
    tickets: Tickets,
    /// The session knows the tickets too; see [`Attached::promise`].
    promised: bool,
    weight: usize,
}

impl Connection {
    pub(crate) fn new(
        engine: Arc<Engine>,
        attached: Attached,
        subject: Arc<Subject>,
        watch: Watch,
        terms: Terms,
        now: Now,
    ) -> Self {
        let guard = Inbound::new(subject, &engine.modules);
        Self {
            engine,
            attached,
            guard,
            watch,
            terms,
            aliases: Vec::new(),
            acks: VecDeque::new(),
            held_bytes: 0,
            facts: BatchFacts::default(),
            replies: Vec::new(),
            barrier: None,
            sealed: None,
            heard: now.mono,
            paused: None,
            stalled: None,
            carries_messages: false,
            has_woken: false,
            has_caused_much: false,
            portion: *PORTION.end(),
            ahead: Ahead::default(),
            published: None,
            renewal: Renewal::Idle,
        }
    }

    pub(crate) fn session(&self) -> &Session {
        &self.attached.session
    }

    /// Takes the packets at the beginning of `input`; says how many bytes they were. What is left
    /// is the beginning of a packet, or, if the batch [ended early](Self::has_caused_much), may be
    /// whole packets, and is to be given again. The waker is for acknowledgements that must wait.
    pub(crate) fn receive(&mut self, input: &[u8], waker: &Waker, now: Now) -> Result<usize, End> {
        let engine = Arc::clone(&self.engine);
        let session = Arc::clone(&self.attached.session);
        let mut routing = engine.routing(Some(&session), now);
        let settings = Arc::clone(routing.settings());
        let limits = settings.wire_limits();
        self.guard.refresh(routing.generation, &engine.modules);
        let portion = u64::from(self.portion);
        let mut rest = input;
        let result = loop {
            self.has_caused_much = routing.offers() >= portion
                || self.facts.fan_out_bytes >= portion * DELIVERED
                || routing.has_laden();
            if self.has_caused_much {
                break Ok(());
            }
            self.ahead.step(rest, limits.max_packet_size, &mut routing);
            let frame = match split_frame(rest, limits.max_packet_size) {
                Ok(Some(frame)) => frame,
                Ok(None) => break Ok(()),
                Err(error) => break Err(End::from(error)),
            };
            rest = rest.get(frame.size..).unwrap_or_default();
            self.facts.packets += 1;
            let size = frame.size;
            let handled = decode(frame, self.terms.version, &limits)
                .map_err(End::from)
                .and_then(|packet| self.handle(packet, size, &settings, waker, &mut routing));
            if let Err(end) = handled {
                break Err(end);
            }
            self.heard = now.mono;
        };
        let consumed = input.len() - rest.len();
        self.facts.bytes += consumed as u64;
        if self.facts.publishes > 0 {
            self.published = Some(now.mono);
        }
        self.count();
        // Whatever this batch routed is on its way before its sender is slowed or ended.
        self.has_woken = routing.wakes_others();
        self.ahead.end(&mut routing);
        drop(routing);
        let facts = std::mem::take(&mut self.facts);
        let weighed = self.weigh(&facts, now);
        result?;
        weighed?;
        Ok(consumed)
    }

    fn count(&self) {
        let metrics = &self.engine.metrics;
        metrics.packets_received.add(u64::from(self.facts.packets));
        metrics.bytes_received.add(self.facts.bytes);
        metrics
            .messages_received
            .add(u64::from(self.facts.publishes));
    }

    fn handle(
        &mut self,
        packet: Packet<'_>,
        size: usize,
        settings: &Settings,
        waker: &Waker,
        routing: &mut Routing<'_>,
    ) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => {
                self.facts.publishes += 1;
                self.facts.publish_bytes += size as u64;
                self.publish(&publish, size, settings, waker, routing)
            }
            Packet::PubAck(ack) => {
                self.acknowledged(AckKind::PubAck, &ack, routing);
                Ok(())
            }
            Packet::PubRec(ack) => {
                self.acknowledged(AckKind::PubRec, &ack, routing);
                Ok(())
            }
            Packet::PubComp(ack) => {
                self.acknowledged(AckKind::PubComp, &ack, routing);
                Ok(())
            }
            Packet::PubRel(ack) => {
                self.release(&ack, routing);
                Ok(())
            }
            Packet::Subscribe(subscribe) => self.subscribe(&subscribe, settings, routing),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe, settings, routing),
            Packet::PingReq => {
                self.facts.pings += 1;
                wire::pingresp(&mut self.replies);
                Ok(())
            }
            Packet::Disconnect(disconnect) => Err(self.disconnect(&disconnect, settings)),
            Packet::Auth(auth) => self.auth(&auth),
            // [MQTT-3.1.0-2]
            Packet::Connect(_) => Err(End::server(ReasonCode::ProtocolError, "a second CONNECT")),
        }
    }

    /// Whether the client takes the answer that was written from `start` on. One that it asked
    /// for and does not take cannot be left out either: the connection ends
    /// \[MQTT-3.1.2-24\].
    fn fits(&mut self, start: usize) -> Result<(), End> {
        let size = self.replies.len().saturating_sub(start);
        if self
            .terms
            .max_packet
            .is_some_and(|max| size > max.get() as usize)
        {
            self.replies.truncate(start);
            return Err(End::server(
                ReasonCode::PacketTooLarge,
                format!("an answer of {size} bytes is over the client's maximum packet size"),
            ));
        }
        Ok(())
    }

    /// Moves what there is to write into `into`, which must be empty.
    pub(crate) fn take_output(
        &mut self,
        into: &mut Vec<u8>,
        waker: &Waker,
        now: Now,
    ) -> Result<(), End> {
        let session = Arc::clone(&self.attached.session);
        let engine = Arc::clone(&self.engine);
        let mut routing = engine.routing(Some(&session), now);
        self.settle(waker, &mut routing)?;
        if let Some(sealed) = &mut self.sealed {
            if is_safe(&sealed.barrier, waker)? {
                *into = std::mem::take(&mut sealed.output);
                self.sealed = None;
                return Ok(());
            }
            return self.block();
        }
        let published = self.published.take();
        match self.attached.take(into, waker, published, &mut routing) {
            Taken::Output {
                sent,
                stalled,
                barrier,
            } => {
                self.facts.egress_messages += sent;
                engine.metrics.messages_sent.add(sent);
                engine
                    .metrics
                    .packets_sent
                    .add(sent + count_packets(&self.replies));
                self.carries_messages = sent > 0;
                self.stalled = stalled;
                self.barrier = barrier.or(self.barrier.take());
            }
            Taken::Close(close) => return Err(End::Server(close)),
        }
        // Answers first: a SUBACK before the retained messages that it brings.
        if !self.replies.is_empty() {
            std::mem::swap(into, &mut self.replies);
            into.append(&mut self.replies);
            self.replies = Vec::new();
        }
        if !into.is_empty()
            && let Some(barrier) = self.barrier.take()
        {
            // What stays in `into` is sent, whatever the connection ends with.
            let output = std::mem::take(into);
            if !is_safe(&barrier, waker)? {
                self.sealed = Some(Box::new(Sealed { output, barrier }));
                return self.block();
            }
            *into = output;
        }
        Ok(())
    }

    /// Whether what was last received has given other connections something to write.
    pub(crate) fn has_woken(&self) -> bool {
        self.has_woken
    }

    /// Whether others should have a turn before more is received: the last batch caused very many
    /// deliveries, or a receiver has much to write; so it ended there.
    pub(crate) fn has_caused_much(&self) -> bool {
        self.has_caused_much
    }

    /// How long the turn was in coming that it had given away. Whoever exchanges little has a turn as
    /// often as those who cause much: where that takes long their portions get smaller, which costs
    /// nothing then, since what many have caused for a receiver is one write anyway.
    pub(crate) fn waited(&mut self, time: Duration) {
        if time >= CROWDED {
            self.portion = (self.portion / 2).max(*PORTION.start());
        } else if time < CROWDED / 4 {
            self.portion = (self.portion * 2).min(*PORTION.end());
        }
    }

    /// Whether others have given this connection something to do.
    pub(crate) fn is_awake(&self) -> bool {
        self.attached.is_awake()
    }

    /// The CONNACK, which goes out before anything else.
    pub(crate) fn greet(&mut self, connack: Vec<u8>) {
        self.replies = connack;
    }

    /// The session as this connection may use it; for tests of what comes in between.
    #[cfg(test)]
    pub(crate) fn attached(&self) -> &Attached {
        &self.attached
    }

    /// The answers alone, without what the session has to send; for tests.
    #[cfg(test)]
    pub(crate) fn take_replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }

    /// Bytes of answers that wait to be taken.
    pub(crate) fn unsent(&self) -> usize {
        self.replies.len()
    }

    /// Whether a client that has taken nothing for a while, with so many bytes written for it and
    /// more behind them, is too much: memory is short.
    pub(crate) fn is_burden(&self, unsent: usize) -> bool {
        unsent > 0
            && self.engine.budget.level() >= Level::Full
            && unsent.saturating_add(self.attached.encoded()) >= LARGE
    }

    /// So many more bytes of a packet have come that is not complete. A large one is not waited for
    /// when memory is spent.
    pub(crate) fn grew(&self, bytes: usize, size: usize) -> Result<(), End> {
        if size < LARGE {
            return Ok(());
        }
        self.engine.budget.grew(bytes);
        if self.engine.budget.level() < Level::Spent {
            return Ok(());
        }
        Err(End::server(
            ReasonCode::QuotaExceeded,
            "limits.memory: memory is spent in the middle of a large packet",
        ))
    }

    /// Nothing can be taken to be written at present: the client's socket is full. Whoever ends the
    /// connection, or waits for its client, is heard all the same.
    pub(crate) fn block(&mut self) -> Result<(), End> {
        self.stalled = self.attached.block().map_err(End::Server)?;
        Ok(())
    }

    /// The client's socket took bytes.
    pub(crate) fn wrote(&mut self, bytes: usize, now: Now) {
        self.engine.metrics.bytes_sent.add(bytes as u64);
        // Answers are not what anybody waits for: a client that only pings makes no progress.
        if self.stalled.is_some() && self.carries_messages {
            self.attached.progressed(now);
        }
        if self.outbound_is_life() {
            self.heard = now.mono;
        }
    }
}

impl PendingAck {
    /// One that waits for nothing of its own.
    fn plain(kind: AckKind, id: PacketId, reason: ReasonCode) -> Self {
        Self {
            id,
            kind,
            reason,
            tickets: Tickets::new(),
            promised: false,
            weight: 0,
        }
    }
}

/// Packets in a buffer of whole ones.
fn count_packets(mut bytes: &[u8]) -> u64 {
    let mut count = 0;
    while let Ok(Some(frame)) = split_frame(bytes, wire::MAX_PACKET_SIZE) {
        bytes = bytes.get(frame.size..).unwrap_or_default();
        count += 1;
    }
    count
}

/// Whether what a persistent session is told is on disk.
fn is_safe(barrier: &Ticket, waker: &Waker) -> Result<bool, End> {
    match barrier.poll(Some(waker)) {
        Progress::Open => Ok(false),
        Progress::Complete => Ok(true),
        Progress::Failed => Err(End::server(
            ReasonCode::UnspecifiedError,
            "the store has failed",
        )),
    }
}

/// The largest `QoS`, where it is not 2: for CONNACK.
pub(crate) fn announced_max_qos(settings: &Settings) -> Option<QoS> {
    (settings.mqtt.max_qos != QoS::ExactlyOnce).then_some(settings.mqtt.max_qos)
}
