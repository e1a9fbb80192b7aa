//! The model file, and the casbin crate as second reader.
//!
//! There is one model. A file with another effect, matcher or shape would be evaluated by nothing
//! here, so it is an error and never ignored. The comparison does not look at blanks and comments.
//!
//! The casbin crate reads everything a second time, and what it reads must be what we read: it is
//! the reference for the language, and two parsers that disagree about an access rule are a hole.

use std::collections::HashSet;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use casbin::{Adapter, DefaultModel, Model, StringAdapter};

use crate::error::{Complaint, PolicyError};
use crate::suggest::hint;

/// The shipped model, word by word.
pub const MODEL: &str = include_str!("../../policies/model.conf");

/// Section, key, and the value that is expected there.
const EXPECTED: [(&str, &str, &str); 5] = [
    ("request_definition", "r", "sub, topic, act"),
    ("policy_definition", "p", "sub, topic, act, eft"),
    ("role_definition", "g", "_, _"),
    (
        "policy_effect",
        "e",
        "some(where (p.eft == allow)) && !some(where (p.eft == deny))",
    ),
    (
        "matchers",
        "m",
        "(g(r.sub, p.sub) || p.sub == \"*\") && mqttMatch(r.topic, p.topic) && r.act == p.act",
    ),
];

/// The policy columns, with the optional condition.
const WITH_CONDITION: &str = "sub, topic, act, eft, cond";

const REMEDY: &str = "leave `model` out of [acl] to use the shipped model";

/// Checks that a model file means the shipped model.
pub(crate) fn check(file: &Arc<str>, text: &str, errors: &mut Vec<PolicyError>) {
    let before = errors.len();
    let mut section: Option<&str> = None;
    let mut found: HashSet<&str> = HashSet::new();
    let mut lines = (1..).zip(text.lines());
    while let Some((number, first)) = lines.next() {
        let line = first.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = EXPECTED.iter().map(|e| e.0).find(|known| *known == name);
            if section.is_none() {
                let near = hint(name, EXPECTED.iter().map(|e| e.0));
                let message = format!("there is no section [{name}]{near}");
                errors.push(Complaint::new(message, REMEDY).at(file, number, None));
            }
            continue;
        }
        let mut whole = line.to_owned();
        while let Some(continued) = whole.strip_suffix('\\') {
            let more = lines.next().map_or("", |(_, more)| more.trim());
            whole = format!("{} {more}", continued.trim_end());
        }
        if let Err(complaint) = entry(section, &whole, &mut found) {
            errors.push(complaint.at(file, number, None));
        }
    }
    for (section, key, value) in EXPECTED {
        if !found.contains(key) && errors.len() == before {
            let message = format!("[{section}] `{key}` is missing");
            let remedy = format!("add `{key} = {value}`, or {REMEDY}");
            errors.push(Complaint::new(message, remedy).at(file, 0, None));
        }
    }
    if errors.len() == before && !casbin_agrees(text) {
        let message = "the casbin crate does not read this as the shipped model";
        errors.push(Complaint::new(message, REMEDY).at(file, 0, None));
    }
}

fn entry(section: Option<&str>, line: &str, found: &mut HashSet<&str>) -> Result<(), Complaint> {
    let Some(section) = section else {
        return Ok(());
    };
    let Some((key, value)) = line.split_once('=') else {
        return Err(Complaint::new("this line has no `=`", REMEDY));
    };
    let (key, value) = (key.trim(), uncommented(value));
    let Some((_, name, expected)) = EXPECTED.iter().find(|e| e.0 == section) else {
        return Ok(());
    };
    if key != *name {
        return Err(Complaint::new(
            format!("[{section}] has `{key}`, which is not supported"),
            format!("keep only `{name} = {expected}`, or {REMEDY}"),
        ));
    }
    if !found.insert(name) {
        return Err(Complaint::new(
            format!("`{key}` is given twice"),
            "remove one of the two lines",
        ));
    }
    if squeezed(value) == squeezed(expected) {
        return Ok(());
    }
    if section == "policy_definition" {
        if squeezed(value) == squeezed(WITH_CONDITION) {
            return Ok(());
        }
        if squeezed(value).starts_with(&format!("{},", squeezed(expected))) {
            return Err(Complaint::new(
                "the policy columns are not the shipped ones",
                format!("write `{name} = {expected}` or `{name} = {WITH_CONDITION}`"),
            ));
        }
    }
    Err(Complaint::new(
        format!("[{section}] `{key}` is not the shipped one"),
        format!("write `{name} = {expected}`, or {REMEDY}"),
    ))
}

/// A value without a comment at its end. There is no `#` in the shipped values, so that a cut
/// string literal cannot compare equal.
fn uncommented(value: &str) -> &str {
    value.split_once('#').map_or(value, |(value, _)| value)
}

fn squeezed(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

fn casbin_agrees(text: &str) -> bool {
    let read = |text: &str| -> Option<Vec<String>> {
        let model = casbin_model(text)?;
        EXPECTED
            .iter()
            .map(|(_, key, _)| {
                let assertion = model.get_model().get(*key)?.get(*key)?;
                Some(squeezed(&assertion.value))
            })
            .collect()
    };
    let with_condition = MODEL.replace("sub, topic, act, eft", WITH_CONDITION);
    let ours = read(text);
    ours.is_some() && (ours == read(MODEL) || ours == read(&with_condition))
}

fn casbin_model(text: &str) -> Option<DefaultModel> {
    catch_unwind(AssertUnwindSafe(|| at_once(DefaultModel::from_str(text))))
        .ok()??
        .ok()
}

/// The rows of one kind (`p`, `g`) as the casbin crate reads them from the text of a policy.
pub(crate) struct CasbinRows(DefaultModel);

impl CasbinRows {
    /// Has the casbin crate read a policy; `None` when it fails.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut model = casbin_model(MODEL)?;
        let read = catch_unwind(AssertUnwindSafe(|| {
            at_once(StringAdapter::new(text).load_policy(&mut model))
        }));
        read.ok()??.ok()?;
        Some(Self(model))
    }

    /// How many different rows there are.
    pub(crate) fn len(&self, kind: &str) -> usize {
        self.rows(kind).map_or(0, |rows| rows.get_policy().len())
    }

    /// Whether this row is among them.
    pub(crate) fn has(&self, kind: &str, row: &[String]) -> bool {
        self.rows(kind)
            .is_some_and(|rows| rows.get_policy().contains(row))
    }

    fn rows(&self, kind: &str) -> Option<&casbin::Assertion> {
        self.0.get_model().get(kind)?.get(kind)
    }
}

/// Runs a future that only looks async: it reads memory and never waits.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    // A cooperative runtime around us may make it yield now and then.
    for _ in 0..1_000_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<String> {
        let mut errors = Vec::new();
        check(&"model.conf".into(), text, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_shipped_model_is_accepted_however_it_is_spaced() {
        assert_eq!(errors(MODEL), Vec::<String>::new());
        assert_eq!(errors(&MODEL.replace(", ", ",")), Vec::<String>::new());
        let more = MODEL.replace("act, eft", "act, eft, cond");
        assert_eq!(errors(&more), Vec::<String>::new());
        let cut = MODEL.replace(" && mqtt", " && \\\n  mqtt");
        assert_eq!(errors(&cut), Vec::<String>::new());
    }

    #[test]
    fn every_other_model_is_refused_with_its_line() {
        for (from, to, says) in [
            (
                "!some(where (p.eft == deny))",
                "some(where (p.eft == deny))",
                "model.conf:14: [policy_effect] `e`",
            ),
            ("some(where (p.eft == allow)) && ", "", "model.conf:14: "),
            (" && r.act == p.act", "", "model.conf:17: [matchers] `m`"),
            ("mqttMatch(", "keyMatch(", "model.conf:17: "),
            ("== \"*\"", "== \"\"", "model.conf:17: "),
            (
                "act, eft",
                "act, eft, until",
                "model.conf:8: the policy columns are not the shipped ones",
            ),
            ("g = _, _", "g = _, _, _", "model.conf:11: "),
            (
                "g = _, _",
                "g = _, _\ng2 = _, _",
                "model.conf:12: [role_definition] has `g2`",
            ),
            (
                "g = _, _",
                "g = _, _\ng = _, _",
                "model.conf:12: `g` is given twice",
            ),
            ("[matchers]", "[matcher]", "did you mean `matchers`?"),
            ("g = _, _", "", "[role_definition] `g` is missing"),
            ("g = _, _", "g", "has no `=`"),
        ] {
            assert!(MODEL.contains(from), "{from}");
            let said = errors(&MODEL.replace(from, to));
            assert!(said.iter().any(|e| e.contains(says)), "{to}: {said:?}");
        }
    }
}
