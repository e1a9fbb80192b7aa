//! May it? Casbin policies, checked when they are loaded and compiled to topic decisions.
//!
//! A policy is a few CSV files in Casbin's language (`p` lines allow or deny, `g` lines give roles)
//! under the one shipped model. [`Policy::load`] checks every line and reports every mistake.
//! [`Acl`] answers the broker: concrete topics by a walk through a trie, filters by exact set
//! algebra over all topics that they match. Casbin itself is the reference for the language and for
//! decisions on concrete topics; it is never on the path of a message.
//!
//! Lines may have conditions (`cond`), which are evaluated when a client's grants are made; time
//! windows (`window`) open and close by [`Acl::tick`]. A candidate policy can be asked beside the
//! one in force (`shadow`), and a listener can learn (`learning`).
//!
//! Against whom: clients choose topics, filters, client ids and, within limits, names. Nothing of
//! that can widen a rule (`pattern`), cost more than a bounded walk (`trie`, `algebra`), or fill a
//! table (`compile`). People who write policies make mistakes; none of them may allow silently
//! (`row`, `roles`, `model`).
//!
//! Not here: who a client is (`portcullis-auth`), and carrying out the answers (the guard in
//! `portcullis-core`).

mod algebra;
mod compile;
mod cond;
mod csv;
mod error;
pub mod fuzzing;
mod learning;
mod load;
mod model;
mod pattern;
mod policy;
mod roles;
mod row;
mod shadow;
mod suggest;
pub mod tools;
mod trie;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use portcullis_core::hook::{Authorizer, Grants, Snapshot};

pub use algebra::cover;
pub use compile::ClientGrants;
pub use error::{PolicyError, PolicyWarning};
pub use learning::{Learned, Lesson, MAX_LEARNED};
pub use load::{Loaded, MAX_FILE, Source, Sources};
pub use model::MODEL;
pub use pattern::MAX_VALUE;
pub use policy::{Act, Counts, Effect, Policy};
pub use shadow::{Difference, MAX_DIFFERENCES, ShadowReport};

use compile::Compiled;
use learning::Lessons;
use shadow::Shadow;

/// The policy of the `quickstart` set-up, and its expectations, as in `policies/default`.
pub const DEFAULT_POLICY: &str = include_str!("../../policies/default/policy.csv");
/// What the default policy is expected to do; see [`tools::expect`].
pub const DEFAULT_TESTS: &str = include_str!("../../policies/default/tests.toml");

/// The authorizer: a policy that can be replaced while clients are connected.
#[derive(Debug)]
pub struct Acl {
    state: ArcSwap<State>,
    generation: AtomicU64,
    /// The time of the last [`Acl::tick`]. Whoever changes the state holds it.
    clock: Mutex<Option<SystemTime>>,
}

/// What is in force at one moment.
#[derive(Debug)]
struct State {
    active: Compiled,
    shadow: Option<Shadow>,
    lessons: Lessons,
    /// When it was put together.
    at: Option<SystemTime>,
}

impl Acl {
    /// Answers by this policy. No time window is known to be open before the first
    /// [`tick`](Self::tick).
    #[must_use]
    pub fn new(policy: impl Into<Arc<Policy>>) -> Self {
        Self {
            state: ArcSwap::from_pointee(State {
                active: Compiled::new(policy.into(), None),
                shadow: None,
                lessons: Lessons::default(),
                at: None,
            }),
            generation: AtomicU64::new(1),
            clock: Mutex::new(None),
        }
    }

    /// Answers by another policy from now on. Grants that were given out keep answering by the old
    /// one; the generation moves, so that they are fetched again. What was in force comes back. A
    /// candidate stays, and its count begins anew.
    pub fn replace(&self, policy: impl Into<Arc<Policy>>) -> Arc<Policy> {
        let clock = self.clock.lock();
        let old = self.state.load_full();
        let candidate = old.shadow.as_ref().map(|shadow| &shadow.candidate.policy);
        let shadow = candidate.map(|policy| Shadow {
            candidate: Compiled::new(Arc::clone(policy), *clock),
            differences: Arc::default(),
        });
        self.put(
            Compiled::new(policy.into(), *clock),
            shadow,
            &old.lessons,
            *clock,
        );
        Arc::clone(&old.active.policy)
    }

    /// Opens and closes time windows by the clock; whether any did. The generation then moves. Call
    /// it about once a second: that is how exact windows are.
    pub fn tick(&self, now: SystemTime) -> bool {
        let mut clock = self.clock.lock();
        *clock = Some(now);
        let old = self.state.load_full();
        let shadow = old.shadow.as_ref();
        let moved = old.active.is_stale(*clock)
            || old.lessons.running(old.at).count() != old.lessons.running(*clock).count()
            || shadow.is_some_and(|shadow| shadow.candidate.is_stale(*clock));
        if moved {
            let shadow = shadow.map(|shadow| Shadow {
                candidate: Compiled::new(Arc::clone(&shadow.candidate.policy), *clock),
                differences: Arc::clone(&shadow.differences),
            });
            self.put(
                Compiled::new(Arc::clone(&old.active.policy), *clock),
                shadow,
                &old.lessons,
                *clock,
            );
        }
        moved
    }

    /// Asks a candidate beside the policy in force from now on, or no longer; its count begins
    /// anew. It never decides.
    pub fn shadow(&self, candidate: Option<Arc<Policy>>) {
        let clock = self.clock.lock();
        let old = self.state.load_full();
        if candidate.is_none() && old.shadow.is_none() {
            return;
        }
        let shadow = candidate.map(|policy| Shadow {
            candidate: Compiled::new(policy, *clock),
            differences: Arc::default(),
        });
        self.put(
            Compiled::new(Arc::clone(&old.active.policy), *clock),
            shadow,
            &old.lessons,
            *clock,
        );
    }

    /// Lets listeners learn from now on, in place of those that did; what they noted is forgotten.
    ///
    /// # Errors
    ///
    /// A topic that is no filter; nothing changes then.
    pub fn teach(&self, lessons: Vec<Lesson>) -> Result<(), String> {
        let lessons = Lessons::new(lessons)?;
        let clock = self.clock.lock();
        let old = self.state.load_full();
        let lessons = lessons.after(&old.lessons);
        let shadow = old.shadow.as_ref().map(|shadow| Shadow {
            candidate: Compiled::new(Arc::clone(&shadow.candidate.policy), *clock),
            differences: Arc::clone(&shadow.differences),
        });
        self.put(
            Compiled::new(Arc::clone(&old.active.policy), *clock),
            shadow,
            &lessons,
            *clock,
        );
        Ok(())
    }

    /// The lessons that run.
    #[must_use]
    pub fn lessons(&self) -> Vec<Lesson> {
        let state = self.state.load();
        state.lessons.running(state.at).cloned().collect()
    }

    /// What was allowed by lessons alone, since this was last asked.
    #[must_use]
    pub fn learned(&self) -> Vec<Learned> {
        self.state.load().lessons.take()
    }

    /// Makes the candidate the policy in force; what was in force comes back. `None` without a
    /// candidate.
    pub fn promote(&self) -> Option<Arc<Policy>> {
        let clock = self.clock.lock();
        let old = self.state.load_full();
        let candidate = Arc::clone(&old.shadow.as_ref()?.candidate.policy);
        let candidate = Compiled::new(candidate, *clock);
        self.put(candidate, None, &old.lessons, *clock);
        Some(Arc::clone(&old.active.policy))
    }

    /// What the candidate would have answered differently; `None` without a candidate.
    #[must_use]
    pub fn differences(&self) -> Option<ShadowReport> {
        let state = self.state.load();
        let shadow = state.shadow.as_ref()?;
        Some(shadow.report(&state.active.policy))
    }

    /// How many answers of the candidate differed; 0 without a candidate.
    #[must_use]
    pub fn difference_count(&self) -> u64 {
        let state = self.state.load();
        state.shadow.as_ref().map_or(0, Shadow::total)
    }

    fn put(
        &self,
        active: Compiled,
        shadow: Option<Shadow>,
        lessons: &Lessons,
        at: Option<SystemTime>,
    ) {
        self.state.store(Arc::new(State {
            active,
            shadow,
            lessons: lessons.clone(),
            at,
        }));
        // After the swap: whoever sees the new number finds the new policy.
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.state.load().active.policy)
    }

    /// [`Authorizer::grants`] with its own type, by the policy in force alone.
    #[must_use]
    pub fn client_grants(&self, who: &Snapshot) -> Arc<ClientGrants> {
        self.state.load().active.grants(who)
    }
}

impl Authorizer for Acl {
    fn name(&self) -> &'static str {
        "casbin"
    }

    fn grants(&self, who: &Snapshot) -> Arc<dyn Grants> {
        let state = self.state.load();
        let own = state.active.grants(who);
        let active = state.lessons.widen(own, who, state.at);
        match &state.shadow {
            None => active,
            Some(shadow) => shadow.beside(active, who),
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}
