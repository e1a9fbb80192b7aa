//! Unit tests for policies: expectations in TOML beside the policy.
//!
//! ```toml
//! policy = ["policy.csv"]              # the default; relative to this file
//!
//! [[test]]
//! name = "a device speaks for itself only"
//! principal = "cert:device-1"
//! roles = ["nurse"]                    # from the credential; the policy adds its own
//! client-id = "device-1"
//! listener = "internet"
//! attributes = { "cert.ou" = "icu" }   # cert.FIELD and claim.PATH
//! address = "10.1.2.3"                 # for conditions: where it comes from,
//! time = "2026-11-24T09:00:00Z"        # and when; without it no time window is known to be open
//! qos = 1                              # the message's, or asked for by a subscription; 0
//! payload = "64 KiB"                   # the size of the message; "0 B"
//! allow = ["publish devices/device-1/telemetry"]
//! deny = ["publish devices/device-2/telemetry", "share workers"]
//! full = ["devices/device-1/commands"] # subscriptions that are granted as a whole,
//! partial = ["devices/#"]              # in part,
//! nothing = ["plant/#"]                # not at all
//! ```

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use portcullis_core::hook::{Cover, Identity};
use portcullis_core::wire::QoS;
use serde::Deserialize;
use toml::Spanned;

use super::{Circumstances, Who, explain, payload_size};
use crate::load::Sources;
use crate::policy::{Act, Policy};

/// The shape of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default = "beside")]
    policy: Vec<PathBuf>,
    model: Option<PathBuf>,
    #[serde(default)]
    test: Vec<Test>,
}

fn beside() -> Vec<PathBuf> {
    vec!["policy.csv".into()]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Test {
    name: String,
    principal: Spanned<String>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    client_id: String,
    #[serde(default)]
    listener: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    address: Option<IpAddr>,
    time: Option<Spanned<String>>,
    #[serde(default)]
    qos: Option<Spanned<u8>>,
    payload: Option<Spanned<String>>,
    #[serde(default)]
    allow: Vec<Spanned<String>>,
    #[serde(default)]
    deny: Vec<Spanned<String>>,
    #[serde(default)]
    full: Vec<Spanned<String>>,
    #[serde(default)]
    partial: Vec<Spanned<String>>,
    #[serde(default)]
    nothing: Vec<Spanned<String>>,
}

/// What came of a file of expectations. Displays like the output of a test run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file.
    pub suite: String,
    /// One for each `[[test]]`; one that failed if the file or its policy is broken.
    pub cases: Vec<Case>,
}

/// What came of one `[[test]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// How many expectations it has.
    pub checks: usize,
    /// The ones that did not hold.
    pub failures: Vec<Failure>,
}

/// An expectation that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `tests.toml:12`
    pub place: String,
    /// What was expected and what is, with the explanation.
    pub message: String,
}

impl Report {
    /// Whether every expectation held, and there was at least one.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.checks() > 0 && self.cases.iter().all(|case| case.failures.is_empty())
    }

    fn checks(&self) -> usize {
        self.cases.iter().map(|case| case.checks).sum()
    }

    fn unread(suite: &str, (line, message): Broken) -> Self {
        let mut report = Self::broken(suite, [message]);
        if let (Some(line), Some(case)) = (line, report.cases.first_mut()) {
            for failure in &mut case.failures {
                failure.place = format!("{suite}:{line}");
            }
        }
        report
    }

    fn broken(suite: &str, messages: impl IntoIterator<Item = String>) -> Self {
        let failures = messages.into_iter().map(|message| Failure {
            place: suite.to_owned(),
            message,
        });
        Self {
            suite: suite.to_owned(),
            cases: vec![Case {
                name: "loads".into(),
                checks: 1,
                failures: failures.collect(),
            }],
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        writeln!(f, "{}: {}", self.suite, some(self.cases.len(), "test"))?;
        for case in &self.cases {
            let answer = if case.failures.is_empty() {
                "ok"
            } else {
                "FAILED"
            };
            writeln!(f, "test {} ... {answer}", case.name)?;
        }
        for case in &self.cases {
            for failure in &case.failures {
                writeln!(
                    f,
                    "\n---- {} ----\n{}: {}",
                    case.name, failure.place, failure.message
                )?;
            }
        }
        let failed = self.cases.iter().filter(|c| !c.failures.is_empty()).count();
        let result = if self.passed() { "ok" } else { "FAILED" };
        let passed = self.cases.len() - failed;
        let checks = some(self.checks(), "expectation");
        writeln!(
            f,
            "\nresult: {result}. {passed} passed; {failed} failed; {checks}"
        )
    }
}

/// Runs a file of expectations against the policy that it names.
#[must_use]
pub fn run(path: &Path) -> Report {
    let suite = path.display().to_string();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let message = format!("cannot read it: {error}; name a file of expectations");
            return Report::broken(&suite, [message]);
        }
    };
    let file = match parse(&text) {
        Ok(file) => file,
        Err(broken) => return Report::unread(&suite, broken),
    };
    let base = path.parent().unwrap_or(Path::new(""));
    let policies: Vec<PathBuf> = file.policy.iter().map(|path| base.join(path)).collect();
    let model = file.model.as_ref().map(|path| base.join(path));
    let loaded =
        Sources::read(model.as_deref(), &policies).and_then(|sources| Policy::load(&sources));
    match loaded {
        Ok(loaded) => judge(&suite, &text, &file, &loaded.policy),
        Err(errors) => Report::broken(&suite, errors.iter().map(ToString::to_string)),
    }
}

/// Runs expectations against a policy that is already loaded; the file's own `policy` is not
/// looked at.
#[must_use]
pub fn check(suite: &str, text: &str, policy: &Policy) -> Report {
    match parse(text) {
        Ok(file) => judge(suite, text, &file, policy),
        Err(broken) => Report::unread(suite, broken),
    }
}

/// What keeps a file from being read, and where in it if anywhere.
type Broken = (Option<usize>, String);

fn parse(text: &str) -> Result<File, Broken> {
    let file: File = toml::from_str(text).map_err(|error| {
        let place = error.span().map(|span| line(text, span.start));
        (place, error.message().to_owned())
    })?;
    if file.test.is_empty() {
        let message = "there is no [[test]]; write one with name, principal, and what you expect";
        return Err((None, message.to_owned()));
    }
    Ok(file)
}

fn judge(suite: &str, text: &str, file: &File, policy: &Policy) -> Report {
    let cases = file.test.iter().map(|test| {
        let mut failures = Vec::new();
        let mut fail = |at: usize, message: String| {
            failures.push(Failure {
                place: format!("{suite}:{}", line(text, at)),
                message,
            });
        };
        let expectations = expectations(test);
        if expectations.is_empty() {
            fail(
                test.principal.span().start,
                "the test expects nothing".into(),
            );
        }
        let at = test.time.as_ref().and_then(|text| {
            let time = text.get_ref().parse::<jiff::Timestamp>();
            if time.is_err() {
                let message = "time is not an instant such as \"2026-11-24T09:00:00Z\"";
                fail(text.span().start, message.into());
            }
            time.ok().map(SystemTime::from)
        });
        let mut circumstances = Circumstances::from(at);
        if let Some(qos) = &test.qos {
            match QoS::from_bits(*qos.get_ref()) {
                Some(level) if *qos.get_ref() < 3 => circumstances.qos = level,
                Some(_) | None => fail(qos.span().start, "qos is not 0, 1 or 2".into()),
            }
        }
        if let Some(size) = &test.payload {
            match payload_size(size.get_ref()) {
                Ok(bytes) => circumstances.payload = bytes,
                Err(message) => fail(size.span().start, message),
            }
        }
        for key in test.attributes.keys() {
            // {name} of a principal with the name of its CA or issuer.
            let name = key == Identity::NAME;
            if !(name || key.starts_with("cert.") || key.starts_with("claim.")) {
                fail(
                    test.principal.span().start,
                    format!(
                        "no line asks for the attribute `{key}`: write cert.FIELD or claim.PATH"
                    ),
                );
            }
        }
        match who(test).snapshot() {
            Err(error) => fail(test.principal.span().start, error),
            Ok(who) => {
                for (expected, words) in &expectations {
                    if let Err(message) =
                        hold(policy, &who, circumstances, *expected, words.get_ref())
                    {
                        fail(words.span().start, message);
                    }
                }
            }
        }
        Case {
            name: test.name.clone(),
            checks: expectations.len().max(1),
            failures,
        }
    });
    Report {
        suite: suite.to_owned(),
        cases: cases.collect(),
    }
}

fn who(test: &Test) -> Who {
    Who {
        principal: test.principal.get_ref().clone(),
        roles: test.roles.clone(),
        client_id: test.client_id.clone(),
        listener: test.listener.clone(),
        attributes: test.attributes.clone(),
        address: test.address,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Expected {
    Allow,
    Deny,
    Full,
    Partial,
    Nothing,
}

fn expectations(test: &Test) -> Vec<(Expected, &Spanned<String>)> {
    [
        (Expected::Allow, &test.allow),
        (Expected::Deny, &test.deny),
        (Expected::Full, &test.full),
        (Expected::Partial, &test.partial),
        (Expected::Nothing, &test.nothing),
    ]
    .into_iter()
    .flat_map(|(expected, list)| list.iter().map(move |words| (expected, words)))
    .collect()
}

fn hold(
    policy: &Policy,
    who: &portcullis_core::hook::Snapshot,
    circumstances: Circumstances<'_>,
    expected: Expected,
    words: &str,
) -> Result<(), String> {
    let (act, topic) = match expected {
        Expected::Full | Expected::Partial | Expected::Nothing => (Act::Subscribe, words),
        Expected::Allow | Expected::Deny => {
            let (act, topic) = words.split_once(' ').unwrap_or((words, ""));
            let act = Act::parse(act).ok_or_else(|| {
                format!("{words:?} does not begin with publish, retain, will, subscribe or share")
            })?;
            let topic = topic.trim_start();
            if topic.is_empty() {
                return Err(format!("{words:?} names no topic: write \"{act} TOPIC\""));
            }
            if act == Act::Subscribe && topic.contains(['+', '#']) {
                return Err(format!(
                    "{topic:?} has a wildcard: list it under full, partial or nothing"
                ));
            }
            (act, topic)
        }
    };
    let answer = explain(policy, who, circumstances, act, topic)?;
    let (holds, wish) = match expected {
        Expected::Allow => (answer.allowed, "allowed"),
        Expected::Deny => (!answer.allowed, "denied"),
        Expected::Full => (answer.cover == Some(Cover::Full), "allowed in full"),
        Expected::Partial => (
            matches!(answer.cover, Some(Cover::Partial(_))),
            "allowed in part",
        ),
        Expected::Nothing => (
            matches!(answer.cover, Some(Cover::Nothing(_))),
            "allowed in nothing",
        ),
    };
    if holds {
        Ok(())
    } else {
        Err(format!("expected to be {wish}, but\n{answer}"))
    }
}

fn line(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    before.filter(|byte| **byte == b'\n').count() + 1
}

/// Reports as `JUnit` XML, for CI.
#[must_use]
pub fn junit(reports: &[Report]) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for report in reports {
        let failed = report.cases.iter().filter(|c| !c.failures.is_empty());
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\">",
            escaped(&report.suite),
            report.cases.len(),
            failed.count()
        );
        for case in &report.cases {
            let name = escaped(&case.name);
            let class = escaped(&report.suite);
            let _ = write!(xml, "    <testcase classname=\"{class}\" name=\"{name}\"");
            if case.failures.is_empty() {
                xml.push_str("/>\n");
                continue;
            }
            xml.push_str(">\n");
            for failure in &case.failures {
                let _ = writeln!(
                    xml,
                    "      <failure message=\"{}\">{}</failure>",
                    escaped(&failure.place),
                    escaped(&failure.message)
                );
            }
            xml.push_str("    </testcase>\n");
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(character),
            // XML 1.0 has no way to write these.
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            other if other.is_control() => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}
