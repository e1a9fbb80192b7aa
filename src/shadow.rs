//! What a candidate policy would have answered differently, for operators and for the record.

use std::fmt;
use std::time::{Duration, Instant};

use portcullis_acl::{Acl, ShadowReport};
use serde::{Deserialize, Serialize};

/// How often the record gets a summary while there are differences.
const SUMMARY: Duration = Duration::from_mins(1);

/// [`ShadowReport`] for the administration socket. Displays as a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The hash of the policy in force.
    pub active: String,
    /// The hash of the candidate.
    pub candidate: String,
    /// The most frequent first.
    pub differences: Vec<Row>,
    /// How many answers differed.
    pub total: u64,
    /// How many of them are not in the table.
    pub missed: u64,
}

/// Answers that differ in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// How often.
    pub count: u64,
    /// Whose.
    pub principal: String,
    /// `true`: the candidate allows more.
    pub gains: bool,
    /// An action of the policy language.
    pub action: String,
    /// A topic, filter or group.
    pub example: String,
    /// The line that makes the difference; empty where none speaks.
    pub rule: String,
}

impl From<ShadowReport> for Report {
    fn from(report: ShadowReport) -> Self {
        let rows = report.differences.into_iter().map(|difference| Row {
            count: difference.count,
            principal: difference.principal,
            gains: difference.gains,
            action: difference.act.to_string(),
            example: difference.example,
            rule: difference.rule,
        });
        Self {
            active: report.active,
            candidate: report.candidate,
            differences: rows.collect(),
            total: report.total,
            missed: report.missed,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "in force   {}", self.active)?;
        writeln!(f, "candidate  {}", self.candidate)?;
        writeln!(f, "{} answers differ", self.total)?;
        for row in &self.differences {
            writeln!(f, "{:>8}  {row}", row.count)?;
        }
        if self.missed > 0 {
            writeln!(f, "{:>8}  more, which are not told apart", self.missed)?;
        }
        Ok(())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names and topics come from clients: escaped.
        let (principal, example) = (self.principal.escape_debug(), self.example.escape_debug());
        let verb = if self.gains { "gains" } else { "loses" };
        let action = &self.action;
        write!(f, "{principal} {verb} {action} {example}")?;
        match self.rule.as_str() {
            "" => f.write_str(": no line speaks"),
            rule => write!(f, ": {rule}"),
        }
    }
}

/// Says once a minute what is new.
#[derive(Debug, Default)]
pub struct Summary {
    last: Option<Instant>,
    told: u64,
}

impl Summary {
    /// The text for the record, when there is something to tell and it is time.
    pub fn due(&mut self, acl: &Acl, now: Instant) -> Option<String> {
        let total = acl.difference_count();
        // Another candidate begins to count anew.
        self.told = self.told.min(total);
        let since = self.last.map(|last| now.saturating_duration_since(last));
        if total == self.told || since.is_some_and(|since| since < SUMMARY) {
            return None;
        }
        let report = Report::from(acl.differences()?);
        let new = total - self.told;
        (self.told, self.last) = (total, Some(now));
        let most = report.differences.first();
        let most = most.map_or_else(String::new, |row| format!("; most often {row}"));
        Some(format!(
            "shadow policy {}: {new} more answers differ, {total} in all{most}",
            report.candidate
        ))
    }
}

#[cfg(test)]
mod tests {
    use portcullis_acl::tools::Who;
    use portcullis_acl::{Policy, Source, Sources};
    use portcullis_core::hook::{Action, Authorizer as _, MessageFacts};
    use portcullis_core::topic::{TopicLimits, TopicName};
    use portcullis_core::wire::QoS;

    use super::*;

    fn policy(text: &str) -> Policy {
        let sources = Sources {
            policies: vec![Source::new("p.csv", text)],
            ..Sources::default()
        };
        Policy::load(&sources).unwrap().policy
    }

    #[test]
    fn the_record_is_told_once_a_minute_and_only_when_there_is_news() {
        let acl = Acl::new(policy("p, *, t, publish, allow"));
        let mut summary = Summary::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(summary.due(&acl, at(0)), None);
        acl.shadow(Some(policy("p, *, t, publish, deny").into()));
        let who = Who {
            principal: "cert:\u{1b}a".into(),
            ..Who::default()
        };
        assert!(who.snapshot().is_err(), "control characters are in no name");
        let who = Who {
            principal: "cert:a".into(),
            ..Who::default()
        };
        let grants = acl.grants(&who.snapshot().unwrap());
        let topic = TopicName::new("t", TopicLimits::default()).unwrap();
        let differ = || {
            let _ = grants.decide(
                Action::Publish,
                topic,
                &MessageFacts::smallest(QoS::AtMostOnce),
            );
        };
        assert_eq!(summary.due(&acl, at(1)), None, "nothing differs yet");
        differ();
        let said = summary.due(&acl, at(2)).unwrap();
        assert!(said.contains("1 more answers differ, 1 in all"), "{said}");
        assert!(said.contains("cert:a loses publish t: p.csv:1"), "{said}");
        differ();
        assert_eq!(summary.due(&acl, at(30)), None, "too soon");
        let said = summary.due(&acl, at(62)).unwrap();
        assert!(said.contains("1 more answers differ, 2 in all"), "{said}");
        assert_eq!(summary.due(&acl, at(200)), None, "no news");
    }
}
