//! The table of conformance: `tests/conformance/statements.toml` against the tests that it names,
//! and `docs/conformance.md` against the table.

#![expect(
    clippy::unwrap_used,
    reason = "a table that cannot be read is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

struct Statement {
    id: String,
    version: String,
    side: String,
    paraphrase: String,
    held_by: Vec<String>,
    not_applicable: Option<String>,
    mutation: Option<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn statements() -> Vec<Statement> {
    let text = fs::read_to_string(root().join("tests/conformance/statements.toml")).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let rows = table
        .get("statement")
        .and_then(toml::Value::as_array)
        .unwrap();
    rows.iter()
        .map(|row| {
            let row = row.as_table().unwrap();
            let known = [
                "id",
                "version",
                "side",
                "paraphrase",
                "held_by",
                "not_applicable",
                "mutation",
            ];
            for key in row.keys() {
                assert!(known.contains(&key.as_str()), "unknown key {key}");
            }
            let text = |key| {
                row.get(key)
                    .and_then(toml::Value::as_str)
                    .map(str::to_owned)
            };
            let list = row.get("held_by").and_then(toml::Value::as_array);
            let held_by = list.into_iter().flatten();
            Statement {
                id: text("id").unwrap(),
                version: text("version").unwrap(),
                side: text("side").unwrap(),
                paraphrase: text("paraphrase").unwrap(),
                held_by: held_by
                    .map(|test| test.as_str().unwrap().to_owned())
                    .collect(),
                not_applicable: text("not_applicable"),
                mutation: text("mutation"),
            }
        })
        .collect()
}

/// The test functions of each source file of core, by the last part of its module path.
fn tests() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut todo = vec![root().join("src"), root().join("tests")];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            todo.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let module = match stem {
                "mod" | "tests" => {
                    let parent = path.parent().unwrap().file_name().unwrap();
                    format!("{}::{stem}", parent.to_str().unwrap())
                }
                stem => stem.to_owned(),
            };
            let names = found.entry(module).or_default();
            let text = fs::read_to_string(&path).unwrap();
            let mut marked = false;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    marked = true;
                } else if let Some(at) = line.find("fn ").filter(|_| marked) {
                    let name = line.get(at + 3..).unwrap().split('(').next().unwrap();
                    names.insert(name.to_owned());
                    marked = false;
                }
            }
        }
    }
    found
}

#[test]
fn every_statement_that_binds_a_server_is_held_by_a_test_or_has_a_reason() {
    let tests = tests();
    let mut ids = BTreeSet::new();
    let mut gaps = Vec::new();
    for statement in statements() {
        let name = format!("{} of {}", statement.id, statement.version);
        assert!(ids.insert(name.clone()), "{name} is there twice");
        assert!(["server", "client", "both"].contains(&statement.side.as_str()));
        let held = !statement.held_by.is_empty();
        assert!(
            held != statement.not_applicable.is_some(),
            "{name}: either tests or a reason"
        );
        assert_eq!(
            held,
            statement.mutation.is_some(),
            "{name}: a test and the mutation that it sees belong together"
        );
        let excuse = statement.not_applicable.as_deref() == Some("binds the client alone");
        assert!(
            !excuse || statement.side == "client",
            "{name} binds the server too"
        );
        for test in &statement.held_by {
            let (module, function) = test.rsplit_once("::").unwrap();
            let known = tests
                .get(module)
                .is_some_and(|names| names.contains(function));
            if !known {
                gaps.push(format!("{name}: no test {test}"));
            }
        }
    }
    assert!(gaps.is_empty(), "{gaps:#?}");
    assert!(ids.len() > 350, "{} statements", ids.len());
}

/// Names and old texts of `mutations.toml`.
fn mutations() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("tests/conformance/mutations.toml")).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let rows = table
        .get("mutation")
        .and_then(toml::Value::as_array)
        .unwrap();
    let text = |row: &toml::Value, key| row.get(key).unwrap().as_str().unwrap().to_owned();
    rows.iter()
        .map(|row| (text(row, "name"), text(row, "old")))
        .collect()
}

/// The text of `core/src` but for what only tests use; as `scripts/mutate` searches it.
fn sources() -> Vec<String> {
    let source = root().join("src");
    let mut found = Vec::new();
    let mut todo = vec![source.clone()];
    while let Some(path) = todo.pop() {
        let inside = path.strip_prefix(&source).unwrap();
        let tests = ["sim", "sim.rs", "fuzzing", "fuzzing.rs"]
            .iter()
            .any(|name| inside.starts_with(name));
        if tests || path.ends_with("tests.rs") {
            continue;
        }
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            todo.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(fs::read_to_string(&path).unwrap());
        }
    }
    found
}

/// A record that no longer fits the code proves nothing. Whether the tests fail is looked at by
/// `scripts/mutate`.
#[test]
fn every_mutation_fits_the_code_once_and_stands_for_a_statement() {
    let sources = sources();
    let named: BTreeSet<_> = statements()
        .into_iter()
        .filter_map(|statement| statement.mutation)
        .collect();
    let mut known = BTreeSet::new();
    let mut misfits = Vec::new();
    for (name, old) in mutations() {
        let old = old.replace(['«', '»'], "");
        let count: usize = sources
            .iter()
            .map(|source| source.matches(&old).count())
            .sum();
        if count != 1 {
            misfits.push(format!("{name}: {old:?} is there {count} times"));
        }
        assert!(named.contains(&name), "{name}: for no statement");
        assert!(known.insert(name.clone()), "{name} is there twice");
    }
    assert!(
        misfits.is_empty(),
        "the code moved on: fit core/tests/conformance/mutations.toml to it, and run \
         scripts/mutate: {misfits:#?}"
    );
    let unknown: Vec<_> = named.difference(&known).collect();
    assert!(unknown.is_empty(), "no such mutation: {unknown:?}");
}

#[test]
fn the_page_says_what_the_table_says() {
    let path = root().join("../docs/conformance.md");
    let page = page();
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/conformance.md is not what the table says; run with BLESS=1"
    );
}

fn page() -> String {
    let all = statements();
    let count = |version: &str, of: &dyn Fn(&Statement) -> bool| {
        all.iter()
            .filter(|statement| statement.version == version && of(statement))
            .count()
    };
    let mut page = String::from(
        "# Conformance to MQTT 3.1.1 and 5.0\n\n\
         Generated from `core/tests/conformance/statements.toml`; do not edit. Every numbered normative\n\
         statement of both OASIS texts, in short words of ours, with the tests that hold it or the reason\n\
         why none does. *Mutation* is the name of a way to break the code, in\n\
         `core/tests/conformance/mutations.toml`, with which one of these tests fails. `scripts/mutate`\n\
         breaks the code in each of these ways, in a copy, and checks that.\n\n\
         | text | statements | bind the server | held by a test and a mutation | not applicable |\n\
         | --- | --- | --- | --- | --- |\n",
    );
    for version in ["3.1.1", "5.0"] {
        let _ = writeln!(
            page,
            "| {version} | {} | {} | {} | {} |",
            count(version, &|_| true),
            count(version, &|statement| statement.side != "client"),
            count(version, &|statement| statement.mutation.is_some()),
            count(version, &|statement| statement.not_applicable.is_some()),
        );
    }
    for version in ["3.1.1", "5.0"] {
        let _ = write!(
            page,
            "\n## MQTT {version}\n\n| statement | binds | says | held by | mutation |\n\
             | --- | --- | --- | --- | --- |\n"
        );
        for statement in all.iter().filter(|statement| statement.version == version) {
            let held = match &statement.not_applicable {
                Some(reason) => format!("not applicable: {reason}"),
                None => statement
                    .held_by
                    .iter()
                    .map(|test| format!("`{test}`"))
                    .collect::<Vec<_>>()
                    .join(", "),
            };
            let _ = writeln!(
                page,
                "| {} | {} | {} | {held} | {} |",
                statement.id,
                statement.side,
                statement.paraphrase,
                statement.mutation.as_deref().unwrap_or("")
            );
        }
    }
    page
}
