//! Wills that fire and sessions that expire: what happens to a session by the clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use crate::clock::Now;
use crate::guard;
use crate::hook::Event;

use super::share::rehome;
use super::{Engine, Routing, Session, Will};

/// When, and a number that tells deadlines of the same moment apart.
pub(super) type TimerKey = (u64, u64);

/// Deadlines of sessions without a connection, in milliseconds since the Unix epoch.
#[derive(Default)]
pub(super) struct Timers {
    due: BTreeMap<TimerKey, Timer>,
    count: u64,
}

struct Timer {
    session: Weak<Session>,
    /// The connection that ended; a later one calls the timer off.
    epoch: u64,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Will,
    Expiry,
}

impl Timers {
    pub(super) fn will(
        &mut self,
        millis: u64,
        delay: u32,
        session: &Arc<Session>,
        epoch: u64,
    ) -> TimerKey {
        self.add(millis, delay, session, epoch, What::Will)
    }

    pub(super) fn expiry(
        &mut self,
        millis: u64,
        expiry: u32,
        session: &Arc<Session>,
        epoch: u64,
    ) -> TimerKey {
        self.add(millis, expiry, session, epoch, What::Expiry)
    }

    /// A will that is due at this moment.
    pub(super) fn will_at(&mut self, due: u64, session: &Arc<Session>, epoch: u64) -> TimerKey {
        self.add(due, 0, session, epoch, What::Will)
    }

    /// A session that ends at this moment.
    pub(super) fn expiry_at(&mut self, due: u64, session: &Arc<Session>, epoch: u64) -> TimerKey {
        self.add(due, 0, session, epoch, What::Expiry)
    }

    /// Forgets deadlines of a session that goes on or has ended: a client that comes and goes
    /// leaves none behind.
    pub(super) fn call_off(&mut self, keys: &[TimerKey]) {
        for key in keys {
            self.due.remove(key);
        }
    }

    /// For tests of what is left behind.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    fn add(
        &mut self,
        millis: u64,
        seconds: u32,
        session: &Arc<Session>,
        epoch: u64,
        what: What,
    ) -> TimerKey {
        self.count += 1;
        let deadline = millis.saturating_add(u64::from(seconds) * 1000);
        let timer = Timer {
            session: Arc::downgrade(session),
            epoch,
            what,
        };
        let key = (deadline, self.count);
        self.due.insert(key, timer);
        key
    }

    fn next(&mut self, millis: u64) -> Option<Timer> {
        let first = self.due.first_entry()?;
        (first.key().0 <= millis).then(|| first.remove())
    }
}

impl Engine {
    pub(super) fn fire_timers(&self, now: Now) {
        loop {
            let Some(timer) = self.timers.lock().next(self.time(now)) else {
                return;
            };
            let Some(session) = timer.session.upgrade() else {
                continue;
            };
            let mut routing = self.routing(None, now);
            let (will, orphans) = {
                let mut registry = self.registry.lock();
                let mut state = session.lock();
                if state.epoch != timer.epoch || state.link.is_some() || state.ended {
                    continue;
                }
                let will = state.will.take();
                let mut orphans = Vec::new();
                if timer.what == What::Expiry {
                    orphans = self.end(&mut registry, &session, &mut state, &mut routing);
                }
                (will, orphans)
            };
            rehome(orphans, &session, None, &mut routing);
            if timer.what == What::Expiry {
                routing.session_ended(&session, "expired");
            }
            if let Some(will) = will {
                self.fire(&will, &mut routing);
                routing.will_is_over(&session, timer.epoch);
            }
        }
    }

    /// Publishes a will, if its author may still leave it.
    pub(super) fn fire(&self, will: &Will, routing: &mut Routing<'_>) {
        match guard::fire(
            &will.message,
            will.expiry,
            &self.modules,
            routing.now,
            routing.millis,
        ) {
            Ok(publication) => {
                self.publish(&publication, &mut None, routing);
                self.metrics.wills_published.inc();
                let event = Event::WillPublished {
                    who: publication.author.snapshot(),
                    topic: publication.topic.as_str(),
                };
                self.modules.observe(&event, routing.now);
            }
            Err(reason) => routing.withheld(&will.message, &reason),
        }
    }
}

impl Routing<'_> {
    /// A will was published: a restart does not publish it again.
    pub(super) fn will_is_over(&self, session: &Session, epoch: u64) {
        let mut state = session.lock();
        if state.epoch == epoch && !state.ended {
            let id = state.id;
            if let Some(away) = &mut state.away {
                away.will_at = None;
            }
            let _ = self.write(id, true, &mut |steps| steps.will_over(id));
        }
    }
}
