//! Verifying passwords: off the I/O threads, a few at a time, with the same work for everybody.
//!
//! A stranger who sends passwords as fast as he can occupies at most [`Hasher::SLOTS`] threads, and
//! at most [`Slots::QUEUE`] requests wait. After a network outage thousands of devices return at
//! once; a password that was right before is recognised by an HMAC, without hashing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use argon2::{Algorithm, Argon2, Version};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use portcullis_core::hook::StopClock;
use subtle::ConstantTimeEq as _;
use tokio::sync::OwnedSemaphorePermit;
use zeroize::Zeroizing;

use super::{Line, Users};
use crate::Error;
use crate::slots::Slots;

/// Verifies passwords.
pub(crate) struct Hasher {
    slots: Slots,
    key: hmac::Key,
    /// Hashes computed; for metrics and for tests that count work instead of time.
    hashes: Arc<AtomicU64>,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Right; the line's digest.
    Right(Box<str>),
    /// Wrong: the reason is for the operator.
    Wrong(&'static str),
    /// No such user.
    Stranger(&'static str),
    /// Cannot be said now.
    Unavailable(&'static str),
}

impl Hasher {
    /// Most hashes at a time, each with its memory; fewer where there are fewer cores.
    const SLOTS: usize = 4;

    /// # Errors
    ///
    /// The random source of the system fails.
    pub(crate) fn new() -> Result<Self, Error> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| Error::setting("no random key could be made", "try again"))?;
        Ok(Self {
            slots: Slots::new(cores.min(Self::SLOTS)),
            key,
            hashes: Arc::default(),
        })
    }

    /// A key of this process.
    pub(crate) fn key(&self) -> &hmac::Key {
        &self.key
    }

    /// Hashes computed so far.
    pub(crate) fn hashes(&self) -> u64 {
        self.hashes.load(Ordering::Relaxed)
    }

    /// Whether this is the user's password. An unknown user costs what a wrong password does.
    /// While it waits for a slot, `clock` is stopped.
    pub(crate) async fn check(
        &self,
        users: &Users,
        (user, password): (&str, &[u8]),
        clock: &StopClock,
    ) -> Check {
        let known = users.line(user).cloned();
        let line = known.as_ref().unwrap_or(&users.stranger);
        let tag = self.tag(line, password);
        if line.remembers(&tag) {
            return Check::Right(line.digest.clone());
        }
        let Some((slot, _)) = self.slots.turn(clock).await else {
            return Check::Unavailable("too many passwords wait to be verified");
        };
        // Clients that share a user come back together: what one of them has just proved need not
        // be hashed for each.
        if line.remembers(&tag) {
            return Check::Right(line.digest.clone());
        }
        match self.hash(slot, line, password).await {
            Err(why) => Check::Unavailable(why),
            Ok(fits) => match (known, fits) {
                (Some(line), true) => {
                    *line.remembered.lock() = Some(tag);
                    Check::Right(line.digest.clone())
                }
                (Some(_), false) => Check::Wrong("the password is wrong"),
                (None, _) => Check::Stranger("there is no such user in the password file"),
            },
        }
    }

    async fn hash(
        &self,
        slot: OwnedSemaphorePermit,
        line: &Arc<Line>,
        password: &[u8],
    ) -> Result<bool, &'static str> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| "there is no runtime to hash passwords on")?;
        let line = Arc::clone(line);
        let hashes = Arc::clone(&self.hashes);
        let password = Zeroizing::new(password.to_vec());
        runtime
            .spawn_blocking(move || {
                // The slot is held by the work, not by the one who asks: a client that hangs up
                // does not make room for a second hash.
                let _slot = slot;
                hashes.fetch_add(1, Ordering::Relaxed);
                line.fits(&password)
            })
            .await
            .map_err(|_| "password verification failed")
    }

    fn tag(&self, line: &Line, password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        // The digest has a fixed length, so the two cannot run into each other.
        context.update(line.digest.as_bytes());
        context.update(password);
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

impl Line {
    /// Whether this is the tag of the password that was right the last time.
    fn remembers(&self, tag: &[u8; 32]) -> bool {
        let remembered = *self.remembered.lock();
        remembered.is_some_and(|before| before.ct_eq(tag).into())
    }

    fn fits(&self, password: &[u8]) -> bool {
        let Some(params) = self.cost.params(self.hash.len()) else {
            return false;
        };
        let mut output = Zeroizing::new(vec![0; self.hash.len()]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password, &self.salt, &mut output)
            .is_ok_and(|()| output.ct_eq(&self.hash).into())
    }
}
