//! What the broker is configured to do: checked values, swapped in whole on reload.
//!
//! The defaults are those of the operator's contract. Every limit is finite. Limits apply to
//! live connections: each reads the present settings once per read batch.

use std::num::NonZeroU16;
use std::time::Duration;

use crate::topic::TopicLimits;
use crate::wire::{self, QoS};

/// Everything that may change while the broker runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `[mqtt]`.
    pub mqtt: Mqtt,
    /// `[limits]`, as far as core enforces them itself.
    pub limits: Limits,
    /// `[acl]`: how answers are enforced.
    pub enforcement: Enforcement,
    /// `[auth] client-id`.
    pub client_id: ClientIdRule,
}

/// `[mqtt]`: what is announced to clients and demanded of them.
#[derive(Clone, Debug)]
pub struct Mqtt {
    /// Largest packet accepted once a client is admitted, fixed header included, bytes.
    pub max_packet_size: u32,
    /// Largest CONNECT, bytes.
    pub connect_packet_size: u32,
    /// Unacknowledged inbound `QoS` 1 and 2 publishes; announced as Receive Maximum.
    pub receive_maximum: NonZeroU16,
    /// Largest `QoS` accepted and granted.
    pub max_qos: QoS,
    /// Longest keep alive granted; also stands in for none.
    pub keep_alive_max: Duration,
    /// Longest session expiry granted; 0: sessions end with their connection.
    pub session_expiry_max: Duration,
    /// Inbound topic aliases of a connection.
    pub topic_alias_max: u16,
    /// How often the broker publishes what changed below `$SYS/broker`.
    pub sys_interval: Duration,
    /// Length and depth of topics.
    pub topic: TopicLimits,
    /// User properties in one packet.
    pub user_properties: usize,
    /// Bytes of user properties in one packet.
    pub user_property_bytes: usize,
}

/// `[limits]` that core enforces; those keyed by rates belong to an `Admission` module.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at one time, half-open ones included.
    pub connections: usize,
    /// Connections of one address (IPv6: of one /64).
    pub connections_per_ip: usize,
    /// TLS handshakes in flight.
    pub handshakes: usize,
    /// From accept to CONNACK.
    pub connect_deadline: Duration,
    /// Sessions of one principal, offline ones included.
    pub sessions_per_principal: usize,
    /// Subscriptions of one session.
    pub subscriptions_per_session: usize,
    /// Filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub filters_per_subscribe: usize,
    /// Messages queued for one session.
    pub queue_messages: usize,
    /// Bytes queued for one session.
    pub queue_bytes: usize,
    /// Messages queued for all sessions of one principal.
    pub queue_messages_per_principal: usize,
    /// Bytes queued for all sessions of one principal.
    pub queue_bytes_per_principal: usize,
    /// Retained messages in all.
    pub retained_messages: usize,
    /// Bytes of retained messages in all.
    pub retained_bytes: usize,
    /// Retained messages of one author.
    pub retained_messages_per_principal: usize,
    /// Bytes of retained messages of one author.
    pub retained_bytes_per_principal: usize,
    /// Memory of the whole process, bytes; see [`crate::budget`].
    pub memory: u64,
    /// While memory is short, a connection without subscriptions that has published nothing for so
    /// long may be ended.
    pub idle: Duration,
}

/// What is done about the answers of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforcement {
    /// A subscription that is covered in part.
    pub subscribe: PartlyCovered,
    /// A publish that is denied.
    pub denied_publish: DeniedPublish,
    /// A live subscription that is no longer covered.
    pub on_revoke: OnRevoke,
    /// Whether a request's response topic must be one that the requester may subscribe to.
    pub check_response_topic: bool,
}

/// `[acl] subscribe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartlyCovered {
    /// Refused.
    Reject,
    /// Granted, and each delivery filtered.
    Narrow,
}

/// `[acl] denied-publish`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedPublish {
    /// Answered (5.0: 0x87) and dropped.
    Acknowledge,
    /// The connection ends.
    Disconnect,
}

/// `[acl] on-revoke`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRevoke {
    /// The subscription is kept and delivers nothing until it is covered again.
    Suspend,
    /// The connection ends.
    Disconnect,
}

/// `[auth] client-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientIdRule {
    /// The client chooses.
    Any,
    /// The NAME of the principal, or NAME:SUFFIX; an empty one becomes NAME:random.
    Name,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mqtt: Mqtt {
                max_packet_size: 1 << 20,
                connect_packet_size: 64 << 10,
                receive_maximum: const { NonZeroU16::new(64).unwrap() },
                max_qos: QoS::ExactlyOnce,
                keep_alive_max: Duration::from_mins(20),
                session_expiry_max: Duration::from_hours(7 * 24),
                topic_alias_max: 32,
                sys_interval: Duration::from_secs(10),
                topic: TopicLimits::default(),
                user_properties: 64,
                user_property_bytes: 16 << 10,
            },
            limits: Limits {
                connections: 100_000,
                connections_per_ip: 1_000,
                handshakes: 256,
                connect_deadline: Duration::from_secs(10),
                sessions_per_principal: 1_000,
                subscriptions_per_session: 1_000,
                filters_per_subscribe: 100,
                queue_messages: 10_000,
                queue_bytes: 16 << 20,
                queue_messages_per_principal: 100_000,
                queue_bytes_per_principal: 160 << 20,
                retained_messages: 1_000_000,
                retained_bytes: 1 << 30,
                retained_messages_per_principal: 100_000,
                retained_bytes_per_principal: 128 << 20,
                memory: 4 << 30,
                idle: Duration::from_mins(10),
            },
            enforcement: Enforcement {
                subscribe: PartlyCovered::Reject,
                denied_publish: DeniedPublish::Acknowledge,
                on_revoke: OnRevoke::Suspend,
                check_response_topic: true,
            },
            client_id: ClientIdRule::Any,
        }
    }
}

impl Settings {
    /// What the decoder is told.
    #[must_use]
    pub fn wire_limits(&self) -> wire::Limits {
        wire::Limits {
            max_packet_size: self.mqtt.max_packet_size,
            user_properties: self.mqtt.user_properties,
            user_property_bytes: self.mqtt.user_property_bytes,
            filters_per_packet: self.limits.filters_per_subscribe,
        }
    }
}
