//! Re-authentication of a live connection (5.0, section 4.12.1).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use crate::clock::Now;
use crate::connection::{Connection, End};
use crate::engine::{Close, Engine};
use crate::guard::Subject;
use crate::hook::{
    Attempt, BoxFuture, ClientCertificate, Outcome, Refusal, RefusalKind, Snapshot, StopClock,
};
use crate::secret::Secret;
use crate::wire::{Connect, ReasonCode, Version};

use super::super::driver::Renew;
use super::{Handshake, MAX_STEPS};

impl Handshake<'_> {
    /// What judges a re-authentication, for a client that used an Authentication Method.
    pub(super) fn renewal(
        &self,
        connect: &Connect<'_>,
        subject: &Arc<Subject>,
    ) -> Option<Box<dyn Renew>> {
        connect.auth_method.map(|method| {
            let renewal = Renewal {
                gate: RenewalFacts {
                    engine: Arc::clone(&self.gate.engine),
                    listener: Arc::clone(&self.shared.name),
                    methods: self.shared.methods.clone(),
                    loopback: self.shared.loopback,
                    peer: self.peer,
                    version: connect.version,
                    certificate: self.stream.client_certificate(),
                    method: method.into(),
                    username: connect.username.map(Into::into),
                },
                subject: Arc::clone(subject),
                exchange: self.gate.exchanges.fetch_add(1, Ordering::Relaxed),
                step: 0,
            };
            Box::new(renewal) as Box<dyn Renew>
        })
    }
}

/// What a re-authentication is judged by.
#[derive(Clone)]
struct RenewalFacts {
    engine: Arc<Engine>,
    listener: Arc<str>,
    methods: Option<Vec<Box<str>>>,
    loopback: bool,
    peer: Option<SocketAddr>,
    version: Version,
    certificate: Option<ClientCertificate>,
    method: Box<str>,
    username: Option<Box<str>>,
}

/// Re-authentication of a live connection (5.0, section 4.12.1).
struct Renewal {
    gate: RenewalFacts,
    subject: Arc<Subject>,
    exchange: u64,
    step: u32,
}

impl Renew for Renewal {
    fn judge(&mut self, data: Vec<u8>) -> BoxFuture<'static, Outcome> {
        let facts = self.gate.clone();
        let subject = Arc::clone(&self.subject);
        let (step, exchange) = (self.step, self.exchange);
        self.step += 1;
        Box::pin(async move {
            let clock = StopClock::new(facts.engine.settings.load().limits.connect_deadline);
            let attempt = Attempt {
                listener: &facts.listener,
                methods: facts.methods.as_deref(),
                loopback: facts.loopback,
                peer: facts.peer,
                version: facts.version,
                client_id: &subject.snapshot().client_id,
                username: facts.username.as_deref(),
                password: None,
                enhanced: Some((&facts.method, Some(Secret::new(&data)))),
                bearer: None,
                certificate: facts.certificate.as_ref(),
                now: Now::read(),
                step,
                exchange,
                current: Some(subject.snapshot()),
                clock: clock.clone(),
            };
            tokio::select! {
                biased;
                outcome = facts.engine.modules.authenticate(&attempt) => outcome,
                _ = clock.up() => {
                    Outcome::Refused(Refusal::new(RefusalKind::Unavailable, "no answer in time"))
                }
            }
        })
    }

    fn settle(
        &mut self,
        connection: &mut Connection,
        outcome: Outcome,
        now: Now,
    ) -> Result<(), End> {
        let end = |reason: String| {
            End::Server(Close {
                code: ReasonCode::NotAuthorized,
                reason,
                will: true,
            })
        };
        match outcome {
            Outcome::Continue(challenge) if self.step < MAX_STEPS => {
                connection.send_auth(ReasonCode::ContinueAuthentication, Some(&challenge));
                Ok(())
            }
            Outcome::Accepted(accepted) => {
                let old = self.subject.snapshot();
                if accepted.identity.principal != *old.principal() {
                    return Err(end("re-authentication as somebody else".to_owned()));
                }
                let snapshot = Snapshot {
                    identity: accepted.identity,
                    credential: accepted.lease.credential,
                    ..old.clone()
                };
                self.subject = Subject::new(snapshot, &self.gate.engine.modules);
                let until: Option<SystemTime> = accepted.lease.until;
                connection.renew(
                    Arc::clone(&self.subject),
                    until,
                    accepted.data.as_deref(),
                    now,
                );
                self.step = 0;
                self.exchange = self.exchange.wrapping_add(1 << 32);
                Ok(())
            }
            Outcome::Refused(refusal) => Err(end(format!("re-authentication: {}", refusal.reason))),
            Outcome::Continue(_) | Outcome::NotMine => {
                Err(end("re-authentication did not end".to_owned()))
            }
        }
    }
}
