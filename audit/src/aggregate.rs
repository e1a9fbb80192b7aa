//! Equal refusals, counted: the first ten of a minute are records, the rest become one summary.
//!
//! Time is an argument; whoever owns the table asks [`Aggregator::due`] from time to time.
//!
//! The table is bounded. When it is full, refusals that it does not know yet are counted under one
//! line per kind, with the same ten and the same summary, so a flood from a million prefixes costs
//! as many records as one from the table's size.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant, SystemTime};

use portcullis_core::clock::Now;

use crate::record::{Facts, Kind, Record, Sameness, Subject};

/// How many equal refusals of one window are records of their own.
const SINGLES: u32 = 10;
/// The window, from the first of its refusals.
const WINDOW: Duration = Duration::from_mins(1);
/// Most lines of the table; one takes some 200 bytes and its texts (at most 8 KiB).
const LINES: usize = 10_000;

/// Counts equal refusals.
pub(crate) struct Aggregator {
    /// By the seeded hash of what makes refusals equal. Two unequal ones share a line with a
    /// probability of 2^-64 for each pair, and nobody can aim for it.
    lines: HashMap<u64, Line>,
    hasher: RandomState,
    capacity: usize,
    /// Before it nothing is due; `None` while the table is empty.
    next_due: Option<Instant>,
}

struct Line {
    opened: Instant,
    singles: u32,
    rest: Option<Rest>,
    kind: Kind,
    subject: Option<(&'static str, Box<str>)>,
    rule: Box<str>,
}

struct Rest {
    count: u64,
    weight: u64,
    first: SystemTime,
    last: SystemTime,
}

/// What is to be done about a refusal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Write it as a record of its own.
    pub(crate) single: bool,
    /// Write this first: the window before has ended.
    pub(crate) summary: Option<Record>,
}

impl Aggregator {
    pub(crate) fn new() -> Self {
        Self::with_capacity(LINES)
    }

    fn with_capacity(capacity: usize) -> Self {
        Self {
            lines: HashMap::new(),
            hasher: RandomState::new(),
            capacity,
            next_due: None,
        }
    }

    /// Counts one refusal.
    pub(crate) fn note(&mut self, same: &Sameness<'_>, now: Now) -> Noted {
        let mut key = self
            .hasher
            .hash_one((same.kind, same.subject, same.rule, same.code));
        let overflow = self.lines.len() >= self.capacity && !self.lines.contains_key(&key);
        if overflow {
            key = self.hasher.hash_one(("overflow", same.kind));
        }
        let mut summary = None;
        if let Some(line) = self.lines.get_mut(&key) {
            if now.mono.saturating_duration_since(line.opened) < WINDOW {
                return Noted {
                    single: line.count(same.weight, now),
                    summary,
                };
            }
            summary = line.summary(now);
        }
        self.next_due.get_or_insert(now.mono + WINDOW);
        self.lines.insert(key, Line::open(same, overflow, now));
        Noted {
            single: true,
            summary,
        }
    }

    /// The summaries of the windows that have ended.
    pub(crate) fn due(&mut self, now: Now) -> Vec<Record> {
        match self.next_due {
            Some(due) if due <= now.mono => {}
            Some(_) | None => return Vec::new(),
        }
        let mut records = Vec::new();
        self.lines.retain(|_, line| {
            let open = now.mono.saturating_duration_since(line.opened) < WINDOW;
            if !open {
                records.extend(line.summary(now));
            }
            open
        });
        self.next_due = self.lines.values().map(|line| line.opened + WINDOW).min();
        records
    }

    /// All summaries, whether their windows have ended or not: the broker stops.
    pub(crate) fn finish(&mut self, now: Now) -> Vec<Record> {
        self.next_due = None;
        self.lines
            .drain()
            .filter_map(|(_, line)| line.summary(now))
            .collect()
    }
}

impl Line {
    /// A window that begins with its first single record.
    fn open(same: &Sameness<'_>, overflow: bool, now: Now) -> Self {
        let subject = match same.subject {
            _ if overflow => None,
            Subject::Principal(name) => Some(("principal", name.into())),
            Subject::Prefix(prefix) => Some(("source", prefix.text().into())),
            Subject::Local => Some(("source", "local".into())),
        };
        let rule = if overflow {
            "any: the table of refusals is full"
        } else {
            same.rule
        };
        Self {
            opened: now.mono,
            singles: 1,
            rest: None,
            kind: same.kind,
            subject,
            rule: rule.into(),
        }
    }

    /// Whether this one is still a record of its own.
    fn count(&mut self, weight: u64, now: Now) -> bool {
        if self.singles < SINGLES {
            self.singles += 1;
            return true;
        }
        let rest = self.rest.get_or_insert(Rest {
            count: 0,
            weight: 0,
            first: now.wall,
            last: now.wall,
        });
        rest.count = rest.count.saturating_add(1);
        rest.weight = rest.weight.saturating_add(weight);
        rest.last = now.wall;
        false
    }

    /// `None` where there is nothing beyond the single records.
    fn summary(&self, now: Now) -> Option<Record> {
        let rest = self.rest.as_ref()?;
        let mut facts = Facts::new(Kind::Summary, now.wall);
        facts.text("of", self.kind.as_str());
        if let Some((key, subject)) = &self.subject {
            facts.text(key, subject);
        }
        facts.text("rule", &self.rule).number("count", rest.count);
        if self.kind == Kind::QueueDropped {
            facts.number("messages", rest.weight);
        }
        facts.time("first", rest.first).time("last", rest.last);
        Some(facts.finish())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal<'a>(principal: &'a str, rule: &'a str) -> Sameness<'a> {
        Sameness {
            kind: Kind::PublishDenied,
            subject: Subject::Principal(principal),
            rule,
            code: None,
            weight: 1,
        }
    }

    fn count_in(record: &Record) -> u64 {
        let value: serde_json::Value =
            serde_json::from_str(&format!("{{\"seq\":1{}}}", record.text)).unwrap();
        assert_eq!(value["event"], "summary");
        value["count"].as_u64().unwrap()
    }

    #[test]
    fn the_first_ten_of_a_minute_are_single_the_rest_one_summary() {
        let mut table = Aggregator::new();
        let start = Now::read();
        let at = |millis| start.after(Duration::from_millis(millis));
        let singles = (0..25)
            .filter(|n| {
                table
                    .note(&refusal("user:eve", "p.csv:3"), at(n * 100))
                    .single
            })
            .count();
        assert_eq!(singles, 10);
        assert!(table.due(at(59_999)).is_empty());
        let due = table.due(at(60_000));
        assert_eq!(due.len(), 1);
        assert_eq!(count_in(&due[0]), 15);
        let text = &due[0].text;
        for part in [
            "\"of\":\"publish-denied\"".to_owned(),
            "\"principal\":\"user:eve\"".to_owned(),
            "\"rule\":\"p.csv:3\"".to_owned(),
            format!("\"first\":\"{}\"", crate::record::rfc3339(at(1000).wall)),
            format!("\"last\":\"{}\"", crate::record::rfc3339(at(2400).wall)),
        ] {
            assert!(text.contains(&part), "{part} in {text}");
        }
        assert!(
            table.due(at(600_000)).is_empty(),
            "a summary is written once"
        );
    }

    #[test]
    fn another_principal_or_rule_has_its_own_ten() {
        let mut table = Aggregator::new();
        let now = Now::read();
        for (principal, rule) in [("user:a", "x"), ("user:b", "x"), ("user:a", "y")] {
            for _ in 0..10 {
                assert!(table.note(&refusal(principal, rule), now).single);
            }
            assert!(!table.note(&refusal(principal, rule), now).single);
        }
    }

    #[test]
    fn a_refusal_after_the_minute_writes_the_old_summary_and_is_single_again() {
        let mut table = Aggregator::new();
        let start = Now::read();
        for _ in 0..12 {
            table.note(&refusal("user:a", "x"), start);
        }
        let noted = table.note(&refusal("user:a", "x"), start.after(WINDOW));
        assert!(noted.single);
        assert_eq!(count_in(&noted.summary.unwrap()), 2);
        assert!(table.finish(start.after(WINDOW)).is_empty());
    }

    #[test]
    fn a_full_table_counts_strangers_together_and_keeps_the_lines_it_has() {
        let mut table = Aggregator::with_capacity(2);
        let now = Now::read();
        let names: Vec<String> = (0..100).map(|n| format!("user:{n}")).collect();
        let singles = names
            .iter()
            .filter(|name| table.note(&refusal(name, "x"), now).single)
            .count();
        assert_eq!(singles, 2 + 10);
        assert!(
            table.note(&refusal("user:0", "x"), now).single,
            "known lines go on"
        );
        assert!(table.lines.len() <= 3);
        let summaries = table.finish(now);
        assert_eq!(summaries.iter().map(count_in).sum::<u64>(), 88);
        assert!(summaries[0].text.contains("table of refusals is full"));
    }

    proptest! {
        /// Nothing is lost: what was single and what summaries count is what happened.
        #[test]
        fn singles_and_summaries_add_up(steps in prop::collection::vec((0_usize..5, 0_u64..20_000), 1..400)) {
            let names = ["user:0", "user:1", "user:2", "user:3", "user:4"];
            let mut table = Aggregator::with_capacity(3);
            let mut now = Now::read();
            let (mut singles, mut summed) = (0, 0);
            for (who, millis) in &steps {
                now = now.after(Duration::from_millis(*millis));
                summed += table.due(now).iter().map(count_in).sum::<u64>();
                let noted = table.note(&refusal(names[*who], "x"), now);
                singles += u64::from(noted.single);
                summed += noted.summary.iter().map(count_in).sum::<u64>();
                prop_assert!(table.lines.len() <= 4);
            }
            summed += table.finish(now).iter().map(count_in).sum::<u64>();
            prop_assert_eq!(singles + summed, steps.len() as u64);
        }
    }
}
