//! May it?

use std::sync::Arc;

use super::{Effort, MessageFacts, Snapshot};
use crate::topic::{TopicFilter, TopicName};

/// Decides what a client may do. Asked once per [`Snapshot`] and policy generation; the answer is
/// a [`Grants`] that answers everything else from memory.
///
/// In a chain each authorizer is asked; a denial by one wins, and where none allows, the answer is
/// no.
pub trait Authorizer: Send + Sync {
    /// Names the module in logs, metrics and records.
    fn name(&self) -> &str;

    /// What this client may do under the present policy. Equal snapshots may share one answer.
    fn grants(&self, who: &Snapshot) -> Arc<dyn Grants>;

    /// Moves whenever the policy changed, so that grants are fetched again.
    fn generation(&self) -> u64;
}

/// The rights of one client in one policy generation. On the hot path: no lock, no allocation.
pub trait Grants: Send + Sync {
    /// Whether `action` on this concrete topic is allowed for this message. The answer is kept for
    /// all messages that the questions put to `message` do not tell apart.
    fn decide(&self, action: Action, topic: TopicName<'_>, message: &MessageFacts) -> Decision;

    /// Whether joining the shared-subscription group is allowed.
    fn share(&self, group: &str) -> Decision;

    /// How much of `filter` (without its `$share` prefix) the client may receive, if `message` is
    /// delivered: the smallest of the `QoS` at which the subscription would be granted. It takes no
    /// more steps than `effort` has, and spends what it takes.
    fn cover(&self, filter: TopicFilter<'_>, message: &MessageFacts, effort: &Effort) -> Cover;

    /// A rule in words, with file and line, for logs and records.
    fn describe(&self, rule: Rule) -> String;
}

/// What a client wants to do with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send a message.
    Publish,
    /// Have it retained; asked in addition to `Publish`.
    Retain,
    /// Leave it as a will; asked in addition to `Publish`.
    Will,
    /// Be sent a message. `subscribe` governs deliveries too.
    Receive,
}

/// A rule, by a number that only the [`Grants`] that named it understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule(pub u32);

/// An opinion about one action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Allowed by this rule.
    Allow(Rule),
    /// No rule speaks; alone that is no.
    Silent,
    /// Denied by this rule; final.
    Deny(Rule),
}

impl Decision {
    /// Whether it is a yes.
    #[must_use]
    pub fn is_allowed(self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

/// How much of a filter a client may receive. `rule` names the rule that cut it, if one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Cover {
    /// Every topic that the filter matches is allowed, whatever the message's size and at every
    /// `QoS` up to the one asked about, so a delivery needs no check in this policy generation.
    Full,
    /// Every topic is allowed, but not for every message: each delivery is checked.
    Bounded,
    /// Some topics are allowed, some are not.
    Partial(Option<Rule>),
    /// Nothing is left.
    Nothing(Option<Rule>),
    /// Finding out takes more steps than there were. Never read as a yes.
    Unclear,
}
