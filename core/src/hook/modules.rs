//! The registered modules: chains in which deny wins, silence is no, and a panic is a refusal.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use super::{
    Admission, Arrival, Attempt, Authenticator, Authorizer, BatchFacts, Begun, Event, Meter,
    Observer, Outcome, Principal, Refusal, RefusalKind, Snapshot, Standing, Tally, Use, Verdict,
};
use crate::clock::Now;
use crate::metrics::Metrics;
use crate::wire::ReasonCode;

/// All modules of a broker, in the order of their registration.
#[derive(Default)]
pub struct Modules {
    pub(crate) authenticators: Vec<Arc<dyn Authenticator>>,
    pub(crate) authorizers: Vec<Arc<dyn Authorizer>>,
    pub(crate) admissions: Vec<Arc<dyn Admission>>,
    pub(crate) observers: Vec<Arc<dyn Observer>>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Modules {
    /// Moves whenever an authorizer's policy changed.
    #[must_use]
    pub(crate) fn policy_generation(&self) -> u64 {
        // Each number only grows, so the sum moves when one of them does.
        self.authorizers
            .iter()
            .fold(0, |sum, module| sum.wrapping_add(module.generation()))
    }

    /// Moves whenever a credential or a ban may have changed its standing.
    #[must_use]
    pub(crate) fn standing_generation(&self) -> u64 {
        let identities = self
            .authenticators
            .iter()
            .fold(0u64, |sum, module| sum.wrapping_add(module.generation()));
        self.admissions.iter().fold(identities, |sum, module| {
            sum.wrapping_add(module.generation())
        })
    }

    /// Asks the authenticators in turn; the first that owns the credential decides.
    pub(crate) async fn authenticate(&self, attempt: &Attempt<'_>) -> Outcome {
        for module in &self.authenticators {
            let Some(mut judging) = self.contain(module.name(), || module.authenticate(attempt))
            else {
                return Outcome::Refused(unavailable(module.name()));
            };
            // A panic inside the future is contained poll by poll.
            let outcome = std::future::poll_fn(|context| {
                match self.contain(module.name(), || judging.as_mut().poll(context)) {
                    Some(Poll::Pending) => Poll::Pending,
                    Some(Poll::Ready(outcome)) => Poll::Ready(outcome),
                    None => Poll::Ready(Outcome::Refused(unavailable(module.name()))),
                }
            })
            .await;
            match outcome {
                Outcome::NotMine => {}
                Outcome::Accepted(_) | Outcome::Continue(_) | Outcome::Refused(_) => {
                    return outcome;
                }
            }
        }
        Outcome::Refused(Refusal::new(
            RefusalKind::BadCredential,
            "no module knows this kind of credential",
        ))
    }

    /// Why the credential no longer stands, if so. Nobody who knows it is a no as well.
    pub(crate) fn revoked(&self, who: &Snapshot, purpose: Use) -> Option<String> {
        if who.credential.method.as_ref() == Self::SYSTEM {
            return None;
        }
        for module in &self.authenticators {
            match self.contain(module.name(), || module.standing(&who.credential, purpose)) {
                Some(Standing::NotMine) => {}
                Some(Standing::Good) => return None,
                Some(Standing::Revoked(reason)) => return Some(reason),
                None => return Some(format!("module {} failed", module.name())),
            }
        }
        Some("no module vouches for this credential any more".to_owned())
    }

    /// The method name of credentials that stand for the broker itself.
    pub(crate) const SYSTEM: &'static str = "system";

    /// Whether an author's stored messages may still go out, bans considered.
    pub(crate) fn in_good_standing(&self, author: &Snapshot, now: Now) -> bool {
        self.admissions.iter().all(|module| {
            self.contain(module.name(), || module.in_good_standing(author, now))
                .unwrap_or(false)
        })
    }

    fn admission(&self, ask: impl Fn(&dyn Admission) -> Verdict) -> Verdict {
        let mut verdict = Verdict::Admit;
        for module in &self.admissions {
            let answer = self
                .contain(module.name(), || ask(module.as_ref()))
                .unwrap_or_else(|| failed(module.name()));
            verdict = verdict.and(answer);
        }
        verdict
    }

    pub(crate) fn arrive(&self, arrival: &Arrival<'_>, now: Now) -> Verdict {
        self.admission(|module| module.arrive(arrival, now))
    }

    pub(crate) fn attempt(
        &self,
        arrival: &Arrival<'_>,
        claimed: Option<&str>,
        now: Now,
    ) -> Verdict {
        self.admission(|module| module.attempt(arrival, claimed, now))
    }

    pub(crate) fn admit(&self, who: &Snapshot, now: Now) -> Verdict {
        self.admission(|module| module.admit(who, now))
    }

    pub(crate) fn failed(&self, arrival: &Arrival<'_>, claimed: Option<&Principal>, now: Now) {
        for module in &self.admissions {
            self.contain(module.name(), || module.failed(arrival, claimed, now));
        }
    }

    /// What watches one connection. A module that fails here refuses the connection.
    pub(crate) fn watch(&self, who: &Snapshot, now: Now) -> Result<Watch, String> {
        let meters = self.admissions.iter().map(|module| {
            self.contain(module.name(), || module.watch(who, now))
                .ok_or_else(|| format!("module {} failed", module.name()))
        });
        let tallies = self
            .observers
            .iter()
            .filter_map(|module| self.contain(module.name(), || module.tally(who)).flatten());
        Ok(Watch {
            meters: meters.collect::<Result<_, _>>()?,
            tallies: tallies.collect(),
        })
    }

    /// Tells the observers.
    pub(crate) fn observe(&self, event: &Event<'_>, now: Now) {
        for module in &self.observers {
            self.contain(module.name(), || module.event(event, now));
        }
    }

    /// Whether what happens now can be recorded by everybody who must.
    pub(crate) fn can_record(&self) -> bool {
        self.observers.iter().all(|module| {
            self.contain(module.name(), || module.can_record())
                .unwrap_or(false)
        })
    }

    /// Runs a module's code; a panic becomes `None`, a counter and a log line.
    pub(crate) fn contain<T>(&self, name: &str, run: impl FnOnce() -> T) -> Option<T> {
        catch_unwind(AssertUnwindSafe(run))
            .inspect_err(|_| {
                self.metrics.modules_failed.inc();
                tracing::error!(module = name, "a module panicked; the answer is no");
            })
            .ok()
    }
}

/// The meters and tallies of one connection.
pub(crate) struct Watch {
    meters: Box<[Box<dyn Meter>]>,
    tallies: Box<[Box<dyn Tally>]>,
}

impl Watch {
    pub(crate) fn batch(&mut self, facts: &BatchFacts, metrics: &Metrics, now: Now) -> Verdict {
        let Self { meters, tallies } = self;
        catch_unwind(AssertUnwindSafe(|| {
            for tally in tallies {
                tally.batch(facts, now);
            }
            meters.iter_mut().fold(Verdict::Admit, |verdict, meter| {
                verdict.and(meter.batch(facts, now))
            })
        }))
        .unwrap_or_else(|_| {
            metrics.modules_failed.inc();
            tracing::error!("a meter panicked; its connection ends");
            failed("meter")
        })
    }

    /// What is to be recorded about the wait that a batch has just brought.
    pub(crate) fn begun(&self, metrics: &Metrics) -> Option<Begun> {
        catch_unwind(AssertUnwindSafe(|| {
            self.meters.iter().find_map(|meter| meter.begun())
        }))
        .unwrap_or_else(|_| {
            metrics.modules_failed.inc();
            tracing::error!("a meter panicked; its wait has no record");
            None
        })
    }
}

fn failed(module: &str) -> Verdict {
    Verdict::Refuse {
        code: ReasonCode::UnspecifiedError,
        reason: format!("module {module} failed"),
        will: true,
    }
}

fn unavailable(module: &str) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, format!("module {module} failed"))
}
