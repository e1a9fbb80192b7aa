//! The properties of the fuzz targets over their saved inputs and over random ones.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::fs;
use std::path::Path;

use portcullis_acl::fuzzing::{
    condition, cover_agrees_with_topics, policy_is_what_it_is_written_as,
};
use proptest::prelude::*;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let files = fs::read_dir(dir).unwrap();
    files
        .map(|file| fs::read(file.unwrap().path()).unwrap())
        .collect()
}

#[test]
fn the_properties_hold_for_every_saved_input() {
    for input in corpus("cover") {
        cover_agrees_with_topics(&input);
    }
    for input in corpus("condition") {
        condition(&input);
    }
    for input in corpus("policy") {
        policy_is_what_it_is_written_as(&input);
    }
}

proptest! {
    #[test]
    fn cover_agrees_with_topics_of_random_filters(
        lines in prop::collection::vec("[!=]?([ab+]|\\$s|)(/([ab+]|)){0,3}(/#)?", 1..8),
    ) {
        cover_agrees_with_topics(lines.join("\n").as_bytes());
    }

    #[test]
    fn policies_are_what_they_are_written_as(
        lines in prop::collection::vec(
            "[pg#]?[ ,]{1,2}(\"?(role:|cert:|\\*)[ a,\"]{0,3}\"?[, ]{1,2}|[ab/+#{}\" ,]{0,4}|, ){1,3}(publish|share)[ ,]{1,2}(allow|deny)( ,\"?qos <= 1\"?)?[ \r\t,\"]{0,2}",
            1..6,
        ),
    ) {
        policy_is_what_it_is_written_as(lines.join("\n").as_bytes());
    }

    #[test]
    fn conditions_are_read_or_refused(text in "[a-z .&|!=()'\\[\\],0-9:-]{0,60}") {
        condition(text.as_bytes());
    }
}
