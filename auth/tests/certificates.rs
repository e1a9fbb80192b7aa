//! Client certificates: which are believed, whom they name, and when they end.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod common;

use std::sync::Arc;

use common::{
    Ca, Leaf, Rsa1024, ask, at, attempt, chain, client_params, constrained, day, desk, file,
    named_trust, principal, trust, with_certificate,
};
use portcullis_auth::{CertificateName, ClientTrust, Desk, Revocation, Settings};
use portcullis_core::clock::Now;
use portcullis_core::hook::{
    Attempt, Authenticator, ClientCertificate, RefusalKind, Standing, Use,
};
use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, CrlIssuingDistributionPoint,
    CrlScope, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber,
};

fn desk_with(name: CertificateName, trust: Arc<ClientTrust>) -> Desk {
    let desk = desk(Settings {
        certificate: name,
        ..Settings::default()
    });
    desk.set_trust("internet", Some(trust));
    desk
}

fn judge(trust: &Arc<ClientTrust>, certificate: &ClientCertificate) -> Result<String, String> {
    let desk = desk_with(CertificateName::Cn, Arc::clone(trust));
    principal(&desk, &with_certificate(certificate))
}

fn refused(trust: &Arc<ClientTrust>, certificate: &ClientCertificate, word: &str) {
    let reason = judge(trust, certificate).unwrap_err();
    assert!(reason.contains(word), "{word:?} is not in {reason:?}");
}

#[test]
fn only_what_a_configured_ca_issued_for_clients_and_now_is_believed() {
    let ca = Ca::root("ca");
    let trusted = trust(&[&ca.pem], &[]).unwrap();
    let client = |change: fn(&mut CertificateParams)| ca.client("pump", change);
    assert_eq!(
        judge(&trusted, &client(|_| {}).shown()).unwrap(),
        "cert:pump"
    );
    for (leaf, word) in [
        (client(|p| p.not_after = at(-1)), "expired on"),
        (client(|p| p.not_before = at(1)), "not valid before"),
        (
            client(|p| p.extended_key_usages.clear()),
            "no extended key usage",
        ),
        (
            client(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            "lacks clientAuth",
        ),
        (
            client(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]),
            "lacks clientAuth",
        ),
        (
            client(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            "not valid",
        ),
        (
            Ca::root("other").client("pump", |_| {}),
            "no configured client CA",
        ),
        // The same name, another key.
        (Ca::root("ca").client("pump", |_| {}), "not valid"),
    ] {
        refused(&trusted, &leaf.shown(), word);
    }
    let own = KeyPair::generate().unwrap();
    let own = client_params("pump").self_signed(&own).unwrap();
    refused(&trusted, &chain(&[own.der()]), "no configured client CA");
    refused(
        &trusted,
        &chain(&[b"not a certificate"]),
        "cannot be parsed",
    );
    refused(&trusted, &chain(&[]), "empty");
}

#[test]
fn the_kinds_of_key_that_tls_signs_with_are_accepted_and_weak_ones_are_not() {
    let ca = Ca::root("ca");
    let trusted = trust(&[&ca.pem], &[]).unwrap();
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let der = ca.for_key("pump", &key);
        assert_eq!(judge(&trusted, &chain(&[&der])).unwrap(), "cert:pump");
    }
    let der = ca.for_key("pump", &Rsa1024::new());
    refused(&trusted, &chain(&[&der]), "1024 bits");
}

#[test]
fn an_intermediate_may_be_presented_or_configured_but_is_then_no_anchor() {
    let root = Ca::root("root");
    let between = root.below("between", 9);
    let leaf = between.client("pump", |_| {});
    let with_root = trust(&[&root.pem], &[]).unwrap();
    refused(&with_root, &leaf.shown(), "no configured client CA");
    assert!(judge(&with_root, &chain(&[&leaf.der, &between.der])).is_ok());
    // Order and additions do not matter.
    assert!(judge(&with_root, &chain(&[&leaf.der, &root.der, &between.der])).is_ok());

    let both = trust(&[&root.pem, &between.pem], &[]).unwrap();
    assert_eq!(both.authorities(), 1);
    assert!(judge(&both, &leaf.shown()).is_ok());
    // Alone it is the end of trust.
    let alone = trust(&[&between.pem], &[]).unwrap();
    assert_eq!(alone.authorities(), 1);
    assert!(judge(&alone, &leaf.shown()).is_ok());
}

#[test]
fn chains_are_bounded_and_constraints_hold() {
    let root = Ca::root("root");
    let trusted = trust(&[&root.pem], &[]).unwrap();
    let leaf = root.client("pump", |_| {});
    let huge: Vec<&[u8]> = std::iter::repeat_n(&*leaf.der, 11).collect();
    refused(&trusted, &chain(&huge), "the limit is 10");

    let mut cas = vec![root.below("0", 1)];
    for depth in 1..8 {
        let next = cas.last().unwrap().below(&depth.to_string(), 1);
        cas.push(next);
    }
    let leaf = cas.last().unwrap().client("pump", |_| {});
    let mut ders: Vec<&[u8]> = vec![&leaf.der];
    ders.extend(cas.iter().map(|ca| &*ca.der));
    refused(&trusted, &chain(&ders), "not valid");

    let constrained = constrained(&root, "plant.example");
    for (name, good) in [("pump.plant.example", true), ("pump.other.example", false)] {
        let leaf = constrained.client("pump", |params| {
            params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        });
        let judged = judge(&trusted, &chain(&[&leaf.der, &constrained.der]));
        assert_eq!(judged.is_ok(), good, "{name}: {judged:?}");
    }
}

#[test]
fn the_principal_is_the_only_name_of_its_kind_byte_exact() {
    use CertificateName as N;
    let ca = Ca::root("ca");
    let trusted = trust(&[&ca.pem], &[]).unwrap();
    let sans = |list: &[(&str, &str)]| -> Leaf {
        ca.client("Pump 17", |params| {
            params.subject_alt_names = list
                .iter()
                .map(|(kind, name)| match *kind {
                    "dns" => SanType::DnsName((*name).try_into().unwrap()),
                    "uri" => SanType::URI((*name).try_into().unwrap()),
                    _ => SanType::Rfc822Name((*name).try_into().unwrap()),
                })
                .collect();
        })
    };
    let two_cns = ca.client("one", |params| {
        let cn = DnType::CustomDnType(vec![2, 5, 4, 3]);
        params.distinguished_name.push(cn, "two");
    });
    let no_cn = ca.client("x", |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "o");
    });
    let cn = |name: &str| ca.client(name, |_| {});
    let spiffe = "spiffe://plant.example/ward/3";
    for (kind, leaf, expected) in [
        (N::Cn, cn("Pump 17"), Ok("cert:Pump 17")),
        (N::Cn, cn("P\u{fc}mp\u{e9}"), Ok("cert:P\u{fc}mp\u{e9}")),
        (N::Cn, cn("*.example"), Err("wildcard")),
        (N::Cn, cn("a\u{7}b"), Err("control")),
        (N::Cn, cn(""), Err("empty")),
        (N::Cn, two_cns, Err("2 common names")),
        (N::Cn, no_cn, Err("no common name")),
        (
            N::SanDns,
            sans(&[("dns", "a.example")]),
            Ok("cert:a.example"),
        ),
        (N::SanDns, sans(&[("dns", "*.example")]), Err("wildcard")),
        (
            N::SanDns,
            sans(&[("dns", "a"), ("dns", "b")]),
            Err("2 names"),
        ),
        (
            N::SanDns,
            sans(&[("dns", "a"), ("dns", "a")]),
            Err("2 names"),
        ),
        (N::SanDns, sans(&[("uri", spiffe)]), Err("no such name")),
        (
            N::SanUri,
            sans(&[("uri", spiffe), ("dns", "a")]),
            Ok("cert:spiffe://plant.example/ward/3"),
        ),
        (
            N::SanEmail,
            sans(&[("email", "a@b.example")]),
            Ok("cert:a@b.example"),
        ),
        (N::SanEmail, sans(&[]), Err("no such name")),
        (N::Subject, cn("a,b+c"), Ok("cert:CN=a\\,b\\+c")),
    ] {
        let desk = desk_with(kind, Arc::clone(&trusted));
        let judged = principal(&desk, &with_certificate(&leaf.shown()));
        match (judged, expected) {
            (Ok(name), Ok(expected)) => assert_eq!(name, expected),
            (Err(reason), Err(word)) => assert!(reason.contains(word), "{reason}"),
            (judged, expected) => panic!("{judged:?}, not {expected:?}"),
        }
    }
    let leaf = cn("pump");
    let desk = desk_with(N::Fingerprint, trusted);
    let name = principal(&desk, &with_certificate(&leaf.shown())).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &leaf.der);
    let digits = name.strip_prefix("cert:").unwrap();
    assert_eq!(digits.len(), 64);
    for (at, byte) in digest.as_ref().iter().enumerate() {
        assert_eq!(digits[2 * at..2 * at + 2], format!("{byte:02x}"));
    }
}

#[test]
fn attributes_are_taken_where_there_is_exactly_one_value() {
    let ca = Ca::root("ca");
    let leaf = ca.client("pump", |params| {
        params.serial_number = Some(SerialNumber::from_slice(&[0x8f, 0x01]));
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, "ward-3");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "a\nb");
        params.subject_alt_names = vec![
            SanType::DnsName("a".try_into().unwrap()),
            SanType::DnsName("b".try_into().unwrap()),
            SanType::URI("spiffe://x/y".try_into().unwrap()),
        ];
    });
    let desk = desk_with(CertificateName::Cn, trust(&[&ca.pem], &[]).unwrap());
    let accepted = ask(&desk, &with_certificate(&leaf.shown())).unwrap();
    let found = &accepted.identity.attributes;
    for (key, value) in [
        ("cert.cn", Some("pump")),
        ("cert.ou", Some("ward-3")),
        ("cert.o", None),
        ("cert.serial", Some("8f01")),
        ("cert.san-dns", None),
        ("cert.san-uri", Some("spiffe://x/y")),
        ("cert.san-email", None),
        ("cert.subject", None),
        ("cert.issuer", Some("CN=ca")),
    ] {
        assert_eq!(found.get(key).map(|value| &**value), value, "{key}");
    }
    assert_eq!(found.get("cert.fingerprint").unwrap().len(), 64);
    assert!(accepted.identity.roles.is_empty());
}

#[test]
fn the_lease_ends_with_the_first_certificate_of_the_path() {
    let until = |root_days: i64, leaf_days: i64| {
        let ca = Ca::root_until("ca", root_days);
        let leaf = ca.client("pump", |params| params.not_after = at(leaf_days));
        let desk = desk_with(CertificateName::Cn, trust(&[&ca.pem], &[]).unwrap());
        ask(&desk, &with_certificate(&leaf.shown()))
            .unwrap()
            .lease
            .until
    };
    assert_eq!(until(100, 50), Some(day(50)));
    assert_eq!(until(20, 50), Some(day(20)));
}

#[test]
fn a_certificate_that_was_good_in_the_handshake_is_judged_again_by_the_clock_of_connect() {
    let ca = Ca::root_until("ca", 20);
    let leaf = ca.client("pump", |params| params.not_after = at(50));
    let shown = leaf.shown();
    let desk = desk_with(CertificateName::Cn, trust(&[&ca.pem], &[]).unwrap());
    for (days, word) in [(21, "is expired"), (51, "expired on")] {
        let late = Attempt {
            now: Now {
                wall: day(days),
                ..common::now()
            },
            ..with_certificate(&shown)
        };
        let refusal = ask(&desk, &late).unwrap_err();
        assert!(refusal.reason.contains(word), "{}", refusal.reason);
        assert_eq!(refusal.kind, RefusalKind::BadCredential);
        assert_eq!(refusal.claimed.unwrap().as_str(), "cert:pump");
    }
}

#[test]
fn a_path_that_is_remembered_serves_nobody_whom_a_new_one_would_not() {
    let root = Ca::root_until("root", 20);
    let between = root.below("between", 9);
    let soon = root.client("soon", |params| {
        params.not_before = at(-3);
        params.not_after = at(5);
    });
    let below = between.client("below", |_| {});
    let impostor = Ca::root_until("root", 20).client("soon", |params| params.not_after = at(5));
    let trusted = trust(&[&root.pem], &[]).unwrap();
    let desk = desk_with(CertificateName::Cn, Arc::clone(&trusted));
    let judge = |certificate: &ClientCertificate, days| {
        let then = Attempt {
            now: Now {
                wall: day(days),
                ..common::now()
            },
            ..with_certificate(certificate)
        };
        principal(&desk, &then)
    };
    let with = |leaf: &Leaf, others: &[&[u8]]| {
        let ders: Vec<&[u8]> = [&*leaf.der]
            .into_iter()
            .chain(others.iter().copied())
            .collect();
        chain(&ders)
    };
    // Everybody has been here.
    for shown in [with(&soon, &[]), with(&below, &[&between.der])] {
        judge(&shown, 0).unwrap();
    }
    let mut tampered = soon.der.to_vec();
    *tampered.last_mut().unwrap() ^= 1;
    for (shown, days, word) in [
        // It ends, its CA ends, it has not begun.
        (with(&soon, &[]), 6, "expired on"),
        (with(&below, &[&between.der]), 21, "is expired"),
        (with(&soon, &[]), -4, "not valid before"),
        // Another certificate, whatever it shares with the one that was seen.
        (with(&impostor, &[]), 0, "not valid"),
        (chain(&[&tampered]), 0, "not valid"),
        // Its CA is not there this time, or not as a whole certificate.
        (with(&below, &[]), 0, "no configured client CA"),
        (with(&below, &[&between.der[1..]]), 0, "not valid"),
        (
            chain(&[&[&*below.der, &*between.der].concat()]),
            0,
            "cannot be used",
        ),
    ] {
        let reason = judge(&shown, days).unwrap_err();
        assert!(reason.contains(word), "{word:?} is not in {reason:?}");
    }
    // Those who were believed still are.
    judge(&with(&soon, &[]), 1).unwrap();
    judge(&with(&below, &[&between.der]), 1).unwrap();
}

#[test]
fn what_a_crl_names_is_refused_whether_leaf_or_intermediate() {
    let root = Ca::root("root");
    let between = root.below("between", 9);
    let leaf = between.client("pump", |params| {
        params.serial_number = Some(SerialNumber::from(5));
    });
    let shown = chain(&[&leaf.der, &between.der]);
    let both = [&*root.pem, &*between.pem];
    let with = |crls: &[&str]| trust(&both, crls).unwrap();
    let (root_empty, between_empty) = (root.crl(&[], 30), between.crl(&[], 30));

    // An empty signed list is a list.
    assert!(judge(&with(&[&root_empty, &between_empty]), &shown).is_ok());
    // Somebody else's serial, and the same serial of another issuer.
    let other = [between.crl(&[6], 30), root.crl(&[5], 30)];
    assert!(judge(&with(&[&other[0], &other[1]]), &shown).is_ok());
    refused(
        &with(&[&root_empty, &between.crl(&[5], 30)]),
        &shown,
        "serial 05 is revoked",
    );
    refused(
        &with(&[&root.crl(&[9], 30), &between_empty]),
        &shown,
        "serial 09 is revoked",
    );
    // A CA without CRL.
    refused(&with(&[&root_empty]), &shown, "no CRL of that CA");
    refused(&with(&[&between_empty]), &shown, "no CRL of that CA");
    // Two lists of one CA add up.
    let halves = with(&[&root_empty, &between_empty, &between.crl(&[5], 30)]);
    refused(&halves, &shown, "revoked");
}

#[test]
fn a_list_of_a_hundred_thousand_revokes_each_of_them_and_nobody_else() {
    let ca = Ca::root("ca");
    let serials: Vec<u64> = (1_000..101_000).collect();
    let trust = trust(&[&ca.pem], &[&ca.crl(&serials, 30)]).unwrap();
    assert_eq!(trust.revoked(), Some(100_000));
    for (serial, good) in [
        (999, true),
        (1_000, false),
        (100_999, false),
        (101_000, true),
    ] {
        let leaf = ca.client("pump", |params| {
            params.serial_number = Some(SerialNumber::from(serial));
        });
        assert_eq!(judge(&trust, &leaf.shown()).is_ok(), good, "{serial}");
    }
}

#[test]
fn a_crl_is_believed_until_next_update_and_grace() {
    let ca = Ca::root("ca");
    let leaf = ca.client("pump", |_| {});
    // At noon of day 0, with a day of grace.
    for (next, good) in [(1, true), (0, true), (-1, false), (-2, false)] {
        let trusted = trust(&[&ca.pem], &[&ca.crl(&[], next)]).unwrap();
        let shown = leaf.shown();
        let noon = Attempt {
            now: common::now().after(std::time::Duration::from_hours(12)),
            ..with_certificate(&shown)
        };
        let judged = principal(&desk_with(CertificateName::Cn, trusted), &noon);
        assert_eq!(judged.is_ok(), good, "{next}: {judged:?}");
        if let Err(reason) = judged {
            assert!(reason.contains("older than its nextUpdate"), "{reason}");
        }
    }
}

#[test]
fn a_crl_speaks_only_for_its_scope() {
    let root = Ca::root("root");
    let between = root.below("between", 9);
    let leaf = between.client("pump", |_| {});
    let shown = chain(&[&leaf.der, &between.der]);
    let scoped = |ca: &Ca, scope| {
        let mut params = common::crl_params(&[], 30);
        params.issuing_distribution_point = Some(CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint {
                uris: vec!["http://crl.example/1.crl".into()],
            },
            scope,
        });
        params.signed_by(&ca.issuer).unwrap().pem().unwrap()
    };
    for (of_root, of_between, good) in [
        (None, None, true),
        (
            Some(CrlScope::CaCertsOnly),
            Some(CrlScope::UserCertsOnly),
            true,
        ),
        (Some(CrlScope::UserCertsOnly), None, false),
        (None, Some(CrlScope::CaCertsOnly), false),
    ] {
        let crls = [scoped(&root, of_root), scoped(&between, of_between)];
        let trusted = trust(&[&root.pem, &between.pem], &[&crls[0], &crls[1]]).unwrap();
        let judged = judge(&trusted, &shown);
        assert_eq!(
            judged.is_ok(),
            good,
            "{of_root:?} {of_between:?}: {judged:?}"
        );
    }
}

#[test]
fn broken_ca_and_crl_files_are_errors_with_a_remedy() {
    let ca = Ca::root("ca");
    let other = Ca::root("other");
    let impostor = Ca::root("ca");
    let leaf = ca.client("pump", |_| {});
    let early = {
        let mut params = common::crl_params(&[], 30);
        params.this_update = at(1);
        params.signed_by(&ca.issuer).unwrap().pem().unwrap()
    };
    let no_sign = {
        let key = KeyPair::generate().unwrap();
        let mut params = client_params("ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (params.self_signed(&key).unwrap().pem(), key, params)
    };
    let unsigned = {
        let key = &no_sign.1;
        let mut params = no_sign.2.clone();
        params.key_usages = vec![];
        let issuer = rcgen::Issuer::from_params(&params, key);
        common::crl_params(&[], 30)
            .signed_by(&issuer)
            .unwrap()
            .pem()
            .unwrap()
    };
    for (cas, crls, words) in [
        (&[""][..], &[][..], "no certificate"),
        (&["garbage"], &[], "no certificate"),
        (&[&*leaf.pem], &[], "not a CA certificate"),
        (&[&*Ca::root_until("old", -1).pem], &[], "expired"),
        (&[&*ca.pem], &["garbage"], "neither"),
        (&[&*ca.pem], &[&*ca.pem], "holds no CRL"),
        (&[&*ca.pem], &[&*other.crl(&[], 30)], "not signed by any"),
        (&[&*ca.pem], &[&*impostor.crl(&[], 30)], "not signed by any"),
        (&[&*ca.pem], &[&*early], "future"),
        (&[&*no_sign.0], &[&*unsigned], "not signed by any"),
    ] {
        let error = trust(cas, crls).err().unwrap();
        assert!(
            error.contains(words) && error.contains("; "),
            "{words}: {error}"
        );
    }
    let missing = ClientTrust::load(
        &[std::path::PathBuf::from("/nowhere/ca.pem").into()],
        &common::revocation(vec![]),
        day(0),
    );
    assert!(missing.err().unwrap().to_string().contains("no such file"));
}

#[test]
fn a_later_crl_or_a_removed_ca_revokes_what_stands() {
    let ca = Ca::root("ca");
    let other = Ca::root("other");
    let leaf = ca.client("pump", |_| {});
    let desk = desk_with(CertificateName::Cn, trust(&[&ca.pem], &[]).unwrap());
    let credential = ask(&desk, &with_certificate(&leaf.shown()))
        .unwrap()
        .lease
        .credential;
    let standing = |purpose| desk.standing(&credential, purpose);
    let set = |cas: &[&str], crls: &[&str]| {
        let before = desk.generation();
        desk.set_trust("internet", Some(trust(cas, crls).unwrap()));
        assert_ne!(desk.generation(), before);
    };
    assert_eq!(standing(Use::Live), Standing::Good);
    assert_eq!(standing(Use::Stored), Standing::Good);

    set(&[&ca.pem], &[&ca.crl(&[7], 30)]);
    assert!(matches!(standing(Use::Live), Standing::Revoked(why) if why.contains("serial 07")));
    assert!(matches!(standing(Use::Stored), Standing::Revoked(_)));

    // Without its CA the connection ends, but what it stored stays.
    set(&[&other.pem], &[]);
    assert!(matches!(standing(Use::Live), Standing::Revoked(why) if why.contains("CA")));
    assert_eq!(standing(Use::Stored), Standing::Good);

    // Another CA of the same name has another key.
    set(&[&Ca::root("ca").pem], &[]);
    assert!(matches!(standing(Use::Live), Standing::Revoked(_)));

    set(&[&ca.pem, &other.pem], &[]);
    assert_eq!(standing(Use::Live), Standing::Good);

    desk.set_trust("internet", None);
    assert!(matches!(standing(Use::Live), Standing::Revoked(_)));
}

#[test]
fn a_listener_without_client_ca_believes_no_certificate() {
    let ca = Ca::root("ca");
    let shown = ca.client("pump", |_| {}).shown();
    let desk = desk_with(CertificateName::Cn, trust(&[&ca.pem], &[]).unwrap());
    let elsewhere = Attempt {
        listener: "other",
        certificate: Some(&shown),
        ..attempt()
    };
    assert!(
        principal(&desk, &elsewhere)
            .unwrap_err()
            .contains("no client CA")
    );
}

#[test]
fn the_verified_path_says_which_ca_names_the_client() {
    let (plant, office, plain) = (Ca::root("plant"), Ca::root("office"), Ca::root("plain"));
    let line = plant.below("line", 40);
    let cas = [
        (Some("plant"), &*plant.pem),
        (Some("office"), &*office.pem),
        (None, &*plain.pem),
    ];
    let desk = desk_with(CertificateName::Cn, named_trust(&cas).unwrap());
    let judge = |certificate: ClientCertificate| {
        ask(&desk, &with_certificate(&certificate)).map(|accepted| accepted.identity)
    };
    let below = line.client("pump", |_| {});
    for (certificate, principal, name, ca) in [
        (
            plant.client("pump", |_| {}).shown(),
            "cert:plant/pump",
            "pump",
            Some("plant"),
        ),
        (
            chain(&[&below.der, &line.der]),
            "cert:plant/pump",
            "pump",
            Some("plant"),
        ),
        (
            office.client("pump", |_| {}).shown(),
            "cert:office/pump",
            "pump",
            Some("office"),
        ),
        (
            plain.client("pump", |_| {}).shown(),
            "cert:pump",
            "pump",
            None,
        ),
        // A slash of its own is part of the NAME.
        (
            plant.client("office/pump", |_| {}).shown(),
            "cert:plant/office/pump",
            "office/pump",
            Some("plant"),
        ),
        (
            plain.client("area/pump", |_| {}).shown(),
            "cert:area/pump",
            "area/pump",
            None,
        ),
    ] {
        let identity = judge(certificate).unwrap();
        assert_eq!(identity.principal.as_str(), principal);
        assert_eq!(identity.name(), name, "{principal}");
        let attribute = identity.attributes.get("cert.ca").map(|ca| &**ca);
        assert_eq!(attribute, ca, "{principal}");
    }
}

#[test]
fn a_ca_without_a_name_cannot_speak_for_one_that_has_a_name() {
    let (plant, plain) = (Ca::root("plant"), Ca::root("plain"));
    let trusted = named_trust(&[(None, &plain.pem)]).unwrap();
    let desk = desk_with(CertificateName::Cn, trusted);
    let forged = plain.client("plant/pump", |_| {}).shown();
    let judge = || principal(&desk, &with_certificate(&forged));
    // As long as nobody is called plant, it is a name as others.
    assert_eq!(judge().unwrap(), "cert:plant/pump");
    // On whatever listener that is.
    let named = named_trust(&[(Some("plant"), &plant.pem)]).unwrap();
    desk.set_trust("other", Some(named));
    let why = judge().unwrap_err();
    assert!(why.contains("another CA issued it"), "{why}");
    // The record does not blame the plant's pump.
    let refusal = ask(&desk, &with_certificate(&forged)).unwrap_err();
    assert_eq!(refusal.claimed, None);
}

#[test]
fn the_nearest_ca_with_a_name_counts_and_one_ca_has_one_name() {
    let root = Ca::root("root");
    let (line, other) = (root.below("line", 40), root.below("other", 41));
    let judge = |cas: &[(Option<&str>, &str)], leaf: &Leaf, above: &Ca| {
        let desk = desk_with(CertificateName::Cn, named_trust(cas).unwrap());
        let shown = chain(&[&leaf.der, &above.der]);
        principal(&desk, &with_certificate(&shown))
    };
    let (in_line, elsewhere) = (line.client("p", |_| {}), other.client("p", |_| {}));
    let both = [(Some("root"), &*root.pem), (Some("line"), &*line.pem)];
    assert_eq!(judge(&both, &in_line, &line).unwrap(), "cert:line/p");
    assert_eq!(judge(&both, &elsewhere, &other).unwrap(), "cert:root/p");
    let between = [(None, &*root.pem), (Some("line"), &*line.pem)];
    assert_eq!(judge(&between, &in_line, &line).unwrap(), "cert:line/p");
    assert_eq!(judge(&between, &elsewhere, &other).unwrap(), "cert:p");
    let above = [(Some("root"), &*root.pem), (None, &*line.pem)];
    assert_eq!(judge(&above, &in_line, &line).unwrap(), "cert:root/p");

    let twice = named_trust(&[(Some("a"), &root.pem), (Some("b"), &root.pem)]);
    assert!(twice.err().unwrap().contains("under another name"));
    assert!(named_trust(&[(Some("a"), &root.pem), (Some("a"), &root.pem)]).is_ok());
}

#[test]
fn a_ca_that_is_called_otherwise_ends_the_connections_of_its_clients() {
    let ca = Ca::root("ca");
    let shown = ca.client("pump", |_| {}).shown();
    let names = [None, Some("plant"), Some("works")];
    for before in names {
        let called = |name| Some(named_trust(&[(name, &ca.pem)]).unwrap());
        let desk = desk_with(CertificateName::Cn, called(before).unwrap());
        let accepted = ask(&desk, &with_certificate(&shown)).unwrap();
        for after in names {
            desk.set_trust("internet", called(after));
            let standing = |purpose| desk.standing(&accepted.lease.credential, purpose);
            assert_eq!(
                standing(Use::Live) == Standing::Good,
                before == after,
                "{before:?} {after:?}"
            );
            assert_eq!(standing(Use::Stored), Standing::Good);
        }
    }
}

#[test]
fn a_name_for_a_nearer_ca_ends_the_connections_of_its_clients() {
    let root = Ca::root("root");
    let line = root.below("line", 40);
    let leaf = line.client("pump", |_| {});
    let shown = chain(&[&leaf.der, &line.der]);
    for root_is in [None, Some("plant")] {
        let cas = |line_is| {
            let cas = [(root_is, &*root.pem), (line_is, &*line.pem)];
            named_trust(&cas).unwrap()
        };
        let desk = desk_with(CertificateName::Cn, cas(None));
        let accepted = ask(&desk, &with_certificate(&shown)).unwrap();
        let standing = |purpose| desk.standing(&accepted.lease.credential, purpose);
        desk.set_trust("internet", Some(cas(None)));
        assert_eq!(standing(Use::Live), Standing::Good);
        desk.set_trust("internet", Some(cas(Some("line3"))));
        assert!(matches!(standing(Use::Live), Standing::Revoked(_)));
        assert_eq!(standing(Use::Stored), Standing::Good);
    }
}

#[test]
fn a_listeners_own_list_denies_a_certificate_there_and_nowhere_else() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::root("ca");
    let shown = ca.client("pump", |_| {}).shown();
    let desk = desk_with(CertificateName::Cn, trust(&[&ca.pem], &[]).unwrap());
    let at = |listener| Attempt {
        listener,
        certificate: Some(&shown),
        ..attempt()
    };
    let accepted = ask(&desk, &at("internet")).unwrap();
    let fingerprint = &accepted.identity.attributes["cert.fingerprint"];
    let revocation = Revocation {
        deny: Some(file(directory.path(), "denied.txt", fingerprint.as_bytes())),
        ..common::revocation(vec![])
    };
    let pem = file(directory.path(), "ca.pem", &ca.pem);
    let (denying, _) = ClientTrust::load(&[pem.into()], &revocation, day(0)).unwrap();
    desk.set_trust("other", Some(Arc::clone(&denying)));
    assert!(ask(&desk, &at("internet")).is_ok());
    let why = principal(&desk, &at("other")).unwrap_err();
    assert!(why.contains("deny-fingerprints"), "{why}");
    // It ends what stands, and withholds what its holder has stored.
    let standing = |purpose| desk.standing(&accepted.lease.credential, purpose);
    assert_eq!(standing(Use::Live), Standing::Good);
    desk.set_trust("internet", Some(denying));
    for purpose in [Use::Live, Use::Stored] {
        assert!(
            matches!(standing(purpose), Standing::Revoked(why) if why.contains("deny-fingerprints"))
        );
    }
}
