//! One command lays out a locked-down broker; what it prints works as printed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::harness::{
    Lines, PORTCULLIS, Said, addresses, eventually, find_record, portcullis_in, run_to_end,
};

/// A quickstart that runs, and the commands that it printed.
struct Demo {
    parent: TempDir,
    child: Child,
    log: Lines,
    out: Lines,
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Demo {
    fn start(parent: TempDir, bind: &str) -> Self {
        let mut child = Command::new(PORTCULLIS)
            .current_dir(parent.path())
            .args(["quickstart", "demo", "--bind", bind])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Lines::of(child.stderr.take().unwrap());
        let out = Lines::of(child.stdout.take().unwrap());
        let ready = log.find(0, |line| line.ends_with(": ready"));
        assert!(ready.is_some(), "{}", log.text());
        // The last of them is there.
        out.find(0, |line| line.contains("-t devices/device-2/telemetry"));
        Self {
            parent,
            child,
            log,
            out,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.parent.path().join("demo").join(name)
    }

    fn commands(&self) -> Vec<String> {
        let text = self.out.text();
        let lines = text.lines().filter(|line| line.starts_with("mosquitto_"));
        lines.map(str::to_owned).collect()
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.current_dir(self.parent.path()).arg("-c").arg(command);
        shell
    }

    fn run(&self, command: &str) -> Said {
        run_to_end(self.shell(command), "")
    }

    /// Waits for a record.
    fn record(&self, event: &str, fields: &[(&str, &str)]) -> serde_json::Value {
        let audit = self.at("audit");
        eventually(event, || find_record(&audit, event, fields))
    }

    /// Kills the broker and hands its directory on.
    fn end(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.parent, tempfile::tempdir().unwrap())
    }
}

fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn the_commands_that_quickstart_prints_work_as_printed() {
    let demo = Demo::start(tempfile::tempdir().unwrap(), "127.0.0.1:0");
    let [watch, certificate, token, forbidden] = demo.commands().try_into().unwrap();
    // `exec`: the child is the subscriber itself, so that it can be ended.
    let mut watcher = demo
        .shell(&format!("exec {watch}"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("mosquitto_sub; run scripts/setup-tests");
    let seen = Lines::of(watcher.stdout.take().unwrap());
    demo.record(
        "subscribe",
        &[("principal", "cert:operator"), ("filters", "devices/#")],
    );
    demo.run(&certificate).succeeded();
    demo.run(&token).succeeded();
    let said = demo.run(&forbidden);
    assert!(said.all().contains("Not authorized"), "{said:?}");
    for line in [
        "devices/device-1/telemetry {\"t\":21.5}",
        "devices/device-3/telemetry {\"t\":19.0}",
    ] {
        assert!(
            seen.find(0, |seen| seen == line).is_some(),
            "{}",
            seen.text()
        );
    }
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    assert!(!seen.text().contains("device-2"), "{}", seen.text());
    demo.record(
        "publish-denied",
        &[
            ("principal", "cert:device-1"),
            ("topic", "devices/device-2/telemetry"),
        ],
    );
    demo.record("connect", &[("principal", "jwt:device-3")]);

    // The same without a certificate, and with another CA's: refused, and in the record.
    let bare = certificate.replace(
        "--cert demo/pki/device-1.pem --key demo/pki/device-1.key",
        "",
    );
    assert_ne!(bare, certificate);
    assert_ne!(demo.run(&bare).code(), Some(0));
    demo.record(
        "refuse",
        &[("client_id", "device-1"), ("rule", "credential")],
    );
    for command in [
        &["pki", "init", "other"][..],
        &["pki", "client", "other", "device-1"],
    ] {
        portcullis_in(demo.parent.path(), command, "").succeeded();
    }
    let foreign = certificate.replace("pki/device-1", "../other/device-1");
    assert_ne!(demo.run(&foreign).code(), Some(0));
    demo.record("refuse", &[("rule", "tls")]);

    let config = demo.at("portcullis.toml");
    let verify = ["audit", "verify", "--config", config.to_str().unwrap()];
    portcullis_in(demo.parent.path(), &verify, "").succeeded();
}

#[test]
fn run_again_quickstart_keeps_everything_and_serves() {
    let demo = Demo::start(tempfile::tempdir().unwrap(), "127.0.0.1:0");
    let kept = |demo: &Demo| {
        let mut all = files(&demo.parent.path().join("demo"));
        all.retain(|path, _| {
            !path
                .components()
                .any(|part| part.as_os_str() == "audit" || part.as_os_str() == "data")
        });
        all.into_values().collect::<Vec<_>>()
    };
    let before = kept(&demo);
    assert_eq!(before.len(), 17);
    let first = addresses(&demo.log);
    let again = Demo::start(demo.end(), "127.0.0.1:0");
    assert_eq!(kept(&again), before);
    assert_ne!(addresses(&again.log), first, "port 0 is another port");
    let certificate = &again.commands()[1];
    again.run(certificate).succeeded();
    // The shipped tests of the shipped policy pass where they were laid out.
    let tests = again.at("policies/tests.toml");
    let test = ["policy", "test", tests.to_str().unwrap()];
    portcullis_in(again.parent.path(), &test, "").succeeded();
}

#[test]
fn quickstart_in_a_directory_with_an_awkward_name_prints_commands_that_work() {
    let parent = tempfile::tempdir().unwrap();
    let awkward = parent.path().join("it's $HOME & more");
    fs::create_dir(&awkward).unwrap();
    let inner = TempDir::new_in(&awkward).unwrap();
    // An absolute path, so that the name is in every command.
    let directory = inner.path().join("demo");
    let mut child = Command::new(PORTCULLIS)
        .arg("quickstart")
        .arg(&directory)
        .args(["--bind", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = Lines::of(child.stdout.take().unwrap());
    let command = out.find(0, |line| line.contains("-t devices/device-3/telemetry"));
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command.unwrap());
    let said = run_to_end(shell, "");
    child.kill().unwrap();
    child.wait().unwrap();
    said.succeeded();
}
