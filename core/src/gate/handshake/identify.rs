//! From the first packet to a proven identity.

use std::sync::atomic::Ordering;

use tokio::io::AsyncWriteExt as _;

use crate::clock::Now;
use crate::hook::{Accepted, Arrival, Attempt, Outcome, Refusal, RefusalKind, Verdict};
use crate::secret::Secret;
use crate::settings::Settings;
use crate::wire::{
    self, Connect, DecodeError, Packet, ReasonCode, Version, decode, decode_connect, split_frame,
};

use super::{Denied, Failed, Handshake, MAX_STEPS, Ready};

/// Longest client identifier accepted, bytes; they are kept for every session.
const CLIENT_ID_MAX: usize = 1024;

impl Handshake<'_> {
    pub(super) async fn connect(&mut self) -> Result<Ready, Failed> {
        let gate = self.gate;
        let engine = &gate.engine;
        let settings = engine.settings.load_full();
        let bytes = self.packet(settings.mqtt.connect_packet_size).await?;
        let now = Now::read();
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
        let now = self
            .preconditions(&connect, &settings, now)
            .await
            .map_err(|(code, check, reason)| failed(code, check, reason))?;
        let generation = engine.modules.standing_generation();
        let accepted = match self.authenticate(&connect, now).await? {
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
        let (proven, now) = self
            .behaved(&connect, (accepted, generation), &settings)
            .await
            .map_err(refused)?;
        self.admit(&connect, proven, &settings, now)
            .map_err(refused)
    }

    fn arrival(&self) -> Arrival<'_> {
        Arrival {
            address: self.peer.map(|peer| peer.ip().to_canonical()),
            listener: &self.shared.name,
            proven: false,
        }
    }

    /// Whether the certificate that TLS has proved is the credential that will be judged.
    fn is_proven(&self, connect: &Connect<'_>) -> bool {
        let other =
            connect.password.is_some() || connect.auth_method.is_some() || self.bearer.is_some();
        let mut methods = self.shared.methods.iter().flatten();
        let looked_at =
            self.shared.methods.is_none() || methods.any(|method| **method == *"certificate");
        !other && looked_at && self.stream.has_certificate()
    }

    /// What must hold before anybody's credential is looked at. Gives the time afterwards.
    async fn preconditions(
        &self,
        connect: &Connect<'_>,
        settings: &Settings,
        now: Now,
    ) -> Result<Now, Denied> {
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
        let arrival = Arrival {
            proven: self.is_proven(connect),
            ..self.arrival()
        };
        match engine.modules.attempt(&arrival, claimed, now) {
            Verdict::Admit => Ok(now),
            Verdict::Slow(wait) => {
                self.clock.pause(wait).await;
                Ok(Now::read())
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
        mut now: Now,
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
                now,
                step,
                exchange,
                current: None,
                clock: self.clock.clone(),
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
                    now = Now::read();
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
        let failed = |code, check, reason: String| Failed {
            code,
            client_id: Some(connect.client_id.to_owned()),
            version: connect.version,
            ..Failed::silent(check, reason)
        };
        let mut out = Vec::new();
        let code = ReasonCode::ContinueAuthentication;
        wire::auth(&mut out, code, method, Some(challenge), None);
        // [MQTT-3.1.2-24], as for the CONNACK.
        if let Some(max) = connect.max_packet_size
            && out.len() > max.get() as usize
        {
            let code = (max.get() >= 5).then_some(ReasonCode::PacketTooLarge);
            let reason = format!("the client takes packets of at most {max} bytes; AUTH is larger");
            return Err(failed(code, "limit", reason));
        }
        if let Err(error) = self.stream.write_all(&out).await {
            return Err(Failed::silent("network", error.to_string()));
        }
        let engine = &self.gate.engine;
        let settings = engine.settings.load_full();
        let bytes = self.packet(settings.mqtt.connect_packet_size).await?;
        let mut limits = settings.wire_limits();
        limits.max_packet_size = settings.mqtt.connect_packet_size;
        let answer = match split_frame(&bytes, limits.max_packet_size) {
            Ok(Some(frame)) => decode(frame, connect.version, &limits),
            Ok(None) => Err(DecodeError::Truncated),
            Err(error) => Err(error),
        };
        match answer {
            Ok(Packet::Auth(auth)) if auth.method == Some(method) && auth.reason == code => {
                Ok(auth
                    .data
                    .map(|data| data.0.expose().to_vec())
                    .unwrap_or_default())
            }
            // [MQTT-3.1.2-30] lets it go in the middle of an exchange.
            Ok(Packet::Disconnect(_)) => {
                let reason = "DISCONNECT in the middle of an authentication";
                Err(failed(None, "network", reason.to_owned()))
            }
            Ok(_) => Err(failed(
                Some(ReasonCode::ProtocolError),
                "protocol",
                "not the AUTH that was asked for".to_owned(),
            )),
            Err(error) => {
                engine.metrics.malformed.inc();
                Err(failed(Some(error.reason()), "protocol", error.to_string()))
            }
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
}
