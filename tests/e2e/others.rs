//! Clients in other languages: mosquitto (C) and paho (Python).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::client::V5;
use crate::harness::{ANNA, Broker, Lines, Said, run_to_end};

/// A command of mosquitto on the TLS listener, with this id.
fn mosquitto(broker: &Broker, command: &str, id: &str, arguments: &[&str]) -> Command {
    let address = broker.address("main");
    let mut command = Command::new(command);
    command
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &address.port().to_string(),
            "-i",
            id,
        ])
        .arg("--cafile")
        .arg(broker.setup.path("pki/ca.pem"))
        .args(arguments);
    command
}

fn with_certificate(broker: &Broker, mut command: Command, name: &str) -> Command {
    command
        .arg("--cert")
        .arg(broker.setup.path(&format!("pki/{name}.pem")))
        .arg("--key")
        .arg(broker.setup.path(&format!("pki/{name}.key")));
    command
}

/// A subscriber whose lines are read; killed when dropped.
struct Watcher(Child, Lines);

impl Watcher {
    fn start(broker: &Broker, id: &str, mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("mosquitto_sub; run scripts/setup-tests");
        let lines = Lines::of(child.stdout.take().unwrap());
        broker.record("subscribe", &[("client_id", id)]);
        Self(child, lines)
    }

    #[track_caller]
    fn sees(&self, line: &str) {
        let found = self.1.find(0, |seen| seen == line);
        assert!(found.is_some(), "no {line:?} in {:?}", self.1.text());
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn mosquitto_exchanges_messages_in_every_version_and_qos() {
    let broker = Broker::start(|_| ());
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        let id = format!("sub-{version}");
        let arguments = [
            "-V",
            version,
            "-t",
            "lab/m/#",
            "-q",
            "2",
            "-F",
            "%t %q %r %p",
        ];
        let command = mosquitto(&broker, "mosquitto_sub", &id, &arguments);
        let watcher = Watcher::start(&broker, &id, with_certificate(&broker, command, "operator"));
        for (qos, retain) in [("0", false), ("1", false), ("2", false), ("1", true)] {
            let topic = format!("lab/m/{version}");
            let mut arguments = vec!["-V", version, "-t", &topic, "-q", qos, "-m", "hello"];
            if retain {
                arguments.push("-r");
            }
            let id = format!("pub-{version}");
            let command = mosquitto(&broker, "mosquitto_pub", &id, &arguments);
            run_to_end(with_certificate(&broker, command, "device-1"), "").succeeded();
            watcher.sees(&format!("{topic} {qos} 0 hello"));
        }
    }
    // What was retained is there for who comes later.
    let arguments = ["-V", "mqttv5", "-t", "lab/m/+", "-C", "3", "-F", "%r %p"];
    let command = mosquitto(&broker, "mosquitto_sub", "late", &arguments);
    let said = run_to_end(with_certificate(&broker, command, "operator"), "").succeeded();
    assert_eq!(said.out, "1 hello\n1 hello\n1 hello\n");
}

#[test]
fn mosquitto_is_refused_with_the_code_of_its_version() {
    let broker = Broker::start(|setup| setup.auth += "client-id = \"name\"\n");
    let expired = broker.setup.token(&json!({"exp": 1}));
    let publish = |version: &str, more: &[&str]| -> Said {
        let arguments = [&["-V", version, "-t", "lab/a", "-m", "x"][..], more].concat();
        run_to_end(mosquitto(&broker, "mosquitto_pub", "x", &arguments), "")
    };
    // Versions of mosquitto word it in their ways, British or not.
    let is = |said: &Said, what: &str| said.err.to_lowercase().contains(what);
    for more in [
        &[][..],
        &["-u", "anna", "-P", "wrong"],
        &["-u", "x", "-P", &expired],
    ] {
        let said = publish("mqttv311", more);
        assert!(is(&said, "bad user"), "{said:?}");
        assert_ne!(said.code(), Some(0));
        let said = publish("mqttv5", more);
        assert!(is(&said, "bad user"), "{said:?}");
        assert_ne!(said.code(), Some(0));
    }
    // Proven, but not by that client id.
    let anna = ["-u", ANNA.0, "-P", ANNA.1];
    let said = publish("mqttv311", &anna);
    assert!(is(&said, "not authori"), "{said:?}");
    let said = publish("mqttv5", &anna);
    assert!(is(&said, "not authori"), "{said:?}");
}

#[test]
fn mosquitto_leaves_a_will_and_finds_its_persistent_session() {
    let broker = Broker::start(|_| ());
    let mut watcher = broker.device(V5, "operator");
    watcher.subscribe(&["lab/will"], 1);
    let keep = [
        "-c",
        "-q",
        "1",
        "-t",
        "lab/kept",
        "--will-topic",
        "lab/will",
        "--will-payload",
        "gone",
    ];
    let sub = || {
        let command = mosquitto(&broker, "mosquitto_sub", "keeper", &keep);
        with_certificate(&broker, command, "device-1")
    };
    drop(Watcher::start(&broker, "keeper", sub()));
    assert_eq!(watcher.payload(), "gone");
    watcher.publish("lab/kept", "while it was away", 1);
    let again = Watcher::start(&broker, "keeper", sub());
    again.sees("while it was away");
}

fn python() -> PathBuf {
    std::env::var_os("PORTCULLIS_TEST_PYTHON").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-venv/bin/python"),
        PathBuf::from,
    )
}

/// Runs a script of `tests/clients`, which fails with an assertion of its own.
fn paho(broker: &Broker, script: &str, version: &str) {
    let mut command = Command::new(python());
    command
        .arg(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/clients")
                .join(script),
        )
        .env("MQTT_VERSION", version)
        .env("MQTT_PORT", broker.address("main").port().to_string())
        .env("MQTT_PKI", broker.setup.path("pki"))
        .env("MQTT_TOKEN", broker.setup.token(&json!({})))
        .env("MQTT_EXPIRED_TOKEN", broker.setup.token(&json!({"exp": 1})));
    let said = run_to_end(command, "").succeeded();
    assert!(said.out.ends_with("ok\n"), "{said:?}");
}

#[test]
fn paho_exchanges_messages_and_resumes_sessions_in_both_versions() {
    let broker = Broker::start(|_| ());
    for version in ["3.1.1", "5.0"] {
        paho(&broker, "exchange.py", version);
    }
}

#[test]
fn paho_is_refused_with_the_right_codes_in_both_versions() {
    let broker = Broker::start(|_| ());
    for version in ["3.1.1", "5.0"] {
        paho(&broker, "refusals.py", version);
    }
}
