//! JSON Web Tokens: each known attack, and what a good token says.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{
    Ca, START, TokenIssuer, ask, attempt, claims, day, desk, file, issuer_settings, jwks,
    principal, with_password,
};
use portcullis_auth::{Desk, IssuerSettings, KeySource, Settings};
use portcullis_core::clock::Now;
use portcullis_core::hook::{Attempt, Authenticator, RefusalKind, Standing, Use};
use portcullis_core::secret::Secret;
use serde_json::{Value, json};
use std::time::{Duration, UNIX_EPOCH};

struct Setting {
    directory: tempfile::TempDir,
    issuer: TokenIssuer,
    desk: Desk,
}

impl Setting {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut IssuerSettings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let issuer = TokenIssuer::new("k1");
        let path = file(directory.path(), "jwks.json", jwks(&[issuer.jwk()]));
        let mut settings = issuer_settings("id", KeySource::JwksFile(path));
        change(&mut settings);
        let desk = desk(Settings {
            issuers: vec![settings],
            ..Settings::default()
        });
        Self {
            directory,
            issuer,
            desk,
        }
    }

    fn judge(&self, token: &str) -> Result<String, String> {
        principal(&self.desk, &with_password(Some("ignored"), token))
    }

    fn refused(&self, token: &str, word: &str) {
        let refusal = ask(&self.desk, &with_password(None, token)).unwrap_err();
        assert!(
            refusal.reason.contains(word),
            "{word:?}: {}",
            refusal.reason
        );
        assert_eq!(refusal.kind, RefusalKind::BadCredential);
        // Neither the signature nor the whole token is told to anybody.
        for secret in [token, token.rsplit('.').next().unwrap()] {
            assert!(secret.len() < 8 || !refusal.reason.contains(secret));
        }
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A token with this header, signed by the issuer whatever the header says.
fn with_header(issuer: &TokenIssuer, header: &Value, claims: &Value) -> String {
    use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
    let der = PrivatePkcs8KeyDer::from_pem_slice(issuer.key.as_bytes()).unwrap();
    let pair =
        aws_lc_rs::signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
            .unwrap();
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn hmac_token(secret: &[u8], claims: &Value) -> String {
    use aws_lc_rs::hmac;
    let signed = format!("{}.{}", part(&json!({"alg": "HS256"})), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[test]
fn a_good_token_names_its_principal_and_the_user_name_is_not_looked_at() {
    let setting = Setting::new();
    let token = setting.issuer.token(&claims(|_| {}));
    assert_eq!(setting.judge(&token).unwrap(), "jwt:anna");
    let bearer = Attempt {
        bearer: Some(Secret::new(token.as_bytes())),
        ..attempt()
    };
    assert_eq!(principal(&setting.desk, &bearer).unwrap(), "jwt:anna");
}

#[test]
fn a_header_cannot_choose_its_own_rules() {
    let setting = Setting::new();
    let good = claims(|_| {});
    let header = |header: Value| with_header(&setting.issuer, &header, &good);
    let stranger = TokenIssuer::new("k1");
    let jwk = stranger.jwk();
    for (token, word) in [
        (header(json!({"alg": "none"})), "alg"),
        (
            format!("{}.{}.", part(&json!({"alg": "none"})), part(&good)),
            "alg",
        ),
        (
            format!(
                "{}.{}.",
                part(&json!({"alg": "None", "kid": "k1"})),
                part(&good)
            ),
            "alg",
        ),
        (header(json!({"alg": "HS256", "kid": "k1"})), "alg"),
        (header(json!({"alg": "eddsa", "kid": "k1"})), "alg"),
        (header(json!({"alg": 1, "kid": "k1"})), "alg"),
        (
            header(json!({"alg": "EdDSA", "kid": "k2"})),
            "no key with this kid",
        ),
        (
            header(json!({"alg": "EdDSA", "kid": "../../dev/null"})),
            "no key with this kid",
        ),
        (
            header(json!({"alg": "EdDSA", "kid": "' OR 1=1 --"})),
            "no key with this kid",
        ),
        (
            header(json!({"alg": "EdDSA", "kid": 1})),
            "kid is not a string",
        ),
        (
            header(json!({"alg": "EdDSA", "kid": "k1", "crit": ["exp"], "exp": 1})),
            "crit",
        ),
        (
            header(json!({"alg": "EdDSA", "kid": "k1", "crit": []})),
            "crit",
        ),
        (
            header(json!({"alg": "EdDSA", "kid": "k1", "b64": false, "crit": ["b64"]})),
            "crit",
        ),
        // A key of the attacker's own, and addresses to fetch one from.
        (
            with_header(&stranger, &json!({"alg": "EdDSA", "kid": "k1"}), &good),
            "signature",
        ),
        (
            with_header(
                &stranger,
                &json!({"alg": "EdDSA", "kid": "k1", "jwk": jwk}),
                &good,
            ),
            "signature",
        ),
        (
            with_header(
                &stranger,
                &json!({"alg": "EdDSA", "kid": "k1", "jku": "http://evil/", "x5u": "http://evil/"}),
                &good,
            ),
            "signature",
        ),
    ] {
        setting.refused(&token, word);
    }
    // What is not looked at does not refuse either.
    let extra = header(json!({"alg": "EdDSA", "kid": "k1", "jku": "http://evil/"}));
    assert_eq!(setting.judge(&extra).unwrap(), "jwt:anna");
}

#[test]
fn a_public_key_is_never_a_shared_secret() {
    let setting = Setting::new();
    let good = claims(|_| {});
    let raw = URL_SAFE_NO_PAD.decode(setting.issuer.x()).unwrap();
    for secret in [
        setting.issuer.public.as_bytes(),
        &raw,
        setting.issuer.x().as_bytes(),
        b"",
    ] {
        setting.refused(&hmac_token(secret, &good), "alg");
    }
    let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "key.pem", rsa.public_key_pem());
    let mut issuer = issuer_settings("id", KeySource::KeyFile(path));
    issuer.algorithms = vec!["RS256".into()];
    let settings = |issuer: IssuerSettings| Settings {
        issuers: vec![issuer],
        ..Settings::default()
    };
    let desk_of = desk(settings(issuer.clone()));
    let token = hmac_token(rsa.public_key_pem().as_bytes(), &good);
    assert!(
        principal(&desk_of, &with_password(None, &token))
            .unwrap_err()
            .contains("alg")
    );
    // Not even by a mistake in the configuration.
    issuer.algorithms = vec!["HS256".into()];
    let errors = Desk::open(settings(issuer)).err().unwrap();
    assert!(errors[0].to_string().contains("PEM"), "{errors:?}");
}

#[test]
fn what_was_signed_cannot_be_changed() {
    let setting = Setting::new();
    let token = setting.issuer.token(&claims(|_| {}));
    let parts: Vec<&str> = token.split('.').collect();
    let other = part(&claims(|claims| {
        drop(claims.insert("sub".into(), "root".into()));
    }));
    for (token, word) in [
        (format!("{}.{other}.{}", parts[0], parts[2]), "signature"),
        (format!("{}.{}.", parts[0], parts[1]), "signature"),
        (
            format!("{}.{}.{}", parts[0], parts[1], "A".repeat(86)),
            "signature",
        ),
        (
            format!("{}.{}.{}", parts[0], "e30", parts[2]),
            "iss is missing",
        ),
        (
            format!("{}.{}.{}", parts[0], "!", parts[2]),
            "not a JSON object",
        ),
        (
            format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode("[]"), parts[2]),
            "not a JSON object",
        ),
        (format!("{}=.{}.{}", parts[0], parts[1], parts[2]), ""),
    ] {
        setting.refused(&token, word);
    }
}

#[test]
fn claims_that_are_demanded_are_demanded() {
    let setting = Setting::new();
    for (claim, value, word) in [
        ("exp", None, "exp"),
        ("iss", None, "iss is missing"),
        ("aud", None, "aud"),
        ("sub", None, "sub is missing"),
        ("sub", Some(json!("")), "empty"),
        ("sub", Some(json!(7)), "sub is not a string"),
        ("sub", Some(json!(["anna"])), "impossible form"),
        ("sub", Some(json!("a*")), "wildcard"),
        ("sub", Some(json!("a\u{0}b")), "control"),
        ("sub", Some(json!("x".repeat(1025))), "longer"),
        (
            "iss",
            Some(json!("https://evil.example")),
            "no configured issuer",
        ),
        (
            "iss",
            Some(json!("https://id.example/")),
            "no configured issuer",
        ),
        (
            "iss",
            Some(json!(["https://id.example"])),
            "iss is not a string",
        ),
        ("aud", Some(json!("other")), "aud has none"),
        ("aud", Some(json!(["other", "else"])), "aud has none"),
        ("aud", Some(json!([])), "aud"),
        ("aud", Some(json!(null)), "aud"),
        ("aud", Some(json!({"portcullis": 1})), "aud"),
        ("exp", Some(json!(START - 11)), "expired"),
        ("exp", Some(json!(0)), "expired"),
        ("exp", Some(json!("never")), "exp"),
        ("exp", Some(json!(1e18)), "exp"),
        ("nbf", Some(json!(START + 11)), "nbf"),
        ("iat", Some(json!(START + 11)), "iat"),
    ] {
        let token = setting.issuer.token(&claims(|claims| {
            claims.remove(claim);
            if let Some(value) = value {
                claims.insert(claim.into(), value);
            }
        }));
        setting.refused(&token, word);
    }
    let several = claims(|claims| {
        claims.insert("aud".into(), json!(["other", "portcullis"]));
        claims.insert("nbf".into(), json!(START + 9));
        claims.insert("exp".into(), json!(START - 9));
    });
    assert!(setting.judge(&setting.issuer.token(&several)).is_ok());
}

#[test]
fn a_huge_token_is_refused_before_it_is_read() {
    let setting = Setting::new();
    let token = setting.issuer.token(&claims(|claims| {
        drop(claims.insert("x".into(), "y".repeat(9000).into()));
    }));
    setting.refused(&token, "the limit is 8192");
}

#[test]
fn a_refusal_names_who_was_claimed() {
    let setting = Setting::new();
    let token = setting.issuer.token(&claims(|claims| {
        drop(claims.insert("exp".into(), 1.into()));
    }));
    let refusal = ask(&setting.desk, &with_password(None, &token)).unwrap_err();
    assert_eq!(refusal.claimed.unwrap().as_str(), "jwt:anna");
    assert!(
        refusal.reason.starts_with("jwt: issuer id: "),
        "{}",
        refusal.reason
    );
}

#[test]
fn the_lease_ends_at_exp_and_leeway_by_the_clock_of_the_attempt() {
    let setting = Setting::new();
    let token = setting.issuer.token(&claims(|_| {}));
    let accepted = ask(&setting.desk, &with_password(None, &token)).unwrap();
    let until = UNIX_EPOCH + Duration::from_secs(START + 3610);
    assert_eq!(accepted.lease.until, Some(until));
    for (wall, good) in [
        (until - Duration::from_secs(1), true),
        (until, false),
        (day(2), false),
    ] {
        let late = Attempt {
            now: Now {
                wall,
                ..common::now()
            },
            ..with_password(None, &token)
        };
        assert_eq!(ask(&setting.desk, &late).is_ok(), good);
    }
}

#[test]
fn roles_and_attributes_come_with_the_token() {
    let setting = Setting::with(|settings| {
        settings.roles = Some("realm.roles".into());
        settings.allowed_roles = Some(vec!["nurse".into(), "doctor".into()]);
    });
    let token = setting.issuer.token(&claims(|claims| {
        claims.insert(
            "realm".into(),
            json!({"roles": ["nurse", "admin", "role:x"]}),
        );
        claims.insert("site".into(), "north".into());
    }));
    let identity = ask(&setting.desk, &with_password(None, &token))
        .unwrap()
        .identity;
    assert_eq!(*identity.roles, [Box::from("nurse")]);
    assert_eq!(
        identity.attributes.get("claim.site").map(|site| &**site),
        Some("north")
    );
    assert_eq!(setting.desk.ignored_roles(), 1);
}

#[test]
fn with_several_issuers_the_principal_names_its_issuer_and_keys_stay_apart() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (TokenIssuer::new("k"), TokenIssuer::new("k"));
    let settings = |name: &str, issuer: &TokenIssuer, role: &str| {
        let path = file(directory.path(), name, jwks(&[issuer.jwk()]));
        let mut settings = issuer_settings(name, KeySource::JwksFile(path));
        settings.issuer = format!("https://{name}.example");
        settings.allowed_roles = Some(vec![role.into()]);
        settings
    };
    let desk = desk(Settings {
        issuers: vec![settings("one", &one, "a"), settings("two", &two, "b")],
        ..Settings::default()
    });
    let from = |issuer: &TokenIssuer, iss: &str| {
        let token = issuer.token(&claims(|claims| {
            claims.insert("iss".into(), iss.into());
            claims.insert("roles".into(), json!(["a", "b"]));
        }));
        ask(&desk, &with_password(None, &token))
    };
    let first = from(&one, "https://one.example").unwrap().identity;
    assert_eq!(
        (first.principal.as_str(), &*first.roles),
        ("jwt:one/anna", &["a".into()][..])
    );
    let second = from(&two, "https://two.example").unwrap().identity;
    assert_eq!(
        (second.principal.as_str(), &*second.roles),
        ("jwt:two/anna", &["b".into()][..])
    );
    assert!(
        from(&one, "https://two.example")
            .unwrap_err()
            .reason
            .contains("signature")
    );
}

#[test]
fn without_kid_exactly_one_key_must_fit() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (TokenIssuer::new("k1"), TokenIssuer::new("k2"));
    let good = claims(|_| {});
    let anonymous = with_header(&one, &json!({"alg": "EdDSA"}), &good);
    for (keys, fits) in [(vec![one.jwk()], true), (vec![one.jwk(), two.jwk()], false)] {
        let path = file(directory.path(), "jwks.json", jwks(&keys));
        let desk = desk(Settings {
            issuers: vec![issuer_settings("id", KeySource::JwksFile(path))],
            ..Settings::default()
        });
        assert_eq!(ask(&desk, &with_password(None, &anonymous)).is_ok(), fits);
        assert!(ask(&desk, &with_password(None, &one.token(&good))).is_ok());
    }
}

#[test]
fn each_algorithm_verifies_with_its_own_kind_of_key_from_pem() {
    let directory = tempfile::tempdir().unwrap();
    for (algorithm, kind) in [
        ("ES256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("ES384", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("RS256", &rcgen::PKCS_RSA_SHA256),
        ("PS256", &rcgen::PKCS_RSA_SHA256),
        ("EdDSA", &rcgen::PKCS_ED25519),
    ] {
        let pair = rcgen::KeyPair::generate_for(kind).unwrap();
        let pem = pair.serialize_pem();
        let algorithm_of: jsonwebtoken::Algorithm = algorithm.parse().unwrap();
        let key = match algorithm {
            "ES256" | "ES384" => jsonwebtoken::EncodingKey::from_ec_pem(pem.as_bytes()),
            "EdDSA" => jsonwebtoken::EncodingKey::from_ed_pem(pem.as_bytes()),
            _ => jsonwebtoken::EncodingKey::from_rsa_pem(pem.as_bytes()),
        }
        .unwrap();
        let header = jsonwebtoken::Header::new(algorithm_of);
        let token = jsonwebtoken::encode(&header, &claims(|_| {}), &key).unwrap();

        let path = file(directory.path(), "key.pem", pair.public_key_pem());
        let mut issuer = issuer_settings("id", KeySource::KeyFile(path));
        issuer.algorithms = vec![algorithm.into()];
        let of_this = desk(Settings {
            issuers: vec![issuer.clone()],
            ..Settings::default()
        });
        let judged = principal(&of_this, &with_password(None, &token));
        assert_eq!(judged.as_deref(), Ok("jwt:anna"), "{algorithm}");

        issuer.algorithms = vec![
            if algorithm == "ES256" {
                "RS256"
            } else {
                "ES256"
            }
            .into(),
        ];
        let other = Desk::open(Settings {
            issuers: vec![issuer],
            ..Settings::default()
        });
        assert!(other.err().unwrap()[0].to_string().contains("fits none"));
    }
}

#[test]
fn a_shared_secret_needs_its_length() {
    let directory = tempfile::tempdir().unwrap();
    for (length, algorithm, good) in [
        (31, "HS256", false),
        (32, "HS256", true),
        (32, "HS384", false),
        (63, "HS512", false),
        (64, "HS512", true),
    ] {
        let secret = vec![7; length];
        let mut issuer = issuer_settings(
            "id",
            KeySource::KeyFile(file(directory.path(), "s", &secret)),
        );
        issuer.algorithms = vec![algorithm.into()];
        let opened = Desk::open(Settings {
            issuers: vec![issuer],
            ..Settings::default()
        });
        assert_eq!(opened.is_ok(), good, "{length} {algorithm}");
        if let (Ok((desk, _)), "HS256") = (opened, algorithm) {
            let token = hmac_token(&secret, &claims(|_| {}));
            assert_eq!(
                principal(&desk, &with_password(None, &token)).unwrap(),
                "jwt:anna"
            );
        }
    }
}

#[test]
fn a_key_file_without_a_usable_key_is_broken() {
    let one = TokenIssuer::new("k1");
    let private = json!({"kty": "OKP", "crv": "Ed25519", "x": one.x(), "d": one.x()});
    let mut encryption = one.jwk();
    encryption["use"] = "enc".into();
    let point = json!({"kty": "EC", "crv": "P-256", "x": one.x(), "y": one.x()});
    let weak = json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0xff; 128]), "e": "AQAB"});
    for (text, algorithm, word) in [
        ("", "EdDSA", "not JSON"),
        ("{}", "EdDSA", "no list"),
        (r#"{"keys": []}"#, "EdDSA", "no key that can be used"),
        (r#"{"keys": [1]}"#, "EdDSA", "not an object"),
        (&jwks(&[private]), "EdDSA", "private key"),
        (&jwks(&[encryption]), "EdDSA", "use is not"),
        (&jwks(&[one.jwk(), one.jwk()]), "EdDSA", "kid of another"),
        (&jwks(&[one.jwk()]), "ES256", "fits none"),
        (&jwks(&[point]), "ES256", "point"),
        (&jwks(&[weak]), "RS256", "2048"),
        (
            r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#,
            "ES256",
            "shared secret",
        ),
        (r#"{"keys": [{"kty": "XYZ"}]}"#, "ES256", "not supported"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = file(directory.path(), "jwks.json", text);
        let mut issuer = issuer_settings("id", KeySource::JwksFile(path));
        issuer.algorithms = vec![algorithm.into()];
        let errors = Desk::open(Settings {
            issuers: vec![issuer],
            ..Settings::default()
        })
        .err()
        .unwrap();
        let error = errors[0].to_string();
        assert!(
            error.contains(word) && error.contains("jwks.json"),
            "{word}: {error}"
        );
    }
    for (text, word) in [
        (&*one.key, "private key"),
        ("", "no public key"),
        ("x", "no public key"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = file(directory.path(), "key.pem", text);
        let errors = Desk::open(Settings {
            issuers: vec![issuer_settings("id", KeySource::KeyFile(path))],
            ..Settings::default()
        })
        .err()
        .unwrap();
        assert!(errors[0].to_string().contains(word), "{errors:?}");
    }
}

#[test]
fn a_withdrawn_key_ends_what_it_signed_and_a_broken_file_changes_nothing() {
    let setting = Setting::new();
    let path = setting.directory.path().join("jwks.json");
    let token = setting.issuer.token(&claims(|_| {}));
    let credential = ask(&setting.desk, &with_password(None, &token))
        .unwrap()
        .lease
        .credential;
    let live = || setting.desk.standing(&credential, Use::Live);
    assert_eq!(live(), Standing::Good);

    let before = setting.desk.generation();
    for broken in ["", "{\"keys\": []}", "garbage"] {
        std::fs::write(&path, broken).unwrap();
        setting.desk.reload_issuer("id").unwrap_err();
    }
    assert_eq!(setting.desk.generation(), before);
    assert_eq!(live(), Standing::Good);
    assert!(setting.judge(&token).is_ok());

    // The same key under another name is the same key.
    let mut renamed = setting.issuer.jwk();
    renamed["kid"] = "renamed".into();
    std::fs::write(&path, jwks(&[renamed])).unwrap();
    setting.desk.reload_issuer("id").unwrap();
    assert_eq!(live(), Standing::Good);

    std::fs::write(&path, jwks(&[TokenIssuer::new("k1").jwk()])).unwrap();
    setting.desk.reload_issuer("id").unwrap();
    assert_ne!(setting.desk.generation(), before);
    assert!(matches!(live(), Standing::Revoked(why) if why.contains("withdrawn")));
    // Rotation does not withhold what was stored.
    assert_eq!(
        setting.desk.standing(&credential, Use::Stored),
        Standing::Good
    );
    assert!(setting.desk.reload_issuer("nobody").is_err());
}

#[test]
fn a_token_bound_to_a_certificate_is_worth_nothing_without_it() {
    let setting = Setting::new();
    let ca = Ca::root("ca");
    let trusted = common::trust(&[&ca.pem], &[]).unwrap();
    setting.desk.set_trust("internet", Some(trusted));
    let (mine, other) = (ca.client("pump", |_| {}), ca.client("other", |_| {}));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &mine.der);
    let bound = |binding: Value| {
        setting
            .issuer
            .token(&claims(|claims| drop(claims.insert("cnf".into(), binding))))
    };
    let token = bound(json!({"x5t#S256": URL_SAFE_NO_PAD.encode(digest)}));
    let (mine, other) = (mine.shown(), other.shown());
    for (certificate, good) in [(None, false), (Some(&other), false), (Some(&mine), true)] {
        let attempt = Attempt {
            certificate,
            ..with_password(None, &token)
        };
        assert_eq!(ask(&setting.desk, &attempt).is_ok(), good);
    }
    for binding in [json!({"jkt": "x"}), json!({}), json!("x"), json!(null)] {
        let token = bound(binding);
        let attempt = Attempt {
            certificate: Some(&mine),
            ..with_password(None, &token)
        };
        assert!(
            ask(&setting.desk, &attempt)
                .unwrap_err()
                .reason
                .contains("cnf")
        );
    }
}
