//! An issuer's keys from `jwks-url`.
//!
//! They are fetched in the background, every `jwks-refresh`. While that fails the old ones count
//! for `jwks-stale` longer; after that, and before the first answer, the issuer's tokens are
//! refused as unavailable. A token with a `kid` that nobody has seen makes the broker look at once,
//! so that a rotation needs no waiting; but strangers who invent names make it ask at most once in
//! [`RemoteKeys::FLOOR`], and for the same name once in [`RemoteKeys::UNKNOWN`].

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::Algorithm;
use parking_lot::Mutex;

use crate::bounded::Bounded;
use crate::fetch::{Ask, Client};
use crate::keys::{self, Keys};
use crate::{Ends, Error, JwksUrl};

/// When something is fetched again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Schedule {
    tried: Option<Instant>,
    failures: u32,
}

impl Schedule {
    /// Whether it is time: every `refresh`, after failures sooner, but never within `floor`.
    pub(crate) fn is_due(self, now: Instant, refresh: Duration, floor: Duration) -> bool {
        let wait = match self.failures {
            0 => refresh,
            failures => floor
                .saturating_mul(1 << (failures - 1).min(10))
                .min(refresh),
        };
        self.tried
            .is_none_or(|tried| now.saturating_duration_since(tried) >= wait.max(floor))
    }

    /// Whether the last try was less than `floor` ago.
    fn is_recent(self, now: Instant, floor: Duration) -> bool {
        self.tried
            .is_some_and(|tried| now.saturating_duration_since(tried) < floor)
    }

    pub(crate) fn tried(&mut self, now: Instant) {
        self.tried = Some(now);
    }

    pub(crate) fn ended(&mut self, well: bool) {
        self.failures = if well {
            0
        } else {
            self.failures.saturating_add(1)
        };
    }
}

/// Keys from an address.
pub(crate) struct RemoteKeys {
    settings: JwksUrl,
    algorithms: Vec<Algorithm>,
    client: Client,
    state: Mutex<State>,
    /// Held while fetching; whoever waits for it finds the answer.
    fetching: tokio::sync::Mutex<()>,
    /// Names that the issuer does not have.
    unknown: Bounded<Box<str>, ()>,
}

#[derive(Clone, Default)]
struct State {
    keys: Option<(Arc<Keys>, Instant)>,
    schedule: Schedule,
}

impl RemoteKeys {
    /// Least time between two requests.
    pub(crate) const FLOOR: Duration = Duration::from_secs(10);
    /// How long a name that the issuer does not have is not asked about again.
    pub(crate) const UNKNOWN: Duration = Duration::from_mins(5);
    /// Such names remembered.
    const NAMES: usize = 1024;

    /// # Errors
    ///
    /// A broken file of the connection.
    pub(crate) fn new(settings: &JwksUrl, algorithms: &[Algorithm]) -> Result<Self, Error> {
        Ok(Self {
            settings: settings.clone(),
            algorithms: algorithms.to_vec(),
            client: Client::new(&settings.connection, &settings.url)?,
            state: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            unknown: Bounded::new(Self::NAMES),
        })
    }

    /// When the certificate that is shown to the server ends.
    pub(crate) fn ends(&self) -> Option<Ends> {
        self.client.ends().cloned()
    }

    /// Takes over what `old` has from the same address for the same algorithms. It is fetched
    /// again at once all the same: somebody who reloads wants the present keys.
    pub(crate) fn inherit(&self, old: &Self) {
        if old.settings.url == self.settings.url && old.algorithms == self.algorithms {
            let keys = old.state.lock().keys.clone();
            self.state.lock().keys = keys;
        }
    }

    /// The keys, if they are recent enough.
    ///
    /// # Errors
    ///
    /// Why there are none.
    pub(crate) fn keys(&self, now: Instant) -> Result<Arc<Keys>, String> {
        let url = &self.settings.url;
        match &self.state.lock().keys {
            None => Err(format!("its keys were not fetched yet from {url}")),
            Some((keys, fetched)) => {
                let age = now.saturating_duration_since(*fetched);
                if age <= self.settings.refresh.saturating_add(self.settings.stale) {
                    Ok(Arc::clone(keys))
                } else {
                    Err(format!(
                        "its keys are {} s old, and {url} gives no new ones (jwks-stale)",
                        age.as_secs()
                    ))
                }
            }
        }
    }

    /// The keys that were fetched last, however old.
    pub(crate) fn last(&self) -> Option<Arc<Keys>> {
        let state = self.state.lock();
        state.keys.as_ref().map(|(keys, _)| Arc::clone(keys))
    }

    /// Whether it is time to fetch.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let schedule = self.state.lock().schedule;
        schedule.is_due(now, self.settings.refresh, Self::FLOOR)
    }

    /// Fetches if it is time. Gives whether there are other keys now.
    ///
    /// # Errors
    ///
    /// No answer, or one without usable keys; the old ones stay.
    pub(crate) async fn refresh(&self, now: Instant) -> Result<bool, String> {
        let _fetching = self.fetching.lock().await;
        if self.is_due(now) {
            self.fetch(now).await
        } else {
            Ok(false)
        }
    }

    /// Sees to it that the keys for a token with this `kid` are there, if they can be. Gives
    /// whether there are other keys now.
    pub(crate) async fn look_for(&self, kid: Option<&str>, now: Instant) -> bool {
        let is_there = || match (self.last(), kid) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(keys), Some(kid)) => keys.names(kid),
        };
        let known_unknown = || {
            self.last().is_some()
                && kid.is_some_and(|kid| self.unknown.get(&kid.into(), now).is_some())
        };
        if is_there() || known_unknown() {
            return false;
        }
        let _fetching = self.fetching.lock().await;
        let recent = self.state.lock().schedule.is_recent(now, Self::FLOOR);
        let mut changed = false;
        if !is_there() && !recent {
            changed = self.fetch(now).await.unwrap_or_else(|why| {
                tracing::warn!("jwks-url: {why}");
                false
            });
            if let Some(kid) = kid
                && !is_there()
            {
                let until = now + Self::UNKNOWN;
                self.unknown.insert(kid.into(), (), until, now);
            }
        }
        changed
    }

    async fn fetch(&self, now: Instant) -> Result<bool, String> {
        self.state.lock().schedule.tried(now);
        let found = self.ask().await;
        let mut state = self.state.lock();
        state.schedule.ended(found.is_ok());
        let keys = found?;
        let same = state.keys.as_ref().is_some_and(|(old, _)| old.same(&keys));
        if !same {
            self.unknown.clear();
        }
        state.keys = Some((Arc::new(keys), now));
        Ok(!same)
    }

    async fn ask(&self) -> Result<Keys, String> {
        let url = &self.settings.url;
        let ask = Ask {
            url,
            accept: "application/jwk-set+json, application/json",
            content: None,
            authorization: None,
            limit: usize::try_from(keys::MAX_FILE).unwrap_or(usize::MAX),
        };
        let bytes = self
            .client
            .send(ask)
            .await
            .map_err(|failure| failure.to_string())?;
        let (keys, warnings) = Keys::from_jwks(Path::new(url.as_str()), &bytes, &self.algorithms)
            .map_err(|error| error.to_string())?;
        for warning in warnings {
            tracing::debug!("{warning}");
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_followed_sooner_but_never_at_once() {
        let (start, refresh, floor) = (
            Instant::now(),
            Duration::from_mins(10),
            Duration::from_secs(10),
        );
        let mut schedule = Schedule::default();
        let due = |schedule: Schedule, seconds| {
            schedule.is_due(start + Duration::from_secs(seconds), refresh, floor)
        };
        assert!(due(schedule, 0));
        schedule.tried(start);
        schedule.ended(true);
        assert!(!due(schedule, 599) && due(schedule, 600));
        for wait in [10, 20, 40, 80, 160, 320, 600, 600] {
            schedule.ended(false);
            assert!(!due(schedule, wait - 1) && due(schedule, wait), "{wait}");
        }
    }
}
