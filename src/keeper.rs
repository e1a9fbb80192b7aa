//! Who changes the policy of a running broker, and what is looked after once a second: time
//! windows, denials after a change, and what the candidate policy says; sometimes: what ends soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use portcullis_acl::{Acl, Policy};
use portcullis_core::clock::Now;
use portcullis_core::hook::{
    Action, Cover, Effort, Event, Grants as _, MessageFacts, Observer, Snapshot, Tally,
};
use portcullis_core::topic::{TopicFilter, TopicLimits, TopicName};
use portcullis_core::wire::QoS;

use crate::config::Rate;
use crate::rollback::{Jump, Rollback};
use crate::run::Running;
use crate::shadow;

/// How exact time windows are.
const TICK: Duration = Duration::from_secs(1);
/// Work to find out whether a subscription was lost by a change; what takes more is not counted.
const EFFORT: u32 = 1 << 14;
/// What was refused has passed the limits of the broker, which are narrower.
const LONGEST: TopicLimits = TopicLimits {
    length: u16::MAX as usize,
    levels: u16::MAX as usize,
};
/// Between two looks at what ends soon, in ticks.
const REMIND: u32 = 5;

/// Changes the policy, one at a time, and takes a change back when denials jump.
#[derive(Debug)]
pub struct Keeper {
    acl: Arc<Acl>,
    kept: Mutex<Kept>,
    /// Held for a moment only, and after `kept` where both are: whoever is denied something comes
    /// by here, also while a sweep is under way.
    watch: Mutex<Watch>,
    rollbacks: AtomicU64,
    learned: AtomicU64,
}

#[derive(Debug)]
struct Kept {
    summary: shadow::Summary,
    /// The listeners that are known to learn.
    learning: Vec<String>,
}

#[derive(Debug)]
struct Watch {
    /// `[acl] rollback-denials`
    threshold: Option<Rate>,
    rollback: Rollback,
    /// The last policy that has proved itself; while a change is watched.
    before: Option<Arc<Acl>>,
}

impl Keeper {
    /// With this threshold no change is kept that makes denials jump over it; `None`: every one is.
    #[must_use]
    pub fn new(acl: Arc<Acl>, threshold: Option<Rate>) -> Self {
        Self {
            acl,
            kept: Mutex::new(Kept {
                summary: shadow::Summary::default(),
                learning: Vec::new(),
            }),
            watch: Mutex::new(Watch {
                threshold,
                rollback: Rollback::default(),
                before: None,
            }),
            rollbacks: AtomicU64::new(0),
            learned: AtomicU64::new(0),
        }
    }

    /// Changes the threshold.
    pub fn set_threshold(&self, threshold: Option<Rate>) {
        self.watch.lock().threshold = threshold;
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
        // One change at a time.
        let _kept = self.kept.lock();
        self.about_to_change(policy.hash(), now);
        modules.audit.set_policy_hash(policy.hash().to_owned());
        self.acl.replace(policy);
    }

    /// Puts the candidate policy in force; its hash, or `None` if there is no candidate. The caller
    /// sweeps.
    pub fn promote(&self, modules: &Running, now: Now) -> Option<String> {
        let _kept = self.kept.lock();
        let hash = self.acl.differences()?.candidate;
        self.about_to_change(&hash, now);
        self.acl.promote()?;
        modules.audit.set_policy_hash(hash.clone());
        tracing::info!(policy = &*hash, "the candidate policy is in force");
        Some(hash)
    }

    /// The policy with this hash is about to be put in force: from now on what it denies is watched.
    /// Called with `kept` held.
    fn about_to_change(&self, hash: &str, now: Now) {
        let old = self.acl.policy();
        let unproved = {
            let watch = self.watch.lock();
            if watch.threshold.is_none() || old.hash() == hash {
                return;
            }
            let before = watch.before.clone();
            before.filter(|_| watch.rollback.is_watching())
        };
        // What has not proved itself is nothing to go back to.
        let before = unproved.unwrap_or_else(|| {
            let before = Acl::new(old);
            before.tick(now.wall);
            Arc::new(before)
        });
        // Let go of when nobody waits for the lock: that takes time.
        let _gone = {
            let mut watch = self.watch.lock();
            if before.policy().hash() == hash {
                watch.rollback.done();
                watch.before.take()
            } else {
                watch.rollback.changed(now.mono);
                watch.before.replace(before)
            }
        };
    }

    /// What has to be done once a second. Blocks while sessions are told of a change.
    pub fn tick(&self, modules: &Running, now: Now) {
        // First, so that what a window takes in both policies is not counted.
        let before = self.watch.lock().before.clone();
        if let Some(before) = before {
            before.tick(now.wall);
        }
        if modules.acl.tick(now.wall) {
            tracing::info!("a time window of the policy has opened or closed");
            modules.broker.sweep();
        }
        self.tell_lessons(modules);
        let mut kept = self.kept.lock();
        let over = self.watch.lock().observe(now);
        if let Some(Over { before, jump }) = over
            && let Some((jump, threshold)) = jump
        {
            self.take_back(modules, jump, threshold, before.policy());
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

    fn take_back(&self, modules: &Running, jump: Jump, threshold: Rate, previous: Arc<Policy>) {
        let hash = previous.hash().to_owned();
        modules.audit.set_policy_hash(hash.clone());
        let bad = modules.acl.replace(previous);
        modules.broker.sweep();
        self.rollbacks.fetch_add(1, Ordering::Relaxed);
        let Jump {
            denials,
            principals,
        } = jump;
        let why = format!(
            "policy {} was taken back and {hash} is in force again: within {} s {denials} denials \
             counted, of {principals} principals, of what {hash} allows: more than \
             acl.rollback-denials; the files are as they were, and the next reload tries them again",
            bad.hash(),
            threshold.period.as_secs(),
        );
        tracing::error!(unit = "policy", "{why}");
        modules.broker.observe(&Event::Reloaded {
            unit: "policy",
            error: Some(&why),
        });
    }

    /// Counts a denial, if it is the change that made it.
    fn denied(&self, who: &Snapshot, asked: &Asked<'_>) {
        let before = {
            let mut watch = self.watch.lock();
            let looks = watch.looks(who);
            watch.before.as_ref().filter(|_| looks).cloned()
        };
        if let Some(before) = before
            && asked.answer(&before, who) > asked.answer(&self.acl, who)
        {
            self.watch.lock().count(who);
        }
    }
}

impl Watch {
    /// Whether to look into a further denial of somebody.
    fn looks(&mut self, who: &Snapshot) -> bool {
        let principal = who.principal();
        self.threshold
            .is_some_and(|threshold| self.rollback.looks(threshold, principal.as_str()))
    }

    fn count(&mut self, who: &Snapshot) {
        if let Some(threshold) = self.threshold {
            let principal = who.principal();
            self.rollback.denied(threshold, principal.as_str());
        }
    }

    /// The end of a watch, if this is it.
    fn observe(&mut self, now: Now) -> Option<Over> {
        let threshold = self.threshold;
        let jump = threshold.and_then(|threshold| self.rollback.observe(threshold, now.mono));
        if threshold.is_none() {
            self.rollback.done();
        }
        if self.rollback.is_watching() {
            return None;
        }
        Some(Over {
            before: self.before.take()?,
            jump: jump.zip(threshold),
        })
    }
}

/// A watch that is over; to let go of a policy takes time, so that is left to the caller.
struct Over {
    before: Arc<Acl>,
    /// Why that one has to come back.
    jump: Option<(Jump, Rate)>,
}

/// What was denied.
enum Asked<'a> {
    Publish(Action, &'a str, MessageFacts),
    Subscribe(&'a str),
}

/// How much of it a policy allows.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Nothing,
    Part,
    All,
}

impl Asked<'_> {
    /// By a policy. What is unclear is nothing.
    fn answer(&self, acl: &Acl, who: &Snapshot) -> Answer {
        let grants = acl.client_grants(who);
        let all = |allowed: bool| {
            if allowed {
                Answer::All
            } else {
                Answer::Nothing
            }
        };
        match self {
            Self::Publish(action, topic, message) => TopicName::new(topic, LONGEST)
                .map_or(Answer::Nothing, |topic| {
                    all(grants.decide(*action, topic, message).is_allowed())
                }),
            Self::Subscribe(filter) => {
                let Ok(filter) = TopicFilter::new(filter, LONGEST) else {
                    return Answer::Nothing;
                };
                let group = filter.share();
                if group.is_some_and(|group| !grants.share(group).is_allowed()) {
                    return Answer::Nothing;
                }
                let smallest = MessageFacts::smallest(QoS::AtMostOnce);
                match grants.cover(filter, &smallest, &Effort::new(EFFORT)) {
                    Cover::Full | Cover::Bounded => Answer::All,
                    Cover::Partial(_) => Answer::Part,
                    Cover::Nothing(_) | Cover::Unclear => Answer::Nothing,
                }
            }
        }
    }
}

impl Observer for Keeper {
    fn name(&self) -> &'static str {
        "policy-keeper"
    }

    fn event(&self, event: &Event<'_>, _now: Now) {
        if let Event::PublishDenied {
            who,
            topic,
            action,
            qos,
            payload,
            ..
        } = event
        {
            let action = match *action {
                "retain" => Action::Retain,
                _ => Action::Publish,
            };
            let message = MessageFacts::new(*qos, *payload);
            self.denied(who, &Asked::Publish(action, topic, message));
        } else if let Event::SubscribeDenied { who, filter, .. }
        | Event::SubscriptionSuspended {
            who,
            filter,
            suspended: true,
        } = event
        {
            self.denied(who, &Asked::Subscribe(filter));
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
