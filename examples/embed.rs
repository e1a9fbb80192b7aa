//! A broker inside another program, with a module of its own: whoever knows the word may
//! publish and subscribe below `lab/`.
//!
//! Run it, then: `mosquitto_sub -p 18830 -u ada -P sesame -t 'lab/#'`

use std::sync::Arc;

use portcullis_core::broker::Broker;
use portcullis_core::gate::{Endpoint, Listener};
use portcullis_core::hook::{
    Accepted, Action, Attempt, Authenticator, Authorizer, BoxFuture, Cover, Credential, Decision,
    Grants, Identity, Lease, Outcome, Principal, Refusal, RefusalKind, Rule, Snapshot, Standing,
    Use,
};
use portcullis_core::topic::{TopicFilter, TopicName};

struct Word;

impl Authenticator for Word {
    fn name(&self) -> &'static str {
        "word"
    }
    fn authenticate<'a>(&'a self, attempt: &'a Attempt<'a>) -> BoxFuture<'a, Outcome> {
        let knows = attempt
            .password
            .is_some_and(|word| word.expose() == b"sesame");
        let who = attempt
            .username
            .and_then(|name| Principal::vouched("user", name).ok());
        let answer = match who.filter(|_| knows) {
            Some(who) => Outcome::Accepted(Accepted {
                identity: Identity::new(who),
                lease: Lease {
                    until: None,
                    credential: Credential::new("word", ""),
                },
                data: None,
            }),
            None => Outcome::Refused(Refusal::new(RefusalKind::BadCredential, "not the word")),
        };
        Box::pin(async { answer })
    }
    fn standing(&self, _: &Credential, _: Use) -> Standing {
        Standing::Good
    }
    fn generation(&self) -> u64 {
        0
    }
}

struct Lab;

impl Authorizer for Lab {
    fn name(&self) -> &'static str {
        "lab"
    }
    fn grants(&self, _: &Snapshot) -> Arc<dyn Grants> {
        Arc::new(Lab)
    }
    fn generation(&self) -> u64 {
        0
    }
}

impl Grants for Lab {
    fn decide(&self, _: Action, topic: TopicName<'_>) -> Decision {
        if topic.as_str().starts_with("lab/") {
            Decision::Allow(Rule(0))
        } else {
            Decision::Silent
        }
    }
    fn share(&self, _: &str) -> Decision {
        Decision::Silent
    }
    fn cover(&self, filter: TopicFilter<'_>) -> Cover {
        if filter.filter().starts_with("lab/") {
            Cover::Full
        } else {
            Cover::Nothing(None)
        }
    }
    fn describe(&self, _: Rule) -> String {
        "everything below lab/".to_owned()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoint = Endpoint::Tcp("127.0.0.1:18830".parse()?);
    let listener = Listener {
        name: "lab".into(),
        endpoint,
        tls: None,
        methods: None,
    };
    let builder = Broker::builder().listener(listener);
    let broker = builder
        .authenticator(Arc::new(Word))
        .authorizer(Arc::new(Lab))
        .start()
        .await?;
    tokio::signal::ctrl_c().await?;
    broker.stop().await;
    Ok(())
}
