//! Asking over HTTPS: which servers are believed, who shows a certificate, and what a server can do behind
//! one that is good.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]
#![expect(clippy::panic, reason = "a failed set-up is a failed test")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/server.rs"]
mod server;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{
    Ca, Leaf, TokenIssuer, at, attempt, claims, day, desk, file, introspection, issuer_settings,
    jwks, now, webhook, with_certificate,
};
use portcullis_auth::{
    ClientTrust, Connection, Desk, Ends, IntrospectionSettings, JwksUrl, KeySource, Revocation,
    Settings, Url, WebhookSettings,
};
use portcullis_core::hook::{Attempt, Authenticator, Outcome, RefusalKind};
use portcullis_core::secret::Secret;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use server::{Play, Server, say};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A certificate for a server of this name, good for years: here the real clock counts.
fn server_leaf(ca: &Ca, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
    ca.client("server", |params| {
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_after = at(3650);
        change(params);
    })
}

/// Puts TLS in front of a server; with a CA, clients must show a certificate of it.
async fn in_tls(inner: SocketAddr, leaf: &Leaf, client_ca: Option<&Ca>) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(ca.der.to_vec())).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let config = builder
        .with_single_cert(vec![CertificateDer::from(leaf.der.to_vec())], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let (Ok(mut tls), Ok(mut plain)) = (
                    acceptor.accept(stream).await,
                    TcpStream::connect(inner).await,
                ) {
                    let _ = tokio::io::copy_bidirectional(&mut tls, &mut plain).await;
                }
            });
        }
    });
    address
}

fn https(address: SocketAddr) -> Url {
    Url::parse(&format!("https://localhost:{}/x", address.port())).unwrap()
}

fn connection(ca: PathBuf) -> Connection {
    Connection {
        ca: Some(ca),
        timeout: Duration::from_secs(2),
        ..Connection::default()
    }
}

/// What comes of fetching keys; nothing where they were taken.
async fn fetch(url: Url, ca: PathBuf) -> Result<Desk, String> {
    let source = KeySource::JwksUrl(JwksUrl {
        connection: connection(ca),
        ..JwksUrl::new(url)
    });
    let desk = desk(Settings {
        issuers: vec![issuer_settings("id", source)],
        ..Settings::default()
    });
    let units = desk.refresh(now()).await;
    match units.into_iter().find_map(|unit| unit.error) {
        None => Ok(desk),
        Some(error) => Err(error.to_string()),
    }
}

async fn judge(desk: &Desk, attempt: &Attempt<'_>) -> Result<String, (RefusalKind, String)> {
    match desk.authenticate(attempt).await {
        Outcome::Accepted(accepted) => Ok(accepted.identity.principal.to_string()),
        Outcome::Refused(refusal) => Err((refusal.kind, refusal.reason)),
        other @ (Outcome::NotMine | Outcome::Continue(_)) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn only_the_pinned_ca_and_the_name_in_the_address_are_believed() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, other) = (Ca::root("ca"), Ca::root("other"));
    let pinned = file(directory.path(), "ca.pem", &ca.pem);
    let server = Server::start().await;
    let issuer = TokenIssuer::new("k1");
    server.always(say(jwks(&[issuer.jwk()])));
    let good = server_leaf(&ca, "localhost", |_| {});
    let address = in_tls(server.address, &good, None).await;
    let desk = fetch(https(address), pinned.clone()).await.unwrap();
    let token = issuer.token(&claims(|_| {}));
    let attempt = Attempt {
        password: Some(Secret::new(token.as_bytes())),
        ..attempt()
    };
    assert_eq!(judge(&desk, &attempt).await.unwrap(), "jwt:anna");
    let asked = server.asked().len();

    for (leaf, word) in [
        (server_leaf(&other, "localhost", |_| {}), "UnknownIssuer"),
        (
            server_leaf(&ca, "else.example", |_| {}),
            "not valid for name",
        ),
        (
            server_leaf(&ca, "localhost", |params| params.not_after = at(1)),
            "expired",
        ),
        (
            server_leaf(&ca, "localhost", |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }),
            "TLS",
        ),
    ] {
        let address = in_tls(server.address, &leaf, None).await;
        let why = fetch(https(address), pinned.clone()).await.err().unwrap();
        assert!(why.contains(word), "{word}: {why}");
    }
    // Plain HTTP behind an https address, and nobody at all.
    let why = fetch(https(server.address), pinned.clone()).await;
    assert!(why.err().unwrap().contains("TLS"));
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let why = fetch(https(address), pinned).await.err().unwrap();
    assert!(why.contains("cannot connect"), "{why}");
    assert_eq!(server.asked().len(), 0, "after {asked} good ones");
}

#[tokio::test]
async fn a_good_certificate_is_no_licence_to_be_slow_huge_or_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::root("ca");
    let pinned = file(directory.path(), "ca.pem", &ca.pem);
    let server = Server::start().await;
    let leaf = server_leaf(&ca, "localhost", |_| {});
    let address = in_tls(server.address, &leaf, None).await;
    for (play, word) in [
        (Play::Redirect, "redirects are not followed"),
        (Play::Status(503), "status 503"),
        (Play::Huge, "larger than"),
        // Where it breaks is a matter of luck.
        (Play::BreakOff, "localhost"),
        (Play::Slow, "no answer within 2s"),
        (say("{}"), "keys"),
        (say("<html>"), "JSON"),
    ] {
        server.always(play.clone());
        let why = fetch(https(address), pinned.clone()).await.err().unwrap();
        assert!(why.contains(word), "{play:?}: {why}");
    }
    let paths: Vec<_> = server.asked().into_iter().map(|asked| asked.path).collect();
    assert!(paths.iter().all(|path| path == "/x"), "{paths:?}");
}

#[tokio::test]
async fn who_asks_may_prove_itself_with_a_certificate() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = file(directory.path(), name, text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let (ca, brokers) = (Ca::root("ca"), Ca::root("brokers"));
    let pinned = path("ca.pem", &ca.pem);
    let own = brokers.client("portcullis", |params| params.not_after = at(3650));
    let strange = Ca::root("strange").client("portcullis", |params| params.not_after = at(3650));
    let own = (path("own.pem", &own.pem), path("own.key", &own.key_pem));
    let strange = (
        path("strange.pem", &strange.pem),
        path("strange.key", &strange.key_pem),
    );
    let server = Server::start().await;
    server.always(say(json!({"active": true, "sub": "anna"}).to_string()));
    let leaf = server_leaf(&ca, "localhost", |_| {});
    let address = in_tls(server.address, &leaf, Some(&brokers)).await;
    let secret = path("secret", "s\n");
    let attempt = Attempt {
        username: Some("oauth2"),
        password: Some(Secret::new(b"opaque")),
        ..attempt()
    };
    for (identity, expected) in [(Some(own), true), (Some(strange), false), (None, false)] {
        // Without a certificate there has to be a secret.
        let secret = identity.is_none().then_some(&*secret);
        let connection = Connection {
            identity,
            ..connection(pinned.clone())
        };
        let desk = desk(Settings {
            introspection: vec![IntrospectionSettings {
                connection,
                ..introspection("oauth", https(address), secret)
            }],
            ..Settings::default()
        });
        let judged = judge(&desk, &attempt).await;
        let asked = server.asked();
        if expected {
            assert_eq!(judged.unwrap(), "jwt:anna");
            // RFC 8705, section 2: the certificate is the credential.
            assert!(!asked[0].headers.contains_key("authorization"));
        } else {
            assert_eq!(judged.unwrap_err().0, RefusalKind::Unavailable);
            assert_eq!(asked.len(), 0, "the token does not leave before");
        }
    }
}

/// What the broker proves itself by: `own.pem`, for 300 days, `own.key` and `secret`; and `ca.pem`.
fn proofs() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let own = Ca::root("brokers").client("portcullis", |params| params.not_after = at(300));
    for (name, text) in [
        ("own.pem", &*own.pem),
        ("own.key", &own.key_pem),
        ("secret", "s\n"),
        ("ca.pem", &Ca::root("ca").pem),
    ] {
        file(directory.path(), name, text);
    }
    directory
}

/// Who asks servers, and shows the certificate of this directory or does not.
fn who_asks(url: &str, here: &Path, shows: bool) -> Settings {
    let url = Url::parse(url).unwrap();
    let connection = Connection {
        identity: shows.then(|| (here.join("own.pem"), here.join("own.key"))),
        ..connection(here.join("ca.pem"))
    };
    let keys = JwksUrl {
        connection: connection.clone(),
        ..JwksUrl::new(url.clone())
    };
    let mut issuer = issuer_settings("id", KeySource::JwksUrl(keys));
    issuer.allowed_roles = Some(vec![]);
    Settings {
        issuers: vec![issuer],
        introspection: vec![IntrospectionSettings {
            connection: connection.clone(),
            allowed_roles: Some(vec![]),
            ..introspection("oauth", url.clone(), Some(&here.join("secret")))
        }],
        webhooks: vec![WebhookSettings {
            connection,
            secret_file: Some(here.join("secret")),
            ..webhook("hook", url)
        }],
        ..Settings::default()
    }
}

#[test]
fn a_secret_of_the_brokers_that_others_can_read_is_a_warning() {
    use std::os::unix::fs::PermissionsExt as _;
    let proofs = proofs();
    let settings = who_asks("https://localhost/x", proofs.path(), true);
    for (mode, keys, secrets) in [(0o600, 0, 0), (0o640, 0, 0), (0o644, 3, 2)] {
        for name in ["own.key", "secret"] {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(proofs.path().join(name), mode).unwrap();
        }
        let (_, warnings) = Desk::open(settings.clone()).unwrap();
        let named = |name: &str| warnings.iter().filter(|text| text.contains(name)).count();
        assert_eq!((named("own.key:"), named("secret:")), (keys, secrets));
        assert_eq!(warnings.len(), keys + secrets, "{warnings:?}");
    }
}

#[test]
fn a_certificate_that_nobody_would_see_is_a_warning() {
    let proofs = proofs();
    let with = who_asks("http://127.0.0.1:1/x", proofs.path(), true);
    let without = who_asks("http://127.0.0.1:1/x", proofs.path(), false);
    let warnings = |settings| Desk::open(settings).unwrap().1;
    let none = warnings(without.clone());
    assert!(!none.concat().contains("not https"), "{none:?}");
    let change = |change: &dyn Fn(&mut Settings)| {
        let mut settings = without.clone();
        change(&mut settings);
        settings
    };
    for (settings, of) in [
        (
            change(&|it| it.issuers.clone_from(&with.issuers)),
            "auth.jwt",
        ),
        (
            change(&|it| it.introspection.clone_from(&with.introspection)),
            "auth.introspection",
        ),
        (
            change(&|it| it.webhooks.clone_from(&with.webhooks)),
            "auth.webhook",
        ),
    ] {
        let unseen: Vec<_> = warnings(settings)
            .into_iter()
            .filter(|text| text.contains("not https"))
            .collect();
        assert_eq!(unseen.len(), 1, "{unseen:?}");
        assert!(unseen[0].starts_with(of), "{unseen:?}");
    }
}

#[test]
fn a_certificate_that_the_broker_shows_is_warned_of_as_it_nears_its_end() {
    let proofs = proofs();
    let desk = desk(who_asks("https://localhost/x", proofs.path(), true));
    let parts = [
        "issuer \"id\"",
        "introspection \"oauth\"",
        "webhook \"hook\"",
    ];
    let expiries = desk.expiries();
    for (part, expiry) in parts.iter().zip(&expiries) {
        let named = format!("{} {:?}", expiry.part.as_str(), expiry.name);
        assert_eq!(named, *part);
        let Ends { what, name, .. } = &expiry.ends;
        assert_eq!((what.as_str(), &**name), ("client", "CN=portcullis"));
        assert_eq!(expiry.ends.days(day(290)), 10);
    }
    let said = |days| desk.reminders(day(days));
    assert_eq!(said(269), [""; 0]);
    let shows = "the certificate that the broker shows to it \"CN=portcullis\"";
    let each = |what: &str| parts.map(|part| format!("{part}: {shows} {what}"));
    assert_eq!(said(270), each("ends in 30 days; renew it"));
    assert_eq!(said(271), [""; 0]);
    let over = "HAS ENDED: it answers the broker no more, and whom it should judge is refused; put a \
                new one there";
    assert_eq!(said(300), each(over));
}

#[tokio::test]
async fn a_list_over_https_is_taken_from_a_server_of_the_pinned_ca_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, other) = (Ca::root("ca"), Ca::root("other"));
    let pinned = file(directory.path(), "ca.pem", &ca.pem);
    let server = Server::start().await;
    server.always(say(ca.crl(&[], 30)));
    let shown = ca.client("pump", |_| {}).shown();
    for (issuer, good) in [(&ca, true), (&other, false)] {
        let leaf = server_leaf(issuer, "localhost", |_| {});
        let address = in_tls(server.address, &leaf, None).await;
        let revocation = Revocation {
            urls: vec![https(address)],
            tls_ca: Some(pinned.clone()),
            ..common::revocation(vec![])
        };
        let cas = [pinned.clone().into()];
        let (trust, _) = ClientTrust::load(&cas, &revocation, day(0)).unwrap();
        let desk = desk(Settings::default());
        desk.set_trust("internet", Some(trust));
        let units = desk.refresh(now()).await;
        let errors: Vec<_> = units
            .iter()
            .filter_map(|unit| unit.error.as_ref())
            .collect();
        assert_eq!(errors.is_empty(), good, "{errors:?}");
        let judged = judge(&desk, &with_certificate(&shown)).await;
        assert_eq!(judged.is_ok(), good, "{judged:?}");
    }
}
