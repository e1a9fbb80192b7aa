//! Who is it?

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::{BoxFuture, Identity, Principal, Snapshot, StopClock};
use crate::clock::Now;
use crate::secret::Secret;
use crate::wire::Version;

/// Decides who a client is. Asked once at CONNECT, again for each step of an enhanced
/// authentication and for a re-authentication; may use the network, is bounded by the connect
/// deadline. Unavailable is a refusal.
///
/// Several authenticators form a chain: the first whose answer is not [`Outcome::NotMine`]
/// decides; when nobody owns the credential, the client is refused.
pub trait Authenticator: Send + Sync {
    /// Names the module in logs, metrics and records.
    fn name(&self) -> &str;

    /// Judges a claim.
    fn authenticate<'a>(&'a self, attempt: &'a Attempt<'a>) -> BoxFuture<'a, Outcome>;

    /// Whether a credential that was accepted before still stands; from memory, without blocking.
    /// Asked for every live connection when [`generation`](Self::generation) moved, and for
    /// authors of stored messages.
    fn standing(&self, credential: &Credential, purpose: Use) -> Standing;

    /// Moves whenever keys, CRLs or files were swapped, so that core asks again.
    fn generation(&self) -> u64;
}

/// What a client claims, and where it comes from.
#[derive(Clone, Debug)]
pub struct Attempt<'a> {
    /// The listener's name.
    pub listener: &'a str,
    /// The methods that this listener looks at (`certificate`, `jwt`, `password`, `anonymous`);
    /// `None`: all that are configured.
    pub methods: Option<&'a [Box<str>]>,
    /// Whether the listener is bound to a loopback address or a Unix socket.
    pub loopback: bool,
    /// The peer; `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// What the client speaks.
    pub version: Version,
    /// As sent; may be empty.
    pub client_id: &'a str,
    /// User Name.
    pub username: Option<&'a str>,
    /// Password.
    pub password: Option<Secret<'a>>,
    /// Authentication Method (5.0), with its data.
    pub enhanced: Option<(&'a str, Option<Secret<'a>>)>,
    /// The token of a WebSocket upgrade's `Authorization: Bearer`.
    pub bearer: Option<Secret<'a>>,
    /// The client certificate, validated by TLS.
    pub certificate: Option<&'a ClientCertificate>,
    /// The time.
    pub now: Now,
    /// Which step of an enhanced authentication this is, counted from 0; the module keeps what it
    /// needs between steps under `exchange`.
    pub step: u32,
    /// A number that is the same for the steps of one exchange and for no other.
    pub exchange: u64,
    /// For a re-authentication (AUTH 0x19): who the client is now.
    pub current: Option<&'a Snapshot>,
    /// How long there is; to be stopped while the client waits its turn.
    pub clock: StopClock,
}

/// A chain of certificates that TLS has validated, the client's first, DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// At least one.
    pub chain: Arc<[Box<[u8]>]>,
}

/// What an [`Authenticator`] answers.
#[derive(Debug)]
pub enum Outcome {
    /// Not a credential of this module's; ask the next.
    NotMine,
    /// Proven.
    Accepted(Accepted),
    /// 5.0 only: send this AUTH and wait for the client's.
    Continue(Vec<u8>),
    /// No. Final: nobody else is asked.
    Refused(Refusal),
}

/// A proven identity.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Who.
    pub identity: Identity,
    /// On what grounds, and until when.
    pub lease: Lease,
    /// Authentication Data for the CONNACK or the final AUTH (5.0).
    pub data: Option<Vec<u8>>,
}

/// The grounds of an identity, and their end.
#[derive(Clone, Debug)]
pub struct Lease {
    /// When the identity ends by itself (`exp`, `notAfter`); the connection then ends within a second.
    pub until: Option<SystemTime>,
    /// What proved it.
    pub credential: Credential,
}

/// Names a credential so that its module can be asked about it later, also after a restart.
/// Never a secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Credential {
    /// The module's method: `certificate`, `jwt`, `password`, `anonymous`, `system`, or a custom
    /// module's own word.
    pub method: Arc<str>,
    /// In the module's own words: issuer and serial, key id, a hash of a password line.
    pub reference: Arc<str>,
}

impl Credential {
    /// A credential of `method`.
    #[must_use]
    pub fn new(method: &str, reference: &str) -> Self {
        Self {
            method: method.into(),
            reference: reference.into(),
        }
    }
}

/// Why [`Authenticator::standing`] is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A connection lives on it: expiry, rotation and a changed password count.
    Live,
    /// A stored message was written under it: only revocation or removal of the author counts.
    Stored,
}

/// Whether a credential still stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not a credential of this module's.
    NotMine,
    /// Yes.
    Good,
    /// No, and why: a revoked certificate, a removed user, a withdrawn key.
    Revoked(String),
}

/// A refusal: what the client is told, and what the operator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Picks the one code that the client sees.
    pub kind: RefusalKind,
    /// For log and record: which check failed, with what values; never a secret.
    pub reason: String,
    /// Whom the client claimed to be, where that is known: for records and limits only.
    pub claimed: Option<Principal>,
}

impl Refusal {
    /// A refusal of this kind for this reason.
    #[must_use]
    pub fn new(kind: RefusalKind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
            claimed: None,
        }
    }
}

/// What the client is told: one code whatever the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// A missing or failed credential: 0x86, in 3.x 4.
    BadCredential,
    /// An Authentication Method that nobody here speaks: 0x8C.
    BadMethod,
    /// A backend does not answer: 0x88, in 3.x 3.
    Unavailable,
    /// Proven but not admitted: 0x87, in 3.x 5.
    NotAdmitted,
}
