//! A proven client: is it admitted, with its will and its session?

use std::sync::Arc;

use crate::clock::Now;
use crate::connection::{Connection, Terms, announced_max_qos, granted_expiry, granted_keep_alive};
use crate::engine::{Admitted, NewLink, NotAttached, Will};
use crate::guard::{self, Subject};
use crate::hook::{Accepted, Event, Snapshot, Use, Verdict};
use crate::message::{Asked, Publication};
use crate::settings::{ClientIdRule, Settings};
use crate::topic::TopicName;
use crate::wire::{self, ConnAck, Connect, ReasonCode, Version};

use super::{Denied, Handshake, Proven, Ready};

impl Handshake<'_> {
    /// A proven client: the client-id rule, bans, flapping. One that comes back too often waits.
    /// Gives the time afterwards.
    pub(super) async fn behaved(
        &self,
        connect: &Connect<'_>,
        (accepted, generation): (Accepted, u64),
        settings: &Settings,
    ) -> Result<(Proven, Now), Denied> {
        // Whoever judged it took its time.
        let mut now = Now::read();
        let Accepted {
            identity,
            lease,
            data,
        } = accepted;
        let name = identity.name();
        let client_id = client_id(connect.client_id, name, settings.client_id)
            .map_err(|reason| (ReasonCode::NotAuthorized, "client-id", reason))?;
        let snapshot = Snapshot {
            identity,
            credential: lease.credential,
            client_id,
            listener: Arc::clone(&self.shared.name),
            address: self.peer.map(|peer| peer.ip().to_canonical()),
        };
        match self.gate.engine.modules.admit(&snapshot, now) {
            Verdict::Admit => {}
            Verdict::Slow(wait) => {
                self.clock.pause(wait).await;
                now = Now::read();
            }
            Verdict::Refuse { code, reason, .. } => return Err((code, "admission", reason)),
        }
        let proven = Proven {
            snapshot,
            until: lease.until,
            data,
            generation,
        };
        Ok((proven, now))
    }

    /// What was proved may have come to an end while its client was judged or waited. Gives the
    /// generation that this was asked in.
    fn stands_still(&self, proven: &Proven, now: Now) -> Result<u64, Denied> {
        let modules = &self.gate.engine.modules;
        let credential = |reason| Err((ReasonCode::BadUserNameOrPassword, "credential", reason));
        if proven.until.is_some_and(|until| until <= now.wall) {
            return credential("the credential expired while its client waited".to_owned());
        }
        // Before the questions: what changes meanwhile is seen by whoever compares afterwards.
        let generation = modules.standing_generation();
        if generation == proven.generation {
            return Ok(generation);
        }
        let who = &proven.snapshot;
        if let Some(reason) = modules.revoked(who, Use::Live) {
            return credential(reason);
        }
        if !modules.in_good_standing(who, now) {
            let reason = "banned while it waited".to_owned();
            return Err((ReasonCode::NotAuthorized, "admission", reason));
        }
        Ok(generation)
    }

    /// Its will and its session. No await in here, so that nothing is half done when the deadline
    /// strikes.
    pub(super) fn admit(
        &self,
        connect: &Connect<'_>,
        proven: Proven,
        settings: &Settings,
        now: Now,
    ) -> Result<Ready, Denied> {
        let engine = &self.gate.engine;
        let generation = self.stands_still(&proven, now)?;
        let Proven {
            snapshot,
            until,
            data,
            ..
        } = proven;
        let client_id = Arc::clone(&snapshot.client_id);
        let subject = Subject::new(snapshot, self.peer.map(|peer| peer.port()), &engine.modules);
        let will = self.will(connect, &subject, settings, now)?;
        let watch = engine
            .modules
            .watch(subject.snapshot(), now)
            .map_err(|reason| (ReasonCode::UnspecifiedError, "module", reason))?;
        let asked = match (connect.version, connect.session_expiry) {
            (Version::V5, asked) => asked.unwrap_or(0),
            (Version::V3_1 | Version::V3_1_1, _) if connect.clean_start => 0,
            (Version::V3_1 | Version::V3_1_1, _) => u32::MAX,
        };
        let expiry = granted_expiry(asked, settings);
        let greet = |session_present| {
            let lives = (asked, expiry);
            greeting(
                connect,
                settings,
                session_present,
                &client_id,
                lives,
                data.as_deref(),
            )
        };
        // [MQTT-3.1.2-24]: found out before anything is touched.
        if let Some(max) = connect.max_packet_size
            && greet(false).len() > max.get() as usize
        {
            return Err((
                ReasonCode::PacketTooLarge,
                "limit",
                format!("the client takes packets of at most {max} bytes; CONNACK is larger"),
            ));
        }
        let (attached, session_present) = engine
            .attach(
                &client_id,
                Admitted {
                    subject: Arc::clone(&subject),
                    clean_start: connect.clean_start,
                    expiry,
                    will,
                    link: NewLink {
                        version: connect.version,
                        receive_maximum: connect.receive_maximum,
                        max_packet: connect.max_packet_size,
                        topic_alias_max: connect.topic_alias_max,
                    },
                },
                now,
            )
            .map_err(|error| not_attached(error, &client_id))?;
        let event = Event::Connected {
            who: subject.snapshot(),
            peer: self.peer,
            version: connect.version,
            session_present,
        };
        engine.modules.observe(&event, now);
        let greeting = greet(session_present);
        let renewal = self.renewal(connect, &subject);
        let terms = Terms {
            version: connect.version,
            keep_alive: connect.keep_alive,
            until,
            has_expiry: asked > 0,
            auth_method: connect.auth_method.map(Into::into),
            max_packet: connect.max_packet_size,
        };
        let engine = Arc::clone(engine);
        let mut connection = Connection::new(engine, attached, subject, watch, terms, now);
        connection.greet(greeting);
        if self.gate.engine.modules.standing_generation() != generation {
            // The sweep after that change may not have found this client among the sessions.
            self.gate.engine.sweep_one(&connection, now);
        }
        Ok(Ready {
            connection,
            renewal,
            now,
        })
    }

    /// The will, authorized now and asked about again when it fires.
    fn will(
        &self,
        connect: &Connect<'_>,
        subject: &Arc<Subject>,
        settings: &Settings,
        now: Now,
    ) -> Result<Option<Box<Will>>, Denied> {
        let Some(will) = &connect.will else {
            return Ok(None);
        };
        let modules = &self.gate.engine.modules;
        let topic = TopicName::new(will.topic, settings.mqtt.topic).map_err(|error| {
            let reason = format!("the will's topic {error}");
            (ReasonCode::TopicNameInvalid, "will", reason)
        })?;
        let mut properties = will.properties;
        let expiry = properties.expiry.take();
        let publication = Publication::new(
            topic,
            will.payload,
            will.qos,
            Asked {
                retain: will.retain,
                will: true,
            },
            properties,
            subject,
            now.unix_millis(),
        );
        let rights = subject.rights(modules);
        guard::response_topic(&publication, &rights, settings, modules)
            .map_err(|rule| (ReasonCode::NotAuthorized, "will", format!("will: {rule}")))?;
        let message = guard::will(&publication, &rights, modules).map_err(|(action, denial)| {
            let rule = rights.describe(denial, modules);
            let reason = format!("{action} of the will to {topic:?} denied: {rule}");
            (ReasonCode::NotAuthorized, "will", reason)
        })?;
        Ok(Some(Box::new(Will::new(message, will.delay, expiry))))
    }
}

fn not_attached(error: NotAttached, client_id: &str) -> Denied {
    match error {
        NotAttached::SomebodyElses(owner) => (
            ReasonCode::NotAuthorized,
            "session",
            format!("the session {client_id:?} belongs to {owner}"),
        ),
        NotAttached::StoreFull => (
            ReasonCode::QuotaExceeded,
            "store",
            "the store does not take a session that must survive".to_owned(),
        ),
        NotAttached::NoMemory => (
            ReasonCode::ServerBusy,
            "limit",
            "limits.memory: memory is short, and the client is new or brings a large will"
                .to_owned(),
        ),
        NotAttached::TooMany(limit) => (
            ReasonCode::QuotaExceeded,
            "limit",
            format!("limits.sessions-per-principal = {limit}"),
        ),
    }
}

/// The client id that holds, by the rule of `[auth] client-id`.
fn client_id(asked: &str, name: &str, rule: ClientIdRule) -> Result<Arc<str>, String> {
    let random = || {
        let mut bytes = [0u8; 12];
        // Without randomness there is no name that nobody else can guess: refused.
        getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
        Ok::<_, String>(bytes.iter().fold(String::new(), |mut text, byte| {
            use std::fmt::Write;
            let _ = write!(text, "{byte:02x}");
            text
        }))
    };
    match rule {
        ClientIdRule::Any if asked.is_empty() => Ok(format!("auto-{}", random()?).into()),
        ClientIdRule::Any => Ok(asked.into()),
        ClientIdRule::Name if asked.is_empty() => Ok(format!("{name}:{}", random()?).into()),
        ClientIdRule::Name => {
            let fits = asked
                .strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
            if fits && !name.is_empty() {
                Ok(asked.into())
            } else {
                Err(format!(
                    "client-id = \"name\": {asked:?} is neither {name:?} nor {name:?}:SUFFIX"
                ))
            }
        }
    }
}

fn greeting(
    connect: &Connect<'_>,
    settings: &Settings,
    session_present: bool,
    client_id: &str,
    (asked, granted): (u32, u32),
    auth_data: Option<&[u8]>,
) -> Vec<u8> {
    let keep_alive = granted_keep_alive(connect.keep_alive, settings.mqtt.keep_alive_max);
    let keep_alive = u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX);
    let connack = ConnAck {
        session_present,
        session_expiry: (asked != granted).then_some(granted),
        receive_maximum: Some(settings.mqtt.receive_maximum),
        max_qos: announced_max_qos(settings),
        max_packet_size: Some(settings.mqtt.max_packet_size),
        assigned_client_id: connect.client_id.is_empty().then_some(client_id),
        topic_alias_max: settings.mqtt.topic_alias_max,
        server_keep_alive: (keep_alive != connect.keep_alive).then_some(keep_alive),
        auth_method: connect.auth_method,
        auth_data,
        ..ConnAck::refusal(ReasonCode::Success)
    };
    let mut out = Vec::new();
    wire::connack(&mut out, connect.version, &connack);
    out
}
