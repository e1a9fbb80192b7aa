//! Why? One question, the answer, the line that decided, and what would change it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::SystemTime;

use jiff::Timestamp;
use portcullis_core::hook::{Cover, Snapshot};
use portcullis_core::topic::{self, TopicFilter, TopicLimits, TopicName};
use portcullis_core::wire::QoS;

use super::{Circumstances, Effective, effective, plain, rules, substituted};
use crate::algebra::{self, View, WORK};
use crate::csv::written;
use crate::learning::{LESSON, Lesson};
use crate::load::{Source, Sources};
use crate::pattern::Level;
use crate::policy::{Act, Effect, Link, Policy, PolicyRule};
use crate::trie::{Asked, Trie};

/// Most suggestions of one kind.
const MOST: usize = 5;

/// An answer with its reasons. Displays as a few lines of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The question: `cert:device-1 publish devices/device-1/telemetry`.
    pub question: String,
    /// Whether it is allowed. A subscription is when every topic of its filter is.
    pub allowed: bool,
    /// How much of a subscription's filter is allowed; `None` for other actions.
    pub cover: Option<Cover>,
    /// The line that decided, with its place; `None` where no line speaks.
    pub rule: Option<String>,
    /// No line speaks, and the client's listener learns: until when.
    pub lesson: Option<SystemTime>,
    /// How the client comes to that line: itself, or the `g` lines between.
    pub because: Option<String>,
    /// Placeholders of the lines that count, with what they stand for; `None`: missing or unsafe.
    pub values: Vec<(String, Option<String>)>,
    /// Of a retained message and a will, which need it beside: whether the publish is allowed.
    pub publish: Option<bool>,
    /// What would have to change for the other answer.
    pub change: Vec<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = match (self.allowed, self.cover) {
            (true, _) => "allowed",
            (false, Some(Cover::Partial(_))) => {
                "partly allowed (refused, or narrowed with subscribe = \"narrow\")"
            }
            (false, Some(Cover::Unclear)) => {
                "too much work to judge (refused, or each message is judged with subscribe = \"narrow\")"
            }
            (false, _) => "denied",
        };
        writeln!(f, "{}: {answer}", self.question)?;
        match (&self.rule, self.lesson) {
            (_, Some(until)) => {
                let until =
                    Timestamp::try_from(until).map_or_else(|_| String::new(), |t| t.to_string());
                writeln!(
                    f,
                    "  by no line: the listener learns until {until}, and records it"
                )?;
            }
            (Some(rule), None) => writeln!(f, "  by {rule}")?,
            (None, None) => writeln!(f, "  no line decides it")?,
        }
        if let Some(because) = &self.because {
            writeln!(f, "  through {because}")?;
        }
        for (slot, value) in &self.values {
            match value {
                Some(value) => writeln!(f, "  {slot} is {value:?}")?,
                None => writeln!(f, "  {slot} has no safe value")?,
            }
        }
        match self.publish {
            Some(true) => writeln!(f, "  asked in addition to publish, which is allowed")?,
            Some(false) => writeln!(
                f,
                "  asked in addition to publish, which is denied: ask about that, too"
            )?,
            None => {}
        }
        for change in &self.change {
            writeln!(f, "  to change it: {change}")?;
        }
        Ok(())
    }
}

/// Answers whether `who` may do `act` on `topic` (a topic name; for `subscribe` a filter; for
/// `share` a group) in these circumstances, and why; what a listener allows that learns included.
///
/// # Errors
///
/// Text that is not a topic name, filter or group, and why not.
pub fn explain<'a>(
    policy: &Policy,
    who: &Snapshot,
    circumstances: impl Into<Circumstances<'a>>,
    act: Act,
    topic: &str,
) -> Result<Explanation, String> {
    check(act, topic)?;
    let circumstances = circumstances.into();
    let mut lessons = circumstances.lessons.iter();
    let lesson = lessons.find(|lesson| lesson.runs(&who.listener, circumstances.at));
    let rules = effective(policy, who, circumstances);
    let of_act: Vec<&Effective> = rules.iter().filter(|rule| rule.act == act).collect();
    let mut explanation = Explanation {
        question: format!("{} {act} {topic}", who.principal()),
        allowed: false,
        cover: None,
        rule: None,
        lesson: None,
        because: None,
        values: values(policy, who, &of_act),
        publish: None,
        change: Vec::new(),
    };
    let filter = TopicFilter::new(topic, TopicLimits::default()).ok();
    let wide = filter.filter(|filter| act == Act::Subscribe && filter.has_wildcard());
    if let Some(filter) = wide {
        let filter = filter.filter();
        subscription(policy, who, filter, &of_act, lesson, &mut explanation);
    } else {
        concrete(policy, who, act, topic, &rules, &mut explanation);
        let taught = |lesson: &&Lesson| {
            let mut topics = lesson.topics.iter();
            act != Act::Share && topics.any(|filter| topic::matches(filter, topic))
        };
        if explanation.rule.is_none()
            && let Some(lesson) = lesson.filter(taught)
        {
            explanation.taught(lesson);
            explanation.cover = explanation.cover.map(|_| Cover::Full);
        }
    }
    if matches!(act, Act::Retain | Act::Will) {
        let beside = explain(policy, who, circumstances, Act::Publish, topic)?;
        explanation.publish = Some(beside.allowed);
    }
    if act == Act::Subscribe && !explanation.allowed {
        // As the broker does: who asks for more than it may have gets less.
        let lower = [(1, QoS::AtLeastOnce), (0, QoS::AtMostOnce)];
        for (level, qos) in lower
            .into_iter()
            .filter(|(_, qos)| *qos < circumstances.qos)
        {
            let at = Circumstances {
                qos,
                ..circumstances
            };
            if explain(policy, who, at, act, topic)?.allowed {
                let instead = format!("nothing, if QoS {level} is enough: that is granted");
                explanation.change.insert(0, instead);
                break;
            }
        }
    }
    Ok(explanation)
}

impl Explanation {
    /// It is allowed by a lesson alone.
    fn taught(&mut self, lesson: &Lesson) {
        self.allowed = true;
        self.lesson = Some(lesson.until);
        // What would allow it for good.
        for change in &mut self.change {
            change.insert_str(0, "it is refused afterwards: ");
        }
        self.change
            .push("or add a deny line that matches, which wins over any lesson".into());
    }
}

fn check(act: Act, topic: &str) -> Result<(), String> {
    let limits = TopicLimits::default();
    let checked = match act {
        Act::Share if topic.is_empty() || topic.contains(['/', '+', '#', '\0']) => {
            return Err(format!("{topic:?} is not a group name"));
        }
        Act::Share => Ok(()),
        Act::Subscribe => match TopicFilter::new(topic, limits) {
            Ok(filter) if filter.share().is_some() => {
                let (group, filter) = (filter.share().unwrap_or_default(), filter.filter());
                return Err(format!(
                    "these are two questions, and both need a yes: `share {group}` and \
                     `subscribe {filter}`"
                ));
            }
            other => other.map(drop),
        },
        Act::Publish | Act::Retain | Act::Will => TopicName::new(topic, limits).map(drop),
    };
    checked.map_err(|error| format!("{topic:?} {error}"))
}

fn concrete(
    policy: &Policy,
    who: &Snapshot,
    act: Act,
    topic: &str,
    rules: &[Effective],
    out: &mut Explanation,
) {
    let of = |effect: Effect| {
        let rules = rules.iter();
        rules.filter(move |r| r.act == act && r.effect == effect && r.matches(topic))
    };
    let deny = of(Effect::Deny).next();
    let allow = of(Effect::Allow).next();
    out.allowed = deny.is_none() && allow.is_some();
    if act == Act::Subscribe {
        out.cover = Some(match deny {
            _ if out.allowed => Cover::Full,
            other => Cover::Nothing(other.map(|deny| deny.rule)),
        });
    }
    if let Some(decides) = deny.or(allow) {
        out.rule = Some(policy.describe(decides.rule));
        out.because = policy
            .rule(decides.rule.0)
            .and_then(|rule| path(policy, who, rule.subject));
    }
    let places = |effect: Effect| {
        let rules: Vec<String> = of(effect).map(|r| policy.describe(r.rule)).collect();
        rules.join(" and ")
    };
    if out.allowed {
        out.change.push(format!("remove {}", places(Effect::Allow)));
        out.change
            .push("or add a deny line that matches, which wins over any allow".into());
        return;
    }
    if deny.is_some() {
        out.change
            .push(format!("remove or narrow {}", places(Effect::Deny)));
    }
    if allow.is_none() {
        out.change.extend(missing(policy, who, act, topic, rules));
    }
}

/// Ways to allow what no line allows.
fn missing(
    policy: &Policy,
    who: &Snapshot,
    act: Act,
    topic: &str,
    rules: &[Effective],
) -> Vec<String> {
    let mut ways = Vec::new();
    ways.extend(conditional(policy, who, act, rules, |rule| {
        rule.matches(topic)
    }));
    let empty = rules.iter().filter(|r| r.act == act && r.filter.is_none());
    ways.extend(empty.take(MOST).map(|rule| {
        let rule = policy.describe(rule.rule);
        format!("{rule} grants nothing: a placeholder in it has no safe value")
    }));
    let other = rules.iter().filter(|r| {
        r.act != act && r.effect == Effect::Allow && (r.act == Act::Share) == (act == Act::Share)
    });
    ways.extend(other.filter(|r| r.matches(topic)).take(MOST).map(|rule| {
        let other = policy.describe(rule.rule);
        format!("{other} allows {} there, not {act}", rule.act)
    }));
    let applicable = |subject: u32| {
        let mine = policy.applicable(who);
        mine.own == Some(subject) || mine.shared.contains(&subject)
    };
    let elsewhere = (0..).zip(&policy.rules).filter(|(_, rule)| {
        rule.act == act
            && rule.effect == Effect::Allow
            && policy.subjects.name(rule.subject).starts_with("role:")
            && !applicable(rule.subject)
    });
    let fitting = elsewhere.filter(|(number, rule)| {
        let effective = Effective {
            rule: portcullis_core::hook::Rule(*number),
            act,
            effect: rule.effect,
            filter: substituted(policy, rule, who),
        };
        effective.matches(topic)
    });
    ways.extend(fitting.take(MOST).map(|(_, rule)| {
        let role = policy.subjects.name(rule.subject);
        let place = policy.place(rule.file, rule.line);
        let principal = who.principal();
        let principal = written(principal.as_str());
        format!("add `g, {principal}, {role}`: {place} allows it to that role")
    }));
    ways.push(line(who, topic, act));
    if topic.starts_with('$') && act != Act::Share {
        ways.push(
            "patterns that begin with a wildcard do not touch topics that begin with `$`".into(),
        );
    }
    ways
}

/// The line that would allow it, if there can be one.
fn line(who: &Snapshot, topic: &str, act: Act) -> String {
    let principal = who.principal();
    let (principal, topic) = (written(principal.as_str()), written(topic));
    let text = format!("p, {principal}, {topic}, {act}, allow");
    let sources = Sources {
        policies: vec![Source::new("", text.as_str())],
        ..Sources::default()
    };
    // What is in braces is a placeholder, if it is anything.
    if !topic.contains(['{', '}']) && Policy::load(&sources).is_ok() {
        format!("add `{text}`")
    } else {
        "no line can name it as it is: braces, quotes and control characters are no topics there; \
         a `+` stands for such a level"
            .into()
    }
}

/// Allow lines that would count if their conditions held.
fn conditional(
    policy: &Policy,
    who: &Snapshot,
    act: Act,
    in_force: &[Effective],
    fits: impl Fn(&Effective) -> bool,
) -> Vec<String> {
    let all = rules(policy, who, |rule| {
        rule.cond.is_some() && rule.act == act && rule.effect == Effect::Allow
    });
    let idle = all.iter().filter(|idle| {
        let counts = in_force.iter().any(|rule| rule.rule == idle.rule);
        !counts && fits(idle)
    });
    idle.take(MOST)
        .map(|rule| {
            let rule = policy.describe(rule.rule);
            format!("{rule} would allow it, but its condition does not hold")
        })
        .collect()
}

fn subscription(
    policy: &Policy,
    who: &Snapshot,
    filter: &str,
    rules: &[&Effective],
    lesson: Option<&Lesson>,
    out: &mut Explanation,
) {
    // The client's rules with its values in them: an unsafe allow is left out, an unsafe deny
    // has `+`, so no value is open any more.
    let mut trie = Trie::new([]);
    for rule in rules {
        if let Some(filter) = &rule.filter {
            trie.insert(&plain(filter), Asked::Receive, rule.effect, rule.rule.0);
        }
    }
    let ask = |trie: &Trie| {
        let view = View {
            tries: &[trie],
            values: &[],
            asked: Asked::Receive,
        };
        algebra::ask(filter, &[view], WORK)
    };
    let answer = ask(&trie);
    let cover = answer.cover();
    out.cover = Some(cover);
    out.allowed = cover == Cover::Full;
    let [no, yes, ..] = &answer.examples;
    let deciding = match cover {
        Cover::Full | Cover::Bounded => rules
            .iter()
            .filter(|rule| rule.effect == Effect::Allow)
            .find(|rule| overlaps(rule, filter))
            .map(|rule| rule.rule),
        Cover::Partial(cut) | Cover::Nothing(cut) => cut,
        Cover::Unclear => None,
    };
    if let Some(rule) = deciding {
        out.rule = Some(policy.describe(rule));
        let subject = policy.rule(rule.0).map(|rule| rule.subject);
        out.because = subject.and_then(|subject| path(policy, who, subject));
    }
    if answer.exhausted {
        out.change
            .push("the policy is too large to answer exactly; ask about a narrower filter".into());
    } else if let Some(no) = no {
        let in_force: Vec<Effective> = rules.iter().map(|rule| (*rule).clone()).collect();
        let idle = conditional(policy, who, Act::Subscribe, &in_force, |rule| {
            overlaps(rule, filter)
        });
        out.change.extend(idle);
        out.change.push(match answer.cut {
            Some(cut) => format!("{no} is denied: remove or narrow {}", policy.describe(cut)),
            None => format!("{no} is not allowed: {}", line(who, filter, Act::Subscribe)),
        });
        if let Some(yes) = yes {
            out.change
                .push(format!("or subscribe to what is allowed, such as {yes}"));
        }
    }
    if let Some(lesson) = lesson.filter(|_| cover != Cover::Full) {
        for topic in &lesson.topics {
            trie.insert(&plain(topic), Asked::Receive, Effect::Allow, LESSON);
        }
        if ask(&trie).cover() == Cover::Full {
            out.cover = Some(Cover::Full);
            out.taught(lesson);
        }
    }
}

fn overlaps(rule: &Effective, filter: &str) -> bool {
    let Some(own) = rule.filter.as_deref() else {
        return false;
    };
    let mut trie = Trie::new([]);
    trie.insert(&plain(own), Asked::Receive, Effect::Allow, 0);
    let view = View {
        tries: &[&trie],
        values: &[],
        asked: Asked::Receive,
    };
    algebra::ask(filter, &[view], WORK).has(1)
}

fn values(policy: &Policy, who: &Snapshot, rules: &[&Effective]) -> Vec<(String, Option<String>)> {
    let mut values: BTreeMap<String, Option<String>> = BTreeMap::new();
    let rules = rules.iter().filter_map(|rule| policy.rule(rule.rule.0));
    for level in rules.flat_map(|rule: &PolicyRule| &rule.levels) {
        if let Level::Slot(number) = level
            && let Some(slot) = policy.slots.get(*number)
        {
            values.insert(slot.to_string(), slot.value(who).map(str::to_owned));
        }
    }
    values.into_iter().collect()
}

/// How a client comes to a subject: `cert:pump-17 -> role:infusion (policy.csv:9)`.
fn path(policy: &Policy, who: &Snapshot, target: u32) -> Option<String> {
    let name = policy.subjects.name(target);
    if name == "*" || name == who.principal().as_str() {
        return Some(format!("{name} itself"));
    }
    let mut open: VecDeque<(u32, String)> = VecDeque::new();
    if let Some(own) = policy.subjects.find(who.principal().as_str()) {
        open.push_back((own, who.principal().to_string()));
    }
    for role in &*who.identity.roles {
        if let Some(role) = policy.subjects.find(&format!("role:{role}")) {
            let name = policy.subjects.name(role);
            open.push_back((role, format!("{name} (from the credential)")));
        }
    }
    let mut seen = Vec::new();
    while let Some((subject, so_far)) = open.pop_front() {
        if subject == target {
            return Some(so_far);
        }
        if seen.contains(&subject) {
            continue;
        }
        seen.push(subject);
        let links = policy.links.iter().filter(|link| link.member == subject);
        open.extend(links.map(|link: &Link| {
            let role = policy.subjects.name(link.role);
            let place = policy.place(link.file, link.line);
            (link.role, format!("{so_far} -> {role} ({place})"))
        }));
    }
    None
}
