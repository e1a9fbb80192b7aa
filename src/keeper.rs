//! Who changes the policy of a running broker, and what is looked after once a second: time
//! windows, denials after a change, and what the candidate policy says; sometimes: what ends soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use portcullis_acl::Policy;
use portcullis_core::clock::Now;
use portcullis_core::hook::{Event, Observer, Snapshot, Tally};
use portcullis_core::metrics::Metrics;

use crate::config::Rate;
use crate::rollback::Rollback;
use crate::run::Running;
use crate::shadow;

/// How exact time windows are.
const TICK: Duration = Duration::from_secs(1);
/// Between two looks at what ends soon, in ticks.
const REMIND: u32 = 5;

/// Changes the policy, one at a time, and takes a change back when denials jump.
#[derive(Debug)]
pub struct Keeper {
    kept: Mutex<Kept>,
    suspended: AtomicU64,
    rollbacks: AtomicU64,
    learned: AtomicU64,
}

#[derive(Debug)]
struct Kept {
    /// `[acl] rollback-denials`
    threshold: Option<Rate>,
    rollback: Rollback,
    /// What was in force before the last change.
    previous: Option<Arc<Policy>>,
    summary: shadow::Summary,
    /// The listeners that are known to learn.
    learning: Vec<String>,
}

impl Keeper {
    /// With this threshold no change is kept that makes denials jump over it; `None`: every one is.
    #[must_use]
    pub fn new(threshold: Option<Rate>) -> Self {
        Self {
            kept: Mutex::new(Kept {
                threshold,
                rollback: Rollback::default(),
                previous: None,
                summary: shadow::Summary::default(),
                learning: Vec::new(),
            }),
            suspended: AtomicU64::new(0),
            rollbacks: AtomicU64::new(0),
            learned: AtomicU64::new(0),
        }
    }

    /// Changes the threshold.
    pub fn set_threshold(&self, threshold: Option<Rate>) {
        self.kept.lock().threshold = threshold;
    }

    /// How many changes were taken back.
    #[must_use]
    pub fn rollbacks(&self) -> u64 {
        self.rollbacks.load(Ordering::Relaxed)
    }

    /// How much was allowed for the first time by a listener that learns.
    #[must_use]
    pub fn learned(&self) -> u64 {
        self.learned.load(Ordering::Relaxed)
    }

    /// Puts a policy in force. The caller sweeps.
    pub fn install(&self, modules: &Running, policy: Policy, now: Now) {
        let mut kept = self.kept.lock();
        let denials = self.denials(modules.broker.metrics());
        modules.audit.set_policy_hash(policy.hash().to_owned());
        let hash = policy.hash().to_owned();
        let old = modules.acl.replace(policy);
        if old.hash() != hash {
            kept.changed(old, denials, now);
        }
    }

    /// Puts the candidate policy in force; its hash, or `None` if there is no candidate. The caller
    /// sweeps.
    pub fn promote(&self, modules: &Running, now: Now) -> Option<String> {
        let mut kept = self.kept.lock();
        let denials = self.denials(modules.broker.metrics());
        let old = modules.acl.promote()?;
        let hash = modules.acl.policy().hash().to_owned();
        modules.audit.set_policy_hash(hash.clone());
        kept.changed(old, denials, now);
        tracing::info!(policy = &*hash, "the candidate policy is in force");
        Some(hash)
    }

    /// What has to be done once a second. Blocks while sessions are told of a change.
    pub fn tick(&self, modules: &Running, now: Now) {
        if modules.acl.tick(now.wall) {
            tracing::info!("a time window of the policy has opened or closed");
            modules.broker.sweep();
        }
        self.tell_lessons(modules);
        let mut kept = self.kept.lock();
        let denials = self.denials(modules.broker.metrics());
        let struck = kept.threshold.and_then(|threshold| {
            let denials = kept.rollback.observe(threshold, denials, now.mono)?;
            Some((denials, threshold, kept.previous.take()?))
        });
        if let Some((denials, threshold, previous)) = struck {
            kept.rollback.done();
            self.take_back(modules, denials, threshold, previous);
        }
        if let Some(summary) = kept.summary.due(&modules.acl, now.mono) {
            tracing::warn!("{summary}");
            modules
                .broker
                .observe(&Event::Administration { action: &summary });
        }
    }

    /// Records what was allowed by learning alone, and says loudly when it begins and ends.
    pub fn tell_lessons(&self, modules: &Running) {
        for learned in modules.acl.learned() {
            self.learned.fetch_add(1, Ordering::Relaxed);
            modules.broker.observe(&Event::Learned {
                who: &learned.who,
                action: learned.act.as_str(),
                topic: &learned.topic,
            });
        }
        let running: Vec<String> = modules
            .acl
            .lessons()
            .into_iter()
            .map(|lesson| lesson.listener)
            .collect();
        let mut kept = self.kept.lock();
        if kept.learning == running {
            return;
        }
        let said = match running.as_slice() {
            [] => "no listener is learning any more; what was allowed by it alone is refused again"
                .to_owned(),
            names => format!(
                "LEARNING on {}: what no line of the policy denies is allowed there, and recorded",
                names.join(", ")
            ),
        };
        kept.learning = running;
        drop(kept);
        tracing::warn!("{said}");
        modules
            .broker
            .observe(&Event::Administration { action: &said });
    }

    fn take_back(&self, modules: &Running, denials: u64, threshold: Rate, previous: Arc<Policy>) {
        let hash = previous.hash().to_owned();
        modules.audit.set_policy_hash(hash.clone());
        let bad = modules.acl.replace(previous);
        modules.broker.sweep();
        self.rollbacks.fetch_add(1, Ordering::Relaxed);
        let why = format!(
            "policy {} was taken back and {hash} is in force again: {denials} denials within {} s \
             of it, more than acl.rollback-denials; the files are as they were, and the next \
             reload tries them again",
            bad.hash(),
            threshold.period.as_secs(),
        );
        tracing::error!(unit = "policy", "{why}");
        modules.broker.observe(&Event::Reloaded {
            unit: "policy",
            error: Some(&why),
        });
    }

    fn denials(&self, metrics: &Metrics) -> u64 {
        metrics.publishes_denied.value()
            + metrics.subscribes_denied.value()
            + self.suspended.load(Ordering::Relaxed)
    }
}

impl Kept {
    fn changed(&mut self, old: Arc<Policy>, denials: u64, now: Now) {
        if let Some(threshold) = self.threshold {
            self.rollback.changed(threshold, denials, now.mono);
        }
        self.previous = Some(old);
    }
}

impl Observer for Keeper {
    fn name(&self) -> &'static str {
        "policy-keeper"
    }

    fn event(&self, event: &Event<'_>, _now: Now) {
        if let Event::SubscriptionSuspended {
            suspended: true, ..
        } = event
        {
            self.suspended.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn tally(&self, _who: &Snapshot) -> Option<Box<dyn Tally>> {
        None
    }
}

/// Ticks for ever; the caller ends the task.
pub async fn tend(modules: Running) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = (0..REMIND).cycle();
    loop {
        interval.tick().await;
        let reminds = ticks.next() == Some(0);
        let modules = modules.clone();
        let ticked = tokio::task::spawn_blocking(move || {
            let keeper = Arc::clone(&modules.keeper);
            let now = Now::read();
            keeper.tick(&modules, now);
            if reminds {
                modules.remind(now);
            }
        });
        if let Err(error) = ticked.await {
            tracing::error!(%error, "looking after the policy failed");
        }
    }
}
