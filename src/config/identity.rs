//! `[auth]`: which credentials count, and what they say.

use std::time::Duration;

use portcullis_auth::{ClaimCondition, Link};

use super::InputFile;
use super::problem::Position;
use super::remote::{
    Introspection, JwksUrl, Webhook, protected_url, read_conditions, read_connection,
    read_introspection, read_jwks_times, read_webhook,
};
use super::section::{Placed, Section};

/// `[auth]`: who is it?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Whether clients without credential are admitted: on loopback listeners, elsewhere only
    /// where the listener names the method.
    pub anonymous: bool,
    /// The argon2id password file.
    pub password_file: Option<InputFile>,
    /// Credentials that every client must bring together.
    pub require: Require,
    /// What a client may call itself.
    pub client_id: ClientIdRule,
    /// `[auth.certificate] principal`: which field of a certificate is the name.
    pub certificate_name: CertificateName,
    /// `[[auth.jwt]]`: the token issuers. With more than one the principal is `jwt:ISSUER/NAME`.
    pub jwt: Vec<JwtIssuer>,
    /// `[[auth.introspection]]`: OAuth 2.0 servers that are asked.
    pub introspection: Vec<Introspection>,
    /// `[[auth.webhook]]`: HTTP services that are asked.
    pub webhooks: Vec<Webhook>,
    /// Who is asked first, as the file has it.
    pub order: Vec<Link>,
    /// Certificates that are refused.
    pub deny_fingerprints: Option<InputFile>,
}

impl Auth {
    pub(super) fn input_files(&self) -> impl Iterator<Item = &InputFile> {
        let keys = self.jwt.iter().flat_map(|issuer| issuer.keys.files());
        let introspection = self.introspection.iter().flat_map(|server| {
            let secret = server.client.iter().map(|(_, file)| file);
            secret.chain(server.connection.input_files())
        });
        let webhooks = self.webhooks.iter().flat_map(|webhook| {
            let secret = webhook.secret_file.iter();
            secret.chain(webhook.connection.input_files())
        });
        self.password_file
            .iter()
            .chain(&self.deny_fingerprints)
            .chain(keys)
            .chain(introspection)
            .chain(webhooks)
    }

    /// The names of those who may judge tokens. With more than one, principals have their names:
    /// `jwt:ISSUER/NAME`.
    pub fn token_sources(&self) -> impl Iterator<Item = &str> {
        let issuers = self.jwt.iter().map(|issuer| issuer.name.as_str());
        let servers = self.introspection.iter();
        let servers = servers.map(|server| server.name.as_str());
        let webhooks = self.webhooks.iter().filter(|webhook| webhook.tokens);
        let webhooks = webhooks.map(|webhook| webhook.name.as_str());
        issuers.chain(servers).chain(webhooks)
    }

    /// Whether somebody may judge tokens.
    pub(super) fn judges_tokens(&self) -> bool {
        self.token_sources().next().is_some()
    }

    /// Whether somebody may judge passwords.
    pub(super) fn judges_passwords(&self) -> bool {
        self.password_sources() > 0
    }

    /// How many may judge passwords.
    #[must_use]
    pub fn password_sources(&self) -> usize {
        let webhooks = self.webhooks.iter().filter(|webhook| webhook.passwords);
        usize::from(self.password_file.is_some()) + webhooks.count()
    }
}

/// `[auth] require`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Require {
    /// One credential is enough.
    One,
    /// A certificate and a token; the token names the principal.
    CertificateAndJwt,
}

/// `[auth] client-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientIdRule {
    /// Any client id.
    Any,
    /// The client id is the name of the principal, or begins with it and a colon; an empty one
    /// becomes the name, a colon and a random part.
    Name,
}

/// `[auth.certificate] principal`: the field of a verified certificate that holds the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateName {
    /// The common name of the subject.
    CommonName,
    /// The DNS name among the subject alternative names.
    SanDns,
    /// The URI among them (SPIFFE).
    SanUri,
    /// The e-mail address among them.
    SanEmail,
    /// The whole subject, as RFC 4514 writes it.
    Subject,
    /// SHA-256 over the DER: 64 lower-case hex digits.
    Fingerprint,
}

/// `[[auth.jwt]]`: an issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtIssuer {
    /// The issuer's short name; part of the principal where there is more than one issuer.
    pub name: String,
    /// The claim `iss`, byte-exact.
    pub issuer: String,
    /// The claim `aud` must have one of these; at least one.
    pub audience: Vec<String>,
    /// Algorithms that are accepted, by their names in RFC 7518; at least one. HS stands alone.
    pub algorithms: Vec<&'static str>,
    /// Where the keys are.
    pub keys: JwtKeys,
    /// The claim that names the principal.
    pub principal_claim: String,
    /// The claim that holds the roles.
    pub roles_claim: String,
    /// Roles that the issuer may give; `None` is any, and possible only with a single issuer.
    pub allowed_roles: Option<Vec<String>>,
    /// How much the clocks may differ.
    pub leeway: Duration,
    /// What else has to be claimed.
    pub require_claims: Vec<ClaimCondition>,
    /// Whether a token with the `jti` of a live connection ends that one.
    pub one_connection_per_jti: bool,
    /// Where the section begins.
    pub at: Position,
}

/// The public keys of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwtKeys {
    /// `jwks-file`: a JSON Web Key Set.
    JwksFile(InputFile),
    /// `key-file`: public keys, PEM; for HS algorithms the secret.
    KeyFile(InputFile),
    /// `jwks-url`: a JSON Web Key Set that is fetched.
    JwksUrl(Box<JwksUrl>),
}

impl JwtKeys {
    fn files(&self) -> Vec<&InputFile> {
        match self {
            Self::JwksFile(file) | Self::KeyFile(file) => vec![file],
            Self::JwksUrl(url) => url.connection.input_files().collect(),
        }
    }
}

/// Names and claims longer than this are nobody's.
const MAX_NAME: usize = 64;

pub(super) fn read(section: &mut Section<'_>) -> Auth {
    let anonymous = section.flag("anonymous", false).value;
    let password_file = section.file("password-file", "users.passwd");
    let require = section.list("require", "certificate");
    let client_id = section.choice(
        "client-id",
        &[("any", ClientIdRule::Any), ("name", ClientIdRule::Name)],
        ClientIdRule::Any,
    );
    let mut certificate = section.table("certificate", "[auth.certificate]");
    let certificate_name = certificate.choice(
        "principal",
        &[
            ("cn", CertificateName::CommonName),
            ("san-dns", CertificateName::SanDns),
            ("san-uri", CertificateName::SanUri),
            ("san-email", CertificateName::SanEmail),
            ("subject", CertificateName::Subject),
            ("fingerprint", CertificateName::Fingerprint),
        ],
        CertificateName::CommonName,
    );
    certificate.finish();
    let deny_fingerprints = section.file("deny-fingerprints", "denied.txt");
    let issuers = section.tables("jwt", "[[auth.jwt]]");
    let servers = section.tables("introspection", "[[auth.introspection]]");
    let mut webhook_sections: Vec<_> = section
        .tables("webhook", "[[auth.webhook]]")
        .into_iter()
        .map(|mut webhook| {
            let credentials = webhook.list("credentials", "password");
            (webhook, credentials)
        })
        .collect();
    let token_hooks = webhook_sections.iter().filter(|(_, credentials)| {
        let mut words = credentials.iter().flatten();
        words.any(|word| word.value == "token")
    });
    let sources = issuers.len() + servers.len() + token_hooks.count();
    let (several, has_tokens) = (sources > 1, sources > 0);
    let mut order = Order::default();
    if let (Some(_), Some(at)) = (&password_file, section.place("password-file")) {
        order.add(at, Link::Passwords);
    }
    let mut jwt: Vec<JwtIssuer> = Vec::with_capacity(issuers.len());
    for mut issuer in issuers {
        if let Some(read) = read_issuer(&mut issuer, several) {
            order.named(&issuer, &read.name, read.at, Link::Issuer(jwt.len()));
            if jwt.iter().any(|other| other.issuer == read.issuer) {
                issuer.source().error(
                    issuer.place("issuer").unwrap_or(read.at),
                    format_args!("two issuers have issuer = {:?}", read.issuer),
                    "keep one of them: a token belongs to exactly one issuer",
                );
            }
            jwt.push(read);
        }
        issuer.finish();
    }
    let mut introspection: Vec<Introspection> = Vec::with_capacity(servers.len());
    for mut server in servers {
        if let Some(read) = read_introspection(&mut server, several) {
            let link = Link::Introspection(introspection.len());
            order.named(&server, &read.name, read.at, link);
            introspection.push(read);
        }
        server.finish();
    }
    let mut webhooks: Vec<Webhook> = Vec::with_capacity(webhook_sections.len());
    for (mut webhook, credentials) in webhook_sections.drain(..) {
        if let Some(read) = read_webhook(&mut webhook, credentials.as_deref(), several) {
            order.named(&webhook, &read.name, read.at, Link::Webhook(webhooks.len()));
            webhooks.push(read);
        }
        webhook.finish();
    }
    Auth {
        anonymous,
        password_file,
        require: require.map_or(Require::One, |list| {
            read_require(section, &list, has_tokens)
        }),
        client_id,
        certificate_name,
        jwt,
        introspection,
        webhooks,
        order: order.links(),
        deny_fingerprints,
    }
}

/// The places of those who may own a credential: the order in the file is the order of asking.
#[derive(Default)]
struct Order {
    links: Vec<(Position, Link)>,
    names: Vec<String>,
}

impl Order {
    fn add(&mut self, at: Position, link: Link) {
        self.links.push((at, link));
    }

    /// Adds one with a name, which becomes a part of principals and must be its own.
    fn named(&mut self, section: &Section<'_>, name: &str, at: Position, link: Link) {
        if self.names.iter().any(|other| other == name) {
            section.source().error(
                section.place("name").unwrap_or(at),
                format_args!("two issuers are named {name:?}"),
                "give each a name of its own",
            );
        }
        if !matches!(link, Link::Issuer(_)) {
            let value = name;
            let at = section.place("name").unwrap_or(at);
            check_name(section, Placed { value, at });
        }
        self.names.push(name.to_owned());
        self.add(at, link);
    }

    fn links(mut self) -> Vec<Link> {
        self.links.sort_by_key(|(at, _)| (at.line, at.column));
        self.links.into_iter().map(|(_, link)| link).collect()
    }
}

fn read_require(section: &Section<'_>, list: &[Placed<&str>], has_issuer: bool) -> Require {
    let mut words: Vec<&str> = list.iter().map(|word| word.value).collect();
    words.sort_unstable();
    let at = section.place("require").unwrap_or(section.at());
    match words.as_slice() {
        [] => Require::One,
        ["certificate", "jwt"] => {
            if !has_issuer {
                section.source().error(
                    at,
                    "require in [auth] names \"jwt\", and no issuer is configured",
                    "add a section [[auth.jwt]]",
                );
            }
            Require::CertificateAndJwt
        }
        _ => {
            section.source().error(
                at,
                format_args!("require in [auth] is {words:?}"),
                "write [\"certificate\", \"jwt\"] for both together, or leave it out",
            );
            Require::One
        }
    }
}

/// Reads one issuer; `None` after an error that leaves nothing to use.
fn read_issuer(section: &mut Section<'_>, several: bool) -> Option<JwtIssuer> {
    let name = if several {
        section.required("name", "id")
    } else {
        section.text("name", "id")
    };
    if let Some(name) = name {
        check_name(section, name);
    }
    let issuer = section.required("issuer", "https://id.example");
    let audience = read_audience(section);
    let algorithms = read_algorithms(section);
    let keys = read_keys(section);
    let principal_claim = read_claim(section, "principal", "sub");
    let roles_claim = read_claim(section, "roles", "roles");
    let allowed_roles = read_allowed_roles(section, several);
    let require_claims = read_conditions(section);
    let once = section.flag("one-connection-per-jti", false);
    let leeway = section.duration(
        "leeway",
        Duration::from_secs(10),
        (Duration::from_secs(1), Duration::from_hours(1)),
    );
    Some(JwtIssuer {
        name: name.map_or("jwt", |name| name.value).to_owned(),
        issuer: issuer?.value.to_owned(),
        audience: audience?,
        algorithms: algorithms?,
        keys: keys?,
        principal_claim,
        roles_claim,
        allowed_roles,
        leeway,
        require_claims,
        one_connection_per_jti: once.value,
        at: section.at(),
    })
}

/// The name becomes a part of principals: `jwt:NAME/...` and `cert:NAME/...` must be read in one way
/// only.
pub(super) fn check_name(section: &Section<'_>, name: Placed<&str>) {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.value.len() > MAX_NAME || name.value.is_empty() || !name.value.chars().all(fits) {
        section.source().error(
            name.at,
            format_args!("name in {} is {:?}", section.title(), name.value),
            "write letters, digits, hyphens, underscores and dots, at most 64",
        );
    }
}

fn read_audience(section: &mut Section<'_>) -> Option<Vec<String>> {
    let list = required_list(section, "audience", "portcullis")?;
    Some(list.iter().map(|name| name.value.to_owned()).collect())
}

fn read_algorithms(section: &mut Section<'_>) -> Option<Vec<&'static str>> {
    const KNOWN: [&str; 12] = [
        "EdDSA", "ES256", "ES384", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "HS256",
        "HS384", "HS512",
    ];
    const REMEDY: &str = "write one or more of \"EdDSA\", \"ES256\", \"ES384\", \"RS256\" and \"PS256\" (or RS, \
                          PS with 384 or 512), or HS256, HS384, HS512 with a key-file";
    let list = required_list(section, "algorithms", "ES256")?;
    let mut algorithms = Vec::with_capacity(list.len());
    for Placed { value, at } in list {
        let Some(algorithm) = KNOWN.into_iter().find(|known| *known == value) else {
            let message = format_args!("algorithm {value:?} in [[auth.jwt]] is unknown");
            section.source().error(at, message, REMEDY);
            continue;
        };
        if !algorithms.contains(&algorithm) {
            algorithms.push(algorithm);
        }
    }
    let secrets = algorithms
        .iter()
        .filter(|name| name.starts_with("HS"))
        .count();
    if secrets != 0 && secrets != algorithms.len() {
        section.source().error(
            section.place("algorithms").unwrap_or(section.at()),
            "algorithms in [[auth.jwt]] mixes HS with others",
            "use two issuers: a public key must never pass for a secret",
        );
    }
    Some(algorithms)
}

/// Exactly one source of keys.
fn read_keys(section: &mut Section<'_>) -> Option<JwtKeys> {
    const ONE: &str = "write exactly one of jwks-url, jwks-file and key-file";
    let url_text = section.text("jwks-url", "https://id.example/jwks.json");
    let url = url_text.and_then(|url| protected_url(section, "jwks-url", url));
    let connection = read_connection(section);
    let (refresh, stale) = read_jwks_times(section);
    if section.place("jwks-url").is_none() {
        for key in [
            "tls-ca",
            "tls-certificate",
            "tls-key",
            "timeout",
            "jwks-refresh",
            "jwks-stale",
        ] {
            if let Some(at) = section.place(key) {
                section.source().error(
                    at,
                    format_args!("{key} in [[auth.jwt]] without jwks-url"),
                    "leave it out, or write jwks-url",
                );
            }
        }
    }
    let url = url.map(|url| {
        JwtKeys::JwksUrl(Box::new(JwksUrl {
            url,
            connection,
            refresh,
            stale,
        }))
    });
    let jwks = section
        .file("jwks-file", "jwks.json")
        .map(JwtKeys::JwksFile);
    let key = section.file("key-file", "issuer.pub").map(JwtKeys::KeyFile);
    let keys = ["jwks-url", "jwks-file", "key-file"];
    let named: Vec<_> = keys
        .into_iter()
        .filter_map(|key| Some((key, section.place(key)?)))
        .collect();
    match named.as_slice() {
        [] => section
            .source()
            .error(section.at(), "[[auth.jwt]] has no keys", ONE),
        [_] => {}
        [(first, _), (second, at), ..] => {
            let message = format_args!("[[auth.jwt]] has {first} and {second}");
            section.source().error(*at, message, ONE);
        }
    }
    // One that is there and wrong was reported already.
    url.or(jwks).or(key)
}

fn read_claim(section: &mut Section<'_>, key: &'static str, default: &'static str) -> String {
    let claim = section.text(key, default);
    claim.map_or(default, |claim| claim.value).to_owned()
}

pub(super) fn read_allowed_roles(section: &mut Section<'_>, several: bool) -> Option<Vec<String>> {
    let list = section.list("allowed-roles", "nurse");
    if several && list.is_none() && section.place("allowed-roles").is_none() {
        section.missing(
            "allowed-roles",
            "allowed-roles = [\"nurse\"]: with several issuers each states which roles it may give",
        );
    }
    let list = list?;
    for role in &list {
        let odd = |c: char| matches!(c, ':' | ',') || c.is_control();
        if role.value.contains(odd) {
            section.source().error(
                role.at,
                format_args!("allowed-roles in {} has {:?}", section.title(), role.value),
                "write the plain role name, without prefix, comma or control character",
            );
        }
    }
    Some(list.iter().map(|role| role.value.to_owned()).collect())
}

/// A list that has to be there and not to be empty.
fn required_list<'a>(
    section: &mut Section<'a>,
    key: &'static str,
    example: &str,
) -> Option<Vec<Placed<&'a str>>> {
    let list = section.list(key, example);
    match &list {
        None if section.place(key).is_none() => {
            section.missing(key, format_args!("{key} = [{example:?}]"));
        }
        Some(list) if list.is_empty() => section.source().error(
            section.place(key).unwrap_or(section.at()),
            format_args!("{key} in [[auth.jwt]] is empty"),
            format_args!("write {key} = [{example:?}]"),
        ),
        None | Some(_) => (),
    }
    list
}
