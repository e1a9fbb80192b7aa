//! What a token says, however it was proved: dates, binding, conditions, roles and attributes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_core::hook::{Attributes, Identity};
use serde_json::{Map, Value};

use crate::Error;
use crate::certificate::is_attribute;

/// Most attributes taken from one token.
const MAX_ATTRIBUTES: usize = 64;
/// Deepest nesting of objects that attributes are taken from.
const MAX_DEPTH: usize = 8;
/// Longest role name, in bytes; longer ones are ignored and counted.
const MAX_ROLE: usize = 256;
/// How much of a value from a token a reason shows, in characters.
const SHOWN: usize = 64;
/// The first second of the year 10000: a date beyond it is a mistake.
const MAX_DATE: f64 = 253_402_300_800.0;

/// A condition of `require-claims`: `PATH=VALUE`, or `PATH~WORD` for one word of a claim such as
/// `scope`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimCondition {
    path: String,
    value: String,
    word: bool,
}

impl FromStr for ClaimCondition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let broken = || {
            Error::setting(
                format!("require-claims: {text:?} is no condition"),
                "write \"PATH=VALUE\" (the claim is VALUE, or a list that has it) or \"PATH~WORD\" (one of its words)",
            )
        };
        let at = text.find(['=', '~']).ok_or_else(broken)?;
        let (path, rest) = text.split_at(at);
        let mut rest = rest.chars();
        let word = rest.next() == Some('~');
        let value = rest.as_str();
        if path.is_empty() || value.is_empty() || (word && value.contains(char::is_whitespace)) {
            return Err(broken());
        }
        Ok(Self {
            path: path.to_owned(),
            value: value.to_owned(),
            word,
        })
    }
}

impl ClaimCondition {
    fn holds(&self, claims: &Map<String, Value>) -> bool {
        let is = |value: &Value| match value {
            Value::String(text) if self.word => {
                text.split_ascii_whitespace().any(|word| word == self.value)
            }
            Value::String(text) => *text == self.value,
            Value::Number(number) => number.to_string() == self.value,
            Value::Bool(truth) => truth.to_string() == self.value,
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        };
        match lookup(claims, &self.path) {
            Some(Value::Array(list)) => list.iter().any(is),
            Some(value) => is(value),
            None => false,
        }
    }
}

/// Checks every condition.
///
/// # Errors
///
/// The first that does not hold.
pub(crate) fn check_conditions(
    claims: &Map<String, Value>,
    conditions: &[ClaimCondition],
) -> Result<(), String> {
    match conditions.iter().find(|condition| !condition.holds(claims)) {
        None => Ok(()),
        Some(condition) => Err(format!(
            "require-claims asks for {}{}{}",
            condition.path,
            if condition.word { '~' } else { '=' },
            condition.value
        )),
    }
}

/// The name in the claim at `path`.
///
/// # Errors
///
/// Why it names nobody.
pub(crate) fn name<'a>(claims: &'a Map<String, Value>, path: &str) -> Result<&'a str, String> {
    match lookup(claims, path) {
        Some(Value::String(name)) => Ok(name),
        Some(_) => Err(format!("the claim {path} is not a string")),
        None => Err(format!("the claim {path} is missing")),
    }
}

/// Who the claim at `path` names; `issuer` stands before it where there are several who may name
/// one.
///
/// # Errors
///
/// Why it names nobody.
pub(crate) fn identity(
    claims: &Map<String, Value>,
    path: &str,
    issuer: Option<&str>,
    roles: Vec<Box<str>>,
) -> Result<Identity, String> {
    named(
        "jwt",
        name(claims, path)?,
        issuer,
        roles,
        attributes(claims),
    )
    .map_err(|why| format!("the claim {path} names nobody: {why}"))
}

/// An identity of this kind; `source` stands before the name where there are several.
///
/// # Errors
///
/// Why nobody can have that name.
pub(crate) fn named(
    kind: &str,
    name: &str,
    source: Option<&str>,
    roles: Vec<Box<str>>,
    attributes: Attributes,
) -> Result<Identity, String> {
    if name.is_empty() {
        return Err("it is empty".into());
    }
    if name.contains('*') {
        return Err("it has a wildcard".into());
    }
    Identity::vouched_by(kind, source, name, roles.into(), attributes)
        .map_err(|error| error.to_string())
}

/// Text from a token for a reason: escaped and short.
pub(crate) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN).collect();
    if short.len() < text.len() {
        short.push('\u{2026}');
    }
    format!("{short:?}")
}

pub(crate) fn audiences(claims: &Map<String, Value>) -> Vec<&str> {
    match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// `exp`, `nbf` and `iat` (RFC 7519, section 4.1), each with the leeway; gives the end of the
/// lease.
pub(crate) fn check_dates(
    claims: &Map<String, Value>,
    leeway: Duration,
    now: SystemTime,
) -> Result<SystemTime, String> {
    let exp = date(claims, "exp")?.ok_or("the claim exp is missing")?;
    let until = exp
        .checked_add(leeway)
        .ok_or("the claim exp is out of range")?;
    if now >= until {
        return Err(format!(
            "the token is expired: exp {} with a leeway of {leeway:?}",
            seconds(exp)
        ));
    }
    let latest = now.checked_add(leeway).unwrap_or(now);
    for claim in ["nbf", "iat"] {
        if let Some(start) = date(claims, claim)?
            && start > latest
        {
            return Err(format!(
                "the token is not valid yet: {claim} {} with a leeway of {leeway:?}, now {}",
                seconds(start),
                seconds(now)
            ));
        }
    }
    Ok(until)
}

pub(crate) fn date(claims: &Map<String, Value>, claim: &str) -> Result<Option<SystemTime>, String> {
    let Some(value) = claims.get(claim) else {
        return Ok(None);
    };
    value
        .as_f64()
        .filter(|seconds| (0.0..MAX_DATE).contains(seconds))
        .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs_f64(seconds)))
        .map(Some)
        .ok_or_else(|| format!("the claim {claim} is not a number of seconds"))
}

pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |span| span.as_secs())
}

/// RFC 8705, section 3: a token that is bound to a certificate is worth nothing without it. A
/// binding of another kind (RFC 7800) cannot be checked here, so it refuses too. Gives whether the
/// token is bound.
pub(crate) fn check_binding(
    claims: &Map<String, Value>,
    certificate: Option<&[u8; 32]>,
) -> Result<bool, String> {
    let Some(binding) = claims.get("cnf") else {
        return Ok(false);
    };
    let Some(thumbprint) = binding.get("x5t#S256").and_then(Value::as_str) else {
        return Err("the token is bound (cnf) by something else than x5t#S256".into());
    };
    let Some(certificate) = certificate else {
        return Err("the token is bound to a certificate (cnf), and the client shows none".into());
    };
    if thumbprint == URL_SAFE_NO_PAD.encode(certificate) {
        Ok(true)
    } else {
        Err("the token is bound to another certificate (cnf)".into())
    }
}

/// A claim by its name, or else by a path with dots into objects. Names that have dots themselves
/// (URLs) come first.
pub(crate) fn lookup<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let mut steps = path.split('.');
    let mut value = claims.get(steps.next()?)?;
    for step in steps {
        value = value.as_object()?.get(step)?;
    }
    Some(value)
}

/// Role names, sorted and without repetition, and how many values were no role names.
pub(crate) fn roles(
    claims: &Map<String, Value>,
    path: Option<&str>,
    allowed: Option<&[String]>,
) -> (Vec<Box<str>>, u64) {
    let found: Vec<Option<&str>> = match path.and_then(|path| lookup(claims, path)) {
        Some(Value::Array(list)) => list.iter().map(Value::as_str).collect(),
        Some(Value::String(words)) => words.split_ascii_whitespace().map(Some).collect(),
        None | Some(Value::Null) => Vec::new(),
        Some(_) => vec![None],
    };
    let mut ignored = 0;
    let mut roles: Vec<Box<str>> = Vec::new();
    for role in found {
        let Some(role) = role.filter(|role| is_role(role)) else {
            ignored += 1;
            continue;
        };
        if allowed.is_none_or(|allowed| allowed.iter().any(|one| one == role)) {
            roles.push(role.into());
        }
    }
    roles.sort_unstable();
    roles.dedup();
    (roles, ignored)
}

/// A value with a colon could be taken for a principal (`user:anna`), one with a comma for two
/// columns of a policy line, and `*` for everybody.
fn is_role(role: &str) -> bool {
    !role.is_empty()
        && role.len() <= MAX_ROLE
        && !role.contains([':', ',', '*'])
        && !role.chars().any(char::is_control)
}

/// `claim.PATH` for every text, number and truth value. A path that two claims share (`a.b` and
/// `b` in `a`) is left out: nobody can say which one is meant.
pub(crate) fn attributes(claims: &Map<String, Value>) -> Attributes {
    let mut found: BTreeMap<String, Option<String>> = BTreeMap::new();
    flatten("claim", claims, 0, &mut found);
    found
        .into_iter()
        .filter_map(|(path, value)| Some((path, value?)))
        .filter(|(_, value)| is_attribute(value))
        .take(MAX_ATTRIBUTES)
        .map(|(path, value)| (path.into(), value.into()))
        .collect()
}

fn flatten(
    prefix: &str,
    claims: &Map<String, Value>,
    depth: usize,
    found: &mut BTreeMap<String, Option<String>>,
) {
    if depth >= MAX_DEPTH {
        return;
    }
    for (name, value) in claims {
        let mut path = String::with_capacity(prefix.len() + 1 + name.len());
        // Writing to a String cannot fail.
        let _ = write!(path, "{prefix}.{name}");
        let text = match value {
            Value::Object(inner) => {
                flatten(&path, inner, depth + 1, found);
                continue;
            }
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::Null | Value::Array(_) => continue,
        };
        found
            .entry(path)
            .and_modify(|value| *value = None)
            .or_insert(Some(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn conditions_hold_or_not() {
        let claims = map(&json!({
            "tenant": "acme", "n": 7, "ok": true, "amr": ["pwd", "mfa"], "scope": "mqtt read",
            "a": {"b": "c"}, "null": null, "object": {},
        }));
        for (condition, holds) in [
            ("tenant=acme", true),
            ("tenant=acm", false),
            ("tenant=acme ", false),
            ("n=7", true),
            ("ok=true", true),
            ("amr=mfa", true),
            ("amr=otp", false),
            ("scope=mqtt", false),
            ("scope~mqtt", true),
            ("scope~mqt", false),
            ("tenant~acme", true),
            ("a.b=c", true),
            ("missing=x", false),
            ("null=null", false),
            ("object={}", false),
        ] {
            let parsed: ClaimCondition = condition.parse().unwrap();
            assert_eq!(
                check_conditions(&claims, &[parsed]).is_ok(),
                holds,
                "{condition}"
            );
        }
        for broken in ["", "x", "=x", "x=", "x~", "x~a b"] {
            assert!(broken.parse::<ClaimCondition>().is_err(), "{broken:?}");
        }
    }

    #[test]
    fn roles_come_from_lists_words_and_nested_paths_and_odd_values_are_counted() {
        let with = |path: &'static str, allowed: Option<&[&str]>| {
            let allowed: Option<Vec<String>> =
                allowed.map(|roles| roles.iter().map(|&role| role.into()).collect());
            (path, allowed)
        };
        for (claims, (path, allowed), expected, ignored) in [
            (
                json!({"roles": ["b", "a", "b"]}),
                with("roles", None),
                &["a", "b"][..],
                0,
            ),
            (
                json!({"scope": "a  b"}),
                with("scope", None),
                &["a", "b"],
                0,
            ),
            (
                json!({"x": {"roles": ["a"]}}),
                with("x.roles", None),
                &["a"],
                0,
            ),
            (
                json!({"x.roles": ["lit"], "x": {"roles": ["a"]}}),
                with("x.roles", None),
                &["lit"],
                0,
            ),
            (
                json!({"roles": ["a", "b"]}),
                with("roles", Some(&["b", "c"])),
                &["b"],
                0,
            ),
            (
                json!({"roles": ["a", "b"]}),
                with("roles", Some(&[])),
                &[],
                0,
            ),
            (
                json!({"roles": ["role:a", "user:anna", "a,b", "a\nb", "", "*", 7, "ok"]}),
                with("roles", None),
                &["ok"],
                7,
            ),
            (json!({"roles": 7}), with("roles", None), &[], 1),
            (json!({}), with("roles", None), &[], 0),
        ] {
            let (found, count) = roles(&map(&claims), Some(path), allowed.as_deref());
            let found: Vec<&str> = found.iter().map(|role| &**role).collect();
            assert_eq!((found.as_slice(), count), (expected, ignored), "{claims}");
        }
    }

    #[test]
    fn attributes_are_texts_by_path_and_ambiguous_paths_are_left_out() {
        let claims = map(&json!({
            "site": "north", "n": 7, "f": 1.5, "yes": true, "none": null, "list": ["a"],
            "a": {"b": "one", "c": {"d": "deep"}}, "a.b": "two",
            "empty": "", "control": "a\u{7}", "long": "x".repeat(1025),
        }));
        let attributes = attributes(&claims);
        let found: Vec<_> = attributes.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(
            found,
            [
                ("claim.a.c.d", "deep"),
                ("claim.f", "1.5"),
                ("claim.n", "7"),
                ("claim.site", "north"),
                ("claim.yes", "true"),
            ]
        );
    }

    #[test]
    fn attributes_are_bounded() {
        let many: Map<_, _> = (0..1000).map(|n| (format!("k{n}"), n.into())).collect();
        assert_eq!(attributes(&many).len(), MAX_ATTRIBUTES);
        let mut deep = json!("x");
        for _ in 0..100 {
            deep = json!({ "d": deep });
        }
        assert!(attributes(&map(&deep)).is_empty());
    }

    #[test]
    fn dates_count_with_the_leeway_and_by_the_clock_given() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let leeway = Duration::from_secs(10);
        for (claims, now, word) in [
            (json!({"exp": 1000}), 1009, None),
            (json!({"exp": 1000}), 1010, Some("expired")),
            (json!({"exp": 1000.5}), 1010, None),
            (json!({"exp": 1000, "nbf": 510}), 500, None),
            (json!({"exp": 1000, "nbf": 511}), 500, Some("nbf")),
            (json!({"exp": 1000, "iat": 511}), 500, Some("iat")),
            (json!({"exp": 1000, "iat": 400}), 500, None),
            (json!({"exp": "1000"}), 500, Some("exp")),
            (json!({"exp": -1}), 500, Some("exp")),
            (json!({"exp": 1e300}), 500, Some("exp")),
            (json!({"exp": null}), 500, Some("exp")),
            (json!({"exp": 1000, "nbf": "0"}), 500, Some("nbf")),
            (json!({}), 500, Some("exp")),
        ] {
            let result = check_dates(&map(&claims), leeway, at(now));
            match word {
                None => assert!(result.is_ok(), "{claims}: {result:?}"),
                Some(word) => assert!(result.unwrap_err().contains(word), "{claims}"),
            }
        }
        let until = check_dates(&map(&json!({"exp": 1000})), leeway, at(1)).unwrap();
        assert_eq!(until, at(1010));
    }
}
