//! rumqttc, in one shape for 3.1.1 and 5.0.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rumqttc::v5;
use rumqttc::v5::mqttbytes::v5 as packets5;
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::harness::{Broker, PATIENCE};

/// Which protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V3,
    V5,
}

pub(crate) use Version::{V3, V5};

/// Long enough for no test to meet it.
const KEEP_ALIVE: Duration = Duration::from_mins(1);

/// Both.
pub(crate) const VERSIONS: [Version; 2] = [V3, V5];

/// A will as a client words it: topic, payload, `QoS`, retain.
pub(crate) type Will<'a> = (&'a str, &'a str, u8, bool);

/// A client that is about to connect.
#[derive(Clone)]
pub(crate) struct Dial<'a> {
    broker: &'a Broker,
    version: Version,
    id: String,
    listener: &'a str,
    ca: PathBuf,
    certificate: Option<(PathBuf, PathBuf)>,
    login: Option<(String, String)>,
    session: Option<u32>,
    will: Option<Will<'a>>,
}

/// What came of it.
pub(crate) enum Dialed {
    Connected(Client),
    /// CONNACK with this code.
    Refused(u8),
    /// No CONNACK; in rumqttc's words.
    Broken(String),
}

impl Broker {
    /// A client of this version with this id, on the TLS listener, without credentials.
    pub(crate) fn dial(&self, version: Version, id: &str) -> Dial<'_> {
        Dial {
            broker: self,
            version,
            id: id.to_owned(),
            listener: "main",
            ca: self.setup.path("trusted.pem"),
            certificate: None,
            login: None,
            session: None,
            will: None,
        }
    }

    /// A connected client with a certificate, which is also its id.
    pub(crate) fn device(&self, version: Version, name: &str) -> Client {
        self.dial(version, name).certificate(name).connect()
    }

    /// A connected client with a password, on the plaintext listener.
    pub(crate) fn user(&self, version: Version, id: &str, login: (&str, &str)) -> Client {
        self.dial(version, id).login(login).local().connect()
    }
}

impl<'a> Dial<'a> {
    pub(crate) fn local(mut self) -> Self {
        self.listener = "local";
        self
    }

    pub(crate) fn certificate(self, name: &str) -> Self {
        self.certificate_in("pki", name)
    }

    pub(crate) fn certificate_in(mut self, directory: &str, name: &str) -> Self {
        let file = |ending| {
            self.broker
                .setup
                .path(&format!("{directory}/{name}.{ending}"))
        };
        self.certificate = Some((file("pem"), file("key")));
        self
    }

    pub(crate) fn login(mut self, (user, password): (&str, &str)) -> Self {
        self.login = Some((user.to_owned(), password.to_owned()));
        self
    }

    pub(crate) fn token(self, token: &str) -> Self {
        // The user name is not looked at, but 3.1.1 knows no password without one.
        let user = if self.version == V3 { "nobody" } else { "" };
        self.login((user, token))
    }

    /// Keeps the session for an hour; finds one that is there.
    pub(crate) fn persistent(mut self) -> Self {
        self.session = Some(3600);
        self
    }

    pub(crate) fn will(mut self, will: Will<'a>) -> Self {
        self.will = Some(will);
        self
    }

    #[track_caller]
    pub(crate) fn connect(self) -> Client {
        let who = format!("{} {:?}", self.id, self.version);
        match self.dial() {
            Dialed::Connected(client) => client,
            Dialed::Refused(code) => panic!("{who} is refused with {code:#04x}"),
            Dialed::Broken(how) => panic!("{who} gets no answer: {how}"),
        }
    }

    /// The code of the CONNACK that refuses it.
    #[track_caller]
    pub(crate) fn refused(self) -> u8 {
        let who = format!("{} {:?}", self.id, self.version);
        match self.dial() {
            Dialed::Connected(_) => panic!("{who} is admitted"),
            Dialed::Refused(code) => code,
            Dialed::Broken(how) => panic!("{who} gets no answer: {how}"),
        }
    }

    /// Why there is no CONNACK.
    #[track_caller]
    pub(crate) fn broken(self) -> String {
        match self.dial() {
            Dialed::Connected(_) => panic!("it is admitted"),
            Dialed::Refused(code) => panic!("it is refused with {code:#04x}"),
            Dialed::Broken(how) => how,
        }
    }

    pub(crate) fn dial(self) -> Dialed {
        let (sender, seen) = channel();
        let (handle, task) = match self.version {
            V3 => self.dial_v3(sender),
            V5 => self.dial_v5(sender),
        };
        let mut client = Client {
            handle,
            task,
            seen,
            kept: VecDeque::new(),
            session_present: false,
        };
        match client.next() {
            Seen::Connected(session_present) => {
                client.session_present = session_present;
                Dialed::Connected(client)
            }
            Seen::Refused(code) => Dialed::Refused(code),
            Seen::Ended { text, .. } => Dialed::Broken(text),
            other => panic!("before CONNACK: {other:?}"),
        }
    }

    fn transport(&self) -> Transport {
        if self.listener == "local" {
            return Transport::Tcp;
        }
        Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls(
            &self.ca,
            self.certificate.as_ref(),
        ))))
    }

    fn dial_v3(&self, sender: Sender<Seen>) -> (Handle, JoinHandle<()>) {
        let address = self.broker.address(self.listener);
        let host = address.ip().to_string();
        let mut options = rumqttc::MqttOptions::new(&self.id, host, address.port());
        options.set_transport(self.transport());
        options.set_keep_alive(KEEP_ALIVE);
        options.set_clean_session(self.session.is_none());
        if let Some((user, password)) = &self.login {
            options.set_credentials(user, password);
        }
        if let Some((topic, payload, qos, retain)) = self.will {
            options.set_last_will(rumqttc::LastWill::new(topic, payload, qos3(qos), retain));
        }
        let (client, mut events) = rumqttc::AsyncClient::new(options, 100);
        let task = runtime().spawn(async move {
            loop {
                let (seen, ended) = match events.poll().await {
                    Ok(rumqttc::Event::Incoming(packet)) => (seen3(packet), false),
                    Ok(rumqttc::Event::Outgoing(_)) => (None, false),
                    Err(error) => (Some(end3(&error)), true),
                };
                if seen.is_some_and(|seen| sender.send(seen).is_err()) || ended {
                    return;
                }
            }
        });
        (Handle::V3(client), task)
    }

    fn dial_v5(&self, sender: Sender<Seen>) -> (Handle, JoinHandle<()>) {
        let address = self.broker.address(self.listener);
        let host = address.ip().to_string();
        let mut options = v5::MqttOptions::new(&self.id, host, address.port());
        options.set_transport(self.transport());
        options.set_keep_alive(KEEP_ALIVE);
        options.set_clean_start(self.session.is_none());
        options.set_session_expiry_interval(self.session);
        if let Some((user, password)) = &self.login {
            options.set_credentials(user, password);
        }
        if let Some((topic, payload, qos, retain)) = self.will {
            let will = packets5::LastWill::new(topic, payload, qos5(qos), retain, None);
            options.set_last_will(will);
        }
        let (client, mut events) = v5::AsyncClient::new(options, 100);
        let task = runtime().spawn(async move {
            loop {
                let (seen, ended) = match events.poll().await {
                    Ok(v5::Event::Incoming(packet)) => (seen5(packet), false),
                    Ok(v5::Event::Outgoing(_)) => (None, false),
                    Err(error) => (Some(end5(&error)), true),
                };
                if seen.is_some_and(|seen| sender.send(seen).is_err()) || ended {
                    return;
                }
            }
        });
        (Handle::V5(client), task)
    }
}

/// A client's TLS settings: whom it trusts and what it shows, certificate and key.
pub(crate) fn tls(ca: &Path, certificate: Option<&(PathBuf, PathBuf)>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(ca).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match certificate {
        None => builder.with_no_client_auth(),
        Some((pem, key)) => {
            let chain = CertificateDer::pem_slice_iter(&fs::read(pem).unwrap())
                .map(Result::unwrap)
                .collect();
            let key = PrivateKeyDer::from_pem_file(key).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

/// A connected client. Dropping it closes the network connection without DISCONNECT.
pub(crate) struct Client {
    handle: Handle,
    task: JoinHandle<()>,
    seen: Receiver<Seen>,
    kept: VecDeque<Seen>,
    pub(crate) session_present: bool,
}

enum Handle {
    V3(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// What came from the broker.
#[derive(Debug)]
enum Seen {
    Connected(bool),
    Refused(u8),
    Message(Message),
    /// PUBACK, PUBCOMP, or a PUBREC that ends the flow.
    Acknowledged(u8),
    Subscribed(Vec<u8>),
    Unsubscribed,
    Ended {
        code: Option<u8>,
        text: String,
    },
}

/// A message that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where the clients of all tests run.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

impl Client {
    fn next(&self) -> Seen {
        self.seen
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|error| panic!("the client hears nothing: {error}"))
    }

    /// Waits for what `chosen` takes; keeps the rest for later.
    #[track_caller]
    fn find<T>(&mut self, what: &str, chosen: impl Fn(&Seen) -> Option<T>) -> T {
        if let Some(index) = self.kept.iter().position(|seen| chosen(seen).is_some()) {
            return self.kept.remove(index).as_ref().and_then(chosen).unwrap();
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.seen.recv_timeout(left) {
                Ok(seen) => match chosen(&seen) {
                    Some(found) => return found,
                    None => self.kept.push_back(seen),
                },
                Err(error) => panic!("no {what}: {error}; there is {:?}", self.kept),
            }
        }
    }

    /// Publishes and waits for nothing.
    pub(crate) fn send(&self, topic: &str, payload: &str, qos: u8, retain: bool) {
        let done = runtime().block_on(async {
            match &self.handle {
                Handle::V3(client) => {
                    let sent = client.publish(topic, qos3(qos), retain, payload);
                    sent.await.map_err(|error| error.to_string())
                }
                Handle::V5(client) => {
                    let sent = client.publish(topic, qos5(qos), retain, payload.to_owned());
                    sent.await.map_err(|error| error.to_string())
                }
            }
        });
        done.unwrap();
    }

    /// Publishes and waits for the acknowledgement that `QoS` 1 and 2 have; its code.
    #[track_caller]
    pub(crate) fn publish(&mut self, topic: &str, payload: &str, qos: u8) -> u8 {
        self.send(topic, payload, qos, false);
        self.acknowledged(qos)
    }

    #[track_caller]
    pub(crate) fn retain(&mut self, topic: &str, payload: &str, qos: u8) -> u8 {
        self.send(topic, payload, qos, true);
        self.acknowledged(qos)
    }

    #[track_caller]
    pub(crate) fn acknowledged(&mut self, qos: u8) -> u8 {
        if qos == 0 {
            return 0;
        }
        self.find("acknowledgement", |seen| match seen {
            Seen::Acknowledged(code) => Some(*code),
            _ => None,
        })
    }

    /// Subscribes; the codes of the SUBACK.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, filters: &[&str], qos: u8) -> Vec<u8> {
        match &self.handle {
            Handle::V3(client) => {
                let filter =
                    |filter: &&str| rumqttc::SubscribeFilter::new((*filter).to_owned(), qos3(qos));
                client
                    .try_subscribe_many(filters.iter().map(filter))
                    .unwrap();
            }
            Handle::V5(client) => {
                let filter = |filter: &&str| packets5::Filter::new((*filter).to_owned(), qos5(qos));
                client
                    .try_subscribe_many(filters.iter().map(filter))
                    .unwrap();
            }
        }
        self.find("SUBACK", |seen| match seen {
            Seen::Subscribed(codes) => Some(codes.clone()),
            _ => None,
        })
    }

    #[track_caller]
    pub(crate) fn unsubscribe(&mut self, filter: &str) {
        match &self.handle {
            Handle::V3(client) => client.try_unsubscribe(filter).unwrap(),
            Handle::V5(client) => client.try_unsubscribe(filter).unwrap(),
        }
        self.find("UNSUBACK", |seen| {
            matches!(seen, Seen::Unsubscribed).then_some(())
        });
    }

    /// The next message.
    #[track_caller]
    pub(crate) fn message(&mut self) -> Message {
        self.find("message", |seen| match seen {
            Seen::Message(message) => Some(message.clone()),
            _ => None,
        })
    }

    /// The payload of the next message.
    #[track_caller]
    pub(crate) fn payload(&mut self) -> String {
        self.message().payload
    }

    /// How the connection ends: the code of the broker's DISCONNECT, if it sent one.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> Option<u8> {
        self.find("end of the connection", |seen| match seen {
            Seen::Ended { code, .. } => Some(*code),
            _ => None,
        })
    }

    /// Ends the connection in good order, and waits for the end.
    #[track_caller]
    pub(crate) fn disconnect(mut self) {
        match &self.handle {
            Handle::V3(client) => client.try_disconnect().unwrap(),
            Handle::V5(client) => client.try_disconnect().unwrap(),
        }
        self.ended();
    }
}

fn qos3(qos: u8) -> rumqttc::QoS {
    rumqttc::qos(qos).unwrap()
}

fn qos5(qos: u8) -> v5::mqttbytes::QoS {
    v5::mqttbytes::qos(qos).unwrap()
}

fn seen3(packet: rumqttc::Packet) -> Option<Seen> {
    use rumqttc::Packet;
    Some(match packet {
        Packet::ConnAck(packet) => Seen::Connected(packet.session_present),
        Packet::Publish(packet) => Seen::Message(Message {
            topic: packet.topic,
            payload: String::from_utf8_lossy(&packet.payload).into_owned(),
            qos: packet.qos as u8,
            retain: packet.retain,
        }),
        Packet::PubAck(_) | Packet::PubComp(_) => Seen::Acknowledged(0),
        Packet::SubAck(packet) => Seen::Subscribed(
            packet
                .return_codes
                .iter()
                .map(|code| match code {
                    rumqttc::SubscribeReasonCode::Success(qos) => *qos as u8,
                    rumqttc::SubscribeReasonCode::Failure => 0x80,
                })
                .collect(),
        ),
        Packet::UnsubAck(_) => Seen::Unsubscribed,
        _ => return None,
    })
}

fn end3(error: &rumqttc::ConnectionError) -> Seen {
    if let rumqttc::ConnectionError::ConnectionRefused(code) = error {
        return Seen::Refused(*code as u8);
    }
    Seen::Ended {
        code: None,
        text: format!("{error:?}"),
    }
}

fn seen5(packet: packets5::Packet) -> Option<Seen> {
    use packets5::{Packet, PubRecReason};
    Some(match packet {
        Packet::ConnAck(packet) => Seen::Connected(packet.session_present),
        Packet::Publish(packet) => Seen::Message(Message {
            topic: String::from_utf8_lossy(&packet.topic).into_owned(),
            payload: String::from_utf8_lossy(&packet.payload).into_owned(),
            qos: packet.qos as u8,
            retain: packet.retain,
        }),
        Packet::PubAck(packet) => Seen::Acknowledged(code5(&packet.reason)),
        Packet::PubRec(packet) => match packet.reason {
            PubRecReason::Success | PubRecReason::NoMatchingSubscribers => return None,
            reason => Seen::Acknowledged(code5(&reason)),
        },
        Packet::PubComp(_) => Seen::Acknowledged(0),
        Packet::SubAck(packet) => Seen::Subscribed(
            packet
                .return_codes
                .iter()
                .map(|code| match code {
                    packets5::SubscribeReasonCode::Success(qos) => *qos as u8,
                    other => code5(other),
                })
                .collect(),
        ),
        Packet::UnsubAck(_) => Seen::Unsubscribed,
        _ => return None,
    })
}

fn end5(error: &v5::ConnectionError) -> Seen {
    let code = match error {
        v5::ConnectionError::ConnectionRefused(code) => return Seen::Refused(code5(code)),
        v5::ConnectionError::MqttState(v5::StateError::ConnFail { reason }) => {
            return Seen::Refused(code5(reason));
        }
        v5::ConnectionError::MqttState(v5::StateError::ServerDisconnect {
            reason_code, ..
        }) => Some(*reason_code as u8),
        _ => None,
    };
    Seen::Ended {
        code,
        text: format!("{error:?}"),
    }
}

/// The number of a reason: rumqttc has a type for each packet and numbers for none.
fn code5(reason: &impl std::fmt::Debug) -> u8 {
    match format!("{reason:?}").as_str() {
        "Success" => 0x00,
        "NoMatchingSubscribers" => 0x10,
        "UnspecifiedError" => 0x80,
        "ClientIdentifierNotValid" => 0x85,
        "BadUserNamePassword" => 0x86,
        "NotAuthorized" => 0x87,
        "ServerUnavailable" => 0x88,
        "ServerBusy" => 0x89,
        "Banned" => 0x8a,
        "BadAuthenticationMethod" => 0x8c,
        "TopicFilterInvalid" => 0x8f,
        "QuotaExceeded" => 0x97,
        "ConnectionRateExceeded" => 0x9f,
        other => panic!("a reason without a number here: {other}"),
    }
}
