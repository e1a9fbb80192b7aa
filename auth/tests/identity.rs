//! Which credential is judged: the identity rules as a table.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]
#![expect(clippy::panic, reason = "a failed set-up is a failed test")]

mod common;

use common::{Ca, TokenIssuer, ask, attempt, claims, desk, file, issuer_settings, jwks, trust};
use portcullis_auth::{Desk, KeySource, Method, Settings, password};
use portcullis_core::hook::{
    Attempt, Authenticator, ClientCertificate, Credential, RefusalKind, Standing, Use,
};
use portcullis_core::secret::Secret;

struct Setting {
    directory: tempfile::TempDir,
    settings: Settings,
    desk: Desk,
    ca: Ca,
    certificate: ClientCertificate,
    token: String,
    bad_token: String,
}

impl Setting {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let issuer = TokenIssuer::new("k1");
        let users = directory.path().join("users.passwd");
        password::set(&users, "anna", Secret::new(b"secret")).unwrap();
        let path = file(directory.path(), "jwks.json", jwks(&[issuer.jwk()]));
        let mut settings = Settings {
            password_file: Some(users),
            issuers: vec![issuer_settings("id", KeySource::JwksFile(path))],
            ..Settings::default()
        };
        change(&mut settings);
        let ca = Ca::root("ca");
        let desk = desk(settings.clone());
        desk.set_trust("internet", Some(trust(&[&ca.pem], &[]).unwrap()));
        let sub = |name: &'static str| {
            claims(move |claims| drop(claims.insert("sub".into(), name.into())))
        };
        Self {
            certificate: ca.client("pump", |_| {}).shown(),
            token: issuer.token(&sub("token")),
            bad_token: TokenIssuer::new("k1").token(&sub("token")),
            directory,
            settings,
            desk,
            ca,
        }
    }

    /// A row of the table as an attempt: words for what is sent.
    fn attempt<'a>(&'a self, sent: &str, bad: &'a ClientCertificate) -> Attempt<'a> {
        let mut attempt = attempt();
        for word in sent.split_whitespace() {
            match word {
                "user" => attempt.username = Some("anna"),
                "nobody" => attempt.username = Some(""),
                "password" => attempt.password = Some(Secret::new(b"secret")),
                "wrong" => attempt.password = Some(Secret::new(b"wrong")),
                "token" => attempt.password = Some(Secret::new(self.token.as_bytes())),
                "bad-token" => attempt.password = Some(Secret::new(self.bad_token.as_bytes())),
                "bearer" => attempt.bearer = Some(Secret::new(self.token.as_bytes())),
                "bad-bearer" => attempt.bearer = Some(Secret::new(self.bad_token.as_bytes())),
                "certificate" => attempt.certificate = Some(&self.certificate),
                "bad-certificate" => attempt.certificate = Some(bad),
                "method" => attempt.enhanced = Some(("SCRAM-SHA-1", None)),
                "loopback" => attempt.loopback = true,
                other => panic!("{other}"),
            }
        }
        attempt
    }

    fn table(&self, rows: &[(&str, &str, &str)]) {
        let bad = Ca::root("other").client("pump", |_| {}).shown();
        for (methods, sent, expected) in rows {
            let methods: Vec<Box<str>> = methods.split_whitespace().map(Box::from).collect();
            let attempt = Attempt {
                methods: (!methods.is_empty()).then_some(&methods),
                ..self.attempt(sent, &bad)
            };
            let found = match ask(&self.desk, &attempt) {
                Ok(accepted) => accepted.identity.principal.to_string(),
                Err(refusal) => match refusal.kind {
                    RefusalKind::BadCredential => "no".into(),
                    other @ (RefusalKind::BadMethod
                    | RefusalKind::Unavailable
                    | RefusalKind::NotAdmitted) => format!("{other:?}"),
                },
            };
            assert_eq!(found, *expected, "{methods:?}: {sent}");
        }
    }
}

#[test]
fn the_first_credential_that_is_present_and_looked_at_is_judged_and_never_another() {
    let setting = Setting::new(|_| {});
    setting.table(&[
        // methods of the listener, what is sent, who it is
        ("", "", "no"),
        ("", "loopback", "no"),
        ("", "user password", "user:anna"),
        ("", "user token", "jwt:token"),
        ("", "token", "jwt:token"),
        ("", "bearer", "jwt:token"),
        ("", "certificate", "cert:pump"),
        // Order.
        ("", "user password bearer certificate", "user:anna"),
        ("", "token bearer certificate", "jwt:token"),
        ("", "bearer certificate", "jwt:token"),
        ("", "method user password bearer certificate", "BadMethod"),
        ("certificate", "method certificate", "BadMethod"),
        // One that fails never falls through.
        ("", "user wrong bearer certificate", "no"),
        ("", "nobody password certificate", "no"),
        ("", "password certificate", "no"),
        ("", "bad-token bearer certificate", "no"),
        ("", "bad-bearer certificate", "no"),
        ("", "bad-certificate", "no"),
        ("anonymous certificate", "bad-certificate", "no"),
        ("anonymous jwt", "bad-token", "no"),
        // What the listener does not look at is as if it were not there.
        ("certificate", "user wrong certificate", "cert:pump"),
        ("certificate jwt", "user password certificate", "cert:pump"),
        ("certificate password", "bad-token certificate", "cert:pump"),
        ("password", "user token", "no"),
        ("password", "certificate", "no"),
        ("password", "bearer", "no"),
        ("jwt", "user password", "no"),
        ("jwt", "user password bearer", "jwt:token"),
        // A user name alone.
        ("", "user", "no"),
        ("", "user certificate", "cert:pump"),
        ("", "user bearer", "no"),
        ("", "user bearer certificate", "jwt:token"),
        ("", "user bad-certificate", "no"),
        ("password", "user certificate", "no"),
        ("anonymous", "user", "no"),
        ("anonymous", "nobody", "no"),
        // Nobody.
        ("anonymous", "", "anonymous"),
        ("anonymous certificate", "", "anonymous"),
        ("anonymous certificate", "certificate", "cert:pump"),
    ]);
}

#[test]
fn anonymous_is_for_loopback_unless_a_listener_names_it() {
    Setting::new(|settings| settings.anonymous = true).table(&[
        ("", "", "no"),
        ("", "loopback", "anonymous"),
        ("", "loopback certificate", "cert:pump"),
        ("", "loopback user wrong", "no"),
        ("anonymous", "", "anonymous"),
        ("certificate", "loopback", "no"),
    ]);
}

#[test]
fn a_method_that_is_not_configured_is_not_looked_at() {
    Setting::new(|settings| {
        settings.password_file = None;
        settings.issuers.clear();
    })
    .table(&[
        ("", "user password certificate", "cert:pump"),
        ("", "token certificate", "cert:pump"),
        ("", "bearer certificate", "cert:pump"),
        ("", "user password", "no"),
        // Named by the listener all the same: looked at, and nobody can be right.
        ("password certificate", "user password certificate", "no"),
        ("jwt certificate", "token certificate", "no"),
    ]);
}

#[test]
fn require_means_both_and_the_token_names_the_principal() {
    let setting = Setting::new(|settings| {
        settings.require = vec![Method::Certificate, Method::Jwt];
        settings.anonymous = true;
    });
    setting.table(&[
        ("", "token certificate", "jwt:token"),
        ("", "bearer certificate", "jwt:token"),
        ("", "token", "no"),
        ("", "certificate", "no"),
        ("", "user password certificate", "no"),
        ("", "bad-token certificate", "no"),
        ("", "token bad-certificate", "no"),
        ("jwt", "token certificate", "no"),
        ("certificate", "token certificate", "no"),
        ("", "loopback", "no"),
        ("anonymous", "", "no"),
    ]);
    let bad = setting.certificate.clone();
    let accepted = ask(&setting.desk, &setting.attempt("token certificate", &bad)).unwrap();
    let attributes = &accepted.identity.attributes;
    assert_eq!(attributes.get("cert.cn").map(|cn| &**cn), Some("pump"));
    assert_eq!(attributes.get("claim.sub").map(|sub| &**sub), Some("token"));
    let credential = accepted.lease.credential;
    assert_eq!(
        setting.desk.standing(&credential, Use::Live),
        Standing::Good
    );

    // Either half ends both.
    let revoking = trust(&[&setting.ca.pem], &[&setting.ca.crl(&[7], 30)]).unwrap();
    setting.desk.set_trust("internet", Some(revoking));
    for purpose in [Use::Live, Use::Stored] {
        let standing = setting.desk.standing(&credential, purpose);
        assert!(matches!(standing, Standing::Revoked(_)), "{standing:?}");
    }
}

#[test]
fn a_refusal_says_what_was_sent_and_what_is_looked_at() {
    let setting = Setting::new(|_| {});
    let methods = [Box::from("password")];
    let bad = setting.certificate.clone();
    let attempt = Attempt {
        methods: Some(&methods),
        ..setting.attempt("certificate", &bad)
    };
    let refusal = ask(&setting.desk, &attempt).unwrap_err();
    assert_eq!(
        refusal.reason,
        "there is only a certificate; the listener looks at password"
    );
    let debug = format!("{:?}", setting.attempt("user password", &bad));
    assert!(!debug.contains("secret"), "{debug}");
}

#[test]
fn credentials_of_others_are_not_mine_and_unreadable_ones_do_not_stand() {
    let setting = Setting::new(|_| {});
    let standing = |method, reference| {
        setting
            .desk
            .standing(&Credential::new(method, reference), Use::Stored)
    };
    assert_eq!(standing("system", ""), Standing::NotMine);
    assert_eq!(standing("ldap", "cn=x"), Standing::NotMine);
    assert_eq!(standing("anonymous", "listener=internet"), Standing::Good);
    for (method, reference) in [("certificate", "x"), ("jwt", ""), ("password", "anna")] {
        assert!(
            matches!(standing(method, reference), Standing::Revoked(_)),
            "{method}"
        );
    }
}

#[test]
fn new_settings_swap_each_unit_by_itself() {
    let setting = Setting::new(|_| {});
    let works = |sent: &str| {
        let bad = setting.certificate.clone();
        ask(&setting.desk, &setting.attempt(sent, &bad)).is_ok()
    };
    // Impossible settings change nothing.
    let mut impossible = setting.settings.clone();
    impossible.require = vec![Method::Password];
    let before = setting.desk.generation();
    let units = setting.desk.reload(impossible);
    assert_eq!(
        (units[0].unit.as_str(), units[0].error.is_some()),
        ("configuration", true)
    );
    assert_eq!(setting.desk.generation(), before);

    // A broken password file does not keep the issuer's new keys out.
    let users = setting.settings.password_file.clone().unwrap();
    std::fs::write(&users, "broken").unwrap();
    let jwks_path = setting.directory.path().join("jwks.json");
    std::fs::write(jwks_path, jwks(&[TokenIssuer::new("k1").jwk()])).unwrap();
    let units = setting.desk.reload(setting.settings.clone());
    let failed: Vec<_> = units
        .iter()
        .map(|unit| (unit.unit.as_str(), unit.error.is_some()))
        .collect();
    assert_eq!(failed, [("password-file", true), ("issuer id", false)]);
    assert!(works("user password"));
    assert!(!works("token"));
    assert!(works("certificate"));

    // A method that is taken out ends what it proved.
    let bad = setting.certificate.clone();
    let credential = ask(&setting.desk, &setting.attempt("user password", &bad))
        .unwrap()
        .lease
        .credential;
    let mut fewer = setting.settings.clone();
    fewer.password_file = None;
    setting.desk.reload(fewer);
    assert!(!works("user password"));
    assert!(matches!(
        setting.desk.standing(&credential, Use::Live),
        Standing::Revoked(_)
    ));
}

#[test]
fn everything_that_is_wrong_at_start_is_said_at_once() {
    let settings = Settings {
        password_file: Some("/nowhere/users".into()),
        issuers: vec![issuer_settings(
            "id",
            KeySource::JwksFile("/nowhere/jwks".into()),
        )],
        ..Settings::default()
    };
    let errors = Desk::open(settings).err().unwrap();
    assert_eq!(errors.len(), 2, "{errors:?}");
}
