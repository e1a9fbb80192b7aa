//! May it? Casbin policies, checked when they are loaded and compiled to topic decisions.
//!
//! A policy is a few CSV files in Casbin's language (`p` lines allow or deny, `g` lines give roles)
//! under the one shipped model. [`Policy::load`] checks every line and reports every mistake.
//! [`Acl`] answers the broker: concrete topics by a walk through a trie, filters by exact set
//! algebra over all topics that they match. Casbin itself is the reference for the language and for
//! decisions on concrete topics; it is never on the path of a message.
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
mod csv;
mod error;
mod load;
mod model;
mod pattern;
mod policy;
mod roles;
mod row;
mod suggest;
pub mod tools;
mod trie;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use portcullis_core::hook::{Authorizer, Grants, Snapshot};

pub use algebra::cover;
pub use compile::ClientGrants;
pub use error::{PolicyError, PolicyWarning};
pub use load::{Loaded, Source, Sources};
pub use model::MODEL;
pub use pattern::MAX_VALUE;
pub use policy::{Act, Counts, Effect, Policy};

use compile::Compiled;

/// The policy of the `quickstart` set-up, and its expectations, as in `policies/default`.
pub const DEFAULT_POLICY: &str = include_str!("../../policies/default/policy.csv");
/// What the default policy is expected to do; see [`tools::expect`].
pub const DEFAULT_TESTS: &str = include_str!("../../policies/default/tests.toml");

/// The authorizer: a policy that can be replaced while clients are connected.
#[derive(Debug)]
pub struct Acl {
    current: ArcSwap<Compiled>,
    generation: AtomicU64,
}

impl Acl {
    /// Answers by this policy.
    #[must_use]
    pub fn new(policy: impl Into<Arc<Policy>>) -> Self {
        Self {
            current: ArcSwap::from_pointee(Compiled::new(policy.into())),
            generation: AtomicU64::new(1),
        }
    }

    /// Answers by another policy from now on. Grants that were given out keep answering by the old
    /// one; the generation moves, so that they are fetched again. What was in force comes back.
    pub fn replace(&self, policy: impl Into<Arc<Policy>>) -> Arc<Policy> {
        let old = self.current.swap(Arc::new(Compiled::new(policy.into())));
        // After the swap: whoever sees the new number finds the new policy.
        self.generation.fetch_add(1, Ordering::Release);
        Arc::clone(&old.policy)
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.current.load().policy)
    }

    /// [`Authorizer::grants`] with its own type.
    #[must_use]
    pub fn client_grants(&self, who: &Snapshot) -> Arc<ClientGrants> {
        self.current.load().grants(who)
    }
}

impl Authorizer for Acl {
    fn name(&self) -> &'static str {
        "casbin"
    }

    fn grants(&self, who: &Snapshot) -> Arc<dyn Grants> {
        self.client_grants(who)
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}
