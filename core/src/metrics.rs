//! Counters of the core: what moved, what was refused, what was lost and why.
//!
//! Plain atomics that the program exports; connections add to them once per read batch.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows, or (for gauges) goes up and down.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        if n != 0 {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes `n` away; gauges only.
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// Puts a gauge to `n`.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The present value.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! metrics {
    ($($name:ident: $kind:literal, $help:literal;)*) => {
        /// All counters and gauges of the core.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $name: Counter,)*
        }

        impl Metrics {
            /// Name, kind (`counter` or `gauge`), help text and value of each, for exporters.
            #[must_use]
            pub fn list(&self) -> Vec<(&'static str, &'static str, &'static str, u64)> {
                vec![$((stringify!($name), $kind, $help, self.$name.value()),)*]
            }
        }
    };
}

metrics! {
    connections: "gauge", "Connections at present, half-open ones included.";
    clients: "gauge", "Admitted clients at present.";
    sessions: "gauge", "Sessions at present, offline ones included.";
    subscriptions: "gauge", "Subscriptions at present.";
    retained_messages: "gauge", "Retained messages at present.";
    retained_bytes: "gauge", "Bytes of retained messages at present.";
    queued_messages: "gauge", "Messages in session queues at present.";
    queued_bytes: "gauge", "Bytes in session queues at present.";
    memory_used: "gauge", "Resident memory of the process at the last reading, and what is swapped out, bytes.";
    memory_budget: "gauge", "Memory that the process may have, bytes.";
    memory_level: "gauge", "How short memory is: 0 calm, 1 pressed, 2 full, 3 spent.";
    memory_unread: "counter", "Times that the memory of the process could not be read.";
    memory_clients_shed: "counter", "CONNECTs of new clients refused because memory was short.";
    memory_arrivals_shed: "counter", "Connections closed at once because memory was spent.";
    memory_evicted: "counter", "Idle connections ended because memory was short.";
    memory_messages_refused: "counter", "Messages refused because they would have had to be kept and memory was short.";
    memory_retained_refused: "counter", "Retained messages refused because memory was short.";
    memory_subscriptions_refused: "counter", "Subscriptions refused because memory was short.";
    memory_dropped_qos0: "counter", "`QoS` 0 messages dropped because they would have had to wait and memory was short.";
    accepted: "counter", "Connections accepted.";
    shed: "counter", "Connections closed at once: a connection limit, no descriptor, or too many handshakes.";
    refused_arrivals: "counter", "Connections refused by an admission module before TLS.";
    untrusted_proxies: "counter", "Connections closed because the peer is no trusted proxy or its PROXY header is malformed.";
    refused_upgrades: "counter", "WebSocket upgrades refused.";
    tls_failures: "counter", "TLS handshakes that failed.";
    connect_timeouts: "counter", "Connections that did not reach CONNACK before the connect deadline.";
    connects: "counter", "Clients admitted.";
    refused_credentials: "counter", "CONNECTs and re-authentications refused for a missing or failed credential.";
    refused_unavailable: "counter", "CONNECTs refused because a backend did not answer.";
    refused_admission: "counter", "CONNECTs of proven clients that were not admitted.";
    malformed: "counter", "Connections closed for a packet that breaks the protocol.";
    packets_received: "counter", "Packets received.";
    bytes_received: "counter", "Bytes received.";
    packets_sent: "counter", "Packets sent to admitted clients.";
    bytes_sent: "counter", "Bytes sent.";
    messages_received: "counter", "PUBLISH packets received.";
    messages_sent: "counter", "PUBLISH packets sent.";
    publishes_denied: "counter", "Publishes refused by the policy.";
    subscribes_denied: "counter", "Subscriptions refused by the policy.";
    deliveries_denied: "counter", "Deliveries withheld by the policy.";
    subscriptions_unclear: "counter", "Filters that take too much work to be judged by the policy: refused, or filtered message by message.";
    stored_withheld: "counter", "Stored messages withheld because their author lost the right.";
    dropped_qos0: "counter", "`QoS` 0 messages dropped because the receiver's queue was full.";
    dropped_offline: "counter", "Messages dropped from full queues of offline sessions.";
    queue_over_quota: "counter", "Messages that the queues of their receiver's principal had no room for together: dropped, or held back.";
    dropped_too_large: "counter", "Messages not sent because they exceed the client's Maximum Packet Size.";
    dropped_expired: "counter", "Messages whose expiry interval passed before delivery.";
    retained_refused: "counter", "Retained messages refused because the store is full.";
    retained_over_quota: "counter", "Retained messages refused because their author has retained as much as one principal may.";
    store_refused: "counter", "Messages refused because the durable store is full or has failed.";
    store_full: "gauge", "1 while the durable store takes nothing new: full, or failed.";
    clock_jumps: "counter", "Jumps of the system's calendar by more than a minute.";
    slow_consumers: "counter", "Connections ended because the receiver made no progress.";
    limits_hit: "counter", "Times that a limit slowed, refused or ended something.";
    takeovers: "counter", "Connections ended because their client connected again.";
    wills_published: "counter", "Wills published.";
    modules_failed: "counter", "Panics caught in modules; each was answered with a refusal.";
}
