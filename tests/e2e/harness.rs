//! A set-up in a directory of its own, the real binary over it, and what it says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portcullis::pki::TokenIssuer;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value};
use tempfile::TempDir;

/// How long a test waits for something that has to come. Generous: machines are slow at times.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The program under test.
pub(crate) const PORTCULLIS: &str = env!("CARGO_BIN_EXE_portcullis");

/// Users of the password file and their passwords.
pub(crate) const ANNA: (&str, &str) = ("anna", "open sesame, anna");
pub(crate) const BOB: (&str, &str) = ("bob", "bob's own password");

/// Devices and operators as in the shipped policy, and a `lab` in which everybody may do
/// everything but touch its secrets.
pub(crate) const POLICY: &str = "\
p, role:device,   devices/{name}/telemetry, publish,   allow
p, role:device,   devices/{name}/commands,  subscribe, allow
p, role:operator, devices/#,                subscribe, allow
p, role:operator, devices/+/commands,       publish,   allow
p, *, lab/#,        publish,   allow
p, *, lab/#,        retain,    allow
p, *, lab/#,        will,      allow
p, *, lab/#,        subscribe, allow
p, *, workers,      share,     allow
p, *, lab/secret/#, publish,   deny
p, *, lab/secret/#, subscribe, deny
g, cert:device-1, role:device
g, cert:device-2, role:device
g, jwt:device-3,  role:device
g, cert:operator, role:operator
";

/// A directory with everything that a broker needs, and a configuration in parts. Two listeners:
/// `main` with TLS and `local` in plaintext.
pub(crate) struct Setup {
    directory: TempDir,
    pub(crate) listeners: String,
    /// `[auth]`, without issuers.
    pub(crate) auth: String,
    pub(crate) issuer: String,
    pub(crate) acl: String,
    pub(crate) mqtt: String,
    pub(crate) limits: String,
    /// `[audit]` after its path.
    pub(crate) audit: String,
    /// Whole sections.
    pub(crate) more: String,
    pub(crate) policy: String,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        copy(template().path(), directory.path());
        // What clients trust, whatever becomes of the broker's own file.
        let ca = directory.path().join("pki/ca.pem");
        fs::copy(ca, directory.path().join("trusted.pem")).unwrap();
        Self {
            directory,
            listeners: "\
[[listener]]
name = \"main\"
bind = \"127.0.0.1:0\"
[listener.tls]
certificate = \"pki/server.pem\"
key = \"pki/server.key\"
client-ca = \"pki/ca.pem\"
client-auth = \"optional\"
[[listener]]
name = \"local\"
bind = \"127.0.0.1:0\"
plaintext = true
auth = [\"jwt\", \"password\"]
"
            .to_owned(),
            auth: "password-file = \"users.passwd\"\n".to_owned(),
            issuer: "\
name = \"example\"
issuer = \"https://id.example\"
audience = [\"portcullis\"]
algorithms = [\"EdDSA\"]
key-file = \"tokens/issuer.pub\"
allowed-roles = [\"device\"]
leeway = \"1 s\"
"
            .to_owned(),
            acl: "policy = [\"policy.csv\"]\n".to_owned(),
            mqtt: String::new(),
            // Tests fail to log in more often than people.
            limits: "connect-rate-per-ip = \"1000/s\"\nauth-failures-per-ip = \"1000/s\"\n"
                .to_owned(),
            audit: String::new(),
            more: String::new(),
            policy: POLICY.to_owned(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("portcullis.toml")
    }

    /// Writes configuration and policy as they are now.
    pub(crate) fn write(&self) {
        let mut text = String::from("data-dir = \"data\"\n");
        text += &self.listeners;
        for (section, body) in [
            ("[auth]", &self.auth),
            ("[[auth.jwt]]", &self.issuer),
            ("[acl]", &self.acl),
            ("[mqtt]", &self.mqtt),
            ("[limits]", &self.limits),
        ] {
            if !body.is_empty() {
                writeln!(text, "{section}\n{body}").unwrap();
            }
        }
        if !self.more.contains("[durability]") {
            text += "[durability]\nmode = \"memory\"\n";
        }
        text += "[audit]\npath = \"audit\"\n";
        text += &self.audit;
        text += &self.more;
        fs::write(self.config(), text).unwrap();
        fs::write(self.path("policy.csv"), &self.policy).unwrap();
    }

    /// Runs a command of the program in this directory, to its end.
    pub(crate) fn portcullis(&self, arguments: &[&str]) -> Said {
        portcullis_in(self.directory.path(), arguments, "")
    }

    /// Sets a password through the program.
    pub(crate) fn passwd(&self, user: &str, password: &str) {
        passwd(self.directory.path(), user, password);
    }

    /// A token of the example issuer with these claims in place of the usual ones; null takes a
    /// claim away.
    pub(crate) fn token(&self, claims: &Value) -> String {
        let key = fs::read(self.path("tokens/issuer.key")).unwrap();
        sign(&key, claims)
    }
}

/// Signs a token with an Ed25519 key.
pub(crate) fn sign(key: &[u8], claims: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_ed_pem(key).unwrap();
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
    jsonwebtoken::encode(&header, &usual_claims(claims), &key).unwrap()
}

pub(crate) fn usual_claims(changed: &Value) -> Map<String, Value> {
    let mut claims = Map::from_iter([
        ("iss".to_owned(), "https://id.example".into()),
        ("aud".to_owned(), "portcullis".into()),
        ("sub".to_owned(), "device-3".into()),
        ("exp".to_owned(), (unix_seconds() + 3600).into()),
    ]);
    for (name, value) in changed.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.remove(name)),
            value => drop(claims.insert(name.clone(), value.clone())),
        }
    }
    claims
}

pub(crate) fn unix_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// Keys, certificates and passwords, made once for all tests by the program itself.
fn template() -> &'static TempDir {
    static TEMPLATE: OnceLock<TempDir> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        for command in [
            &["pki", "init", "pki"][..],
            &["pki", "server", "pki"],
            &["pki", "client", "pki", "device-1"],
            &["pki", "client", "pki", "device-2"],
            &["pki", "client", "pki", "operator"],
        ] {
            portcullis_in(at, command, "").succeeded();
        }
        TokenIssuer::open(&at.join("tokens")).unwrap();
        for (user, password) in [ANNA, BOB] {
            passwd(at, user, password);
        }
        directory
    })
}

fn passwd(directory: &Path, user: &str, password: &str) {
    let arguments = ["passwd", "users.passwd", user];
    portcullis_in(directory, &arguments, &format!("{password}\n")).succeeded();
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
            let mode = entry.metadata().unwrap().permissions();
            fs::set_permissions(&target, mode).unwrap();
        } else {
            // Modes are copied too.
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code(), Some(0), "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn failed(self) -> Self {
        assert_eq!(self.code(), Some(1), "{self:?}");
        self
    }

    pub(crate) fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// Runs the program in `directory`.
pub(crate) fn portcullis_in(directory: &Path, arguments: &[&str], input: &str) -> Said {
    let mut command = Command::new(PORTCULLIS);
    command.current_dir(directory).args(arguments);
    run_to_end(command, input)
}

/// Runs a command to its end; one that does not end is killed and fails the test.
#[track_caller]
pub(crate) fn run_to_end(mut command: Command, input: &str) -> Said {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; run scripts/setup-tests"));
    let mut stdin = child.stdin.take().unwrap();
    // One that does not read its input is none of our business.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let out = read_all(child.stdout.take().unwrap());
    let err = read_all(child.stderr.take().unwrap());
    let status = wait(&mut child);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (out, err) = (out.join().unwrap(), err.join().unwrap());
    let status = status.unwrap_or_else(|| panic!("{command:?} does not end: {out}{err}"));
    Said { status, out, err }
}

fn read_all(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for a process to end, with patience.
fn wait(child: &mut Child) -> Option<ExitStatus> {
    poll(|| child.try_wait().unwrap())
}

/// Asks again and again until there is an answer or patience ends: for what only a file or a
/// process table can tell.
pub(crate) fn poll<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > end {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Like [`poll`]; patience that ends is a failed test.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    poll(ask).unwrap_or_else(|| panic!("{what}: not in {PATIENCE:?}"))
}

/// The lines of a stream, as they come.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<(Mutex<Heard>, Condvar)>);

/// What was read, and whether the stream has ended.
#[derive(Default)]
struct Heard(Vec<String>, bool);

impl Lines {
    pub(crate) fn of(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let sink = lines.clone();
        thread::spawn(move || {
            let (state, changed) = &*sink.0;
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                state.lock().unwrap().0.push(line);
                changed.notify_all();
            }
            state.lock().unwrap().1 = true;
            changed.notify_all();
        });
        lines
    }

    pub(crate) fn count(&self) -> usize {
        self.0.0.lock().unwrap().0.len()
    }

    pub(crate) fn text(&self) -> String {
        self.0.0.lock().unwrap().0.join("\n")
    }

    /// The first line from number `from` on that `chosen` takes; `None` if the stream ends or
    /// patience does.
    pub(crate) fn find(&self, from: usize, chosen: impl Fn(&str) -> bool) -> Option<String> {
        let (state, changed) = &*self.0;
        let found = |lines: &[String]| lines.iter().skip(from).find(|line| chosen(line)).cloned();
        let (state, _) = changed
            .wait_timeout_while(state.lock().unwrap(), PATIENCE, |Heard(lines, ended)| {
                !*ended && found(lines).is_none()
            })
            .unwrap();
        found(&state.0)
    }
}

/// Says that this machine does not allow a test. Not with `eprintln`, which nobody sees where the
/// test passes.
pub(crate) fn not_tested(why: &str) {
    let test = thread::current().name().unwrap_or_default().to_owned();
    let line = format!("NOT TESTED: {test}: {}\n", why.trim());
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// A running broker; it is killed when the test ends.
pub(crate) struct Broker {
    pub(crate) setup: Setup,
    child: Child,
    pub(crate) log: Lines,
    addresses: BTreeMap<String, SocketAddr>,
}

impl Broker {
    /// Starts a broker over a set-up that `change` has had its hands on.
    pub(crate) fn start(change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup::new();
        change(&mut setup);
        setup.write();
        let mut command = Command::new(PORTCULLIS);
        command.args(["run", "--config"]).arg(setup.config());
        Self::spawn(setup, command)
    }

    /// Starts a broker with a command of the test's own.
    pub(crate) fn spawn(setup: Setup, mut command: Command) -> Self {
        let (child, log) = launch(&mut command);
        let mut broker = Self {
            setup,
            child,
            log,
            addresses: BTreeMap::new(),
        };
        broker.await_ready();
        broker
    }

    fn await_ready(&mut self) {
        let ready = self.log.find(0, |line| line.ends_with(": ready"));
        assert!(ready.is_some(), "not ready: {}", self.log.text());
        self.addresses = addresses(&self.log);
    }

    /// Kills the process as `kill -9` does and starts it again over the same files.
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// Kills the process as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts a killed broker again over the same files.
    pub(crate) fn restart(&mut self) {
        let mut command = Command::new(PORTCULLIS);
        command.args(["run", "--config"]).arg(self.setup.config());
        (self.child, self.log) = launch(&mut command);
        self.await_ready();
    }

    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        self.addresses[listener]
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.await_end()
    }

    pub(crate) fn await_end(&mut self) -> ExitStatus {
        wait(&mut self.child).unwrap_or_else(|| panic!("does not end: {}", self.log.text()))
    }

    /// Sends SIGHUP and waits for the answer: nothing, or the line that names what failed.
    pub(crate) fn reload(&self) -> Result<(), String> {
        let from = self.log.count();
        self.signal(Signal::HUP);
        let line = self
            .log
            .find(from, |line| {
                line.ends_with(": reloaded") || line.contains("reload-failed")
            })
            .unwrap_or_else(|| panic!("no answer to SIGHUP: {}", self.log.text()));
        if line.contains("reload-failed") {
            return Err(line);
        }
        Ok(())
    }

    /// Puts another policy in place and has it taken up.
    pub(crate) fn replace_policy(&self, policy: &str) -> Result<(), String> {
        fs::write(self.setup.path("policy.csv"), policy).unwrap();
        self.reload()
    }

    /// Runs a command that takes `--config` about this broker.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Said {
        let config = self.setup.config();
        let mut arguments = arguments.to_vec();
        arguments.extend(["--config", config.to_str().unwrap()]);
        self.setup.portcullis(&arguments)
    }

    /// A number of `status`.
    pub(crate) fn number(&self, name: &str) -> u64 {
        let value = self.status(name);
        value.parse().unwrap()
    }

    /// A value of `status`.
    pub(crate) fn status(&self, name: &str) -> String {
        let status = self.ask(&["status"]).succeeded().out;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = line.unwrap_or_else(|| panic!("no {name} in {status}"));
        value.trim().to_owned()
    }

    /// What `[admin]` answers to a GET, headers included.
    pub(crate) fn http(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address("admin")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// A number of `/metrics`, named without `portcullis_`.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let metrics = self.http("/metrics");
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(&format!("portcullis_{name} ")));
        let value = value.unwrap_or_else(|| panic!("no {name} in {metrics}"));
        value.parse().unwrap()
    }

    /// Waits for a record of this event whose fields contain these values.
    #[track_caller]
    pub(crate) fn record(&self, event: &str, fields: &[(&str, &str)]) -> Value {
        let audit = self.setup.path("audit");
        let found = poll(|| find_record(&audit, event, fields));
        found.unwrap_or_else(|| {
            let all = audit_text(&audit);
            panic!("no record {event} with {fields:?} in\n{all}")
        })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // An error: it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- log of the broker\n{}\n---", self.log.text());
        }
    }
}

/// Starts a program and collects its log.
pub(crate) fn launch(command: &mut Command) -> (Child, Lines) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; run scripts/setup-tests"));
    let log = Lines::of(child.stderr.take().unwrap());
    (child, log)
}

/// The addresses that a log names, by listener; the one for HTTP is called `admin`.
pub(crate) fn addresses(log: &Lines) -> BTreeMap<String, SocketAddr> {
    let text = log.text();
    let after = |line: &str, key: &str| {
        let rest = line.split_once(key)?.1;
        Some(rest.split_whitespace().next()?.trim_matches('"').to_owned())
    };
    let named = text.lines().filter_map(|line| {
        let address = after(line, " address=")?.parse().ok()?;
        let name = match after(line, "listening listener=") {
            Some(name) => name,
            None if line.contains("over HTTP") => "admin".to_owned(),
            None => return None,
        };
        Some((name, address))
    });
    named.collect()
}

/// All records of an audit directory as text.
pub(crate) fn audit_text(directory: &Path) -> String {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"))
        .collect();
    files.sort();
    files
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

/// The first record of this event whose fields contain these values.
pub(crate) fn find_record(directory: &Path, event: &str, fields: &[(&str, &str)]) -> Option<Value> {
    let text = audit_text(directory);
    let complete = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    complete
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|record| {
            let has = |(name, part): &(&str, &str)| {
                let text = |value: &Value| value.as_str().is_some_and(|text| text.contains(part));
                record.get(name).is_some_and(|value| match value {
                    Value::Array(values) => values.iter().any(text),
                    value => text(value),
                })
            };
            record["event"] == event && fields.iter().all(has)
        })
}
