//! `[mqtt]` and `[limits]`: what the protocol machine grants and what clients may cost.

use std::time::Duration;

use super::section::Section;
use super::units::{ByteRate, MAX_BYTES, MAX_DURATION, Rate};

/// The largest MQTT packet: five bytes of fixed header and 268 435 455 of the rest (MQTT 5.0,
/// section 1.5.5).
const MAX_PACKET: u64 = 5 + 268_435_455;

/// Receivers for each message, and for each byte, that a client may publish, as a file that does not
/// say what its fan-out may be has it.
const FAN_OUT_MESSAGES: u64 = 250;
const FAN_OUT_BYTES: u64 = 128;

/// Full queues that the sessions of one principal may have together, as a file that does not say has it.
const FULL_QUEUES: u32 = 10;

/// `[mqtt]`: what the protocol machine grants, whatever the client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mqtt {
    /// The largest packet after authentication, in bytes, fixed header included.
    pub max_packet_size: u32,
    /// The largest packet before authentication, in bytes; at most `max_packet_size`.
    pub connect_packet_size: u32,
    /// Unacknowledged `QoS` 1 and 2 messages from a client; announced in 5.0.
    pub receive_maximum: u16,
    /// The highest `QoS`, 0 to 2.
    pub max_qos: u8,
    /// The longest keep alive; whole seconds, at most 65 535.
    pub keep_alive_max: Duration,
    /// The longest life of a session without connection; whole seconds, zero for none. 3.x
    /// sessions too.
    pub session_expiry_max: Duration,
    /// Topic aliases in each direction; 0 for none.
    pub topic_alias_max: u16,
    /// Levels in a topic or filter.
    pub topic_levels: u16,
    /// Bytes in a topic or filter.
    pub topic_length: u16,
    /// How often the broker publishes what changed below `$SYS/broker`.
    pub sys_interval: Duration,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            max_packet_size: 1 << 20,
            connect_packet_size: 64 << 10,
            receive_maximum: 64,
            max_qos: 2,
            keep_alive_max: Duration::from_mins(20),
            session_expiry_max: Duration::from_hours(7 * 24),
            topic_alias_max: 32,
            topic_levels: 64,
            topic_length: 4096,
            sys_interval: Duration::from_secs(10),
        }
    }
}

/// `[limits]`: what clients may cost, one by one and in sum. A burst is ten seconds of a rate and
/// at least one largest packet ([`Rate::burst`], [`ByteRate::burst`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections: u32,
    /// Connections of one source address; IPv6 counts by /64.
    pub connections_per_ip: u32,
    /// New connections of one source address.
    pub connect_rate_per_ip: Rate,
    /// TLS handshakes in flight.
    pub handshakes: u32,
    /// From accept to CONNACK.
    pub connect_deadline: Duration,
    /// Bad credentials from one source address; then delayed, then refused for a minute.
    pub auth_failures_per_ip: Rate,
    /// Messages of one client; over it the broker reads more slowly.
    pub publish_rate: Rate,
    /// Bytes of one client; over it the broker reads more slowly.
    pub publish_bandwidth: ByteRate,
    /// Deliveries that the publishes of one principal cause; over it the broker reads more slowly.
    /// Left out, 250 times `publish_rate`, and 50 000/s at least.
    pub fan_out_rate: Rate,
    /// Bytes in those deliveries; over it the broker reads more slowly. Left out, 128 times
    /// `publish_bandwidth`, and 128 MiB/s at least.
    pub fan_out_bandwidth: ByteRate,
    /// Sessions of one principal.
    pub sessions_per_principal: u32,
    /// Subscriptions of one session.
    pub subscriptions_per_session: u32,
    /// Filters in one SUBSCRIBE.
    pub filters_per_subscribe: u32,
    /// Messages queued for one session.
    pub queue_messages: u32,
    /// Bytes queued for one session.
    pub queue_bytes: u64,
    /// Messages queued for all sessions of one principal. Left out, ten times `queue_messages`, and
    /// 100 000 at least.
    pub queue_messages_per_principal: u32,
    /// Bytes queued for all sessions of one principal. Left out, ten times `queue_bytes`, and 160 MiB
    /// at least.
    pub queue_bytes_per_principal: u64,
    /// Retained messages in all.
    pub retained_messages: u32,
    /// Bytes of retained messages in all.
    pub retained_bytes: u64,
    /// Retained messages of one author.
    pub retained_messages_per_principal: u32,
    /// Bytes of retained messages of one author.
    pub retained_bytes_per_principal: u64,
    /// Memory of the whole process, bytes; `None`: half of what the machine gives.
    pub memory: Option<u64>,
    /// While memory is short, a connection without subscriptions that has published nothing for so
    /// long may be ended.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 100_000,
            connections_per_ip: 1000,
            connect_rate_per_ip: Rate::per_second(10),
            handshakes: 256,
            connect_deadline: Duration::from_secs(10),
            auth_failures_per_ip: Rate::per_minute(30),
            publish_rate: Rate::per_second(200),
            publish_bandwidth: ByteRate(1 << 20),
            fan_out_rate: Rate::per_second(200).times(FAN_OUT_MESSAGES),
            fan_out_bandwidth: ByteRate(1 << 20).times(FAN_OUT_BYTES),
            sessions_per_principal: 1000,
            subscriptions_per_session: 1000,
            filters_per_subscribe: 100,
            queue_messages: 10_000,
            queue_bytes: 16 << 20,
            queue_messages_per_principal: 10_000 * FULL_QUEUES,
            queue_bytes_per_principal: (16 << 20) * u64::from(FULL_QUEUES),
            retained_messages: 1_000_000,
            retained_bytes: 1 << 30,
            retained_messages_per_principal: 100_000,
            retained_bytes_per_principal: 128 << 20,
            memory: None,
            idle: Duration::from_mins(10),
        }
    }
}

pub(super) fn read_mqtt(mut section: Section<'_>) -> Mqtt {
    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_hours(1);
    const LONGEST_KEEP_ALIVE: Duration = Duration::from_secs(u16::MAX as u64);
    // 0xFFFFFFFF seconds would mean "never" (MQTT 5.0, section 3.1.2.11.2).
    const LONGEST_EXPIRY: Duration = Duration::from_secs(u32::MAX as u64 - 1);

    let default = Mqtt::default();
    let max_packet_size = packet_size(&mut section, "max-packet-size", default.max_packet_size);
    // A file that lowers the one need not say the other.
    let connect_default = default.connect_packet_size.min(max_packet_size);
    let connect_packet_size = packet_size(&mut section, "connect-packet-size", connect_default);
    if connect_packet_size > max_packet_size {
        section.source().error(
            section.place("connect-packet-size").unwrap_or(section.at()),
            format_args!(
                "connect-packet-size in [mqtt] is {connect_packet_size} B, more than \
                 max-packet-size, {max_packet_size} B"
            ),
            "write at most max-packet-size: strangers get no more than clients",
        );
    }
    let mqtt = Mqtt {
        max_packet_size,
        connect_packet_size,
        receive_maximum: section.count("receive-maximum", default.receive_maximum, 1, u16::MAX),
        max_qos: section.count("max-qos", default.max_qos, 0, 2),
        keep_alive_max: whole_seconds(
            &mut section,
            "keep-alive-max",
            default.keep_alive_max,
            (SECOND, LONGEST_KEEP_ALIVE),
        ),
        session_expiry_max: whole_seconds(
            &mut section,
            "session-expiry-max",
            default.session_expiry_max,
            (Duration::ZERO, LONGEST_EXPIRY.min(MAX_DURATION)),
        ),
        topic_alias_max: section.count("topic-alias-max", default.topic_alias_max, 0, u16::MAX),
        topic_levels: section.count("topic-levels", default.topic_levels, 1, u16::MAX),
        topic_length: section.count("topic-length", default.topic_length, 1, u16::MAX),
        sys_interval: whole_seconds(
            &mut section,
            "sys-interval",
            default.sys_interval,
            (SECOND, HOUR),
        ),
    };
    section.finish();
    mqtt
}

pub(super) fn read_limits(mut section: Section<'_>, mqtt: &Mqtt) -> Limits {
    const MILLISECOND: Duration = Duration::from_millis(1);
    const LONGEST_CONNECT: Duration = Duration::from_hours(1);
    const SECOND: Duration = Duration::from_secs(1);
    // A started broker has some 20 MiB, and is calm below 75 %.
    const LEAST_MEMORY: u64 = 32 << 20;

    let default = Limits::default();
    let mut count = |key, default| section.count(key, default, 1, u32::MAX);
    let connections = count("connections", default.connections);
    let connections_per_ip = count("connections-per-ip", default.connections_per_ip);
    let handshakes = count("handshakes", default.handshakes);
    let sessions_per_principal = count("sessions-per-principal", default.sessions_per_principal);
    let subscriptions_per_session = count(
        "subscriptions-per-session",
        default.subscriptions_per_session,
    );
    let filters_per_subscribe = count("filters-per-subscribe", default.filters_per_subscribe);
    let queue_messages = count("queue-messages", default.queue_messages);
    // A file that lets one session have more need not say that its principal may.
    let together = queue_messages
        .saturating_mul(FULL_QUEUES)
        .max(default.queue_messages_per_principal);
    let queue_messages_per_principal = count("queue-messages-per-principal", together);
    let retained_messages = count("retained-messages", default.retained_messages);
    let retained_messages_per_principal = count(
        "retained-messages-per-principal",
        default.retained_messages_per_principal,
    );
    let queue_bytes = section.size("queue-bytes", default.queue_bytes, MAX_BYTES);
    let together =
        (queue_bytes * u64::from(FULL_QUEUES)).clamp(default.queue_bytes_per_principal, MAX_BYTES);
    let publish_rate = section.rate("publish-rate", default.publish_rate);
    let publish_bandwidth = section.byte_rate("publish-bandwidth", default.publish_bandwidth);
    // A file that lets a client publish more need not say that it may also cause more.
    let fan_out_rate = publish_rate
        .times(FAN_OUT_MESSAGES)
        .max(default.fan_out_rate);
    let fan_out_bandwidth = publish_bandwidth
        .times(FAN_OUT_BYTES)
        .max(default.fan_out_bandwidth);
    let limits = Limits {
        connections,
        connections_per_ip,
        connect_rate_per_ip: section.rate("connect-rate-per-ip", default.connect_rate_per_ip),
        handshakes,
        connect_deadline: section.duration(
            "connect-deadline",
            default.connect_deadline,
            (MILLISECOND, LONGEST_CONNECT),
        ),
        auth_failures_per_ip: section.rate("auth-failures-per-ip", default.auth_failures_per_ip),
        publish_rate,
        publish_bandwidth,
        fan_out_rate: section.rate("fan-out-rate", fan_out_rate),
        fan_out_bandwidth: section.byte_rate("fan-out-bandwidth", fan_out_bandwidth),
        sessions_per_principal,
        subscriptions_per_session,
        filters_per_subscribe,
        queue_messages,
        queue_bytes,
        queue_messages_per_principal,
        queue_bytes_per_principal: section.size("queue-bytes-per-principal", together, MAX_BYTES),
        retained_messages,
        retained_bytes: section.size("retained-bytes", default.retained_bytes, MAX_BYTES),
        retained_messages_per_principal,
        retained_bytes_per_principal: section.size(
            "retained-bytes-per-principal",
            default.retained_bytes_per_principal,
            MAX_BYTES,
        ),
        memory: Some(section.size_between("memory", 0, (LEAST_MEMORY, MAX_BYTES)))
            .filter(|bytes| *bytes > 0),
        idle: section.duration("idle", default.idle, (SECOND, MAX_DURATION)),
    };
    warn_of_limits(&section, &limits, mqtt);
    section.finish();
    limits
}

/// What does not fit together.
fn warn_of_limits(section: &Section<'_>, limits: &Limits, mqtt: &Mqtt) {
    let more_than_half = |bytes| limits.memory.is_some_and(|memory| bytes > memory / 2);
    if more_than_half(limits.retained_bytes) {
        section.source().warn(
            section.place("memory").unwrap_or(section.at()),
            "retained-bytes in [limits] is more than half of memory",
            "retained messages alone can make the broker refuse new clients: lower retained-bytes, \
             or raise memory",
        );
    }
    if more_than_half(limits.queue_bytes_per_principal) {
        section.source().warn(
            section.place("memory").unwrap_or(section.at()),
            "queue-bytes-per-principal in [limits] is more than half of memory",
            "the sessions of one principal alone can make the broker refuse new clients: lower \
             queue-bytes-per-principal, or raise memory",
        );
    }
    for (key, one, all) in [
        (
            "queue-messages",
            limits.queue_messages.into(),
            limits.queue_messages_per_principal.into(),
        ),
        (
            "queue-bytes",
            limits.queue_bytes,
            limits.queue_bytes_per_principal,
        ),
    ] {
        if all < one {
            let whole = format!("{key}-per-principal");
            section.source().warn(
                section.place(&whole).unwrap_or(section.at()),
                format_args!("{whole} in [limits] is less than {key}"),
                "not even one session alone has its queue: raise it, or lower the other",
            );
        }
    }
    for (key, bytes) in [
        ("queue-bytes", limits.queue_bytes),
        (
            "queue-bytes-per-principal",
            limits.queue_bytes_per_principal,
        ),
        ("retained-bytes", limits.retained_bytes),
        (
            "retained-bytes-per-principal",
            limits.retained_bytes_per_principal,
        ),
    ] {
        if bytes < u64::from(mqtt.max_packet_size) {
            section.source().warn(
                section.place(key).unwrap_or(section.at()),
                format_args!("{key} in [limits] is less than max-packet-size"),
                "a largest message never fits: raise it, or lower max-packet-size in [mqtt]",
            );
        }
    }
}

fn packet_size(section: &mut Section<'_>, key: &'static str, default: u32) -> u32 {
    let bytes = section.size(key, default.into(), MAX_PACKET);
    u32::try_from(bytes).unwrap_or(default)
}

/// The protocol counts these in seconds.
fn whole_seconds(
    section: &mut Section<'_>,
    key: &'static str,
    default: Duration,
    range: (Duration, Duration),
) -> Duration {
    let duration = section.duration(key, default, range);
    if duration.subsec_nanos() != 0 {
        section.source().error(
            section.place(key).unwrap_or(section.at()),
            format_args!("{key} in [mqtt] is {duration:?}"),
            "write whole seconds: MQTT counts it in seconds",
        );
    }
    duration
}
