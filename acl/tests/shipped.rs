//! Every policy that we ship loads, passes its own tests, and lint has nothing to say about it.

use std::path::{Path, PathBuf};

use portcullis_acl::tools::{expect, lint};
use portcullis_acl::{DEFAULT_POLICY, DEFAULT_TESTS, MODEL, Policy, Source, Sources};

fn shipped(set: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../policies")
        .join(set)
}

#[test]
fn every_set_passes_its_tests_and_lint() {
    for set in ["default", "healthcare", "industrial"] {
        let dir = shipped(set);
        let model = shipped("model.conf");
        let mut sources = Sources::read(Some(&model), &[dir.join("policy.csv")]).unwrap();
        sources.roles_from_credentials = set != "default";
        let loaded = Policy::load(&sources).unwrap();
        let smells: Vec<String> = lint(&loaded).iter().map(ToString::to_string).collect();
        assert_eq!(smells, Vec::<String>::new(), "{set}");
        let report = expect::run(&dir.join("tests.toml"));
        assert!(report.passed(), "{report}");
        assert!(dir.join("README.md").exists(), "{set}");
    }
}

#[test]
fn what_the_program_carries_is_what_is_shipped() {
    let sources = Sources {
        model: Some(Source::new("model.conf", MODEL)),
        policies: vec![Source::new("policy.csv", DEFAULT_POLICY)],
        ..Sources::default()
    };
    let loaded = Policy::load(&sources).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let report = expect::check("tests.toml", DEFAULT_TESTS, &loaded.policy);
    assert!(report.passed(), "{report}");
}
