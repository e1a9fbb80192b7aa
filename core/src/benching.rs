//! A broker without sockets, for the benchmarks; nothing else calls it.
//!
//! Clients are driven through the same protocol machine as everybody's: bytes go in, the guard and
//! the modules are asked, bytes come out. Nothing authorized leaves this module.

use std::sync::Arc;
use std::task::Waker;

use arc_swap::ArcSwap;

use crate::budget::Process;
use crate::bus::Native;
use crate::clock::Now;
use crate::connection::{Connection, Terms};
use crate::engine::{Admitted, Engine, NewLink};
use crate::guard::{Inbound, Subject};
use crate::hook::{
    Admission, Authenticator, Authorizer, Credential, Identity, Modules, Observer, Snapshot,
};
use crate::message::{Asked, Publication};
use crate::settings::Settings;
use crate::topic::TopicName;
use crate::wire::{MessageProperties, QoS, Version};

/// The modules of a broker, as far as traffic meets them.
#[derive(Default)]
pub struct Chains {
    /// Who vouches for the credentials of authors whose messages were stored.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    /// May it?
    pub authorizers: Vec<Arc<dyn Authorizer>>,
    /// Is it behaving?
    pub admissions: Vec<Arc<dyn Admission>>,
    /// Who watches.
    pub observers: Vec<Arc<dyn Observer>>,
}

/// A broker that keeps everything in memory.
pub struct World(Arc<Engine>);

impl World {
    /// A broker with these settings and modules.
    #[must_use]
    pub fn new(settings: Settings, chains: Chains) -> Self {
        let modules = Modules {
            authenticators: chains.authenticators,
            authorizers: chains.authorizers,
            admissions: chains.admissions,
            observers: chains.observers,
            ..Modules::default()
        };
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let bus = Native::new(Arc::clone(&settings), Arc::clone(&modules.metrics));
        Self(Arc::new(Engine::new(
            Arc::new(modules),
            settings,
            Arc::new(bus),
            None,
            Arc::new(Process),
        )))
    }

    /// A connected client with a clean session; `None` if it is not let in.
    #[must_use]
    pub fn connect(&self, identity: Identity, client_id: &str, version: Version) -> Option<Client> {
        let now = Now::read();
        let subject = self.subject(identity, client_id);
        let attached = self.0.attach(
            &client_id.into(),
            Admitted {
                subject: Arc::clone(&subject),
                clean_start: true,
                expiry: 0,
                will: None,
                link: NewLink {
                    version,
                    receive_maximum: None,
                    max_packet: None,
                    topic_alias_max: 0,
                },
            },
            now,
        );
        let watch = self.0.modules.watch(subject.snapshot(), now).ok()?;
        let terms = Terms {
            version,
            keep_alive: 0,
            until: None,
            has_expiry: false,
            auth_method: None,
            max_packet: None,
        };
        let engine = Arc::clone(&self.0);
        let connection = Connection::new(engine, attached.ok()?.0, subject, watch, terms, now);
        Some(Client {
            connection,
            output: Vec::new(),
        })
    }

    /// Sessions with a subscription that matches, found in the tree without any memory.
    #[must_use]
    pub fn matching(&self, topic: TopicName<'_>) -> usize {
        self.0.matching(topic)
    }

    /// What stands between one client and the router.
    #[must_use]
    pub fn guard(&self, identity: Identity) -> Guard {
        let subject = self.subject(identity, "guarded");
        Guard {
            inbound: Inbound::new(Arc::clone(&subject), &self.0.modules),
            subject,
            engine: Arc::clone(&self.0),
            now: Now::read(),
        }
    }

    fn subject(&self, identity: Identity, client_id: &str) -> Arc<Subject> {
        let snapshot = Snapshot {
            credential: Credential::new("bench", identity.principal.name()),
            identity,
            client_id: client_id.into(),
            listener: "bench".into(),
            address: None,
        };
        Subject::new(snapshot, None, &self.0.modules)
    }
}

/// A connected client.
pub struct Client {
    connection: Connection,
    output: Vec<u8>,
}

impl Client {
    /// The client sends these packets at this moment; says how many bytes of them were taken, or
    /// that the connection is over.
    pub fn send(&mut self, packets: &[u8], now: Now) -> Option<usize> {
        self.connection.receive(packets, Waker::noop(), now).ok()
    }

    /// Everything that is ready for the client, as its socket would take it.
    pub fn take(&mut self, now: Now) -> &[u8] {
        self.output.clear();
        // A connection that is over has nothing to send.
        let _ = self
            .connection
            .take_output(&mut self.output, Waker::noop(), now);
        self.connection.wrote(self.output.len(), now);
        &self.output
    }
}

/// What stands between one client and the router, alone.
pub struct Guard {
    inbound: Inbound,
    subject: Arc<Subject>,
    engine: Arc<Engine>,
    now: Now,
}

impl Guard {
    /// Whether a publish to `topic` would pass.
    pub fn passes(&mut self, topic: TopicName<'_>) -> bool {
        let publication = Publication::new(
            topic,
            &[],
            QoS::AtMostOnce,
            Asked::default(),
            MessageProperties::default(),
            &self.subject,
            self.now.unix_millis(),
        );
        self.inbound
            .publish(publication, &self.engine.modules)
            .is_ok()
    }
}
