//! A principal with its present rights: the author of messages and the owner of subscriptions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::clock::Now;
use crate::hook::{Credential, Identity, Modules, Principal, Snapshot, Use};

use crate::journal::Mark;

use super::Rights;

/// Somebody whose rights can be asked for at any time: a connected client, the author of a
/// stored message, or the broker itself.
///
/// Rights are fetched once in each policy generation and shared by everything that the subject
/// left behind.
#[derive(Debug)]
pub struct Subject {
    snapshot: Snapshot,
    /// Where its connection comes from, beside the address.
    port: Option<u16>,
    rights: ArcSwap<Rights>,
    /// Its name in the journal.
    mark: Mark,
    /// The standing generation in which the author was last found in good standing, plus one.
    stood: AtomicU64,
}

impl Subject {
    /// A subject with the rights of this moment. `port`: of its connection.
    pub(crate) fn new(snapshot: Snapshot, port: Option<u16>, modules: &Modules) -> Arc<Self> {
        let rights = Arc::new(Rights::fetch(&snapshot, modules));
        Arc::new(Self {
            snapshot,
            port,
            rights: ArcSwap::new(rights),
            mark: Mark::default(),
            stood: AtomicU64::new(0),
        })
    }

    /// Somebody whom the journal tells of; the rights are fetched when they are asked for.
    pub(crate) fn recorded(snapshot: Snapshot) -> Arc<Self> {
        Arc::new(Self {
            snapshot,
            port: None,
            rights: ArcSwap::from_pointee(Rights::none()),
            mark: Mark::default(),
            stood: AtomicU64::new(0),
        })
    }

    /// A snapshot of nobody.
    pub(crate) fn nobody() -> Snapshot {
        Snapshot {
            identity: Identity::new(Principal::anonymous()),
            credential: Credential::new("", ""),
            client_id: "".into(),
            listener: "".into(),
            address: None,
        }
    }

    pub(crate) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// A part of the broker that publishes, `system:NAME`.
    pub(crate) fn system(name: &'static str, modules: &Modules) -> Arc<Self> {
        let snapshot = Snapshot {
            identity: Identity::new(Principal::system(name)),
            credential: Credential::new(Modules::SYSTEM, name),
            client_id: "".into(),
            listener: "".into(),
            address: None,
        };
        Self::new(snapshot, None, modules)
    }

    /// Who.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The principal.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        self.snapshot.principal()
    }

    /// Where its connection comes from; `None` over a Unix socket, and for whoever has none.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.snapshot.address?, self.port?))
    }

    /// The port of that.
    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }

    /// The rights of the present policy generation.
    pub(crate) fn rights(&self, modules: &Modules) -> Arc<Rights> {
        let rights = self.rights.load_full();
        if rights.generation == modules.policy_generation() {
            return rights;
        }
        let fresh = Arc::new(Rights::fetch(&self.snapshot, modules));
        self.rights.store(Arc::clone(&fresh));
        fresh
    }

    /// Whether bans and revocations leave this subject alone; the error says why not.
    pub(crate) fn stands(&self, purpose: Use, modules: &Modules, now: Now) -> Result<(), String> {
        // A good answer holds until something changes; a bad one is asked again, bans expire.
        let generation = modules.standing_generation().wrapping_add(1);
        if purpose == Use::Stored && self.stood.load(Ordering::Acquire) == generation {
            return Ok(());
        }
        if !modules.in_good_standing(&self.snapshot, now) {
            return Err("its author is banned".to_owned());
        }
        if let Some(reason) = modules.revoked(&self.snapshot, purpose) {
            return Err(reason);
        }
        if purpose == Use::Stored {
            self.stood.store(generation, Ordering::Release);
        }
        Ok(())
    }
}
