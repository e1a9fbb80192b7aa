//! Drafts: placeholders, roles, and what a policy cannot say.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod common;

use common::{policy, who};
use portcullis_acl::Act;
use portcullis_acl::tools::{Draft, Observed, explain, learn};
use proptest::prelude::*;
use proptest::sample::select;

fn draft(seen: &[(&str, Act, &str, bool)]) -> Draft {
    learn(seen.iter().map(|(principal, act, topic, denied)| Observed {
        principal: (*principal).into(),
        act: *act,
        topic: (*topic).into(),
        denied: *denied,
    }))
}

fn lines(draft: &Draft) -> Vec<&str> {
    let lines = draft.text.lines();
    lines
        .filter(|line| line.starts_with("p,") || line.starts_with("g,"))
        .collect()
}

#[test]
fn names_become_placeholders_where_two_clients_do_alike_and_equals_share_a_role() {
    let draft = draft(&[
        ("cert:d1", Act::Publish, "devices/d1/telemetry", true),
        ("cert:d1", Act::Publish, "devices/d1/telemetry", true),
        ("cert:d2", Act::Publish, "devices/d2/telemetry", true),
        ("cert:d1", Act::Subscribe, "devices/d1/commands", false),
        ("cert:d2", Act::Subscribe, "devices/d2/commands", false),
        ("user:anna", Act::Subscribe, "people/anna/inbox", false),
        ("user:anna", Act::Subscribe, "$share/desk/orders/#", true),
    ]);
    assert_eq!(
        lines(&draft),
        [
            "p, role:learned-1, devices/{name}/telemetry, publish, allow",
            "p, role:learned-1, devices/{name}/commands, subscribe, allow",
            "g, cert:d1, role:learned-1",
            "g, cert:d2, role:learned-1",
            "p, user:anna, orders/#, subscribe, allow",
            "p, user:anna, people/anna/inbox, subscribe, allow",
            "p, user:anna, desk, share, allow",
        ]
    );
    assert!(
        draft.text.contains("# granted 0, denied 3\n"),
        "{}",
        draft.text
    );
    assert!(draft.text.contains("review: a wildcard"), "{}", draft.text);
    assert_eq!(draft.check(), Ok(()));
    assert_eq!(draft.rules, 5);
}

#[test]
fn anonymous_clients_share_a_role_like_others() {
    let draft = draft(&[
        ("anonymous", Act::Publish, "t", true),
        ("cert:a", Act::Publish, "t", true),
    ]);
    assert_eq!(
        lines(&draft),
        [
            "p, role:learned-1, t, publish, allow",
            "g, anonymous, role:learned-1",
            "g, cert:a, role:learned-1",
        ]
    );
}

#[test]
fn what_a_policy_cannot_say_is_a_comment() {
    let draft = draft(&[
        ("cert:a", Act::Publish, "t/{x}", true),
        ("cert:a", Act::Publish, "t/a,b", true),
        ("odd", Act::Publish, "t", true),
        (
            "cert:\u{1}\np, *, #, publish, allow",
            Act::Publish,
            "t",
            true,
        ),
        ("cert:a", Act::Publish, "x\np, *, #, publish, allow", true),
    ]);
    assert_eq!(lines(&draft), ["p, cert:a, \"t/a,b\", publish, allow"]);
    assert!(draft.text.contains("# Left out:"), "{}", draft.text);
    assert_eq!(draft.check(), Ok(()));
}

proptest! {
    /// Whatever clients call themselves and their topics, a draft loads, has no line that nobody asked
    /// for, and allows all that was asked, but what it says to be left out.
    #[test]
    fn a_draft_always_loads(
        seen in prop::collection::vec(
            (
                select(vec!["cert:a", "cert:b", "jwt:id/x", "user:a,b", "anonymous", "cert: c ", "role:x"]),
                select(vec![Act::Publish, Act::Retain, Act::Will, Act::Subscribe]),
                "[ab/+#${},\" \n]{1,6}",
            ),
            1..20,
        ),
    ) {
        let draft = learn(seen.iter().map(|(principal, act, topic)| Observed {
            principal: (*principal).into(),
            act: *act,
            topic: topic.clone(),
            denied: true,
        }));
        if draft.rules > 0 {
            prop_assert_eq!(draft.check(), Ok(()), "{}", draft.text);
            let policy = policy(&draft.text);
            for (principal, act, topic) in &seen {
                if draft.text.contains(&format!("{principal:?} {topic:?}")) || *principal == "role:x" {
                    continue;
                }
                // A shared subscription is two questions.
                if let Ok(said) = explain(&policy, &who(principal, "c", &[]), None, *act, topic) {
                    prop_assert!(said.allowed, "{said}{}", draft.text);
                }
            }
        }
    }
}
