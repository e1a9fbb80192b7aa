//! Enhanced authentication: OAUTHBEARER and SCRAM-SHA-256, with a client written from the RFCs.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]
#![expect(clippy::panic, reason = "a failed set-up is a failed test")]

mod common;

use std::num::NonZeroU32;
use std::time::Duration;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{TokenIssuer, attempt, claims, desk, file, issuer_settings, jwks, now, with_password};
use portcullis_auth::{Desk, KeySource, Settings, password};
use portcullis_core::hook::{Attempt, Authenticator, Outcome, RefusalKind, Standing, Use};
use portcullis_core::secret::Secret;

struct Setting {
    directory: tempfile::TempDir,
    issuer: TokenIssuer,
    desk: Desk,
}

impl Setting {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let issuer = TokenIssuer::new("k1");
        let users = directory.path().join("users.passwd");
        password::set(&users, "anna", Secret::new(b"secret")).unwrap();
        let path = file(directory.path(), "jwks.json", jwks(&[issuer.jwk()]));
        let desk = desk(Settings {
            password_file: Some(users),
            issuers: vec![issuer_settings("id", KeySource::JwksFile(path))],
            ..Settings::default()
        });
        Self {
            directory,
            issuer,
            desk,
        }
    }

    fn token(&self) -> String {
        self.issuer.token(&claims(|_| {}))
    }
}

/// One step.
fn step(desk: &Desk, attempt: &Attempt<'_>) -> Outcome {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(desk.authenticate(attempt))
}

fn enhanced<'a>(method: &'a str, data: Option<&'a [u8]>, step: u32) -> Attempt<'a> {
    Attempt {
        enhanced: Some((method, data.map(Secret::new))),
        step,
        exchange: 7,
        ..attempt()
    }
}

fn refused(outcome: Outcome) -> (RefusalKind, String) {
    match outcome {
        Outcome::Refused(refusal) => (refusal.kind, refusal.reason),
        other @ (Outcome::NotMine | Outcome::Accepted(_) | Outcome::Continue(_)) => {
            panic!("{other:?}")
        }
    }
}

fn challenged(outcome: Outcome) -> String {
    match outcome {
        Outcome::Continue(data) => String::from_utf8(data).unwrap(),
        other @ (Outcome::NotMine | Outcome::Accepted(_) | Outcome::Refused(_)) => {
            panic!("{other:?}")
        }
    }
}

fn accepted(outcome: Outcome) -> (String, Option<Vec<u8>>) {
    match outcome {
        Outcome::Accepted(accepted) => (accepted.identity.principal.to_string(), accepted.data),
        other @ (Outcome::NotMine | Outcome::Continue(_) | Outcome::Refused(_)) => {
            panic!("{other:?}")
        }
    }
}

/// A SCRAM client, as RFC 5802 describes it.
struct Scram {
    user: &'static str,
    password: &'static str,
    exchange: u64,
}

const NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";

impl Scram {
    fn first(&self) -> String {
        format!("n,,n={},r={NONCE}", self.user)
    }

    /// The final message, and what the server must prove.
    fn last(&self, server_first: &str) -> (String, String) {
        let field = |key: &str| {
            let mut fields = server_first.split(',');
            fields
                .find_map(|field| field.strip_prefix(key))
                .unwrap()
                .to_owned()
        };
        let (nonce, salt) = (field("r="), STANDARD.decode(field("s=")).unwrap());
        assert!(nonce.starts_with(NONCE) && nonce.len() > NONCE.len() + 16);
        let iterations: u32 = field("i=").parse().unwrap();
        let mut salted = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            NonZeroU32::new(iterations).unwrap(),
            &salt,
            self.password.as_bytes(),
            &mut salted,
        );
        let mac = |key: &[u8], text: &[u8]| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, key);
            hmac::sign(&key, text).as_ref().to_vec()
        };
        let client_key = mac(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, &client_key);
        let without_proof = format!("c=biws,r={nonce}");
        let message = format!("n={},r={NONCE},{server_first},{without_proof}", self.user);
        let signature = mac(stored_key.as_ref(), message.as_bytes());
        let proof: Vec<u8> = client_key
            .iter()
            .zip(&signature)
            .map(|(a, b)| a ^ b)
            .collect();
        let server = mac(&mac(&salted, b"Server Key"), message.as_bytes());
        (
            format!("{without_proof},p={}", STANDARD.encode(proof)),
            format!("v={}", STANDARD.encode(server)),
        )
    }

    fn run(&self, desk: &Desk) -> Outcome {
        let first = self.first();
        let at = |data, step| Attempt {
            exchange: self.exchange,
            ..enhanced("SCRAM-SHA-256", Some(data), step)
        };
        let challenge = challenged(step(desk, &at(first.as_bytes(), 0)));
        let (last, server) = self.last(&challenge);
        let outcome = step(desk, &at(last.as_bytes(), 1));
        if let Outcome::Accepted(accepted) = &outcome {
            assert_eq!(accepted.data.as_deref(), Some(server.as_bytes()));
        }
        outcome
    }
}

fn scram(user: &'static str, password: &'static str) -> Scram {
    Scram {
        user,
        password,
        exchange: 7,
    }
}

#[test]
fn scram_proves_a_password_and_the_broker_proves_that_it_knows_it() {
    let setting = Setting::new();
    let (who, _) = accepted(scram("anna", "secret").run(&setting.desk));
    assert_eq!(who, "user:anna");
    // The same credential as a plain password: it ends when the line changes.
    let outcome = scram("anna", "secret").run(&setting.desk);
    let Outcome::Accepted(accepted) = outcome else {
        panic!("{outcome:?}")
    };
    let credential = accepted.lease.credential;
    assert_eq!(
        setting.desk.standing(&credential, Use::Live),
        Standing::Good
    );
    let users = setting.directory.path().join("users.passwd");
    password::set(&users, "anna", Secret::new(b"other")).unwrap();
    setting.desk.reload_passwords().unwrap();
    assert!(matches!(
        setting.desk.standing(&credential, Use::Live),
        Standing::Revoked(_)
    ));
    assert_eq!(
        setting.desk.standing(&credential, Use::Stored),
        Standing::Good
    );
}

#[test]
fn a_wrong_password_and_an_unknown_user_fail_at_the_same_step() {
    let setting = Setting::new();
    for (user, password, word) in [
        ("anna", "wrong", "the password is wrong"),
        ("nobody", "secret", "no such user"),
    ] {
        let (kind, reason) = refused(scram(user, password).run(&setting.desk));
        assert_eq!(kind, RefusalKind::BadCredential);
        assert!(reason.contains(word), "{reason}");
    }
    let challenge = |desk: &Desk, user| {
        let first = scram(user, "").first();
        let first = enhanced("SCRAM-SHA-256", Some(first.as_bytes()), 0);
        let text = challenged(step(desk, &first));
        text.split_once(",s=").unwrap().1.to_owned()
    };
    // The same shape, and the same salt each time, after a restart and when others come too.
    let users = setting.directory.path().join("users.passwd");
    let restarted = || {
        desk(Settings {
            password_file: Some(users.clone()),
            ..Settings::default()
        })
    };
    let before = ["anna", "nobody"].map(|user| challenge(&setting.desk, user));
    password::set(&users, "otto", Secret::new(b"other")).unwrap();
    for desk in [&setting.desk, &restarted()] {
        for (user, before) in ["anna", "nobody"].iter().zip(&before) {
            assert_eq!(challenge(desk, user), *before, "{user}");
        }
        assert_ne!(challenge(desk, "nobody2"), before[1]);
    }
    assert_eq!(before[0].len(), before[1].len());
    // Who knows the salts that are sent does not know those of strangers.
    let other = Setting::new();
    assert_ne!(challenge(&other.desk, "nobody"), before[1]);
}

#[test]
fn a_line_without_a_verifier_serves_plain_passwords_only() {
    let setting = Setting::new();
    let users = setting.directory.path().join("users.passwd");
    let text = std::fs::read_to_string(&users).unwrap();
    let (line, _) = text.split_once(":scram").unwrap();
    std::fs::write(&users, format!("{line}\n")).unwrap();
    setting.desk.reload_passwords().unwrap();
    let (_, reason) = refused(scram("anna", "secret").run(&setting.desk));
    assert!(reason.contains("no SCRAM verifier"), "{reason}");
    let plain = common::principal(&setting.desk, &with_password(Some("anna"), "secret"));
    assert_eq!(plain.unwrap(), "user:anna");
}

#[test]
fn exchanges_do_not_mix_do_not_repeat_and_do_not_wait_for_ever() {
    let setting = Setting::new();
    let desk = &setting.desk;
    let client = scram("anna", "secret");
    let (first, method) = (client.first(), "SCRAM-SHA-256");
    let begin = || challenged(step(desk, &enhanced(method, Some(first.as_bytes()), 0)));
    // Another exchange does not see it.
    let (last, _) = client.last(&begin());
    let other = Attempt {
        exchange: 8,
        ..enhanced(method, Some(last.as_bytes()), 1)
    };
    assert!(refused(step(desk, &other)).1.contains("no such exchange"));
    // The right one does, once.
    let right = enhanced(method, Some(last.as_bytes()), 1);
    accepted(step(desk, &right));
    assert!(refused(step(desk, &right)).1.contains("no such exchange"));
    // A proof that was recorded fits no later challenge.
    begin();
    refused(step(desk, &right));
    // A minute is too long.
    let (last, _) = client.last(&begin());
    let mut late = enhanced(method, Some(last.as_bytes()), 1);
    late.now.mono += Duration::from_mins(1);
    assert!(refused(step(desk, &late)).1.contains("a minute"));
    // Without a message there is nothing to judge.
    begin();
    assert!(
        refused(step(desk, &enhanced(method, None, 1)))
            .1
            .contains("missing")
    );
}

#[test]
fn who_sends_no_first_message_is_asked_for_it() {
    let setting = Setting::new();
    let desk = &setting.desk;
    for method in ["SCRAM-SHA-256", "OAUTHBEARER"] {
        assert_eq!(challenged(step(desk, &enhanced(method, None, 0))), "");
    }
    let message = format!("n,,\x01auth=Bearer {}\x01\x01", setting.token());
    let (who, data) = accepted(step(
        desk,
        &enhanced("OAUTHBEARER", Some(message.as_bytes()), 1),
    ));
    assert_eq!((&*who, data), ("jwt:anna", None));
}

#[test]
fn a_bad_token_gets_one_error_whatever_the_reason_and_is_then_refused() {
    let setting = Setting::new();
    let desk = &setting.desk;
    let other = TokenIssuer::new("k1").token(&claims(|_| {}));
    for (message, word) in [
        (format!("n,,\x01auth=Bearer {other}\x01\x01"), "signature"),
        ("n,,\x01auth=Bearer a.b.c\x01\x01".to_owned(), "jwt"),
        (
            format!("n,a=otto,\x01auth=Bearer {}\x01\x01", setting.token()),
            "somebody else",
        ),
        ("nonsense".to_owned(), "GS2"),
    ] {
        let error = challenged(step(
            desk,
            &enhanced("OAUTHBEARER", Some(message.as_bytes()), 0),
        ));
        assert_eq!(error, r#"{"status":"invalid_token"}"#);
        let (kind, reason) = refused(step(desk, &enhanced("OAUTHBEARER", Some(b"\x01"), 1)));
        assert_eq!(kind, RefusalKind::BadCredential);
        assert!(reason.contains(word), "{reason}");
    }
}

#[test]
fn a_method_is_spoken_only_where_the_listener_looks_at_its_kind() {
    let setting = Setting::new();
    let scram = scram("anna", "secret").first();
    let bearer = format!("n,,\x01auth=Bearer {}\x01\x01", setting.token());
    let only = |words: &[&str]| {
        words
            .iter()
            .map(|&word| word.into())
            .collect::<Vec<Box<str>>>()
    };
    for (methods, method, data, spoken) in [
        (only(&["jwt"]), "OAUTHBEARER", &bearer, true),
        (only(&["jwt"]), "SCRAM-SHA-256", &scram, false),
        (only(&["password"]), "SCRAM-SHA-256", &scram, true),
        (only(&["password"]), "OAUTHBEARER", &bearer, false),
        (only(&["jwt", "password"]), "SCRAM-SHA-1", &scram, false),
        (
            only(&["jwt", "password"]),
            "SCRAM-SHA-256-PLUS",
            &scram,
            false,
        ),
        (only(&["jwt", "password"]), "oauthbearer", &bearer, false),
        (only(&["jwt", "password"]), "", &bearer, false),
    ] {
        let attempt = Attempt {
            methods: Some(&methods),
            ..enhanced(method, Some(data.as_bytes()), 0)
        };
        match step(&setting.desk, &attempt) {
            Outcome::Refused(refusal) => {
                assert!(!spoken, "{methods:?} {method}");
                assert_eq!(refusal.kind, RefusalKind::BadMethod);
            }
            Outcome::Accepted(_) | Outcome::Continue(_) => assert!(spoken, "{methods:?} {method}"),
            Outcome::NotMine => panic!("nobody else"),
        }
    }
}

#[test]
fn guessing_is_slowed_down_and_refused_and_a_certificate_is_not_asked() {
    let setting = Setting::new();
    let desk = &setting.desk;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let from = |address: &str| Some(format!("{address}:1").parse().unwrap());
    let start = now();
    let judge = |password: &'static str, address: &str, later: u64| {
        let mut attempt = Attempt {
            peer: from(address),
            ..with_password(Some("anna"), password)
        };
        attempt.now = start;
        attempt.now.mono += Duration::from_secs(later);
        runtime.block_on(desk.authenticate(&attempt))
    };
    let hashes = || desk.password_hashes();
    for _ in 0..10 {
        refused(judge("wrong", "192.0.2.1", 0));
    }
    let before = hashes();
    let (kind, reason) = refused(judge("secret", "192.0.2.1", 63));
    assert_eq!(kind, RefusalKind::BadCredential);
    assert!(reason.contains("too many"), "{reason}");
    assert_eq!(hashes(), before, "nothing is hashed for a guesser");
    // The owner elsewhere, and later: a minute after the last, which had to wait 3.2 s.
    assert_eq!(accepted(judge("secret", "192.0.2.2", 0)).0, "user:anna");
    assert_eq!(accepted(judge("secret", "192.0.2.1", 64)).0, "user:anna");
    // SCRAM is counted with plain passwords.
    for _ in 0..10 {
        refused(judge("wrong", "192.0.2.1", 65));
    }
    let mut first = enhanced("SCRAM-SHA-256", Some(b"n,,n=anna,r=abcdefgh"), 0);
    first.peer = from("192.0.2.1");
    first.now = start;
    first.now.mono += Duration::from_secs(66);
    assert!(refused(step(desk, &first)).1.contains("too many"));
}

#[test]
fn proofs_of_exchanges_that_began_at_once_are_counted_all_the_same() {
    let setting = Setting::new();
    let says = |exchange, data: &str, number| {
        let attempt = Attempt {
            exchange,
            peer: Some("192.0.2.1:1".parse().unwrap()),
            ..enhanced("SCRAM-SHA-256", Some(data.as_bytes()), number)
        };
        step(&setting.desk, &attempt)
    };
    let (guesser, owner) = (scram("anna", "wrong"), scram("anna", "secret"));
    let first = owner.first();
    let begun: Vec<_> = (0..13)
        .map(|exchange| challenged(says(exchange, &first, 0)))
        .collect();
    for (exchange, challenge) in (0..).zip(&begun) {
        let right = exchange == 12;
        let client = if right { &owner } else { &guesser };
        let (last, _) = client.last(challenge);
        let (_, reason) = refused(says(exchange, &last, 1));
        let word = if exchange < 10 {
            "is wrong"
        } else {
            "too many"
        };
        assert!(reason.contains(word), "{exchange}: {reason}");
    }
}

#[test]
fn a_client_may_name_itself_as_its_token_does_whoever_the_issuer_is() {
    let setting = Setting::new();
    let path = file(
        setting.directory.path(),
        "two.json",
        jwks(&[setting.issuer.jwk()]),
    );
    let issuer = |name: &str, iss: &str| {
        let mut issuer = issuer_settings(name, KeySource::JwksFile(path.clone()));
        issuer.issuer = iss.to_owned();
        issuer.allowed_roles = Some(vec![]);
        issuer
    };
    let two = desk(Settings {
        issuers: vec![
            issuer("id", "https://id.example"),
            issuer("other", "https://other.example"),
        ],
        ..Settings::default()
    });
    let judge = |name: &str| {
        let message = format!("n,a={name},\x01auth=Bearer {}\x01\x01", setting.token());
        step(&two, &enhanced("OAUTHBEARER", Some(message.as_bytes()), 0))
    };
    assert_eq!(accepted(judge("anna")).0, "jwt:id/anna");
    for name in ["id/anna", "other/anna", "otto"] {
        challenged(judge(name));
        let (_, reason) = refused(step(&two, &enhanced("OAUTHBEARER", Some(b"\x01"), 1)));
        assert!(reason.contains("somebody else"), "{reason}");
    }
}
