//! Re-authentication of a live connection (5.0, section 4.12.1): which AUTH may come when.
//!
//! What the client shows is judged elsewhere (`gate`); here is only whose turn it is.

use std::sync::Arc;
use std::time::SystemTime;

use crate::clock::Now;
use crate::guard::{Inbound, Subject};
use crate::wire::{self, Auth, ReasonCode};

use super::{Connection, End};

/// How far a re-authentication is.
#[derive(Debug, Default)]
pub(super) enum Renewal {
    /// None is under way.
    #[default]
    Idle,
    /// The client has said this, and nobody has been asked about it yet.
    Said(Vec<u8>),
    /// It is being judged; the client has nothing to add.
    Judged,
    /// The client was asked for the next step.
    Asked,
}

impl Connection {
    pub(super) fn auth(&mut self, auth: &Auth<'_>) -> Result<(), End> {
        let begins = auth.reason == ReasonCode::ReAuthenticate;
        let own = self.terms.auth_method.as_deref();
        let wrong = match (own, &self.renewal) {
            (None, _) => "an AUTH, and CONNECT had no Authentication Method [MQTT-4.12.0-7]",
            (Some(method), _) if auth.method != Some(method) => {
                "an AUTH of another Authentication Method than CONNECT's [MQTT-4.12.1-1]"
            }
            (_, Renewal::Idle) if !begins => {
                "an AUTH that continues (0x18) where no authentication is under way"
            }
            (_, Renewal::Asked) if begins => {
                "an AUTH that begins anew (0x19) where the next step was asked for [MQTT-4.12.0-3]"
            }
            (_, Renewal::Said(_) | Renewal::Judged) => {
                "an AUTH before the one ahead of it was answered"
            }
            (_, Renewal::Idle | Renewal::Asked) => {
                let data = auth.data.map(|data| data.0.expose().to_vec());
                self.renewal = Renewal::Said(data.unwrap_or_default());
                return Ok(());
            }
        };
        Err(End::server(ReasonCode::ProtocolError, wrong))
    }

    /// What the client has said and is to be judged now.
    pub(crate) fn auth_step(&mut self) -> Option<Vec<u8>> {
        match std::mem::replace(&mut self.renewal, Renewal::Judged) {
            Renewal::Said(data) => Some(data),
            other @ (Renewal::Idle | Renewal::Judged | Renewal::Asked) => {
                self.renewal = other;
                None
            }
        }
    }

    /// Asks the client for the next step \[MQTT-4.12.0-2\].
    pub(crate) fn challenge(&mut self, data: &[u8]) -> Result<(), End> {
        self.renewal = Renewal::Asked;
        self.send_auth(ReasonCode::ContinueAuthentication, Some(data))
    }

    /// The client proved the same principal anew: rights, attributes and lease are those of now.
    pub(crate) fn renew(
        &mut self,
        subject: Arc<Subject>,
        until: Option<SystemTime>,
        data: Option<&[u8]>,
        now: Now,
    ) -> Result<(), End> {
        self.renewal = Renewal::Idle;
        self.engine.renew(&self.attached, Arc::clone(&subject), now);
        self.guard = Inbound::new(subject, &self.engine.modules);
        self.terms.until = until;
        self.send_auth(ReasonCode::Success, data)
    }

    fn send_auth(&mut self, reason: ReasonCode, data: Option<&[u8]>) -> Result<(), End> {
        let start = self.replies.len();
        if let Some(method) = &self.terms.auth_method {
            wire::auth(&mut self.replies, reason, method, data, None);
        }
        self.fits(start)
    }
}
