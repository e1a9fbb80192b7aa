//! OAuth 2.0 token introspection (RFC 7662): a server is asked what a token is worth.
//!
//! The token goes to that server and nowhere else, over TLS or to a loopback address. An answer is
//! used again for a while, never beyond the token's `exp`; what is remembered is an HMAC of the
//! token, not the token. A server that does not answer is a refusal as unavailable, and after a few
//! of those it is left alone for some seconds.
//!
//! A token that the server calls inactive is not this server's: the next in the order is asked,
//! and if nobody owns it, it is refused.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis_core::clock::Now;
use portcullis_core::hook::{Accepted, Attempt, Credential, Identity, Lease, Refusal, RefusalKind};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::bounded::Bounded;
use crate::breaker::Breaker;
use crate::claims::{self, audiences, check_binding, check_conditions, date};
use crate::fetch::{Ask, Client, secret};
use crate::jwt::MAX_TOKEN;
use crate::likeness::Likeness;
use crate::slots::Slots;
use crate::{Ends, Error, IntrospectionSettings};

/// Largest answer, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// Answers remembered.
const CAPACITY: usize = 10_000;
/// How long "inactive" is remembered: shorter, since a server may learn of a token late.
const INACTIVE: Duration = Duration::from_secs(10);
/// Requests to one server at a time.
const AT_A_TIME: usize = 64;

/// What a server that may own a credential says of it.
#[derive(Debug)]
pub(crate) enum Said {
    /// Proven.
    Yes(Box<Believed>),
    /// Not its own; why.
    NotMine(String),
    /// No.
    No(Refusal),
}

/// What a server said, and that counts.
#[derive(Debug)]
pub(crate) struct Believed {
    pub(crate) accepted: Accepted,
    /// Role values that could not be role names.
    pub(crate) ignored_roles: u64,
    /// Whether it is worth nothing without the client's certificate.
    pub(crate) bound: bool,
}

/// One server.
pub(crate) struct Introspector {
    pub(crate) settings: IntrospectionSettings,
    client: Client,
    /// The value of `Authorization`.
    authorization: Option<Zeroizing<String>>,
    answers: Bounded<[u8; 32], Option<Arc<Map<String, Value>>>>,
    breaker: Breaker,
    slots: Slots,
}

impl Introspector {
    pub(crate) const METHOD: &'static str = "introspection";

    /// Reads the files that `settings` name.
    ///
    /// # Errors
    ///
    /// One that is broken.
    pub(crate) fn load(settings: &IntrospectionSettings) -> Result<Self, Error> {
        let authorization = match &settings.client {
            None => None,
            Some((id, file)) => {
                let secret = secret(file)?;
                // RFC 6749, section 2.3.1: both are form-encoded first.
                let pair = Zeroizing::new(format!("{}:{}", &*encoded(id), &*encoded(&secret)));
                Some(Zeroizing::new(format!(
                    "Basic {}",
                    STANDARD.encode(pair.as_bytes())
                )))
            }
        };
        Ok(Self {
            client: Client::new(&settings.connection, &settings.url)?,
            settings: settings.clone(),
            authorization,
            answers: Bounded::new(CAPACITY),
            breaker: Breaker::default(),
            slots: Slots::new(AT_A_TIME),
        })
    }

    /// When the certificate that is shown to the server ends.
    pub(crate) fn ends(&self) -> Option<Ends> {
        self.client.ends().cloned()
    }

    /// Asks about a token. `key` hides it in what is remembered; `certificate` is the SHA-256 of the
    /// client's; `several`: whether principals say whose they are.
    pub(crate) async fn judge(
        &self,
        token: &[u8],
        key: &hmac::Key,
        certificate: Option<&[u8; 32]>,
        several: bool,
        attempt: &Attempt<'_>,
    ) -> Said {
        let name = &self.settings.name;
        let refuse = |kind, why: String| {
            let reason = format!("introspection {name}: {why}");
            Said::No(Refusal::new(kind, reason))
        };
        let printable = |byte: &u8| byte.is_ascii_graphic();
        if token.is_empty() || token.len() > MAX_TOKEN || !token.iter().all(printable) {
            let why = "the token is empty, too long or not printable";
            return refuse(RefusalKind::BadCredential, why.to_owned());
        }
        let answer = match self.answer(token, key, attempt).await {
            Ok(answer) => answer,
            Err(why) => return refuse(RefusalKind::Unavailable, why),
        };
        let Some(claims) = answer else {
            return Said::NotMine(format!("introspection {name}: the token is not active"));
        };
        match self.accept(&claims, certificate, several, attempt.now) {
            Ok(believed) => Said::Yes(Box::new(believed)),
            Err(why) => Said::No(Refusal {
                claimed: self
                    .identity(&claims, several, Vec::new())
                    .ok()
                    .map(|identity| identity.principal),
                ..Refusal::new(
                    RefusalKind::BadCredential,
                    format!("introspection {name}: {why}"),
                )
            }),
        }
    }

    /// The claims of an active token; from memory where they are recent.
    async fn answer(
        &self,
        token: &[u8],
        key: &hmac::Key,
        attempt: &Attempt<'_>,
    ) -> Result<Option<Arc<Map<String, Value>>>, String> {
        let mut tag = [0; 32];
        tag.copy_from_slice(hmac::sign(key, token).as_ref());
        let mut now = attempt.now;
        if let Some(answer) = self.answers.get(&tag, now.mono) {
            return Ok(answer);
        }
        let turn = self.slots.turn(&attempt.clock).await;
        let (_slot, waited) = turn.ok_or("too many requests wait for it")?;
        now.mono += waited;
        now.wall += waited;
        // A crowd with one token asks once.
        if let Some(answer) = self.answers.get(&tag, now.mono) {
            return Ok(answer);
        }
        if !self.breaker.allows(now.mono) {
            return Err("it did not answer several times; left alone for some seconds".into());
        }
        let asked = self.ask(token).await;
        self.breaker.record(asked.is_ok(), now.mono);
        let answer = asked?.map(Arc::new);
        self.answers.insert(
            tag,
            answer.clone(),
            self.remembered(answer.as_deref(), now),
            now.mono,
        );
        Ok(answer)
    }

    /// Until when an answer is used again.
    fn remembered(&self, claims: Option<&Map<String, Value>>, now: Now) -> Instant {
        let span = match claims {
            None => INACTIVE.min(self.settings.cache),
            Some(claims) => match date(claims, "exp") {
                Ok(Some(exp)) => {
                    let left = exp.duration_since(now.wall).unwrap_or_default();
                    left.min(self.settings.cache)
                }
                Ok(None) | Err(_) => self.settings.cache,
            },
        };
        now.mono + span
    }

    async fn ask(&self, token: &[u8]) -> Result<Option<Map<String, Value>>, String> {
        let token = std::str::from_utf8(token).unwrap_or_default();
        let mut form = Zeroizing::new(b"token_type_hint=access_token&token=".to_vec());
        form.extend_from_slice(encoded(token).as_bytes());
        let ask = Ask {
            url: &self.settings.url,
            accept: "application/json",
            content: Some(("application/x-www-form-urlencoded", form)),
            authorization: self.authorization.as_ref().map(|text| text.as_str()),
            limit: MAX_ANSWER,
        };
        let bytes = self
            .client
            .send(ask)
            .await
            .map_err(|failure| failure.to_string())?;
        let odd = || {
            format!(
                "{}: its answer is not what RFC 7662 says",
                self.settings.url
            )
        };
        // Nothing of the answer is repeated: it may hold the token.
        let claims: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|_| odd())?;
        match claims.get("active") {
            Some(Value::Bool(true)) => Ok(Some(claims)),
            Some(Value::Bool(false)) => Ok(None),
            Some(_) | None => Err(odd()),
        }
    }

    fn identity(
        &self,
        claims: &Map<String, Value>,
        several: bool,
        roles: Vec<Box<str>>,
    ) -> Result<Identity, String> {
        let source = several.then_some(self.settings.name.as_str());
        claims::identity(claims, &self.settings.principal, source, roles)
    }

    fn accept(
        &self,
        claims: &Map<String, Value>,
        certificate: Option<&[u8; 32]>,
        several: bool,
        now: Now,
    ) -> Result<Believed, String> {
        let settings = &self.settings;
        let until = self.until(claims, now.wall)?;
        if !settings.audience.is_empty() {
            let found = audiences(claims);
            let fits = |audience: &String| found.contains(&audience.as_str());
            if !settings.audience.iter().any(fits) {
                return Err(format!("aud has none of {:?}", settings.audience));
            }
        }
        let bound = check_binding(claims, certificate)?;
        check_conditions(claims, &settings.require_claims)?;
        let (roles, ignored_roles) = claims::roles(
            claims,
            settings.roles.as_deref(),
            settings.allowed_roles.as_deref(),
        );
        let identity = self.identity(claims, several, roles)?;
        let accepted = vouched(Self::METHOD, &settings.name, identity, several, until);
        Ok(Believed {
            accepted,
            ignored_roles,
            bound,
        })
    }

    /// Dates are checked here too: a server that is wrong about its own tokens is not believed.
    fn until(&self, claims: &Map<String, Value>, now: SystemTime) -> Result<SystemTime, String> {
        let latest = now
            .checked_add(self.settings.lifetime)
            .ok_or("lifetime is out of range")?;
        if claims.contains_key("exp") {
            let until = claims::check_dates(claims, self.settings.leeway, now)?;
            return Ok(until.min(latest));
        }
        let start = now.checked_add(self.settings.leeway).unwrap_or(now);
        match date(claims, "nbf")? {
            Some(nbf) if nbf > start => Err("the token is not valid yet (nbf)".into()),
            Some(_) | None => Ok(latest),
        }
    }
}

/// Somebody for whom a server vouches. The credential names it, `server=NAME`; and whose name that
/// looks like, if the server does not stand in it (`several`): `like=HEX`.
pub(crate) fn vouched(
    method: &str,
    server: &str,
    identity: Identity,
    several: bool,
    until: SystemTime,
) -> Accepted {
    let principal = &identity.principal;
    let like = Likeness::found(principal.kind(), principal.name()).filter(|_| !several);
    let reference = format!("server={server}{}", Likeness::text(like.as_ref()));
    Accepted {
        identity,
        lease: Lease {
            until: Some(until),
            credential: Credential::new(method, &reference),
        },
        data: None,
    }
}

/// `application/x-www-form-urlencoded`.
fn encoded(text: &str) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(text.len() * 3));
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'*') {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_encoding_leaves_nothing_that_could_end_a_field() {
        for (text, expected) in [
            ("abc-_.*9", "abc-_.*9"),
            ("a b&c=d+%", "a%20b%26c%3Dd%2B%25"),
            ("\u{e4}~", "%C3%A4%7E"),
        ] {
            assert_eq!(&**encoded(text), expected);
        }
    }
}
