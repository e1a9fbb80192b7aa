//! From accept to CONNACK: one task, one deadline.
//!
//! The order is the defence: address and rate (before TLS, `listener`; behind a proxy once its header
//! has named the client), TLS, the upgrade to WebSocket, the first packet with its own size limit, may this source try at all, is the record able to take it, who is it,
//! is it admitted, its will, its session. Nothing that fails on the way has touched a session, a
//! will or a connection (rule 2). The client is told one code whatever the reason; the whole
//! reason goes to the observers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::clock::Now;
use crate::connection::{
    Connection, End, Terms, announced_max_qos, granted_expiry, granted_keep_alive,
};
use crate::engine::{Admitted, Close, NewLink, NotAttached, Will};
use crate::guard::{self, Subject};
use crate::hook::{
    Accepted, Arrival, Attempt, BoxFuture, ClientCertificate, Event, Outcome, Refusal, RefusalKind,
    Snapshot, Verdict,
};
use crate::message::{Asked, Publication};
use crate::secret::Secret;
use crate::settings::{ClientIdRule, Settings};
use crate::topic::TopicName;
use crate::wire::{
    self, ConnAck, Connect, DecodeError, Packet, ReasonCode, Version, decode, decode_connect,
    split_frame,
};

use super::driver::{Driver, Renew, say_goodbye};
use super::listener::{Shared, Transport, Turned, may_arrive, refused};
use super::proxy::{self, Header, MAX_V2, Progress};
use super::stream::Stream;
use super::websocket::{WebSocket, upgrade};
use super::{Gate, Place};

/// Longest client identifier accepted, bytes; they are kept for every session.
const CLIENT_ID_MAX: usize = 1024;

/// Why a handshake ends without a connection.
struct Failed {
    /// What the client is told; nothing where it did not even speak MQTT.
    code: Option<ReasonCode>,
    check: &'static str,
    reason: String,
    client_id: Option<String>,
    claimed: Option<String>,
    version: Version,
}

impl Failed {
    fn silent(check: &'static str, reason: impl Into<String>) -> Self {
        Self {
            code: None,
            check,
            reason: reason.into(),
            client_id: None,
            claimed: None,
            version: Version::V3_1_1,
        }
    }
}

/// Carries a new connection to its CONNACK, or ends it.
pub(super) async fn run(
    gate: Arc<Gate>,
    shared: Arc<Shared>,
    stream: Stream,
    peer: Option<SocketAddr>,
    place: Place,
    wait: Duration,
    arrived: Now,
) {
    let deadline = arrived.mono + gate.engine.settings.load().limits.connect_deadline;
    let mut handshake = Handshake {
        gate: &gate,
        shared: &shared,
        peer,
        place,
        stream,
        bearer: None,
        input: Vec::new(),
    };
    let result = timeout_at(deadline.into(), async {
        sleep(wait).await;
        handshake.proxied().await?;
        handshake.tls().await?;
        handshake.upgrade().await?;
        handshake.connect().await
    })
    .await;
    let Handshake {
        stream,
        input,
        peer,
        place,
        ..
    } = handshake;
    let now = Now::read();
    match result {
        Ok(Ok(ready)) => {
            let driver = Driver::new(stream, ready.connection, input, ready.renewal, place, now);
            // A task of its own: this one's memory, larger than a connection needs, is given back.
            tokio::spawn(driver);
        }
        Ok(Err(failed)) => {
            let event = Event::ConnectionRefused {
                listener: &shared.name,
                peer,
                client_id: failed.client_id.as_deref(),
                claimed: failed.claimed.as_deref(),
                check: failed.check,
                code: failed.code,
                reason: &failed.reason,
            };
            gate.engine.modules.observe(&event, now);
            let mut farewell = Vec::new();
            if let Some(code) = failed.code {
                wire::connack(&mut farewell, failed.version, &ConnAck::refusal(code));
            }
            say_goodbye(stream, Vec::new(), farewell, Some(place)).await;
        }
        Err(_) => {
            gate.engine.metrics.connect_timeouts.inc();
            let reason = "no CONNACK within limits.connect-deadline";
            refused(&gate, &shared, peer, "deadline", None, reason, now);
        }
    }
}

struct Handshake<'g> {
    gate: &'g Gate,
    shared: &'g Shared,
    /// The client, as far as it is known: behind a proxy the one that its header names.
    peer: Option<SocketAddr>,
    place: Place,
    stream: Stream,
    /// The token of the WebSocket upgrade: a secret.
    bearer: Option<Box<[u8]>>,
    input: Vec<u8>,
}

/// A refusal before it is one: the code, the kind of check, the whole reason.
type Denied = (ReasonCode, &'static str, String);

/// A client that is who it says and may come in.
struct Proven {
    snapshot: Snapshot,
    until: Option<SystemTime>,
    data: Option<Vec<u8>>,
}

struct Ready {
    connection: Connection,
    renewal: Option<Box<dyn Renew>>,
}

impl Handshake<'_> {
    /// Behind a trusted proxy: whose connection it is, and whether that client may come in.
    async fn proxied(&mut self) -> Result<(), Failed> {
        if self.shared.trusted_proxies.is_none() {
            return Ok(());
        }
        let engine = &self.gate.engine;
        let mut header = Vec::new();
        let client = loop {
            match proxy::parse(&header) {
                Ok(Progress::Done(Header::Client(client))) => break client,
                // The proxy itself, a health check: no client to ask about.
                Ok(Progress::Done(Header::Proxy)) => return Ok(()),
                Ok(Progress::More(more)) => {
                    // Not a byte further: what follows is TLS.
                    let mut chunk = [0; MAX_V2];
                    let wanted = chunk.get_mut(..more).unwrap_or_default();
                    match self.stream.read(wanted).await {
                        Ok(0) => return Err(Failed::silent("network", "closed in a PROXY header")),
                        Ok(count) => {
                            header.extend_from_slice(wanted.get(..count).unwrap_or_default());
                        }
                        Err(error) => return Err(Failed::silent("network", error.to_string())),
                    }
                }
                Err(error) => {
                    engine.metrics.untrusted_proxies.inc();
                    return Err(Failed::silent("proxy", error.to_string()));
                }
            }
        };
        let address = client.ip().to_canonical();
        self.peer = Some(SocketAddr::new(address, client.port()));
        let admitted =
            may_arrive(self.gate, self.shared, Some(address), Now::read()).and_then(|wait| {
                self.place
                    .claim(address)
                    .map_err(Turned::Limit)
                    .map(|()| wait)
            });
        match admitted {
            Ok(wait) => {
                sleep(wait).await;
                Ok(())
            }
            Err(turned) => {
                // As for everybody who is turned away on arrival: closed without a word.
                self.stream = Stream::Closed;
                let (check, _, reason) = turned.counted(&engine.metrics);
                Err(Failed::silent(check, reason))
            }
        }
    }

    /// On a WebSocket listener: the HTTP request, its answer, and the stream that follows.
    async fn upgrade(&mut self) -> Result<(), Failed> {
        let Transport::WebSocket(rules) = &self.shared.transport else {
            return Ok(());
        };
        let engine = &self.gate.engine;
        let network = |error: std::io::Error| Failed::silent("network", error.to_string());
        let mut request = Vec::new();
        let granted = loop {
            let seen = request.len();
            let mut chunk = [0; 1024];
            match self.stream.read(&mut chunk).await.map_err(network)? {
                0 => return Err(Failed::silent("network", "closed before its upgrade")),
                count => request.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            }
            match upgrade::judge(&request, seen, rules) {
                Ok(None) => {}
                Ok(Some(granted)) => break granted,
                Err(rejection) => {
                    engine.metrics.refused_upgrades.inc();
                    // Who is gone already misses nothing.
                    let _ = self.stream.write_all(rejection.response()).await;
                    return Err(Failed::silent("websocket", rejection.to_string()));
                }
            }
        };
        let sent = self.stream.write_all(&granted.response).await;
        sent.map_err(network)?;
        self.stream.flush().await.map_err(network)?;
        self.bearer = granted.bearer;
        let inner = std::mem::replace(&mut self.stream, Stream::Closed);
        let max_packet = engine.settings.load().mqtt.max_packet_size;
        let socket = WebSocket::new(inner, max_packet, Arc::clone(&engine.metrics));
        self.stream = Stream::WebSocket(Box::new(socket));
        Ok(())
    }

    async fn tls(&mut self) -> Result<(), Failed> {
        let Some(config) = self.shared.tls.load_full() else {
            return Ok(());
        };
        let tcp = match std::mem::replace(&mut self.stream, Stream::Closed) {
            Stream::Tcp(tcp) => tcp,
            other @ (Stream::Unix(_) | Stream::Tls(_) | Stream::WebSocket(_) | Stream::Closed) => {
                self.stream = other;
                return Ok(());
            }
        };
        // A stranger who says nothing holds no handshake place.
        let metrics = &self.gate.engine.metrics;
        let readable = tcp.readable().await;
        let _permit = self.gate.handshakes.acquire().await;
        match readable {
            Ok(()) => {}
            Err(error) => return Err(Failed::silent("network", error.to_string())),
        }
        match TlsAcceptor::from(config).accept(tcp).await {
            Ok(stream) => {
                self.stream = Stream::Tls(Box::new(stream));
                Ok(())
            }
            Err(error) => {
                metrics.tls_failures.inc();
                Err(Failed::silent("tls", error.to_string()))
            }
        }
    }

    /// Reads until `input` holds a whole packet; returns it as its own buffer.
    async fn packet(&mut self, max: u32) -> Result<Vec<u8>, Failed> {
        loop {
            match split_frame(&self.input, max) {
                Ok(Some(frame)) => {
                    let size = frame.size;
                    let rest = self.input.split_off(size);
                    return Ok(std::mem::replace(&mut self.input, rest));
                }
                Ok(None) => {}
                Err(error) => {
                    self.gate.engine.metrics.malformed.inc();
                    return Err(Failed::silent("protocol", error.to_string()));
                }
            }
            // Memory is taken as bytes arrive, never as the header promises.
            let mut chunk = [0; 2048];
            match self.stream.read(&mut chunk).await {
                Ok(0) => return Err(Failed::silent("network", "closed before CONNECT")),
                Ok(count) => self
                    .input
                    .extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) => return Err(Failed::silent("network", error.to_string())),
            }
        }
    }

    async fn connect(&mut self) -> Result<Ready, Failed> {
        let gate = self.gate;
        let engine = &gate.engine;
        let settings = engine.settings.load_full();
        let bytes = self.packet(settings.mqtt.connect_packet_size).await?;
        let mut limits = settings.wire_limits();
        limits.max_packet_size = settings.mqtt.connect_packet_size;
        let Ok(Some(frame)) = split_frame(&bytes, limits.max_packet_size) else {
            return Err(Failed::silent("protocol", "not a packet"));
        };
        let version = frame.connect_version().unwrap_or(Version::V3_1_1);
        let connect = decode_connect(frame, &limits).map_err(|error| {
            engine.metrics.malformed.inc();
            let mut failed = Failed::silent("protocol", error.to_string());
            failed.version = version;
            // Who does not speak MQTT at all is told nothing.
            let told = version.is_v5() || error == DecodeError::UnsupportedVersion;
            failed.code = (told && error != DecodeError::NotConnect).then(|| error.reason());
            failed
        })?;
        // [MQTT-3.1.2-24]: not even a refusal fits, which takes five bytes.
        let takes = connect.max_packet_size.is_none_or(|max| max.get() >= 5);
        let failed = |code: ReasonCode, check, reason: String| Failed {
            code: takes.then_some(code),
            check,
            reason,
            client_id: Some(connect.client_id.to_owned()),
            claimed: connect.username.map(str::to_owned),
            version: connect.version,
        };
        self.preconditions(&connect, &settings)
            .await
            .map_err(|(code, check, reason)| failed(code, check, reason))?;
        let generation = engine.modules.standing_generation();
        let accepted = match self.authenticate(&connect).await? {
            Ok(accepted) => accepted,
            Err(refusal) => {
                let code = self.refuse(&refusal);
                let mut failed = failed(code, "credential", refusal.reason);
                if let Some(claimed) = refusal.claimed {
                    failed.claimed = Some(claimed.as_str().to_owned());
                }
                return Err(failed);
            }
        };
        let principal = accepted.identity.principal.clone();
        let refused = |(code, check, reason)| {
            engine.metrics.refused_admission.inc();
            Failed {
                claimed: Some(principal.as_str().to_owned()),
                ..failed(code, check, reason)
            }
        };
        let proven = self
            .behaved(&connect, accepted, &settings)
            .await
            .map_err(refused)?;
        let ready = self.admit(&connect, proven, &settings).map_err(refused)?;
        if engine.modules.standing_generation() != generation {
            // A revocation that came while this client was being judged found no session of it.
            engine.sweep_one(&ready.connection, Now::read());
        }
        Ok(ready)
    }

    fn arrival(&self) -> Arrival<'_> {
        Arrival {
            address: self.peer.map(|peer| peer.ip().to_canonical()),
            listener: &self.shared.name,
        }
    }

    /// What must hold before anybody's credential is looked at.
    async fn preconditions(
        &self,
        connect: &Connect<'_>,
        settings: &Settings,
    ) -> Result<(), Denied> {
        let engine = &self.gate.engine;
        if !engine.modules.can_record() {
            return Err((
                ReasonCode::ServerUnavailable,
                "audit",
                "the audit record takes nothing; see [audit] on-full".to_owned(),
            ));
        }
        let id = connect.client_id;
        let may_be_empty = match connect.version {
            Version::V5 => true,
            Version::V3_1_1 => connect.clean_start,
            // The text of 3.1 has no empty client id.
            Version::V3_1 => false,
        };
        if id.is_empty() && !may_be_empty {
            return Err((
                ReasonCode::ClientIdentifierNotValid,
                "client-id",
                "an empty client id without clean session [MQTT-3.1.3-8]".to_owned(),
            ));
        }
        if id.len() > CLIENT_ID_MAX || id.chars().any(char::is_control) {
            return Err((
                ReasonCode::ClientIdentifierNotValid,
                "client-id",
                format!(
                    "the client id is longer than {CLIENT_ID_MAX} bytes or has a control character"
                ),
            ));
        }
        if let Some(will) = &connect.will
            && will.qos > settings.mqtt.max_qos
        {
            return Err((
                ReasonCode::QoSNotSupported,
                "will",
                "the will's QoS is over mqtt.max-qos".to_owned(),
            ));
        }
        let claimed = connect.username.or_else(|| (!id.is_empty()).then_some(id));
        match engine
            .modules
            .attempt(&self.arrival(), claimed, Now::read())
        {
            Verdict::Admit => Ok(()),
            Verdict::Slow(wait) => {
                sleep(wait).await;
                Ok(())
            }
            Verdict::Refuse { code, reason, .. } => {
                engine.metrics.limits_hit.inc();
                Err((code, "limit", reason))
            }
        }
    }

    /// Asks who it is, in as many steps as the method takes.
    async fn authenticate(
        &mut self,
        connect: &Connect<'_>,
    ) -> Result<Result<Accepted, Refusal>, Failed> {
        let certificate = self.stream.client_certificate();
        let exchange = self.gate.exchanges.fetch_add(1, Ordering::Relaxed);
        let mut data = connect.auth_data.map(|data| data.0.expose().to_vec());
        for step in 0..MAX_STEPS {
            let attempt = Attempt {
                listener: &self.shared.name,
                methods: self.shared.methods.as_deref(),
                loopback: self.shared.loopback,
                peer: self.peer,
                version: connect.version,
                client_id: connect.client_id,
                username: connect.username,
                password: connect.password.map(|password| password.0),
                enhanced: connect
                    .auth_method
                    .map(|method| (method, data.as_deref().map(Secret::new))),
                bearer: self.bearer.as_deref().map(Secret::new),
                certificate: certificate.as_ref(),
                now: Now::read(),
                step,
                exchange,
                current: None,
            };
            match self.gate.engine.modules.authenticate(&attempt).await {
                Outcome::Accepted(accepted) => return Ok(Ok(accepted)),
                Outcome::Refused(refusal) => return Ok(Err(refusal)),
                Outcome::NotMine => break,
                Outcome::Continue(challenge) => {
                    let Some(method) = connect.auth_method else {
                        break;
                    };
                    data = Some(self.challenge(connect, method, &challenge).await?);
                }
            }
        }
        Ok(Err(Refusal::new(
            RefusalKind::BadCredential,
            "the exchange of credentials did not end",
        )))
    }

    /// Sends an AUTH and waits for the client's \[MQTT-4.12.0-2\].
    async fn challenge(
        &mut self,
        connect: &Connect<'_>,
        method: &str,
        challenge: &[u8],
    ) -> Result<Vec<u8>, Failed> {
        let mut out = Vec::new();
        let code = ReasonCode::ContinueAuthentication;
        wire::auth(&mut out, code, method, Some(challenge), None);
        if let Err(error) = self.stream.write_all(&out).await {
            return Err(Failed::silent("network", error.to_string()));
        }
        let settings = self.gate.engine.settings.load_full();
        let bytes = self.packet(settings.mqtt.connect_packet_size).await?;
        let mut limits = settings.wire_limits();
        limits.max_packet_size = settings.mqtt.connect_packet_size;
        let answer = split_frame(&bytes, limits.max_packet_size)
            .ok()
            .flatten()
            .and_then(|frame| decode(frame, connect.version, &limits).ok());
        match answer {
            Some(Packet::Auth(auth)) if auth.method == Some(method) && auth.reason == code => {
                Ok(auth
                    .data
                    .map(|data| data.0.expose().to_vec())
                    .unwrap_or_default())
            }
            _ => Err(Failed {
                code: Some(ReasonCode::ProtocolError),
                client_id: Some(connect.client_id.to_owned()),
                version: connect.version,
                ..Failed::silent("protocol", "not the AUTH that was asked for")
            }),
        }
    }

    fn refuse(&self, refusal: &Refusal) -> ReasonCode {
        let engine = &self.gate.engine;
        match refusal.kind {
            RefusalKind::BadCredential => {
                engine.metrics.refused_credentials.inc();
                let claimed = refusal.claimed.as_ref();
                engine.modules.failed(&self.arrival(), claimed, Now::read());
                ReasonCode::BadUserNameOrPassword
            }
            RefusalKind::BadMethod => {
                engine.metrics.refused_credentials.inc();
                ReasonCode::BadAuthenticationMethod
            }
            RefusalKind::Unavailable => {
                engine.metrics.refused_unavailable.inc();
                ReasonCode::ServerUnavailable
            }
            RefusalKind::NotAdmitted => {
                engine.metrics.refused_admission.inc();
                ReasonCode::NotAuthorized
            }
        }
    }

    /// A proven client: the client-id rule, bans, flapping. One that comes back too often waits.
    async fn behaved(
        &self,
        connect: &Connect<'_>,
        accepted: Accepted,
        settings: &Settings,
    ) -> Result<Proven, Denied> {
        let Accepted {
            identity,
            lease,
            data,
        } = accepted;
        let name = identity.principal.name();
        let client_id = client_id(connect.client_id, name, settings.client_id)
            .map_err(|reason| (ReasonCode::NotAuthorized, "client-id", reason))?;
        let snapshot = Snapshot {
            identity,
            credential: lease.credential,
            client_id,
            listener: Arc::clone(&self.shared.name),
            address: self.peer.map(|peer| peer.ip().to_canonical()),
        };
        match self.gate.engine.modules.admit(&snapshot, Now::read()) {
            Verdict::Admit => {}
            Verdict::Slow(wait) => sleep(wait).await,
            Verdict::Refuse { code, reason, .. } => return Err((code, "admission", reason)),
        }
        Ok(Proven {
            snapshot,
            until: lease.until,
            data,
        })
    }

    /// Its will and its session. No await in here, so that nothing is half done when the deadline
    /// strikes.
    fn admit(
        &self,
        connect: &Connect<'_>,
        proven: Proven,
        settings: &Settings,
    ) -> Result<Ready, Denied> {
        let engine = &self.gate.engine;
        let now = Now::read();
        let Proven {
            snapshot,
            until,
            data,
        } = proven;
        let client_id = Arc::clone(&snapshot.client_id);
        let subject = Subject::new(snapshot, &engine.modules);
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
        let attached = engine
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
                        peer: self.peer,
                    },
                },
                now,
            )
            .map_err(|error| not_attached(error, &client_id))?;
        let event = Event::Connected {
            who: subject.snapshot(),
            peer: self.peer,
            version: connect.version,
            session_present: attached.session_present,
        };
        engine.modules.observe(&event, now);
        let greeting = greet(attached.session_present);
        let renewal = self.renewal(connect, &subject);
        let terms = Terms {
            version: connect.version,
            keep_alive: connect.keep_alive,
            until,
            has_expiry: asked > 0,
            auth_method: connect.auth_method.map(Into::into),
            max_packet: connect.max_packet_size,
            peer: self.peer,
        };
        let engine = Arc::clone(engine);
        let mut connection = Connection::new(engine, attached, subject, watch, terms, now);
        connection.greet(greeting);
        Ok(Ready {
            connection,
            renewal,
        })
    }

    /// What judges a re-authentication, for a client that used an Authentication Method.
    fn renewal(&self, connect: &Connect<'_>, subject: &Arc<Subject>) -> Option<Box<dyn Renew>> {
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

    /// The will, authorized now and asked about again when it fires.
    fn will(
        &self,
        connect: &Connect<'_>,
        subject: &Arc<Subject>,
        settings: &Settings,
        now: Now,
    ) -> Result<Option<Will>, Denied> {
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
        let message = guard::will(&publication, &rights, modules).map_err(|(action, denial)| {
            let rule = rights.describe(denial, modules);
            let reason = format!("{action} of the will to {topic:?} denied: {rule}");
            (ReasonCode::NotAuthorized, "will", reason)
        })?;
        Ok(Some(Will::new(message, will.delay, expiry)))
    }
}

/// Steps of one exchange; SCRAM takes two.
const MAX_STEPS: u32 = 8;

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

/// What a re-authentication is judged by.
#[derive(Clone)]
struct RenewalFacts {
    engine: Arc<crate::engine::Engine>,
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
            };
            let limit = facts.engine.settings.load().limits.connect_deadline;
            tokio::time::timeout(limit, facts.engine.modules.authenticate(&attempt))
                .await
                .unwrap_or_else(|_| {
                    Outcome::Refused(Refusal::new(RefusalKind::Unavailable, "no answer in time"))
                })
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
