//! An application message on its way through the broker.
//!
//! A [`Publication`] borrows from the read buffer; most messages never become anything else. What
//! has to be kept - queued, retained, in flight to a persistent session, a will - becomes a
//! [`Message`]: one shared allocation that holds a copy of the bytes, so that a small message
//! kept never holds a large read buffer alive.

use std::cell::OnceCell;
use std::sync::Arc;

use triomphe::ThinArc;

use crate::guard::Subject;
use crate::hook::MessageFacts;
use crate::journal::Mark;
use crate::topic::TopicName;
use crate::wire::{self, MessageProperties, QoS};

/// Which rights were asked for when a message was published; asked again at each delivery of
/// what was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Its RETAIN flag was set.
    pub retain: bool,
    /// It was left as a will.
    pub will: bool,
}

/// A message that is being published or delivered.
#[derive(Debug)]
pub struct Publication<'a> {
    /// Where to.
    pub topic: TopicName<'a>,
    /// The application's bytes.
    pub payload: &'a [u8],
    /// As published.
    pub qos: QoS,
    /// As published: RETAIN, and whether it is a will.
    pub asked: Asked,
    /// Forwarded unchanged; the expiry is that of `expires`.
    pub properties: MessageProperties<'a>,
    /// When it expires, in milliseconds since the Unix epoch.
    pub expires: Option<u64>,
    /// Who published it.
    pub author: &'a Arc<Subject>,
    stored: OnceCell<Message>,
}

impl<'a> Publication<'a> {
    /// A message that came in now.
    #[must_use]
    pub fn new(
        topic: TopicName<'a>,
        payload: &'a [u8],
        qos: QoS,
        asked: Asked,
        properties: MessageProperties<'a>,
        author: &'a Arc<Subject>,
        unix_millis: u64,
    ) -> Self {
        Self {
            topic,
            payload,
            qos,
            asked,
            expires: properties
                .expiry
                .map(|seconds| unix_millis.saturating_add(u64::from(seconds) * 1000)),
            properties,
            author,
            stored: OnceCell::new(),
        }
    }

    /// The same message, published now with this expiry interval in seconds. For wills.
    pub(crate) fn anew(&self, expiry: Option<u32>, unix_millis: u64) -> Self {
        let mut properties = self.properties;
        properties.expiry = expiry;
        Self::new(
            self.topic,
            self.payload,
            self.qos,
            self.asked,
            properties,
            self.author,
            unix_millis,
        )
    }

    /// What the policy may ask about it.
    pub(crate) fn facts(&self) -> MessageFacts {
        MessageFacts::new(self.qos, self.payload.len())
    }

    /// The shared copy of this message, made on first use.
    #[must_use]
    pub fn message(&self) -> Message {
        self.stored.get_or_init(|| Message::copy_of(self)).clone()
    }

    /// Seconds of the expiry interval that are left \[MQTT-3.3.2-6\], or `Err` if it has passed
    /// \[MQTT-3.3.2-5\].
    ///
    /// # Errors
    ///
    /// The interval has passed.
    pub fn remaining(&self, unix_millis: u64) -> Result<Option<u32>, Expired> {
        match self.expires {
            None => Ok(None),
            Some(end) if end <= unix_millis => Err(Expired),
            Some(end) => Ok(Some(
                u32::try_from((end - unix_millis).div_ceil(1000)).unwrap_or(u32::MAX),
            )),
        }
    }
}

/// The message expiry interval has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired;

/// A message that is kept. Cloning shares it.
#[derive(Clone)]
pub struct Message(ThinArc<Meta, u8>);

/// A message as the journal has it.
pub(crate) struct Recorded<'a> {
    pub(crate) topic: &'a str,
    pub(crate) properties: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) asked: Asked,
    pub(crate) expires: Option<u64>,
}

struct Meta {
    /// Its name in the journal.
    mark: Mark,
    topic: u32,
    properties: u32,
    qos: QoS,
    asked: Asked,
    expires: Option<u64>,
    author: Arc<Subject>,
}

impl Message {
    /// Bytes that keeping a message costs beyond its own.
    const OVERHEAD: usize = 64;

    fn copy_of(publication: &Publication<'_>) -> Self {
        let topic = publication.topic.as_str().as_bytes();
        let mut bytes =
            Vec::with_capacity(topic.len() + publication.payload.len() + Self::OVERHEAD);
        bytes.extend_from_slice(topic);
        wire::encode_message_properties(&mut bytes, &publication.properties);
        let properties = bytes.len() - topic.len();
        bytes.extend_from_slice(publication.payload);
        let meta = Meta {
            mark: Mark::default(),
            topic: u32::try_from(topic.len()).unwrap_or(u32::MAX),
            properties: u32::try_from(properties).unwrap_or(u32::MAX),
            qos: publication.qos,
            asked: publication.asked,
            expires: publication.expires,
            author: Arc::clone(publication.author),
        };
        Self(ThinArc::from_header_and_slice(meta, &bytes))
    }

    /// A message read back; `None` if it is not one.
    pub(crate) fn recorded(recorded: &Recorded<'_>, author: Arc<Subject>) -> Option<Self> {
        wire::decode_message_properties(recorded.properties)?;
        let topic = recorded.topic.as_bytes();
        let bytes = [topic, recorded.properties, recorded.payload].concat();
        let meta = Meta {
            mark: Mark::default(),
            topic: u32::try_from(topic.len()).ok()?,
            properties: u32::try_from(recorded.properties.len()).ok()?,
            qos: recorded.qos,
            asked: recorded.asked,
            expires: recorded.expires,
            author,
        };
        Some(Self(ThinArc::from_header_and_slice(meta, &bytes)))
    }

    /// Topic, encoded properties and payload, for the journal.
    pub(crate) fn parts(&self) -> (&[u8], &[u8], &[u8]) {
        let meta = &self.0.header.header;
        let (topic, rest) = self
            .0
            .slice
            .split_at_checked(meta.topic as usize)
            .unwrap_or_default();
        let (properties, payload) = rest
            .split_at_checked(meta.properties as usize)
            .unwrap_or_default();
        (topic, properties, payload)
    }

    pub(crate) fn mark(&self) -> &Mark {
        &self.0.header.header.mark
    }

    pub(crate) fn asked(&self) -> Asked {
        self.0.header.header.asked
    }

    /// The message as a publication again. `None` cannot happen for a message that was made from
    /// one; what was read from a damaged store is dropped by the caller.
    #[must_use]
    pub fn publication(&self) -> Option<Publication<'_>> {
        let meta = &self.0.header.header;
        let (topic, rest) = self.0.slice.split_at_checked(meta.topic as usize)?;
        let (properties, payload) = rest.split_at_checked(meta.properties as usize)?;
        Some(Publication {
            topic: TopicName::trusted(str::from_utf8(topic).ok()?),
            payload,
            qos: meta.qos,
            asked: meta.asked,
            properties: wire::decode_message_properties(properties)?,
            expires: meta.expires,
            author: &meta.author,
            stored: OnceCell::from(self.clone()),
        })
    }

    /// Whether there is another handle to it.
    pub(crate) fn is_shared(&self) -> bool {
        ThinArc::strong_count(&self.0) > 1
    }

    /// Whether both share one allocation.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.as_ptr() == other.0.as_ptr()
    }

    /// Who published it.
    #[must_use]
    pub fn author(&self) -> &Arc<Subject> {
        &self.0.header.header.author
    }

    /// When it expires, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn expires(&self) -> Option<u64> {
        self.0.header.header.expires
    }

    /// As published.
    #[must_use]
    pub fn qos(&self) -> QoS {
        self.0.header.header.qos
    }

    /// What it counts for in queues and stores, in bytes: its own, properties included, and what
    /// keeping it costs.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.0.slice.len() + Self::OVERHEAD
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        let length = self.0.header.header.topic as usize;
        self.0
            .slice
            .get(..length)
            .and_then(|bytes| str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Payloads are never logged.
        f.debug_struct("Message")
            .field("topic", &self.topic())
            .field("author", self.author().principal())
            .finish_non_exhaustive()
    }
}
