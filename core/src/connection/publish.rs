//! PUBLISH and its acknowledgements, both ways: what waits keeps its place in the order of receipt.

use std::sync::Arc;
use std::task::Waker;

use crate::engine::{Published, Receipt, Routing, Tickets};
use crate::guard;
use crate::hook::Event;
use crate::message::{Asked, Publication};
use crate::settings::{DeniedPublish, Settings};
use crate::ticket::Progress;
use crate::topic::{TopicError, TopicName};
use crate::wire::{self, Ack, AckKind, Delivery, PacketId, Publish, QoS, ReasonCode};

use super::{Connection, End, PendingAck};

/// A publish that the policy refused.
struct Refused {
    topic: Box<str>,
    qos: QoS,
    payload: usize,
    action: &'static str,
    rule: String,
}

impl Connection {
    pub(super) fn publish(
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
            facts,
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
                        let bytes = topic.as_str().len() + publish.payload.len();
                        facts.fan_out += published.receivers;
                        facts.fan_out_bytes += published.receivers.saturating_mul(bytes as u64);
                        return Ok(Ok(published));
                    }
                    Err((action, denial)) => {
                        (action, guard.rights().describe(denial, &engine.modules))
                    }
                },
            };
        Ok(Err(Refused {
            topic: topic.as_str().into(),
            qos: publish.delivery.qos(),
            payload: publish.payload.len(),
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
            qos,
            payload,
            action,
            rule,
        } = refused;
        self.facts.refused += 1;
        self.engine.metrics.publishes_denied.inc();
        let event = Event::PublishDenied {
            who: self.guard.subject().snapshot(),
            topic,
            qos: *qos,
            payload: *payload,
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
    pub(super) fn settle(&mut self, waker: &Waker, routing: &mut Routing<'_>) -> Result<(), End> {
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

    pub(super) fn acknowledged(&mut self, kind: AckKind, ack: &Ack<'_>, routing: &mut Routing<'_>) {
        let moved = self
            .attached
            .acknowledged(kind, ack.id.get(), ack.reason, routing);
        self.facts.stray += u32::from(!moved);
    }

    pub(super) fn release(&mut self, ack: &Ack<'_>, routing: &mut Routing<'_>) {
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
