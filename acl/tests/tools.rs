//! What operators ask: why, does it hold, what smells, what changes.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod common;

use common::{policy, who};
use portcullis_acl::tools::{diff, diff_live, expect, explain, junit, lint};
use portcullis_acl::{Act, Policy, Source, Sources};
use portcullis_core::hook::Cover;

const POLICY: &str = "\
p, role:device, devices/{name}/telemetry, publish, allow
p, role:device, devices/{name}/commands, subscribe, allow
p, role:operator, devices/#, subscribe, allow
p, role:operator, devices/secret/#, subscribe, deny
p, role:operator, devices/+/commands, publish, allow
g, cert:device-1, role:device
g, cert:anna, role:operator
";

fn why(principal: &str, act: Act, topic: &str) -> String {
    let client = who(principal, "c", &[]);
    explain(&policy(POLICY), &client, None, act, topic)
        .unwrap()
        .to_string()
}

#[test]
fn an_allowed_action_is_explained_by_its_line() {
    assert_eq!(
        why("cert:device-1", Act::Publish, "devices/device-1/telemetry"),
        "cert:device-1 publish devices/device-1/telemetry: allowed\n  \
         by policy.csv:1 \"p, role:device, devices/{name}/telemetry, publish, allow\"\n  \
         through cert:device-1 -> role:device (policy.csv:6)\n  \
         {name} is \"device-1\"\n  \
         to change it: remove policy.csv:1 \"p, role:device, devices/{name}/telemetry, publish, allow\"\n  \
         to change it: or add a deny line that matches, which wins over any allow\n"
    );
}

#[test]
fn a_denied_action_is_explained_with_what_would_change_it() {
    for (principal, act, topic, says) in [
        (
            "cert:device-1",
            Act::Publish,
            "devices/x/commands",
            "add `g, cert:device-1, role:operator`: policy.csv:5 allows it to that role",
        ),
        (
            "cert:device-1",
            Act::Publish,
            "devices/device-1/commands",
            "policy.csv:2 \"p, role:device, devices/{name}/commands, subscribe, allow\" allows subscribe there, not publish",
        ),
        (
            "cert:device-1",
            Act::Publish,
            "x",
            "add `p, cert:device-1, x, publish, allow`",
        ),
        (
            "cert:device-1",
            Act::Publish,
            "$SYS/x",
            "do not touch topics that begin with `$`",
        ),
        (
            "cert:anna",
            Act::Subscribe,
            "devices/secret/x",
            "by policy.csv:4",
        ),
        (
            "cert:anna",
            Act::Subscribe,
            "devices/secret/x",
            "remove or narrow policy.csv:4",
        ),
        ("cert:anna", Act::Subscribe, "devices/+/x", "partly allowed"),
        (
            "cert:anna",
            Act::Subscribe,
            "devices/+/x",
            "devices/secret/x is denied: remove or narrow policy.csv:4",
        ),
        (
            "cert:anna",
            Act::Subscribe,
            "devices/secret/#",
            ": denied\n",
        ),
        (
            "cert:anna",
            Act::Share,
            "workers",
            "add `p, cert:anna, workers, share, allow`",
        ),
        (
            "cert:anna",
            Act::Subscribe,
            "plant/+",
            "is not allowed: add",
        ),
        (
            "cert:anna",
            Act::Subscribe,
            "+/+",
            "or subscribe to what is allowed, such as devices/",
        ),
    ] {
        let said = why(principal, act, topic);
        assert!(said.contains(says), "{topic}: {said}");
        assert!(!said.contains(": allowed"), "{said}");
    }
}

/// A line that is suggested is a line, whatever names and topics are.
#[test]
fn what_is_suggested_can_be_put_into_the_policy() {
    for (principal, topic) in [
        ("cert:CN=a,O=b", "plant, north/x"),
        ("cert:a", "a//b/ c"),
        ("cert:\u{e9} ", "\u{20ac}"),
        ("cert:a", "a/\u{2028}/b"),
        ("cert:a", "'a'"),
    ] {
        let said = why(principal, Act::Publish, topic);
        let (_, line) = said.split_once("to change it: add `").unwrap();
        let (line, _) = line.split_once("`\n").unwrap();
        let sources = Sources {
            policies: vec![Source::new("policy.csv", line)],
            ..Sources::default()
        };
        let policy = Policy::load(&sources).unwrap().policy;
        let client = who(principal, "c", &[]);
        let said = explain(&policy, &client, None, Act::Publish, topic).unwrap();
        assert!(said.allowed, "{said}");
    }
    for (principal, topic) in [
        ("cert:a", "plant/{name}"),
        ("cert:a\"b", "plant"),
        ("cert:a", "a\nb"),
    ] {
        let said = why(principal, Act::Publish, topic);
        assert!(said.contains("no line can name it as it is"), "{said}");
    }
}

/// Whoever asks about `retain` alone would take its yes for the whole answer.
#[test]
fn a_retained_message_and_a_will_are_explained_with_the_publish_beside_them() {
    let policy = policy(
        "p, cert:a, a, retain, allow\np, cert:a, b, will, allow\np, cert:a, b, publish, allow",
    );
    let ask = |act, topic| {
        let client = who("cert:a", "c", &[]);
        let said = explain(&policy, &client, None, act, topic).unwrap();
        (said.allowed, said.publish, said.to_string())
    };
    let (allowed, publish, said) = ask(Act::Retain, "a");
    assert_eq!((allowed, publish), (true, Some(false)));
    assert!(
        said.contains("asked in addition to publish, which is denied"),
        "{said}"
    );
    let (allowed, publish, said) = ask(Act::Will, "b");
    assert_eq!((allowed, publish), (true, Some(true)));
    assert!(
        said.contains("asked in addition to publish, which is allowed"),
        "{said}"
    );
    assert_eq!(ask(Act::Publish, "b").1, None);
}

#[test]
fn a_question_that_is_none_is_refused() {
    let client = who("cert:anna", "c", &[]);
    for (act, topic) in [
        (Act::Publish, "a/+"),
        (Act::Publish, ""),
        (Act::Subscribe, "a/#/b"),
        (Act::Subscribe, "$share/g/a"),
        (Act::Share, "a/b"),
    ] {
        assert!(
            explain(&policy(POLICY), &client, None, act, topic).is_err(),
            "{topic}"
        );
    }
}

const TESTS: &str = r#"
[[test]]
name = "devices & <operators>"
principal = "cert:device-1"
allow = ["publish devices/device-1/telemetry"]
deny = ["publish devices/device-2/telemetry", "share workers"]
full = ["devices/device-1/commands"]
partial = ["devices/+/commands"]
nothing = ["plant/#"]
"#;

#[test]
fn expectations_that_hold_pass() {
    let report = expect::check("tests.toml", TESTS, &policy(POLICY));
    assert!(report.passed(), "{report}");
    assert!(
        report
            .to_string()
            .contains("result: ok. 1 passed; 0 failed; 6 expectations")
    );
    let xml = junit(&[report]);
    assert!(xml.contains("tests=\"1\" failures=\"0\""), "{xml}");
    assert!(
        xml.contains("name=\"devices &amp; &lt;operators&gt;\"/>"),
        "{xml}"
    );
}

/// Names and topics are somebody's text: the XML stays well-formed, and no test hides another.
#[test]
fn junit_is_well_formed_whatever_the_tests_are_called() {
    let name = "a\\\"/><testcase name='b'>]]>&amp;\\u0000\\u001b\\uFFFF\\uFFFE\\n\\u0085 \u{1f600}";
    let text =
        format!("[[test]]\nname = \"{name}\"\nprincipal = \"cert:a\"\nallow = [\"publish <&\"]\n");
    let report = expect::check("t\"<&.toml", &text, &policy(POLICY));
    assert!(
        !report.passed() && report.to_string().contains("<&"),
        "{report}"
    );
    let xml = junit(&[report]);
    let (markup, texts): (Vec<&str>, Vec<&str>) = {
        let mut parts: Vec<&str> = xml.split(['<', '>']).collect();
        let last = parts.pop();
        assert_eq!(last, Some("\n"));
        parts.chunks(2).map(|pair| (pair[1], pair[0])).unzip()
    };
    let names: Vec<&str> = markup
        .iter()
        .filter_map(|tag| tag.split([' ', '/']).find(|w| !w.is_empty()))
        .collect();
    assert_eq!(
        names,
        [
            "?xml",
            "testsuites",
            "testsuite",
            "testcase",
            "failure",
            "failure",
            "testcase",
            "testsuite",
            "testsuites"
        ],
        "{xml}"
    );
    for text in markup.iter().chain(&texts) {
        for (at, _) in text.match_indices('&') {
            let entity = text[at..].split_inclusive(';').next();
            let known = ["&amp;", "&lt;", "&gt;", "&quot;"];
            assert!(known.contains(&entity.unwrap()), "{xml}");
        }
        let allowed = |c: char| {
            matches!(c, '\n' | '\t') || !(c.is_control() || ('\u{fffe}'..='\u{ffff}').contains(&c))
        };
        assert!(text.chars().all(allowed), "{xml}");
    }
}

#[test]
fn an_expectation_that_does_not_hold_fails_with_its_line_and_the_reason() {
    for (from, to, says) in [
        (
            "allow = [\"publish devices/device-1",
            "allow = [\"publish devices/device-9",
            "tests.toml:5: expected to be allowed, but\ncert:device-1 publish devices/device-9/telemetry: denied",
        ),
        (
            "deny = [\"publish devices/device-2",
            "deny = [\"publish devices/device-1",
            "tests.toml:6: expected to be denied",
        ),
        (
            "full = [\"devices/device-1",
            "full = [\"devices/+",
            "tests.toml:7: expected to be allowed in full",
        ),
        (
            "partial = [\"devices/+",
            "partial = [\"devices/device-1",
            "tests.toml:8: expected to be allowed in part",
        ),
        (
            "nothing = [\"plant/#",
            "nothing = [\"#",
            "tests.toml:9: expected to be allowed in nothing",
        ),
        (
            "share workers",
            "shear workers",
            "does not begin with publish",
        ),
        (
            "share workers",
            "subscribe a/+",
            "has a wildcard: list it under",
        ),
        (
            "cert:device-1\"",
            "device-1\"",
            "tests.toml:4: `device-1` is not a principal",
        ),
        (
            "principal =",
            "principle =",
            "tests.toml:4: unknown field `principle`",
        ),
        (
            "[[test]]\n",
            "[[test]]\nattributes = { ou = \"icu\" }\n",
            "no line asks for the attribute `ou`: write cert.FIELD or claim.PATH",
        ),
        ("share workers", "share", "\"share\" names no topic"),
    ] {
        let report = expect::check("tests.toml", &TESTS.replacen(from, to, 1), &policy(POLICY));
        assert!(!report.passed(), "{to}");
        assert!(report.to_string().contains(says), "{to}: {report}");
        assert!(
            junit(&[report]).contains("<failure message=\"tests.toml"),
            "{to}"
        );
    }
    let nothing = "[[test]]\nname = \"x\"\nprincipal = \"cert:a\"\n";
    for text in ["", nothing] {
        assert!(
            !expect::check("t", text, &policy(POLICY)).passed(),
            "{text:?}"
        );
    }
}

/// With several issuers, or CAs that have names, a principal has the name of its own in it.
#[test]
fn an_expectation_may_say_which_part_of_a_principal_is_its_name() {
    let text = "[[test]]\nname = \"x\"\nprincipal = \"jwt:id/anna\"\nattributes = { name = \"anna\" }\n\
                allow = [\"publish devices/anna/telemetry\"]\n";
    let policy = policy("p, *, devices/{name}/#, publish, allow\n");
    let report = expect::check("t", text, &policy);
    assert!(report.passed(), "{report}");
    let without = text.replace("attributes = { name = \"anna\" }\n", "");
    assert!(!expect::check("t", &without, &policy).passed());
}

#[test]
fn lint_finds_lines_that_do_nothing_or_too_much() {
    let base = "p, cert:a, t/#, publish, allow\np, cert:a, t/x/#, publish, deny\n";
    for (line, says) in [
        (
            "p, cert:a, t/x/y, publish, allow",
            "policy.csv:3: the line has no effect: policy.csv:2",
        ),
        (
            "p, cert:a, t/+/z, publish, allow",
            "policy.csv:3: other lines for `cert:a` say the same",
        ),
        (
            "p, cert:a, t/{name}, publish, allow",
            "policy.csv:3: other lines for `cert:a` say the same",
        ),
        (
            "p, cert:a, t/x/y, publish, deny",
            "policy.csv:3: other lines for `cert:a` say the same",
        ),
        (
            "p, cert:b, #, subscribe, allow",
            "`cert:b` may subscribe everything",
        ),
        (
            "p, *, +/x, publish, allow",
            "`*` may publish under every first level",
        ),
        (
            "p, cert:a, u, retain, allow",
            "retain is asked in addition to publish",
        ),
    ] {
        let sources = Sources {
            policies: vec![Source::new("policy.csv", format!("{base}{line}"))],
            ..Sources::default()
        };
        let found = lint(&Policy::load(&sources).unwrap());
        let said: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|s| s.contains(says)), "{line}: {said:#?}");
    }
}

#[test]
fn a_diff_says_who_gains_and_who_loses_what() {
    let old = policy(POLICY);
    for (from, to, expected) in [
        (
            "devices/+/commands, publish",
            "devices/#, publish",
            vec!["role:operator gains publish devices/#, for example devices"],
        ),
        (
            "p, role:operator, devices/secret/#, subscribe, deny\n",
            "",
            vec!["role:operator gains subscribe devices/#, for example devices/secret/#"],
        ),
        (
            "devices/#, subscribe",
            "devices/+, subscribe",
            vec!["role:operator loses subscribe devices/#, for example devices"],
        ),
        (
            "telemetry, publish",
            "telemetry, will",
            vec![
                "role:device gains will devices/{name}/telemetry",
                "role:device loses publish devices/{name}/telemetry",
            ],
        ),
        (
            "g, cert:device-1, role:device\n",
            "",
            vec![
                "cert:device-1 loses publish devices/{name}/telemetry",
                "cert:device-1 loses subscribe devices/{name}/commands",
            ],
        ),
        (
            "g, cert:anna",
            "p, cert:b, +, share, allow\ng, cert:anna",
            vec!["cert:b gains share +"],
        ),
        ("devices/#, subscribe", "devices/#,subscribe", vec![]),
    ] {
        assert!(POLICY.contains(from), "{from}");
        let new = policy(&POLICY.replace(from, to));
        let said: Vec<String> = diff(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(said, expected, "{to}");
        let back = diff(&new, &old);
        assert_eq!(back.len(), expected.len(), "the way back of {to}");
    }
    assert_eq!(diff(&old, &old), []);
}

#[test]
fn a_subscription_tells_how_much_is_covered() {
    let anna = who("cert:anna", "c", &[]);
    for (filter, cover) in [
        ("devices/a/#", "Full"),
        ("devices/#", "Partial"),
        ("plant/#", "Nothing"),
        ("devices/a", "Full"),
        ("plant", "Nothing"),
    ] {
        let said = explain(&policy(POLICY), &anna, None, Act::Subscribe, filter).unwrap();
        let said: Cover = said.cover.unwrap();
        assert!(format!("{said:?}").starts_with(cover), "{filter}: {said:?}");
    }
}

/// For live clients the values, roles and conditions are their own.
#[test]
fn a_live_diff_is_about_the_clients_that_are_there() {
    let old = policy(
        "p, role:device, d/{name}/#, publish, allow\np, role:device, workers, share, allow\n\
         p, role:night, lamp, publish, allow, listener == 'inside'\ng, cert:a, role:device\n\
         g, cert:b, role:device\ng, cert:b, role:night\n",
    );
    let new = policy(
        "p, role:device, d/{name}/data, publish, allow\np, role:night, lamp, publish, allow\n\
         g, cert:a, role:device\ng, cert:b, role:device\ng, cert:b, role:night\n",
    );
    let clients = [
        who("cert:a", "1", &[]),
        who("cert:a", "2", &[]),
        who("cert:b", "3", &[]),
        who("user:none", "4", &[]),
    ];
    let changes = diff_live(&old, &new, &clients, std::time::SystemTime::UNIX_EPOCH);
    let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        [
            "cert:a loses publish d/a/#, for example d/a",
            "cert:a loses share workers",
            "cert:b gains publish lamp",
            "cert:b loses publish d/b/#, for example d/b",
            "cert:b loses share workers",
        ]
    );
}
