//! What happened?

use std::net::SocketAddr;

use super::{BatchFacts, Snapshot};
use crate::clock::Now;
use crate::wire::{QoS, ReasonCode, Version};

/// Is told what happened. Never blocks and never fails: what cannot be taken is counted by the
/// observer itself.
pub trait Observer: Send + Sync {
    /// Names the module in logs and metrics.
    fn name(&self) -> &str;

    /// A refusal or a step in somebody's life.
    fn event(&self, event: &Event<'_>, now: Now);

    /// A handle for the traffic of one connection, if this observer wants it.
    fn tally(&self, who: &Snapshot) -> Option<Box<dyn Tally>>;

    /// `false` when what happens cannot be recorded and new connections must be refused
    /// (`[audit] on-full = "refuse-new"`).
    fn can_record(&self) -> bool {
        true
    }
}

/// Traffic of one connection, once per read batch, from the connection's own task.
pub trait Tally: Send {
    /// What the batch held.
    fn batch(&mut self, facts: &BatchFacts, now: Now);
}

/// One subscription that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted<'a> {
    /// To what, `$share` prefix included.
    pub filter: &'a str,
    /// The maximum `QoS`.
    pub qos: QoS,
    /// Whether deliveries are filtered, because the policy covers it in part.
    pub narrowed: bool,
}

/// Something that happened, with borrowed facts. Text in it comes from clients: escape it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The broker accepts connections.
    Started,
    /// The broker is about to end.
    Stopping,
    /// A unit was reloaded; `error` says why it was kept instead.
    Reloaded {
        /// `configuration`, `policy`, `listener NAME`, `password-file`, `issuer NAME`.
        unit: &'a str,
        /// What is wrong with the new one.
        error: Option<&'a str>,
    },
    /// A connection was refused before it had an identity.
    ConnectionRefused {
        /// The listener's name.
        listener: &'a str,
        /// The peer.
        peer: Option<SocketAddr>,
        /// As claimed.
        client_id: Option<&'a str>,
        /// Whom it claimed to be, where known.
        claimed: Option<&'a str>,
        /// A short word for the kind of check: `credential`, `tls`, `limit`, `protocol`, ...
        check: &'a str,
        /// What a client is told, where it is told anything.
        code: Option<ReasonCode>,
        /// The whole reason.
        reason: &'a str,
    },
    /// A client was admitted.
    Connected {
        /// Who.
        who: &'a Snapshot,
        /// Where from, port included.
        peer: Option<SocketAddr>,
        /// What it speaks.
        version: Version,
        /// Whether it found its session.
        session_present: bool,
    },
    /// An admitted client's connection ended.
    Disconnected {
        /// Who.
        who: &'a Snapshot,
        /// Where from, port included.
        peer: Option<SocketAddr>,
        /// How.
        how: Disconnected,
        /// The whole reason.
        reason: &'a str,
    },
    /// Subscriptions were granted; those of one SUBSCRIBE together, unless their filters are long.
    Subscribed {
        /// Who.
        who: &'a Snapshot,
        /// What was granted; not empty.
        granted: &'a [Granted<'a>],
    },
    /// A subscription was refused.
    SubscribeDenied {
        /// Who.
        who: &'a Snapshot,
        /// To what.
        filter: &'a str,
        /// The rule that cut it, in words, or why else.
        rule: &'a str,
        /// What the client was told: `NotAuthorized` by the policy, `QuotaExceeded` by a limit.
        code: ReasonCode,
    },
    /// A subscription was given up.
    Unsubscribed {
        /// Who.
        who: &'a Snapshot,
        /// From what.
        filter: &'a str,
    },
    /// A subscription lost its cover by a change of policy, or got it back.
    SubscriptionSuspended {
        /// Whose.
        who: &'a Snapshot,
        /// Which.
        filter: &'a str,
        /// `false`: it is covered again.
        suspended: bool,
    },
    /// A publish was refused.
    PublishDenied {
        /// Who.
        who: &'a Snapshot,
        /// Where to.
        topic: &'a str,
        /// At which `QoS`.
        qos: QoS,
        /// Size of the payload, bytes.
        payload: usize,
        /// `publish` or `retain`.
        action: &'a str,
        /// The rule, in words, or why else.
        rule: &'a str,
    },
    /// Something was allowed for the first time because a listener is learning, by no line of the
    /// policy.
    Learned {
        /// Who.
        who: &'a Snapshot,
        /// `publish`, `retain`, `will` or `subscribe`.
        action: &'a str,
        /// Where; for `subscribe` the filter.
        topic: &'a str,
    },
    /// A stored message (queued, retained, a will) was withheld at delivery.
    StoredWithheld {
        /// Who wrote it.
        author: &'a Snapshot,
        /// Where to.
        topic: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// A will was published.
    WillPublished {
        /// Whose.
        who: &'a Snapshot,
        /// Where to.
        topic: &'a str,
    },
    /// A client met a limit.
    LimitHit {
        /// Who, if known.
        who: Option<&'a Snapshot>,
        /// From where.
        peer: Option<SocketAddr>,
        /// The configuration key, for example `limits.queue-messages`.
        limit: &'a str,
        /// What was seen and what was done.
        reason: &'a str,
    },
    /// Messages left an offline session's full queue.
    QueueDropped {
        /// The session's client id.
        client_id: &'a str,
        /// The session's owner.
        owner: &'a str,
        /// How many.
        count: u64,
    },
    /// A session ended.
    SessionEnded {
        /// Its client id.
        client_id: &'a str,
        /// Its owner.
        owner: &'a str,
        /// Why: `expired`, `dropped`, `clean`.
        reason: &'a str,
    },
    /// An operator did something through the administration socket.
    Administration {
        /// What, in words.
        action: &'a str,
    },
    /// A module of the broker failed.
    ModuleFailed {
        /// Which.
        module: &'a str,
        /// How.
        reason: &'a str,
    },
}

/// How an admitted connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnected {
    /// By the client's DISCONNECT.
    ByClient,
    /// The network connection closed without one.
    ConnectionLost,
    /// By the broker, with this code.
    ByServer(ReasonCode),
}
