//! Keys and revocation lists from servers that are right, slow, wrong, huge or dead.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]
#![expect(clippy::panic, reason = "a failed set-up is a failed test")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/server.rs"]
mod server;

use std::time::Duration;

use common::{
    Ca, TokenIssuer, attempt, claims, day, desk, issuer_settings, jwks, now, with_certificate,
};
use portcullis_auth::{
    ClientTrust, Connection, Desk, JwksUrl, KeySource, Revocation, Settings, Url,
};
use portcullis_core::clock::Now;
use portcullis_core::hook::{Attempt, Authenticator, Outcome, RefusalKind, Standing, Use};
use portcullis_core::secret::Secret;
use server::{Play, Server, say};

fn later(now: Now, seconds: u64) -> Now {
    Now {
        mono: now.mono + Duration::from_secs(seconds),
        wall: now.wall + Duration::from_secs(seconds),
    }
}

/// A desk with one issuer whose keys are at this address; everything is given up after two seconds.
fn with_url(url: Url) -> Desk {
    let source = KeySource::JwksUrl(JwksUrl {
        connection: Connection {
            timeout: Duration::from_secs(2),
            ..Connection::default()
        },
        ..JwksUrl::new(url)
    });
    desk(Settings {
        issuers: vec![issuer_settings("id", source)],
        ..Settings::default()
    })
}

async fn judge(desk: &Desk, token: &str, now: Now) -> Result<String, (RefusalKind, String)> {
    let attempt = Attempt {
        password: Some(Secret::new(token.as_bytes())),
        now,
        ..attempt()
    };
    match desk.authenticate(&attempt).await {
        Outcome::Accepted(accepted) => Ok(accepted.identity.principal.to_string()),
        Outcome::Refused(refusal) => Err((refusal.kind, refusal.reason)),
        other @ (Outcome::NotMine | Outcome::Continue(_)) => panic!("{other:?}"),
    }
}

fn errors(units: &[portcullis_auth::Reloaded]) -> Vec<String> {
    let errors = units.iter().filter_map(|unit| unit.error.as_ref());
    errors.map(ToString::to_string).collect()
}

#[tokio::test]
async fn keys_are_fetched_and_a_new_one_is_found_at_once() {
    let (server, start) = (Server::start().await, now());
    let (old, new) = (TokenIssuer::new("k1"), TokenIssuer::new("k2"));
    let desk = with_url(server.url());
    server.always(say(jwks(&[old.jwk()])));
    assert_eq!(errors(&desk.refresh(start).await), [""; 0]);
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].path, "/x?y=z");
    assert_eq!(asked[0].headers["host"], server.address.to_string());
    let good = |issuer: &TokenIssuer| issuer.token(&claims(|_| {}));
    assert_eq!(judge(&desk, &good(&old), start).await.unwrap(), "jwt:anna");
    assert!(
        desk.refresh(later(start, 599)).await.is_empty(),
        "not before it is due"
    );
    assert!(server.asked().is_empty(), "a known key asks nobody");

    // The issuer rotates. Within the floor nobody asks, after it the first token does.
    server.always(say(jwks(&[old.jwk(), new.jwk()])));
    let (kind, why) = judge(&desk, &good(&new), later(start, 9))
        .await
        .unwrap_err();
    assert_eq!(kind, RefusalKind::BadCredential);
    assert!(why.contains("no key with this kid"), "{why}");
    assert!(server.asked().is_empty());
    let generation = desk.generation();
    assert_eq!(
        judge(&desk, &good(&new), later(start, 10)).await.unwrap(),
        "jwt:anna"
    );
    assert_eq!(server.asked().len(), 1);
    assert!(desk.generation() > generation, "core asks again");
}

#[tokio::test]
async fn invented_key_names_make_the_broker_ask_seldom() {
    let (server, start) = (Server::start().await, now());
    let (known, unknown) = (TokenIssuer::new("k1"), TokenIssuer::new("nobody's"));
    let desk = with_url(server.url());
    server.always(say(jwks(&[known.jwk()])));
    desk.refresh(start).await;
    server.asked();
    let token = |issuer: &TokenIssuer| issuer.token(&claims(|_| {}));
    for (seconds, asked) in [(10, 1), (11, 0), (20, 0), (309, 0), (311, 1)] {
        judge(&desk, &token(&unknown), later(start, seconds))
            .await
            .unwrap_err();
        assert_eq!(server.asked().len(), asked, "after {seconds} s");
    }
    // Another name each time: the floor holds.
    for number in 0..20 {
        let issuer = TokenIssuer::new(&format!("x{number}"));
        judge(&desk, &token(&issuer), later(start, 400 + number))
            .await
            .unwrap_err();
    }
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn without_an_answer_tokens_are_refused_as_unavailable_and_old_keys_count_for_a_while() {
    let (server, start) = (Server::start().await, now());
    let issuer = TokenIssuer::new("k1");
    let desk = with_url(server.url());
    let token = issuer.token(&claims(|claims| {
        drop(claims.insert("exp".into(), (common::START + 900_000).into()));
    }));
    server.always(Play::Status(503));
    let (kind, why) = judge(&desk, &token, start).await.unwrap_err();
    assert_eq!(kind, RefusalKind::Unavailable);
    assert!(why.contains("not fetched yet"), "{why}");
    server.always(say(jwks(&[issuer.jwk()])));
    desk.refresh(later(start, 10)).await;
    judge(&desk, &token, later(start, 10)).await.unwrap();

    server.always(Play::Status(503));
    let start = later(start, 10);
    for (seconds, good) in [(600, true), (86_000, true), (87_000, true), (87_001, false)] {
        desk.refresh(later(start, seconds)).await;
        let judged = judge(&desk, &token, later(start, seconds)).await;
        assert_eq!(judged.is_ok(), good, "{seconds}: {judged:?}");
    }
    let (kind, why) = judge(&desk, &token, later(start, 87_001))
        .await
        .unwrap_err();
    assert_eq!(kind, RefusalKind::Unavailable);
    assert!(why.contains("jwks-stale"), "{why}");
    server.always(say(jwks(&[issuer.jwk()])));
    desk.refresh(later(start, 90_000)).await;
    judge(&desk, &token, later(start, 90_000)).await.unwrap();
}

#[tokio::test]
async fn answers_that_are_no_keys_change_nothing() {
    let (server, start) = (Server::start().await, now());
    let issuer = TokenIssuer::new("k1");
    let desk = with_url(server.url());
    server.always(say(jwks(&[issuer.jwk()])));
    desk.refresh(start).await;
    let token = issuer.token(&claims(|_| {}));
    for (at, (play, word)) in [
        (Play::Slow, "no answer within"),
        (Play::Redirect, "redirects are not followed"),
        (Play::Status(404), "status 404"),
        (Play::Status(204), "status 204"),
        (Play::BreakOff, "server answers"),
        (Play::Huge, "larger than"),
        (say(""), "not JSON"),
        (say("<html>"), "not JSON"),
        (say("{}"), "no list"),
        (say(r#"{"keys": []}"#), "no key that can be used"),
        (
            say(r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#),
            "no key that can be used",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        server.always(play.clone());
        let now = later(start, 600 * (at as u64 + 1));
        let errors = errors(&desk.refresh(now).await);
        assert!(
            errors.len() == 1 && errors[0].contains(word),
            "{play:?}: {errors:?}"
        );
        judge(
            &desk,
            &token,
            Now {
                wall: start.wall,
                ..now
            },
        )
        .await
        .unwrap();
    }
    assert!(
        server.asked().iter().all(|asked| asked.path == "/x?y=z"),
        "no redirect is followed"
    );
    // Dead: nobody listens there any more.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let desk = with_url(Url::parse(&format!("http://{address}")).unwrap());
    let errors = errors(&desk.refresh(start).await);
    assert!(errors[0].contains("cannot connect"), "{errors:?}");
}

#[tokio::test]
async fn a_key_that_is_withdrawn_ends_what_it_signed_and_a_silent_server_ends_nothing() {
    let (server, start) = (Server::start().await, now());
    let (one, two) = (TokenIssuer::new("k1"), TokenIssuer::new("k2"));
    let desk = with_url(server.url());
    server.always(say(jwks(&[one.jwk()])));
    desk.refresh(start).await;
    let token = one.token(&claims(|_| {}));
    let attempt = Attempt {
        password: Some(Secret::new(token.as_bytes())),
        now: start,
        ..attempt()
    };
    let Outcome::Accepted(accepted) = desk.authenticate(&attempt).await else {
        panic!()
    };
    let credential = accepted.lease.credential;
    server.always(Play::Status(500));
    desk.refresh(later(start, 600)).await;
    assert_eq!(desk.standing(&credential, Use::Live), Standing::Good);
    server.always(say(jwks(&[two.jwk()])));
    desk.refresh(later(start, 1200)).await;
    assert!(matches!(
        desk.standing(&credential, Use::Live),
        Standing::Revoked(_)
    ));
    assert_eq!(desk.standing(&credential, Use::Stored), Standing::Good);
}

#[test]
fn keys_come_over_tls_or_from_this_machine() {
    for (url, good) in [
        ("https://id.example/jwks", true),
        ("http://127.0.0.1:1/", true),
        ("http://id.example/jwks", false),
        ("http://localhost/jwks", false),
    ] {
        let source = KeySource::JwksUrl(JwksUrl::new(Url::parse(url).unwrap()));
        let settings = Settings {
            issuers: vec![issuer_settings("id", source)],
            ..Settings::default()
        };
        assert_eq!(settings.check().is_ok(), good, "{url}");
    }
}

/// A desk whose listener has this CA and asks for lists at this address.
fn with_crl_url(ca: &Ca, url: &Url) -> Desk {
    let directory = tempfile::tempdir().unwrap();
    let file = common::file(directory.path(), "ca.pem", &ca.pem);
    let revocation = Revocation {
        urls: vec![url.clone()],
        ..common::revocation(vec![])
    };
    let (trust, _) = ClientTrust::load(&[file.into()], &revocation, day(0)).unwrap();
    let desk = desk(Settings::default());
    desk.set_trust("internet", Some(trust));
    desk
}

#[tokio::test]
async fn a_list_is_fetched_and_revokes_and_an_older_one_brings_nothing_back() {
    let (server, start) = (Server::start().await, now());
    let ca = Ca::root("ca");
    let shown = ca.client("pump", |_| {}).shown();
    let desk = with_crl_url(&ca, &server.url());
    let reason = async |now: Now| {
        let attempt = Attempt {
            now,
            ..with_certificate(&shown)
        };
        match desk.authenticate(&attempt).await {
            Outcome::Accepted(accepted) => Ok(accepted.lease.credential),
            Outcome::Refused(refusal) => Err(refusal.reason),
            other @ (Outcome::NotMine | Outcome::Continue(_)) => panic!("{other:?}"),
        }
    };
    // Closed until there is a list.
    assert!(reason(start).await.unwrap_err().contains("no CRL"));
    let list = |made: i64, serials: &[u64]| {
        let mut params = common::crl_params(serials, 30);
        params.this_update = common::at(made);
        say(params.signed_by(&ca.issuer).unwrap().pem().unwrap())
    };
    server.always(list(-3, &[]));
    assert_eq!(errors(&desk.refresh(start).await), [""; 0]);
    let credential = reason(start).await.unwrap();

    let generation = desk.generation();
    server.always(list(-2, &[7]));
    assert!(desk.refresh(later(start, 3599)).await.is_empty());
    assert_eq!(errors(&desk.refresh(later(start, 3600)).await), [""; 0]);
    assert!(desk.generation() > generation);
    assert!(
        reason(later(start, 3600))
            .await
            .unwrap_err()
            .contains("revoked")
    );
    assert!(matches!(
        desk.standing(&credential, Use::Live),
        Standing::Revoked(_)
    ));
    assert!(matches!(
        desk.standing(&credential, Use::Stored),
        Standing::Revoked(_)
    ));

    let foreign = Ca::root("ca").crl(&[], 30);
    for (at, (play, word)) in [
        (list(-3, &[]), "older"),
        (say(foreign), "not signed"),
        (say("x"), "neither a PEM nor a DER"),
        (Play::Status(500), "500"),
    ]
    .into_iter()
    .enumerate()
    {
        server.always(play);
        let now = later(start, 7200 * (at as u64 + 1));
        let errors = errors(&desk.refresh(now).await);
        assert!(
            errors.len() == 1 && errors[0].contains(word),
            "{word}: {errors:?}"
        );
        assert!(reason(now).await.unwrap_err().contains("revoked"), "{word}");
    }
    // Too old at last, and then refused for that.
    let late = later(start, 40 * 86_400);
    assert!(reason(late).await.is_err());
    // Another set of CAs keeps what was fetched for this one.
    let directory = tempfile::tempdir().unwrap();
    let file = common::file(directory.path(), "ca.pem", &ca.pem);
    let revocation = Revocation {
        urls: vec![server.url()],
        ..common::revocation(vec![])
    };
    let (trust, _) = ClientTrust::load(&[file.into()], &revocation, day(0)).unwrap();
    desk.set_trust("internet", Some(trust));
    assert!(reason(start).await.unwrap_err().contains("revoked"));
}
