//! Servers that are asked about identities: `jwks-url`, `[[auth.introspection]]`, `[[auth.webhook]]`.

use std::time::Duration;

use portcullis_auth::{ClaimCondition, Url};

use super::InputFile;
use super::problem::Position;
use super::section::{Placed, Section};
use super::units::MAX_DURATION;

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// `tls-ca`: the CAs of its certificate; `None`: those of the system.
    pub ca: Option<InputFile>,
    /// `tls-certificate` and `tls-key`: what the broker shows.
    pub identity: Option<(InputFile, InputFile)>,
    /// `timeout`, for a whole request.
    pub timeout: Duration,
}

impl Connection {
    pub(super) fn input_files(&self) -> impl Iterator<Item = &InputFile> {
        let identity = self.identity.iter();
        let identity = identity.flat_map(|(certificate, key)| [certificate, key]);
        self.ca.iter().chain(identity)
    }
}

/// `jwks-url` and the keys that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksUrl {
    /// Where the key set is.
    pub url: Url,
    /// How it is reached.
    pub connection: Connection,
    /// `jwks-refresh`.
    pub refresh: Duration,
    /// `jwks-stale`.
    pub stale: Duration,
}

/// `[[auth.introspection]]`: an OAuth 2.0 server that is asked what a token is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introspection {
    /// Its short name; part of the principal where there is more than one source of tokens.
    pub name: String,
    /// The endpoint.
    pub url: Url,
    /// `client-id` and `client-secret-file`.
    pub client: Option<(String, InputFile)>,
    /// How it is reached.
    pub connection: Connection,
    /// A user name beside which every password is a token.
    pub username: Option<String>,
    /// One of these must be in `aud`; empty: not looked at.
    pub audience: Vec<String>,
    /// The claim that names the principal.
    pub principal_claim: String,
    /// The claim that holds the roles.
    pub roles_claim: String,
    /// Roles that the server may give; `None` is any.
    pub allowed_roles: Option<Vec<String>>,
    /// What else has to be claimed.
    pub require_claims: Vec<ClaimCondition>,
    /// How long an answer is used again.
    pub cache: Duration,
    /// How long an identity counts.
    pub lifetime: Duration,
    /// How much the clocks may differ.
    pub leeway: Duration,
    /// Where the section begins.
    pub at: Position,
}

/// `[[auth.webhook]]`: an HTTP service that judges credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its short name; part of the principal where there is more than one source.
    pub name: String,
    /// Where the facts are sent.
    pub url: Url,
    /// What the broker says there, as a bearer token.
    pub secret_file: Option<InputFile>,
    /// How it is reached.
    pub connection: Connection,
    /// Whether it judges passwords.
    pub passwords: bool,
    /// Whether it judges tokens.
    pub tokens: bool,
    /// Roles that it may give; `None` is any.
    pub allowed_roles: Option<Vec<String>>,
    /// How long an identity counts.
    pub lifetime: Duration,
    /// Where the section begins.
    pub at: Position,
}

/// Reads `tls-ca`, `tls-certificate`, `tls-key` and `timeout`.
pub(super) fn read_connection(section: &mut Section<'_>) -> Connection {
    let ca = section.file("tls-ca", "ca.pem");
    let certificate = section.file("tls-certificate", "broker.pem");
    let key = section.file("tls-key", "broker.key");
    let timeout = section.duration(
        "timeout",
        Duration::from_secs(5),
        (Duration::from_millis(100), Duration::from_secs(30)),
    );
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(file), None) | (None, Some(file)) => {
            section.source().error(
                file.at,
                "only one of tls-certificate and tls-key is there",
                "write both, or neither",
            );
            None
        }
    };
    Connection {
        ca,
        identity,
        timeout,
    }
}

/// Reads an address to which secrets are sent, or from which keys come.
pub(super) fn protected_url(section: &Section<'_>, key: &str, text: Placed<&str>) -> Option<Url> {
    let url = any_url(section, key, text)?;
    if url.is_protected() {
        return Some(url);
    }
    section.source().error(
        text.at,
        format_args!("{key} is neither https nor on a loopback address"),
        "write https://: whoever reads or answers there decides who is let in",
    );
    None
}

/// Reads an address.
pub(super) fn any_url(section: &Section<'_>, key: &str, text: Placed<&str>) -> Option<Url> {
    match Url::parse(text.value) {
        Ok(url) => Some(url),
        Err(why) => {
            section.source().error(
                text.at,
                format_args!("{key} is {:?}: {why}", text.value),
                "write an address such as \"https://id.example/path\"",
            );
            None
        }
    }
}

/// Reads `jwks-refresh` and `jwks-stale`.
pub(super) fn read_jwks_times(section: &mut Section<'_>) -> (Duration, Duration) {
    let refresh = section.duration(
        "jwks-refresh",
        Duration::from_mins(10),
        (Duration::from_secs(10), MAX_DURATION),
    );
    let stale = section.duration(
        "jwks-stale",
        Duration::from_hours(24),
        (Duration::from_secs(1), MAX_DURATION),
    );
    (refresh, stale)
}

/// Reads `require-claims`.
pub(super) fn read_conditions(section: &mut Section<'_>) -> Vec<ClaimCondition> {
    let list = section
        .list("require-claims", "tenant=acme")
        .unwrap_or_default();
    let read = |text: Placed<&str>| {
        let condition = text.value.parse().ok();
        if condition.is_none() {
            section.source().error(
                text.at,
                format_args!("require-claims has {:?}", text.value),
                "write \"PATH=VALUE\" (the claim is VALUE, or a list that has it) or \"PATH~WORD\" (one \
                 of its words)",
            );
        }
        condition
    };
    list.into_iter().filter_map(read).collect()
}

pub(super) fn read_introspection(
    section: &mut Section<'_>,
    several: bool,
) -> Option<Introspection> {
    let name = section.required("name", "oauth");
    let url = section.required("url", "https://id.example/introspect");
    let url = url.and_then(|url| protected_url(section, "url in [[auth.introspection]]", url));
    let client_id = section.text("client-id", "portcullis");
    let secret = section.file("client-secret-file", "oauth.secret");
    let connection = read_connection(section);
    let username = section.text("username", "oauth2");
    let audience = section.list("audience", "portcullis").unwrap_or_default();
    let principal = section.text("principal", "sub");
    let roles = section.text("roles", "scope");
    let allowed_roles = super::identity::read_allowed_roles(section, several);
    let require_claims = read_conditions(section);
    let cache = section.duration(
        "cache",
        Duration::from_mins(1),
        (Duration::from_secs(1), Duration::from_hours(24)),
    );
    let lifetime = read_lifetime(section, Duration::from_hours(1));
    let leeway = section.duration(
        "leeway",
        Duration::from_secs(10),
        (Duration::from_secs(1), Duration::from_hours(1)),
    );
    let client = match (client_id, secret) {
        (Some(id), Some(secret)) => Some((id.value.to_owned(), secret)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            section.source().error(
                section.at(),
                "[[auth.introspection]] has only one of client-id and client-secret-file",
                "write both, or neither and tls-certificate with tls-key",
            );
            None
        }
    };
    let named = [
        "client-id",
        "client-secret-file",
        "tls-certificate",
        "tls-key",
    ];
    if !named.iter().any(|key| section.place(key).is_some()) {
        section.source().error(
            section.at(),
            "[[auth.introspection]] has no credential for the broker",
            "add client-id and client-secret-file, or tls-certificate and tls-key",
        );
    }
    Some(Introspection {
        name: name?.value.to_owned(),
        url: url?,
        client,
        connection,
        username: username.map(|text| text.value.to_owned()),
        audience: audience.iter().map(|text| text.value.to_owned()).collect(),
        principal_claim: principal.map_or("sub", |text| text.value).to_owned(),
        roles_claim: roles.map_or("roles", |text| text.value).to_owned(),
        allowed_roles,
        require_claims,
        cache,
        lifetime,
        leeway,
        at: section.at(),
    })
}

/// Reads a webhook; `credentials` was read before, to count the sources of tokens.
pub(super) fn read_webhook(
    section: &mut Section<'_>,
    credentials: Option<&[Placed<&str>]>,
    several: bool,
) -> Option<Webhook> {
    let name = section.required("name", "hook");
    let url = section.required("url", "https://hook.example/connect");
    let url = url.and_then(|url| protected_url(section, "url in [[auth.webhook]]", url));
    let secret_file = section.file("secret-file", "hook.secret");
    let connection = read_connection(section);
    let (mut passwords, mut tokens) = (credentials.is_none(), false);
    for word in credentials.unwrap_or_default() {
        match word.value {
            "password" => passwords = true,
            "token" => tokens = true,
            other => section.source().error(
                word.at,
                format_args!("credentials in [[auth.webhook]] has {other:?}"),
                "write \"password\" or \"token\"",
            ),
        }
    }
    if credentials.is_some_and(<[_]>::is_empty) {
        section.source().error(
            section.place("credentials").unwrap_or(section.at()),
            "credentials in [[auth.webhook]] is empty",
            "write [\"password\"], [\"token\"] or both",
        );
    }
    let allowed_roles = super::identity::read_allowed_roles(section, several && tokens);
    let lifetime = read_lifetime(section, Duration::from_hours(24));
    Some(Webhook {
        name: name?.value.to_owned(),
        url: url?,
        secret_file,
        connection,
        passwords,
        tokens,
        allowed_roles,
        lifetime,
        at: section.at(),
    })
}

fn read_lifetime(section: &mut Section<'_>, default: Duration) -> Duration {
    let range = (Duration::from_secs(10), Duration::from_hours(30 * 24));
    section.duration("lifetime", default, range)
}
