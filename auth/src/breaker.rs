//! A circuit breaker: a server that does not answer is left alone for a while, so that clients are
//! refused at once rather than after a time-out each.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Closed until [`Breaker::FAILURES`] requests have failed one after the other; then open for
/// [`Breaker::OPEN`], after which one request tries.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<Circuit>);

#[derive(Debug, Default)]
struct Circuit {
    failures: u32,
    open_until: Option<Instant>,
}

impl Breaker {
    const FAILURES: u32 = 5;
    const OPEN: Duration = Duration::from_secs(10);

    /// Whether a request may be sent at `now`.
    pub(crate) fn allows(&self, now: Instant) -> bool {
        let mut circuit = self.0.lock();
        match circuit.open_until {
            Some(until) if now < until => false,
            Some(_) => {
                // This one tries; the others wait for what comes of it.
                circuit.open_until = Some(now + Self::OPEN);
                true
            }
            None => true,
        }
    }

    /// Tells what came of a request.
    pub(crate) fn record(&self, answered: bool, now: Instant) {
        let mut circuit = self.0.lock();
        if answered {
            *circuit = Circuit::default();
            return;
        }
        circuit.failures = circuit.failures.saturating_add(1);
        if circuit.failures >= Self::FAILURES {
            circuit.open_until = Some(now + Self::OPEN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_server_is_left_alone_and_tried_again_by_one() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        for _ in 0..5 {
            assert!(breaker.allows(now));
            breaker.record(false, now);
        }
        assert!(!breaker.allows(at(9)));
        assert!(breaker.allows(at(10)), "one tries");
        assert!(!breaker.allows(at(11)), "and only one");
        breaker.record(false, at(12));
        assert!(!breaker.allows(at(21)));
        assert!(breaker.allows(at(22)));
        breaker.record(true, at(22));
        for _ in 0..4 {
            breaker.record(false, at(23));
        }
        assert!(breaker.allows(at(23)));
    }
}
