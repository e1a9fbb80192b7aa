//! The promises of the wire format, over generated input and over the corpora of the fuzz targets.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::path::Path;

use portcullis_core::fuzzing::{round_trip, sequence, stream, topic_filter};
use portcullis_core::wire::Version;
use proptest::prelude::*;

#[test]
fn the_corpora_of_the_fuzz_targets_keep_their_promises() {
    let corpus = |target: &str, property: &dyn Fn(&[u8])| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz/corpus")
            .join(target);
        let mut inputs = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            property(&std::fs::read(entry.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0, "{} is empty", folder.display());
    };
    corpus("decode_v3", &|input| {
        stream(input, Version::V3_1);
        stream(input, Version::V3_1_1);
    });
    corpus("decode_v5", &|input| stream(input, Version::V5));
    corpus("round_trip", &round_trip);
    corpus("topic_filter", &topic_filter);
    corpus("sequence", &sequence);
}

/// Something that begins like a packet: the first byte and the length are right.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let firsts = prop::sample::select(vec![
        0x10, 0x20, 0x30, 0x33, 0x34, 0x40, 0x50, 0x62, 0x70, 0x82, 0x90, 0xa2, 0xb0, 0xe0, 0xf0,
    ]);
    // Small numbers are lengths and property identifiers.
    let byte = prop_oneof![3 => 0_u8..4, 2 => 0_u8..0x2b, 1 => any::<u8>()];
    (firsts, prop::collection::vec(byte, 0..60))
        .prop_map(|(first, body)| [&[first, u8::try_from(body.len()).unwrap()], &*body].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_keep_the_promises(
        input in prop::collection::vec(any::<u8>(), 0..100),
        v5 in any::<bool>(),
    ) {
        stream(&input, if v5 { Version::V5 } else { Version::V3_1_1 });
    }

    #[test]
    fn packet_like_bytes_keep_the_promises(
        input in prop::collection::vec(packets(), 1..3),
        v5 in any::<bool>(),
    ) {
        stream(&input.concat(), if v5 { Version::V5 } else { Version::V3_1_1 });
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same(input in prop::collection::vec(any::<u8>(), 0..300)) {
        round_trip(&input);
    }

    #[test]
    fn filters_agree_with_the_plain_reading(input in "[ab$+#/]{0,10}\n[ab$/]{0,10}") {
        topic_filter(input.as_bytes());
    }

    #[test]
    fn any_text_as_a_filter_keeps_the_promises(input in "(\\$share/)?.{0,12}(\n.{0,12})?") {
        topic_filter(input.as_bytes());
    }
}
