//! Turns at something that only so many may do at a time.
//!
//! Who waits for a turn is not to blame for it: the clock of the attempt stands still meanwhile, for
//! two minutes at most (`hook::StopClock`). So that strangers cannot hold sockets by it without end,
//! only so many wait; one more is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portcullis_core::hook::StopClock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// So many at a time, and so many who wait.
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
}

impl Slots {
    /// Most who wait.
    pub(crate) const QUEUE: usize = 4096;

    pub(crate) fn new(at_a_time: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(at_a_time)),
            waiting: AtomicUsize::new(0),
            queue: Self::QUEUE,
        }
    }

    /// A turn, and how long it took to come; `None`: too many wait. Meanwhile `clock` is stopped.
    pub(crate) async fn turn(&self, clock: &StopClock) -> Option<(OwnedSemaphorePermit, Duration)> {
        if let Ok(slot) = Arc::clone(&self.free).try_acquire_owned() {
            return Some((slot, Duration::ZERO));
        }
        let _place = Place::take(&self.waiting, self.queue)?;
        let _stopped = clock.stop();
        let since = Instant::now();
        // It is never closed.
        let slot = Arc::clone(&self.free).acquire_owned().await.ok()?;
        Some((slot, since.elapsed()))
    }
}

/// A place in the queue, given back when dropped.
pub(crate) struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    pub(crate) fn take(waiting: &'a AtomicUsize, limit: usize) -> Option<Self> {
        // The place first: it is given back if it is one too many.
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(waiting);
        (before < limit).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_and_so_many_wait_and_no_more() {
        let clock = StopClock::new(Duration::from_secs(10));
        let slots = Slots {
            queue: 1,
            ..Slots::new(1)
        };
        let first = slots.turn(&clock).await.unwrap();
        let second = slots.turn(&clock);
        tokio::pin!(second);
        let soon = tokio::time::timeout(Duration::from_secs(7), &mut second).await;
        assert!(soon.is_err(), "there is one slot");
        assert!(slots.turn(&clock).await.is_none(), "and one place");
        drop(first);
        let (slot, waited) = second.await.unwrap();
        assert_eq!(waited, Duration::from_secs(7));
        drop(slot);
        assert!(slots.turn(&clock).await.is_some());
        assert_eq!(slots.waiting.load(Ordering::Relaxed), 0);
    }
}
