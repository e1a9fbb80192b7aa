//! From an event to the text of a record.
//!
//! Text in an event comes from clients. Whatever it holds, the record stays one line of JSON that
//! is safe to print: control and formatting characters are escaped, long texts are cut with a
//! mark. Payloads and secrets never come here: events have no place for them.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use portcullis_core::clock::Now;
use portcullis_core::hook::{Disconnected, Event, Snapshot};
use portcullis_core::wire::{QoS, ReasonCode, Version};
use time::OffsetDateTime;

/// Longest text of one field, in bytes as written, escapes included. Ten such fields stay below
/// [`MAX_LINE`](crate::chain::MAX_LINE).
const MAX_TEXT: usize = 4096;

/// What kind of thing happened: the `event` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Connect,
    Refuse,
    Disconnect,
    Subscribe,
    SubscribeDenied,
    Unsubscribe,
    PublishDenied,
    Withheld,
    Will,
    Limit,
    Reload,
    Start,
    Stop,
    Recovered,
    SessionEnded,
    QueueDropped,
    Suspended,
    Resumed,
    Administration,
    ModuleFailed,
    Learned,
    Summary,
    Other,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Refuse => "refuse",
            Self::Disconnect => "disconnect",
            Self::Subscribe => "subscribe",
            Self::SubscribeDenied => "subscribe-denied",
            Self::Unsubscribe => "unsubscribe",
            Self::PublishDenied => "publish-denied",
            Self::Withheld => "withheld",
            Self::Will => "will",
            Self::Limit => "limit",
            Self::Reload => "reload",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Recovered => "recovered",
            Self::SessionEnded => "session-ended",
            Self::QueueDropped => "queue-dropped",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
            Self::Administration => "administration",
            Self::ModuleFailed => "module-failed",
            Self::Learned => "learned",
            Self::Summary => "summary",
            Self::Other => "other",
        }
    }
}

/// A record without its number and links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<Text = String> {
    /// Whether it may use the reserved space of a full store: what strangers can cause may not.
    pub(crate) vital: bool,
    /// `,"time":"...","event":"...",...`
    pub(crate) text: Text,
}

impl Record {
    /// The same record, its text lent.
    pub(crate) fn as_ref(&self) -> Record<&str> {
        Record {
            vital: self.vital,
            text: &self.text,
        }
    }

    /// The same record, made while the policy with this hash is in force.
    pub(crate) fn under(mut self, policy: Option<&str>) -> Self {
        if let Some(policy) = policy {
            self.text.push_str(",\"policy\":\"");
            escape(policy, MAX_TEXT, &mut self.text);
            self.text.push('"');
        }
        self
    }
}

/// The fields of a record being written.
pub(crate) struct Facts {
    kind: Kind,
    text: String,
}

impl Facts {
    pub(crate) fn new(kind: Kind, time: SystemTime) -> Self {
        // Room for nearly all of them.
        let mut text = String::with_capacity(384);
        text.push_str(",\"time\":\"");
        put_time(time, &mut text);
        text.push_str("\",\"event\":\"");
        text.push_str(kind.as_str());
        text.push('"');
        Self { kind, text }
    }

    pub(crate) fn finish(self) -> Record {
        Record {
            vital: !matches!(
                self.kind,
                Kind::Refuse | Kind::Summary | Kind::PublishDenied | Kind::SubscribeDenied
            ),
            text: self.text,
        }
    }

    /// Text that may come from a client.
    pub(crate) fn text(&mut self, key: &'static str, value: &str) -> &mut Self {
        self.key(key);
        self.text.push('"');
        escape(value, MAX_TEXT, &mut self.text);
        self.text.push('"');
        self
    }

    /// A list of texts.
    fn texts<'a>(&mut self, key: &'static str, values: impl Iterator<Item = &'a str>) -> &mut Self {
        self.key(key);
        self.list(values, |value, text| {
            text.push('"');
            escape(value, MAX_TEXT, text);
            text.push('"');
        })
    }

    fn numbers(&mut self, key: &'static str, values: impl Iterator<Item = u64>) -> &mut Self {
        self.key(key);
        self.list(values, |value, text| {
            let _ = write!(text, "{value}");
        })
    }

    fn list<T>(
        &mut self,
        values: impl Iterator<Item = T>,
        write: impl Fn(T, &mut String),
    ) -> &mut Self {
        self.text.push('[');
        for (place, value) in values.enumerate() {
            if place > 0 {
                self.text.push(',');
            }
            write(value, &mut self.text);
        }
        self.text.push(']');
        self
    }

    pub(crate) fn optional(&mut self, key: &'static str, value: Option<&str>) -> &mut Self {
        if let Some(value) = value {
            self.text(key, value);
        }
        self
    }

    pub(crate) fn number(&mut self, key: &'static str, value: u64) -> &mut Self {
        self.key(key);
        let _ = write!(self.text, "{value}");
        self
    }

    fn flag(&mut self, key: &'static str, value: bool) -> &mut Self {
        self.key(key);
        self.text.push_str(if value { "true" } else { "false" });
        self
    }

    pub(crate) fn time(&mut self, key: &'static str, value: SystemTime) -> &mut Self {
        self.text(key, &rfc3339(value))
    }

    fn who(&mut self, who: &Snapshot) -> &mut Self {
        self.text("principal", who.principal().as_str())
            .text("client_id", &who.client_id)
            .text("listener", &who.listener)
    }

    fn peer(&mut self, peer: Option<SocketAddr>) -> &mut Self {
        if let Some(peer) = peer {
            self.key("peer");
            self.text.push('"');
            address(peer, &mut self.text);
            self.text.push('"');
        }
        self
    }

    fn code(&mut self, code: ReasonCode) -> &mut Self {
        self.text("code", &format!("{:#04x}", code as u8))
            .text("code_name", &format!("{code:?}"))
    }

    fn key(&mut self, key: &'static str) {
        self.text.push_str(",\"");
        self.text.push_str(key);
        self.text.push_str("\":");
    }
}

/// Turns an event into a record; `policy` is the hash of the policy in force.
#[expect(clippy::too_many_lines, reason = "one short arm for each event")]
pub(crate) fn describe(event: &Event<'_>, policy: Option<&str>, now: Now) -> Record {
    let mut facts = Facts::new(kind_of(event), now.wall);
    match event {
        Event::Started | Event::Stopping => {}
        Event::Reloaded { unit, error } => {
            facts.text("unit", unit).optional("error", *error);
        }
        Event::ConnectionRefused {
            listener,
            peer,
            client_id,
            claimed,
            check,
            code,
            reason,
        } => {
            facts
                .optional("claimed", *claimed)
                .optional("client_id", *client_id)
                .text("listener", listener)
                .peer(*peer)
                .text("rule", check);
            if let Some(code) = code {
                facts.code(*code);
            }
            facts.text("reason", reason);
        }
        Event::Connected {
            who,
            peer,
            version,
            session_present,
        } => {
            facts
                .who(who)
                .peer(*peer)
                .text("method", &who.credential.method)
                .text("credential", &who.credential.reference)
                .text("version", version_text(*version))
                .flag("session_present", *session_present);
        }
        Event::Disconnected {
            who,
            peer,
            how,
            reason,
        } => {
            facts.who(who).peer(*peer);
            match how {
                Disconnected::ByClient => facts.text("by", "client"),
                Disconnected::ConnectionLost => facts.text("by", "network"),
                Disconnected::ByServer(code) => facts.text("by", "broker").code(*code),
            };
            facts.text("reason", reason);
        }
        Event::Subscribed { who, granted } => {
            facts
                .who(who)
                .texts("filters", granted.iter().map(|granted| granted.filter))
                .numbers("qos", granted.iter().map(|granted| qos_number(granted.qos)))
                .texts(
                    "narrowed",
                    granted
                        .iter()
                        .filter(|granted| granted.narrowed)
                        .map(|granted| granted.filter),
                );
        }
        Event::SubscribeDenied {
            who,
            filter,
            rule,
            code,
        } => {
            facts.who(who).text("filter", filter).text("rule", rule);
            facts.code(*code);
        }
        Event::Unsubscribed { who, filter } | Event::SubscriptionSuspended { who, filter, .. } => {
            facts.who(who).text("filter", filter);
        }
        Event::PublishDenied {
            who,
            topic,
            action,
            rule,
            ..
        } => {
            facts
                .who(who)
                .text("topic", topic)
                .text("action", action)
                .text("rule", rule);
            facts.code(ReasonCode::NotAuthorized);
        }
        Event::Learned { who, action, topic } => {
            facts.who(who).text("topic", topic).text("action", action);
        }
        Event::StoredWithheld {
            author,
            topic,
            reason,
        } => {
            facts
                .who(author)
                .text("topic", topic)
                .text("reason", reason);
        }
        Event::WillPublished { who, topic } => {
            facts.who(who).text("topic", topic);
        }
        Event::LimitHit {
            who,
            peer,
            limit,
            reason,
        } => {
            if let Some(who) = who {
                facts.who(who);
            }
            facts.peer(*peer).text("rule", limit).text("reason", reason);
        }
        Event::QueueDropped {
            client_id,
            owner,
            count,
        } => {
            facts
                .text("principal", owner)
                .text("client_id", client_id)
                .number("messages", *count);
        }
        Event::SessionEnded {
            client_id,
            owner,
            reason,
        } => {
            facts
                .text("principal", owner)
                .text("client_id", client_id)
                .text("reason", reason);
        }
        Event::Administration { action } => {
            facts.text("action", action);
        }
        Event::ModuleFailed { module, reason } => {
            facts.text("module", module).text("reason", reason);
        }
        // Events are non_exhaustive; the debug text of an unknown one holds borrowed facts only.
        _ => {
            facts.text("reason", &format!("{event:?}"));
        }
    }
    facts.finish().under(policy)
}

fn kind_of(event: &Event<'_>) -> Kind {
    match event {
        Event::Started => Kind::Start,
        Event::Stopping => Kind::Stop,
        Event::Reloaded { .. } => Kind::Reload,
        Event::ConnectionRefused { .. } => Kind::Refuse,
        Event::Learned { .. } => Kind::Learned,
        Event::Connected { .. } => Kind::Connect,
        Event::Disconnected { .. } => Kind::Disconnect,
        Event::Subscribed { .. } => Kind::Subscribe,
        Event::SubscribeDenied { .. } => Kind::SubscribeDenied,
        Event::Unsubscribed { .. } => Kind::Unsubscribe,
        Event::SubscriptionSuspended { suspended, .. } => {
            if *suspended {
                Kind::Suspended
            } else {
                Kind::Resumed
            }
        }
        Event::PublishDenied { .. } => Kind::PublishDenied,
        Event::StoredWithheld { .. } => Kind::Withheld,
        Event::WillPublished { .. } => Kind::Will,
        Event::LimitHit { .. } => Kind::Limit,
        Event::QueueDropped { .. } => Kind::QueueDropped,
        Event::SessionEnded { .. } => Kind::SessionEnded,
        Event::Administration { .. } => Kind::Administration,
        Event::ModuleFailed { .. } => Kind::ModuleFailed,
        _ => Kind::Other,
    }
}

/// What makes two refusals equal: kind, whose (a proven principal, else the source prefix), and
/// the rule. Texts that a client chooses freely are no part of it: it could vary them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sameness<'a> {
    pub(crate) kind: Kind,
    pub(crate) subject: Subject<'a>,
    pub(crate) rule: &'a str,
    pub(crate) code: Option<u8>,
    /// For a queue: how many messages; else 1.
    pub(crate) weight: u64,
}

/// Whose refusals are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject<'a> {
    Principal(&'a str),
    Prefix(Prefix),
    /// A Unix socket, or the broker itself.
    Local,
}

/// A source prefix: IPv4 /24, IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Prefix(pub(crate) IpAddr);

impl Prefix {
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & !0xff).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        })
    }

    pub(crate) fn text(self) -> String {
        let length = if self.0.is_ipv4() { 24 } else { 64 };
        format!("{}/{length}", self.0)
    }
}

impl<'a> Sameness<'a> {
    /// `None` for what is always a record of its own.
    pub(crate) fn of(event: &Event<'a>) -> Option<Self> {
        let from = |peer: Option<SocketAddr>| {
            peer.map_or(Subject::Local, |peer| {
                Subject::Prefix(Prefix::of(peer.ip()))
            })
        };
        let (subject, rule, code, weight) = match event {
            Event::ConnectionRefused {
                peer, check, code, ..
            } => (from(*peer), *check, code.map(|code| code as u8), 1),
            Event::SubscribeDenied { who, rule, .. } | Event::PublishDenied { who, rule, .. } => {
                (Subject::Principal(who.principal().as_str()), *rule, None, 1)
            }
            Event::StoredWithheld { author, reason, .. } => (
                Subject::Principal(author.principal().as_str()),
                *reason,
                None,
                1,
            ),
            Event::LimitHit {
                who, peer, limit, ..
            } => {
                let subject = who.map_or_else(
                    || from(*peer),
                    |who| Subject::Principal(who.principal().as_str()),
                );
                (subject, *limit, None, 1)
            }
            Event::QueueDropped { owner, count, .. } => {
                (Subject::Principal(owner), "limits.queue", None, *count)
            }
            Event::ModuleFailed { module, .. } => (Subject::Local, *module, None, 1),
            Event::Started
            | Event::Stopping
            | Event::Reloaded { .. }
            | Event::Connected { .. }
            | Event::Disconnected { .. }
            | Event::Subscribed { .. }
            | Event::Unsubscribed { .. }
            | Event::SubscriptionSuspended { .. }
            | Event::WillPublished { .. }
            | Event::SessionEnded { .. }
            | Event::Administration { .. }
            | _ => return None,
        };
        Some(Self {
            kind: kind_of(event),
            subject,
            rule,
            code,
            weight,
        })
    }
}

fn version_text(version: Version) -> &'static str {
    match version {
        Version::V3_1 => "3.1",
        Version::V3_1_1 => "3.1.1",
        Version::V5 => "5.0",
    }
}

fn qos_number(qos: QoS) -> u64 {
    match qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce => 1,
        QoS::ExactlyOnce => 2,
    }
}

/// UTC with milliseconds: all times have the same length and sort as text.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let mut text = String::with_capacity(24);
    put_time(time, &mut text);
    text
}

fn put_time(time: SystemTime, into: &mut String) {
    let millis = portcullis_core::clock::unix_millis(time);
    let seconds = i64::try_from(millis / 1000).unwrap_or(i64::MAX);
    // A clock beyond the year 9999 has no such text; the epoch stands out in a record.
    let (time, millis) = OffsetDateTime::from_unix_timestamp(seconds)
        .map_or((OffsetDateTime::UNIX_EPOCH, 0), |time| {
            (time, millis % 1000)
        });
    let numbers = [
        time.year().unsigned_abs(),
        u8::from(time.month()).into(),
        time.day().into(),
        time.hour().into(),
        time.minute().into(),
        time.second().into(),
        u32::try_from(millis).unwrap_or_default(),
    ];
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (digits, mut number) in text.split_mut(|b| !b.is_ascii_digit()).zip(numbers) {
        for digit in digits.iter_mut().rev() {
            *digit += u8::try_from(number % 10).unwrap_or_default();
            number /= 10;
        }
    }
    into.push_str(str::from_utf8(&text).unwrap_or_default());
}

/// An address with its port, as it is usually written. The general formatter takes ten times as long,
/// and every connection comes by twice.
fn address(address: SocketAddr, into: &mut String) {
    let SocketAddr::V4(v4) = address else {
        let _ = write!(into, "{address}");
        return;
    };
    let [first, rest @ ..] = v4.ip().octets();
    decimal(first.into(), into);
    for octet in rest {
        into.push('.');
        decimal(octet.into(), into);
    }
    into.push(':');
    decimal(v4.port(), into);
}

fn decimal(number: u16, into: &mut String) {
    let mut started = false;
    for unit in [10_000, 1000, 100, 10, 1] {
        let digit = number / unit % 10;
        started |= digit > 0 || unit == 1;
        if started {
            into.push(char::from(b'0' + u8::try_from(digit).unwrap_or_default()));
        }
    }
}

/// Writes `text` as the inside of a JSON string of at most `limit` bytes and a mark that says how
/// many bytes were cut.
fn escape(text: &str, limit: usize, into: &mut String) {
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    // Without an early end, so that many are looked at at once.
    if text.len() <= limit && text.bytes().fold(true, |all, byte| all & plain(byte)) {
        // Nearly every text.
        into.push_str(text);
        return;
    }
    let start = into.len();
    for (place, c) in text.char_indices() {
        let before = into.len();
        match c {
            '"' => into.push_str("\\\""),
            '\\' => into.push_str("\\\\"),
            c if misleads(c) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(into, "\\u{unit:04x}");
                }
            }
            c => into.push(c),
        }
        if into.len() - start > limit {
            into.truncate(before);
            let _ = write!(into, "[cut {} bytes]", text.len() - place);
            return;
        }
    }
}

/// Control characters, and those that reorder or hide text where a record is shown.
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_have_milliseconds_and_sort_as_text() {
        let time = |millis| rfc3339(UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_795_532_399_007), "2026-11-24T14:59:59.007Z");
        assert_eq!(time(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
        assert_eq!(time(253_402_300_800_001), "1970-01-01T00:00:00.000Z");
        assert!(time(999) < time(1000));
    }

    proptest! {
        #[test]
        fn a_time_reads_back(millis in 0..=253_402_300_799_999_u64) {
            use time::format_description::well_known::Rfc3339;

            let text = rfc3339(UNIX_EPOCH + Duration::from_millis(millis));
            prop_assert_eq!(text.len(), 24);
            let read = OffsetDateTime::parse(&text, &Rfc3339).unwrap();
            prop_assert_eq!(read.unix_timestamp_nanos(), i128::from(millis) * 1_000_000);
        }

        #[test]
        fn numbers_and_addresses_are_written_as_usual(
            number: u16, v4: std::net::SocketAddrV4, v6: std::net::SocketAddrV6,
        ) {
            for number in [number, number % 1000, number % 10] {
                let mut text = String::new();
                decimal(number, &mut text);
                prop_assert_eq!(text, number.to_string());
            }
            for peer in [SocketAddr::from(v4), SocketAddr::from(v6)] {
                let mut text = String::new();
                address(peer, &mut text);
                prop_assert_eq!(text, peer.to_string());
            }
        }
    }

    #[test]
    fn prefixes_are_24_and_64_and_mapped_addresses_are_ipv4() {
        for (address, prefix) in [
            ("10.1.2.3", "10.1.2.0/24"),
            ("::ffff:10.1.2.3", "10.1.2.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ] {
            assert_eq!(Prefix::of(address.parse().unwrap()).text(), prefix);
        }
    }

    #[test]
    fn what_would_mislead_a_reader_is_escaped() {
        for (text, written) in [
            ("a\nb", "a\\u000ab"),
            ("\u{1b}[31m", "\\u001b[31m"),
            ("\u{202e}gpj", "\\u202egpj"),
            ("\u{9b}", "\\u009b"),
            ("\u{e0041}", "\\udb40\\udc41"),
            ("\"},{\"", "\\\"},{\\\""),
            ("grün/ß", "grün/ß"),
        ] {
            let mut out = String::new();
            escape(text, 1000, &mut out);
            assert_eq!(out, written);
        }
    }

    proptest! {
        #[test]
        fn escaped_text_reads_back_and_has_no_control_character(text in any::<String>()) {
            let mut out = String::from("\"");
            escape(&text, usize::MAX, &mut out);
            out.push('"');
            prop_assert!(!out.chars().any(misleads));
            prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }

        #[test]
        fn a_cut_text_is_bounded_and_still_json(text in "\\PC{0,200}", limit in 0_usize..100) {
            let mut out = String::new();
            escape(&text, limit, &mut out);
            prop_assert!(out.len() <= limit + "[cut 999 bytes]".len());
            let json = format!("\"{out}\"");
            prop_assert!(serde_json::from_str::<String>(&json).is_ok());
        }
    }
}
