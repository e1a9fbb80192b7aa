//! Properties of MQTT 5.0 (section 2.2.2): the walk over a block, and what a stored message keeps
//! of them.

use std::fmt;
use std::num::NonZeroU32;

use super::put;
use super::reader::Reader;
use super::{DecodeError, Limits, MessageProperties, UserProperties};

/// Property identifiers (table 2-4). Each is one byte on the wire.
pub(super) mod id {
    pub(in crate::wire) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(in crate::wire) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(in crate::wire) const CONTENT_TYPE: u8 = 0x03;
    pub(in crate::wire) const RESPONSE_TOPIC: u8 = 0x08;
    pub(in crate::wire) const CORRELATION_DATA: u8 = 0x09;
    pub(in crate::wire) const SUBSCRIPTION_ID: u8 = 0x0b;
    pub(in crate::wire) const SESSION_EXPIRY: u8 = 0x11;
    pub(in crate::wire) const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub(in crate::wire) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(in crate::wire) const AUTH_METHOD: u8 = 0x15;
    pub(in crate::wire) const AUTH_DATA: u8 = 0x16;
    pub(in crate::wire) const REQUEST_PROBLEM_INFO: u8 = 0x17;
    pub(in crate::wire) const WILL_DELAY: u8 = 0x18;
    pub(in crate::wire) const REQUEST_RESPONSE_INFO: u8 = 0x19;
    pub(in crate::wire) const RESPONSE_INFO: u8 = 0x1a;
    pub(in crate::wire) const SERVER_REFERENCE: u8 = 0x1c;
    pub(in crate::wire) const REASON_STRING: u8 = 0x1f;
    pub(in crate::wire) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(in crate::wire) const TOPIC_ALIAS_MAX: u8 = 0x22;
    pub(in crate::wire) const TOPIC_ALIAS: u8 = 0x23;
    pub(in crate::wire) const MAX_QOS: u8 = 0x24;
    pub(in crate::wire) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(in crate::wire) const USER: u8 = 0x26;
    pub(in crate::wire) const MAX_PACKET_SIZE: u8 = 0x27;
    pub(in crate::wire) const WILDCARD_AVAILABLE: u8 = 0x28;
    pub(in crate::wire) const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;
    pub(in crate::wire) const SHARED_AVAILABLE: u8 = 0x2a;
}

/// A set of property identifiers; all of them are below 64.
#[derive(Clone, Copy)]
pub(super) struct Set(u64);

impl Set {
    pub(super) const NONE: Self = Self(0);

    pub(super) const fn of(ids: &[u8]) -> Self {
        let mut bits = 0;
        let mut rest = ids;
        while let [id, others @ ..] = rest {
            bits |= 1_u64 << *id;
            rest = others;
        }
        Self(bits)
    }

    /// This set and `id`, which is below 64.
    pub(super) const fn with(self, id: u8) -> Self {
        Self(self.0 | 1 << id)
    }

    #[inline]
    fn has(self, id: u8) -> bool {
        1_u64.checked_shl(u32::from(id)).unwrap_or(0) & self.0 != 0
    }

    #[inline]
    fn insert(&mut self, id: u8) {
        self.0 |= 1_u64.checked_shl(u32::from(id)).unwrap_or(0);
    }
}

/// Every property that exists.
const KNOWN: Set = Set::of(&[
    id::PAYLOAD_FORMAT,
    id::MESSAGE_EXPIRY,
    id::CONTENT_TYPE,
    id::RESPONSE_TOPIC,
    id::CORRELATION_DATA,
    id::SUBSCRIPTION_ID,
    id::SESSION_EXPIRY,
    id::ASSIGNED_CLIENT_ID,
    id::SERVER_KEEP_ALIVE,
    id::AUTH_METHOD,
    id::AUTH_DATA,
    id::REQUEST_PROBLEM_INFO,
    id::WILL_DELAY,
    id::REQUEST_RESPONSE_INFO,
    id::RESPONSE_INFO,
    id::SERVER_REFERENCE,
    id::REASON_STRING,
    id::RECEIVE_MAXIMUM,
    id::TOPIC_ALIAS_MAX,
    id::TOPIC_ALIAS,
    id::MAX_QOS,
    id::RETAIN_AVAILABLE,
    id::USER,
    id::MAX_PACKET_SIZE,
    id::WILDCARD_AVAILABLE,
    id::SUBSCRIPTION_IDS_AVAILABLE,
    id::SHARED_AVAILABLE,
]);

/// What the user properties of one packet may still cost.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    count: usize,
    bytes: usize,
}

impl Budget {
    #[inline]
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            count: limits.user_properties,
            bytes: limits.user_property_bytes,
        }
    }

    /// For blocks that were inside their limits once.
    const UNLIMITED: Self = Self {
        count: usize::MAX,
        bytes: usize::MAX,
    };

    fn spend(&mut self, bytes: usize) -> Result<(), DecodeError> {
        let count = self.count.checked_sub(1);
        self.count = count.ok_or(DecodeError::TooManyUserProperties)?;
        let bytes = self.bytes.checked_sub(bytes);
        self.bytes = bytes.ok_or(DecodeError::UserPropertiesTooLarge)?;
        Ok(())
    }
}

/// A walk over one property block. It gives identifiers; the caller reads the value of each from
/// [`Properties::value`]. User properties are checked and collected on the way.
pub(super) struct Properties<'a, 'b> {
    /// Stands before a value when [`Properties::next`] has given its identifier.
    pub(super) value: Reader<'a>,
    allowed: Set,
    repeatable: Set,
    seen: Set,
    budget: &'b mut Budget,
    /// From the first user property on; `user_end` is where the last one ends.
    user: &'a [u8],
    user_end: usize,
}

impl<'a, 'b> Properties<'a, 'b> {
    /// `allowed` need not name User Property: it may stand everywhere.
    #[inline]
    pub(super) fn new(block: &'a [u8], allowed: Set, budget: &'b mut Budget) -> Self {
        Self {
            value: Reader::new(block),
            allowed,
            repeatable: Set::NONE,
            seen: Set::NONE,
            budget,
            user: &[],
            user_end: 0,
        }
    }

    pub(super) fn with_repeatable(self, repeatable: Set) -> Self {
        Self { repeatable, ..self }
    }

    /// The next identifier, which is in the allowed set.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<u8>, DecodeError> {
        while !self.value.is_empty() {
            let here = self.value.rest();
            let id = self.value.u8()?;
            if id == id::USER {
                self.user_property(here)?;
                continue;
            }
            if !self.allowed.has(id) {
                return Err(if KNOWN.has(id) {
                    DecodeError::MisplacedProperty(id)
                } else {
                    DecodeError::UnknownProperty(id)
                });
            }
            if self.seen.has(id) && !self.repeatable.has(id) {
                return Err(DecodeError::RepeatedProperty(id));
            }
            self.seen.insert(id);
            return Ok(Some(id));
        }
        Ok(None)
    }

    /// A property that is 0 or 1.
    pub(super) fn boolean(&mut self, id: u8) -> Result<bool, DecodeError> {
        match self.value.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::BooleanProperty(id)),
        }
    }

    /// A Subscription Identifier.
    pub(super) fn subscription_id(&mut self) -> Result<NonZeroU32, DecodeError> {
        NonZeroU32::new(self.value.varint()?).ok_or(DecodeError::ZeroSubscriptionId)
    }

    /// Reads property `id` into `message`. `false`: it is none of those that a message carries.
    #[inline]
    pub(super) fn read_message(
        &mut self,
        id: u8,
        message: &mut MessageProperties<'a>,
    ) -> Result<bool, DecodeError> {
        match id {
            id::PAYLOAD_FORMAT => message.payload_is_utf8 = self.boolean(id)?,
            id::MESSAGE_EXPIRY => message.expiry = Some(self.value.u32()?),
            id::CONTENT_TYPE => message.content_type = Some(self.value.utf8()?),
            id::RESPONSE_TOPIC => message.response_topic = Some(self.value.utf8()?),
            id::CORRELATION_DATA => message.correlation_data = Some(self.value.binary()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The user properties of the block, once it has been walked to its end.
    #[inline]
    pub(super) fn user(&self) -> UserProperties<'a> {
        UserProperties(self.user.get(..self.user_end).unwrap_or_default())
    }

    /// `here` begins with the identifier, which has been read.
    fn user_property(&mut self, here: &'a [u8]) -> Result<(), DecodeError> {
        let (name, value) = (self.value.utf8()?, self.value.utf8()?);
        self.budget.spend(name.len() + value.len())?;
        if self.user.is_empty() {
            self.user = here;
        }
        self.user_end = self.user.len() - self.value.rest().len();
        Ok(())
    }
}

impl<'a> UserProperties<'a> {
    /// None.
    pub const EMPTY: Self = Self(&[]);

    /// Checks a block of properties and keeps the user properties in it, in their order. `None` if
    /// it is not a sound block. For tests, and for programs that publish by themselves: a packet
    /// brings its block with it.
    #[must_use]
    pub fn from_block(block: &'a [u8]) -> Option<Self> {
        let mut budget = Budget::UNLIMITED;
        let mut properties = Properties::new(block, Set::NONE, &mut budget);
        let none = properties.next().ok()?;
        none.is_none().then(|| properties.user())
    }

    /// A block for [`UserProperties::from_block`]. A name or value over 65 535 bytes is left empty.
    #[must_use]
    pub fn block<'p>(pairs: impl IntoIterator<Item = (&'p str, &'p str)>) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in pairs {
            block.push(id::USER);
            put::string(&mut block, name);
            put::string(&mut block, value);
        }
        block
    }

    /// Whether there is none.
    #[must_use]
    #[inline]
    pub fn is_empty(self) -> bool {
        // A block begins with the first of them, see `Properties::user`.
        self.0.is_empty()
    }

    /// Names and values, in the order in which they were sent.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.encoded().filter_map(|property| {
            let mut reader = Reader::new(property.get(1..)?);
            Some((reader.utf8().ok()?, reader.utf8().ok()?))
        })
    }

    /// Each of them as it stands in the block, identifier included.
    pub(super) fn encoded(self) -> impl Iterator<Item = &'a [u8]> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || {
            loop {
                let here = reader.rest();
                let id = reader.u8().ok()?;
                skip(&mut reader, id).ok()?;
                if id == id::USER {
                    return here.get(..here.len() - reader.rest().len());
                }
            }
        })
    }
}

/// Skips the value of a property. The block was checked when it was decoded, so that an error here
/// only ends the walk.
fn skip(reader: &mut Reader<'_>, id: u8) -> Result<(), DecodeError> {
    match id {
        id::USER => {
            reader.binary()?;
            reader.binary().map(drop)
        }
        id::CONTENT_TYPE
        | id::RESPONSE_TOPIC
        | id::CORRELATION_DATA
        | id::ASSIGNED_CLIENT_ID
        | id::AUTH_METHOD
        | id::AUTH_DATA
        | id::RESPONSE_INFO
        | id::SERVER_REFERENCE
        | id::REASON_STRING => reader.binary().map(drop),
        id::MESSAGE_EXPIRY | id::SESSION_EXPIRY | id::WILL_DELAY | id::MAX_PACKET_SIZE => {
            reader.u32().map(drop)
        }
        id::SERVER_KEEP_ALIVE | id::RECEIVE_MAXIMUM | id::TOPIC_ALIAS_MAX | id::TOPIC_ALIAS => {
            reader.u16().map(drop)
        }
        id::SUBSCRIPTION_ID => reader.varint().map(drop),
        id::PAYLOAD_FORMAT
        | id::REQUEST_PROBLEM_INFO
        | id::REQUEST_RESPONSE_INFO
        | id::MAX_QOS
        | id::RETAIN_AVAILABLE
        | id::WILDCARD_AVAILABLE
        | id::SUBSCRIPTION_IDS_AVAILABLE
        | id::SHARED_AVAILABLE => reader.u8().map(drop),
        _ => Err(DecodeError::UnknownProperty(id)),
    }
}

/// Equal if they say the same in the same order; what else stands in the blocks does not count.
impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.encoded().eq(other.encoded())
    }
}

impl Eq for UserProperties<'_> {}

/// Says how many there are, not what they say: they are the application's, like the payload.
impl fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserProperties({})", self.encoded().count())
    }
}

/// The properties that a message may carry; User Property is understood.
pub(super) const MESSAGE: Set = Set::of(&[
    id::PAYLOAD_FORMAT,
    id::MESSAGE_EXPIRY,
    id::CONTENT_TYPE,
    id::RESPONSE_TOPIC,
    id::CORRELATION_DATA,
]);

/// Appends `properties` as one block in the encoding of MQTT 5.0, without a length in front: what
/// the engine stores. Payload Format Indicator 0, which says nothing, is left out.
#[inline]
pub fn encode_message_properties(out: &mut Vec<u8>, properties: &MessageProperties<'_>) {
    if properties.payload_is_utf8 {
        out.extend_from_slice(&[id::PAYLOAD_FORMAT, 1]);
    }
    if let Some(expiry) = properties.expiry {
        let [a, b, c, d] = expiry.to_be_bytes();
        out.extend_from_slice(&[id::MESSAGE_EXPIRY, a, b, c, d]);
    }
    if let Some(content_type) = properties.content_type {
        out.push(id::CONTENT_TYPE);
        put::string(out, content_type);
    }
    if let Some(response_topic) = properties.response_topic {
        out.push(id::RESPONSE_TOPIC);
        put::string(out, response_topic);
    }
    if let Some(correlation_data) = properties.correlation_data {
        out.push(id::CORRELATION_DATA);
        put::binary(out, correlation_data);
    }
    for property in properties.user.encoded() {
        out.extend_from_slice(property);
    }
}

/// The inverse of [`encode_message_properties`]: `decode(encode(p)) == p`. `None` for a block that it
/// did not write.
#[must_use]
pub fn decode_message_properties(block: &[u8]) -> Option<MessageProperties<'_>> {
    let mut message = MessageProperties::default();
    let mut budget = Budget::UNLIMITED;
    let mut properties = Properties::new(block, MESSAGE, &mut budget);
    while let Some(id) = properties.next().ok()? {
        properties.read_message(id, &mut message).ok()?;
    }
    message.user = properties.user();
    Some(message)
}

/// Bytes that [`encode_message_properties`] writes.
#[inline]
pub(super) fn message_properties_size(properties: &MessageProperties<'_>) -> usize {
    let mut size = 0;
    if properties.payload_is_utf8 {
        size += 2;
    }
    if properties.expiry.is_some() {
        size += 5;
    }
    if let Some(content_type) = properties.content_type {
        size += 1 + put::binary_size(content_type.as_bytes());
    }
    if let Some(response_topic) = properties.response_topic {
        size += 1 + put::binary_size(response_topic.as_bytes());
    }
    if let Some(correlation_data) = properties.correlation_data {
        size += 1 + put::binary_size(correlation_data);
    }
    if !properties.user.is_empty() {
        size += properties.user.encoded().map(<[u8]>::len).sum::<usize>();
    }
    size
}
