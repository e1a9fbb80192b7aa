//! `KIND:SOURCE/NAME` is for the source alone: names that look like it are refused where a source is
//! called so, on any listener, and end when one is.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/server.rs"]
mod server;

use common::{
    Ca, TokenIssuer, claims, desk, file, introspection, issuer_settings, judge, jwks, named_trust,
    webhook, with_certificate, with_password,
};
use portcullis_auth::{
    Desk, IntrospectionSettings, KeySource, Settings, WebhookSettings, password,
};
use portcullis_core::hook::{Attempt, Authenticator, Credential, Standing, Use};
use portcullis_core::secret::Secret;
use serde_json::json;
use server::{Server, say};

fn stands(desk: &Desk, credential: &Credential) -> bool {
    let stands = |purpose| desk.standing(credential, purpose) == Standing::Good;
    // What an impostor has left behind is nobody's either.
    assert_eq!(stands(Use::Live), stands(Use::Stored), "{credential:?}");
    stands(Use::Live)
}

#[tokio::test]
async fn a_ca_that_gets_a_name_on_any_listener_ends_who_is_called_as_if_by_it() {
    let (plant, plain) = (Ca::root("plant"), Ca::root("plain"));
    let desk = desk(Settings::default());
    let unnamed = named_trust(&[(None, &plain.pem)]).unwrap();
    desk.set_trust("internet", Some(unnamed));
    let comes = async |name: &str| {
        let shown = plain.client(name, |_| {}).shown();
        judge(&desk, &with_certificate(&shown)).await
    };
    let forged = comes("plant/pump").await.unwrap().lease.credential;
    let mut others = Vec::new();
    for name in ["works/pump", "plant", "pump", "Plant/pump like="] {
        others.push(comes(name).await.unwrap().lease.credential);
    }
    assert!(stands(&desk, &forged));
    let before = desk.generation();
    let named = named_trust(&[(Some("plant"), &plant.pem)]).unwrap();
    desk.set_trust("other", Some(named));
    assert!(desk.generation() > before, "core asks again");
    assert!(!stands(&desk, &forged));
    comes("plant/pump").await.unwrap_err();
    for other in &others {
        assert!(stands(&desk, other), "{other:?}");
    }
    desk.set_trust("other", None);
    assert!(stands(&desk, &forged));
}

/// The only source of tokens is not named in its principals. When another one comes, both are.
#[tokio::test]
async fn a_second_source_of_tokens_ends_who_is_called_as_if_by_it() {
    let (server, directory) = (Server::start().await, tempfile::tempdir().unwrap());
    let issuer = TokenIssuer::new("k1");
    let keys = file(directory.path(), "jwks.json", jwks(&[issuer.jwk()]));
    let mut id = issuer_settings("id", KeySource::JwksFile(keys));
    id.allowed_roles = Some(vec![]);
    let secret = file(directory.path(), "secret", "secret");
    let (by_issuer, by_server) = (
        Settings {
            issuers: vec![id],
            ..Settings::default()
        },
        Settings {
            introspection: vec![IntrospectionSettings {
                allowed_roles: Some(vec![]),
                ..introspection("oauth", server.url(), Some(&secret))
            }],
            ..Settings::default()
        },
    );
    let both = Settings {
        issuers: by_issuer.issuers.clone(),
        ..by_server.clone()
    };
    for (settings, other) in [(&by_issuer, "oauth"), (&by_server, "id")] {
        let desk = desk(settings.clone());
        let comes = async |name: &str| {
            let said = json!({"active": true, "sub": name});
            server.always(say(said.to_string()));
            let token = issuer.token(&claims(|claims| {
                drop(claims.insert("sub".into(), name.into()));
            }));
            let attempt = with_password(Some("oauth2"), &token);
            judge(&desk, &attempt).await.unwrap().lease.credential
        };
        let forged = comes(&format!("{other}/anna")).await;
        let honest = [comes("anna").await, comes("else/anna").await];
        assert!(stands(&desk, &forged));
        desk.reload(both.clone());
        assert!(!stands(&desk, &forged), "{other}");
        for credential in &honest {
            assert!(stands(&desk, credential), "{credential:?}");
        }
    }
}

#[tokio::test]
async fn a_webhook_for_passwords_ends_who_is_called_as_if_by_it() {
    let (server, directory) = (Server::start().await, tempfile::tempdir().unwrap());
    server.always(say(r#"{"result": "allow"}"#));
    let users = directory.path().join("users.passwd");
    for user in ["anna", "hook/anna"] {
        password::set(&users, user, Secret::new(b"secret")).unwrap();
    }
    let by_file = Settings {
        password_file: Some(users),
        ..Settings::default()
    };
    let by_hook = Settings {
        webhooks: vec![webhook("old", server.url())],
        ..Settings::default()
    };
    for settings in [by_file, by_hook] {
        let desk = desk(settings.clone());
        let comes = async |user| {
            let attempt = Attempt {
                peer: Some(([192, 0, 2, 1], 1).into()),
                ..with_password(Some(user), "secret")
            };
            judge(&desk, &attempt).await
        };
        let forged = comes("hook/anna").await.unwrap().lease.credential;
        let honest = comes("anna").await.unwrap().lease.credential;
        let mut both = settings.clone();
        both.webhooks.push(WebhookSettings {
            allowed_roles: Some(vec![]),
            ..webhook("hook", server.url())
        });
        desk.reload(both);
        assert!(!stands(&desk, &forged));
        assert!(stands(&desk, &honest));
        if settings.password_file.is_some() {
            let refusal = comes("hook/anna").await.unwrap_err();
            assert!(refusal.reason.contains("hook"), "{}", refusal.reason);
        }
    }
}
