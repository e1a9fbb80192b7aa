//! Which credential counts, and does it still stand?
//!
//! The order (identity rules of `docs/authentication.md`): 5.0 Authentication Method, password,
//! WebSocket bearer token, certificate, nothing. The first that is present *and* looked at by the
//! listener is judged, and its verdict is final.
//!
//! Each unit (the password file, each issuer's keys, each listener's CAs and CRLs) is swapped by
//! itself; a broken new one leaves the old one in place. Whatever was accepted is asked about again
//! by its [`Credential`] when [`generation`](Authenticator::generation) has moved.

mod judge;
mod load;
mod looked;
mod standing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use portcullis_core::clock::Now;
use portcullis_core::hook::{
    Accepted, Attempt, Authenticator, BoxFuture, Credential, Identity, Lease, Outcome, Principal,
    Refusal, RefusalKind, Standing, Use,
};
use portcullis_core::secret::Secret;
use tokio::task::JoinSet;

use crate::bounded::Bounded;
use crate::deny::Denied;
use crate::ends::Reminder;
use crate::exchange::Exchanges;
use crate::guess::Guesses;
use crate::introspection::Introspector;
use crate::jwt::Issuer;
use crate::password::{self, Hasher, Users};
use crate::tls::Loaded;
use crate::webhook::Webhook;
use crate::{ClientTrust, Ends, Error, Expiry, Link, Part, Settings};
use looked::First;
pub(crate) use looked::Looked;

/// Between two looks at what is due.
const PAUSE: Duration = Duration::from_secs(1);

/// Between the reference of a token and that of the certificate that was needed with it.
const BOTH: &str = " with ";
/// Tokens that may be used once at a time, remembered.
const TOKENS: usize = 1 << 17;

/// The authenticator of the configuration. Put it last in a chain: it never passes a client on.
pub struct Desk {
    state: ArcSwap<State>,
    /// Held by whoever swaps the state, so that two reloads do not lose one.
    changing: Mutex<()>,
    pub(crate) hasher: Hasher,
    pub(crate) exchanges: Exchanges,
    pub(crate) guesses: Guesses,
    /// Which use of a token is the present one, by a hash of issuer and `jti`.
    uses: Bounded<Box<str>, u64>,
    next_use: AtomicU64,
    generation: AtomicU64,
    ignored_roles: AtomicU64,
    reminder: Mutex<Reminder>,
}

#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) settings: Settings,
    /// Who is asked, in order.
    chain: Vec<Link>,
    pub(crate) users: Option<Arc<Users>>,
    issuers: Vec<Arc<Issuer>>,
    introspectors: Vec<Arc<Introspector>>,
    webhooks: Vec<Arc<Webhook>>,
    denied: Option<Arc<Denied>>,
    trusts: BTreeMap<Box<str>, Arc<ClientTrust>>,
    /// When the listeners' own certificates end.
    servers: BTreeMap<Box<str>, Vec<Ends>>,
}

/// What came of reloading or fetching one unit.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// `configuration`, `password-file`, `deny-fingerprints`, `issuer NAME`, `introspection NAME`,
    /// `webhook NAME` or `crl-url URL`.
    pub unit: String,
    /// Why the old one was kept.
    pub error: Option<Error>,
}

impl Desk {
    /// Loads everything that `settings` name. CAs come with [`set_trust`](Self::set_trust), what is
    /// fetched with [`start`](Self::start). The texts are warnings.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, so that it can be mended in one go.
    pub fn open(settings: Settings) -> Result<(Self, Vec<String>), Vec<Error>> {
        settings.check().map_err(|error| vec![error])?;
        let hasher = Hasher::new().map_err(|error| vec![error])?;
        let mut warnings = Vec::new();
        let (state, units) = State::load(settings, &State::default(), &mut warnings);
        let errors: Vec<_> = units.into_iter().filter_map(|unit| unit.error).collect();
        if !errors.is_empty() {
            return Err(errors);
        }
        let desk = Self {
            state: ArcSwap::from_pointee(state),
            changing: Mutex::new(()),
            hasher,
            exchanges: Exchanges::new(),
            guesses: Guesses::new(),
            uses: Bounded::new(TOKENS),
            next_use: AtomicU64::new(0),
            generation: AtomicU64::new(1),
            ignored_roles: AtomicU64::new(0),
            reminder: Mutex::default(),
        };
        Ok((desk, warnings))
    }

    /// Takes what a listener's files say; [`tls::load`](crate::tls::load) has read them.
    pub fn set_listener(&self, listener: &str, loaded: &Loaded) {
        self.set_trust(listener, loaded.trust.clone());
        self.change(|state| {
            let ends = loaded.ends.clone();
            drop(state.servers.insert(listener.into(), ends));
        });
    }

    /// Sets (or with `None` removes) a listener's client CAs and CRLs, so that handshakes and this
    /// desk go by the same. CRLs that were fetched for the old ones are kept.
    pub fn set_trust(&self, listener: &str, trust: Option<Arc<ClientTrust>>) {
        self.change(|state| match trust {
            Some(trust) => {
                if let Some(old) = state.trusts.get(listener) {
                    trust.inherit(old);
                }
                drop(state.trusts.insert(listener.into(), trust));
            }
            None => drop(state.trusts.remove(listener)),
        });
    }

    /// When the listeners' certificates, client CAs and revocation lists end, and the certificates
    /// that the broker shows to servers, as they are now.
    #[must_use]
    pub fn expiries(&self) -> Vec<Expiry> {
        let state = self.state.load();
        let mut expiries = Vec::new();
        let mut add = |part: Part, name: &str, ends: Vec<Ends>| {
            expiries.extend(ends.into_iter().map(|ends| Expiry {
                part,
                name: name.into(),
                ends,
            }));
        };
        for (name, ends) in &state.servers {
            add(Part::Listener, name, ends.clone());
        }
        for (name, trust) in &state.trusts {
            add(Part::Listener, name, trust.ends());
        }
        for issuer in &state.issuers {
            let ends = issuer.remote().and_then(|keys| keys.ends());
            add(Part::Issuer, &issuer.settings.name, Vec::from_iter(ends));
        }
        for server in &state.introspectors {
            let ends = Vec::from_iter(server.ends());
            add(Part::Introspection, &server.settings.name, ends);
        }
        for webhook in &state.webhooks {
            let ends = Vec::from_iter(webhook.ends());
            add(Part::Webhook, &webhook.settings.name, ends);
        }
        expiries
    }

    /// Warnings of [`expiries`](Self::expiries) that are near at `now`, or over: each is said once 30, 7
    /// and 1 days before, and then daily. To be asked now and then.
    pub fn reminders(&self, now: SystemTime) -> Vec<String> {
        let expiries = self.expiries();
        self.reminder.lock().due(expiries, now)
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
        let mut issuers = state.settings.issuers.iter();
        let Some(settings) = issuers.find(|issuer| issuer.name == name) else {
            return Err(Error::setting(
                format!("auth.jwt: there is no issuer {name:?}"),
                "check the name",
            ));
        };
        let old = state.issuer(name);
        let (issuer, warnings) = Issuer::load(settings, old.map(Arc::as_ref))?;
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
        let mut warnings = Vec::new();
        let (next, units) = State::load(settings, &old, &mut warnings);
        warn(&warnings);
        self.swap(next);
        units
    }

    /// Fetches in the background whatever is to be fetched: keys from `jwks-url`, lists from
    /// `crl-url`. Ends with the desk.
    pub fn start(self: &Arc<Self>, runtime: &tokio::runtime::Handle) {
        let desk = Arc::downgrade(self);
        runtime.spawn(async move {
            while let Some(desk) = desk.upgrade() {
                for unit in desk.refresh(Now::read()).await {
                    match unit.error {
                        None => tracing::debug!(unit = unit.unit, "fetched"),
                        Some(error) => tracing::warn!(unit = unit.unit, "not fetched: {error}"),
                    }
                }
                drop(desk);
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    /// Fetches what is due at `now`; [`start`](Self::start) does so again and again. Servers that
    /// are slow do not wait for each other.
    pub async fn refresh(&self, now: Now) -> Vec<Reloaded> {
        let state = self.state.load_full();
        let mut fetching = JoinSet::new();
        for issuer in &state.issuers {
            let Some(remote) = issuer.remote().filter(|remote| remote.is_due(now.mono)) else {
                continue;
            };
            let (remote, unit) = (
                Arc::clone(remote),
                format!("issuer {}", issuer.settings.name),
            );
            fetching.spawn(async move { (unit, remote.refresh(now.mono).await) });
        }
        for trust in state.trusts.values() {
            for list in trust.due(now.mono) {
                let (trust, unit) = (Arc::clone(trust), format!("crl-url {}", list.url()));
                fetching.spawn(async move { (unit, trust.refresh(&list, now).await) });
            }
        }
        let mut units = Vec::new();
        while let Some(fetched) = fetching.join_next().await {
            let Ok((unit, result)) = fetched else {
                continue; // It panicked; the next round tries again.
            };
            if matches!(result, Ok(true)) {
                self.moved();
            }
            let error = result
                .err()
                .map(|why| Error::setting(why, "see to it that the server answers"));
            units.push(Reloaded { unit, error });
        }
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
        self.moved();
    }

    /// After what has changed: who sees the new number sees the new state.
    fn moved(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    async fn judge(&self, attempt: &Attempt<'_>) -> Outcome {
        let state = self.state.load_full();
        let looked = Looked {
            attempt,
            state: &state,
        };
        // In boxes, since each needs memory for what takes long: others are judged at once.
        if let Some((method, data)) = attempt.enhanced {
            let exchange = self.exchange(&looked, method, data.map(Secret::expose));
            return Box::pin(exchange).await;
        }
        let judged = match looked.first() {
            Ok(First::Token(token)) => Box::pin(self.token(&looked, token, None)).await,
            Ok(First::Password(password)) => Box::pin(self.password(&looked, password)).await,
            Ok(First::Certificate(certificate)) => looked.certificate(certificate),
            Ok(First::Nothing) => Ok(anonymous(attempt.listener)),
            Err(refusal) => Err(refusal),
        };
        judged.map_or_else(Outcome::Refused, Outcome::Accepted)
    }

    /// A user who knew the password of this line.
    ///
    /// # Errors
    ///
    /// The file has changed meanwhile: hashing, or a client, took its time.
    pub(crate) fn user(
        &self,
        principal: Principal,
        reference: &password::Reference,
    ) -> Result<Accepted, String> {
        self.state.load().password_standing(reference, Use::Live)?;
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
        Box::pin(self.judge(attempt))
    }

    fn standing(&self, credential: &Credential, purpose: Use) -> Standing {
        self.state
            .load()
            .standing(credential, purpose, &|once| self.is_present(once))
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
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

pub(crate) fn bad(reason: String) -> Refusal {
    Refusal::new(RefusalKind::BadCredential, reason)
}

pub(crate) fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}
