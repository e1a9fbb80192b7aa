//! From what clients did to a draft of a policy: roles by equal patterns, names as placeholders.
//!
//! A draft is for review, never for use as it is: what was refused may have been an attack. So
//! every line says on what it rests, and what cannot be a line of a policy is a comment.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use portcullis_core::topic::{TopicFilter, TopicLimits, TopicName};

use super::Who;
use crate::csv::written;
use crate::load::{Source, Sources};
use crate::pattern::{self, Slots, is_safe};
use crate::policy::{Act, Policy};

/// Most different things that are learned from; further ones are counted.
pub const MAX_OBSERVED: usize = 100_000;

/// Something that a client did, or wanted to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Who, with its kind.
    pub principal: String,
    /// What.
    pub act: Act,
    /// Where; for `subscribe` the filter, `$share` prefix included.
    pub topic: String,
    /// Whether it was refused.
    pub denied: bool,
}

/// A draft, as the text of a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The text. It loads, unless nothing was observed.
    pub text: String,
    /// How many `p` lines it has.
    pub rules: usize,
    /// Observations that did not fit.
    pub left_out: u64,
}

/// How often something was granted and refused.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    granted: u64,
    denied: u64,
}

type Right = (Act, String);

/// Drafts the least policy that allows all that was observed.
///
/// A level that is a client's own NAME becomes `{name}` where at least two clients do the same with
/// their names; one alone keeps its literal topic. Clients with equal rights share a role; one with
/// rights of its own has lines of its own.
#[must_use]
pub fn learn(observed: impl IntoIterator<Item = Observed>) -> Draft {
    let mut left_out = 0;
    let mut rights: BTreeMap<(String, Act, String), Count> = BTreeMap::new();
    let mut unusable: BTreeSet<String> = BTreeSet::new();
    for one in observed {
        let denied = u64::from(one.denied);
        for right in split(&one) {
            if let Err(why) = &right {
                if unusable.len() < MAX_OBSERVED {
                    unusable.insert(format!("{:?} {:?}: {why}", one.principal, one.topic));
                }
                continue;
            }
            let Ok((act, topic)) = right else { continue };
            let key = (one.principal.clone(), act, topic);
            if rights.len() >= MAX_OBSERVED && !rights.contains_key(&key) {
                left_out += 1;
                continue;
            }
            let count = rights.entry(key).or_default();
            count.denied += denied;
            count.granted += 1 - denied;
        }
    }
    let clients = generalised(rights);
    let mut text = String::new();
    let rules = write(&clients, &unusable, &mut text);
    Draft {
        text,
        rules,
        left_out,
    }
}

/// The rights that an observation asks for, as columns of policy lines.
fn split(one: &Observed) -> Vec<Result<Right, String>> {
    let plain = |act: Act, topic: &str| {
        let fits = match act {
            Act::Share => pattern::group(topic, &mut Slots::default()).is_ok(),
            Act::Subscribe => pattern::topic(topic, &mut Slots::default()).is_ok(),
            Act::Publish | Act::Retain | Act::Will => {
                TopicName::new(topic, TopicLimits::default()).is_ok()
                    && pattern::topic(topic, &mut Slots::default()).is_ok()
            }
        };
        if !fits || topic.contains(['{', '}', '"']) || topic.chars().any(char::is_control) {
            return Err("a policy cannot name this topic".to_owned());
        }
        Ok((act, topic.to_owned()))
    };
    let who = Who {
        principal: one.principal.clone(),
        ..Who::default()
    };
    if who.snapshot().is_err() || one.principal.contains('"') {
        return vec![Err("a policy cannot name this principal".into())];
    }
    let shared = TopicFilter::new(&one.topic, TopicLimits::default())
        .ok()
        .filter(|_| one.act == Act::Subscribe);
    match shared
        .as_ref()
        .and_then(|filter| Some((filter.share()?, filter.filter())))
    {
        Some((group, filter)) => vec![plain(Act::Share, group), plain(Act::Subscribe, filter)],
        None => vec![plain(one.act, &one.topic)],
    }
}

/// Puts `{name}` where at least two clients have their own names.
fn generalised(
    rights: BTreeMap<(String, Act, String), Count>,
) -> BTreeMap<String, BTreeMap<Right, Count>> {
    let named = |principal: &str, topic: &str| {
        let name = principal.split_once(':').map_or("", |(_, name)| name);
        let levels = topic.split('/').map(|level| match level {
            _ if level == name && is_safe(name) => "{name}",
            _ => level,
        });
        levels.collect::<Vec<_>>().join("/")
    };
    let mut alike: BTreeMap<Right, BTreeSet<&str>> = BTreeMap::new();
    for (principal, act, topic) in rights.keys() {
        let pattern = named(principal, topic);
        if pattern != *topic {
            alike.entry((*act, pattern)).or_default().insert(principal);
        }
    }
    let alike: BTreeSet<Right> = alike
        .into_iter()
        .filter(|(_, who)| who.len() > 1)
        .map(|(right, _)| right)
        .collect();
    let mut clients: BTreeMap<String, BTreeMap<Right, Count>> = BTreeMap::new();
    for ((principal, act, topic), count) in rights {
        let pattern = (act, named(&principal, &topic));
        let right = if alike.contains(&pattern) {
            pattern
        } else {
            (act, topic)
        };
        let sum = clients
            .entry(principal)
            .or_default()
            .entry(right)
            .or_default();
        sum.granted += count.granted;
        sum.denied += count.denied;
    }
    clients
}

fn write(
    clients: &BTreeMap<String, BTreeMap<Right, Count>>,
    unusable: &BTreeSet<String>,
    text: &mut String,
) -> usize {
    let mut groups: BTreeMap<Vec<&Right>, Vec<&str>> = BTreeMap::new();
    for (principal, rights) in clients {
        let key: Vec<&Right> = rights.keys().collect();
        groups.entry(key).or_default().push(principal);
    }
    let (mut learned, mut rules) = (0, 0);
    // Writing to a string cannot fail.
    for (rights, members) in &groups {
        let subject = if let [only] = members.as_slice() {
            (*only).to_owned()
        } else {
            learned += 1;
            format!("role:learned-{learned}")
        };
        let _ = writeln!(text, "\n# {subject}: {} clients", members.len());
        for right in rights {
            let mut sum = Count::default();
            for count in members
                .iter()
                .filter_map(|who| clients.get(*who)?.get(*right))
            {
                sum.granted += count.granted;
                sum.denied += count.denied;
            }
            let (act, topic) = right;
            let wide = topic.contains(['+', '#']);
            let _ = writeln!(
                text,
                "# granted {}, denied {}{}",
                sum.granted,
                sum.denied,
                if wide { "; review: a wildcard" } else { "" }
            );
            let _ = writeln!(
                text,
                "p, {}, {}, {act}, allow",
                written(&subject),
                written(topic)
            );
            rules += 1;
        }
        if subject.starts_with("role:") {
            for member in members {
                let _ = writeln!(text, "g, {}, {subject}", written(member));
            }
        }
    }
    if !unusable.is_empty() {
        let _ = writeln!(text, "\n# Left out:");
        for one in unusable {
            let _ = writeln!(text, "#   {one}");
        }
    }
    rules
}

impl Draft {
    /// What keeps the draft from being loaded; it should be nothing.
    ///
    /// # Errors
    ///
    /// One text for each line that is wrong.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let sources = Sources {
            policies: vec![Source::new("draft", self.text.as_str())],
            ..Sources::default()
        };
        let loaded = Policy::load(&sources).map(drop);
        loaded.map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }
}
