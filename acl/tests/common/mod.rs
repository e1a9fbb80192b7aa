//! What several tests need.

use portcullis_acl::tools::Who;
use portcullis_acl::{Acl, Policy, Source, Sources};
use portcullis_core::hook::{Effort, MessageFacts, Snapshot};
use portcullis_core::topic::{TopicFilter, TopicLimits, TopicName};
use portcullis_core::wire::QoS;

/// Loads a policy that is known to be good.
pub(crate) fn policy(text: &str) -> Policy {
    let sources = Sources {
        policies: vec![Source::new("policy.csv", text)],
        ..Sources::default()
    };
    Policy::load(&sources).unwrap().policy
}

/// An authorizer with this policy.
#[allow(dead_code, reason = "not every test needs it")]
pub(crate) fn acl(text: &str) -> Acl {
    Acl::new(policy(text))
}

/// A client with this principal, client id and roles.
#[allow(dead_code, reason = "not every test needs it")]
pub(crate) fn who(principal: &str, client_id: &str, roles: &[&str]) -> Snapshot {
    described(principal, client_id, roles).snapshot().unwrap()
}

/// A client that can still be described further.
pub(crate) fn described(principal: &str, client_id: &str, roles: &[&str]) -> Who {
    Who {
        principal: principal.into(),
        roles: roles.iter().map(ToString::to_string).collect(),
        client_id: client_id.into(),
        listener: "internet".into(),
        ..Who::default()
    }
}

/// A topic name.
#[allow(dead_code, reason = "not every test needs it")]
pub(crate) fn name(topic: &str) -> TopicName<'_> {
    TopicName::new(topic, TopicLimits::default()).unwrap()
}

/// A topic filter.
#[allow(dead_code, reason = "not every test needs it")]
pub(crate) fn filter(filter: &str) -> TopicFilter<'_> {
    TopicFilter::new(filter, TopicLimits::default()).unwrap()
}

/// All that a session has.
#[allow(dead_code, reason = "not every test needs it")]
pub(crate) fn effort() -> Effort {
    Effort::new(Effort::SESSION)
}

/// The smallest message.
#[allow(dead_code, reason = "not every test needs it")]
pub(crate) fn small() -> MessageFacts {
    MessageFacts::smallest(QoS::AtMostOnce)
}
