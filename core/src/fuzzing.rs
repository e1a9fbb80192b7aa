//! Properties that the fuzz targets, and the tests over their corpora, both check.
//!
//! Each is a plain function over a byte string that panics when a promise is broken; nothing in the
//! broker calls them. The targets are in `fuzz/`, one call each.

mod packets;
mod sequence;

use crate::gate::WebSocketRules;
use crate::gate::proxy::{MAX_V1, MAX_V2, Progress, parse};
use crate::gate::websocket::frame::{Decoded, Decoder};
use crate::gate::websocket::upgrade::{MAX_REQUEST, judge};
use crate::topic::{TopicFilter, TopicLimits, TopicName, matches};
use crate::wire::{
    DecodeError, Frame, Limits, MAX_PACKET_SIZE, Packet, ServerPacket, UserProperties, Version,
    decode, decode_connect, decode_message_properties, decode_server, encode_client,
    encode_message_properties, split_frame,
};

use packets::{Choices, Material};

pub use crate::store::property::log;
pub use sequence::sequence;

/// Small limits: a fuzzer reaches both sides of each.
const SMALL: Limits = Limits {
    max_packet_size: 300,
    user_properties: 4,
    user_property_bytes: 40,
    filters_per_packet: 4,
};

/// Limits that no packet reaches.
const WIDE: Limits = Limits {
    max_packet_size: MAX_PACKET_SIZE,
    user_properties: usize::MAX,
    user_property_bytes: usize::MAX,
    filters_per_packet: usize::MAX,
};

/// The promises of [`crate::wire`] for `input` as the bytes of a connection that speaks `version`,
/// in either direction: framing is total, bounded and prefix-stable; decoding keeps to its limits; an
/// error has a reason code that says so; what decodes is encoded to something that decodes alike.
///
/// # Panics
///
/// When a promise is broken.
pub fn stream(input: &[u8], version: Version) {
    framing(input, SMALL.max_packet_size);
    let mut rest = input;
    while let Ok(Some(frame)) = split_frame(rest, SMALL.max_packet_size) {
        from_client(frame, version);
        from_server(frame, version);
        rest = rest.get(frame.size..).unwrap_or_default();
    }
}

/// Where frames end, for one input and each of its prefixes.
///
/// # Panics
///
/// When a promise is broken.
pub fn framing(input: &[u8], max_packet_size: u32) {
    let limit = max_packet_size as usize;
    let whole = split_frame(input, max_packet_size);
    match whole {
        Ok(Some(frame)) => {
            assert!(frame.size <= limit && frame.size <= input.len());
            assert!((2..=5).contains(&(frame.size - frame.body.len())));
            assert_eq!(
                input.get(frame.size - frame.body.len()..frame.size),
                Some(frame.body)
            );
        }
        Ok(None) => assert!(input.len() < limit.max(2), "undecided beyond the limit"),
        Err(error) => assert!(error.reason().is_error()),
    }
    for prefix in (0..input.len()).filter_map(|cut| input.get(..cut)) {
        match split_frame(prefix, max_packet_size) {
            Ok(None) => {}
            decided => assert_eq!(decided, whole, "more bytes changed the answer"),
        }
    }
}

fn from_client(frame: Frame<'_>, version: Version) {
    let first = decode_connect(frame, &SMALL);
    let packet = match decode(frame, version, &SMALL) {
        Err(DecodeError::SecondConnect) => match first {
            Ok(connect) => {
                assert_eq!(frame.connect_version(), Some(connect.version));
                let will = connect.will.map(|will| will.properties.user);
                within_limits([connect.user, will.unwrap_or_default()]);
                Packet::Connect(connect)
            }
            Err(error) => return assert!(error.reason().is_error()),
        },
        answer => {
            assert_eq!(first, Err(DecodeError::NotConnect));
            match answer {
                Ok(packet) => packet,
                Err(error) => return assert!(error.reason().is_error()),
            }
        }
    };
    match &packet {
        Packet::Publish(publish) => within_limits([publish.properties.user]),
        Packet::Subscribe(subscribe) => {
            within_limits([subscribe.user]);
            assert!((1..=SMALL.filters_per_packet).contains(&subscribe.filters.len()));
        }
        Packet::Unsubscribe(unsubscribe) => {
            within_limits([unsubscribe.user]);
            assert!((1..=SMALL.filters_per_packet).contains(&unsubscribe.filters.len()));
        }
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            within_limits([ack.user]);
        }
        Packet::Disconnect(disconnect) => within_limits([disconnect.user]),
        Packet::Auth(auth) => within_limits([auth.user]),
        Packet::Connect(_) | Packet::PingReq => {}
    }
    client_round_trip(&packet, version);
}

fn from_server(frame: Frame<'_>, version: Version) {
    match decode_server(frame, version, &SMALL) {
        Ok(mut packet) => {
            // The encoder of the broker sends no user properties of its own.
            match &mut packet {
                ServerPacket::PubAck(ack)
                | ServerPacket::PubRec(ack)
                | ServerPacket::PubRel(ack)
                | ServerPacket::PubComp(ack) => ack.user = UserProperties::default(),
                ServerPacket::SubAck(ack) | ServerPacket::UnsubAck(ack) => {
                    ack.user = UserProperties::default();
                }
                ServerPacket::Disconnect(bye) => bye.user = UserProperties::default(),
                ServerPacket::Auth(auth) => auth.user = UserProperties::default(),
                ServerPacket::ConnAck(_) | ServerPacket::Publish(..) | ServerPacket::PingResp => {}
            }
            server_round_trip(&packet, version);
        }
        Err(error) => assert!(error.reason().is_error()),
    }
}

fn within_limits<const N: usize>(blocks: [UserProperties<'_>; N]) {
    let pairs = || blocks.iter().flat_map(|block| block.iter());
    assert!(pairs().count() <= SMALL.user_properties);
    let bytes: usize = pairs().map(|(name, value)| name.len() + value.len()).sum();
    assert!(bytes <= SMALL.user_property_bytes);
}

/// `decode(encode(p)) == p` in both directions, for packets made from `input`; and the same for the
/// properties that a stored message keeps.
///
/// # Panics
///
/// When a promise is broken.
pub fn round_trip(input: &[u8]) {
    let material = Material::new(input);
    let mut source = material.source();
    let version = source.version();
    client_round_trip(&source.client_packet(version), version);
    server_round_trip(&source.server_packet(version), version);

    let properties = source.message_properties(Version::V5);
    let mut block = Vec::new();
    encode_message_properties(&mut block, &properties);
    assert_eq!(decode_message_properties(&block), Some(properties));
}

fn client_round_trip(packet: &Packet<'_>, version: Version) {
    let mut out = Vec::new();
    encode_client(&mut out, version, packet);
    let frame = only_frame(&out);
    let again = if matches!(packet, Packet::Connect(_)) {
        decode_connect(frame, &WIDE).map(Packet::Connect)
    } else {
        decode(frame, version, &WIDE)
    };
    assert_eq!(again.as_ref(), Ok(packet));
}

fn server_round_trip(packet: &ServerPacket<'_>, version: Version) {
    let mut out = Vec::new();
    packets::encode_server(&mut out, version, packet);
    let again = decode_server(only_frame(&out), version, &WIDE);
    assert_eq!(again.as_ref(), Ok(packet));
}

#[expect(clippy::panic, reason = "a broken promise")]
fn only_frame(bytes: &[u8]) -> Frame<'_> {
    match split_frame(bytes, MAX_PACKET_SIZE) {
        Ok(Some(frame)) if frame.size == bytes.len() => frame,
        other => panic!("not one frame: {other:?}"),
    }
}

/// A filter and a name, separated by a line feed: what is accepted keeps to the limits and to its
/// text, and matching agrees with the plainest reading of section 4.7.
///
/// # Panics
///
/// When a promise is broken.
pub fn topic_filter(input: &[u8]) {
    let limits = TopicLimits {
        length: 40,
        levels: 6,
    };
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let (filter, name) = text.split_once('\n').unwrap_or((text, text));
    let name = TopicName::new(name, limits).map(TopicName::as_str);
    if let Ok(name) = name {
        assert!(!name.is_empty() && name.len() <= limits.length);
        assert!(!name.contains(['+', '#', '\0']));
        assert!(name.split('/').count() <= limits.levels);
        assert!(matches(name, name), "a name matches itself");
    }
    let Ok(filter) = TopicFilter::new(filter, limits) else {
        return;
    };
    let plain = filter.filter();
    assert!(!plain.is_empty() && filter.as_str().len() <= limits.length);
    assert!(!filter.as_str().contains('\0'));
    assert!(plain.split('/').count() <= limits.levels);
    match filter.share() {
        Some(group) => {
            assert!(!group.is_empty() && !group.contains(['/', '+', '#']));
            assert_eq!(filter.as_str(), format!("$share/{group}/{plain}"));
        }
        None => assert_eq!(filter.as_str(), plain),
    }
    // `$share/g/$share/h/x` is a shared filter for topics that begin with `$share`: the inner one
    // must not be parsed again.
    if !plain.starts_with("$share") {
        let again = TopicFilter::new(plain, limits);
        assert_eq!(again.map(TopicFilter::filter), Ok(plain));
    }
    if let Ok(name) = name {
        let pattern: Vec<&str> = plain.split('/').collect();
        let levels: Vec<&str> = name.split('/').collect();
        let reserved = name.starts_with('$') && plain.starts_with(['+', '#']);
        let expected = !reserved && matches_plainly(&pattern, &levels);
        assert_eq!(matches(plain, name), expected, "{plain:?} {name:?}");
    }
}

/// The promises of [`crate::gate::proxy`]: total, bounded, decided early, never reading too far.
///
/// # Panics
///
/// When a promise is broken.
pub fn proxy(input: &[u8]) {
    let mut cut = 0;
    loop {
        let prefix = input.get(..cut).unwrap_or(input);
        assert!(prefix.len() <= MAX_V2, "undecided beyond the limit");
        match parse(prefix) {
            Ok(Progress::More(more)) => {
                assert!(more > 0);
                if prefix.starts_with(b"P") {
                    assert!(prefix.len() < MAX_V1);
                }
                // Every length on the way must want more, or be refused: nothing was overlooked.
                for between in (cut..cut + more).filter_map(|end| input.get(..end)) {
                    assert!(!matches!(parse(between), Ok(Progress::Done(_))));
                }
                cut += more;
                if cut > input.len() {
                    return;
                }
            }
            decided => {
                // More bytes do not make it better.
                for longer in (cut + 1..=input.len()).filter_map(|end| input.get(..end)) {
                    assert!(parse(longer).is_err());
                }
                if let Ok(Progress::Done(_)) = decided {
                    assert_eq!(prefix.len(), cut);
                }
                return;
            }
        }
    }
}

/// The promises of [`crate::gate::websocket`] for `input` as the frames of a client and as its
/// request: however the bytes are cut, the same data and the same end come out; what is refused in
/// part is refused as a whole.
///
/// # Panics
///
/// When a promise is broken.
pub fn websocket(input: &[u8]) {
    let whole = frames(input, input.len().max(1));
    assert!(whole.0.len() <= input.len());
    for size in [1, 2, 3, 7, 64] {
        assert_eq!(frames(input, size), whole, "in pieces of {size}");
    }
    let rules = WebSocketRules {
        path: "/mqtt".into(),
        origins: vec!["https://app.example".into()],
    };
    let mut seen = 0;
    let mut first = Ok(false);
    for (end, _) in input.iter().enumerate() {
        let request = input.get(..=end).unwrap_or_default();
        first = judge(request, seen, &rules).map(|granted| granted.is_some());
        assert!(request.len() <= MAX_REQUEST || first != Ok(false));
        if first != Ok(false) {
            break;
        }
        seen = end + 1;
    }
    match (
        first,
        judge(input, 0, &rules).map(|granted| granted.is_some()),
    ) {
        (first, whole) if first == whole => {}
        // Bytes behind a request that was whole before.
        (Ok(true) | Err(_), Err(_)) => {}
        (first, whole) => assert_eq!(first, whole, "the cut changed the answer"),
    }
}

/// What comes out of `input` in pieces: data, sums, and the newest Ping.
fn frames(input: &[u8], size: usize) -> (Vec<u8>, Decoded, Option<Vec<u8>>) {
    let mut decoder = Decoder::new(300);
    let mut data = Vec::new();
    let mut sum = Decoded::default();
    for piece in input.chunks(size) {
        let mut piece = piece.to_vec();
        let part = decoder.decode(&mut piece);
        assert!(part.data <= piece.len());
        assert!(sum.ended.is_none() || part == Decoded::default());
        data.extend_from_slice(piece.get(..part.data).unwrap_or_default());
        sum.data += part.data;
        sum.idle_frames += part.idle_frames;
        sum.ended = sum.ended.or(part.ended);
    }
    (data, sum, decoder.take_ping())
}

/// Section 4.7 as a recursion over levels.
fn matches_plainly(pattern: &[&str], levels: &[&str]) -> bool {
    match (pattern, levels) {
        (["#"], _) | ([], []) => true,
        ([first, pattern @ ..], [level, levels @ ..]) => {
            (*first == "+" || first == level) && matches_plainly(pattern, levels)
        }
        _ => false,
    }
}
