//! Tickets: the promise that an acknowledgement may be sent later.
//!
//! A publish that cannot be acknowledged at once - its record is not on disk yet, or a receiver's
//! queue is full - gets a [`Ticket`]. Whoever holds it up has a [`Hold`]; the ticket completes
//! when the last hold is dropped. So a session that ends, a queue that is trimmed or a store that
//! goes away can delay an acknowledgement but never forget it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

/// The publisher's side: asks whether the acknowledgement may go out.
#[derive(Debug, Clone)]
pub struct Ticket(Arc<Inner>);

/// The other side: as long as one exists, the ticket is open.
#[derive(Debug)]
pub struct Hold(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    holds: AtomicU32,
    failed: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// How a ticket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Somebody still holds it.
    Open,
    /// All took it.
    Complete,
    /// Somebody could not take it: it must not be acknowledged as a success.
    Failed,
}

impl Ticket {
    /// A ticket with its first hold.
    #[must_use]
    pub fn new() -> (Self, Hold) {
        let inner = Arc::new(Inner::default());
        inner.holds.store(1, Ordering::Relaxed);
        (Self(Arc::clone(&inner)), Hold(inner))
    }

    /// How it stands; if open, `waker` is woken when that changes.
    #[must_use]
    pub fn poll(&self, waker: Option<&Waker>) -> Progress {
        if let Some(waker) = waker {
            // Registered before the count is read, so that no completion is missed.
            let mut slot = self.0.waker.lock();
            if slot.as_ref().is_none_or(|known| !known.will_wake(waker)) {
                *slot = Some(waker.clone());
            }
        }
        if self.0.failed.load(Ordering::Acquire) {
            Progress::Failed
        } else if self.0.holds.load(Ordering::Acquire) == 0 {
            Progress::Complete
        } else {
            Progress::Open
        }
    }
}

impl Hold {
    /// Says that the message could not be taken; the publisher is told an error.
    pub fn fail(self) {
        self.0.failed.store(true, Ordering::Release);
    }
}

impl Clone for Hold {
    fn clone(&self) -> Self {
        self.0.holds.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.0.holds.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(waker) = self.0.waker.lock().take()
        {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_completes_with_its_last_hold() {
        let (ticket, hold) = Ticket::new();
        let second = hold.clone();
        drop(hold);
        assert_eq!(ticket.poll(None), Progress::Open);
        drop(second);
        assert_eq!(ticket.poll(None), Progress::Complete);
    }

    #[test]
    fn one_failure_fails_the_ticket() {
        let (ticket, hold) = Ticket::new();
        hold.clone().fail();
        assert_eq!(ticket.poll(None), Progress::Failed);
        drop(hold);
        assert_eq!(ticket.poll(None), Progress::Failed);
    }
}
