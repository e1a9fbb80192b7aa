//! `portcullis quickstart`: a locked-down set-up in one directory, and commands to try it.
//!
//! The set-up is closed: one listener on loopback with TLS; a client certificate or a token for
//! everybody; a client is called what its credential says; the shipped policy; a record of what
//! happens. Nothing that exists is changed, so that running it again starts what is there, edits
//! included.
//!
//! Laid out (DESIGN, section 5): `portcullis.toml`, `pki/` (see [`crate::pki`]),
//! `policies/` (the shipped model, the default policy and its tests) and `tokens/`.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::config::{Bind, Config, Problems};
use crate::pki::{self, Pki, TokenIssuer};

/// Where the set-up goes if no directory is named.
pub const DIRECTORY: &str = "portcullis-demo";
/// Where it listens if no address is named.
pub const BIND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8883);

const CLIENTS: [&str; 3] = ["device-1", "device-2", "operator"];
const TOKEN_SUBJECT: &str = "device-3";
const TOKEN_ISSUER: &str = "portcullis-quickstart";
const TOKEN_AUDIENCE: &str = "portcullis";
const TOKEN_LIFETIME: Duration = Duration::from_hours(30 * 24);

/// The shipped files, by their place below the directory.
const POLICIES: [(&str, &str); 3] = [
    ("model.conf", include_str!("../policies/model.conf")),
    ("policy.csv", include_str!("../policies/default/policy.csv")),
    ("tests.toml", include_str!("../policies/default/tests.toml")),
];

/// A set-up that is ready to run.
#[derive(Debug)]
pub struct Prepared {
    /// The configuration to run.
    pub config_path: PathBuf,
    /// What the operator should know: files that have expired, an option without effect.
    pub notes: Vec<String>,
    /// Commands to paste, for the address in the configuration. Where that has port 0, call
    /// [`commands`] with the address once it is known.
    pub commands: String,
}

/// Why there is no set-up.
#[derive(Debug, Error)]
pub enum Error {
    /// A key, certificate or other file that cannot be made or read.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// The configuration that was there does not load.
    #[error(transparent)]
    Config(#[from] Problems),
    /// The directory's name could not be printed in a command.
    #[error("{0:?} is not UTF-8; name another directory")]
    Directory(PathBuf),
}

/// Lays out `directory` for a broker at `bind` (default [`BIND`]), as far as it is not there.
///
/// # Errors
///
/// Files that cannot be written or read, and a configuration that was edited into one that does
/// not load.
pub fn prepare(
    directory: &Path,
    bind: Option<SocketAddr>,
    now: SystemTime,
) -> Result<Prepared, Error> {
    if directory.to_str().is_none() {
        return Err(Error::Directory(directory.to_owned()));
    }
    let config_path = directory.join("portcullis.toml");
    let mut notes = Vec::new();
    pki::make_directory(directory)?;
    let pki = make_pki(directory, bind.unwrap_or(BIND).ip(), now, &mut notes)?;
    make_token(directory, now, &mut notes)?;
    let policies = directory.join("policies");
    pki::make_directory(&policies)?;
    for (name, text) in POLICIES {
        keep_or_write(&policies.join(name), text)?;
    }
    // Last: with it in place everything it names is there.
    keep_or_write(&config_path, &configuration(bind.unwrap_or(BIND)))?;

    let address = configured_address(&Config::load(&config_path)?);
    if let (Some(asked), Some(address)) = (bind, address)
        && asked != address
    {
        let kept = config_path.display();
        notes.push(format!(
            "--bind has no effect: {kept} is kept and listens on {address}; edit it, and remove {} \
             to have another made for the new address",
            pki.certificate_path("server").display(),
        ));
    }
    Ok(Prepared {
        commands: commands(directory, address.unwrap_or(BIND)),
        config_path,
        notes,
    })
}

/// Commands that exchange messages through the set-up in `directory`, to be pasted into a shell
/// in the working directory of this process. `address` is where the broker listens.
#[must_use]
pub fn commands(directory: &Path, address: SocketAddr) -> String {
    let file = |path: &str| quoted(&directory.join(path).to_string_lossy()).into_owned();
    let (host, port) = (reachable(address.ip()), address.port());
    let server = format!("-h {host} -p {port} --cafile {}", file("pki/ca.pem"));
    let certificate = |name: &str| {
        let (pem, key) = (
            file(&format!("pki/{name}.pem")),
            file(&format!("pki/{name}.key")),
        );
        format!("{server} --cert {pem} --key {key} -i {name}")
    };
    let token = format!(
        "{server} -i {TOKEN_SUBJECT} -u {TOKEN_SUBJECT} -P \"$(cat {})\"",
        file(&format!("tokens/{TOKEN_SUBJECT}.jwt"))
    );
    let (operator, device) = (certificate("operator"), certificate("device-1"));
    let mut text = String::new();
    for (comment, command) in [
        (
            "The operator watches all devices (leave it running):",
            format!("mosquitto_sub {operator} -t 'devices/#' -v"),
        ),
        (
            "A device with a certificate sends telemetry (in another terminal):",
            format!(
                "mosquitto_pub {device} -q 1 -t devices/device-1/telemetry -m '{{\"t\":21.5}}'"
            ),
        ),
        (
            "A device with a token as its password does:",
            format!("mosquitto_pub {token} -q 1 -t devices/device-3/telemetry -m '{{\"t\":19.0}}'"),
        ),
        (
            "A device may not speak for another; this is refused:",
            format!(
                "mosquitto_pub {device} -V 5 -q 1 -t devices/device-2/telemetry -m '{{\"t\":0}}'"
            ),
        ),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# {comment}\n{command}\n");
    }
    text
}

fn make_pki(
    directory: &Path,
    bind: IpAddr,
    now: SystemTime,
    notes: &mut Vec<String>,
) -> Result<Pki, Error> {
    let pki = Pki::open(&directory.join("pki"), now)?;
    pki.ca()?;
    pki.server(&pki::server_names(bind))?;
    for client in CLIENTS {
        pki.client(client)?;
    }
    let again = "remove it and run quickstart again to have another made";
    for name in ["server"].into_iter().chain(CLIENTS) {
        note_expiry(
            &pki.certificate_path(name),
            pki::certificate_end,
            again,
            now,
            notes,
        )?;
    }
    let afresh = "start over in another directory: every certificate hangs on it";
    note_expiry(
        &pki.certificate_path("ca"),
        pki::certificate_end,
        afresh,
        now,
        notes,
    )?;
    Ok(pki)
}

fn make_token(directory: &Path, now: SystemTime, notes: &mut Vec<String>) -> Result<(), Error> {
    let issuer = TokenIssuer::open(&directory.join("tokens"))?;
    let path = directory.join(format!("tokens/{TOKEN_SUBJECT}.jwt"));
    let names = (TOKEN_ISSUER, TOKEN_AUDIENCE, TOKEN_SUBJECT);
    issuer.issue_file(&path, names, now, TOKEN_LIFETIME)?;
    let again = "remove it and run quickstart again to have another made";
    note_expiry(&path, pki::token_end, again, now, notes)
}

fn note_expiry(
    path: &Path,
    end: impl Fn(&Path) -> Result<SystemTime, pki::Error>,
    remedy: &str,
    now: SystemTime,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    if end(path)? <= now {
        notes.push(format!("{} has expired; {remedy}", path.display()));
    }
    Ok(())
}

fn keep_or_write(path: &Path, text: &str) -> Result<(), Error> {
    if !pki::exists(path)? {
        pki::write_new(path, text.as_bytes(), pki::PUBLIC)?;
    }
    Ok(())
}

/// The address of the first TLS listener: what the commands connect to.
fn configured_address(config: &Config) -> Option<SocketAddr> {
    let mut with_tls = config
        .listeners
        .iter()
        .filter(|listener| listener.tls().is_some());
    with_tls.find_map(|listener| match listener.bind {
        Bind::Tcp(address) => Some(address),
        Bind::Unix(_) => None,
    })
}

/// An address to connect to; the ones that stand for all stand for this machine too.
fn reachable(bind: IpAddr) -> IpAddr {
    match bind {
        IpAddr::V4(address) if address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) if address.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V4(_) | IpAddr::V6(_) => bind,
    }
}

/// One word for a POSIX shell.
fn quoted(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        Cow::Borrowed(word)
    } else {
        Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
    }
}

fn configuration(bind: SocketAddr) -> String {
    format!(
        r#"# Portcullis, laid out by `portcullis quickstart`. It is yours now: it is never written again.
# Paths are relative to this file. `portcullis check --config FILE` says what is wrong with it;
# a running broker takes up changes on SIGHUP.

data-dir = "data"

[[listener]]
name = "main"
bind = "{bind}"
[listener.tls]
certificate = "pki/server.pem"
key = "pki/server.key"
client-ca = "pki/ca.pem"
client-auth = "optional"              # a client without certificate needs a token

[auth]
client-id = "name"                    # device-1 is called device-1, or device-1:SOMETHING

# An example issuer of tokens; its private key is tokens/issuer.key. Clients send the token as
# their password.
[[auth.jwt]]
name = "example"
issuer = "{TOKEN_ISSUER}"
audience = ["{TOKEN_AUDIENCE}"]
algorithms = ["EdDSA"]
key-file = "tokens/issuer.pub"
allowed-roles = ["device"]            # it may make devices, never operators

[acl]
model = "policies/model.conf"
policy = ["policies/policy.csv"]

[audit]
path = "audit"                        # prove it: portcullis audit verify --config FILE
"#
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;
    use crate::config::{ClientAuth, ClientIdRule, Method};

    fn day(day: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(24 * (20_000 + day))
    }

    fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files.extend(self::files(&path));
            } else {
                let contents = fs::read(&path).unwrap();
                files.push((path, contents));
            }
        }
        files.sort();
        files
    }

    #[test]
    fn the_layout_is_that_of_the_contract_and_its_secrets_are_private() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("demo");
        let prepared = prepare(&directory, None, day(0)).unwrap();
        assert_eq!(prepared.config_path, directory.join("portcullis.toml"));
        assert_eq!(prepared.notes, Vec::<String>::new());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let found: Vec<_> = files(&directory)
            .into_iter()
            .map(|(path, _)| {
                let private = mode(&path) == 0o600;
                let path = path.strip_prefix(&directory).unwrap().display().to_string();
                (path, private)
            })
            .collect();
        let expected = [
            ("pki/ca.key", true),
            ("pki/ca.pem", false),
            ("pki/device-1.key", true),
            ("pki/device-1.pem", false),
            ("pki/device-2.key", true),
            ("pki/device-2.pem", false),
            ("pki/operator.key", true),
            ("pki/operator.pem", false),
            ("pki/server.key", true),
            ("pki/server.pem", false),
            ("policies/model.conf", false),
            ("policies/policy.csv", false),
            ("policies/tests.toml", false),
            ("portcullis.toml", false),
            ("tokens/device-3.jwt", true),
            ("tokens/issuer.key", true),
            ("tokens/issuer.pub", false),
        ];
        assert_eq!(
            found,
            expected.map(|(path, private)| (path.to_owned(), private))
        );
        assert_eq!(mode(&directory), 0o700);
    }

    #[test]
    fn the_configuration_loads_without_a_warning_and_is_closed() {
        let parent = tempfile::tempdir().unwrap();
        let bind = "127.0.0.1:18883".parse().unwrap();
        let prepared = prepare(parent.path(), Some(bind), day(0)).unwrap();
        let config = Config::load(&prepared.config_path).unwrap();
        config.check_files().unwrap();
        assert_eq!(config.warnings, []);
        assert_eq!(config.exposed_keys(), []);
        let listener = config.listeners.first().unwrap();
        assert_eq!(listener.bind, Bind::Tcp(bind));
        assert_eq!(listener.methods, [Method::Certificate, Method::Jwt].into());
        assert!(matches!(
            listener.tls().unwrap().client_auth,
            ClientAuth::Optional(_)
        ));
        assert_eq!(config.auth.client_id, ClientIdRule::Name);
        assert!(!config.auth.anonymous);
    }

    #[test]
    fn run_again_it_keeps_what_is_there() {
        let parent = tempfile::tempdir().unwrap();
        prepare(parent.path(), None, day(0)).unwrap();
        let policy = parent.path().join("policies/policy.csv");
        fs::write(&policy, "# mine\n").unwrap();
        let before = files(parent.path());
        let other = Some("127.0.0.1:1".parse().unwrap());
        let again = prepare(parent.path(), other, day(1)).unwrap();
        assert_eq!(files(parent.path()), before);
        let [note] = again.notes.as_slice() else {
            panic!("one note: {:?}", again.notes);
        };
        assert!(note.contains("--bind has no effect"), "{note}");
        assert!(again.commands.contains("-p 8883 "));
        fs::remove_file(parent.path().join("pki/device-2.pem")).unwrap();
        prepare(parent.path(), None, day(1)).unwrap();
        assert!(parent.path().join("pki/device-2.pem").exists());
    }

    #[test]
    fn what_has_expired_is_named() {
        let parent = tempfile::tempdir().unwrap();
        prepare(parent.path(), None, day(0)).unwrap();
        let notes = |day_number| prepare(parent.path(), None, day(day_number)).unwrap().notes;
        assert_eq!(notes(29), Vec::<String>::new());
        let month = notes(30).join("\n");
        assert!(
            month.contains("tokens/device-3.jwt has expired; remove it"),
            "{month}"
        );
        assert_eq!(notes(365).len(), 5);
        assert_eq!(notes(3650).len(), 6);
    }

    #[test]
    fn a_configuration_that_was_broken_by_hand_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let prepared = prepare(parent.path(), None, day(0)).unwrap();
        fs::write(&prepared.config_path, "[[listner]]\n").unwrap();
        let error = prepare(parent.path(), None, day(0))
            .unwrap_err()
            .to_string();
        assert!(error.contains("did you mean listener?"), "{error}");
    }

    #[test]
    fn commands_carry_a_client_id_and_reach_the_address() {
        for (bind, host) in [
            ("127.0.0.1:8883", "-h 127.0.0.1 -p 8883 "),
            ("0.0.0.0:1", "-h 127.0.0.1 -p 1 "),
            ("[::]:1", "-h ::1 -p 1 "),
            ("192.0.2.1:7", "-h 192.0.2.1 -p 7 "),
        ] {
            let text = commands(Path::new("demo"), bind.parse().unwrap());
            let commands = text.lines().filter(|line| line.starts_with("mosquitto_"));
            let commands: Vec<_> = commands.collect();
            assert_eq!(commands.len(), 4);
            for command in commands {
                assert!(command.contains(host), "{command}");
                assert!(command.contains(" -i "), "{command}");
                assert!(command.contains("--cafile demo/pki/ca.pem"), "{command}");
            }
        }
    }

    /// What a real shell makes of the commands.
    #[test]
    fn commands_survive_any_directory_name() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("it's $(a) \"demo\" \\ `x` *");
        let prepared = prepare(&directory, None, day(0)).unwrap();
        let script = format!(
            "mosquitto_pub() {{ for word in \"$@\"; do printf '%s\\n' \"$word\"; done; }}\n\
             mosquitto_sub() {{ mosquitto_pub \"$@\"; }}\n{}",
            prepared.commands
        );
        let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
        let words = String::from_utf8(output.stdout).unwrap();
        let ca = directory.join("pki/ca.pem").display().to_string();
        assert_eq!(words.lines().filter(|word| **word == ca).count(), 4);
        let token = fs::read_to_string(directory.join("tokens/device-3.jwt")).unwrap();
        assert!(words.lines().any(|word| word == token.trim()));
        assert!(words.lines().any(|word| word == r#"{"t":21.5}"#));
    }
}
