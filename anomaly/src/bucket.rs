//! A token bucket of 16 bytes with exact arithmetic and debt.
//!
//! A packet is charged after it was read, so a bucket may owe more than its burst; the answer is
//! how long to wait until it no longer does. No rounding: over any span a bucket admits at most
//! the burst and the rate times the span, and a client at its rate never waits.

use std::time::Duration;

use crate::settings::Rate;

/// A rate and a burst, in a form that is cheap to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Debt that a nanosecond pays.
    pays: u64,
    /// Debt that one token costs.
    costs: u64,
    /// Debt that needs no waiting.
    burst: u64,
}

impl Plan {
    pub(crate) fn new(rate: Rate, burst: u64) -> Self {
        let nanos = u64::try_from(rate.span().as_nanos()).unwrap_or(u64::MAX);
        let divisor = gcd(rate.count(), nanos).max(1);
        let costs = nanos / divisor;
        Self {
            pays: rate.count() / divisor,
            costs,
            burst: burst.saturating_mul(costs),
        }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What somebody owes. The default owes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    debt: u64,
    /// When `debt` was right, in nanoseconds of the owner's clock.
    at: u64,
}

impl Bucket {
    /// Charges `tokens` at a time; an earlier time than before counts as no time.
    pub(crate) fn charge(&mut self, tokens: u64, plan: &Plan, at: u64) {
        let passed = at.saturating_sub(self.at);
        self.at = self.at.max(at);
        self.debt = self
            .debt
            .saturating_sub(passed.saturating_mul(plan.pays))
            .saturating_add(tokens.saturating_mul(plan.costs));
    }

    /// Takes a charge of just now back.
    pub(crate) fn refund(&mut self, tokens: u64, plan: &Plan) {
        self.debt = self.debt.saturating_sub(tokens.saturating_mul(plan.costs));
    }

    /// How long until the debt is within the burst; zero where it is.
    pub(crate) fn wait(&self, plan: &Plan) -> Duration {
        Duration::from_nanos(
            self.debt
                .saturating_sub(plan.burst)
                .div_ceil(plan.pays.max(1)),
        )
    }

    /// Tokens beyond the burst, rounded up.
    pub(crate) fn over(&self, plan: &Plan) -> u64 {
        self.debt
            .saturating_sub(plan.burst)
            .div_ceil(plan.costs.max(1))
    }

    /// Whether it owes so many times the burst.
    pub(crate) fn exceeds(&self, times: u64, plan: &Plan) -> bool {
        self.debt > plan.burst.saturating_mul(times)
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.debt == 0
    }

    /// The same tokens under another plan.
    pub(crate) fn rebase(&mut self, from: &Plan, to: &Plan) {
        let debt = u128::from(self.debt) * u128::from(to.costs) / u128::from(from.costs.max(1));
        self.debt = u64::try_from(debt).unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn plan(count: u64, burst: u64) -> Plan {
        Plan::new(Rate::new(count, Duration::from_secs(1)).unwrap(), burst)
    }

    #[test]
    fn a_bucket_is_16_bytes() {
        assert_eq!(size_of::<Bucket>(), 16);
    }

    #[test]
    fn a_debt_beyond_the_burst_waits_exactly_as_long_as_the_rate_needs() {
        let plan = plan(200, 2000);
        let mut bucket = Bucket::default();
        bucket.charge(2000, &plan, 0);
        assert_eq!(bucket.wait(&plan), Duration::ZERO);
        bucket.charge(1, &plan, 0);
        assert_eq!(bucket.wait(&plan), Duration::from_millis(5));
        bucket.charge(399, &plan, 0);
        assert_eq!(
            (bucket.wait(&plan), bucket.over(&plan)),
            (Duration::from_secs(2), 400)
        );
        bucket.charge(0, &plan, 2 * SECOND);
        assert_eq!(bucket.wait(&plan), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_goes_back_pays_nothing_twice() {
        let plan = plan(10, 10);
        let mut bucket = Bucket::default();
        bucket.charge(20, &plan, SECOND);
        bucket.charge(0, &plan, 0);
        bucket.charge(0, &plan, SECOND);
        assert_eq!(bucket.over(&plan), 10);
    }

    #[test]
    fn a_new_rate_keeps_the_tokens_that_are_owed() {
        let (old, new) = (plan(200, 10), plan(7, 10));
        let mut bucket = Bucket::default();
        bucket.charge(100, &old, 0);
        bucket.rebase(&old, &new);
        assert_eq!(bucket.over(&new), 90);
    }

    proptest! {
        /// A client that waits when it is told to never gets more than rate * time + burst, beyond
        /// the batch that was already read when it was told.
        #[test]
        fn never_more_than_the_rate_and_the_burst(
            count in 1_u64..5000,
            burst in 1_u64..10_000,
            steps in prop::collection::vec((0_u64..200, 0_u64..SECOND), 1..200),
        ) {
            let plan = plan(count, burst);
            let mut bucket = Bucket::default();
            let (mut at, mut taken) = (0_u64, 0_u64);
            for (tokens, pause) in steps {
                at += pause;
                bucket.charge(0, &plan, at);
                let wait = bucket.wait(&plan);
                at += u64::try_from(wait.as_nanos()).unwrap();
                let allowed = u128::from(count) * u128::from(at) / u128::from(SECOND) + u128::from(burst);
                prop_assert!(u128::from(taken) <= allowed, "{taken} > {allowed}");
                bucket.charge(tokens, &plan, at);
                taken += tokens;
            }
        }

        /// At or below its rate a client never waits, however its packets are batched.
        #[test]
        fn never_a_wait_below_the_rate(
            count in 1_u64..5000,
            pauses in prop::collection::vec(0_u64..3 * SECOND, 1..200),
        ) {
            let plan = plan(count, count * 3 + 1);
            let mut bucket = Bucket::default();
            let (mut at, mut sent) = (0_u64, 0_u64);
            for pause in pauses {
                at += pause;
                let due = u64::try_from(u128::from(count) * u128::from(at) / u128::from(SECOND)).unwrap();
                bucket.charge(due - sent, &plan, at);
                sent = due;
                prop_assert_eq!(bucket.wait(&plan), Duration::ZERO);
            }
        }

        /// The same answers as a naive bucket in big numbers.
        #[test]
        fn agrees_with_a_naive_bucket(
            count in 1_u64..100_000,
            burst in 1_u64..100_000,
            steps in prop::collection::vec((0_u64..100_000, 0_u64..10 * SECOND), 1..100),
        ) {
            let plan = plan(count, burst);
            let mut bucket = Bucket::default();
            let (mut at, mut owed) = (0_u64, 0_u128);
            for (tokens, pause) in steps {
                at += pause;
                bucket.charge(tokens, &plan, at);
                owed = owed.saturating_sub(u128::from(pause) * u128::from(count))
                    + u128::from(tokens) * u128::from(SECOND);
                let over = owed.saturating_sub(u128::from(burst) * u128::from(SECOND));
                prop_assert_eq!(bucket.wait(&plan).as_nanos(), over.div_ceil(u128::from(count)));
            }
        }
    }
}
