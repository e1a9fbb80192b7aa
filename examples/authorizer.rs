//! An `Authorizer` of one's own beside the policy: nobody commands a machine whose door is open.
//!
//! In a chain a denial wins and silence is no answer: this module only ever denies or stays
//! silent, so it can tighten a policy and never widen it. Its grants answer from an atomic; when
//! the door moves the generation moves too, and everybody's rights are fetched again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use portcullis_core::hook::{
    Action, Authorizer, Cover, Decision, Effort, Grants, MessageFacts, Rule, Snapshot,
};
use portcullis_core::topic::{TopicFilter, TopicName};

#[derive(Default)]
struct Interlock {
    open: AtomicBool,
    generation: AtomicU64,
}

struct Answer {
    open: bool,
}

impl Interlock {
    fn door(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}

impl Authorizer for Interlock {
    fn name(&self) -> &'static str {
        "interlock"
    }

    fn grants(&self, _: &Snapshot) -> Arc<dyn Grants> {
        Arc::new(Answer {
            open: self.open.load(Ordering::SeqCst),
        })
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }
}

impl Grants for Answer {
    fn decide(&self, action: Action, topic: TopicName<'_>, _: &MessageFacts) -> Decision {
        let commands = topic.as_str().ends_with("/commands");
        if self.open && commands && action == Action::Publish {
            Decision::Deny(Rule(0))
        } else {
            Decision::Silent
        }
    }

    fn share(&self, _: &str) -> Decision {
        Decision::Silent
    }

    /// Everything may be received as far as this module is concerned; the policy decides.
    fn cover(&self, _: TopicFilter<'_>, _: &MessageFacts, _: &Effort) -> Cover {
        Cover::Full
    }

    fn describe(&self, _: Rule) -> String {
        "interlock: the door is open".to_owned()
    }
}

fn main() {
    let interlock = Interlock::default();
    println!("generation {}", interlock.generation());
    interlock.door(true);
    println!(
        "generation {}: rights are fetched again",
        interlock.generation()
    );
    println!("register it with Broker::builder().authorizer(..), beside the policy's");
}
