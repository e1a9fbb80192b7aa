//! JSON Web Tokens (RFC 7519, RFC 8725): whose are they, and what do they say?
//!
//! What a token may not decide: its algorithm (the key's and the configuration's; the header
//! chooses among these), its key (`kid` selects one that is there; `jwk`, `jku`, `x5c` and `x5u`
//! are not looked at, so nothing is ever fetched), or what to ignore (`crit` is refused). `exp`,
//! `iss`, `aud` and the principal's claim are demanded.
//!
//! Claims are read before the signature is verified only to find the issuer, and to name who was
//! claimed in a refusal.

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use portcullis_core::clock::Now;
use portcullis_core::hook::{Credential, Identity, Refusal, RefusalKind};
use serde_json::{Map, Value};

use crate::claims::{self, audiences, check_binding, check_conditions, check_dates, roles, shown};
use crate::keys::Keys;
use crate::likeness::Likeness;
use crate::remote::RemoteKeys;
use crate::{Error, IssuerSettings, KeySource};

/// Longest token accepted, in bytes.
pub(crate) const MAX_TOKEN: usize = 8 << 10;

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

/// An issuer with its keys; a reload makes a new one.
pub(crate) struct Issuer {
    pub(crate) settings: IssuerSettings,
    algorithms: Vec<Algorithm>,
    source: Source,
}

enum Source {
    Fixed(Arc<Keys>),
    Remote(Arc<RemoteKeys>),
}

impl Issuer {
    /// Reads the issuer's keys, or prepares to fetch them; what `old` has fetched from the same
    /// address is kept. The texts are warnings.
    ///
    /// # Errors
    ///
    /// Broken settings or a broken key file.
    pub(crate) fn load(
        settings: &IssuerSettings,
        old: Option<&Self>,
    ) -> Result<(Self, Vec<String>), Error> {
        let algorithms = settings.algorithms()?;
        let (source, warnings) = if let KeySource::JwksUrl(from) = &settings.source {
            let remote = RemoteKeys::new(from, &algorithms)?;
            if let Some(old) = old.and_then(Self::remote) {
                remote.inherit(old);
            }
            (Source::Remote(Arc::new(remote)), Vec::new())
        } else {
            let (keys, warnings) = Keys::load(settings)?;
            (Source::Fixed(Arc::new(keys)), warnings)
        };
        let issuer = Self {
            settings: settings.clone(),
            algorithms,
            source,
        };
        Ok((issuer, warnings))
    }

    /// Where the keys are fetched from, if they are.
    pub(crate) fn remote(&self) -> Option<&Arc<RemoteKeys>> {
        match &self.source {
            Source::Fixed(_) => None,
            Source::Remote(remote) => Some(remote),
        }
    }

    /// The keys at `now`.
    ///
    /// # Errors
    ///
    /// Why there are none.
    fn keys(&self, now: Now) -> Result<Arc<Keys>, String> {
        match &self.source {
            Source::Fixed(keys) => Ok(Arc::clone(keys)),
            Source::Remote(remote) => remote.keys(now.mono),
        }
    }

    /// Whether the key with this thumbprint is still one of the issuer's. While nothing is known
    /// of its keys, nothing was withdrawn.
    pub(crate) fn has_key(&self, thumbprint: &str) -> bool {
        match &self.source {
            Source::Fixed(keys) => keys.has(thumbprint),
            Source::Remote(remote) => remote.last().is_none_or(|keys| keys.has(thumbprint)),
        }
    }
}

/// A token that was believed.
#[derive(Debug)]
pub(crate) struct Proven {
    pub(crate) identity: Identity,
    pub(crate) until: SystemTime,
    pub(crate) reference: Reference,
    /// The claim `jti`.
    pub(crate) jti: Option<String>,
    /// Role values that could not be role names.
    pub(crate) ignored_roles: u64,
    /// Whether it is worth nothing without the client's certificate.
    pub(crate) bound: bool,
}

/// Names the issuer and the key that signed: `issuer=NAME key=THUMBPRINT`; where a token may be
/// used once at a time, also the token and which use of it this is: `jti=HEX use=NUMBER`; and whose
/// name the principal's looks like, if the issuer does not stand in it: `like=HEX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) issuer: Box<str>,
    pub(crate) key: Box<str>,
    pub(crate) once: Option<Once>,
    pub(crate) like: Option<Likeness>,
}

/// One use of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Once {
    /// A hash of issuer and `jti`.
    pub(crate) token: Box<str>,
    /// Counted from the start of the process.
    pub(crate) number: u64,
}

impl Reference {
    pub(crate) const METHOD: &'static str = "jwt";

    pub(crate) fn text(&self) -> String {
        let once = self.once.as_ref().map_or_else(String::new, |once| {
            format!(" jti={} use={}", once.token, once.number)
        });
        let like = Likeness::text(self.like.as_ref());
        format!("issuer={} key={}{once}{like}", self.issuer, self.key)
    }

    pub(crate) fn credential(&self) -> Credential {
        Credential::new(Self::METHOD, &self.text())
    }

    /// Reads [`text`](Self::text).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (text, like) = Likeness::split(text);
        let (issuer, rest) = text.strip_prefix("issuer=")?.split_once(" key=")?;
        let (key, once) = match rest.split_once(" jti=") {
            None => (rest, None),
            Some((key, once)) => {
                let (token, number) = once.split_once(" use=")?;
                let once = Once {
                    token: token.into(),
                    number: number.parse().ok()?,
                };
                (key, Some(once))
            }
        };
        Some(Self {
            issuer: issuer.into(),
            key: key.into(),
            once,
            like,
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
    /// The issuer that owns a token, by its own word; `None`: nobody here does, and why.
    ///
    /// # Errors
    ///
    /// Why nobody owns it.
    pub(crate) fn owner(&self, token: &[u8]) -> Result<(&Arc<Issuer>, Option<String>), String> {
        let parts = Parts::read(token)?;
        let kid = parts.header.get("kid").and_then(Value::as_str);
        Ok((self.issuer(&parts.claims)?, kid.map(str::to_owned)))
    }

    /// Judges a token of this issuer. `certificate` is the SHA-256 of the client certificate, for
    /// tokens that are bound to one (RFC 8705).
    ///
    /// # Errors
    ///
    /// The refusal, with its reason and who was claimed.
    pub(crate) fn judge(
        &self,
        issuer: &Issuer,
        token: &[u8],
        certificate: Option<&[u8; 32]>,
        now: Now,
    ) -> Result<Proven, Refusal> {
        let name = &issuer.settings.name;
        let refuse = |reason: String| {
            let reason = format!("jwt: issuer {name}: {reason}");
            Refusal::new(RefusalKind::BadCredential, reason)
        };
        let parts = Parts::read(token).map_err(refuse)?;
        // Unproven; for records and limits only.
        let claimed = || {
            let identity = self.identity(issuer, &parts.claims, Vec::new()).ok();
            identity.map(|identity| identity.principal)
        };
        let keys = issuer.keys(now).map_err(|why| Refusal {
            claimed: claimed(),
            kind: RefusalKind::Unavailable,
            ..refuse(why)
        })?;
        issuer
            .verify(&keys, token, &parts.header)
            .and_then(|(claims, key)| {
                let settings = &issuer.settings;
                let until = check_dates(&claims, settings.leeway, now.wall)?;
                let bound = check_binding(&claims, certificate)?;
                check_conditions(&claims, &settings.require_claims)?;
                let (roles, ignored_roles) = roles(
                    &claims,
                    settings.roles.as_deref(),
                    settings.allowed_roles.as_deref(),
                );
                let jti = claims.get("jti").and_then(Value::as_str);
                if settings.one_connection_per_jti && jti.is_none_or(str::is_empty) {
                    return Err("the claim jti is missing (one-connection-per-jti)".into());
                }
                let identity = self.identity(issuer, &claims, roles)?;
                let name = identity.principal.name();
                let like = Likeness::found("jwt", name).filter(|_| !self.several);
                Ok(Proven {
                    identity,
                    until,
                    reference: Reference {
                        issuer: settings.name.as_str().into(),
                        key,
                        once: None,
                        like,
                    },
                    jti: jti.map(str::to_owned),
                    ignored_roles,
                    bound,
                })
            })
            .map_err(|reason| Refusal {
                claimed: claimed(),
                ..refuse(reason)
            })
    }

    /// The issuer whose `iss` the token has; of several with the same one, the first that shares an
    /// audience with it.
    fn issuer(&self, claims: &Map<String, Value>) -> Result<&Arc<Issuer>, String> {
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

    fn identity(
        &self,
        issuer: &Issuer,
        claims: &Map<String, Value>,
        roles: Vec<Box<str>>,
    ) -> Result<Identity, String> {
        let settings = &issuer.settings;
        let source = self.several.then_some(settings.name.as_str());
        claims::identity(claims, &settings.principal, source, roles)
    }
}

impl Issuer {
    /// Verifies the signature and the claims that do not depend on the time; gives the claims and
    /// the thumbprint of the key.
    fn verify(
        &self,
        keys: &Keys,
        token: &[u8],
        header: &Map<String, Value>,
    ) -> Result<(Map<String, Value>, Box<str>), String> {
        let algorithm = self.algorithm(header)?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.as_str()),
            Some(_) => return Err("the header's kid is not a string".into()),
        };
        let key = keys.choose(kid, algorithm).map_err(|why| match kid {
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
        if token.len() > MAX_TOKEN {
            return Err(format!(
                "the token has {} bytes; the limit is {MAX_TOKEN}",
                token.len()
            ));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
