//! What operators ask about a policy: why, does it do what we expect, what smells, what changes.
//!
//! Nothing here is on the path of a message; the decisions are those of the same compiled policy.

pub mod diff;
pub mod expect;
pub mod explain;
pub mod learn;
pub mod lint;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_core::hook::{Credential, Identity, Principal, Rule, Snapshot};
use portcullis_core::topic;
use portcullis_core::wire::QoS;

use crate::cond;
use crate::learning::Lesson;
use crate::pattern::Level;
use crate::policy::{Act, Effect, Policy, PolicyRule};

pub use diff::{Change, Kind, diff, diff_live};
pub use expect::{Case, Failure, Report, junit};
pub use explain::{Explanation, explain};
pub use learn::{Draft, Observed, learn};
pub use lint::lint;

/// A client as somebody describes it on the command line or in a test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// With its kind: `cert:pump-17`, `anonymous`.
    pub principal: String,
    /// Roles from the credential, with or without the `role:` prefix.
    pub roles: Vec<String>,
    /// The client identifier.
    pub client_id: String,
    /// The listener's name.
    pub listener: String,
    /// `cert.FIELD` and `claim.PATH` with their values.
    pub attributes: BTreeMap<String, String>,
    /// Where it comes from.
    pub address: Option<IpAddr>,
}

impl Who {
    /// The principal that all anonymous clients are, and nothing else about it.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            principal: "anonymous".into(),
            ..Self::default()
        }
    }

    /// The client as the broker would see it.
    ///
    /// # Errors
    ///
    /// A principal that no client can have.
    pub fn snapshot(&self) -> Result<Snapshot, String> {
        let text = &self.principal;
        let principal = match text.split_once(':') {
            _ if text == "anonymous" => Principal::anonymous(),
            Some(("system", name)) => Principal::system(name),
            Some((kind @ ("cert" | "jwt" | "user"), name)) => {
                Principal::vouched(kind, name).map_err(|error| format!("`{text}`: {error}"))?
            }
            _ => {
                return Err(format!(
                    "`{text}` is not a principal; write cert:NAME, jwt:NAME, user:NAME, \
                     system:NAME or anonymous"
                ));
            }
        };
        let mut roles: Vec<Box<str>> = self
            .roles
            .iter()
            .map(|role| role.strip_prefix("role:").unwrap_or(role).into())
            .collect();
        roles.sort_unstable();
        roles.dedup();
        let attributes = self
            .attributes
            .iter()
            .map(|(key, value)| (key.as_str().into(), value.as_str().into()));
        Ok(Snapshot {
            identity: Identity {
                principal,
                roles: roles.into(),
                attributes: Arc::new(attributes.collect()),
            },
            credential: Credential::new("described", ""),
            client_id: self.client_id.as_str().into(),
            listener: self.listener.as_str().into(),
            address: self.address,
        })
    }
}

/// When something is asked, and about which message: what conditions may look at beside the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances<'a> {
    /// Without a time no time window is known to be open.
    pub at: Option<SystemTime>,
    /// The message's; of a subscription the one that is asked for.
    pub qos: QoS,
    /// The message's payload, bytes.
    pub payload: u32,
    /// Listeners that learn. What they allow is [explained](explain()); it is no line of the policy.
    pub lessons: &'a [Lesson],
}

/// About the smallest message, `QoS` 0 and empty, and without lessons.
impl From<Option<SystemTime>> for Circumstances<'_> {
    fn from(at: Option<SystemTime>) -> Self {
        Self {
            at,
            qos: QoS::AtMostOnce,
            payload: 0,
            lessons: &[],
        }
    }
}

/// Reads the size of a payload as conditions write it: `64 KiB`.
///
/// # Errors
///
/// It is not one, and what one looks like.
pub fn payload_size(text: &str) -> Result<u32, String> {
    cond::size(text).map_err(|complaint| format!("{}; {}", complaint.message, complaint.remedy))
}

/// A rule that counts for a client, with the client's values in place of the placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Its number, for [`Policy::describe`].
    pub rule: Rule,
    /// What it is about.
    pub act: Act,
    /// What it does.
    pub effect: Effect,
    /// The filter (for `share` the group); `None` for an allow line that grants nothing because a
    /// value is missing or unsafe.
    pub filter: Option<String>,
}

impl Effective {
    /// Whether the rule matches a concrete topic, or for `share` a group.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        let Some(filter) = &self.filter else {
            return false;
        };
        match self.act {
            Act::Share => matches!(filter.as_str(), "+" | "#") || filter == topic,
            Act::Publish | Act::Retain | Act::Will | Act::Subscribe => {
                topic::matches(filter, topic)
            }
        }
    }
}

/// The rules that count for a client in these circumstances, in the order of the files. The plain
/// reading of the policy; what is compiled is tested against it.
#[must_use]
pub fn effective<'a>(
    policy: &Policy,
    who: &Snapshot,
    circumstances: impl Into<Circumstances<'a>>,
) -> Vec<Effective> {
    let Circumstances {
        at, qos, payload, ..
    } = circumstances.into();
    let conditions = &policy.conditions;
    let truths = conditions.of(who, &conditions.windows_at(at));
    rules(policy, who, |rule| {
        let within = conditions.bounds(rule.cond).within(qos, payload);
        within && Policy::in_force(rule, &truths)
    })
}

/// The rules of a client's subjects that `wanted` picks.
pub(crate) fn rules(
    policy: &Policy,
    who: &Snapshot,
    wanted: impl Fn(&PolicyRule) -> bool,
) -> Vec<Effective> {
    let applicable = policy.applicable(who);
    let subjects = applicable.own.into_iter().chain(applicable.shared);
    let mut numbers: Vec<u32> = subjects
        .flat_map(|subject| policy.own_rules(subject).iter().copied())
        .collect();
    numbers.sort_unstable();
    let rules = numbers
        .into_iter()
        .filter_map(|number| Some((number, policy.rule(number)?)))
        .filter(|(_, rule)| wanted(rule));
    rules
        .map(|(number, rule)| Effective {
            rule: Rule(number),
            act: rule.act,
            effect: rule.effect,
            filter: substituted(policy, rule, who),
        })
        .collect()
}

/// A rule's topic column with a client's values in it (rule 7 of the design).
pub(crate) fn substituted(policy: &Policy, rule: &PolicyRule, who: &Snapshot) -> Option<String> {
    let mut levels: Vec<&str> = Vec::with_capacity(rule.levels.len());
    for level in &rule.levels {
        levels.push(match level {
            Level::Literal(text) => text,
            Level::Any => "+",
            Level::Rest => "#",
            Level::Slot(number) => {
                let slot = policy.slots.get(*number);
                match (slot.and_then(|slot| slot.value(who)), rule.effect) {
                    (Some(value), _) => value,
                    (None, Effect::Deny) => "+",
                    (None, Effect::Allow) => return None,
                }
            }
        });
    }
    Some(levels.join("/"))
}

/// A filter without placeholders as levels.
pub(crate) fn plain(filter: &str) -> Vec<Level> {
    filter
        .split('/')
        .map(|level| match level {
            "+" => Level::Any,
            "#" => Level::Rest,
            _ => Level::Literal(level.into()),
        })
        .collect()
}
