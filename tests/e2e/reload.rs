//! SIGHUP: what is good is taken up and reaches the living; what is broken stays out, loudly.

use std::fs;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;
use time::OffsetDateTime;

use crate::client::{V3, V5, VERSIONS};
use crate::harness::{ANNA, Broker, POLICY, Setup, eventually};

/// Rule 6. A second is the bound of the rule; the line `reloaded` comes after every session goes
/// by the new policy, so what is published then shows it without a clock.
#[test]
fn rule_6_a_live_subscription_is_suspended_by_a_new_policy_and_resumes() {
    let broker = Broker::start(|_| ());
    let without = POLICY.replace(
        "p, role:operator, devices/#,                subscribe, allow",
        "",
    );
    assert_ne!(without, POLICY);
    let mut operator = broker.device(V5, "operator");
    operator.subscribe(&["devices/#", "lab/end"], 1);
    let mut device = broker.device(V3, "device-1");
    // What arrives of one message and the end that follows it.
    let mut sent = |payload: &str| {
        device.publish("devices/device-1/telemetry", payload, 1);
        device.publish("lab/end", "end", 1);
        let mut arrived = Vec::new();
        while arrived.last().is_none_or(|last| last != "end") {
            arrived.push(operator.payload());
        }
        arrived
    };
    assert_eq!(sent("one"), ["one", "end"]);
    broker.replace_policy(&without).unwrap();
    assert_eq!(sent("two"), ["end"]);
    let show = broker.ask(&["client", "show", "operator"]).succeeded().out;
    assert!(show.contains("devices/#  qos 1  suspended"), "{show}");
    broker.record("suspended", &[("filter", "devices/#")]);
    broker.replace_policy(POLICY).unwrap();
    assert_eq!(sent("three"), ["three", "end"]);
    broker.record("resumed", &[("filter", "devices/#")]);
}

#[test]
fn rule_6_on_revoke_may_end_the_connection() {
    let broker = Broker::start(|setup| setup.acl += "on-revoke = \"disconnect\"\n");
    let mut clients = VERSIONS.map(|version| {
        let mut client = broker.user(version, &format!("{version:?}"), ANNA);
        client.subscribe(&["lab/a"], 1);
        client
    });
    let policy = format!("{POLICY}p, user:anna, lab/a, subscribe, deny\n");
    broker.replace_policy(&policy).unwrap();
    assert_eq!(clients[0].ended(), None);
    assert_eq!(clients[1].ended(), Some(0x87));
}

#[test]
fn a_publisher_loses_a_right_on_the_connection_that_it_has() {
    let broker = Broker::start(|_| ());
    let mut anna = broker.user(V5, "anna", ANNA);
    assert_eq!(anna.publish("lab/a", "", 1), 0x10);
    let policy = format!("{POLICY}p, user:anna, lab/a, publish, deny\n");
    broker.replace_policy(&policy).unwrap();
    assert_eq!(anna.publish("lab/a", "", 1), 0x87);
    broker.replace_policy(POLICY).unwrap();
    assert_eq!(anna.publish("lab/a", "", 1), 0x10);
}

/// Rule 8 for each unit: what is broken is named and kept out.
#[test]
fn rule_8_a_broken_file_keeps_the_old_state_and_is_named() {
    let broker = Broker::start(|_| ());
    let mut device = broker.device(V5, "device-1");
    device.subscribe(&["lab/alive"], 1);
    let file = |name: &str| broker.setup.path(name);
    for (name, broken, unit) in [
        (
            "policy.csv",
            "p, role:device, lab/#, publsh, allow\n",
            "policy",
        ),
        ("policy.csv", "# no lines\n", "policy"),
        ("policy.csv", "", "policy"),
        ("users.passwd", "anna:not a hash\n", "password"),
        ("users.passwd", "", "password"),
        ("tokens/issuer.pub", "not a key", "example"),
        ("pki/server.pem", "not a certificate", "listener main"),
        ("pki/ca.pem", "", "listener main"),
        ("portcullis.toml", "data-dir = [", "configuration"),
        ("portcullis.toml", "data-dur = \"data\"\n", "configuration"),
    ] {
        let before = fs::read(file(name)).unwrap();
        fs::write(file(name), broken).unwrap();
        let line = broker.reload().unwrap_err();
        assert!(line.contains(unit), "{name}: {line}");
        let loud = broker.log.text();
        assert!(loud.contains("ERROR"), "{loud}");
        broker.record("reload", &[("unit", unit), ("error", "")]);
        // Everything works as before.
        device.publish("lab/alive", name, 1);
        assert_eq!(device.payload(), name);
        broker.user(V5, "anna", ANNA).disconnect();
        let token = broker.setup.token(&serde_json::json!({}));
        broker.dial(V3, "t").token(&token).connect().disconnect();
        broker.device(V3, "device-2").disconnect();
        fs::write(file(name), before).unwrap();
        broker.reload().unwrap();
    }
}

#[test]
fn a_good_unit_is_taken_up_beside_a_broken_one() {
    let broker = Broker::start(|_| ());
    broker.setup.passwd("carol", "new here");
    let line = broker.replace_policy("broken").unwrap_err();
    assert!(line.contains("policy"), "{line}");
    assert!(!line.contains("password"), "{line}");
    broker.user(V5, "carol", ("carol", "new here")).disconnect();
}

#[test]
fn a_renewed_server_certificate_is_shown_to_new_connections_and_old_ones_live_on() {
    let broker = Broker::start(|_| ());
    let shown = || {
        let mut stream = broker.tls_stream(Some("device-2"));
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        stream.conn.peer_certificates().unwrap()[0].to_vec()
    };
    let mut old = broker.device(V5, "device-1");
    old.subscribe(&["lab/a"], 1);
    let before = shown();
    assert_eq!(shown(), before);
    for name in ["pki/server.pem", "pki/server.key"] {
        fs::remove_file(broker.setup.path(name)).unwrap();
    }
    broker
        .setup
        .portcullis(&["pki", "server", "pki"])
        .succeeded();
    assert_eq!(shown(), before, "not before SIGHUP");
    broker.reload().unwrap();
    assert_ne!(shown(), before);
    old.publish("lab/a", "still here", 1);
    assert_eq!(old.payload(), "still here");
    broker.device(V3, "device-2").disconnect();
}

#[test]
fn rule_6_a_changed_password_ends_the_connections_that_the_old_one_made() {
    let broker = Broker::start(|_| ());
    let mut clients = VERSIONS.map(|version| broker.user(version, &format!("{version:?}"), ANNA));
    let mut other = broker.device(V5, "device-1");
    broker.setup.passwd("anna", "another one");
    broker.reload().unwrap();
    assert_eq!(clients[0].ended(), None);
    assert_eq!(clients[1].ended(), Some(0x87));
    assert_eq!(broker.dial(V5, "anna").login(ANNA).refused(), 0x86);
    broker
        .user(V5, "anna", ("anna", "another one"))
        .disconnect();
    assert_eq!(other.publish("lab/a", "", 1), 0x10);
}

#[test]
fn rule_6_a_removed_user_is_disconnected_and_what_it_retained_is_withheld() {
    let broker = Broker::start(|_| ());
    let mut anna = broker.user(V5, "anna", ANNA);
    anna.retain("lab/r", "from anna", 1);
    broker
        .setup
        .portcullis(&["passwd", "users.passwd", "anna", "--delete"])
        .succeeded();
    broker.reload().unwrap();
    assert_eq!(anna.ended(), Some(0x87));
    let mut reader = broker.device(V5, "device-1");
    reader.subscribe(&["lab/r", "lab/end"], 1);
    reader.publish("lab/end", "end", 1);
    assert_eq!(reader.payload(), "end");
}

#[test]
fn limits_and_rules_of_a_changed_configuration_apply_to_live_connections() {
    let mut broker = Broker::start(|_| ());
    let mut client = broker.device(V5, "device-1");
    assert_eq!(client.subscribe(&["lab/a", "lab/b"], 1), [1, 1]);
    broker.setup.limits += "filters-per-subscribe = 1\nsubscriptions-per-session = 3\n";
    broker.setup.write();
    broker.reload().unwrap();
    assert_eq!(client.subscribe(&["lab/c"], 1), [1]);
    assert_eq!(
        client.subscribe(&["lab/d"], 1),
        [0x97],
        "the session is full"
    );
    // A listener's address needs a restart, and that is said.
    broker.setup.listeners = broker
        .setup
        .listeners
        .replace(":0\"\nplaintext", ":1\"\nplaintext");
    broker.setup.write();
    broker.reload().unwrap();
    assert!(broker.log.text().contains("needs a restart"));
    broker.user(V5, "anna", ANNA).disconnect();
}

/// A token that names the certificate of a client (RFC 8705).
fn bound_to(broker: &Broker, name: &str) -> String {
    let pem = fs::read(broker.setup.path(&format!("pki/{name}.pem"))).unwrap();
    let der = CertificateDer::from_pem_slice(&pem).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    let thumbprint = URL_SAFE_NO_PAD.encode(digest);
    broker
        .setup
        .token(&json!({"cnf": {"x5t#S256": thumbprint}}))
}

#[test]
fn rule_6_a_token_ends_with_the_certificate_that_it_needs() {
    for required in [false, true] {
        let broker = Broker::start(|setup| {
            let optional = "client-auth = \"optional\"\n";
            let with_list = format!("{optional}crl = [\"pki/ca.crl\"]\n");
            setup.listeners = setup.listeners.replace(optional, &with_list);
            setup.portcullis(&["pki", "crl", "pki"]).succeeded();
            if required {
                setup.auth += "require = [\"certificate\", \"jwt\"]\n";
                setup.listeners = setup
                    .listeners
                    .replace("auth = [\"jwt\", \"password\"]\n", "");
            }
        });
        let bound = if required {
            broker.setup.token(&json!({}))
        } else {
            bound_to(&broker, "device-1")
        };
        let with = |id, name| broker.dial(V5, id).certificate(name).token(&bound);
        let mut client = with("a", "device-1").connect();
        let other = if required {
            with("b", "device-2").connect()
        } else {
            assert_eq!(with("b", "device-2").refused(), 0x86);
            let free = broker.setup.token(&json!({}));
            broker
                .dial(V5, "b")
                .certificate("device-1")
                .token(&free)
                .connect()
        };
        let revoke = ["pki", "revoke", "pki", "device-1"];
        broker.setup.portcullis(&revoke).succeeded();
        broker.setup.portcullis(&["pki", "crl", "pki"]).succeeded();
        broker.reload().unwrap();
        assert_eq!(client.ended(), Some(0x87));
        other.disconnect();
    }
}

/// A server certificate that ends in a day and a few seconds is warned of when the broker starts and
/// again when the day begins, as is one that a reload brings.
#[test]
fn what_nears_its_end_is_said_in_the_log_once_at_each_step() {
    let ends_in = |setup: &Setup, span: Duration| {
        let read = |name: &str| fs::read_to_string(setup.path(name)).unwrap();
        let key = KeyPair::from_pem(&read("pki/ca.key")).unwrap();
        let ca = Issuer::from_ca_cert_pem(&read("pki/ca.pem"), key).unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::from_hours(24 * 99);
        params.not_after = now + span;
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
        let key = KeyPair::from_pem(&read("pki/server.key")).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        fs::write(setup.path("pki/server.pem"), certificate.pem()).unwrap();
    };
    let day = Duration::from_hours(24);
    let broker = Broker::start(|setup| ends_in(setup, day + Duration::from_secs(15)));
    let said = |words: &str| {
        let log = broker.log.text();
        let lines = log.lines().filter(|line| line.contains("its certificate"));
        lines.filter(|line| line.contains(words)).count()
    };
    eventually("the warning of the last day", || {
        (said("ends in 23 hours; renew it") == 1).then_some(())
    });
    // The one of the last week, unless it took so long to start.
    assert!(said("ends in 24 hours; renew it") <= 1 && said("") <= 2);
    let before = said("");
    ends_in(&broker.setup, 6 * day + Duration::from_mins(10));
    broker.reload().unwrap();
    assert_eq!(said("ends in 6 days; renew it"), 1);
    broker.reload().unwrap();
    assert_eq!(said(""), before + 1, "once each");
}
