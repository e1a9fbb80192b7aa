//! What the publishes of one principal cause: deliveries, and the bytes in them.
//!
//! One small message may become a hundred thousand, so what goes out is priced to who caused it. All
//! connections of a principal share one budget, which outlives them: neither more client ids nor a
//! new connection buy another.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use portcullis_core::hook::BatchFacts;

use crate::bucket::{Bucket, Plan};
use crate::recent::Recent;
use crate::settings::{Rate, Settings};

/// The budgets of all principals, under one pair of rates. Which principals are remembered,
/// [`Settings::tracked_clients`] bounds; a connection holds on to its own.
pub(crate) struct FanOuts {
    rates: (Rate, Rate, u64),
    deliveries: Plan,
    bytes: Plan,
    budgets: Mutex<Recent<Arc<FanOut>>>,
}

/// What one principal owes.
#[derive(Default)]
pub(crate) struct FanOut(Mutex<Owed>);

#[derive(Default)]
struct Owed {
    deliveries: Bucket,
    bytes: Bucket,
}

impl FanOuts {
    /// Those from `before` where the rates are the same.
    pub(crate) fn of(settings: &Settings, before: Option<&Arc<Self>>) -> Arc<Self> {
        let (rate, bandwidth) = (settings.fan_out_rate, settings.fan_out_bandwidth);
        let rates = (rate, bandwidth, settings.max_packet_size);
        if let Some(before) = before.filter(|before| before.rates == rates) {
            before.budgets.lock().resize(settings.tracked_clients);
            return Arc::clone(before);
        }
        let burst = bandwidth.burst().max(settings.max_packet_size);
        Arc::new(Self {
            rates,
            deliveries: Plan::new(rate, rate.burst()),
            bytes: Plan::new(bandwidth, burst),
            budgets: Mutex::new(Recent::new(settings.tracked_clients)),
        })
    }

    /// The budget of one principal.
    pub(crate) fn one(&self, spender: u64) -> Arc<FanOut> {
        Arc::clone(self.budgets.lock().touch(&spender))
    }

    /// Charges what a batch caused; says how long its principal owes more than a burst.
    pub(crate) fn charge(&self, budget: &FanOut, facts: &BatchFacts, at: u64) -> Duration {
        let mut owed = budget.0.lock();
        owed.deliveries.charge(facts.fan_out, &self.deliveries, at);
        owed.bytes.charge(facts.fan_out_bytes, &self.bytes, at);
        let wait = owed.deliveries.wait(&self.deliveries);
        wait.max(owed.bytes.wait(&self.bytes))
    }

    /// Principals that are remembered.
    pub(crate) fn len(&self) -> usize {
        self.budgets.lock().len()
    }
}
