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

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use smallvec::SmallVec;

use crate::clock::Now;
use crate::engine::{
    Attached, Close, Engine, Fate, Published, Receipt, Routing, Session, Taken, Tickets,
};
use crate::guard::{self, Inbound, Subject};
use crate::hook::{BatchFacts, Disconnected, Event, Granted, Verdict, Watch};
use crate::message::{Asked, Publication};
use crate::settings::{DeniedPublish, Settings};
use crate::ticket::{Progress, Ticket};
use crate::topic::{TopicError, TopicFilter, TopicName};
use crate::wire::{
    self, Ack, AckKind, Auth, DecodeError, Delivery, Disconnect, Packet, PacketId, Publish, QoS,
    ReasonCode, Subscribe, Unsubscribe, Version, decode, split_frame,
};

/// A receiver without progress that holds publishers, or a socket that takes no bytes, is ended
/// after this time (rule 13).
pub(crate) const STALL: Duration = Duration::from_secs(5);

/// Longest filters together that observers are told of in one event, bytes: a record of them fits
/// in a line, whatever has to be escaped.
const TOLD_TOGETHER: usize = 2048;

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
    pub(crate) peer: Option<SocketAddr>,
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
    sealed: Option<(Vec<u8>, Ticket)>,
    heard: Instant,
    /// When reading goes on; a rate limit.
    paused: Option<Instant>,
    stalled: Option<Instant>,
    /// What was last taken to be written has messages in it.
    carries_messages: bool,
    /// A step of a re-authentication that the driver has to ask about.
    pub(crate) auth_step: Option<Vec<u8>>,
}

/// A publish that the policy refused.
struct Refused {
    topic: Box<str>,
    action: &'static str,
    rule: String,
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
            auth_step: None,
        }
    }

    pub(crate) fn session(&self) -> &Session {
        &self.attached.session
    }

    /// Takes the packets at the beginning of `input`; says how many bytes they were. What is left
    /// is the beginning of a packet. The waker is for acknowledgements that must wait.
    pub(crate) fn receive(&mut self, input: &[u8], waker: &Waker, now: Now) -> Result<usize, End> {
        let engine = Arc::clone(&self.engine);
        let session = Arc::clone(&self.attached.session);
        let mut routing = engine.routing(Some(&session), now);
        let settings = Arc::clone(routing.settings());
        let limits = settings.wire_limits();
        self.guard.refresh(routing.generation, &engine.modules);
        let mut rest = input;
        let result = loop {
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
        self.count();
        // Whatever this batch routed is on its way before its sender is slowed or ended.
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

    fn publish(
        &mut self,
        publish: &Publish<'_>,
        size: usize,
        settings: &Settings,
        waker: &Waker,
        routing: &mut Routing<'_>,
    ) -> Result<(), End> {
        let qos = publish.delivery.qos();
        if qos > settings.mqtt.max_qos {
            return Err(End::server(
                ReasonCode::QoSNotSupported,
                format!("QoS {} is over mqtt.max-qos", qos as u8),
            ));
        }
        let flow = match publish.delivery {
            Delivery::AtMostOnce => None,
            Delivery::AtLeastOnce { id, .. } => Some((AckKind::PubAck, id)),
            Delivery::ExactlyOnce { id, .. } => Some((AckKind::PubRec, id)),
        };
        if let Some((kind, id)) = flow {
            if kind == AckKind::PubRec {
                match self.attached.receive(id.get()) {
                    Receipt::New => {}
                    Receipt::Known(tickets) => {
                        self.repeated(id, tickets, waker);
                        return Ok(());
                    }
                    Receipt::Stale => {
                        return Err(End::server(
                            ReasonCode::SessionTakenOver,
                            "its client connected again",
                        ));
                    }
                }
            }
            self.admit_flow(kind, settings)?;
        }
        let routed = match self.route(publish, settings, routing) {
            Ok(routed) => routed,
            Err(end) => {
                self.not_received(flow, routing);
                return Err(end);
            }
        };
        match routed {
            Ok(published) => {
                self.facts.fan_out += published.receivers;
                let Some((kind, id)) = flow else {
                    return Ok(());
                };
                let reason = published.reason;
                if reason.is_error() {
                    // The flow is over [MQTT-4.3.3-9].
                    self.not_received(flow, routing);
                    if !self.terms.version.is_v5() {
                        // 3.x has no word for it, and an acknowledgement would be a lie.
                        return Err(End::server(reason, "a message could not be stored"));
                    }
                }
                let promised = kind == AckKind::PubRec && !published.tickets.is_empty();
                if promised {
                    self.attached.promise(id.get(), &published.tickets);
                }
                self.answer(
                    PendingAck {
                        id,
                        kind,
                        reason,
                        tickets: published.tickets,
                        promised,
                        weight: size,
                    },
                    waker,
                );
                Ok(())
            }
            Err(refused) => self.denied(&refused, flow, settings, waker, routing),
        }
    }

    /// A `QoS` 2 message that was received before: acknowledged again, not published again. If the
    /// first one's acknowledgement still waits in this connection, it answers this one as well.
    fn repeated(&mut self, id: PacketId, tickets: Tickets, waker: &Waker) {
        let waits = |ack: &PendingAck| ack.kind == AckKind::PubRec && ack.id == id;
        if !self.acks.iter().any(waits) {
            let promised = !tickets.is_empty();
            self.answer(
                PendingAck {
                    tickets,
                    promised,
                    ..PendingAck::plain(AckKind::PubRec, id, ReasonCode::Success)
                },
                waker,
            );
        }
    }

    /// A `QoS` 2 message that was refused: its identifier stands for a new one from now on.
    fn not_received(&self, flow: Option<(AckKind, PacketId)>, routing: &mut Routing<'_>) {
        if let Some((AckKind::PubRec, id)) = flow {
            self.attached.released(id.get(), routing);
        }
    }

    /// Through the guard to the router. The inner error is a refusal by the policy.
    fn route(
        &mut self,
        publish: &Publish<'_>,
        settings: &Settings,
        routing: &mut Routing<'_>,
    ) -> Result<Result<Published, Refused>, End> {
        let Self {
            guard,
            aliases,
            engine,
            attached,
            ..
        } = self;
        let topic = resolve(aliases, publish, settings)?;
        let asked = Asked {
            retain: publish.retain,
            will: false,
        };
        let subject = Arc::clone(guard.subject());
        let publication = Publication::new(
            topic,
            publish.payload,
            publish.delivery.qos(),
            asked,
            publish.properties,
            &subject,
            routing.millis,
        );
        let refused =
            match guard::response_topic(&publication, guard.rights(), settings, &engine.modules) {
                Err(rule) => ("publish", rule),
                Ok(()) => match guard.publish(publication, &engine.modules) {
                    Ok((publication, slot)) => {
                        let once = match publish.delivery {
                            Delivery::ExactlyOnce { id, .. } => Some(id.get()),
                            Delivery::AtMostOnce | Delivery::AtLeastOnce { .. } => None,
                        };
                        if let Some(id) = once {
                            attached.routing(id, &publication, routing);
                        }
                        let published = engine.publish(&publication, &mut slot.matched, routing);
                        if once.is_some() {
                            attached.routed(&publication, routing);
                        }
                        return Ok(Ok(published));
                    }
                    Err((action, denial)) => {
                        (action, guard.rights().describe(denial, &engine.modules))
                    }
                },
            };
        Ok(Err(Refused {
            topic: topic.as_str().into(),
            action: refused.0,
            rule: refused.1,
        }))
    }

    /// The answers to a denied publish; see `[acl] denied-publish`.
    fn denied(
        &mut self,
        refused: &Refused,
        flow: Option<(AckKind, PacketId)>,
        settings: &Settings,
        waker: &Waker,
        routing: &mut Routing<'_>,
    ) -> Result<(), End> {
        let Refused {
            topic,
            action,
            rule,
        } = refused;
        self.facts.refused += 1;
        self.engine.metrics.publishes_denied.inc();
        let event = Event::PublishDenied {
            who: self.guard.subject().snapshot(),
            topic,
            action,
            rule,
        };
        self.engine.modules.observe(&event, routing.now);
        if settings.enforcement.denied_publish == DeniedPublish::Disconnect {
            self.not_received(flow, routing);
            return Err(End::server(
                ReasonCode::NotAuthorized,
                format!("{action} to {topic:?} denied: {rule}"),
            ));
        }
        if let Some((kind, id)) = flow {
            let reason = if self.terms.version.is_v5() {
                self.not_received(flow, routing);
                ReasonCode::NotAuthorized
            } else {
                ReasonCode::Success
            };
            self.answer(PendingAck::plain(kind, id, reason), waker);
        }
        Ok(())
    }

    /// Whether one more unacknowledged publish is within what was announced
    /// \[MQTT-3.3.4-9\], and, for 3.x, within what may be held.
    fn admit_flow(&self, kind: AckKind, settings: &Settings) -> Result<(), End> {
        if self.terms.version.is_v5() {
            // A QoS 2 message counts from its receipt, this one included, to its release.
            let waiting = |ack: &&PendingAck| ack.kind == AckKind::PubAck || ack.reason.is_error();
            let open = self.attached.unreleased() + self.acks.iter().filter(waiting).count();
            let open = open - usize::from(kind == AckKind::PubRec);
            if open >= usize::from(settings.mqtt.receive_maximum.get()) {
                return Err(End::server(
                    ReasonCode::ReceiveMaximumExceeded,
                    format!("more than {open} publishes without acknowledgement"),
                ));
            }
        } else if self.held_bytes > settings.limits.queue_bytes
            || self.acks.len() > usize::from(u16::MAX)
        {
            return Err(End::server(
                ReasonCode::QuotaExceeded,
                "publishes on although acknowledgements are held back",
            ));
        }
        Ok(())
    }

    /// Acknowledges in the order of receipt, now or when the tickets are complete.
    fn answer(&mut self, ack: PendingAck, waker: &Waker) {
        if self.acks.is_empty() && ack.tickets.is_empty() {
            let (out, version) = (&mut self.replies, self.terms.version);
            wire::ack(out, version, ack.kind, ack.id, ack.reason, None);
            return;
        }
        for ticket in &ack.tickets {
            // Asked once, so that its completion wakes the connection.
            let _ = ticket.poll(Some(waker));
        }
        self.held_bytes += ack.weight;
        self.acks.push_back(ack);
    }

    /// Sends the acknowledgements that nothing holds back any more.
    fn settle(&mut self, waker: &Waker, routing: &mut Routing<'_>) -> Result<(), End> {
        while let Some(ack) = self.acks.front_mut() {
            let mut failed = false;
            while let Some(ticket) = ack.tickets.last() {
                match ticket.poll(Some(waker)) {
                    Progress::Open => return Ok(()),
                    Progress::Complete => {}
                    Progress::Failed => failed = true,
                }
                ack.tickets.pop();
            }
            if failed {
                // It was not taken: what comes with this identifier next is a new message.
                if ack.promised {
                    self.attached.released(ack.id.get(), routing);
                }
                if !self.terms.version.is_v5() {
                    // 3.x has no word for it: no acknowledgement is the only honest answer.
                    return Err(End::server(
                        ReasonCode::UnspecifiedError,
                        "a message could not be stored",
                    ));
                }
                ack.reason = ReasonCode::UnspecifiedError;
            } else if ack.promised {
                self.attached.kept_promise(ack.id.get());
            }
            let version = self.terms.version;
            wire::ack(
                &mut self.replies,
                version,
                ack.kind,
                ack.id,
                ack.reason,
                None,
            );
            self.held_bytes -= ack.weight;
            self.acks.pop_front();
        }
        Ok(())
    }

    fn acknowledged(&mut self, kind: AckKind, ack: &Ack<'_>, routing: &mut Routing<'_>) {
        let moved = self
            .attached
            .acknowledged(kind, ack.id.get(), ack.reason, routing);
        self.facts.stray += u32::from(!moved);
    }

    fn release(&mut self, ack: &Ack<'_>, routing: &mut Routing<'_>) {
        let known = self.attached.released(ack.id.get(), routing);
        self.facts.stray += u32::from(!known);
        let reason = if known || !self.terms.version.is_v5() {
            ReasonCode::Success
        } else {
            ReasonCode::PacketIdentifierNotFound
        };
        let version = self.terms.version;
        wire::ack(
            &mut self.replies,
            version,
            AckKind::PubComp,
            ack.id,
            reason,
            None,
        );
    }

    fn subscribe(
        &mut self,
        subscribe: &Subscribe<'_>,
        settings: &Settings,
        routing: &mut Routing<'_>,
    ) -> Result<(), End> {
        let mut codes: SmallVec<[ReasonCode; 8]> = SmallVec::new();
        let mut granted: SmallVec<[Granted<'_>; 8]> = SmallVec::new();
        let mut told = 0;
        let mut sound = Ok(());
        for (text, options) in &subscribe.filters {
            self.facts.filters += 1;
            let filter = match filter(text, settings) {
                Ok(filter) => filter,
                Err(end) => {
                    sound = Err(end);
                    break;
                }
            };
            let id = subscribe.subscription_id;
            let answer = filter.map_or(Err(ReasonCode::TopicFilterInvalid), |filter| {
                self.engine
                    .subscribe(&self.attached, filter, *options, id, routing)
            });
            codes.push(match answer {
                Ok(new) => {
                    if told + new.filter.len() > TOLD_TOGETHER {
                        self.subscribed(&granted, routing);
                        granted.clear();
                        told = 0;
                    }
                    told += new.filter.len();
                    granted.push(new);
                    match new.qos {
                        QoS::AtMostOnce => ReasonCode::Success,
                        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
                        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
                    }
                }
                Err(code) => {
                    self.facts.refused += 1;
                    code
                }
            });
        }
        self.subscribed(&granted, routing);
        sound?;
        let version = self.terms.version;
        let before = self.replies.len();
        wire::suback(&mut self.replies, version, subscribe.id, &codes, None);
        self.fits(before)
    }

    /// Tells the observers what was granted.
    fn subscribed(&self, granted: &[Granted<'_>], routing: &Routing<'_>) {
        if !granted.is_empty() {
            let event = Event::Subscribed {
                who: self.guard.subject().snapshot(),
                granted,
            };
            self.engine.modules.observe(&event, routing.now);
        }
    }

    fn unsubscribe(
        &mut self,
        unsubscribe: &Unsubscribe<'_>,
        settings: &Settings,
        routing: &mut Routing<'_>,
    ) -> Result<(), End> {
        let mut codes: SmallVec<[ReasonCode; 8]> = SmallVec::new();
        for text in &unsubscribe.filters {
            self.facts.filters += 1;
            codes.push(match filter(text, settings)? {
                Some(filter) => self.engine.unsubscribe(&self.attached, filter, routing),
                None => ReasonCode::NoSubscriptionExisted,
            });
        }
        let version = self.terms.version;
        let before = self.replies.len();
        wire::unsuback(&mut self.replies, version, unsubscribe.id, &codes, None);
        self.fits(before)
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

    fn disconnect(&self, disconnect: &Disconnect<'_>, settings: &Settings) -> End {
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

    fn auth(&mut self, auth: &Auth<'_>) -> Result<(), End> {
        // [MQTT-4.12.1-1]: the method of CONNECT, and none where it had none.
        let same =
            self.terms.auth_method.is_some() && self.terms.auth_method.as_deref() == auth.method;
        if !same || self.auth_step.is_some() {
            return Err(End::server(
                ReasonCode::ProtocolError,
                "an AUTH that does not continue an authentication",
            ));
        }
        let data = auth.data.map(|data| data.0.expose().to_vec());
        self.auth_step = Some(data.unwrap_or_default());
        Ok(())
    }

    /// The client proved the same principal anew: rights, attributes and lease are those of now.
    pub(crate) fn renew(
        &mut self,
        subject: Arc<Subject>,
        until: Option<SystemTime>,
        data: Option<&[u8]>,
        now: Now,
    ) {
        self.engine.renew(&self.attached, Arc::clone(&subject), now);
        self.guard = Inbound::new(subject, &self.engine.modules);
        self.terms.until = until;
        self.send_auth(ReasonCode::Success, data);
    }

    /// Asks the client for the next step of a re-authentication, or tells it the result.
    pub(crate) fn send_auth(&mut self, reason: ReasonCode, data: Option<&[u8]>) {
        if let Some(method) = &self.terms.auth_method {
            wire::auth(&mut self.replies, reason, method, data, None);
        }
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
        if let Some((sealed, barrier)) = &mut self.sealed {
            if is_safe(barrier, waker)? {
                *into = std::mem::take(sealed);
                self.sealed = None;
            }
            return Ok(());
        }
        match self.attached.take(into, waker, &mut routing) {
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
            && !is_safe(&barrier, waker)?
        {
            self.sealed = Some((std::mem::take(into), barrier));
        }
        Ok(())
    }

    /// The CONNACK, which goes out before anything else.
    pub(crate) fn greet(&mut self, connack: Vec<u8>) {
        self.replies = connack;
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

    /// A 3.x client that asked for no keep alive, or a longer one than is granted, cannot be told
    /// another: bytes that it takes count as life.
    fn outbound_is_life(&self) -> bool {
        let asked = Duration::from_secs(self.terms.keep_alive.into());
        let max = self.engine.settings.load().mqtt.keep_alive_max;
        !self.terms.version.is_v5() && (asked.is_zero() || asked > max)
    }

    /// Whether reading is paused by a rate limit. When a pause ends the meters are asked again:
    /// the debt may be larger than one pause.
    pub(crate) fn is_paused(&mut self, now: Now) -> Result<bool, End> {
        match self.paused {
            None => Ok(false),
            Some(until) if until > now.mono => Ok(true),
            Some(_) => {
                self.paused = None;
                self.weigh(&BatchFacts::default(), now)?;
                Ok(self.paused.is_some())
            }
        }
    }

    /// Asks the meters about what was read.
    fn weigh(&mut self, facts: &BatchFacts, now: Now) -> Result<(), End> {
        match self.watch.batch(facts, now) {
            Verdict::Admit => Ok(()),
            Verdict::Slow(wait) => {
                self.paused = Some(now.mono + wait);
                Ok(())
            }
            Verdict::Refuse { code, reason, will } => {
                self.limit_hit("admission", &reason, now);
                Err(End::Server(Close { code, reason, will }))
            }
        }
    }

    /// When to look again: keep alive, the end of the identity, a pause, a stall.
    pub(crate) fn deadline(&self, now: Now) -> Instant {
        let mut deadline = self.heard + self.patience();
        if let Some(until) = self.terms.until {
            let left = until.duration_since(now.wall).unwrap_or_default();
            deadline = deadline.min(now.mono + left);
        }
        if let Some(paused) = self.paused {
            deadline = deadline.min(paused);
        }
        if let Some(since) = self.stalled {
            deadline = deadline.min(since + STALL);
        }
        deadline
    }

    /// One and a half keep alives \[MQTT-3.1.2-22\].
    fn patience(&self) -> Duration {
        let max = self.engine.settings.load().mqtt.keep_alive_max;
        granted_keep_alive(self.terms.keep_alive, max) * 3 / 2
    }

    /// What the time says.
    pub(crate) fn check_time(&self, now: Now) -> Result<(), End> {
        if self.terms.until.is_some_and(|until| until <= now.wall) {
            return Err(End::server(
                ReasonCode::NotAuthorized,
                "the credential has expired",
            ));
        }
        if self.heard + self.patience() <= now.mono {
            return Err(End::server(
                ReasonCode::KeepAliveTimeout,
                "silent for one and a half keep alives",
            ));
        }
        if self.stalled.is_some_and(|since| since + STALL <= now.mono) {
            return Err(self.slow_consumer(now));
        }
        Ok(())
    }

    /// The client takes nothing and holds others up.
    pub(crate) fn slow_consumer(&self, now: Now) -> End {
        self.engine.metrics.slow_consumers.inc();
        let reason = "no progress for 5 s with messages waiting";
        self.limit_hit("limits.queue-messages", reason, now);
        End::server(ReasonCode::QuotaExceeded, reason)
    }

    fn limit_hit(&self, limit: &str, reason: &str, now: Now) {
        self.engine.metrics.limits_hit.inc();
        let event = Event::LimitHit {
            who: Some(self.guard.subject().snapshot()),
            peer: self.terms.peer,
            limit,
            reason,
        };
        self.engine.modules.observe(&event, now);
    }

    /// The connection is over; what is told to the client, if anything.
    pub(crate) fn finish(&mut self, end: &End, now: Now) -> Vec<u8> {
        let mut farewell = std::mem::take(&mut self.replies);
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
            peer: self.terms.peer,
            how,
            reason: &reason,
        };
        self.engine.modules.observe(&event, now);
        self.engine.detach(&self.attached, will, expiry, now);
        farewell
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

/// The keep alive that holds: what was asked for, but no more than the longest granted, which
/// also stands in for none.
pub(crate) fn granted_keep_alive(asked: u16, max: Duration) -> Duration {
    match Duration::from_secs(asked.into()) {
        Duration::ZERO => max,
        asked => asked.min(max),
    }
}

/// The session expiry that holds, seconds.
pub(crate) fn granted_expiry(asked: u32, settings: &Settings) -> u32 {
    let max = settings.mqtt.session_expiry_max.as_secs();
    asked.min(u32::try_from(max).unwrap_or(u32::MAX))
}

/// The topic of a publish, whether it is spelled out or stands for an alias. What is authorized
/// is this name, so an alias cannot carry anything past the guard.
fn resolve<'a>(
    aliases: &'a mut Vec<Option<Box<str>>>,
    publish: &Publish<'a>,
    settings: &Settings,
) -> Result<TopicName<'a>, End> {
    let name = |text| {
        TopicName::new(text, settings.mqtt.topic).map_err(|error| {
            let code = match error {
                TopicError::TooLong | TopicError::TooDeep => ReasonCode::TopicNameInvalid,
                TopicError::Empty => ReasonCode::ProtocolError,
                TopicError::Nul
                | TopicError::Wildcard
                | TopicError::MisplacedWildcard
                | TopicError::Share => ReasonCode::MalformedPacket,
            };
            End::server(code, format!("the topic {error}"))
        })
    };
    let Some(alias) = publish.alias else {
        return name(publish.topic);
    };
    if alias.get() > settings.mqtt.topic_alias_max {
        return Err(End::server(
            ReasonCode::TopicAliasInvalid,
            format!("alias {alias} is over mqtt.topic-alias-max"),
        ));
    }
    let place = usize::from(alias.get()) - 1;
    if !publish.topic.is_empty() {
        let topic = name(publish.topic)?;
        if aliases.len() <= place {
            aliases.resize(place + 1, None);
        }
        if let Some(slot) = aliases.get_mut(place)
            && slot.as_deref() != Some(topic.as_str())
        {
            *slot = Some(topic.as_str().into());
        }
        return Ok(topic);
    }
    match aliases.get(place) {
        Some(Some(known)) => name(known),
        _ => Err(End::server(
            ReasonCode::ProtocolError,
            format!("alias {alias} was never set"),
        )),
    }
}

/// A checked filter; `None` if it is sound but over a limit.
fn filter<'a>(text: &'a str, settings: &Settings) -> Result<Option<TopicFilter<'a>>, End> {
    match TopicFilter::new(text, settings.mqtt.topic) {
        Ok(filter) => Ok(Some(filter)),
        Err(TopicError::TooLong | TopicError::TooDeep) => Ok(None),
        Err(error @ TopicError::Share) => Err(End::server(
            ReasonCode::ProtocolError,
            format!("the filter {error}"),
        )),
        Err(
            error @ (TopicError::Empty
            | TopicError::Nul
            | TopicError::Wildcard
            | TopicError::MisplacedWildcard),
        ) => Err(End::server(
            ReasonCode::MalformedPacket,
            format!("the filter {error}"),
        )),
    }
}

/// The largest `QoS`, where it is not 2: for CONNACK.
pub(crate) fn announced_max_qos(settings: &Settings) -> Option<QoS> {
    (settings.mqtt.max_qos != QoS::ExactlyOnce).then_some(settings.mqtt.max_qos)
}
