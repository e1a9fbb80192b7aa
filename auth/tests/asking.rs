//! Introspection and webhooks: servers that are right, slow, wrong, redirecting or dead; and who is
//! asked first.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/server.rs"]
mod server;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use common::{START, TokenIssuer, attempt, claims, desk, file, issuer_settings, judge, jwks, now};
use portcullis_auth::{
    Connection, Desk, IntrospectionSettings, KeySource, Link, Settings, Url, WebhookSettings,
    password,
};
use portcullis_core::clock::Now;
use portcullis_core::hook::{
    Accepted, Attempt, Authenticator, Refusal, RefusalKind, Standing, Use,
};
use portcullis_core::secret::Secret;
use serde_json::{Value, json};
use server::{Play, Server, say};
use tokio::task::JoinSet;

fn later(seconds: u64) -> Now {
    let now = now();
    Now {
        mono: now.mono + Duration::from_secs(seconds),
        wall: now.wall + Duration::from_secs(seconds),
    }
}

fn quick() -> Connection {
    Connection {
        timeout: Duration::from_secs(2),
        ..Connection::default()
    }
}

fn introspection(name: &str, url: Url, directory: &std::path::Path) -> IntrospectionSettings {
    let secret = file(directory, "oauth.secret", "s&cret\n");
    IntrospectionSettings {
        client: Some(("id:x".into(), secret)),
        connection: quick(),
        roles: Some("scope".into()),
        allowed_roles: Some(vec!["nurse".into()]),
        ..common::introspection(name, url, None)
    }
}

fn webhook(name: &str, url: Url, tokens: bool) -> WebhookSettings {
    WebhookSettings {
        connection: quick(),
        tokens,
        allowed_roles: Some(vec!["nurse".into()]),
        ..common::webhook(name, url)
    }
}

fn sent<'a>(user: &'a str, secret: &'a str, now: Now) -> Attempt<'a> {
    Attempt {
        username: Some(user),
        password: Some(Secret::new(secret.as_bytes())),
        now,
        ..attempt()
    }
}

fn name(judged: Result<Accepted, Refusal>) -> String {
    match judged {
        Ok(accepted) => accepted.identity.principal.to_string(),
        Err(refusal) => format!("{:?}: {}", refusal.kind, refusal.reason),
    }
}

#[tokio::test]
async fn an_introspected_token_names_its_bearer_and_is_remembered_no_longer_than_exp() {
    let (server, directory) = (Server::start().await, tempfile::tempdir().unwrap());
    let desk = desk(Settings {
        introspection: vec![introspection("oauth", server.url(), directory.path())],
        ..Settings::default()
    });
    server.always(say(json!({
        "active": true, "sub": "anna", "scope": "nurse admin", "exp": START + 30, "site": "north",
    })
    .to_string()));
    let start = later(0);
    let accepted = judge(&desk, &sent("oauth2", "op+que", start))
        .await
        .unwrap();
    assert_eq!(accepted.identity.principal.as_str(), "jwt:anna");
    assert_eq!(
        accepted
            .identity
            .roles
            .iter()
            .map(|r| &**r)
            .collect::<Vec<_>>(),
        ["nurse"]
    );
    assert_eq!(&*accepted.identity.attributes["claim.site"], "north");
    assert_eq!(accepted.lease.until, Some(later(40).wall));
    assert_eq!(
        desk.standing(&accepted.lease.credential, Use::Live),
        Standing::Good
    );
    let asked = server.asked();
    assert_eq!(asked[0].body, "token_type_hint=access_token&token=op%2Bque");
    // RFC 6749, section 2.3.1: id%3Ax:s%26cret
    assert_eq!(
        asked[0].headers["authorization"],
        "Basic aWQlM0F4OnMlMjZjcmV0"
    );
    let at = |seconds| Now {
        mono: start.mono + Duration::from_secs(seconds),
        wall: start.wall + Duration::from_secs(seconds),
    };
    for (seconds, asks) in [(1, 0), (29, 0), (30, 1)] {
        judge(&desk, &sent("oauth2", "op+que", at(seconds)))
            .await
            .unwrap();
        assert_eq!(server.asked().len(), asks, "{seconds}");
    }
    let refusal = judge(&desk, &sent("oauth2", "op+que", at(41)))
        .await
        .unwrap_err();
    assert!(refusal.reason.contains("expired"), "{}", refusal.reason);
    // A password of a person goes nowhere.
    server.asked();
    judge(&desk, &sent("anna", "secret", start))
        .await
        .unwrap_err();
    assert!(server.asked().is_empty());
    // No server, no connection.
    desk.reload(Settings::default());
    let standing = desk.standing(&accepted.lease.credential, Use::Live);
    assert!(matches!(standing, Standing::Revoked(_)));
    assert_eq!(
        desk.standing(&accepted.lease.credential, Use::Stored),
        Standing::Good
    );
}

#[tokio::test]
async fn a_server_that_does_not_answer_as_it_should_is_a_refusal_as_unavailable() {
    let (server, directory) = (Server::start().await, tempfile::tempdir().unwrap());
    let open = || {
        desk(Settings {
            introspection: vec![introspection("oauth", server.url(), directory.path())],
            webhooks: vec![webhook("hook", server.url(), false)],
            ..Settings::default()
        })
    };
    for play in [
        Play::Slow,
        Play::Redirect,
        Play::Status(500),
        Play::BreakOff,
        Play::Huge,
        say("secret"),
        say("{}"),
        say(r#"{"active": "true", "sub": "anna"}"#),
        say(r#"{"result": "maybe"}"#),
        say(r#"{"result": "allow", "role": ["nurse"]}"#),
    ] {
        let desk = open();
        server.always(play.clone());
        for user in ["oauth2", "anna"] {
            let refusal = judge(&desk, &sent(user, "secret", later(0)))
                .await
                .unwrap_err();
            assert_eq!(
                refusal.kind,
                RefusalKind::Unavailable,
                "{play:?}: {}",
                refusal.reason
            );
            assert!(!refusal.reason.contains("secret"), "{}", refusal.reason);
        }
    }
    assert!(server.asked().iter().all(|asked| asked.path == "/x?y=z"));
    // After five failures it is left alone, and tried again after ten seconds.
    let (desk, start) = (open(), later(0));
    server.always(Play::Status(500));
    for _ in 0..8 {
        judge(&desk, &sent("anna", "secret", start))
            .await
            .unwrap_err();
    }
    assert_eq!(server.asked().len(), 5);
    server.always(say(r#"{"result": "allow"}"#));
    let mut after = sent("anna", "secret", start);
    after.now.mono += Duration::from_secs(10);
    assert_eq!(name(judge(&desk, &after).await), "user:anna");
}

#[tokio::test]
async fn a_webhook_gets_the_facts_and_says_who_with_what_until_when() {
    let server = Server::start().await;
    let desk = desk(Settings {
        webhooks: vec![webhook("hook", server.url(), false)],
        ..Settings::default()
    });
    server.always(say(json!({
        "result": "allow", "principal": "ann", "roles": ["nurse", "admin", "role:x"],
        "attributes": {"site": "north"}, "expires": START + 60,
    })
    .to_string()));
    let accepted = judge(&desk, &sent("anna", "sec\"ret", later(0)))
        .await
        .unwrap();
    assert_eq!(accepted.identity.principal.as_str(), "user:ann");
    assert_eq!(
        accepted
            .identity
            .roles
            .iter()
            .map(|r| &**r)
            .collect::<Vec<_>>(),
        ["nurse"]
    );
    assert_eq!(&*accepted.identity.attributes["claim.site"], "north");
    assert_eq!(accepted.lease.until, Some(later(60).wall));
    assert_eq!(desk.ignored_roles(), 1);
    let facts: Value = serde_json::from_str(&server.asked()[0].body).unwrap();
    assert_eq!(
        facts,
        json!({
            "version": 1, "kind": "password", "listener": "internet", "client-id": "c",
            "username": "anna", "password": "sec\"ret", "peer": null, "protocol": "5.0",
            "certificate": null,
        })
    );
    for (answer, word) in [
        (
            json!({"result": "deny"}),
            "BadCredential: webhook hook: it denies",
        ),
        (
            json!({"result": "ignore"}),
            "BadCredential: webhook hook: not its own",
        ),
        (
            json!({"result": "allow", "expires": START}),
            "BadCredential: webhook hook: its answer is expired",
        ),
        (
            json!({"result": "allow", "principal": "*"}),
            "BadCredential: webhook hook: the principal",
        ),
        (
            json!({"result": "allow", "principal": ""}),
            "BadCredential: webhook hook: the principal",
        ),
    ] {
        server.always(say(answer.to_string()));
        let said = name(judge(&desk, &sent(&answer.to_string(), "x", later(0))).await);
        assert!(said.starts_with(word), "{answer}: {said}");
    }
}

#[tokio::test]
async fn who_may_own_a_credential_is_asked_in_the_order_of_the_file() {
    let (hook, other) = (Server::start().await, Server::start().await);
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users.passwd");
    password::set(&users, "anna", Secret::new(b"secret")).unwrap();
    let issuer = TokenIssuer::new("k1");
    let keys = file(directory.path(), "jwks.json", jwks(&[issuer.jwk()]));
    let mut id = issuer_settings("id", KeySource::JwksFile(keys));
    id.allowed_roles = Some(vec![]);
    let mut settings = Settings {
        password_file: Some(users),
        issuers: vec![id],
        introspection: vec![introspection("oauth", other.url(), directory.path())],
        webhooks: vec![webhook("hook", hook.url(), true)],
        ..Settings::default()
    };
    let open = |settings: &Settings| desk(settings.clone());
    hook.always(say(r#"{"result": "allow", "principal": "x"}"#));
    other.always(say(r#"{"active": false}"#));
    let own = issuer.token(&claims(|_| {}));
    let foreign = issuer.token(&claims(|claims| {
        drop(claims.insert("iss".into(), "else".into()));
    }));
    let ask = async |desk: &Desk, user: &str, secret: &str| {
        let said = name(judge(desk, &sent(user, secret, later(0))).await);
        (said, other.asked().len(), hook.asked().len())
    };
    let desk = open(&settings);
    let said = |name: &str, other, hook| (name.to_owned(), other, hook);
    assert_eq!(ask(&desk, "anna", "secret").await, said("user:anna", 0, 0));
    // The file owns its users: a wrong password asks nobody else.
    let (refused, _, asked) = ask(&desk, "anna", "wrong").await;
    assert!(
        refused.contains("the password is wrong") && asked == 0,
        "{refused}"
    );
    assert_eq!(
        ask(&desk, "otto", "secret").await,
        said("user:hook/x", 0, 1)
    );
    assert_eq!(
        desk.password_hashes(),
        3,
        "a stranger costs a hash before others are asked"
    );
    assert_eq!(ask(&desk, "", &own).await, said("jwt:id/anna", 0, 0));
    assert_eq!(ask(&desk, "", &foreign).await, said("jwt:hook/x", 1, 1));
    hook.always(say(r#"{"result": "ignore"}"#));
    let (refused, _, _) = ask(&desk, "", &foreign).await;
    assert!(
        refused.starts_with("BadCredential") && refused.contains("no configured issuer"),
        "{refused}"
    );
    // The other way round.
    settings.order = vec![
        Link::Webhook(0),
        Link::Introspection(0),
        Link::Issuer(0),
        Link::Passwords,
    ];
    let desk = open(&settings);
    assert_eq!(ask(&desk, "anna", "secret").await, said("user:anna", 0, 1));
    assert_eq!(ask(&desk, "", &own).await, said("jwt:id/anna", 1, 1));
    hook.always(say(r#"{"result": "deny"}"#));
    let (refused, asked, _) = ask(&desk, "", &own).await;
    assert!(refused.contains("it denies") && asked == 0, "{refused}");
}

#[tokio::test]
async fn a_token_that_may_be_used_once_ends_its_older_connection() {
    let directory = tempfile::tempdir().unwrap();
    let issuer = TokenIssuer::new("k1");
    let keys = file(directory.path(), "jwks.json", jwks(&[issuer.jwk()]));
    let mut id = issuer_settings("id", KeySource::JwksFile(keys));
    id.one_connection_per_jti = true;
    id.require_claims = vec!["tenant=acme".parse().unwrap()];
    let desk = desk(Settings {
        issuers: vec![id],
        ..Settings::default()
    });
    let token = |jti: &str, tenant: &str| {
        issuer.token(&claims(|claims| {
            claims.insert("jti".into(), jti.into());
            claims.insert("tenant".into(), tenant.into());
        }))
    };
    for (jti, tenant, word) in [("", "acme", "jti"), ("a", "other", "tenant=acme")] {
        let refusal = judge(&desk, &sent("", &token(jti, tenant), later(0)))
            .await
            .unwrap_err();
        assert!(refusal.reason.contains(word), "{}", refusal.reason);
    }
    let (a, b) = (token("a", "acme"), token("b", "acme"));
    let one = judge(&desk, &sent("", &a, later(0)))
        .await
        .unwrap()
        .lease
        .credential;
    let other = judge(&desk, &sent("", &b, later(0)))
        .await
        .unwrap()
        .lease
        .credential;
    let generation = desk.generation();
    let two = judge(&desk, &sent("", &a, later(1)))
        .await
        .unwrap()
        .lease
        .credential;
    assert!(desk.generation() > generation, "core asks again");
    assert!(matches!(
        desk.standing(&one, Use::Live),
        Standing::Revoked(_)
    ));
    assert_eq!(desk.standing(&one, Use::Stored), Standing::Good);
    for credential in [two, other] {
        assert_eq!(desk.standing(&credential, Use::Live), Standing::Good);
    }
}

#[tokio::test]
async fn a_certificate_on_the_deny_list_is_refused_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let ca = common::Ca::root("ca");
    let (good, bad) = (ca.client("good", |_| {}), ca.client("bad", |_| {}));
    let hex = |der: &[u8]| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        digest
            .as_ref()
            .iter()
            .fold(String::new(), |mut text, byte| {
                write!(text, "{byte:02x}").unwrap();
                text
            })
    };
    let desk = desk(Settings::default());
    desk.set_trust("internet", Some(common::trust(&[&ca.pem], &[]).unwrap()));
    let shown = bad.shown();
    let before = judge(&desk, &common::with_certificate(&shown))
        .await
        .unwrap();
    let list = file(
        directory.path(),
        "denied.txt",
        format!("# stolen\n{}\n", hex(&bad.der)),
    );
    let settings = Settings {
        deny_fingerprints: Some(list.clone()),
        ..Settings::default()
    };
    assert!(
        desk.reload(settings.clone())
            .iter()
            .all(|unit| unit.error.is_none())
    );
    let refusal = judge(&desk, &common::with_certificate(&shown))
        .await
        .unwrap_err();
    assert!(
        refusal.reason.contains("deny-fingerprints"),
        "{}",
        refusal.reason
    );
    for purpose in [Use::Live, Use::Stored] {
        let standing = desk.standing(&before.lease.credential, purpose);
        assert!(matches!(standing, Standing::Revoked(_)));
    }
    judge(&desk, &common::with_certificate(&good.shown()))
        .await
        .unwrap();
    // An emptied file keeps the old list.
    std::fs::write(list, "").unwrap();
    assert!(
        desk.reload(settings)
            .iter()
            .any(|unit| unit.error.is_some())
    );
    judge(&desk, &common::with_certificate(&shown))
        .await
        .unwrap_err();
}

#[tokio::test]
async fn a_webhook_is_asked_about_ten_guesses_that_are_made_at_once() {
    let server = Server::start().await;
    server.always(say(r#"{"result": "deny"}"#));
    let desk = Arc::new(desk(Settings {
        webhooks: vec![common::webhook("hook", server.url())],
        ..Settings::default()
    }));
    let comes = || {
        let desk = Arc::clone(&desk);
        async move { judge(&desk, &sent("anna", "guess", later(0))).await }
    };
    let mut guesses: JoinSet<_> = (0..100).map(|_| comes()).collect();
    while let Some(judged) = guesses.join_next().await {
        assert_eq!(
            judged.unwrap().unwrap_err().kind,
            RefusalKind::BadCredential
        );
    }
    assert_eq!(server.asked().len(), 10);
}
