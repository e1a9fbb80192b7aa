//! The bytes of journal records: little-endian numbers, and texts behind their lengths.
//!
//! A record that does not read as it was written is refused as a whole; nothing is guessed.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::hook::{Credential, Identity, Principal, Snapshot};
use crate::message::Asked;
use crate::wire::{QoS, RetainHandling, SubscribeOptions};

/// Writes fields.
pub(super) trait Put {
    fn u8(&mut self, value: u8);
    fn u16(&mut self, value: u16);
    fn u32(&mut self, value: u32);
    fn u64(&mut self, value: u64);
    fn bytes(&mut self, value: &[u8]);
}

impl Put for Vec<u8> {
    fn u8(&mut self, value: u8) {
        self.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        // Nothing in here is as large as 4 GiB: packets are not.
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.extend_from_slice(value);
    }
}

/// Reads fields; `None` where the record ends early or says what it cannot.
pub(super) struct Take<'a>(pub(super) &'a [u8]);

impl<'a> Take<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        str::from_utf8(self.bytes()?).ok()
    }

    /// An optional number; 0 stands for none and n + 1 for n.
    #[expect(
        clippy::option_option,
        reason = "the outer says that the record ends early, the inner that there is no number"
    )]
    pub(super) fn option(&mut self) -> Option<Option<u64>> {
        self.u64().map(|value| value.checked_sub(1))
    }

    /// Nothing is left over.
    pub(super) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// See [`Take::option`].
pub(super) fn option(value: Option<u64>) -> u64 {
    value.map_or(0, |value| value.saturating_add(1))
}

pub(super) fn put_asked(out: &mut Vec<u8>, asked: Asked) {
    out.u8(u8::from(asked.retain) | u8::from(asked.will) << 1);
}

pub(super) fn asked(take: &mut Take<'_>) -> Option<Asked> {
    let bits = take.u8()?;
    (bits < 4).then_some(Asked {
        retain: bits & 1 != 0,
        will: bits & 2 != 0,
    })
}

pub(super) fn qos(take: &mut Take<'_>) -> Option<QoS> {
    QoS::from_bits(take.u8()?)
}

pub(super) fn put_ids(out: &mut Vec<u8>, ids: &[NonZeroU32]) {
    out.u16(u16::try_from(ids.len()).unwrap_or(u16::MAX));
    for id in ids.iter().take(usize::from(u16::MAX)) {
        out.u32(id.get());
    }
}

pub(super) fn ids(take: &mut Take<'_>) -> Option<crate::engine::Ids> {
    let count = take.u16()?;
    (0..count)
        .map(|_| take.u32().and_then(NonZeroU32::new))
        .collect()
}

pub(super) fn put_options(out: &mut Vec<u8>, options: SubscribeOptions) {
    let bits = options.qos as u8
        | u8::from(options.no_local) << 2
        | u8::from(options.retain_as_published) << 3
        | (options.retain_handling as u8) << 4;
    out.u8(bits);
}

pub(super) fn options(take: &mut Take<'_>) -> Option<SubscribeOptions> {
    let bits = take.u8()?;
    Some(SubscribeOptions {
        qos: QoS::from_bits(bits & 3)?,
        no_local: bits & 4 != 0,
        retain_as_published: bits & 8 != 0,
        retain_handling: match bits >> 4 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return None,
        },
    })
}

pub(super) fn put_snapshot(out: &mut Vec<u8>, who: &Snapshot) {
    out.bytes(who.principal().as_str().as_bytes());
    out.u32(u32::try_from(who.identity.roles.len()).unwrap_or(u32::MAX));
    for role in who.identity.roles.iter() {
        out.bytes(role.as_bytes());
    }
    out.u32(u32::try_from(who.identity.attributes.len()).unwrap_or(u32::MAX));
    for (key, value) in who.identity.attributes.iter() {
        out.bytes(key.as_bytes());
        out.bytes(value.as_bytes());
    }
    out.bytes(who.credential.method.as_bytes());
    out.bytes(who.credential.reference.as_bytes());
    out.bytes(who.client_id.as_bytes());
    out.bytes(who.listener.as_bytes());
    let address = who.address.map(|address| address.to_string());
    out.bytes(address.unwrap_or_default().as_bytes());
}

pub(super) fn snapshot(take: &mut Take<'_>) -> Option<Snapshot> {
    let principal = Principal::recorded(take.text()?);
    let roles: Arc<[Box<str>]> = (0..take.u32()?)
        .map(|_| take.text().map(Box::from))
        .collect::<Option<_>>()?;
    let attributes = (0..take.u32()?)
        .map(|_| Some((take.text()?.into(), take.text()?.into())))
        .collect::<Option<BTreeMap<_, _>>>()?;
    let credential = Credential::new(take.text()?, take.text()?);
    let client_id = take.text()?.into();
    let listener = take.text()?.into();
    let address = match take.text()? {
        "" => None,
        text => Some(text.parse().ok()?),
    };
    Some(Snapshot {
        identity: Identity {
            principal,
            roles,
            attributes: Arc::new(attributes),
        },
        credential,
        client_id,
        listener,
        address,
    })
}
