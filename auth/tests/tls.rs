//! TLS handshakes in memory, and what a listener's files may be.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]
#![expect(clippy::panic, reason = "a failed set-up is a failed test")]

mod common;
#[path = "common/handshake.rs"]
mod memory;

use std::path::Path;
use std::sync::Arc;

use common::{Ca, Leaf, at, client_params, day, file, sha256_hex};
use memory::{Day, at_day, handshake, handshake_with};
use portcullis_auth::tls::{
    ClientAuth, Loaded, SniSettings, TlsSettings, client_certificate, load,
};
use portcullis_auth::{Ends, Settings, What};
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, KeyPair, PublicKeyData as _, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::{
    AlertDescription, ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig,
    SupportedProtocolVersion,
};

struct Setting {
    directory: tempfile::TempDir,
    ca: Ca,
    settings: TlsSettings,
}

impl Setting {
    fn new(client_auth: ClientAuth) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = Ca::root("ca");
        let server = server(&ca, |_| {});
        let settings = TlsSettings {
            certificate: file(directory.path(), "server.pem", &server.pem),
            key: file(directory.path(), "server.key", &server.key_pem),
            client_ca: vec![file(directory.path(), "ca.pem", &ca.pem).into()],
            client_auth,
            revocation: common::revocation(vec![]),
            sni: vec![],
            alpn: vec![b"mqtt".to_vec()],
        };
        private(&settings.key);
        Self {
            directory,
            ca,
            settings,
        }
    }

    fn load(&self) -> Loaded {
        load(&self.settings, day(0)).unwrap_or_else(|error| panic!("{error}"))
    }

    fn server(&self) -> Arc<ServerConfig> {
        at_day(&self.load(), 0)
    }

    /// The configuration of a client that trusts the CA.
    fn client(
        &self,
        leaf: Option<&Leaf>,
        version: &'static SupportedProtocolVersion,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(self.ca.der.to_vec()))
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_details(provider, Arc::new(Day(0)))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        match leaf {
            None => builder.with_no_client_auth(),
            Some(leaf) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from(leaf.der.to_vec())],
                    PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap(),
                )
                .unwrap(),
        }
    }
}

fn server(ca: &Ca, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
    ca.client("server", |params| {
        params.subject_alt_names = vec![SanType::DnsName("localhost".try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(params);
    })
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

#[test]
fn a_good_certificate_passes_in_both_versions_and_its_chain_is_handed_on() {
    let setting = Setting::new(ClientAuth::Required);
    let leaf = setting.ca.client("pump", |_| {});
    for version in VERSIONS {
        let client = Arc::new(setting.client(Some(&leaf), version));
        let (server, _) = handshake(&setting.server(), &client).unwrap();
        let shown = client_certificate(&server).unwrap();
        assert_eq!(&*shown.chain[0], &*leaf.der);
        if server.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
            let group = server.negotiated_key_exchange_group().unwrap();
            assert_eq!(format!("{:?}", group.name()), "X25519MLKEM768");
        }
    }
}

fn each_refusal_has_its_alert(setting: &Setting, version: &'static SupportedProtocolVersion) {
    let leaf = |change: &dyn Fn(&mut CertificateParams)| setting.ca.client("pump", change);
    let not_after = |days| move |params: &mut CertificateParams| params.not_after = at(days);
    let stranger = Ca::root("other").client("pump", |_| {});
    let double = Ca::root("ca").client("pump", |_| {});
    let revoked = leaf(&|params| params.serial_number = Some(SerialNumber::from(5)));
    let mut revoking = setting.settings.clone();
    let crl = setting.ca.crl(&[5], 30);
    revoking.revocation.files = vec![file(setting.directory.path(), "ca.crl", crl)];
    let mut stale = setting.settings.clone();
    let crl = setting.ca.crl(&[], -10);
    stale.revocation.files = vec![file(setting.directory.path(), "old.crl", crl)];
    let good = leaf(&|_| {});
    let mut denying = setting.settings.clone();
    let fingerprint = file(
        setting.directory.path(),
        "denied.txt",
        sha256_hex(&good.der),
    );
    denying.revocation.deny = Some(fingerprint);
    let plain = &setting.settings;
    for (settings, leaf, word, alert) in [
        (
            plain,
            stranger,
            "no configured client CA",
            AlertDescription::UnknownCA,
        ),
        (plain, double, "not valid", AlertDescription::BadCertificate),
        (
            plain,
            leaf(&not_after(-1)),
            "expired",
            AlertDescription::CertificateExpired,
        ),
        (
            plain,
            leaf(&|params| params.not_before = at(1)),
            "not valid before",
            AlertDescription::CertificateExpired,
        ),
        (
            plain,
            leaf(&|params| params.extended_key_usages.clear()),
            "no extended key usage",
            AlertDescription::UnsupportedCertificate,
        ),
        (
            plain,
            leaf(&|params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            "lacks clientAuth",
            AlertDescription::UnsupportedCertificate,
        ),
        (
            &revoking,
            revoked,
            "revoked",
            AlertDescription::CertificateRevoked,
        ),
        (
            &stale,
            leaf(&|_| {}),
            "crl-grace",
            AlertDescription::UnknownCA,
        ),
        (
            &denying,
            good,
            "deny-fingerprints",
            AlertDescription::CertificateRevoked,
        ),
    ] {
        let loaded = load(settings, day(0)).unwrap_or_else(|error| panic!("{error}"));
        let client = Arc::new(setting.client(Some(&leaf), version));
        let failed = handshake(&at_day(&loaded, 0), &client).unwrap_err();
        assert!(failed.why.contains(word), "{failed:?}");
        assert_eq!(failed.alert, Some(alert), "{}", failed.why);
    }
}

#[test]
fn without_a_good_certificate_the_handshake_fails_and_the_reason_is_told_to_the_operator() {
    let required = Setting::new(ClientAuth::Required);
    let optional = Setting::new(ClientAuth::Optional);
    for version in VERSIONS {
        for setting in [&required, &optional] {
            each_refusal_has_its_alert(setting, version);
        }
        let client = Arc::new(required.client(None, version));
        assert!(handshake(&required.server(), &client).is_err());
        let client = Arc::new(optional.client(None, version));
        let (server, _) = handshake(&optional.server(), &client).unwrap();
        assert_eq!(client_certificate(&server), None);
    }
}

#[test]
fn a_revoked_certificate_fails_in_the_handshake() {
    let mut setting = Setting::new(ClientAuth::Required);
    let crl = setting.ca.crl(&[5], 30);
    setting.settings.revocation.files = vec![file(setting.directory.path(), "ca.crl", crl)];
    let server = setting.server();
    assert_eq!(setting.load().trust.unwrap().revoked(), Some(1));
    for (serial, good) in [(5, false), (6, true)] {
        let leaf = setting.ca.client("pump", |params| {
            params.serial_number = Some(SerialNumber::from(serial));
        });
        let client = Arc::new(setting.client(Some(&leaf), &rustls::version::TLS13));
        assert_eq!(handshake(&server, &client).is_ok(), good, "{serial}");
    }
}

#[test]
fn nothing_is_resumed_where_certificates_are_shown() {
    for client_auth in [ClientAuth::Required, ClientAuth::Optional] {
        let setting = Setting::new(client_auth);
        let leaf = setting.ca.client("pump", |_| {});
        let server = setting.server();
        for version in VERSIONS {
            let client = Arc::new(setting.client(Some(&leaf), version));
            for _ in 0..3 {
                let (server, _) = handshake(&server, &client).unwrap();
                assert_ne!(server.handshake_kind(), Some(HandshakeKind::Resumed));
            }
        }
    }
}

#[test]
fn alpn_is_ours_or_none() {
    let setting = Setting::new(ClientAuth::None);
    for (offered, good) in [
        (&[][..], true),
        (&[&b"mqtt"[..]], true),
        (&[b"x", b"mqtt"], true),
        (&[b"http/1.1"], false),
    ] {
        let mut client = setting.client(None, &rustls::version::TLS13);
        client.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let result = handshake(&setting.server(), &Arc::new(client));
        assert_eq!(result.is_ok(), good, "{offered:?}");
    }
}

#[test]
fn each_broken_file_is_named_with_a_remedy() {
    let setting = Setting::new(ClientAuth::Required);
    let directory = setting.directory.path();
    let write = |name: &str, leaf: &Leaf| file(directory, name, &leaf.pem);
    let with = |change: &dyn Fn(&mut TlsSettings)| {
        let mut settings = setting.settings.clone();
        change(&mut settings);
        load(&settings, day(0)).err().unwrap().to_string()
    };
    let expired = write(
        "expired.pem",
        &server(&setting.ca, |params| params.not_after = at(-1)),
    );
    let early = write(
        "early.pem",
        &server(&setting.ca, |params| params.not_before = at(1)),
    );
    let garbage = file(directory, "garbage", "garbage");
    let other_key = file(directory, "other.key", server(&setting.ca, |_| {}).key_pem);
    for (error, words) in [
        (
            with(&|s| s.certificate = "/nowhere.pem".into()),
            ["/nowhere.pem", "no such file"],
        ),
        (
            with(&|s| s.key = "/nowhere.key".into()),
            ["/nowhere.key", "no such file"],
        ),
        (
            with(&|s| s.certificate.clone_from(&garbage)),
            ["garbage", "no certificate"],
        ),
        (
            with(&|s| s.key.clone_from(&garbage)),
            ["garbage", "no private key"],
        ),
        (
            with(&|s| s.key.clone_from(&s.certificate)),
            ["server.pem", "no private key"],
        ),
        (
            with(&|s| s.certificate.clone_from(&s.client_ca[0].file)),
            ["ca.pem", "CA certificate"],
        ),
        (
            with(&|s| s.key.clone_from(&other_key)),
            ["other.key", "server.pem"],
        ),
        (
            with(&|s| s.certificate.clone_from(&expired)),
            ["expired.pem", "expired on"],
        ),
        (
            with(&|s| s.certificate.clone_from(&early)),
            ["early.pem", "not valid before"],
        ),
        (with(&|s| s.client_ca.clear()), ["client-auth", "client-ca"]),
        (
            with(&|s| s.revocation.files = vec![garbage.clone()]),
            ["garbage", "PEM"],
        ),
        (
            with(&|s| s.client_ca = vec![directory.to_owned().into()]),
            ["directory", "name a file"],
        ),
    ] {
        for word in words {
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}

#[test]
fn a_key_that_others_can_read_is_a_warning() {
    use std::os::unix::fs::PermissionsExt as _;
    let setting = Setting::new(ClientAuth::Required);
    assert_eq!(setting.load().warnings, Vec::<String>::new());
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&setting.settings.key, open).unwrap();
    let warnings = setting.load().warnings;
    assert!(
        warnings[0].contains("server.key") && warnings[0].contains("0644"),
        "{warnings:?}"
    );
}

#[test]
fn the_days_that_are_left_can_be_asked_and_what_is_near_its_end_is_said_once() {
    let setting = Setting::new(ClientAuth::Required);
    let loaded = setting.load();
    let ends = |what, name: &str, since, days| Ends {
        what,
        name: name.to_owned(),
        since: day(since),
        until: day(days),
    };
    assert_eq!(loaded.ends, [ends(What::Server, "CN=server", -30, 365)]);
    let ca = ends(What::ClientCa, "CN=ca", -365, 3650);
    assert_eq!(loaded.trust.unwrap().ends(), std::slice::from_ref(&ca));
    assert_eq!((ca.days(day(3649)), ca.days(day(4000))), (1, 0));
    // A list says when the next one is due.
    let mut with_list = setting;
    let crl = with_list.ca.crl(&[], 30);
    with_list.settings.revocation.files = vec![file(with_list.directory.path(), "ca.crl", crl)];
    let ends_of = with_list.load().trust.unwrap().ends();
    assert_eq!(ends_of.get(1), Some(&ends(What::Crl, "CN=ca", -100, 30)));
    // What a listener has is warned of, as its clock says.
    let desk = common::desk(Settings::default());
    desk.set_listener("internet", &with_list.load());
    let said = |days| {
        let said = desk.reminders(day(days)).into_iter();
        let mut said: Vec<_> = said
            .map(|text| text.replace("listener \"internet\": ", ""))
            .collect();
        said.sort();
        said
    };
    assert_eq!(said(-1), [""; 0]);
    assert_eq!(said(0).len(), 1);
    assert_eq!(said(22), [""; 0]);
    assert_eq!(
        said(23),
        ["the revocation list of its CA \"CN=ca\" ends in 7 days; renew it"]
    );
    assert_eq!(said(24), [""; 0]);
    let over = said(30);
    assert!(
        over[0].contains("\"CN=ca\" HAS ENDED: it counts for crl-grace"),
        "{over:?}"
    );
    assert_eq!(
        said(340),
        [
            "its certificate \"CN=server\" ends in 25 days; renew it",
            &*over[0]
        ]
    );
    // The parameters are what the certificates were made from.
    assert_eq!(client_params("x").not_after, at(365));
    assert!(!KeyPair::generate().unwrap().der_bytes().is_empty());
}

#[test]
fn each_name_shows_its_own_certificate_and_others_the_listeners() {
    let mut setting = Setting::new(ClientAuth::None);
    let named = |name: &str| {
        server(&setting.ca, |params| {
            params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        })
    };
    let (one, any) = (named("one.example"), named("*.any.example"));
    let sni = |leaf: &Leaf, name: &str, file_name: &str| {
        let path = |ending| format!("{file_name}.{ending}");
        let sni = SniSettings {
            names: vec![name.to_owned()],
            certificate: file(setting.directory.path(), &path("pem"), &leaf.pem),
            key: file(setting.directory.path(), &path("key"), &leaf.key_pem),
        };
        private(&sni.key);
        sni
    };
    setting.settings.sni = vec![
        sni(&one, "One.example", "one"),
        sni(&any, "*.any.example", "any"),
    ];
    let own = std::fs::read(&setting.settings.certificate).unwrap();
    let own = CertificateDer::from_pem_slice(&own).unwrap();
    let server = setting.server();
    for version in VERSIONS {
        let client = Arc::new(setting.client(None, version));
        for (name, expected) in [
            ("one.example", &*one.der),
            ("ONE.example", &*one.der),
            ("x.any.example", &*any.der),
            ("localhost", own.as_ref()),
        ] {
            let (_, client) = handshake_with(name, &server, &client).unwrap();
            assert_eq!(
                client.peer_certificates().unwrap()[0].as_ref(),
                expected,
                "{name}"
            );
        }
        // A wildcard is one label; the listener's own does not fit, and the client says so.
        for name in ["x.y.any.example", "any.example", "other.example"] {
            assert!(handshake_with(name, &server, &client).is_err(), "{name}");
        }
    }
    for broken in ["", "a b", "127.0.0.1", "a.*.b", "*", "a."] {
        setting.settings.sni[0].names = vec![broken.to_owned()];
        let error = load(&setting.settings, day(0)).err().unwrap().to_string();
        assert!(error.contains("no host name"), "{broken:?}: {error}");
    }
    setting.settings.sni[0].names = vec!["*.ANY.example".to_owned()];
    let error = load(&setting.settings, day(0)).err().unwrap().to_string();
    assert!(error.contains("twice"), "{error}");
}

#[test]
fn every_cipher_suite_authenticates_what_it_encrypts() {
    for client_auth in [ClientAuth::None, ClientAuth::Required] {
        let config = Setting::new(client_auth).load().config;
        let suites = &config.crypto_provider().cipher_suites;
        assert!(suites.len() > 5);
        for suite in suites {
            let name = format!("{:?}", suite.suite());
            assert!(
                name.contains("_GCM_") || name.contains("CHACHA20_POLY1305"),
                "{name}"
            );
            assert!(
                name.starts_with("TLS13_") || name.contains("_ECDHE_"),
                "{name}"
            );
        }
        assert_eq!(config.max_early_data_size, 0);
    }
}
