//! Whose sessions they are: principals, with what waits for all sessions of each together.
//!
//! A principal may have many sessions, and each has a queue. So that one principal cannot fill the
//! memory of all, its queues are bounded together, too. What a session that is there holds
//! publishers back for does not count (they wait for it, and it is theirs), nor does its page of a
//! walk over retained messages; when its client goes, both do.
//!
//! The counters are changed under the lock of the session that a message waits for, and read by the
//! others without one: the bound may be exceeded by what threads deliver at the same moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::hook::Principal;

use super::{Registry, Session};

/// A principal that has sessions; shared by them and their queues.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) principal: Principal,
    /// Changed under the registry's lock.
    sessions: AtomicUsize,
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

/// So many messages, and their weight in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Owner {
    pub(super) fn new(principal: Principal) -> Arc<Self> {
        Arc::new(Self {
            principal,
            sessions: AtomicUsize::new(0),
            messages: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        })
    }

    /// What waits for its sessions.
    pub(super) fn waiting(&self) -> Amount {
        Amount {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// One more message waits.
    pub(super) fn count(&self, weight: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(weight, Ordering::Relaxed);
    }

    /// So much waits no longer.
    pub(super) fn discount(&self, gone: Amount) {
        self.messages.fetch_sub(gone.messages, Ordering::Relaxed);
        self.bytes.fetch_sub(gone.bytes, Ordering::Relaxed);
    }
}

impl Registry {
    /// The owner of a principal's sessions, and how many there are.
    pub(super) fn owner(&self, principal: &Principal) -> (Arc<Owner>, usize) {
        match self.owned.get(principal) {
            Some(owner) => (Arc::clone(owner), owner.sessions.load(Ordering::Relaxed)),
            None => (Owner::new(principal.clone()), 0),
        }
    }

    /// A session begins.
    pub(super) fn insert(&mut self, session: &Arc<Session>) {
        let owner = &session.owner;
        if owner.sessions.fetch_add(1, Ordering::Relaxed) == 0 {
            self.owned
                .insert(owner.principal.clone(), Arc::clone(owner));
        }
        self.sessions
            .insert(Arc::clone(&session.client_id), Arc::clone(session));
    }

    /// A session has ended.
    pub(super) fn remove(&mut self, session: &Session) {
        self.sessions.remove(&session.client_id);
        if session.owner.sessions.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.owned.remove(&session.owner.principal);
        }
    }
}

/// What is counted, and what is there to count.
#[cfg(test)]
pub(crate) struct Count {
    pub(crate) principal: Principal,
    /// Messages and bytes.
    pub(crate) counted: (usize, usize),
    /// The same, looked up in every queue.
    pub(crate) there: (usize, usize),
}

#[cfg(test)]
impl super::Engine {
    /// For tests that nothing is miscounted.
    pub(crate) fn counts(&self) -> Vec<Count> {
        let registry = self.registry.lock();
        let count = |owner: &Arc<Owner>| {
            let mine = |session: &&Arc<Session>| Arc::ptr_eq(&session.owner, owner);
            let sessions: Vec<_> = registry.sessions.values().filter(mine).collect();
            assert_eq!(owner.sessions.load(Ordering::Relaxed), sessions.len());
            let there = sessions.iter().map(|session| {
                let state = session.lock();
                let there = state.queue.counted();
                assert!(state.link.is_some() || there.messages == state.queue.len());
                (there.messages, there.bytes)
            });
            let waiting = owner.waiting();
            Count {
                principal: owner.principal.clone(),
                counted: (waiting.messages, waiting.bytes),
                there: there.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1)),
            }
        };
        registry.owned.values().map(count).collect()
    }
}
