//! What one subject may do in one policy generation: the answers of all authorizers together.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::hook::{Action, Cover, Decision, Effort, Grants, MessageFacts, Modules, Rule, Snapshot};
use crate::message::Asked;
use crate::topic::{TopicFilter, TopicName};

/// The grants of all authorizers, frozen in one policy generation. Deny wins, silence is no,
/// no authorizer at all is no, and a panic is no.
pub(crate) struct Rights {
    grants: SmallVec<[Arc<dyn Grants>; 1]>,
    /// [`Modules::policy_generation`] when these were fetched.
    pub(crate) generation: u64,
}

/// Who said no, and by which rule; [`Rights::describe`] has the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    /// The authorizer's place in the chain; `None` where nobody spoke.
    pub(super) module: Option<usize>,
    /// The rule; `None` where no rule spoke.
    pub(super) rule: Option<Rule>,
}

impl Denial {
    pub(super) const SILENCE: Self = Self {
        module: None,
        rule: None,
    };
}

impl Rights {
    /// Asks every authorizer for its grants. One that fails leaves no rights at all.
    pub(crate) fn fetch(who: &Snapshot, modules: &Modules) -> Self {
        // The generation is read first: a policy that changes meanwhile makes these rights stale,
        // never the other way round.
        let generation = modules.policy_generation();
        let grants: Option<SmallVec<_>> = modules
            .authorizers
            .iter()
            .map(|module| modules.contain(module.name(), || module.grants(who)))
            .collect();
        Self {
            grants: grants.unwrap_or_default(),
            generation,
        }
    }

    /// No rights, of no generation: whoever looks finds them stale.
    pub(crate) fn none() -> Self {
        Self {
            grants: SmallVec::new(),
            generation: u64::MAX,
        }
    }

    pub(crate) fn decide(
        &self,
        action: Action,
        topic: TopicName<'_>,
        message: &MessageFacts,
        modules: &Modules,
    ) -> Result<(), Denial> {
        self.chain(modules, |grants| grants.decide(action, topic, message))
    }

    pub(crate) fn share(&self, group: &str, modules: &Modules) -> Result<(), Denial> {
        self.chain(modules, |grants| grants.share(group))
    }

    /// Everything that a publish asks for; the error names the action that was refused.
    pub(crate) fn publish(
        &self,
        topic: TopicName<'_>,
        asked: Asked,
        message: &MessageFacts,
        modules: &Modules,
    ) -> Result<(), (&'static str, Denial)> {
        let ask = |action, word| {
            self.decide(action, topic, message, modules)
                .map_err(|denial| (word, denial))
        };
        ask(Action::Publish, "publish")?;
        if asked.retain {
            ask(Action::Retain, "retain")?;
        }
        if asked.will {
            ask(Action::Will, "will")?;
        }
        Ok(())
    }

    fn chain(
        &self,
        modules: &Modules,
        ask: impl Fn(&dyn Grants) -> Decision,
    ) -> Result<(), Denial> {
        modules
            .contain("authorizer", || {
                let mut allowed = false;
                for (module, grants) in self.grants.iter().enumerate() {
                    match ask(grants.as_ref()) {
                        Decision::Allow(_) => allowed = true,
                        Decision::Silent => {}
                        Decision::Deny(rule) => {
                            return Err(Denial {
                                module: Some(module),
                                rule: Some(rule),
                            });
                        }
                    }
                }
                allowed.then_some(()).ok_or(Denial::SILENCE)
            })
            .unwrap_or(Err(Denial::SILENCE))
    }

    /// How much of a filter may be received, at the `QoS` of `message`. Two authorizers that each cover a part are read as a
    /// part: every delivery is then checked by both.
    pub(crate) fn cover(
        &self,
        filter: TopicFilter<'_>,
        message: &MessageFacts,
        effort: &Effort,
        modules: &Modules,
    ) -> (Cover, Option<usize>) {
        let answers: Option<SmallVec<[Cover; 1]>> = self
            .grants
            .iter()
            .map(|grants| modules.contain("authorizer", || grants.cover(filter, message, effort)))
            .collect();
        let mut best = (Cover::Nothing(None), None);
        let (mut whole, mut bounded) = (0, false);
        for (module, cover) in answers.iter().flatten().enumerate() {
            match cover {
                Cover::Full | Cover::Bounded => {
                    whole += 1;
                    bounded |= *cover == Cover::Bounded;
                    if best.1.is_none() {
                        best = (Cover::Partial(None), None);
                    }
                }
                // A rule that denies in one of them cuts the whole.
                Cover::Nothing(Some(_)) => return (*cover, Some(module)),
                Cover::Partial(_) | Cover::Unclear => best = (*cover, Some(module)),
                Cover::Nothing(None) => {}
            }
        }
        if whole > 0 && whole == self.grants.len() {
            let cover = if bounded { Cover::Bounded } else { Cover::Full };
            return (cover, None);
        }
        best
    }

    /// A denial in words, for records; never told to the client.
    pub(crate) fn describe(&self, denial: Denial, modules: &Modules) -> String {
        denial
            .module
            .zip(denial.rule)
            .and_then(|(module, rule)| {
                let grants = self.grants.get(module)?;
                modules.contain("authorizer", || grants.describe(rule))
            })
            .unwrap_or_else(|| "no rule allows it".to_owned())
    }
}

impl std::fmt::Debug for Rights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rights")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}
