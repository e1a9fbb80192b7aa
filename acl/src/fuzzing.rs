//! Properties for the fuzzer; plain functions, so that tests on stable run them too.

use portcullis_core::hook::Cover;
use portcullis_core::topic::{TopicFilter, TopicLimits, TopicName, matches};

use crate::cond::Conditions;
use crate::cover;
use crate::load::{Source, Sources};
use crate::policy::Policy;

/// Most filters of one kind: more only repeat, and the check below is quadratic.
const MOST: usize = 16;

/// Lines of text: the first is a filter, lines that begin with `!` deny, others allow, and lines
/// that begin with `=` are topics. [`cover`] must agree with each of the topics, and with each
/// topic that the filters themselves suggest.
///
/// # Panics
///
/// The property does not hold.
#[expect(clippy::panic, reason = "a broken property ends the run")]
pub fn cover_agrees_with_topics(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let mut lines = text.lines();
    let Some(filter) = lines.next() else { return };
    let (mut allows, mut denies, mut topics) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        match line.split_at_checked(1) {
            Some(("!", deny)) if denies.len() < MOST => denies.push(deny),
            Some(("=", topic)) if topics.len() < MOST => topics.push(topic.to_owned()),
            _ if allows.len() < MOST => allows.push(line),
            _ => {}
        }
    }
    let Some(answer) = cover(filter, &allows, &denies) else {
        return;
    };
    let limits = TopicLimits::default();
    let filters = std::iter::once(filter).chain(allows.iter().chain(&denies).copied());
    topics.extend(filters.flat_map(suggested));
    for topic in topics {
        if TopicName::new(&topic, limits).is_err() || !matches(filter, &topic) {
            continue;
        }
        let allowed = allows.iter().any(|allow| matches(allow, &topic))
            && !denies.iter().any(|deny| matches(deny, &topic));
        match (answer, allowed) {
            (Cover::Full, false) | (Cover::Nothing(_), true) => {
                panic!("{filter:?} of {allows:?} without {denies:?} is {answer:?}, but {topic:?}")
            }
            (Cover::Full, true)
            | (Cover::Nothing(_), false)
            | (Cover::Partial(_) | Cover::Bounded | Cover::Unclear, _) => {}
        }
    }
    // A filter covers itself, whatever it is, unless something denies.
    if TopicFilter::new(filter, limits).is_ok_and(|filter| filter.share().is_none()) {
        let own = cover(filter, &[filter], &[]);
        assert!(
            own.is_none_or(|own| own == Cover::Full),
            "{filter:?} does not cover itself: {own:?}"
        );
    }
}

/// Topics near the edge of a filter.
fn suggested(filter: &str) -> Vec<String> {
    let plain = |plus: &str, rest: &str| {
        let levels = filter.split('/').map(|level| match level {
            "+" => plus,
            "#" => rest,
            _ => level,
        });
        levels.collect::<Vec<_>>().join("/")
    };
    let mut topics = vec![plain("x", "x"), plain("", "x/y"), plain("$x", "")];
    topics.extend(filter.strip_suffix("/#").map(str::to_owned));
    topics
}

/// A policy file is read or refused, and a policy that was read is what it is written as: its lines,
/// as `describe` shows them, are the same policy again. So nothing is read in two ways.
///
/// # Panics
///
/// The property does not hold.
pub fn policy_is_what_it_is_written_as(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let load = |text: &str| {
        let sources = Sources {
            policies: vec![Source::new("policy.csv", text)],
            ..Sources::default()
        };
        Policy::load(&sources).map(|loaded| loaded.policy)
    };
    let Ok(policy) = load(text) else { return };
    let written: Vec<String> = policy.texts().collect();
    let again = load(&written.join("\n"));
    let hash = again.as_ref().map(Policy::hash).map_err(Vec::as_slice);
    assert_eq!(hash, Ok(policy.hash()), "{written:#?}");
}

/// A condition is read or refused, whatever it is; what was read has an answer, and is what it is
/// written as.
///
/// # Panics
///
/// The property does not hold.
pub fn condition(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        let mut conditions = Conditions::default();
        if let Ok(number) = conditions.number(text)
            && let Ok(who) = crate::tools::Who::anonymous().snapshot()
        {
            let windows = conditions.windows_at(Some(std::time::SystemTime::UNIX_EPOCH));
            let _ = conditions.of(&who, &windows);
            // What it asks of the client is a condition again (or too long for one), and the same.
            if let Some(written) = conditions.of_client(number)
                && let Ok(again) = conditions.number(&written)
            {
                assert_eq!(conditions.of_client(again), Some(written), "{text}");
            }
        }
    }
}
