//! Enhanced authentication (MQTT 5.0, section 4.12): exchanges of more than one message, at CONNECT
//! and to renew an identity without reconnecting.
//!
//! | Authentication Method | | judged as |
//! | --- | --- | --- |
//! | `OAUTHBEARER` | RFC 7628 | `jwt` |
//! | `SCRAM-SHA-256` | RFC 5802, RFC 7677 | `password` |
//!
//! A client whose first message does not come with CONNECT is asked for it with an empty
//! challenge. A token that is refused gets the error that RFC 7628 prescribes, the same whatever
//! the reason, and then the refusal. A name that is in no password file is challenged like one
//! that is, and fails at the same place.
//!
//! What an exchange needs between its steps is kept for a minute at most, in a bounded table: the
//! oldest goes when it is full, so that strangers who begin and never end keep nobody out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use parking_lot::Mutex;
use portcullis_core::hook::{Accepted, Outcome, Principal, Refusal, RefusalKind};

use crate::desk::{Desk, Looked, bad, short};
use crate::guess::{Attempt, Patience, Reserved, Unjudged};
use crate::scram::{self, Challenge, First};
use crate::{Method, password};

/// The failure of RFC 7628, section 3.2.2: one for all reasons.
const INVALID_TOKEN: &[u8] = br#"{"status":"invalid_token"}"#;

/// What is awaited, and what is known meanwhile.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// The first message was asked for.
    First,
    /// The error was sent; this is the refusal that follows.
    End(Refusal),
    /// The challenge was sent.
    Proof(Box<Proof>),
}

/// What a proof is judged by.
#[derive(Debug)]
pub(crate) struct Proof {
    challenge: Challenge,
    /// The line of the password file; a stranger has none, and why.
    line: Result<password::Reference, &'static str>,
}

/// Exchanges that are not over.
pub(crate) struct Exchanges {
    table: Mutex<HashMap<u64, (Instant, Waiting)>>,
    capacity: usize,
}

impl Exchanges {
    /// Exchanges at a time; some ten mebibytes at worst.
    const CAPACITY: usize = 2048;
    /// How long a step may take.
    const PATIENCE: Duration = Duration::from_mins(1);

    pub(crate) fn new() -> Self {
        Self {
            table: Mutex::default(),
            capacity: Self::CAPACITY,
        }
    }

    fn keep(&self, exchange: u64, now: Instant, waiting: Waiting) {
        let mut table = self.table.lock();
        if table.len() >= self.capacity {
            table.retain(|_, (since, _)| now.saturating_duration_since(*since) < Self::PATIENCE);
        }
        if table.len() >= self.capacity {
            let oldest = table.iter().min_by_key(|(_, (since, _))| *since);
            if let Some(oldest) = oldest.map(|(exchange, _)| *exchange) {
                table.remove(&oldest);
            }
        }
        table.insert(exchange, (now, waiting));
    }

    fn take(&self, exchange: u64, now: Instant) -> Option<Waiting> {
        let (since, waiting) = self.table.lock().remove(&exchange)?;
        (now.saturating_duration_since(since) < Self::PATIENCE).then_some(waiting)
    }
}

#[derive(Clone, Copy)]
enum Mechanism {
    OauthBearer,
    Scram,
}

impl Desk {
    /// One step of an exchange.
    pub(crate) async fn exchange(
        &self,
        looked: &Looked<'_>,
        method: &str,
        data: Option<&[u8]>,
    ) -> Outcome {
        let mechanism = match method {
            "OAUTHBEARER" if looked.at(Method::Jwt) => Mechanism::OauthBearer,
            "SCRAM-SHA-256" if looked.at(Method::Password) && looked.state.users.is_some() => {
                Mechanism::Scram
            }
            _ => {
                return Outcome::Refused(Refusal::new(
                    RefusalKind::BadMethod,
                    format!(
                        "the Authentication Method {:?} is not spoken here",
                        short(method)
                    ),
                ));
            }
        };
        let attempt = looked.attempt;
        let waiting = self.exchanges.take(attempt.exchange, attempt.now.mono);
        let answer = match (attempt.step, waiting, data) {
            (0, _, None) => {
                self.wait(looked, Waiting::First);
                return Outcome::Continue(Vec::new());
            }
            (0, _, Some(data)) | (_, Some(Waiting::First), Some(data)) => match mechanism {
                Mechanism::OauthBearer => return self.bearer(looked, data).await,
                Mechanism::Scram => self.challenge(looked, data).await.map(Outcome::Continue),
            },
            (_, Some(Waiting::Proof(proof)), Some(data)) => self
                .proof(looked, &proof, data)
                .await
                .map(Outcome::Accepted),
            (_, Some(Waiting::End(refusal)), _) => Err(refusal),
            (_, Some(Waiting::First | Waiting::Proof(_)), None) => {
                Err(bad(format!("{method}: the message is missing")))
            }
            (_, None, _) => Err(bad(format!(
                "{method}: there is no such exchange, or it took longer than a minute"
            ))),
        };
        answer.unwrap_or_else(Outcome::Refused)
    }

    fn wait(&self, looked: &Looked<'_>, waiting: Waiting) {
        let attempt = looked.attempt;
        self.exchanges
            .keep(attempt.exchange, attempt.now.mono, waiting);
    }

    async fn bearer(&self, looked: &Looked<'_>, message: &[u8]) -> Outcome {
        let judged = match Bearer::parse(message) {
            Ok(bearer) => {
                let acts_for = bearer.authorization.as_deref();
                self.token(looked, bearer.token, acts_for).await
            }
            Err(why) => Err(bad(format!("OAUTHBEARER: {why}"))),
        };
        match judged {
            Ok(accepted) => Outcome::Accepted(accepted),
            Err(refusal) if refusal.kind == RefusalKind::BadCredential => {
                self.wait(looked, Waiting::End(refusal));
                Outcome::Continue(INVALID_TOKEN.to_vec())
            }
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    async fn challenge(&self, looked: &Looked<'_>, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        let refuse = |why: &str| bad(format!("SCRAM-SHA-256: {why}"));
        let first = First::parse(message).map_err(refuse)?;
        if first
            .authorization
            .as_ref()
            .is_some_and(|other| *other != first.name)
        {
            return Err(refuse("the client wants to act as somebody else"));
        }
        looked.alone(Method::Password, ())?;
        self.patience(looked, &first.name).await?;
        let Some(users) = &looked.state.users else {
            return Err(refuse("there is no password file"));
        };
        let known = users.line(&first.name);
        let stranger = || users.scram_of_stranger(&first.name);
        let (verifier, line) = match known.map(|line| (line, &line.scram)) {
            Some((line, Some(verifier))) => {
                let reference = password::Reference {
                    digest: line.digest.clone(),
                    user: first.name.clone(),
                };
                (verifier.clone(), Ok(reference))
            }
            Some((_, None)) => (
                stranger(),
                Err("the user's line has no SCRAM verifier; set the password again"),
            ),
            None => (
                stranger(),
                Err("there is no such user in the password file"),
            ),
        };
        let mut random = [0; 18];
        rand::fill(&mut random).map_err(|_| {
            let why = "SCRAM-SHA-256: no random number could be made";
            Refusal::new(RefusalKind::Unavailable, why)
        })?;
        let challenge = Challenge::new(first, verifier, &random);
        let answer = challenge.message().as_bytes().to_vec();
        let proof = Proof { challenge, line };
        self.wait(looked, Waiting::Proof(Box::new(proof)));
        Ok(answer)
    }

    async fn proof(
        &self,
        looked: &Looked<'_>,
        proof: &Proof,
        message: &[u8],
    ) -> Result<Accepted, Refusal> {
        let name = proof.challenge.name();
        let claimed = Principal::vouched("user", name);
        let refuse = |why: &str| Refusal {
            claimed: claimed.clone().ok(),
            ..bad(format!("SCRAM-SHA-256: {why}"))
        };
        // Many exchanges may have begun before the first proof was wrong.
        let guess = self.reserve(looked, name, self.guess(looked, name)).await?;
        // A stranger is verified too: the same work, and nothing that fits.
        let verified = proof.challenge.verify(message);
        let (reference, own) = match (&proof.line, verified) {
            (Ok(reference), Ok(own)) => (reference, own),
            (&Err(why), _) | (Ok(_), Err(why)) => {
                guess.failed();
                return Err(refuse(why));
            }
        };
        guess.succeeded();
        let principal = match &claimed {
            Ok(principal) => principal.clone(),
            Err(error) => return Err(refuse(&format!("the user name: {error}"))),
        };
        let accepted = self
            .user(principal, reference)
            .map_err(|why| refuse(&why))?;
        Ok(Accepted {
            data: Some(own.into_bytes()),
            ..accepted
        })
    }

    fn guess(&self, looked: &Looked<'_>, user: &str) -> Attempt<'_> {
        let attempt = looked.attempt;
        self.guesses.attempt(user, attempt.peer, attempt.now.mono)
    }

    /// Lets a guesser wait, or refuses him.
    pub(crate) async fn patience(
        &self,
        looked: &Looked<'_>,
        user: &str,
    ) -> Result<Attempt<'_>, Refusal> {
        let guess = self.guess(looked, user);
        match guess.patience() {
            Patience::Judge => {}
            Patience::Wait(time) => looked.attempt.clock.pause(time).await,
            Patience::Refuse => return Err(unjudged(user, Unjudged::Refused)),
        }
        Ok(guess)
    }

    /// Counts a guess, before it is looked at.
    pub(crate) async fn reserve<'a>(
        &'a self,
        looked: &Looked<'_>,
        user: &str,
        guess: Attempt<'a>,
    ) -> Result<Reserved<'a>, Refusal> {
        let reserved = guess.reserve(&looked.attempt.clock).await;
        reserved.map_err(|why| unjudged(user, why))
    }
}

fn unjudged(user: &str, why: Unjudged) -> Refusal {
    let refusal = match why {
        Unjudged::Refused => bad(format!("password: {}", Attempt::TOO_MANY)),
        Unjudged::Unavailable => Refusal::new(
            RefusalKind::Unavailable,
            "password: too many passwords wait to be verified",
        ),
    };
    Refusal {
        claimed: Principal::vouched("user", user).ok(),
        ..refusal
    }
}

/// A client's message (RFC 7628, section 3.1).
struct Bearer<'a> {
    token: &'a [u8],
    /// Whom the client calls itself; nobody may act for somebody else.
    authorization: Option<Box<str>>,
}

impl<'a> Bearer<'a> {
    /// Reads `n,,^Aauth=Bearer TOKEN^A^A`.
    fn parse(message: &'a [u8]) -> Result<Self, &'static str> {
        let message =
            std::str::from_utf8(message).map_err(|_| "the client's message is not text")?;
        let (header, rest) = scram::gs2(message)?;
        let fields = rest
            .strip_prefix('\x01')
            .and_then(|rest| rest.strip_suffix("\x01\x01"))
            .ok_or("the client's message does not begin and end as it should")?;
        let mut token = None;
        for field in fields.split('\x01') {
            let (key, value) = field
                .split_once('=')
                .ok_or("the client's message has a field without '='")?;
            // Host and port say where the client believes to be; others are for the future.
            if key == "auth" && token.replace(value).is_some() {
                return Err("the client's message has auth twice");
            }
        }
        let token = token
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"))
            .map(|(_, token)| token.trim_matches(' '))
            .filter(|token| !token.is_empty())
            .ok_or("the client's message has no bearer token")?;
        Ok(Self {
            token: token.as_bytes(),
            authorization: header.authorization,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_messages() {
        let parse = |text: &str| {
            Bearer::parse(text.as_bytes()).map(|bearer| {
                let token = String::from_utf8(bearer.token.to_vec()).unwrap();
                (token, bearer.authorization)
            })
        };
        for (message, token, authorization) in [
            ("n,,\x01auth=Bearer a.b.c\x01\x01", "a.b.c", None),
            (
                "n,,\x01host=h\x01port=1\x01auth=bearer  x=\x01\x01",
                "x=",
                None,
            ),
            ("n,a=anna,\x01auth=Bearer x\x01\x01", "x", Some("anna")),
            ("y,,\x01auth=Bearer x\x01\x01", "x", None),
        ] {
            let expected = (token.to_owned(), authorization.map(Into::into));
            assert_eq!(parse(message), Ok(expected), "{message:?}");
        }
        for message in [
            "",
            "\x01",
            "n,,",
            "n,,\x01\x01",
            "n,,\x01auth=Bearer x\x01",
            "n,,auth=Bearer x\x01\x01",
            "n,,\x01auth=Bearer x\x01auth=Bearer y\x01\x01",
            "n,,\x01auth=Basic x\x01\x01",
            "n,,\x01auth=Bearer \x01\x01",
            "n,,\x01auth=Bearer\x01\x01",
            "n,,\x01auth\x01\x01",
            "p=tls-unique,,\x01auth=Bearer x\x01\x01",
        ] {
            assert!(parse(message).is_err(), "{message:?}");
        }
        assert!(Bearer::parse(b"n,,\x01auth=Bearer \xff\x01\x01").is_err());
    }

    #[test]
    fn exchanges_are_bounded_and_end() {
        let now = Instant::now();
        let exchanges = Exchanges {
            capacity: 3,
            ..Exchanges::new()
        };
        let later = |seconds| now + Duration::from_secs(seconds);
        for number in 0..10 {
            exchanges.keep(number, later(number), Waiting::First);
            assert!(exchanges.table.lock().len() <= 3);
        }
        assert!(exchanges.take(6, later(10)).is_none(), "the oldest went");
        assert!(exchanges.take(7, later(10)).is_some());
        assert!(exchanges.take(7, later(10)).is_none(), "once only");
        assert!(exchanges.take(8, later(68)).is_none(), "a minute");
        assert!(exchanges.take(9, later(68)).is_some());
    }
}
