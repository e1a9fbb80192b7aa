//! SUBSCRIBE and UNSUBSCRIBE.

use smallvec::SmallVec;

use crate::engine::Routing;
use crate::hook::{Effort, Event, Granted};
use crate::settings::Settings;
use crate::topic::{TopicError, TopicFilter};
use crate::wire::{self, QoS, ReasonCode, Subscribe, Unsubscribe};

use super::{Connection, End};

/// Longest filters together that observers are told of in one event, bytes: a record of them fits
/// in a line, whatever has to be escaped.
const TOLD_TOGETHER: usize = 2048;

impl Connection {
    pub(super) fn subscribe(
        &mut self,
        subscribe: &Subscribe<'_>,
        settings: &Settings,
        routing: &mut Routing<'_>,
    ) -> Result<(), End> {
        let mut codes: SmallVec<[ReasonCode; 8]> = SmallVec::new();
        let mut granted: SmallVec<[Granted<'_>; 8]> = SmallVec::new();
        let effort = Effort::new(Effort::SUBSCRIBE);
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
                    .subscribe(&self.attached, filter, *options, id, &effort, routing)
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

    pub(super) fn unsubscribe(
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
