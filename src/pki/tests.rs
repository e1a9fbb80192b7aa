//! What the starter PKI makes is what the broker takes.

use std::os::unix::fs::PermissionsExt as _;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rcgen::PublicKeyData as _;
use serde_json::{Value, json};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::*;

use super::*;

fn day(day: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(24 * (20_000 + day))
}

fn with<T>(path: &Path, look: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
    first_certificate(path, look).unwrap()
}

fn made() -> (tempfile::TempDir, Pki) {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(&directory.path().join("pki"), day(0)).unwrap();
    assert_eq!(pki.ca().unwrap(), Made::New);
    (directory, pki)
}

#[test]
fn leaves_are_signed_by_the_ca_and_say_what_they_are_for() {
    let (_directory, pki) = made();
    let names = server_names("192.0.2.7".parse().unwrap());
    assert_eq!(pki.server(&names).unwrap(), Made::New);
    assert_eq!(pki.client("device-1").unwrap(), Made::New);
    with(&pki.certificate_path("ca"), |ca| {
        assert!(ca.is_ca());
        ca.verify_signature(None).unwrap();
        for (name, server) in [("server", true), ("device-1", false)] {
            with(&pki.certificate_path(name), |leaf| {
                leaf.verify_signature(Some(ca.public_key())).unwrap();
                assert_eq!(leaf.issuer(), ca.subject());
                assert!(!leaf.is_ca());
                let common_name = leaf.subject().iter_common_name().next().unwrap();
                assert_eq!(common_name.as_str().unwrap(), name);
                let usage = leaf.extended_key_usage().unwrap().unwrap().value;
                assert_eq!((usage.server_auth, usage.client_auth), (server, !server));
            });
        }
    });
    let found = with(&pki.certificate_path("server"), |leaf| {
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        let names = names.value.general_names.iter();
        let text = |name: &GeneralName<'_>| {
            if let GeneralName::DNSName(name) = name {
                return (*name).to_owned();
            }
            let GeneralName::IPAddress(bytes) = name else {
                panic!("{name:?}");
            };
            match <[u8; 4]>::try_from(*bytes) {
                Ok(v4) => IpAddr::from(v4).to_string(),
                Err(_) => IpAddr::from(<[u8; 16]>::try_from(*bytes).unwrap()).to_string(),
            }
        };
        names.map(text).collect::<Vec<_>>()
    });
    assert_eq!(found, names);
    for name in ["localhost", "127.0.0.1", "::1", "192.0.2.7"] {
        assert!(found.iter().any(|found| found == name), "{name}");
    }
}

#[test]
fn certificates_count_from_the_given_time_for_a_year() {
    let (_directory, pki) = made();
    pki.client("device-1").unwrap();
    let end = |name| certificate_end(&pki.certificate_path(name)).unwrap();
    assert_eq!(end("device-1"), day(365));
    assert_eq!(end("ca"), day(3650));
}

#[test]
fn private_keys_are_for_their_owner_alone() {
    let (directory, pki) = made();
    pki.client("device-1").unwrap();
    let issuer = TokenIssuer::open(&directory.path().join("tokens")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&pki.key_path("ca")), 0o600);
    assert_eq!(mode(&pki.key_path("device-1")), 0o600);
    assert_eq!(mode(&issuer.key_path()), 0o600);
    assert_eq!(mode(&directory.path().join("pki")), 0o700);
    assert_eq!(mode(&directory.path().join("tokens")), 0o700);
    let left: Vec<_> = fs::read_dir(directory.path().join("pki"))
        .unwrap()
        .collect();
    assert_eq!(left.len(), 4, "temporary files stay: {left:?}");
}

#[test]
fn what_exists_is_kept() {
    let (directory, pki) = made();
    pki.client("device-1").unwrap();
    let read = |name: &str| {
        let pem = fs::read(pki.certificate_path(name)).unwrap();
        (pem, fs::read(pki.key_path(name)).unwrap())
    };
    let before = (read("ca"), read("device-1"));
    let again = Pki::open(&directory.path().join("pki"), day(9)).unwrap();
    assert_eq!(again.ca().unwrap(), Made::Kept);
    assert_eq!(again.client("device-1").unwrap(), Made::Kept);
    assert_eq!((read("ca"), read("device-1")), before);
    // New ones come from the same CA.
    assert_eq!(again.client("device-9").unwrap(), Made::New);
    with(&pki.certificate_path("ca"), |ca| {
        with(&again.certificate_path("device-9"), |leaf| {
            leaf.verify_signature(Some(ca.public_key())).unwrap();
        });
    });
}

#[test]
fn a_certificate_that_is_removed_is_made_again_for_the_same_key() {
    let (_directory, pki) = made();
    pki.client("device-1").unwrap();
    let key = || {
        with(&pki.certificate_path("device-1"), |leaf| {
            leaf.public_key().raw.to_vec()
        })
    };
    let before = key();
    fs::remove_file(pki.certificate_path("device-1")).unwrap();
    assert_eq!(pki.client("device-1").unwrap(), Made::New);
    assert_eq!(key(), before);
}

#[test]
fn without_the_key_of_the_ca_what_is_complete_still_works() {
    let (_directory, pki) = made();
    pki.client("device-1").unwrap();
    fs::remove_file(pki.key_path("ca")).unwrap();
    assert_eq!(pki.ca().unwrap(), Made::Kept);
    assert_eq!(pki.client("device-1").unwrap(), Made::Kept);
    let error = pki.client("device-2").unwrap_err().to_string();
    assert!(error.contains("ca.key"), "{error}");
}

#[test]
fn a_client_name_is_a_file_name_and_a_topic_level() {
    let (_directory, pki) = made();
    let long = "x".repeat(65);
    for name in [
        "", "..", ".x", "a/b", "a+b", "a#", "$x", "a b", "-a", "ca", "é", "a\n", &long,
    ] {
        assert!(matches!(pki.client(name), Err(Error::Name(_))), "{name:?}");
    }
}

#[test]
fn what_is_revoked_stays_on_every_later_list_and_the_broker_goes_by_it() {
    let (_directory, pki) = made();
    assert_eq!(pki.crl().unwrap(), 0);
    for name in ["a", "b", "c"] {
        pki.client(name).unwrap();
    }
    assert_eq!(pki.revoke("a").unwrap(), Made::New);
    assert_eq!(pki.revoke("a").unwrap(), Made::Kept);
    let later = Pki::open(&pki.directory, day(20)).unwrap();
    assert_eq!(later.revoke("b").unwrap(), Made::New);
    assert_eq!(later.crl().unwrap(), 2);
    // Signed by the CA, due in a month; the broker's own loader takes it.
    let revocation = portcullis_auth::Revocation {
        files: vec![pki.crl_path()],
        ..portcullis_auth::Revocation::default()
    };
    let ca = [pki.certificate_path("ca").into()];
    let load = |at| portcullis_auth::ClientTrust::load(&ca, &revocation, at).unwrap();
    let (trust, warnings) = load(day(49));
    assert_eq!(trust.revoked(), Some(2));
    assert!(warnings.is_empty(), "{warnings:?}");
    assert!(
        load(day(51))
            .1
            .iter()
            .any(|text| text.contains("nextUpdate"))
    );
    for name in ["nobody", "ca", "../ca"] {
        assert!(pki.revoke(name).is_err(), "{name}");
    }
    fs::write(pki.revoked_path(), "x\n").unwrap();
    let error = pki.revoke("c").unwrap_err().to_string();
    assert!(error.contains("revoked.txt: line 1"), "{error}");
}

#[test]
fn what_is_made_at_once_fits_together_and_loses_no_revocation() {
    let (_directory, pki) = made();
    let names: Vec<_> = (0..8).map(|number| format!("device-{number}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| pki.client("shared").unwrap());
            scope.spawn(|| pki.client(name).unwrap());
        }
    });
    let key = KeyPair::from_pem(&fs::read_to_string(pki.key_path("shared")).unwrap()).unwrap();
    with(&pki.certificate_path("shared"), |leaf| {
        assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
    });
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| pki.revoke(name).unwrap());
        }
    });
    assert_eq!(pki.crl().unwrap(), names.len());
}

#[test]
fn only_what_the_ca_issued_is_revoked() {
    let ((_one, pki), (_other, other)) = (made(), made());
    other.client("device-1").unwrap();
    fs::copy(
        other.certificate_path("device-1"),
        pki.certificate_path("device-1"),
    )
    .unwrap();
    let error = pki.revoke("device-1").unwrap_err().to_string();
    assert!(
        error.contains("device-1.pem: not a certificate of"),
        "{error}"
    );
    assert_eq!(pki.crl().unwrap(), 0);
    assert_eq!(other.revoke("device-1").unwrap(), Made::New);
}

#[test]
fn a_token_verifies_with_the_public_key_and_says_who_for_whom_and_until_when() {
    let directory = tempfile::tempdir().unwrap();
    let issuer = TokenIssuer::open(directory.path()).unwrap();
    let file = directory.path().join("device-3.jwt");
    let names = ("issuer", "portcullis", "device-3");
    let month = Duration::from_hours(30 * 24);
    assert_eq!(
        issuer.issue_file(&file, names, day(0), month).unwrap(),
        Made::New
    );
    assert_eq!(
        issuer.issue_file(&file, names, day(9), month).unwrap(),
        Made::Kept
    );
    assert_eq!(token_end(&file).unwrap(), day(30));
    let key = fs::read(issuer.public_key_path()).unwrap();
    let key = DecodingKey::from_ed_pem(&key).unwrap();
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.validate_exp = false;
    validation.set_audience(&["portcullis"]);
    let token = fs::read_to_string(&file).unwrap();
    let mut token = jsonwebtoken::decode::<Value>(token.trim(), &key, &validation).unwrap();
    let jti = token.claims.as_object_mut().unwrap().remove("jti").unwrap();
    assert_eq!(jti.as_str().unwrap().len(), 22);
    let expected = json!({
        "iss": "issuer",
        "aud": ["portcullis"],
        "sub": "device-3",
        "iat": unix_seconds(day(0)),
        "exp": unix_seconds(day(30)),
    });
    assert_eq!(token.claims, expected);
}

#[test]
fn a_broken_file_is_named() {
    let (directory, pki) = made();
    let path = directory.path().join("x");
    fs::write(&path, "x").unwrap();
    for error in [
        certificate_end(&path).unwrap_err(),
        token_end(&path).unwrap_err(),
    ] {
        assert!(error.to_string().contains("/x: not a "), "{error}");
    }
    fs::write(directory.path().join("issuer.key"), "x").unwrap();
    let error = TokenIssuer::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("issuer.key: not an Ed25519 key"), "{error}");
    fs::write(pki.key_path("ca"), "x").unwrap();
    let error = pki.client("device-1").unwrap_err().to_string();
    assert!(error.contains("ca.key: not a private key"), "{error}");
}
