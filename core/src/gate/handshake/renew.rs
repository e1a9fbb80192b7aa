//! Re-authentication of a live connection (5.0, section 4.12.1).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clock::Now;
use crate::connection::{Connection, End};
use crate::engine::{Close, Engine};
use crate::guard::Subject;
use crate::hook::{
    Accepted, Arrival, Attempt, BoxFuture, ClientCertificate, Outcome, Refusal, RefusalKind,
    Snapshot, StopClock, Use,
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
                generation: 0,
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

impl RenewalFacts {
    /// Counts a bad credential against its address, as one of a CONNECT: whoever has a good one of his
    /// own must not guess those of others by renewing.
    fn refused(&self, refusal: &Refusal, now: Now) {
        if refusal.kind != RefusalKind::BadCredential {
            return;
        }
        let arrival = Arrival {
            address: self.peer.map(|peer| peer.ip().to_canonical()),
            listener: &self.listener,
            proven: false,
        };
        self.engine.metrics.refused_credentials.inc();
        let claimed = refusal.claimed.as_ref();
        self.engine.modules.failed(&arrival, claimed, now);
    }
}

/// Re-authentication of a live connection (5.0, section 4.12.1).
struct Renewal {
    gate: RenewalFacts,
    subject: Arc<Subject>,
    exchange: u64,
    step: u32,
    /// How credentials and bans stood before the first step.
    generation: u64,
}

impl Renewal {
    /// Puts the new identity in the place of the old one, if it still stands: what was proved may
    /// have come to an end while it was judged.
    fn renewed(
        &mut self,
        connection: &mut Connection,
        accepted: &Accepted,
        now: Now,
    ) -> Result<(), End> {
        let engine = &self.gate.engine;
        let old = self.subject.snapshot();
        if accepted.identity.principal != *old.principal() {
            return Err(end("re-authentication as somebody else".to_owned()));
        }
        if accepted.lease.until.is_some_and(|until| until <= now.wall) {
            let reason = "re-authentication: the credential expired while it was judged";
            return Err(end(reason.to_owned()));
        }
        let snapshot = Snapshot {
            identity: accepted.identity.clone(),
            credential: accepted.lease.credential.clone(),
            ..old.clone()
        };
        let subject = Subject::new(snapshot, self.subject.port(), &engine.modules);
        // Before the question: what changes meanwhile is seen by the comparison afterwards.
        let generation = engine.modules.standing_generation();
        if generation != self.generation
            && let Err(reason) = subject.stands(Use::Live, &engine.modules, now)
        {
            return Err(closed(format!("re-authentication: {reason}"), false));
        }
        self.subject = Arc::clone(&subject);
        connection.renew(subject, accepted.lease.until, accepted.data.as_deref(), now)?;
        if engine.modules.standing_generation() != generation {
            // The sweep after that change may have asked about the old credential.
            engine.sweep_one(connection, now);
        }
        self.step = 0;
        self.exchange = self.exchange.wrapping_add(1 << 32);
        Ok(())
    }
}

fn end(reason: String) -> End {
    closed(reason, true)
}

fn closed(reason: String, will: bool) -> End {
    End::Server(Close {
        code: ReasonCode::NotAuthorized,
        reason,
        will,
    })
}

impl Renew for Renewal {
    fn judge(&mut self, data: Vec<u8>) -> BoxFuture<'static, Outcome> {
        let facts = self.gate.clone();
        let subject = Arc::clone(&self.subject);
        let (step, exchange) = (self.step, self.exchange);
        if step == 0 {
            self.generation = facts.engine.modules.standing_generation();
        }
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
        match outcome {
            Outcome::Continue(challenge) if self.step < MAX_STEPS => {
                connection.challenge(&challenge)
            }
            Outcome::Accepted(accepted) => self.renewed(connection, &accepted, now),
            Outcome::Refused(refusal) => {
                self.gate.refused(&refusal, now);
                Err(end(format!("re-authentication: {}", refusal.reason)))
            }
            Outcome::Continue(_) | Outcome::NotMine => {
                Err(end("re-authentication did not end".to_owned()))
            }
        }
    }
}
