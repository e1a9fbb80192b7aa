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

/// Expectations that no missing line fails are decoration: without any one of its lines, each deny
/// above all, a set fails its own tests. The broker's own statistics are not a client's business.
#[test]
fn every_line_of_a_set_is_needed_by_its_tests() {
    for set in ["default", "healthcare", "industrial"] {
        let dir = shipped(set);
        let text = std::fs::read_to_string(dir.join("policy.csv")).unwrap();
        let tests = std::fs::read_to_string(dir.join("tests.toml")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let mut idle = Vec::new();
        for (number, line) in lines.iter().enumerate() {
            let rule = line.starts_with("p,") || line.starts_with("g,");
            if !rule || line.starts_with("p, system:sys,") {
                continue;
            }
            let without: Vec<&str> = lines
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != number)
                .map(|(_, line)| *line)
                .collect();
            let sources = Sources {
                policies: vec![Source::new("policy.csv", without.join("\n"))],
                ..Sources::default()
            };
            let policy = Policy::load(&sources).unwrap().policy;
            if expect::check("tests.toml", &tests, &policy).passed() {
                idle.push(format!("{set}:{}: {line}", number + 1));
            }
        }
        assert_eq!(idle, Vec::<String>::new());
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
