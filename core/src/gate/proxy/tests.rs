use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

#[expect(clippy::unnecessary_wraps, reason = "what `parse` answers")]
fn client(text: &str) -> Result<Progress, ProxyError> {
    Ok(Progress::Done(Header::Client(text.parse().unwrap())))
}

const PROXY: Result<Progress, ProxyError> = Ok(Progress::Done(Header::Proxy));

/// A v2 header: version and command, family, body.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, body].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x22, 0xb3];

fn with_checksum(more: &[u8]) -> Vec<u8> {
    let mut header = v2(0x21, 0x11, &[&V4[..], more, &tlv(CRC32C, &[0; 4])].concat());
    let sum = crc32c(&header).to_be_bytes();
    let at = header.len() - 4;
    header[at..].copy_from_slice(&sum);
    header
}

#[test]
fn lines_of_version_1() {
    use ProxyError::{BadLine, ControlCharacter, NotAHeader, TooLong};
    for (line, expected) in [
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n",
            client("192.0.2.1:56324"),
        ),
        (
            "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n",
            client("[2001:db8::1]:1"),
        ),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            client("255.255.255.255:65535"),
        ),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 0 0\r\n",
            client("192.0.2.1:0"),
        ),
        ("PROXY UNKNOWN\r\n", PROXY),
        ("PROXY UNKNOWN whatever 1 2 3\r\n", PROXY),
        (
            "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
            PROXY,
        ),
        ("PROXY UNKNOWNX\r\n", Err(BadLine)),
        ("PROXY TCP5 192.0.2.1 198.51.100.2 1 2\r\n", Err(BadLine)),
        ("PROXY tcp4 192.0.2.1 198.51.100.2 1 2\r\n", Err(BadLine)),
        ("PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n", Err(BadLine)),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n", Err(BadLine)),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n", Err(BadLine)),
        ("PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n", Err(BadLine)),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n", Err(BadLine)),
        ("PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n", Err(BadLine)),
        ("PROXY TCP4 192.0.2 198.51.100.2 1 2\r\n", Err(BadLine)),
        ("PROXY TCP4 2001:db8::1 ::1 1 2\r\n", Err(BadLine)),
        ("PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n", Err(BadLine)),
        ("PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", Err(BadLine)),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n", Err(BadLine)),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n", Err(BadLine)),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 65536 2\r\n",
            Err(BadLine),
        ),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 1 -2\r\n", Err(BadLine)),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n",
            Err(ControlCharacter),
        ),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\r",
            Err(ControlCharacter),
        ),
        (
            "PROXY TCP4 192.0.2.1\t198.51.100.2 1 2\r\n",
            Err(ControlCharacter),
        ),
        (
            "PROXY TCP4 192.0.2.1\x1b[2J 198.51.100.2 1 2\r\n",
            Err(ControlCharacter),
        ),
        ("PROXY UNKNOWN \0\r\n", Err(ControlCharacter)),
        ("PROXY UNKNOWN \u{e9}\r\n", Err(ControlCharacter)),
        ("PROXY UNKNOWN\r\nx", Err(TooLong)),
        ("proxy UNKNOWN\r\n", Err(NotAHeader)),
        ("GET / HTTP/1.1\r\n", Err(NotAHeader)),
        ("\x10\x0c\0\x04MQTT", Err(NotAHeader)),
        ("\x16\x03\x01", Err(NotAHeader)),
    ] {
        assert_eq!(parse(line.as_bytes()), expected, "{line:?}");
    }
}

#[test]
fn a_line_ends_within_107_bytes() {
    let line = |length: usize| format!("PROXY UNKNOWN {}", "x".repeat(length - 16));
    assert_eq!(parse((line(MAX_V1) + "\r\n").as_bytes()), PROXY);
    let longer = line(MAX_V1 + 1);
    assert_eq!(parse(longer.as_bytes()), Err(ProxyError::TooLong));
    let ended = longer + "\r\n";
    assert_eq!(parse(ended.as_bytes()), Err(ProxyError::TooLong));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn headers_of_version_2() {
    use ProxyError::{BadChecksum, BadCommand, BadFamily, BadTlv, BadVersion, ShortAddresses};
    let mut v6 = [0; 36];
    v6[..16].copy_from_slice(&Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets());
    v6[32..34].copy_from_slice(&7_u16.to_be_bytes());
    let v4 = |more: &[u8]| v2(0x21, 0x11, &[&V4[..], more].concat());
    let ssl = |inner: &[u8]| tlv(SSL, &[&[1, 0, 0, 0, 0], inner].concat());
    let here = || client("192.0.2.1:56324");
    let mut wrong_sum = with_checksum(&[]);
    *wrong_sum.last_mut().unwrap() ^= 1;
    for (what, header, expected) in [
        ("IPv4", v4(&[]), here()),
        ("IPv6", v2(0x21, 0x21, &v6), client("[2001:db8::1]:7")),
        ("LOCAL", v2(0x20, 0x00, &[]), PROXY),
        (
            "LOCAL with addresses, which do not count",
            v2(0x20, 0x11, &V4),
            PROXY,
        ),
        (
            "LOCAL of an unknown family",
            v2(0x20, 0x7f, b"anything"),
            PROXY,
        ),
        ("unspecified", v2(0x21, 0x00, &[]), PROXY),
        ("Unix", v2(0x21, 0x31, &[b'/'; 216]), PROXY),
        ("an unknown TLV", v4(&tlv(0xe0, b"own")), here()),
        ("an empty TLV", v4(&tlv(0x04, b"")), here()),
        (
            "several TLVs",
            v4(&[
                tlv(ALPN, b"mqtt"),
                tlv(AUTHORITY, b"example.net"),
                tlv(UNIQUE_ID, b"1"),
            ]
            .concat()),
            here(),
        ),
        ("TLS facts", v4(&ssl(&tlv(0x21, b"TLSv1.3"))), here()),
        ("a checksum", with_checksum(&tlv(0x04, b"padding")), here()),
        (
            "version 1 in binary",
            v2(0x11, 0x11, &V4),
            Err(BadVersion(1)),
        ),
        ("version 3", v2(0x31, 0x11, &V4), Err(BadVersion(3))),
        (
            "an unassigned command",
            v2(0x22, 0x11, &V4),
            Err(BadCommand(2)),
        ),
        ("a datagram", v2(0x21, 0x12, &V4), Err(BadFamily(0x12))),
        (
            "a Unix datagram",
            v2(0x21, 0x32, &[0; 216]),
            Err(BadFamily(0x32)),
        ),
        (
            "a family without protocol",
            v2(0x21, 0x10, &V4),
            Err(BadFamily(0x10)),
        ),
        (
            "an unassigned family",
            v2(0x21, 0x41, &V4),
            Err(BadFamily(0x41)),
        ),
        (
            "no room for IPv4",
            v2(0x21, 0x11, &V4[..11]),
            Err(ShortAddresses),
        ),
        (
            "no room for IPv6",
            v2(0x21, 0x21, &v6[..35]),
            Err(ShortAddresses),
        ),
        (
            "no room for Unix",
            v2(0x21, 0x31, &[0; 215]),
            Err(ShortAddresses),
        ),
        ("half a TLV header", v4(&[0x04, 0]), Err(BadTlv(4))),
        (
            "a TLV beyond the header",
            v4(&[0x04, 0, 3, 1, 2]),
            Err(BadTlv(4)),
        ),
        (
            "a TLV inside TLS facts beyond them",
            v4(&ssl(&[0x21, 0, 9])),
            Err(BadTlv(SSL)),
        ),
        (
            "TLS facts too short",
            v4(&tlv(SSL, &[1, 0])),
            Err(BadTlv(SSL)),
        ),
        (
            "a control character in a name",
            v4(&tlv(AUTHORITY, b"a\nb")),
            Err(BadTlv(AUTHORITY)),
        ),
        (
            "a name that is not UTF-8",
            v4(&tlv(AUTHORITY, b"\xff")),
            Err(BadTlv(AUTHORITY)),
        ),
        (
            "a long unique id",
            v4(&tlv(UNIQUE_ID, &[0; 129])),
            Err(BadTlv(UNIQUE_ID)),
        ),
        (
            "a checksum of three bytes",
            v4(&tlv(CRC32C, &[0; 3])),
            Err(BadTlv(CRC32C)),
        ),
        (
            "two checksums",
            with_checksum(&tlv(CRC32C, &[0; 4])),
            Err(BadTlv(CRC32C)),
        ),
        ("a wrong checksum", wrong_sum, Err(BadChecksum)),
        (
            "one byte too many",
            [v4(&[]), vec![0]].concat(),
            Err(ProxyError::TooLong),
        ),
    ] {
        assert_eq!(parse(&header), expected, "{what}");
    }
}

#[test]
fn a_binary_header_ends_within_536_bytes() {
    let filled = |length: usize| {
        v2(
            0x21,
            0x11,
            &[&V4[..], &tlv(4, &vec![0; length - 31])].concat(),
        )
    };
    assert_eq!(parse(&filled(MAX_V2)), client("192.0.2.1:56324"));
    let longer = filled(MAX_V2 + 1);
    assert_eq!(parse(&longer), Err(ProxyError::TooLong));
    assert_eq!(
        parse(&longer[..FIXED]),
        Err(ProxyError::TooLong),
        "from the length alone"
    );
}

#[test]
fn the_checksum_is_castagnolis() {
    // RFC 3720, appendix B.4.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

fn valid() -> Vec<Vec<u8>> {
    vec![
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 ::1 56324 443\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2(0x21, 0x11, &V4),
        v2(0x20, 0x00, &[]),
        v2(0x21, 0x31, &[0; 216]),
        with_checksum(&tlv(AUTHORITY, b"example.net")),
    ]
}

#[test]
fn a_header_cut_anywhere_waits_and_never_asks_for_what_follows_it() {
    for header in valid() {
        for cut in 0..header.len() {
            match parse(&header[..cut]) {
                Ok(Progress::More(more)) => {
                    assert!(
                        (1..=header.len() - cut).contains(&more),
                        "{header:?} at {cut}"
                    );
                }
                other => panic!("{header:?} at {cut}: {other:?}"),
            }
        }
    }
}

#[test]
fn every_flipped_bit_keeps_the_promises() {
    for header in valid() {
        for bit in 0..header.len() * 8 {
            let mut flipped = header.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            crate::fuzzing::proxy(&flipped);
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(ip: IpAddr, to: IpAddr, port: u16, to_port: u16) {
        let expected = Ok(Progress::Done(Header::Client(SocketAddr::new(ip, port))));
        let (family, text) = match (ip, to) {
            (IpAddr::V4(_), IpAddr::V4(_)) => (0x11, "TCP4"),
            (IpAddr::V6(_), IpAddr::V6(_)) => (0x21, "TCP6"),
            _ => return Ok(()),
        };
        let line = format!("PROXY {text} {ip} {to} {port} {to_port}\r\n");
        prop_assert_eq!(parse(line.as_bytes()), expected);
        let octets = |ip| match ip {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let body = [octets(ip), octets(to), port.to_be_bytes().into(), to_port.to_be_bytes().into()];
        prop_assert_eq!(parse(&v2(0x21, family, &body.concat())), expected);
    }

    #[test]
    fn any_bytes_keep_the_promises(input in prop::collection::vec(any::<u8>(), 0..600)) {
        crate::fuzzing::proxy(&input);
        crate::fuzzing::proxy(&[&SIGNATURE, &input[..]].concat());
        crate::fuzzing::proxy(&[b"PROXY TCP", &input[..]].concat());
    }

    #[test]
    fn a_prefix_contains_what_shares_its_bits(own: u32, other: u32, bits in 1u8..=32) {
        let mask = !(u32::MAX.checked_shr(bits.into()).unwrap_or(0));
        let text = format!("{}/{bits}", Ipv4Addr::from(own & mask));
        let prefix: Prefix = text.parse().unwrap();
        let other = Ipv4Addr::from(other);
        let same = (0..bits).all(|bit| (own ^ u32::from(other)) >> (31 - bit) & 1 == 0);
        prop_assert_eq!(prefix.contains(other.into()), same);
        prop_assert_eq!(prefix.contains(other.to_ipv6_mapped().into()), same);
        prop_assert!(prefix.contains(Ipv4Addr::from(own).into()));
    }
}

#[test]
fn ranges_are_read_strictly() {
    use PrefixError::{Everybody, HostBits, NotARange};
    for (text, expected) in [
        ("10.0.0.0/8", Ok("10.0.0.0/8")),
        ("192.0.2.7", Ok("192.0.2.7/32")),
        ("192.0.2.7/32", Ok("192.0.2.7/32")),
        ("2001:db8::/32", Ok("2001:db8::/32")),
        ("::1", Ok("::1/128")),
        ("10.0.0.1/8", Err(HostBits)),
        ("2001:db8::1/64", Err(HostBits)),
        ("0.0.0.0/0", Err(Everybody)),
        ("::/0", Err(Everybody)),
        ("10.0.0.0/33", Err(NotARange)),
        ("::1/129", Err(NotARange)),
        ("10.0.0.0/08", Err(NotARange)),
        ("10.0.0.0/", Err(NotARange)),
        ("10.0.0/8", Err(NotARange)),
        ("::ffff:10.0.0.1", Err(NotARange)),
        ("localhost", Err(NotARange)),
        ("", Err(NotARange)),
    ] {
        let read = text.parse::<Prefix>().map(|prefix| prefix.to_string());
        assert_eq!(read, expected.map(str::to_owned), "{text:?}");
    }
    let v6: Prefix = "2001:db8:1::/48".parse().unwrap();
    assert!(v6.contains("2001:db8:1:ffff::1".parse().unwrap()));
    assert!(!v6.contains("2001:db8:2::1".parse().unwrap()));
    assert!(!v6.contains("10.0.0.1".parse().unwrap()));
}
