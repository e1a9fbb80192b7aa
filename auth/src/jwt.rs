//! JSON Web Tokens (RFC 7519, RFC 8725): whose are they, and what do they say?
//!
//! What a token may not decide: its algorithm (the key's and the configuration's; the header
//! chooses among these), its key (`kid` selects one that is there; `jwk`, `jku`, `x5c` and `x5u`
//! are not looked at, so nothing is ever fetched), or what to ignore (`crit` is refused). `exp`,
//! `iss`, `aud` and the principal's claim are demanded.
//!
//! Claims are read before the signature is verified only to find the issuer, and to name who was
//! claimed in a refusal.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use portcullis_core::hook::{Attributes, Credential, Identity, Principal, Refusal, RefusalKind};
use serde_json::{Map, Value};

use crate::certificate::is_attribute;
use crate::keys::Keys;
use crate::{Error, IssuerSettings};

/// Longest token accepted, in bytes.
const MAX_TOKEN: usize = 8 << 10;
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

/// Whether a password is a token: two dots, and a first part that decodes to a JSON object with
/// `alg`.
pub(crate) fn is_token(password: &[u8]) -> bool {
    let mut parts = password.split(|byte| *byte == b'.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(_), Some(_), None) => {
            object(header).is_some_and(|header| header.contains_key("alg"))
        }
        _ => false,
    }
}

/// An issuer with its keys, frozen; a reload makes a new one.
pub(crate) struct Issuer {
    pub(crate) settings: IssuerSettings,
    algorithms: Vec<Algorithm>,
    keys: Keys,
}

impl Issuer {
    /// Reads the issuer's keys. The texts are warnings.
    ///
    /// # Errors
    ///
    /// Broken settings or a broken key file.
    pub(crate) fn load(settings: &IssuerSettings) -> Result<(Self, Vec<String>), Error> {
        let (keys, warnings) = Keys::load(settings)?;
        let issuer = Self {
            settings: settings.clone(),
            algorithms: settings.algorithms()?,
            keys,
        };
        Ok((issuer, warnings))
    }

    /// Whether the key with this thumbprint is still one of the issuer's.
    pub(crate) fn has_key(&self, thumbprint: &str) -> bool {
        self.keys.has(thumbprint)
    }
}

/// A token that was believed.
#[derive(Debug)]
pub(crate) struct Proven {
    pub(crate) identity: Identity,
    pub(crate) until: SystemTime,
    pub(crate) reference: Reference,
    /// Role values that could not be role names.
    pub(crate) ignored_roles: u64,
}

/// Names the issuer and the key that signed: `issuer=NAME key=THUMBPRINT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) issuer: Box<str>,
    pub(crate) key: Box<str>,
}

impl Reference {
    pub(crate) const METHOD: &'static str = "jwt";

    pub(crate) fn text(&self) -> String {
        format!("issuer={} key={}", self.issuer, self.key)
    }

    pub(crate) fn credential(&self) -> Credential {
        Credential::new(Self::METHOD, &self.text())
    }

    /// Reads [`text`](Self::text).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (issuer, key) = text.strip_prefix("issuer=")?.split_once(" key=")?;
        Some(Self {
            issuer: issuer.into(),
            key: key.into(),
        })
    }
}

/// Who may be asked about a token.
pub(crate) struct Court<'a> {
    /// In the order of the configuration.
    pub(crate) issuers: &'a [Arc<Issuer>],
    /// Whether more than one issuer is configured, so that principals name theirs.
    pub(crate) several: bool,
}

impl Court<'_> {
    /// Judges a token. `certificate` is the SHA-256 of the client certificate, for tokens that are
    /// bound to one (RFC 8705).
    ///
    /// # Errors
    ///
    /// The refusal, with its reason and who was claimed.
    pub(crate) fn judge(
        &self,
        token: &[u8],
        certificate: Option<&[u8; 32]>,
        now: SystemTime,
    ) -> Result<Proven, Refusal> {
        let refuse =
            |reason: String| Refusal::new(RefusalKind::BadCredential, format!("jwt: {reason}"));
        if token.len() > MAX_TOKEN {
            return Err(refuse(format!(
                "the token has {} bytes; the limit is {MAX_TOKEN}",
                token.len()
            )));
        }
        let parts = Parts::read(token).map_err(refuse)?;
        let issuer = self.issuer(&parts.claims).map_err(refuse)?;
        // Unproven; for records and limits only.
        let claimed = self.principal(issuer, &parts.claims).ok();
        issuer
            .verify(token, &parts.header)
            .and_then(|(claims, key)| {
                let until = check_dates(&claims, issuer.settings.leeway, now)?;
                check_binding(&claims, certificate)?;
                let principal = self.principal(issuer, &claims)?;
                let (roles, ignored_roles) = roles(&claims, &issuer.settings);
                Ok(Proven {
                    identity: Identity {
                        principal,
                        roles: roles.into(),
                        attributes: Arc::new(attributes(&claims)),
                    },
                    until,
                    reference: Reference {
                        issuer: issuer.settings.name.as_str().into(),
                        key,
                    },
                    ignored_roles,
                })
            })
            .map_err(|reason| Refusal {
                claimed,
                ..refuse(format!("issuer {}: {reason}", issuer.settings.name))
            })
    }

    /// The issuer whose `iss` the token has; of several with the same one, the first that shares an
    /// audience with it.
    fn issuer(&self, claims: &Map<String, Value>) -> Result<&Issuer, String> {
        let iss = match claims.get("iss") {
            Some(Value::String(iss)) => iss,
            Some(_) => return Err("the claim iss is not a string".into()),
            None => return Err("the claim iss is missing".into()),
        };
        let audiences = audiences(claims);
        let mut same = self
            .issuers
            .iter()
            .filter(|issuer| issuer.settings.issuer == *iss);
        let first = same
            .next()
            .ok_or_else(|| format!("no configured issuer has iss {}", shown(iss)))?;
        let shares = |issuer: &&Arc<Issuer>| {
            issuer
                .settings
                .audience
                .iter()
                .any(|audience| audiences.contains(&audience.as_str()))
        };
        Ok(if shares(&first) {
            first
        } else {
            same.find(shares).unwrap_or(first)
        })
    }

    fn principal(&self, issuer: &Issuer, claims: &Map<String, Value>) -> Result<Principal, String> {
        let settings = &issuer.settings;
        let name = match lookup(claims, &settings.principal) {
            Some(Value::String(name)) => name,
            Some(_) => return Err(format!("the claim {} is not a string", settings.principal)),
            None => return Err(format!("the claim {} is missing", settings.principal)),
        };
        let refused = |why: &str| format!("the claim {} names nobody: {why}", settings.principal);
        if name.is_empty() {
            return Err(refused("it is empty"));
        }
        if name.contains('*') {
            return Err(refused("it has a wildcard"));
        }
        let vouched = if self.several {
            Principal::vouched("jwt", &format!("{}/{name}", settings.name))
        } else {
            Principal::vouched("jwt", name)
        };
        vouched.map_err(|error| refused(&error.to_string()))
    }
}

impl Issuer {
    /// Verifies the signature and the claims that do not depend on the time; gives the claims and
    /// the thumbprint of the key.
    fn verify(
        &self,
        token: &[u8],
        header: &Map<String, Value>,
    ) -> Result<(Map<String, Value>, Box<str>), String> {
        let algorithm = self.algorithm(header)?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.as_str()),
            Some(_) => return Err("the header's kid is not a string".into()),
        };
        let key = self.keys.choose(kid, algorithm).map_err(|why| match kid {
            Some(kid) => format!("{why} (kid {})", shown(kid)),
            None => why,
        })?;

        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&self.settings.audience);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_aud = true;
        // The library asks the system for the time. Here time is an argument: `check_dates` does
        // what these two would, and iat.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let data = jsonwebtoken::decode::<Map<String, Value>>(token, &key.decoding, &validation)
            .map_err(|error| self.explain(error.kind()))?;
        Ok((data.claims, key.thumbprint.clone()))
    }

    /// The header's algorithm, if the configuration allows it.
    fn algorithm(&self, header: &Map<String, Value>) -> Result<Algorithm, String> {
        let Some(Value::String(name)) = header.get("alg") else {
            return Err("the header's alg is not a string".into());
        };
        self.algorithms
            .iter()
            .find(|algorithm| format!("{algorithm:?}") == *name)
            .copied()
            .ok_or_else(|| {
                format!(
                    "the header's alg is {}; accepted: {:?}",
                    shown(name),
                    self.algorithms
                )
            })
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library's list is open; whatever it says is a refusal with its own words"
    )]
    fn explain(&self, error: &ErrorKind) -> String {
        match error {
            ErrorKind::InvalidSignature => "the signature does not fit the key".into(),
            ErrorKind::MissingRequiredClaim(claim) => {
                format!("the claim {claim} is missing or malformed")
            }
            ErrorKind::InvalidAudience => {
                format!("the claim aud has none of {:?}", self.settings.audience)
            }
            ErrorKind::InvalidIssuer => format!("the claim iss is not {:?}", self.settings.issuer),
            // Its words may quote the claims.
            ErrorKind::Json(_) => "a claim has an impossible form".into(),
            other => format!("the token is not valid: {other:?}"),
        }
    }
}

/// A token taken apart, unproven.
struct Parts {
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

impl Parts {
    fn read(token: &[u8]) -> Result<Self, String> {
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(header), Some(claims), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("the token does not have three parts".into());
        };
        let header =
            object(header).ok_or("the token's header is not a JSON object in base64url")?;
        if header.contains_key("crit") {
            return Err("the header has crit, and no extension is understood".into());
        }
        let claims =
            object(claims).ok_or("the token's claims are not a JSON object in base64url")?;
        Ok(Self { header, claims })
    }
}

fn object(part: &[u8]) -> Option<Map<String, Value>> {
    if part.len() > MAX_TOKEN {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Text from a token for a reason: escaped and short.
fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN).collect();
    if short.len() < text.len() {
        short.push('\u{2026}');
    }
    format!("{short:?}")
}

fn audiences(claims: &Map<String, Value>) -> Vec<&str> {
    match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// `exp`, `nbf` and `iat` (RFC 7519, section 4.1), each with the leeway; gives the end of the
/// lease.
fn check_dates(
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

fn date(claims: &Map<String, Value>, claim: &str) -> Result<Option<SystemTime>, String> {
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

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |span| span.as_secs())
}

/// RFC 8705, section 3: a token that is bound to a certificate is worth nothing without it. A
/// binding of another kind (RFC 7800) cannot be checked here, so it refuses too.
fn check_binding(
    claims: &Map<String, Value>,
    certificate: Option<&[u8; 32]>,
) -> Result<(), String> {
    let Some(binding) = claims.get("cnf") else {
        return Ok(());
    };
    let Some(thumbprint) = binding.get("x5t#S256").and_then(Value::as_str) else {
        return Err("the token is bound (cnf) by something else than x5t#S256".into());
    };
    let Some(certificate) = certificate else {
        return Err("the token is bound to a certificate (cnf), and the client shows none".into());
    };
    if thumbprint == URL_SAFE_NO_PAD.encode(certificate) {
        Ok(())
    } else {
        Err("the token is bound to another certificate (cnf)".into())
    }
}

/// A claim by its name, or else by a path with dots into objects. Names that have dots themselves
/// (URLs) come first.
fn lookup<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
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
fn roles(claims: &Map<String, Value>, settings: &IssuerSettings) -> (Vec<Box<str>>, u64) {
    let found: Vec<Option<&str>> = match settings
        .roles
        .as_deref()
        .and_then(|path| lookup(claims, path))
    {
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
        let allowed = settings.allowed_roles.as_ref();
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
fn attributes(claims: &Map<String, Value>) -> Attributes {
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

    fn settings() -> IssuerSettings {
        let source = crate::KeySource::JwksFile("unused".into());
        IssuerSettings::new("id", "https://id", "portcullis", "EdDSA", source)
    }

    #[test]
    fn a_password_is_a_token_by_its_form_only() {
        let header = |text: &str| URL_SAFE_NO_PAD.encode(text);
        for (password, token) in [
            (format!("{}.e30.x", header(r#"{"alg":"none"}"#)), true),
            (format!("{}..", header(r#"{"alg":1}"#)), true),
            (format!("{}.e30", header(r#"{"alg":"none"}"#)), false),
            (format!("{}.e30.x.y", header(r#"{"alg":"none"}"#)), false),
            (format!("{}.e30.x", header(r#"{"typ":"JWT"}"#)), false),
            (format!("{}.e30.x", header(r#"["alg"]"#)), false),
            ("a.b.c".into(), false),
            ("..".into(), false),
            (String::new(), false),
            ("my.pass.word".into(), false),
        ] {
            assert_eq!(is_token(password.as_bytes()), token, "{password}");
        }
    }

    #[test]
    fn roles_come_from_lists_words_and_nested_paths_and_odd_values_are_counted() {
        let with = |path: &str, allowed: Option<&[&str]>| IssuerSettings {
            roles: Some(path.into()),
            allowed_roles: allowed.map(|roles| roles.iter().map(|&r| r.into()).collect()),
            ..settings()
        };
        for (claims, settings, expected, ignored) in [
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
            let (found, count) = roles(&map(&claims), &settings);
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
