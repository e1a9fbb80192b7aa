//! Which credential counts, and does it still stand?
//!
//! The order (identity rules of `docs/authentication.md`): 5.0 Authentication Method, password,
//! WebSocket bearer token, certificate, nothing. The first that is present *and* looked at by the
//! listener is judged, and its verdict is final.
//!
//! Each unit (the password file, each issuer's keys, each listener's CAs and CRLs) is swapped by
//! itself; a broken new one leaves the old one in place. Whatever was accepted is asked about again
//! by its [`Credential`] when [`generation`](Authenticator::generation) has moved.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use portcullis_core::hook::{
    Accepted, Attempt, Authenticator, BoxFuture, ClientCertificate, Credential, Identity, Lease,
    Outcome, Principal, Refusal, RefusalKind, Standing, Use,
};
use rustls::pki_types::CertificateDer;

use crate::certificate::{self, Facts};
use crate::jwt::{self, Court, Issuer};
use crate::password::{self, Check, Hasher, Users};
use crate::{ClientTrust, Error, Method, Settings};

/// Between the references of a token and of the certificate that was needed with it.
const BOTH: &str = " with ";

/// The authenticator of the configuration. Put it last in a chain: it never passes a client on.
pub struct Desk {
    state: ArcSwap<State>,
    /// Held by whoever swaps the state, so that two reloads do not lose one.
    changing: Mutex<()>,
    hasher: Hasher,
    generation: AtomicU64,
    ignored_roles: AtomicU64,
}

#[derive(Clone)]
struct State {
    settings: Settings,
    users: Option<Arc<Users>>,
    issuers: Vec<Arc<Issuer>>,
    trusts: BTreeMap<Box<str>, Arc<ClientTrust>>,
}

/// What came of reloading one unit.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// `configuration`, `password-file` or `issuer NAME`.
    pub unit: String,
    /// Why the old one was kept.
    pub error: Option<Error>,
}

impl Desk {
    /// Loads everything that `settings` name. CAs come with [`set_trust`](Self::set_trust). The
    /// texts are warnings.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, so that it can be mended in one go.
    pub fn open(settings: Settings) -> Result<(Self, Vec<String>), Vec<Error>> {
        settings.check().map_err(|error| vec![error])?;
        let mut errors = Vec::new();
        let mut warnings = Vec::new();
        let mut users = None;
        if let Some(path) = &settings.password_file {
            match Users::load(path) {
                Ok((loaded, more)) => {
                    users = Some(Arc::new(loaded));
                    warnings.extend(more);
                }
                Err(error) => errors.push(error),
            }
        }
        let mut issuers = Vec::new();
        for issuer in &settings.issuers {
            match Issuer::load(issuer) {
                Ok((loaded, more)) => {
                    issuers.push(Arc::new(loaded));
                    warnings.extend(more);
                }
                Err(error) => errors.push(error),
            }
        }
        let hasher = Hasher::new().map_err(|error| vec![error])?;
        if !errors.is_empty() {
            return Err(errors);
        }
        let desk = Self {
            state: ArcSwap::from_pointee(State {
                settings,
                users,
                issuers,
                trusts: BTreeMap::new(),
            }),
            changing: Mutex::new(()),
            hasher,
            generation: AtomicU64::new(1),
            ignored_roles: AtomicU64::new(0),
        };
        Ok((desk, warnings))
    }

    /// Sets (or with `None` removes) a listener's client CAs and CRLs; those of
    /// [`tls::load`](crate::tls::load), so that handshakes and this desk go by the same.
    pub fn set_trust(&self, listener: &str, trust: Option<Arc<ClientTrust>>) {
        self.change(|state| match trust {
            Some(trust) => drop(state.trusts.insert(listener.into(), trust)),
            None => drop(state.trusts.remove(listener)),
        });
    }

    /// Reads the password file again.
    ///
    /// # Errors
    ///
    /// The file is broken or empty; the old users stay.
    pub fn reload_passwords(&self) -> Result<(), Error> {
        let _changing = self.changing.lock();
        let state = self.state.load_full();
        let Some(path) = &state.settings.password_file else {
            return Ok(());
        };
        let (users, warnings) = Users::load(path)?;
        warn(&warnings);
        if let Some(old) = &state.users {
            users.inherit(old);
        }
        self.swap(State {
            users: Some(Arc::new(users)),
            ..(*state).clone()
        });
        Ok(())
    }

    /// Reads an issuer's keys again.
    ///
    /// # Errors
    ///
    /// The file is broken or has no usable key, and the old keys stay; or there is no such issuer.
    pub fn reload_issuer(&self, name: &str) -> Result<(), Error> {
        let _changing = self.changing.lock();
        let state = self.state.load_full();
        let Some(settings) = state
            .settings
            .issuers
            .iter()
            .find(|issuer| issuer.name == name)
        else {
            return Err(Error::setting(
                format!("auth.jwt: there is no issuer {name:?}"),
                "check the name",
            ));
        };
        let (issuer, warnings) = Issuer::load(settings)?;
        warn(&warnings);
        let mut next = (*state).clone();
        next.issuers.retain(|old| old.settings.name != name);
        next.issuers.push(Arc::new(issuer));
        next.sort_issuers();
        self.swap(next);
        Ok(())
    }

    /// Takes new settings and reads every file again. Settings that break a rule change nothing;
    /// else each unit is swapped, or kept, by itself. An issuer that is new and broken has no keys,
    /// so its tokens are refused.
    pub fn reload(&self, settings: Settings) -> Vec<Reloaded> {
        if let Err(error) = settings.check() {
            return vec![Reloaded {
                unit: "configuration".to_owned(),
                error: Some(error),
            }];
        }
        let _changing = self.changing.lock();
        let old = self.state.load_full();
        let mut units = Vec::new();
        let mut next = State {
            users: None,
            issuers: Vec::new(),
            trusts: old.trusts.clone(),
            settings,
        };
        if let Some(path) = &next.settings.password_file {
            let error = match Users::load(path) {
                Ok((users, warnings)) => {
                    warn(&warnings);
                    if let Some(old) = &old.users {
                        users.inherit(old);
                    }
                    next.users = Some(Arc::new(users));
                    None
                }
                Err(error) => {
                    next.users.clone_from(&old.users);
                    Some(error)
                }
            };
            units.push(Reloaded {
                unit: "password-file".to_owned(),
                error,
            });
        }
        for settings in &next.settings.issuers {
            let error = match Issuer::load(settings) {
                Ok((issuer, warnings)) => {
                    warn(&warnings);
                    next.issuers.push(Arc::new(issuer));
                    None
                }
                Err(error) => {
                    next.issuers.extend(old.issuer(&settings.name).cloned());
                    Some(error)
                }
            };
            units.push(Reloaded {
                unit: format!("issuer {}", settings.name),
                error,
            });
        }
        self.swap(next);
        units
    }

    /// Password hashes computed since the start.
    #[must_use]
    pub fn password_hashes(&self) -> u64 {
        self.hasher.hashes()
    }

    /// Role values in tokens that could not be role names, since the start.
    #[must_use]
    pub fn ignored_roles(&self) -> u64 {
        self.ignored_roles.load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let _changing = self.changing.lock();
        let mut next = (*self.state.load_full()).clone();
        change(&mut next);
        self.swap(next);
    }

    fn swap(&self, next: State) {
        self.state.store(Arc::new(next));
        // After the state: who sees the new number sees the new state.
        self.generation.fetch_add(1, Ordering::Release);
    }

    async fn judge(&self, attempt: &Attempt<'_>) -> Result<Accepted, Refusal> {
        let state = self.state.load_full();
        let looked = Looked {
            attempt,
            state: &state,
        };
        match looked.first()? {
            First::Token(token) => self.token(&looked, token),
            First::Password(password) => self.password(&looked, password).await,
            First::Certificate(certificate) => looked.certificate(certificate),
            First::Nothing => Ok(anonymous(attempt.listener)),
        }
    }

    fn token(&self, looked: &Looked<'_>, token: &[u8]) -> Result<Accepted, Refusal> {
        let state = looked.state;
        let court = Court {
            issuers: &state.issuers,
            several: state.settings.issuers.len() > 1,
        };
        let certificate = looked.attempt.certificate;
        let fingerprint = certificate
            .and_then(|certificate| certificate.chain.first())
            .map(|leaf| crate::der::sha256(leaf));
        let proven = court.judge(token, fingerprint.as_ref(), looked.attempt.now.wall)?;
        self.ignored_roles
            .fetch_add(proven.ignored_roles, Ordering::Relaxed);
        let mut accepted = Accepted {
            identity: proven.identity,
            lease: Lease {
                until: Some(proven.until),
                credential: proven.reference.credential(),
            },
            data: None,
        };
        if state.settings.require.is_empty() {
            return Ok(accepted);
        }
        let both = looked.required_certificate().map_err(|refusal| Refusal {
            claimed: Some(accepted.identity.principal.clone()),
            ..refusal
        })?;
        let mut attributes = (*both.identity.attributes).clone();
        attributes.extend((*accepted.identity.attributes).clone());
        accepted.identity.attributes = Arc::new(attributes);
        accepted.lease.until = match (accepted.lease.until, both.lease.until) {
            (Some(token), Some(certificate)) => Some(token.min(certificate)),
            (one, other) => one.or(other),
        };
        accepted.lease.credential = Credential::new(
            jwt::Reference::METHOD,
            &format!(
                "{}{BOTH}{}",
                proven.reference.text(),
                both.lease.credential.reference
            ),
        );
        Ok(accepted)
    }

    async fn password(&self, looked: &Looked<'_>, password: &[u8]) -> Result<Accepted, Refusal> {
        let refuse = |reason: &str| bad(format!("password: {reason}"));
        let user = match looked.attempt.username {
            Some(user) if !user.is_empty() => user,
            _ => return Err(refuse("there is no user name")),
        };
        let claimed = Principal::vouched("user", user);
        let Some(users) = &looked.state.users else {
            return Err(refuse("there is no password file"));
        };
        let refuse = |refusal: Refusal| Refusal {
            claimed: claimed.clone().ok(),
            ..refusal
        };
        let digest = match self.hasher.check(users, user, password).await {
            Check::Right(digest) => digest,
            Check::Wrong(why) => return Err(refuse(bad(format!("password: {why}")))),
            Check::Unavailable(why) => {
                let reason = format!("password: {why}");
                return Err(refuse(Refusal::new(RefusalKind::Unavailable, reason)));
            }
        };
        let principal = match &claimed {
            Ok(principal) => principal.clone(),
            Err(error) => return Err(bad(format!("password: the user name: {error}"))),
        };
        let reference = password::Reference {
            digest,
            user: user.into(),
        };
        // Hashing takes a while, and the file may have changed meanwhile.
        if let Err(why) = self.state.load().password_standing(&reference, Use::Live) {
            return Err(refuse(bad(format!("password: {why}"))));
        }
        Ok(Accepted {
            identity: Identity::new(principal),
            lease: Lease {
                until: None,
                credential: Credential::new(password::Reference::METHOD, &reference.text()),
            },
            data: None,
        })
    }
}

impl Authenticator for Desk {
    #[expect(
        clippy::unnecessary_literal_bound,
        reason = "the trait leaves it to the module"
    )]
    fn name(&self) -> &str {
        "auth"
    }

    fn authenticate<'a>(&'a self, attempt: &'a Attempt<'a>) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            match self.judge(attempt).await {
                Ok(accepted) => Outcome::Accepted(accepted),
                Err(refusal) => Outcome::Refused(refusal),
            }
        })
    }

    fn standing(&self, credential: &Credential, purpose: Use) -> Standing {
        self.state.load().standing(credential, purpose)
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// The credential that is judged.
enum First<'a> {
    Token(&'a [u8]),
    Password(&'a [u8]),
    Certificate(&'a ClientCertificate),
    Nothing,
}

/// An attempt, seen through what its listener looks at.
struct Looked<'a> {
    attempt: &'a Attempt<'a>,
    state: &'a State,
}

impl<'a> Looked<'a> {
    /// Whether the listener looks at this method: it names it, or it names none and the method is
    /// configured.
    fn at(&self, method: Method) -> bool {
        match self.attempt.methods {
            Some(methods) => methods.iter().any(|named| **named == *method.as_str()),
            None => match method {
                Method::Certificate => true,
                Method::Jwt => !self.state.settings.issuers.is_empty(),
                Method::Password => self.state.settings.password_file.is_some(),
                Method::Anonymous => self.state.settings.anonymous && self.attempt.loopback,
            },
        }
    }

    fn first(&self) -> Result<First<'a>, Refusal> {
        let attempt = self.attempt;
        if let Some((method, _)) = attempt.enhanced {
            return Err(Refusal::new(
                RefusalKind::BadMethod,
                format!(
                    "the Authentication Method {:?} is not spoken here",
                    short(method)
                ),
            ));
        }
        if let Some(password) = attempt
            .password
            .map(portcullis_core::secret::Secret::expose)
        {
            let token = jwt::is_token(password);
            if token && self.at(Method::Jwt) {
                return Ok(First::Token(password));
            }
            if !token && self.at(Method::Password) {
                return self.alone(Method::Password, First::Password(password));
            }
        }
        let certificate = attempt.certificate.filter(|_| self.at(Method::Certificate));
        if attempt.username.is_some() && attempt.password.is_none() && certificate.is_none() {
            return Err(bad(
                "there is a user name without a password, and no certificate beside it".to_owned(),
            ));
        }
        if let Some(bearer) = attempt.bearer.filter(|_| self.at(Method::Jwt)) {
            return Ok(First::Token(bearer.expose()));
        }
        if let Some(certificate) = certificate {
            return self.alone(Method::Certificate, First::Certificate(certificate));
        }
        if self.at(Method::Anonymous) {
            return self.alone(Method::Anonymous, First::Nothing);
        }
        Err(bad(self.nothing()))
    }

    /// Only a token may stand where a certificate and a token are required together.
    fn alone(&self, method: Method, first: First<'a>) -> Result<First<'a>, Refusal> {
        if self.state.settings.require.is_empty() {
            return Ok(first);
        }
        Err(bad(format!(
            "{}: auth.require asks for a certificate and a JWT, and there is no JWT",
            method.as_str()
        )))
    }

    /// Why there is nothing to judge.
    fn nothing(&self) -> String {
        let sent: Vec<_> = [
            ("a password", self.attempt.password.is_some()),
            ("a bearer token", self.attempt.bearer.is_some()),
            ("a certificate", self.attempt.certificate.is_some()),
        ]
        .into_iter()
        .filter_map(|(what, is)| is.then_some(what))
        .collect();
        let looked: Vec<_> = [Method::Certificate, Method::Jwt, Method::Password]
            .into_iter()
            .filter(|method| self.at(*method))
            .map(Method::as_str)
            .collect();
        let sent = if sent.is_empty() {
            "no credential".to_owned()
        } else {
            format!("only {}", sent.join(" and "))
        };
        format!(
            "there is {sent}; the listener looks at {}",
            looked.join(", ")
        )
    }

    fn certificate(&self, certificate: &ClientCertificate) -> Result<Accepted, Refusal> {
        let refuse = |reason: String| bad(format!("certificate: {reason}"));
        let listener = self.attempt.listener;
        let Some((leaf, others)) = certificate.chain.split_first() else {
            return Err(refuse("the chain is empty".into()));
        };
        let facts = Facts::read(leaf, self.state.settings.certificate).map_err(refuse)?;
        // TLS has proved that the client has the key, so the name is known even if it is refused.
        let principal = facts.principal();
        let claimed = principal.clone().ok();
        let refuse = |reason: String| Refusal {
            claimed: claimed.clone(),
            ..refuse(reason)
        };
        let Some(trust) = self.state.trusts.get(listener) else {
            return Err(refuse(format!(
                "the listener {listener:?} has no client CA"
            )));
        };
        let others: Vec<_> = others
            .iter()
            .map(|der| CertificateDer::from(der.as_ref()))
            .collect();
        let path = trust
            .validate(
                &CertificateDer::from(leaf.as_ref()),
                &others,
                self.attempt.now.wall,
            )
            .map_err(refuse)?;
        let principal = principal.map_err(refuse)?;
        let until = path.until;
        Ok(Accepted {
            identity: Identity {
                principal,
                roles: Arc::from([]),
                attributes: Arc::new(facts.attributes),
            },
            lease: Lease {
                until: Some(until),
                credential: certificate::Reference::new(&facts.fingerprint, path, listener)
                    .credential(),
            },
            data: None,
        })
    }

    fn required_certificate(&self) -> Result<Accepted, Refusal> {
        match self.attempt.certificate {
            Some(certificate) if self.at(Method::Certificate) => self.certificate(certificate),
            Some(_) => Err(bad(
                "jwt: auth.require asks for a certificate too, and the listener does not look at it"
                    .to_owned(),
            )),
            None => Err(bad(
                "jwt: auth.require asks for a certificate too, and there is none".to_owned(),
            )),
        }
    }
}

impl State {
    fn issuer(&self, name: &str) -> Option<&Arc<Issuer>> {
        self.issuers
            .iter()
            .find(|issuer| issuer.settings.name == name)
    }

    /// Puts the issuers into the order of the configuration.
    fn sort_issuers(&mut self) {
        let Self {
            issuers, settings, ..
        } = self;
        let place = |name: &str| {
            settings
                .issuers
                .iter()
                .position(|issuer| issuer.name == name)
        };
        issuers.sort_by_key(|issuer| place(&issuer.settings.name));
    }

    fn standing(&self, credential: &Credential, purpose: Use) -> Standing {
        let reference = &*credential.reference;
        let stands = match &*credential.method {
            certificate::Reference::METHOD => self.certificate_standing(reference, purpose),
            jwt::Reference::METHOD => {
                let (token, certificate) = match reference.split_once(BOTH) {
                    Some((token, certificate)) => (token, Some(certificate)),
                    None => (reference, None),
                };
                self.token_standing(token, purpose).and_then(|()| {
                    certificate.map_or(Ok(()), |text| self.certificate_standing(text, purpose))
                })
            }
            password::Reference::METHOD => match password::Reference::parse(reference) {
                Some(reference) => self.password_standing(&reference, purpose),
                None => Err(unreadable()),
            },
            "anonymous" => Ok(()),
            _ => return Standing::NotMine,
        };
        match stands {
            Ok(()) => Standing::Good,
            Err(why) => Standing::Revoked(why),
        }
    }

    fn certificate_standing(&self, text: &str, purpose: Use) -> Result<(), String> {
        let reference = certificate::Reference::parse(text).ok_or_else(unreadable)?;
        let check = |trust: &ClientTrust| {
            reference
                .links
                .iter()
                .try_for_each(|link| trust.revocation(link))
        };
        match purpose {
            Use::Live => {
                let trust = self
                    .trusts
                    .get(&reference.listener)
                    .filter(|trust| trust.knows(&reference.anchor))
                    .ok_or("the certificate's CA is no longer configured")?;
                check(trust)
            }
            // An author may have written through a listener that is gone, and a CA of the same name
            // elsewhere must not speak for this one; but where nobody knows the CA any more,
            // every list counts.
            Use::Stored => {
                let known = |trust: &&Arc<ClientTrust>| trust.knows(&reference.anchor);
                let anybody = self.trusts.values().any(|trust| known(&trust));
                self.trusts
                    .values()
                    .filter(|trust| !anybody || known(trust))
                    .try_for_each(|trust| check(trust))
            }
        }
    }

    fn token_standing(&self, text: &str, purpose: Use) -> Result<(), String> {
        let reference = jwt::Reference::parse(text).ok_or_else(unreadable)?;
        if purpose == Use::Stored {
            return Ok(());
        }
        let issuer = self
            .issuer(&reference.issuer)
            .ok_or_else(|| format!("the issuer {} is no longer configured", reference.issuer))?;
        if issuer.has_key(&reference.key) {
            Ok(())
        } else {
            Err(format!(
                "the key {} of issuer {} was withdrawn",
                reference.key, reference.issuer
            ))
        }
    }

    fn password_standing(
        &self,
        reference: &password::Reference,
        purpose: Use,
    ) -> Result<(), String> {
        let users = self
            .users
            .as_ref()
            .ok_or("there is no password file any more")?;
        let user = &*reference.user;
        match (users.line(user), purpose) {
            (None, _) => Err(format!("the user {user:?} was removed")),
            (Some(line), Use::Live) if line.digest != reference.digest => {
                Err(format!("the password of {user:?} was changed"))
            }
            (Some(_), Use::Live | Use::Stored) => Ok(()),
        }
    }
}

fn anonymous(listener: &str) -> Accepted {
    Accepted {
        identity: Identity::new(Principal::anonymous()),
        lease: Lease {
            until: None::<SystemTime>,
            credential: Credential::new("anonymous", &format!("listener={listener}")),
        },
        data: None,
    }
}

fn bad(reason: String) -> Refusal {
    Refusal::new(RefusalKind::BadCredential, reason)
}

fn unreadable() -> String {
    "the credential's reference cannot be read".to_owned()
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}
