//! The properties of the fuzz targets for WebSocket and PROXY framing, over their saved corpora.

use std::fs;
use std::path::Path;

use portcullis_core::fuzzing::{proxy, websocket};

#[test]
fn the_corpora_keep_the_promises() {
    let corpus = |target: &str, property: fn(&[u8])| {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz/corpus")
            .join(target);
        let mut seeds = 0;
        for entry in fs::read_dir(directory).unwrap() {
            property(&fs::read(entry.unwrap().path()).unwrap());
            seeds += 1;
        }
        assert!(seeds > 5, "{target}");
    };
    corpus("proxy", proxy);
    corpus("websocket", websocket);
}
