//! The choke point: what a client may do, asked once, in both directions.
//!
//! Nothing reaches the router, the retained store, the will store, an offline queue or the bus
//! unless it is an [`Authorized`] value, and the outbound encoder takes nothing but an
//! `Authorized<Delivery>`. The constructor of `Authorized` is private to this module, so the
//! compiler shows every place that says yes. What was stored comes back as a [`Stored`] value, and
//! only this module can turn that into an authorized one, by asking again about its author.
//!
//! The questions go to the extension points (`hook`); what is done about a no is decided by the
//! callers (`connection`, `engine`).

mod inbound;
mod rights;
mod subject;

pub(crate) use inbound::Inbound;
pub(crate) use rights::{Denial, Rights};
pub use subject::Subject;

use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::clock::Now;
use crate::hook::{Action, Alike, Cover, Effort, MessageFacts, Modules, Use};
use crate::journal::Mark;
use crate::message::{Asked, Message, Publication};
use crate::settings::Settings;
use crate::topic::{TopicFilter, TopicName};
use crate::wire::QoS;

/// A value that the policy of its moment allows. Only the guard makes one.
#[derive(Debug)]
pub struct Authorized<T>(T);

impl<T> Deref for Authorized<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A value that was authorized when it was stored and is a question again when it comes back.
#[derive(Clone, Debug)]
pub struct Stored<T>(T);

impl<T> Stored<T> {
    /// Reads something back from a store that survives the process. It is no more than a
    /// question to the guard, so anybody may put one.
    pub fn read_back(value: T) -> Self {
        Self(value)
    }
}

impl Stored<Message> {
    /// What it counts for in queues, bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.0.weight()
    }

    /// Whether somebody else keeps it too.
    pub(crate) fn is_shared(&self) -> bool {
        self.0.is_shared()
    }

    /// Whether it is the very same copy.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.is_same(&other.0)
    }

    /// As published.
    #[must_use]
    pub fn qos(&self) -> QoS {
        self.0.qos()
    }

    /// The topic, for indexes and records; delivering it needs the guard.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.0.topic()
    }

    /// Who wrote it.
    #[must_use]
    pub fn author(&self) -> &Arc<Subject> {
        self.0.author()
    }

    /// When it expires, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn expires(&self) -> Option<u64> {
        self.0.expires()
    }

    /// What the journal writes of it: no more than a store keeps anyway.
    pub(crate) fn facts(&self) -> (QoS, Asked, Option<u64>) {
        (self.0.qos(), self.0.asked(), self.0.expires())
    }

    /// Topic, encoded properties and payload, for the journal.
    pub(crate) fn parts(&self) -> (&[u8], &[u8], &[u8]) {
        self.0.parts()
    }

    pub(crate) fn mark(&self) -> &Mark {
        self.0.mark()
    }
}

impl Authorized<Publication<'_>> {
    /// Puts the message away; what comes back is a question again.
    #[must_use]
    pub fn store(&self) -> Stored<Message> {
        Stored(self.0.message())
    }
}

/// A message for one receiver: what the outbound encoder takes, once authorized.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// What.
    pub publication: &'a Publication<'a>,
    /// The lower of the published and the granted `QoS`.
    pub qos: QoS,
    /// The RETAIN flag as the receiver shall see it.
    pub retain: bool,
    /// Of all matching subscriptions that have one.
    pub subscription_ids: SmallVec<[NonZeroU32; 2]>,
}

/// A subscription that the policy allows, wholly or in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// Every matching topic is allowed: deliveries up to the granted `QoS` need no check in this
    /// policy generation.
    Full,
    /// Every matching topic is allowed, but not for every message: deliveries are checked.
    Bounded,
    /// Deliveries are checked one by one.
    Narrowed,
}

/// Why a filter is refused that takes more than its share of [`Effort`].
pub(crate) const TOO_MUCH_WORK: &str = "to judge it by the policy takes too much work; ask for narrower filters, or for \
     fewer";

/// Whether `rights` cover a subscription that is granted at `qos`, and what cut it if not.
pub(crate) fn subscription(
    rights: &Rights,
    filter: TopicFilter<'_>,
    qos: QoS,
    narrow: bool,
    effort: &Effort,
    modules: &Modules,
) -> Result<Grant, String> {
    judge(rights, filter, qos, narrow, effort, modules).0
}

/// At which `QoS`, `asked` or below, a subscription may be granted, and how: the highest at which
/// it is covered as a whole; where it is narrowed at any rate, the lowest, at which most is covered.
pub(crate) fn subscribe(
    rights: &Rights,
    filter: TopicFilter<'_>,
    asked: QoS,
    narrow: bool,
    effort: &Effort,
    modules: &Modules,
) -> Result<(Grant, QoS), String> {
    let mut next = Some(asked);
    let mut best = None;
    while let Some(qos) = next {
        let (answer, alike) = judge(rights, filter, qos, narrow, effort, modules);
        match answer {
            Ok(grant @ (Grant::Full | Grant::Bounded)) => return Ok((grant, qos)),
            Ok(Grant::Narrowed) => best = Some(Ok((Grant::Narrowed, qos))),
            // What the client asked for is what the refusal explains.
            Err(rule) => best = best.or(Some(Err(rule))),
        }
        next = alike.lower_qos();
    }
    best.unwrap_or_else(|| Err(rights.describe(Denial::SILENCE, modules)))
}

/// The answer at one `QoS`, and the messages for which it is the same.
fn judge(
    rights: &Rights,
    filter: TopicFilter<'_>,
    qos: QoS,
    narrow: bool,
    effort: &Effort,
    modules: &Modules,
) -> (Result<Grant, String>, Alike) {
    if let Some(group) = filter.share()
        && let Err(denial) = rights.share(group, modules)
    {
        return (Err(rights.describe(denial, modules)), Alike::ALL);
    }
    let smallest = MessageFacts::smallest(qos);
    let (cover, who) = rights.cover(filter, &smallest, effort, modules);
    let describe = |rule| rights.describe(Denial { module: who, rule }, modules);
    let answer = match cover {
        Cover::Full => Ok(Grant::Full),
        Cover::Bounded => Ok(Grant::Bounded),
        Cover::Unclear => {
            modules.metrics.subscriptions_unclear.inc();
            if narrow {
                Ok(Grant::Narrowed)
            } else {
                Err(TOO_MUCH_WORK.to_owned())
            }
        }
        Cover::Partial(_) if narrow => Ok(Grant::Narrowed),
        Cover::Partial(rule) => Err(format!("covered in part only: {}", describe(rule))),
        Cover::Nothing(rule) => Err(describe(rule)),
    };
    (answer, smallest.alike())
}

/// Authorizes a delivery to the receiver with these `rights`. `covered` says that a subscription
/// with [`Grant::Full`] at the delivery's `QoS` or above, of the same policy generation, matched.
pub(crate) fn deliver<'a>(
    rights: &Rights,
    delivery: Delivery<'a>,
    covered: bool,
    modules: &Modules,
) -> Result<Authorized<Delivery<'a>>, Denial> {
    if !covered {
        let publication = delivery.publication;
        let message = MessageFacts::new(delivery.qos, publication.payload.len());
        rights.decide(Action::Receive, publication.topic, &message, modules)?;
    }
    Ok(Authorized(delivery))
}

/// Opens a stored message for delivery: the author must still be allowed to publish it, and be
/// neither banned nor revoked. The receiver's side is asked by [`deliver`].
///
/// The answer borrows from `stored`, so the message cannot be altered in between.
pub(crate) fn reopen<'a>(
    stored: &'a Stored<Message>,
    modules: &Modules,
    now: Now,
) -> Result<Authorized<Publication<'a>>, String> {
    let publication = stored
        .0
        .publication()
        .ok_or_else(|| "the stored message is damaged".to_owned())?;
    let author = publication.author;
    author.stands(Use::Stored, modules, now)?;
    author
        .rights(modules)
        .publish(
            publication.topic,
            publication.asked,
            &publication.facts(),
            modules,
        )
        .map_err(|(action, denial)| {
            let rule = author.rights(modules).describe(denial, modules);
            format!("its author may no longer {action}: {rule}")
        })?;
    Ok(Authorized(publication))
}

/// Opens a will that fires now: asked like any stored message, its expiry interval starting at
/// `millis`.
pub(crate) fn fire<'a>(
    will: &'a Stored<Message>,
    expiry: Option<u32>,
    modules: &Modules,
    now: Now,
    millis: u64,
) -> Result<Authorized<Publication<'a>>, String> {
    reopen(will, modules, now)
        .map(|Authorized(publication)| Authorized(publication.anew(expiry, millis)))
}

/// Authorizes what the broker itself publishes. No other way in than the policy's: the author is
/// a `system:` principal with rights of its own.
pub(crate) fn internal<'a>(
    publication: Publication<'a>,
    modules: &Modules,
) -> Result<Authorized<Publication<'a>>, Denial> {
    let rights = publication.author.rights(modules);
    rights
        .publish(
            publication.topic,
            publication.asked,
            &publication.facts(),
            modules,
        )
        .map_err(|(_, denial)| denial)?;
    Ok(Authorized(publication))
}

/// Checks the response topic of a publish or a will, if it has one. It must be one that the
/// requester itself may receive: otherwise a request makes the responder write where the
/// requester must not. A wildcard in it is refused whatever the policy \[MQTT-3.3.2-14\].
pub(crate) fn response_topic(
    publication: &Publication<'_>,
    rights: &Rights,
    settings: &Settings,
    modules: &Modules,
) -> Result<(), String> {
    let Some(text) = publication.properties.response_topic else {
        return Ok(());
    };
    let topic = TopicName::new(text, settings.mqtt.topic)
        .map_err(|error| format!("the response topic {error}"))?;
    if !settings.enforcement.check_response_topic {
        return Ok(());
    }
    let facts = MessageFacts::smallest(QoS::AtMostOnce);
    rights
        .decide(Action::Receive, topic, &facts, modules)
        .map_err(|denial| {
            let rule = rights.describe(denial, modules);
            format!("response topic {text:?}: {rule}")
        })
}

/// Authorizes a will at CONNECT; it is stored and asked about again when it fires.
pub(crate) fn will(
    publication: &Publication<'_>,
    rights: &Rights,
    modules: &Modules,
) -> Result<Stored<Message>, (&'static str, Denial)> {
    let message = publication.facts();
    rights.publish(publication.topic, publication.asked, &message, modules)?;
    Ok(Stored(publication.message()))
}
