//! The topic algebra against the sentences of the design, and against brute force.

use std::sync::LazyLock;

use portcullis_acl::cover;
use portcullis_core::hook::{Cover, Rule};
use portcullis_core::topic::matches;
use proptest::prelude::*;
use proptest::sample::{Index, select};

#[derive(Debug, PartialEq)]
enum Short {
    Full,
    Partial,
    Nothing,
}

fn short(cover: Cover) -> Short {
    match cover {
        // No filter is about some messages only.
        Cover::Full | Cover::Bounded => Short::Full,
        Cover::Partial(_) | Cover::Unclear => Short::Partial,
        Cover::Nothing(_) => Short::Nothing,
    }
}

#[test]
fn cover_is_set_algebra_over_unbounded_topics() {
    use Short::{Full, Nothing, Partial};
    let cases: &[(&str, &[&str], &[&str], Short)] = &[
        ("a/#", &["a/+"], &[], Partial),
        ("a/+", &["a/#"], &[], Full),
        ("a/#", &["a", "a/+", "a/+/+/#"], &[], Full),
        ("a/#", &["a", "a/+/+/#"], &[], Partial),
        ("a/#", &["a/+", "a/+/+/#"], &[], Partial),
        ("#", &["+", "+/#"], &[], Full),
        ("#", &["+", "+/+/#"], &[], Full),
        ("+", &["#"], &[], Full),
        ("#", &["+"], &[], Partial),
        ("a", &["a"], &[], Full),
        ("a", &["b"], &[], Nothing),
        ("a", &[], &[], Nothing),
        ("+/b", &["a/#"], &[], Partial),
        // A deny cuts what it matches, and `#` matches the level above it.
        ("t/#", &["t/#"], &["t/secret/#"], Partial),
        ("t/+", &["t/#"], &["t/secret/#"], Partial),
        ("t/+/x", &["t/#"], &["t/secret"], Full),
        ("t/open", &["t/#"], &["t/secret/#"], Full),
        ("t/secret", &["t/#"], &["t/secret/#"], Nothing),
        ("t/secret/+", &["t/#"], &["t/secret/#"], Nothing),
        ("a/+", &["a/+"], &["+/b"], Partial),
        ("a/#", &["#"], &["a"], Partial),
        ("a/+/#", &["#"], &["a"], Full),
        // A leading wildcard does not touch `$`-topics, on either side.
        ("#", &["#"], &["$SYS/#"], Full),
        ("+/x", &["#"], &["$SYS/x"], Full),
        ("$SYS/#", &["#"], &[], Nothing),
        ("$SYS/#", &["+/#", "$SYS/a"], &[], Partial),
        ("$SYS/#", &["$SYS/#"], &["#"], Full),
        ("$SYS/a", &["$SYS/#"], &["+/a"], Full),
        ("$SYS/+", &["$SYS/#"], &["$SYS/a"], Partial),
        ("a/$b", &["a/+"], &[], Full),
        // The empty level is a level; the empty topic is no topic.
        ("/a", &["+/a"], &[], Full),
        ("+/a", &["/a"], &[], Partial),
        ("+", &["+"], &["/#"], Full),
        ("#", &["#"], &["/#"], Partial),
        ("a/", &["a/+"], &[], Full),
        ("a/+", &["a/+"], &["a/"], Partial),
    ];
    for (filter, allows, denies, answer) in cases {
        let got = cover(filter, allows, denies).map(short);
        assert_eq!(got.as_ref(), Some(answer), "{filter} {allows:?} {denies:?}");
    }
}

#[test]
fn the_answer_names_the_deny_that_cut() {
    let denies = ["x/#", "t/secret/#"];
    let cut = Some(Rule(1));
    assert_eq!(cover("t/#", &["t/#"], &denies), Some(Cover::Partial(cut)));
    assert_eq!(
        cover("t/secret", &["t/#"], &denies),
        Some(Cover::Nothing(cut))
    );
    assert_eq!(cover("t/+", &["t/a"], &[]), Some(Cover::Partial(None)));
}

#[test]
fn what_is_not_a_filter_has_no_answer() {
    assert_eq!(cover("a/#/b", &["a"], &[]), None);
    assert_eq!(cover("a", &["a+"], &[]), None);
    assert_eq!(cover("a", &["{name}"], &[]), None);
}

/// A question that would take for ever is cut short, and the answer is then not a yes.
/// At each level the rules tell one literal from the others, and all ways meet again behind it: there
/// are 2^40 of them, and one answer.
#[test]
fn ways_that_meet_again_are_walked_once() {
    let all = ["+"; 40].join("/");
    let denies: Vec<String> = (0..39).map(|at| format!("{}a", "+/".repeat(at))).collect();
    let denies: Vec<&str> = denies.iter().map(String::as_str).collect();
    assert_eq!(cover(&all, &[&all], &denies), Some(Cover::Full));
}

#[test]
fn more_work_than_the_bound_is_answered_strictly() {
    let words: Vec<String> = (0..400).map(|n| n.to_string()).collect();
    let mut denies: Vec<String> = Vec::new();
    for a in &words {
        denies.extend(words.iter().map(|b| format!("{a}/{b}/x")));
    }
    let denies: Vec<&str> = denies.iter().map(String::as_str).collect();
    let got = cover("+/+/y", &["#"], &denies).unwrap();
    assert_eq!(
        short(got),
        Short::Partial,
        "it is full, but that took too long to find out"
    );
    // Many overlapping wildcards, deep: the memo keeps it small.
    let deep: Vec<String> = (0..20)
        .map(|n| {
            let mut levels = vec!["+"; 20];
            if let Some(level) = levels.get_mut(n) {
                *level = "a";
            }
            levels.join("/")
        })
        .collect();
    let deep: Vec<&str> = deep.iter().map(String::as_str).collect();
    let filter = ["+"; 20].join("/");
    assert_eq!(cover(&filter, &deep, &[]).map(short), Some(Short::Partial));
}

/// Filters of at most three levels over two literals, a `$` literal and the empty level.
fn filters() -> impl Strategy<Value = String> {
    let level = select(vec!["a", "b", "+", "+", "$s", ""]);
    (
        prop::collection::vec(level, 0..=3),
        any::<bool>(),
        any::<Index>(),
    )
        .prop_filter_map("not a filter", |(mut levels, hash, _)| {
            if hash || levels.is_empty() {
                levels.push("#");
            }
            let filter = levels.join("/");
            (!filter.is_empty()).then_some(filter)
        })
}

/// Every topic of at most four levels over the literals of [`filters`] and one more. Longer ones are
/// to these filters like those of four.
static TOPICS: LazyLock<Vec<String>> = LazyLock::new(topics);

fn topics() -> Vec<String> {
    let words = ["a", "b", "c", "$s", ""];
    let mut all: Vec<String> = Vec::new();
    let mut last: Vec<String> = words.map(String::from).to_vec();
    for _ in 0..3 {
        all.extend(last.iter().cloned());
        let longer = last
            .iter()
            .flat_map(|head| words.map(|word| format!("{head}/{word}")));
        last = longer.collect();
    }
    all.extend(last);
    all.retain(|topic| !topic.is_empty());
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn cover_equals_brute_force(
        filter in filters(),
        allows in prop::collection::vec(filters(), 0..5),
        denies in prop::collection::vec(filters(), 0..4),
    ) {
        let allowed = |topic: &String| {
            allows.iter().any(|f| matches(f, topic)) && !denies.iter().any(|f| matches(f, topic))
        };
        let all = &*TOPICS;
        let (mut some, mut others) = (false, false);
        for topic in all.iter().filter(|topic| matches(&filter, topic)) {
            if allowed(topic) { some = true } else { others = true }
        }
        let expected = match (some, others) {
            (true, false) => Short::Full,
            (true, true) => Short::Partial,
            (false, _) => Short::Nothing,
        };
        let allow: Vec<&str> = allows.iter().map(String::as_str).collect();
        let deny: Vec<&str> = denies.iter().map(String::as_str).collect();
        let got = cover(&filter, &allow, &deny).unwrap();
        if let Cover::Partial(Some(rule)) | Cover::Nothing(Some(rule)) = got {
            let cut = denies.get(rule.0 as usize).unwrap();
            prop_assert!(all.iter().any(|t| matches(&filter, t) && matches(cut, t)));
        }
        prop_assert_eq!(short(got), expected, "{} {:?} {:?}", filter, allows, denies);
    }
}
