//! An HTTP service that judges passwords or tokens.
//!
//! It gets a POST with what is known of the client, in JSON:
//!
//! ```json
//! {"version": 1, "kind": "password", "listener": "internet", "client-id": "c1", "username": "anna",
//!  "password": "...", "peer": "192.0.2.1:5000", "protocol": "5.0", "certificate": {"cert.cn": "..."}}
//! ```
//!
//! (a token stands under `token`; a password that is not UTF-8 under `password-base64`) and answers
//! with status 200 and
//!
//! ```json
//! {"result": "allow", "principal": "anna", "roles": ["nurse"], "attributes": {"site": "north"},
//!  "expires": 1767229200}
//! ```
//!
//! `result` is `allow`, `deny` or `ignore` (not its own: the next is asked); all else may be missing,
//! except that a token's `principal` must be there. Anything else, a field that is not known
//! included, is no answer, and no answer is a refusal as unavailable. The secret goes to the
//! configured address only, over TLS or to loopback, and is in no log.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis_core::hook::{Attempt, Attributes, Refusal, RefusalKind};
use portcullis_core::wire::Version;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::breaker::Breaker;
use crate::claims::{self, named};
use crate::fetch::{Ask, Client, secret};
use crate::introspection::{Believed, Said, vouched};
use crate::jwt::MAX_TOKEN;
use crate::slots::Slots;
use crate::{Ends, Error, WebhookSettings};

/// Largest answer, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// Requests at a time.
const AT_A_TIME: usize = 64;

/// One service.
pub(crate) struct Webhook {
    pub(crate) settings: WebhookSettings,
    client: Client,
    authorization: Option<Zeroizing<String>>,
    breaker: Breaker,
    slots: Slots,
}

/// What it is asked about.
#[derive(Clone, Copy)]
pub(crate) enum Judged<'a> {
    /// A password and whose it is said to be.
    Password { user: &'a str, password: &'a [u8] },
    /// A token.
    Token(&'a [u8]),
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Facts<'a> {
    version: u8,
    kind: &'static str,
    listener: &'a str,
    client_id: &'a str,
    username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password_base64: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    peer: Option<String>,
    protocol: &'static str,
    certificate: Option<&'a Attributes>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    result: Verdict,
    principal: Option<String>,
    #[serde(default)]
    roles: Vec<Value>,
    #[serde(default)]
    attributes: BTreeMap<String, Value>,
    expires: Option<u64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Allow,
    Deny,
    Ignore,
}

impl Webhook {
    pub(crate) const METHOD: &'static str = "webhook";

    /// Reads the files that `settings` name.
    ///
    /// # Errors
    ///
    /// One that is broken.
    pub(crate) fn load(settings: &WebhookSettings) -> Result<Self, Error> {
        let authorization = match &settings.secret_file {
            None => None,
            Some(file) => Some(Zeroizing::new(format!("Bearer {}", &*secret(file)?))),
        };
        Ok(Self {
            client: Client::new(&settings.connection, &settings.url)?,
            settings: settings.clone(),
            authorization,
            breaker: Breaker::default(),
            slots: Slots::new(AT_A_TIME),
        })
    }

    /// When the certificate that is shown to the server ends.
    pub(crate) fn ends(&self) -> Option<Ends> {
        self.client.ends().cloned()
    }

    /// Asks about a credential. `certificate` has what the client's certificate says; `several`:
    /// whether principals say whose they are.
    pub(crate) async fn judge(
        &self,
        attempt: &Attempt<'_>,
        judged: Judged<'_>,
        certificate: Option<&Attributes>,
        several: bool,
    ) -> Said {
        let name = &self.settings.name;
        let refuse =
            |kind, why: String| Said::No(Refusal::new(kind, format!("webhook {name}: {why}")));
        let answer = match self.answer(attempt, judged, certificate).await {
            Ok(answer) => answer,
            Err((kind, why)) => return refuse(kind, why),
        };
        match answer.result {
            Verdict::Ignore => Said::NotMine(format!("webhook {name}: not its own")),
            Verdict::Deny => refuse(RefusalKind::BadCredential, "it denies".into()),
            Verdict::Allow => match self.accept(&answer, judged, several, attempt.now.wall) {
                Ok(believed) => Said::Yes(Box::new(believed)),
                Err(why) => refuse(RefusalKind::BadCredential, why),
            },
        }
    }

    async fn answer(
        &self,
        attempt: &Attempt<'_>,
        judged: Judged<'_>,
        certificate: Option<&Attributes>,
    ) -> Result<Answer, (RefusalKind, String)> {
        let unavailable = |why: &str| (RefusalKind::Unavailable, why.to_owned());
        let turn = self.slots.turn(&attempt.clock).await;
        let (_slot, waited) = turn.ok_or_else(|| unavailable("too many requests wait for it"))?;
        let now = attempt.now.mono + waited;
        let wrong = |why: &str| (RefusalKind::BadCredential, why.to_owned());
        // Not before: whoever waits holds no memory.
        let body = body(attempt, judged, certificate).map_err(wrong)?;
        if !self.breaker.allows(now) {
            let why = "it did not answer several times; left alone for some seconds";
            return Err(unavailable(why));
        }
        let asked = self.ask(body).await;
        self.breaker.record(asked.is_ok(), now);
        asked.map_err(|why| (RefusalKind::Unavailable, why))
    }

    async fn ask(&self, body: Zeroizing<Vec<u8>>) -> Result<Answer, String> {
        let ask = Ask {
            url: &self.settings.url,
            accept: "application/json",
            content: Some(("application/json", body)),
            authorization: self.authorization.as_ref().map(|text| text.as_str()),
            limit: MAX_ANSWER,
        };
        let bytes = self
            .client
            .send(ask)
            .await
            .map_err(|failure| failure.to_string())?;
        // Nothing of the answer is repeated: it may hold what was sent.
        serde_json::from_slice(&bytes)
            .map_err(|_| format!("{}: its answer is not understood", self.settings.url))
    }

    fn accept(
        &self,
        answer: &Answer,
        judged: Judged<'_>,
        several: bool,
        now: SystemTime,
    ) -> Result<Believed, String> {
        let settings = &self.settings;
        let (kind, name) = match (judged, &answer.principal) {
            (Judged::Password { user, .. }, None) => ("user", user),
            (Judged::Password { .. }, Some(name)) => ("user", name.as_str()),
            (Judged::Token(_), Some(name)) => ("jwt", name.as_str()),
            (Judged::Token(_), None) => return Err("its answer names no principal".into()),
        };
        let source = several.then_some(settings.name.as_str());
        let latest = now
            .checked_add(settings.lifetime)
            .ok_or("lifetime is out of range")?;
        let until = match answer.expires {
            None => latest,
            Some(seconds) => UNIX_EPOCH
                .checked_add(Duration::from_secs(seconds))
                .filter(|until| *until > now)
                .ok_or("its answer is expired")?
                .min(latest),
        };
        let roles = Map::from_iter([("roles".to_owned(), Value::Array(answer.roles.clone()))]);
        let (roles, ignored_roles) =
            claims::roles(&roles, Some("roles"), settings.allowed_roles.as_deref());
        let attributes: Map<String, Value> = answer.attributes.clone().into_iter().collect();
        let identity = named(kind, name, source, roles, claims::attributes(&attributes))
            .map_err(|why| format!("the principal: {why}"))?;
        Ok(Believed {
            accepted: vouched(Self::METHOD, &settings.name, identity, several, until),
            ignored_roles,
            bound: false,
        })
    }
}

/// What is sent.
///
/// # Errors
///
/// A token that is none.
fn body(
    attempt: &Attempt<'_>,
    judged: Judged<'_>,
    certificate: Option<&Attributes>,
) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let encoded = match judged {
        Judged::Password { password, .. } if std::str::from_utf8(password).is_err() => {
            Some(Zeroizing::new(STANDARD.encode(password)))
        }
        Judged::Password { .. } | Judged::Token(_) => None,
    };
    let mut facts = Facts {
        version: 1,
        kind: "token",
        listener: attempt.listener,
        client_id: attempt.client_id,
        username: attempt.username,
        password: None,
        password_base64: encoded.as_ref().map(|text| text.as_str()),
        token: None,
        peer: attempt.peer.map(|peer| peer.to_string()),
        protocol: match attempt.version {
            Version::V3_1 => "3.1",
            Version::V3_1_1 => "3.1.1",
            Version::V5 => "5.0",
        },
        certificate,
    };
    match judged {
        Judged::Password { user, password } => {
            facts.kind = "password";
            facts.username = Some(user);
            facts.password = std::str::from_utf8(password).ok();
        }
        Judged::Token(token) => {
            let text = std::str::from_utf8(token).ok();
            let text = text.filter(|text| text.len() <= MAX_TOKEN);
            facts.token = Some(text.ok_or("the token is too long or not text")?);
        }
    }
    // Room from the start: a buffer that grows leaves copies behind.
    let mut out = Zeroizing::new(Vec::with_capacity(256 << 10));
    serde_json::to_writer(&mut *out, &facts).map_err(|_| "the facts cannot be written")?;
    Ok(out)
}
