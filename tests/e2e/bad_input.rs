//! What is wrong is named with file, line and remedy, by `check` and by `run`, and nothing starts.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use portcullis::pki::Pki;

use crate::harness::{Said, Setup};

/// What a set-up is turned into, and what is said of it.
struct Bad {
    what: &'static str,
    make: fn(&mut Setup),
    says: &'static [&'static str],
}

const BAD: &[Bad] = &[
    Bad {
        what: "no configuration",
        make: |setup| fs::remove_file(setup.config()).unwrap(),
        says: &["portcullis.toml", "No such file", "quickstart"],
    },
    Bad {
        what: "broken TOML",
        make: |setup| append(setup, "[limits\n"),
        says: &["portcullis.toml:", "TOML syntax"],
    },
    Bad {
        what: "an unknown key",
        make: |setup| rewrite(setup, |setup| setup.limits += "publish-rat = \"1/s\"\n"),
        says: &[
            "portcullis.toml:",
            "publish-rat",
            "did you mean publish-rate?",
        ],
    },
    Bad {
        what: "an unknown section",
        make: |setup| append(setup, "[limit]\n"),
        says: &["portcullis.toml:", "did you mean limits?"],
    },
    Bad {
        what: "an impossible value",
        make: |setup| rewrite(setup, |setup| setup.mqtt += "max-qos = 3\n"),
        says: &["portcullis.toml:", "max-qos", "2"],
    },
    Bad {
        what: "a number without unit",
        make: |setup| rewrite(setup, |setup| setup.limits += "connect-deadline = 10\n"),
        says: &["portcullis.toml:", "connect-deadline", "10 s"],
    },
    Bad {
        what: "zero where nothing would work",
        make: |setup| rewrite(setup, |setup| setup.limits += "connections = 0\n"),
        says: &["portcullis.toml:", "connections"],
    },
    Bad {
        what: "plaintext that is not said out loud",
        make: |setup| {
            rewrite(setup, |setup| {
                setup.listeners = setup.listeners.replace("plaintext = true\n", "");
            });
        },
        says: &["portcullis.toml:", "plaintext = true"],
    },
    Bad {
        what: "plaintext off loopback",
        make: |setup| {
            rewrite(setup, |setup| {
                let local = "127.0.0.1:0\"\nplaintext";
                let open = "0.0.0.0:0\"\nplaintext";
                setup.listeners = setup.listeners.replace(local, open);
            });
        },
        says: &["portcullis.toml:", "allow-remote-plaintext"],
    },
    Bad {
        what: "no policy",
        make: |setup| rewrite(setup, |setup| setup.acl.clear()),
        says: &["portcullis.toml", "policy"],
    },
    Bad {
        what: "a certificate that is missing",
        make: |setup| fs::remove_file(setup.path("pki/server.pem")).unwrap(),
        says: &["pki/server.pem", "No such file"],
    },
    Bad {
        what: "a certificate that is none",
        make: |setup| fs::write(setup.path("pki/server.pem"), "hello\n").unwrap(),
        says: &["pki/server.pem"],
    },
    Bad {
        what: "a certificate that has expired",
        make: |setup| {
            remake_server(
                setup,
                SystemTime::now() - Duration::from_hours(2 * 365 * 24),
            );
        },
        says: &["pki/server.pem", "expired"],
    },
    Bad {
        what: "a certificate of the future",
        make: |setup| {
            remake_server(setup, SystemTime::now() + Duration::from_hours(48));
        },
        says: &["pki/server.pem", "not valid"],
    },
    Bad {
        what: "a key that does not match",
        make: |setup| {
            fs::copy(setup.path("pki/device-1.key"), setup.path("pki/server.key")).unwrap();
        },
        says: &["pki/server.key", "pki/server.pem", "match"],
    },
    Bad {
        what: "a CA that is none",
        make: |setup| fs::write(setup.path("pki/ca.pem"), "").unwrap(),
        says: &["pki/ca.pem"],
    },
    Bad {
        what: "a policy that is missing",
        make: |setup| fs::remove_file(setup.path("policy.csv")).unwrap(),
        says: &["policy.csv", "No such file"],
    },
    Bad {
        what: "an action with a typo",
        make: |setup| policy(setup, "p, role:device, a/b, publsh, allow\n"),
        says: &["policy.csv:1", "publsh", "publish"],
    },
    Bad {
        what: "an effect with a typo",
        make: |setup| policy(setup, "\n\np, role:device, a/b, publish, Deny\n"),
        says: &["policy.csv:3", "Deny", "deny"],
    },
    Bad {
        what: "a subject without kind",
        make: |setup| policy(setup, "p, device-1, a/b, publish, allow\n"),
        says: &["policy.csv:1", "device-1", "cert:"],
    },
    Bad {
        what: "an unknown placeholder",
        make: |setup| policy(setup, "p, *, a/{nam}, publish, allow\n"),
        says: &["policy.csv:1", "{nam}", "{name}"],
    },
    Bad {
        what: "a filter that is none",
        make: |setup| policy(setup, "p, *, a/#/b, subscribe, allow\n"),
        says: &["policy.csv:1", "whole level"],
    },
    Bad {
        what: "a line that is too short",
        make: |setup| policy(setup, "p, *, a/b, publish\n"),
        says: &["policy.csv:1"],
    },
    Bad {
        what: "roles in a circle",
        make: |setup| {
            policy(
                setup,
                "p, *, a, publish, allow\ng, role:a, role:b\ng, role:b, role:a\n",
            );
        },
        says: &["policy.csv", "role:a", "role:b"],
    },
    Bad {
        what: "a policy without lines",
        make: |setup| policy(setup, "# later\n"),
        says: &["policy.csv"],
    },
    Bad {
        what: "a password file that is none",
        make: |setup| fs::write(setup.path("users.passwd"), "anna:secret\n").unwrap(),
        says: &["users.passwd:1"],
    },
    Bad {
        what: "an empty password file",
        make: |setup| fs::write(setup.path("users.passwd"), "").unwrap(),
        says: &["users.passwd", "portcullis passwd"],
    },
    Bad {
        what: "an issuer's key that is none",
        make: |setup| fs::write(setup.path("tokens/issuer.pub"), "hello").unwrap(),
        says: &["tokens/issuer.pub"],
    },
];

fn rewrite(setup: &mut Setup, change: impl FnOnce(&mut Setup)) {
    change(setup);
    setup.write();
}

fn append(setup: &Setup, text: &str) {
    let before = fs::read_to_string(setup.config()).unwrap();
    fs::write(setup.config(), before + text).unwrap();
}

fn policy(setup: &Setup, text: &str) {
    fs::write(setup.path("policy.csv"), text).unwrap();
}

fn remake_server(setup: &Setup, then: SystemTime) {
    for name in ["pki/server.pem", "pki/server.key"] {
        fs::remove_file(setup.path(name)).unwrap();
    }
    let pki = Pki::open(&setup.path("pki"), then).unwrap();
    pki.server(&["localhost".to_owned()]).unwrap();
}

fn refused(setup: &Setup, what: &str, says: &[&str]) {
    for command in ["check", "run"] {
        let said = setup.portcullis(&[command, "--config", "portcullis.toml"]);
        assert_eq!(said.code(), Some(1), "{command}, {what}: {said:?}");
        assert!(
            !said.all().contains(" ready"),
            "{command}, {what}: {said:?}"
        );
        for part in says {
            assert!(
                said.err.contains(part),
                "{command}, {what}, {part:?}: {}",
                said.err
            );
        }
    }
    // Nothing half-starts.
    assert!(!setup.path("data").exists(), "{what}");
    assert!(!setup.path("audit").exists(), "{what}");
}

#[test]
fn rule_8_what_is_wrong_is_named_with_file_line_and_remedy_and_nothing_starts() {
    for Bad { what, make, says } in BAD {
        let mut setup = Setup::new();
        setup.write();
        make(&mut setup);
        refused(&setup, what, says);
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let mut setup = Setup::new();
    setup.limits += "connections = 0\n";
    setup.mqtt += "max-qos = 7\n";
    setup.write();
    refused(&setup, "two values", &["connections", "max-qos"]);
    let setup = Setup::new();
    setup.write();
    policy(&setup, "p, *, a, publsh, allow\np, *, b, publish, alow\n");
    fs::write(setup.path("pki/server.pem"), "").unwrap();
    fs::write(setup.path("users.passwd"), "").unwrap();
    refused(
        &setup,
        "three files",
        &[
            "policy.csv:1",
            "policy.csv:2",
            "pki/server.pem",
            "users.passwd",
        ],
    );
}

#[test]
fn an_address_in_use_ends_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut setup = Setup::new();
    setup.listeners =
        setup
            .listeners
            .replace("127.0.0.1:0", &address)
            .replacen(&address, "127.0.0.1:0", 1);
    setup.write();
    let run = ["run", "--config", "portcullis.toml"];
    let said = setup.portcullis(&run).failed();
    assert!(said.err.contains(&address), "{said:?}");
    assert!(said.err.contains("\"local\""), "{said:?}");
    assert!(!said.err.contains(" ready"), "{said:?}");
    drop(taken);
    // What it began is undone: the record verifies and nothing is locked.
    setup
        .portcullis(&["audit", "verify", "--config", "portcullis.toml"])
        .succeeded();
}

#[test]
fn a_good_set_up_is_ok_and_what_weakens_it_is_said() {
    let setup = Setup::new();
    setup.write();
    let check = ["check", "--config", "portcullis.toml"];
    let said: Said = setup.portcullis(&check).succeeded();
    assert!(said.out.contains("portcullis.toml: ok"), "{said:?}");
    assert!(!setup.path("data").exists() && !setup.path("audit").exists());
    let key = setup.path("pki/server.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let said = setup.portcullis(&check).succeeded();
    assert!(said.all().contains("chmod 600"), "{said:?}");
    policy(&setup, "p, *, own/{client_id}, publish, allow\n");
    let said = setup.portcullis(&check).succeeded();
    assert!(said.all().contains("client_id"), "{said:?}");
}
