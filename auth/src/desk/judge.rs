//! Whose is a token or a password? The ones who may own it are asked in the order of the
//! configuration, until one accepts or refuses; when nobody owns it, it is refused.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use portcullis_core::hook::{
    Accepted, Attributes, Credential, Identity, Lease, Principal, Refusal, RefusalKind,
};

use super::{BOTH, Desk, Looked, bad};
use crate::Link;
use crate::certificate::Facts;
use crate::der::{hex, sha256};
use crate::introspection::Said;
use crate::jwt::{self, Court, Once, Proven};
use crate::password::{self, Check};
use crate::webhook::Judged;

/// The bearer of a token that counts.
struct Bearer {
    accepted: Accepted,
    /// Whether the token is worth nothing without the client's certificate.
    bound: bool,
    /// Where the token may be used once at a time: by which reference, and its hash.
    once: Option<(jwt::Reference, Box<str>)>,
}

impl Desk {
    /// Judges a token, and the certificate that it is bound to or that `require` asks for with it:
    /// the identity lives as long as both. `acts_for`: whom the client calls itself, if it does.
    pub(crate) async fn token(
        &self,
        looked: &Looked<'_>,
        token: &[u8],
        acts_for: Option<&str>,
    ) -> Result<Accepted, Refusal> {
        let Bearer {
            mut accepted,
            bound,
            once,
        } = self.bearer_of(looked, token).await?;
        let principal = accepted.identity.principal.clone();
        let refused = |refusal: Refusal| Refusal {
            claimed: Some(principal.clone()),
            ..refusal
        };
        if acts_for.is_some_and(|other| other != accepted.identity.name()) {
            let why = "OAUTHBEARER: the client wants to act as somebody else";
            return Err(refused(bad(why.to_owned())));
        }
        let certificate = if !looked.state.settings.require.is_empty() {
            let both = looked.required_certificate().map_err(refused)?;
            let mut attributes = (*both.identity.attributes).clone();
            // The token names the principal.
            attributes.remove(Identity::NAME);
            attributes.extend((*accepted.identity.attributes).clone());
            accepted.identity.attributes = Arc::new(attributes);
            Some(both.lease)
        } else if bound {
            Some(looked.bound_certificate().map_err(refused)?)
        } else {
            None
        };
        let lease = &mut accepted.lease;
        // Only now that nothing is missing: an older use of the token ends by it.
        if let Some((reference, token)) = once {
            let once = Some(self.once(looked, token, lease.until));
            lease.credential = jwt::Reference { once, ..reference }.credential();
        }
        if let Some(certificate) = certificate {
            lease.until = match (lease.until, certificate.until) {
                (Some(token), Some(certificate)) => Some(token.min(certificate)),
                (one, other) => one.or(other),
            };
            let token = &lease.credential;
            lease.credential = Credential::new(
                &token.method,
                &format!(
                    "{}{BOTH}{}",
                    token.reference, certificate.credential.reference
                ),
            );
        }
        Ok(accepted)
    }

    /// Whose a token is.
    async fn bearer_of(&self, looked: &Looked<'_>, token: &[u8]) -> Result<Bearer, Refusal> {
        let (state, attempt) = (looked.state, looked.attempt);
        let several = state.settings.token_sources() > 1;
        let court = Court {
            issuers: &state.issuers,
            several,
        };
        let fingerprint = looked.fingerprint();
        let owner = court.owner(token);
        let mut why = match &owner {
            Ok(_) => Vec::new(),
            Err(why) => vec![format!("jwt: {why}")],
        };
        for link in &state.chain {
            let said = match link {
                Link::Issuer(at) => {
                    let Some((issuer, kid)) = owner.as_ref().ok().filter(|(issuer, _)| {
                        let settings = state.settings.issuers.get(*at);
                        settings.is_some_and(|settings| settings.name == issuer.settings.name)
                    }) else {
                        continue;
                    };
                    if let Some(remote) = issuer.remote()
                        && remote.look_for(kid.as_deref(), attempt.now.mono).await
                    {
                        self.moved();
                    }
                    let proven = court.judge(issuer, token, fingerprint.as_ref(), attempt.now)?;
                    let once = issuer.settings.one_connection_per_jti;
                    return Ok(self.proven(proven, once));
                }
                Link::Introspection(at) => {
                    let Some(server) = state.introspector(*at) else {
                        continue;
                    };
                    let key = self.hasher.key();
                    server
                        .judge(token, key, fingerprint.as_ref(), several, attempt)
                        .await
                }
                Link::Webhook(at) => {
                    let Some(hook) = state.webhook(*at).filter(|hook| hook.settings.tokens) else {
                        continue;
                    };
                    let facts = facts(looked);
                    hook.judge(attempt, Judged::Token(token), facts.as_ref(), several)
                        .await
                }
                Link::Passwords => continue,
            };
            match said {
                Said::Yes(believed) => {
                    self.ignored_roles
                        .fetch_add(believed.ignored_roles, Ordering::Relaxed);
                    return Ok(Bearer {
                        accepted: believed.accepted,
                        bound: believed.bound,
                        once: None,
                    });
                }
                Said::No(refusal) => return Err(refusal),
                Said::NotMine(reason) => why.push(reason),
            }
        }
        Err(bad(why.join("; ")))
    }

    /// A token whose signature and claims are good.
    fn proven(&self, proven: Proven, once: bool) -> Bearer {
        self.ignored_roles
            .fetch_add(proven.ignored_roles, Ordering::Relaxed);
        let reference = proven.reference;
        let named = format!("{}\0{}", reference.issuer, proven.jti.unwrap_or_default());
        let token = hex(sha256(named.as_bytes()).get(..16).unwrap_or_default());
        Bearer {
            accepted: Accepted {
                identity: proven.identity,
                lease: Lease {
                    until: Some(proven.until),
                    credential: reference.credential(),
                },
                data: None,
            },
            bound: proven.bound,
            once: once.then(|| (reference, token.into())),
        }
    }

    /// The use that a token is put to now; earlier ones end. It is remembered as long as the token
    /// counts.
    fn once(&self, looked: &Looked<'_>, token: Box<str>, until: Option<SystemTime>) -> Once {
        let now = looked.attempt.now;
        let left = until.and_then(|until| until.duration_since(now.wall).ok());
        let until = now.mono.checked_add(left.unwrap_or_default());
        let until = until.unwrap_or(now.mono);
        // The same token on the same connection: the same use, longer.
        let current = looked
            .attempt
            .current
            .filter(|current| &*current.credential.method == jwt::Reference::METHOD)
            .and_then(|current| jwt::Reference::parse(first_part(&current.credential.reference)))
            .and_then(|reference| reference.once)
            .filter(|once| once.token == token && self.is_present(once));
        let number = current.map_or_else(
            || self.next_use.fetch_add(1, Ordering::Relaxed),
            |once| once.number,
        );
        let before = self.uses.insert(token.clone(), number, until, now.mono);
        if before.is_some_and(|before| before != number) {
            self.moved();
        }
        Once { token, number }
    }

    /// Whether this is the present use of a token.
    pub(super) fn is_present(&self, once: &Once) -> bool {
        self.uses
            .peek(&once.token)
            .is_none_or(|number| number == once.number)
    }

    /// Judges a password.
    pub(super) async fn password(
        &self,
        looked: &Looked<'_>,
        password: &[u8],
    ) -> Result<Accepted, Refusal> {
        let user = match looked.attempt.username {
            Some(user) if !user.is_empty() => user,
            _ => return Err(bad("password: there is no user name".to_owned())),
        };
        let guess = self.patience(looked, user).await?;
        let guess = self.reserve(looked, user, guess).await?;
        match self.owner_of(looked, user, password).await {
            Ok(accepted) => {
                guess.succeeded();
                Ok(accepted)
            }
            Err(refusal) => {
                if refusal.kind == RefusalKind::BadCredential {
                    guess.failed();
                }
                Err(Refusal {
                    claimed: Principal::vouched("user", user).ok(),
                    ..refusal
                })
            }
        }
    }

    async fn owner_of(
        &self,
        looked: &Looked<'_>,
        user: &str,
        password: &[u8],
    ) -> Result<Accepted, Refusal> {
        let state = looked.state;
        let several = state.settings.password_sources() > 1;
        let mut why = Vec::new();
        for link in &state.chain {
            match link {
                Link::Passwords => match self.user_of_file(looked, user, password).await? {
                    Ok(accepted) => return Ok(accepted),
                    Err(reason) => why.push(reason),
                },
                Link::Webhook(at) => {
                    let Some(hook) = state.webhook(*at).filter(|hook| hook.settings.passwords)
                    else {
                        continue;
                    };
                    let (facts, judged) = (facts(looked), Judged::Password { user, password });
                    let said = hook
                        .judge(looked.attempt, judged, facts.as_ref(), several)
                        .await;
                    match said {
                        Said::Yes(believed) => {
                            self.ignored_roles
                                .fetch_add(believed.ignored_roles, Ordering::Relaxed);
                            return Ok(believed.accepted);
                        }
                        Said::No(refusal) => return Err(refusal),
                        Said::NotMine(reason) => why.push(reason),
                    }
                }
                Link::Issuer(_) | Link::Introspection(_) => {}
            }
        }
        if why.is_empty() {
            why.push("password: there is no password file".to_owned());
        }
        Err(bad(why.join("; ")))
    }

    /// Asks the password file; inside, why the user is not one of its own. That is known only after
    /// the work that a user costs.
    async fn user_of_file(
        &self,
        looked: &Looked<'_>,
        user: &str,
        password: &[u8],
    ) -> Result<Result<Accepted, String>, Refusal> {
        let Some(users) = &looked.state.users else {
            return Err(bad("password: there is no password file".to_owned()));
        };
        let refuse = |why: String| bad(format!("password: {why}"));
        let digest = match self
            .hasher
            .check(users, (user, password), &looked.attempt.clock)
            .await
        {
            Check::Right(digest) => digest,
            Check::Wrong(why) => return Err(refuse(why.to_owned())),
            Check::Stranger(why) => return Ok(Err(format!("password: {why}"))),
            Check::Unavailable(why) => {
                let reason = format!("password: {why}");
                return Err(Refusal::new(RefusalKind::Unavailable, reason));
            }
        };
        let principal = Principal::vouched("user", user)
            .map_err(|error| refuse(format!("the user name: {error}")))?;
        let reference = password::Reference {
            digest,
            user: user.into(),
        };
        self.user(principal, &reference).map(Ok).map_err(refuse)
    }
}

/// What stands before the certificate that was needed too.
pub(super) fn first_part(reference: &str) -> &str {
    reference
        .split_once(BOTH)
        .map_or(reference, |(token, _)| token)
}

/// What the client's certificate says, for a webhook; TLS has validated it.
fn facts(looked: &Looked<'_>) -> Option<Attributes> {
    let certificate = looked.attempt.certificate?;
    let leaf = certificate.chain.first()?;
    Facts::read(leaf, looked.state.settings.certificate)
        .ok()
        .map(|facts| facts.attributes)
}
