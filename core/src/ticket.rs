//! Tickets: the promise that an acknowledgement may be sent later.
//!
//! A publish that cannot be acknowledged at once - its record is not on disk yet, or a receiver's
//! queue is full - gets a [`Ticket`]. Whoever holds it up has a [`Hold`]; the ticket completes
//! when the last hold is dropped. So a session that ends, a queue that is trimmed or a store that
//! goes away can delay an acknowledgement but never forget it.
//!
//! A ticket may be shared by all who wait for the same thing, such as one write to the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Waker;

use hashbrown::HashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;

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
    wakers: Mutex<Wakers>,
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

    /// Whether it is the same ticket.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// How it stands; if open, `waker` is woken when that changes, as is everybody else's.
    #[must_use]
    pub fn poll(&self, waker: Option<&Waker>) -> Progress {
        let now = self.0.progress();
        match (now, waker) {
            (Progress::Open, Some(waker)) => {
                // Registered before the count is read again, so that no completion is missed.
                self.0.wakers.lock().register(waker);
                self.0.progress()
            }
            (Progress::Open | Progress::Complete | Progress::Failed, _) => now,
        }
    }
}

impl Inner {
    fn progress(&self) -> Progress {
        // The count first: whoever fails says so before it lets go, so what reads as let go is read
        // as failed too.
        let held = self.holds.load(Ordering::Acquire) > 0;
        if self.failed.load(Ordering::Acquire) {
            Progress::Failed
        } else if !held {
            Progress::Complete
        } else {
            Progress::Open
        }
    }

    fn wake(&self) {
        // Woken after the lock is given back: a waker may run anything.
        let wakers = std::mem::take(&mut *self.wakers.lock());
        wakers.wake();
    }
}

impl Hold {
    /// Says that the message could not be taken; the publisher is told an error.
    pub fn fail(self) {
        self.0.failed.store(true, Ordering::Release);
        self.0.wake();
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
        if self.0.holds.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.wake();
        }
    }
}

/// Who waits, each once however often it asks.
#[derive(Debug)]
enum Wakers {
    /// Searched from the front.
    Few(SmallVec<[Waker; 2]>),
    /// By the addresses that tell wakers apart ([`Waker::will_wake`]): ten thousand publishers may
    /// wait for one write.
    Many(HashMap<(usize, usize), Waker>),
}

/// Beyond this many, a search from the front costs more than a hash.
const FEW: usize = 16;

impl Default for Wakers {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl Wakers {
    fn register(&mut self, waker: &Waker) {
        match self {
            Self::Few(few) => {
                if few.iter().any(|known| known.will_wake(waker)) {
                    return;
                }
                if few.len() < FEW {
                    few.push(waker.clone());
                    return;
                }
                let all = few.drain(..).chain([waker.clone()]);
                *self = Self::Many(all.map(|waker| (address(&waker), waker)).collect());
            }
            Self::Many(many) => {
                many.entry(address(waker)).or_insert_with(|| waker.clone());
            }
        }
    }

    fn wake(self) {
        match self {
            Self::Few(few) => few.into_iter().for_each(Waker::wake),
            Self::Many(many) => many.into_values().for_each(Waker::wake),
        }
    }
}

/// Stays taken as long as the waker is kept, so two in one table never share it by accident.
fn address(waker: &Waker) -> (usize, usize) {
    let table: *const _ = waker.vtable();
    (waker.data().addr(), table.addr())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn waiters(count: usize) -> Vec<(Arc<Count>, Waker)> {
        let counts = (0..count).map(|_| Arc::new(Count(AtomicUsize::new(0))));
        counts.map(|c| (Arc::clone(&c), Waker::from(c))).collect()
    }

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

    /// Whoever asks while it fails sees it open or failed.
    #[test]
    fn a_ticket_that_fails_never_looks_complete() {
        const TICKETS: usize = 100_000;
        let (tickets, holds): (Vec<_>, Vec<_>) = (0..TICKETS).map(|_| Ticket::new()).unzip();
        let at = AtomicUsize::new(0);
        let complete = std::thread::scope(|scope| {
            scope.spawn(|| {
                for (number, hold) in holds.into_iter().enumerate() {
                    // Both come to the same ticket at the same time.
                    while at.load(Ordering::Acquire) < number {
                        std::hint::spin_loop();
                    }
                    hold.fail();
                }
            });
            let seen = tickets.iter().enumerate().map(|(number, ticket)| {
                at.store(number, Ordering::Release);
                std::iter::repeat_with(|| ticket.poll(None)).find(|seen| *seen != Progress::Open)
            });
            seen.filter(|seen| *seen != Some(Progress::Failed)).count()
        });
        assert_eq!(complete, 0, "of {TICKETS}");
    }

    #[test]
    fn every_waiter_is_woken_once_however_often_it_asked() {
        for count in [1, 2, FEW, FEW + 1, 1000] {
            let waiters = waiters(count);
            let (ticket, hold) = Ticket::new();
            for _ in 0..3 {
                for (_, waker) in &waiters {
                    assert_eq!(ticket.clone().poll(Some(waker)), Progress::Open);
                }
            }
            drop(hold);
            for (woken, waker) in &waiters {
                assert_eq!(woken.0.load(Ordering::Relaxed), 1, "of {count}");
                assert_eq!(ticket.poll(Some(waker)), Progress::Complete);
            }
        }
    }

    #[test]
    fn a_failure_wakes_at_once_though_others_still_hold() {
        let waiters = waiters(1);
        let (ticket, hold) = Ticket::new();
        for (woken, waker) in &waiters {
            assert_eq!(ticket.poll(Some(waker)), Progress::Open);
            hold.clone().fail();
            assert_eq!(woken.0.load(Ordering::Relaxed), 1);
            assert_eq!(ticket.poll(None), Progress::Failed);
        }
    }
}
