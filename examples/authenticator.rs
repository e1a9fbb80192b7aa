//! An `Authenticator` of one's own: a table of API keys, sent as the password.
//!
//! It shows the three answers: proven, refused, and "not mine" for clients without a password, so
//! that the next module in the chain is asked. `standing` is asked again whenever `generation`
//! moves, so that a key that is taken back ends the connections that used it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_core::hook::{
    Accepted, Attempt, Authenticator, BoxFuture, Credential, Identity, Lease, Outcome, Principal,
    Refusal, RefusalKind, Standing, Use,
};

/// Keys and whose they are.
#[derive(Default)]
struct ApiKeys {
    owners: Mutex<HashMap<Vec<u8>, String>>,
    generation: AtomicU64,
}

impl ApiKeys {
    /// Takes every key of `owner` back.
    fn revoke(&self, owner: &str) {
        if let Ok(mut owners) = self.owners.lock() {
            owners.retain(|_, known| known != owner);
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn judge(&self, attempt: &Attempt<'_>) -> Outcome {
        let Some(key) = attempt.password else {
            return Outcome::NotMine;
        };
        // A lock that is poisoned is a refusal, like everything that is unclear.
        let owner = self
            .owners
            .lock()
            .ok()
            .and_then(|owners| owners.get(key.expose()).cloned());
        let principal = owner.and_then(|name| Principal::vouched("user", &name).ok());
        match principal {
            Some(principal) => Outcome::Accepted(Accepted {
                lease: Lease {
                    until: None,
                    credential: Credential::new("api-key", principal.name()),
                },
                identity: Identity::new(principal),
                data: None,
            }),
            None => Outcome::Refused(Refusal::new(
                RefusalKind::BadCredential,
                "the API key is not known",
            )),
        }
    }
}

impl Authenticator for ApiKeys {
    fn name(&self) -> &'static str {
        "api-keys"
    }

    fn authenticate<'a>(&'a self, attempt: &'a Attempt<'a>) -> BoxFuture<'a, Outcome> {
        let outcome = self.judge(attempt);
        Box::pin(async { outcome })
    }

    fn standing(&self, credential: &Credential, _: Use) -> Standing {
        if &*credential.method != "api-key" {
            return Standing::NotMine;
        }
        let known = self.owners.lock().is_ok_and(|owners| {
            owners
                .values()
                .any(|owner| **owner == *credential.reference)
        });
        if known {
            Standing::Good
        } else {
            Standing::Revoked("its API key was taken back".to_owned())
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

fn main() {
    let keys = ApiKeys::default();
    if let Ok(mut owners) = keys.owners.lock() {
        owners.insert(b"k-123".to_vec(), "press-4".to_owned());
    }
    let credential = Credential::new("api-key", "press-4");
    println!("{:?}", keys.standing(&credential, Use::Live));
    keys.revoke("press-4");
    println!("{:?}", keys.standing(&credential, Use::Live));
    println!("register it with Broker::builder().authenticator(..)");
}
