//! Learning: on a listener that says so, until a time that it says, what no line of the policy
//! speaks of is allowed within topics that it names, and each such thing is noted once.
//!
//! Whoever can reach such a listener could use it to get what nobody granted. So deny lines hold as
//! ever, groups of shared subscriptions and topics that begin with `$` (unless named) stay shut,
//! what cannot be noted is not allowed, and when the time is over everything that rested on it is
//! taken back: subscriptions are suspended, and stored messages are withheld.
//!
//! Asking takes a lock here, for clients of such listeners alone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use portcullis_core::hook::{
    Action, Cover, Decision, Effort, Grants, MessageFacts, Principal, Rule, Snapshot,
};
use portcullis_core::topic::{TopicFilter, TopicName};

use crate::compile::ClientGrants;
use crate::pattern::{self, Slots};
use crate::policy::{Act, Effect};
use crate::trie::{Asked, NONE, Trie};

/// Most things that are noted until the lessons change; what is beyond is not allowed.
pub const MAX_LEARNED: usize = 10_000;

/// Stands for the lesson where a rule is named.
pub(crate) const LESSON: u32 = NONE - 1;

/// A listener that learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lesson {
    /// Its name.
    pub listener: String,
    /// When it ends.
    pub until: SystemTime,
    /// Filters: what is beyond them is refused as ever.
    pub topics: Vec<String>,
}

impl Lesson {
    /// Whether [`Acl::teach`](crate::Acl::teach) would take it.
    ///
    /// # Errors
    ///
    /// A topic that is no filter.
    pub fn check(&self) -> Result<(), String> {
        self.trie().map(drop)
    }

    /// Whether it is about this listener, and not over; nobody knows without a time.
    pub(crate) fn runs(&self, listener: &str, at: Option<SystemTime>) -> bool {
        self.listener == listener && at.is_some_and(|at| at < self.until)
    }

    fn trie(&self) -> Result<Trie, String> {
        let mut trie = Trie::new([]);
        for filter in &self.topics {
            let mut slots = Slots::default();
            let levels = pattern::topic(filter, &mut slots).ok();
            let levels = levels.filter(|_| slots.iter().next().is_none());
            let levels = levels
                .ok_or_else(|| format!("{filter:?} is not a topic filter without placeholders"))?;
            for asked in [Asked::Publish, Asked::Retain, Asked::Will, Asked::Receive] {
                trie.insert(&levels, asked, Effect::Allow, LESSON);
            }
        }
        Ok(trie)
    }
}

/// Something that was allowed by a lesson alone.
#[derive(Clone, Debug)]
pub struct Learned {
    /// Whom.
    pub who: Snapshot,
    /// What.
    pub act: Act,
    /// Where; for `subscribe` the filter.
    pub topic: String,
}

/// All lessons, running or not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lessons {
    list: Arc<[(Lesson, Arc<Trie>)]>,
    notes: Arc<Notes>,
}

#[derive(Debug, Default)]
struct Notes(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    known: HashSet<(Principal, Act, Box<str>), foldhash::fast::RandomState>,
    new: Vec<Learned>,
}

impl Lessons {
    /// Reads the topics.
    ///
    /// # Errors
    ///
    /// A topic that is no filter.
    pub(crate) fn new(lessons: Vec<Lesson>) -> Result<Self, String> {
        let compiled = lessons.into_iter().map(|lesson| {
            let trie = lesson.trie()?;
            Ok((lesson, Arc::new(trie)))
        });
        Ok(Self {
            list: compiled.collect::<Result<_, String>>()?,
            notes: Arc::default(),
        })
    }

    /// In place of others: what those allowed and nobody was told of yet is still to be told.
    pub(crate) fn after(self, old: &Self) -> Self {
        old.notes.0.lock().known.clear();
        Self {
            notes: Arc::clone(&old.notes),
            ..self
        }
    }

    /// How many run at a time; none is known to without one.
    pub(crate) fn running(&self, at: Option<SystemTime>) -> impl Iterator<Item = &Lesson> {
        let list = self.list.iter().map(|(lesson, _)| lesson);
        list.filter(move |lesson| at.is_some_and(|at| at < lesson.until))
    }

    /// The grants of a client, widened if its listener learns at this time.
    pub(crate) fn widen(
        &self,
        own: Arc<ClientGrants>,
        who: &Snapshot,
        at: Option<SystemTime>,
    ) -> Arc<dyn Grants> {
        let mut lessons = self.list.iter();
        match lessons.find(|(lesson, _)| lesson.runs(&who.listener, at)) {
            None => own,
            Some((_, lesson)) => Arc::new(Pupil {
                own,
                lesson: Arc::clone(lesson),
                who: who.clone(),
                notes: Arc::clone(&self.notes),
            }),
        }
    }

    /// What is new since this was last asked.
    pub(crate) fn take(&self) -> Vec<Learned> {
        std::mem::take(&mut self.notes.0.lock().new)
    }
}

impl Notes {
    /// `false` when there is no room to note it.
    fn note(&self, who: &Snapshot, act: Act, topic: &str) -> bool {
        let mut noted = self.0.lock();
        let key = (who.principal().clone(), act, topic.into());
        if noted.known.contains(&key) {
            return true;
        }
        if noted.known.len() >= MAX_LEARNED {
            return false;
        }
        noted.known.insert(key);
        noted.new.push(Learned {
            who: who.clone(),
            act,
            topic: topic.to_owned(),
        });
        true
    }
}

/// A client of a listener that learns.
struct Pupil {
    own: Arc<ClientGrants>,
    lesson: Arc<Trie>,
    who: Snapshot,
    notes: Arc<Notes>,
}

impl Grants for Pupil {
    fn decide(&self, action: Action, topic: TopicName<'_>, message: &MessageFacts) -> Decision {
        let own = self.own.decide(action, topic, message);
        if own != Decision::Silent {
            return own;
        }
        let (asked, act) = match action {
            Action::Publish => (Asked::Publish, Act::Publish),
            Action::Retain => (Asked::Retain, Act::Retain),
            Action::Will => (Asked::Will, Act::Will),
            // Not asked where the whole filter was noted: this is a subscription that the lesson
            // covers in part, a response topic, a stored message.
            Action::Receive => (Asked::Receive, Act::Subscribe),
        };
        let taught = self.lesson.decide(asked, topic.as_str(), &[]).allow != NONE;
        if taught && self.notes.note(&self.who, act, topic.as_str()) {
            Decision::Allow(Rule(LESSON))
        } else {
            Decision::Silent
        }
    }

    fn share(&self, group: &str) -> Decision {
        self.own.share(group)
    }

    fn cover(&self, filter: TopicFilter<'_>, message: &MessageFacts, effort: &Effort) -> Cover {
        let own = self.own.cover(filter, message, effort);
        if matches!(own, Cover::Full | Cover::Bounded) {
            return own;
        }
        let lesson = Some(&*self.lesson);
        let wider = self.own.cover_beside(filter, message, effort, lesson);
        match wider {
            Cover::Full | Cover::Bounded
                if !self.notes.note(&self.who, Act::Subscribe, filter.filter()) =>
            {
                own
            }
            Cover::Full
            | Cover::Bounded
            | Cover::Partial(_)
            | Cover::Nothing(_)
            | Cover::Unclear => wider,
        }
    }

    fn describe(&self, rule: Rule) -> String {
        if rule.0 == LESSON {
            return format!("the listener {} is learning", self.who.listener);
        }
        self.own.describe(rule)
    }
}
