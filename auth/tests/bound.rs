//! Tokens that came with a certificate, because they are bound to it (RFC 8705) or because both are
//! required: they end with it.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]
#![expect(clippy::panic, reason = "a failed set-up is a failed test")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/server.rs"]
mod server;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{
    Ca, START, TokenIssuer, attempt, claims, day, file, introspection, issuer_settings, judge,
    jwks, trust,
};
use portcullis_auth::{
    ClientTrust, Desk, IntrospectionSettings, KeySource, Method, Revocation, Settings,
};
use portcullis_core::hook::{
    Accepted, Attempt, Authenticator, ClientCertificate, Outcome, Refusal, Standing, Use,
};
use portcullis_core::secret::Secret;
use serde_json::json;
use server::{Server, say};

/// How token and certificate belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The token names the certificate.
    Bound,
    /// The same, as an introspection server says it.
    Introspected,
    /// The broker asks for both.
    Required,
    /// Not at all.
    Free,
}

const WAYS: [Way; 3] = [Way::Bound, Way::Introspected, Way::Required];

struct Setting {
    directory: tempfile::TempDir,
    ca: Ca,
    shown: ClientCertificate,
    fingerprint: String,
    token: String,
    settings: Settings,
    desk: Desk,
}

impl Setting {
    /// A client whose certificate counts for twenty minutes and whose token for an hour.
    async fn new(way: Way) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = Ca::root("ca");
        let leaf = ca.client("pump", |params| {
            params.not_after = common::at(0) + Duration::from_mins(20);
        });
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &leaf.der);
        let cnf = json!({"x5t#S256": URL_SAFE_NO_PAD.encode(digest)});
        let mut fingerprint = String::new();
        for byte in digest.as_ref() {
            write!(fingerprint, "{byte:02x}").unwrap();
        }
        let issuer = TokenIssuer::new("k1");
        let token = issuer.token(&claims(|claims| {
            claims.insert("jti".into(), "1".into());
            if way == Way::Bound {
                claims.insert("cnf".into(), cnf.clone());
            }
        }));
        let mut settings = Settings::default();
        if way == Way::Introspected {
            let server = Server::start().await;
            let said = json!({"active": true, "sub": "anna", "exp": START + 3600, "cnf": cnf});
            server.always(say(said.to_string()));
            let secret = file(directory.path(), "oauth.secret", "secret");
            settings.introspection = vec![IntrospectionSettings {
                username: None,
                ..introspection("oauth", server.url(), Some(&secret))
            }];
        } else {
            let keys = file(directory.path(), "jwks.json", jwks(&[issuer.jwk()]));
            let mut id = issuer_settings("id", KeySource::JwksFile(keys));
            id.one_connection_per_jti = true;
            settings.issuers = vec![id];
        }
        if way == Way::Required {
            settings.require = vec![Method::Certificate, Method::Jwt];
        }
        let desk = common::desk(settings.clone());
        desk.set_trust("internet", Some(trust(&[&ca.pem], &[]).unwrap()));
        Self {
            directory,
            ca,
            shown: leaf.shown(),
            fingerprint,
            token,
            settings,
            desk,
        }
    }

    fn attempt<'a>(&'a self, certificate: Option<&'a ClientCertificate>) -> Attempt<'a> {
        Attempt {
            username: Some("x"),
            password: Some(Secret::new(self.token.as_bytes())),
            certificate,
            ..attempt()
        }
    }

    async fn comes(&self) -> Result<Accepted, Refusal> {
        judge(&self.desk, &self.attempt(Some(&self.shown))).await
    }

    /// The listener's CA, and a list of the certificates that are denied there.
    fn denying(&self) -> Arc<ClientTrust> {
        let directory = self.directory.path();
        let revocation = Revocation {
            deny: Some(file(directory, "here.txt", &self.fingerprint)),
            ..common::revocation(vec![])
        };
        let ca = file(directory, "ca.pem", &self.ca.pem);
        let (trust, _) = ClientTrust::load(&[ca.into()], &revocation, day(0)).unwrap();
        trust
    }

    /// Takes the certificate away in one of several ways.
    fn end(&self, by: &str) {
        let set = |trust| self.desk.set_trust("internet", trust);
        match by {
            "revoked" => {
                let list = self.ca.crl(&[7], 30);
                set(Some(trust(&[&self.ca.pem], &[&list]).unwrap()));
            }
            "denied" => {
                let list = file(self.directory.path(), "all.txt", &self.fingerprint);
                let units = self.desk.reload(Settings {
                    deny_fingerprints: Some(list),
                    ..self.settings.clone()
                });
                assert!(units.iter().all(|unit| unit.error.is_none()), "{units:?}");
            }
            "denied here" => set(Some(self.denying())),
            "of another CA" => set(Some(trust(&[&Ca::root("new").pem], &[]).unwrap())),
            "of no CA" => set(None),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_token_ends_with_the_certificate_that_it_came_with() {
    for way in WAYS {
        for (by, withheld) in [
            ("revoked", true),
            ("denied", true),
            ("denied here", true),
            ("of another CA", false),
            ("of no CA", false),
        ] {
            let setting = Setting::new(way).await;
            let accepted = setting.comes().await.unwrap();
            assert_eq!(accepted.identity.principal.as_str(), "jwt:anna");
            let end = Some(day(0) + Duration::from_mins(20));
            assert_eq!(accepted.lease.until, end, "{way:?}: notAfter comes first");
            let credential = accepted.lease.credential;
            let standing = |purpose| setting.desk.standing(&credential, purpose);
            for purpose in [Use::Live, Use::Stored] {
                assert_eq!(standing(purpose), Standing::Good);
            }
            let before = setting.desk.generation();
            setting.end(by);
            assert!(setting.desk.generation() > before, "core asks again");
            let revoked = |purpose| matches!(standing(purpose), Standing::Revoked(_));
            assert!(revoked(Use::Live), "{way:?}, {by}");
            assert_eq!(revoked(Use::Stored), withheld, "{way:?}, {by}");
            let refusal = setting.comes().await.unwrap_err();
            let claimed = refusal.claimed.map(|claimed| claimed.to_string());
            assert_eq!(claimed.as_deref(), Some("jwt:anna"), "{}", refusal.reason);
        }
    }
}

#[tokio::test]
async fn a_token_that_asks_for_no_certificate_does_not_end_with_one() {
    let setting = Setting::new(Way::Free).await;
    let accepted = setting.comes().await.unwrap();
    assert_eq!(
        accepted.lease.until,
        Some(day(0) + Duration::from_secs(3610))
    );
    for by in ["denied", "denied here", "revoked", "of no CA"] {
        setting.end(by);
        let standing = setting.desk.standing(&accepted.lease.credential, Use::Live);
        assert_eq!(standing, Standing::Good, "{by}");
    }
}

/// Who has stolen a token but not what it needs does not end its owner's connection by trying.
#[tokio::test]
async fn a_token_that_is_refused_ends_no_earlier_use_of_it() {
    for way in [Way::Bound, Way::Required] {
        let setting = Setting::new(way).await;
        let owner = setting.comes().await.unwrap().lease.credential;
        let standing = || setting.desk.standing(&owner, Use::Live);
        judge(&setting.desk, &setting.attempt(None))
            .await
            .unwrap_err();
        let message = format!("n,a=otto,\x01auth=Bearer {}\x01\x01", setting.token);
        let as_another = Attempt {
            password: None,
            enhanced: Some(("OAUTHBEARER", Some(Secret::new(message.as_bytes())))),
            ..setting.attempt(Some(&setting.shown))
        };
        let outcome = setting.desk.authenticate(&as_another).await;
        assert!(matches!(outcome, Outcome::Continue(_)), "{outcome:?}");
        assert_eq!(standing(), Standing::Good, "{way:?}");
        setting.comes().await.unwrap();
        assert!(matches!(standing(), Standing::Revoked(_)), "{way:?}");
    }
}
