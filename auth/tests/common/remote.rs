//! A desk that depends on one answer over HTTP, and somebody who comes to it.

use std::time::Duration;

use portcullis_auth::{
    ClientTrust, Connection, Desk, IntrospectionSettings, JwksUrl, KeySource, Revocation, Settings,
    Url, WebhookSettings,
};
use portcullis_core::clock::Now;
use portcullis_core::hook::{Attempt, Authenticator, Outcome, RefusalKind};
use portcullis_core::secret::Secret;

use crate::common::{
    self, Ca, TokenIssuer, attempt, claims, day, desk, file, introspection, issuer_settings, jwks,
    webhook, with_certificate, with_password,
};
use crate::server::{Play, Server, say};

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Keys,
    Introspection,
    List,
    Webhook,
}

impl Asked {
    pub(crate) const ALL: [Self; 4] = [Self::Keys, Self::Introspection, Self::List, Self::Webhook];

    /// Whether it is asked in the background, and what it said is remembered.
    fn is_remembered(self) -> bool {
        matches!(self, Self::Keys | Self::List)
    }
}

struct Remote {
    asked: Asked,
    desk: Desk,
    issuer: TokenIssuer,
    ca: Ca,
    _directory: tempfile::TempDir,
}

impl Remote {
    fn new(asked: Asked, url: &Url) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = Ca::root("ca");
        let connection = Connection {
            timeout: Duration::from_secs(2),
            ..Connection::default()
        };
        let mut settings = Settings::default();
        match asked {
            Asked::Keys => {
                let source = KeySource::JwksUrl(JwksUrl {
                    connection,
                    ..JwksUrl::new(url.clone())
                });
                settings.issuers = vec![issuer_settings("id", source)];
            }
            Asked::Introspection => {
                let secret = file(directory.path(), "oauth.secret", "secret");
                settings.introspection = vec![IntrospectionSettings {
                    connection,
                    username: None,
                    ..introspection("oauth", url.clone(), Some(&secret))
                }];
            }
            Asked::Webhook => {
                settings.webhooks = vec![WebhookSettings {
                    connection,
                    ..webhook("hook", url.clone())
                }];
            }
            Asked::List => {}
        }
        let desk = desk(settings);
        if asked == Asked::List {
            let revocation = Revocation {
                urls: vec![url.clone()],
                ..common::revocation(vec![])
            };
            let ca = file(directory.path(), "ca.pem", &ca.pem);
            let (trust, _) = ClientTrust::load(&[ca.into()], &revocation, day(0)).unwrap();
            desk.set_trust("internet", Some(trust));
        }
        Self {
            asked,
            desk,
            issuer: TokenIssuer::new("k1"),
            ca,
            _directory: directory,
        }
    }

    /// The right answer.
    fn right(&self) -> Play {
        match self.asked {
            Asked::Keys => say(jwks(&[self.issuer.jwk()])),
            Asked::Introspection => say(r#"{"active": true, "sub": "anna"}"#),
            Asked::Webhook => say(r#"{"result": "allow", "principal": "anna"}"#),
            Asked::List => say(self.ca.crl(&[], 30)),
        }
    }

    /// Asks in the background, and says what went wrong.
    async fn refresh(&self, now: Now) -> Option<String> {
        let units = self.desk.refresh(now).await;
        let mut errors = units.into_iter().filter_map(|unit| unit.error);
        errors.next().map(|error| error.to_string())
    }

    /// Somebody comes; the `visit` makes it another credential each time.
    async fn comes(&self, visit: u64, now: Now) -> Result<String, (RefusalKind, String)> {
        let token = self.issuer.token(&claims(|claims| {
            claims.insert("exp".into(), (common::START + 1_000_000).into());
            claims.insert("visit".into(), visit.into());
        }));
        let shown = self.ca.client("pump", |_| {}).shown();
        let attempt = match self.asked {
            Asked::Keys | Asked::Introspection => with_password(Some("x"), &token),
            Asked::Webhook => Attempt {
                username: Some("anna"),
                password: Some(Secret::new(b"secret")),
                ..attempt()
            },
            Asked::List => with_certificate(&shown),
        };
        match self.desk.authenticate(&Attempt { now, ..attempt }).await {
            Outcome::Accepted(accepted) => Ok(accepted.identity.principal.to_string()),
            Outcome::Refused(refusal) => Err((refusal.kind, refusal.reason)),
            Outcome::NotMine | Outcome::Continue(_) => panic!("{:?}", self.asked),
        }
    }

    /// Why nobody is let in while nothing has been heard of the server.
    async fn closed(&self, now: Now) -> String {
        let fetched = self.refresh(now).await;
        assert_eq!(fetched.is_some(), self.asked.is_remembered());
        let (kind, reason) = self.comes(0, now).await.unwrap_err();
        // Without a list nothing is known of the certificate, whoever is to blame.
        let expected = match self.asked {
            Asked::List => RefusalKind::BadCredential,
            Asked::Keys | Asked::Introspection | Asked::Webhook => RefusalKind::Unavailable,
        };
        assert_eq!(kind, expected, "{reason}");
        fetched.unwrap_or(reason)
    }
}

fn later(now: Now, seconds: u64) -> Now {
    let span = Duration::from_secs(seconds);
    Now {
        mono: now.mono + span,
        wall: now.wall + span,
    }
}

/// Why nobody gets in while a server does this.
pub(crate) async fn with_server(asked: Asked, play: &Play) -> String {
    let (server, start) = (Server::start().await, common::now());
    let remote = Remote::new(asked, &server.url());
    server.always(play.clone());
    // Nobody waits for what never comes.
    let never = matches!(play, Play::Slow);
    if never {
        tokio::time::pause();
    }
    let why = remote.closed(start).await;
    if never {
        tokio::time::resume();
    }
    // What was heard before goes on to count, as far as anything is remembered at all.
    let (good, bad) = (later(start, 4000), later(start, 8000));
    server.always(remote.right());
    assert_eq!(remote.refresh(good).await, None, "{asked:?}");
    let name = remote.comes(1, good).await.unwrap();
    server.always(play.clone());
    if never {
        tokio::time::pause();
    }
    let remembered = asked.is_remembered();
    let failed = remote.refresh(bad).await.is_some();
    assert_eq!(failed, remembered, "{asked:?} {play:?}");
    let after = remote.comes(2, bad).await.ok();
    assert_eq!(after, remembered.then_some(name), "{asked:?} {play:?}");
    let paths = server.asked();
    assert!(
        paths.iter().all(|asked| asked.path == "/x?y=z"),
        "no redirect is followed"
    );
    without_address(&why, &server.url())
}

/// Why nobody gets in while nobody listens there.
pub(crate) async fn without_server(asked: Asked) -> String {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let url = Url::parse(&format!("http://{address}/x?y=z")).unwrap();
    let why = Remote::new(asked, &url).closed(common::now()).await;
    without_address(&why, &url)
}

/// What goes for every server.
fn without_address(why: &str, url: &Url) -> String {
    why.replace(&format!("{url}: "), "")
        .replace(&format!("{url}:1: "), "")
        .replace("; see to it that the server answers", "")
}
