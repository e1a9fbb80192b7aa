//! SUBSCRIBE and UNSUBSCRIBE.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::budget::{self, Level};
use crate::guard::{self, Grant};
use crate::hook::{Effort, Event, Granted};
use crate::topic::TopicFilter;
use crate::wire::{ReasonCode, RetainHandling, SubscribeOptions};

use super::session::{Subscription, Toil};
use super::tree::Entry;
use super::{Attached, Engine, Routing};

impl Engine {
    /// Subscribes, or replaces a subscription \[MQTT-3.8.4-3\]. A refusal is the SUBACK's code, and
    /// has been told to the observers; what was granted is the caller's to tell. `effort` is that of
    /// all filters of the packet.
    pub(crate) fn subscribe<'f>(
        &self,
        attached: &Attached,
        filter: TopicFilter<'f>,
        mut options: SubscribeOptions,
        id: Option<NonZeroU32>,
        effort: &Effort,
        routing: &mut Routing<'_>,
    ) -> Result<Granted<'f>, ReasonCode> {
        let session = &attached.session;
        let mut state = session.lock();
        if state.epoch != attached.epoch || state.ended {
            return Err(ReasonCode::UnspecifiedError);
        }
        state.refresh(routing);
        let who = Arc::clone(&state.subject);
        let now = routing.now;
        let denied = |rule: &str, code| {
            let event = Event::SubscribeDenied {
                who: who.snapshot(),
                filter: filter.as_str(),
                rule,
                code,
            };
            self.modules.observe(&event, now);
            code
        };
        let asked = options.qos.min(routing.settings.mqtt.max_qos);
        let narrow = routing.narrows();
        let before = effort.left();
        let answer = guard::subscribe(&state.rights, filter, asked, narrow, effort, &self.modules);
        let toil = Toil::of(before - effort.left());
        let grant = match answer {
            Ok((grant, qos)) => {
                options.qos = qos;
                grant
            }
            Err(rule) => {
                self.metrics.subscribes_denied.inc();
                return Err(denied(&rule, ReasonCode::NotAuthorized));
            }
        };
        let name = self.tree.find(filter);
        let known = name.and_then(|name| state.slot_of(name, filter.share()));
        let is_new = known.is_none();
        let limit = routing.settings.limits.subscriptions_per_session;
        if is_new && state.subscriptions.len() >= limit {
            self.metrics.limits_hit.inc();
            let rule = format!("limits.subscriptions-per-session = {limit}");
            return Err(denied(&rule, ReasonCode::QuotaExceeded));
        }
        if !state.may_toil(toil, known, limit) {
            self.metrics.limits_hit.inc();
            return Err(denied(guard::TOO_MUCH_WORK, ReasonCode::QuotaExceeded));
        }
        if is_new && routing.level() >= Level::Full {
            self.metrics.memory_subscriptions_refused.inc();
            let rule = "limits.memory: memory is short";
            return Err(denied(rule, ReasonCode::QuotaExceeded));
        }
        let recorded = state.try_record(routing, |steps, session| {
            steps.subscribed(session, filter.as_str(), options, id);
        });
        if !recorded {
            return Err(denied("the store is full", ReasonCode::QuotaExceeded));
        }
        let slot = if let Some(slot) = known {
            state.replace(slot, options, id, grant.into());
            state.toils(slot, toil);
            slot
        } else {
            let slot = state.next_slot();
            let entry = Entry {
                session: Arc::clone(session),
                claim: state.claim(slot, filter, options, id, grant.into()),
            };
            let Some((name, share)) = self.tree.add(filter, entry) else {
                return Err(ReasonCode::ImplementationSpecificError);
            };
            state.insert(Subscription {
                filter: name,
                share,
                options,
                id,
                serial: slot.serial,
                cover: grant.into(),
                toil,
            });
            self.metrics.subscriptions.inc();
            routing.grew(budget::SUBSCRIPTION + filter.as_str().len());
            self.bus.declare(filter, true);
            slot
        };
        if wants_retained(options, is_new) && filter.share().is_none() {
            state.send_retained(slot, routing);
        }
        Ok(Granted {
            filter: filter.as_str(),
            qos: options.qos,
            narrowed: grant == Grant::Narrowed,
        })
    }

    /// Gives a subscription up; never refused.
    pub(crate) fn unsubscribe(
        &self,
        attached: &Attached,
        filter: TopicFilter<'_>,
        routing: &mut Routing<'_>,
    ) -> ReasonCode {
        let session = &attached.session;
        let mut state = session.lock();
        if state.epoch != attached.epoch {
            return ReasonCode::UnspecifiedError;
        }
        let slot = self
            .tree
            .find(filter)
            .and_then(|name| state.slot_of(name, filter.share()));
        let Some((slot, subscription)) = slot.and_then(|slot| Some((slot, state.remove(slot)?)))
        else {
            return ReasonCode::NoSubscriptionExisted;
        };
        self.tree.remove(
            subscription.filter,
            subscription.share.as_ref(),
            session,
            slot,
        );
        self.metrics.subscriptions.sub(1);
        self.bus.declare(filter, false);
        state.record(routing, |steps, session| {
            steps.unsubscribed(session, filter.as_str());
        });
        let who = Arc::clone(&state.subject);
        drop(state);
        let event = Event::Unsubscribed {
            who: who.snapshot(),
            filter: filter.as_str(),
        };
        self.modules.observe(&event, routing.now);
        ReasonCode::Success
    }
}

/// Whether the retained messages of a subscription are sent \[MQTT-3.3.1-9\] to \[MQTT-3.3.1-11\].
fn wants_retained(options: SubscribeOptions, is_new: bool) -> bool {
    match options.retain_handling {
        RetainHandling::Send => true,
        RetainHandling::SendIfNew => is_new,
        RetainHandling::DoNotSend => false,
    }
}
