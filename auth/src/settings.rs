//! `[auth]` of portcullis.toml, as the desk uses it. The configuration layer parses the file and
//! resolves paths; the rules between fields are checked here, in [`Settings::check`].

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use jsonwebtoken::Algorithm;

use crate::{CertificateName, ClaimCondition, Connection, Error, Url};

/// Which credentials are judged, and how.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    /// Whether clients without a credential are `anonymous` on loopback listeners whose `auth` is
    /// not set. Elsewhere only a listener whose `auth` names it lets them in.
    pub anonymous: bool,
    /// `password-file`.
    pub password_file: Option<PathBuf>,
    /// Methods that every client needs together: nothing, or certificate and JWT. The JWT then
    /// names the principal.
    pub require: Vec<Method>,
    /// Which name of a certificate is the principal's.
    pub certificate: CertificateName,
    /// `[[auth.jwt]]`, in the order of the file.
    pub issuers: Vec<IssuerSettings>,
    /// `[[auth.introspection]]`, in the order of the file.
    pub introspection: Vec<IntrospectionSettings>,
    /// `[[auth.webhook]]`, in the order of the file.
    pub webhooks: Vec<WebhookSettings>,
    /// In which order they are asked; what is not in it comes after: the password file, issuers,
    /// introspection, webhooks.
    pub order: Vec<Link>,
    /// `deny-fingerprints`: a file with the SHA-256 of certificates that are refused.
    pub deny_fingerprints: Option<PathBuf>,
}

/// One that may own a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// The password file.
    Passwords,
    /// An entry of [`Settings::issuers`].
    Issuer(usize),
    /// An entry of [`Settings::introspection`].
    Introspection(usize),
    /// An entry of [`Settings::webhooks`].
    Webhook(usize),
}

/// An OAuth 2.0 server that is asked what a token is worth (RFC 7662).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntrospectionSettings {
    /// Names it in logs, credentials and, where there are several sources of tokens, principals.
    pub name: String,
    /// Its introspection endpoint.
    pub url: Url,
    /// `client-id` and `client-secret-file` of the broker; `None`: it shows a certificate.
    pub client: Option<(String, PathBuf)>,
    /// How it is reached.
    pub connection: Connection,
    /// A user name beside which a password is a token, whatever its form; `None`: only a password
    /// in the form of a JWT is one.
    pub username: Option<String>,
    /// One of these must be in `aud`; empty: `aud` is not looked at.
    pub audience: Vec<String>,
    /// The claim that names the principal.
    pub principal: String,
    /// The claim with roles; `None` takes none.
    pub roles: Option<String>,
    /// Role names accepted; obligatory where there are several sources of tokens.
    pub allowed_roles: Option<Vec<String>>,
    /// What else has to be claimed.
    pub require_claims: Vec<ClaimCondition>,
    /// How long an answer is used again; never longer than `exp`.
    pub cache: Duration,
    /// How long an identity counts without being asked about again; never longer than `exp`.
    pub lifetime: Duration,
    /// How far the server's clock may be off.
    pub leeway: Duration,
}

/// An HTTP service that judges credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Names it in logs, credentials and, where there are several sources, principals.
    pub name: String,
    /// Where the facts are sent.
    pub url: Url,
    /// `secret-file`: sent as `Authorization: Bearer`.
    pub secret_file: Option<PathBuf>,
    /// How it is reached.
    pub connection: Connection,
    /// Whether it judges passwords.
    pub passwords: bool,
    /// Whether it judges tokens.
    pub tokens: bool,
    /// Role names accepted; obligatory where there are several sources of tokens.
    pub allowed_roles: Option<Vec<String>>,
    /// How long an identity counts without being asked about again.
    pub lifetime: Duration,
}

/// A way to prove an identity, as listeners name it in `auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// A client certificate, validated by TLS.
    Certificate,
    /// A JSON Web Token in the password or a WebSocket upgrade.
    Jwt,
    /// User name and password.
    Password,
    /// No credential at all.
    Anonymous,
}

impl Method {
    /// The word in configuration files and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Jwt => "jwt",
            Self::Password => "password",
            Self::Anonymous => "anonymous",
        }
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [
            Self::Certificate,
            Self::Jwt,
            Self::Password,
            Self::Anonymous,
        ]
        .into_iter()
        .find(|method| method.as_str() == text)
        .ok_or_else(|| {
            Error::setting(
                format!("{text:?} is not an authentication method"),
                "use \"certificate\", \"jwt\", \"password\" or \"anonymous\"",
            )
        })
    }
}

/// Whose tokens are believed, and what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSettings {
    /// Names the issuer in logs, and with more than one issuer in principals: `jwt:NAME/...`.
    pub name: String,
    /// The `iss` claim, byte-exact.
    pub issuer: String,
    /// One of these must be in `aud`.
    pub audience: Vec<String>,
    /// Signature algorithms accepted (RFC 7518 names, and `EdDSA` for Ed25519). Each key is used
    /// only with those that fit it.
    pub algorithms: Vec<String>,
    /// Where the keys are.
    pub source: KeySource,
    /// The claim that names the principal; a string. A path with dots reaches into objects.
    pub principal: String,
    /// The claim with role names, a list or words in a string; `None` takes no roles.
    pub roles: Option<String>,
    /// Role names accepted; others are dropped. `None` accepts all; obligatory with more than one
    /// issuer, so that one cannot speak in another's roles.
    pub allowed_roles: Option<Vec<String>>,
    /// How far the issuer's clock may be off. Also added to `exp`.
    pub leeway: Duration,
    /// `require-claims`: what else has to be claimed.
    pub require_claims: Vec<ClaimCondition>,
    /// `one-connection-per-jti`: a token with the `jti` of a live connection ends that one.
    pub one_connection_per_jti: bool,
}

impl IssuerSettings {
    /// An issuer with the defaults of the configuration: `sub` names the principal, `roles` the
    /// roles, 10 s leeway.
    #[must_use]
    pub fn new(
        name: &str,
        issuer: &str,
        audience: &str,
        algorithm: &str,
        source: KeySource,
    ) -> Self {
        Self {
            name: name.to_owned(),
            issuer: issuer.to_owned(),
            audience: vec![audience.to_owned()],
            algorithms: vec![algorithm.to_owned()],
            source,
            principal: "sub".to_owned(),
            roles: Some("roles".to_owned()),
            allowed_roles: None,
            leeway: Duration::from_secs(10),
            require_claims: Vec::new(),
            one_connection_per_jti: false,
        }
    }

    /// The algorithms, checked.
    ///
    /// # Errors
    ///
    /// None, an unknown one, or shared secrets beside public keys: the one mixture in which a
    /// public key could be mistaken for a secret.
    pub(crate) fn algorithms(&self) -> Result<Vec<Algorithm>, Error> {
        let known = |text: &String| {
            Algorithm::from_str(text).map_err(|_| {
                Error::setting(
                    format!("auth.jwt {:?}: algorithm {text:?} is not known", self.name),
                    "use RS256, PS256, ES256, ES384, EdDSA (or RS/PS/HS with 384 or 512, HS256)",
                )
            })
        };
        let algorithms: Vec<_> = self
            .algorithms
            .iter()
            .map(known)
            .collect::<Result<_, _>>()?;
        let secrets = algorithms.iter().filter(|alg| is_hmac(**alg)).count();
        if algorithms.is_empty() {
            return Err(Error::setting(
                format!("auth.jwt {:?}: algorithms is empty", self.name),
                "name the one that the issuer signs with, for example [\"ES256\"]",
            ));
        }
        if secrets != 0 && secrets != algorithms.len() {
            return Err(Error::setting(
                format!("auth.jwt {:?}: algorithms mixes HS with others", self.name),
                "use two issuers",
            ));
        }
        if secrets != 0 && !matches!(self.source, KeySource::KeyFile(_)) {
            return Err(Error::setting(
                format!(
                    "auth.jwt {:?}: HS algorithms with jwks-file or jwks-url",
                    self.name
                ),
                "put the secret (32 bytes or more) in a key-file",
            ));
        }
        Ok(algorithms)
    }
}

/// Whether this algorithm uses a shared secret.
pub(crate) fn is_hmac(algorithm: Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512
    )
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A JSON Web Key Set (RFC 7517, section 5).
    JwksFile(PathBuf),
    /// PEM `PUBLIC KEY` blocks; for HS algorithms the secret's bytes.
    KeyFile(PathBuf),
    /// A JSON Web Key Set that is fetched, and fetched again.
    JwksUrl(JwksUrl),
}

/// `jwks-url` and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksUrl {
    /// Where the key set is.
    pub url: Url,
    /// How it is reached.
    pub connection: Connection,
    /// `jwks-refresh`: how often it is fetched.
    pub refresh: Duration,
    /// `jwks-stale`: how long after a refresh that failed the old keys still count.
    pub stale: Duration,
}

impl JwksUrl {
    /// With the defaults of the configuration: fetched every ten minutes, old keys count a day.
    #[must_use]
    pub fn new(url: Url) -> Self {
        Self {
            url,
            connection: Connection::default(),
            refresh: Duration::from_mins(10),
            stale: Duration::from_hours(24),
        }
    }
}

impl Settings {
    /// Checks what no single field can say.
    ///
    /// # Errors
    ///
    /// Each broken rule, with the key it is about.
    pub fn check(&self) -> Result<(), Error> {
        let mut require = self.require.clone();
        require.sort_unstable();
        require.dedup();
        if !require.is_empty() && require != [Method::Certificate, Method::Jwt] {
            return Err(Error::setting(
                "auth.require can only ask for a certificate and a JWT together",
                "write require = [\"certificate\", \"jwt\"], or [] and choose methods with each listener's auth",
            ));
        }
        if !require.is_empty() && self.token_sources() == 0 {
            return Err(Error::setting(
                "auth.require asks for a JWT, but there is no issuer",
                "add [[auth.jwt]]",
            ));
        }
        self.check_remotes()?;
        self.issuers
            .iter()
            .try_for_each(|issuer| self.check_issuer(issuer))
    }

    /// Everybody who may be asked, in order.
    pub(crate) fn chain(&self) -> Vec<Link> {
        let all = std::iter::once(Link::Passwords)
            .filter(|_| self.password_file.is_some())
            .chain((0..self.issuers.len()).map(Link::Issuer))
            .chain((0..self.introspection.len()).map(Link::Introspection))
            .chain((0..self.webhooks.len()).map(Link::Webhook));
        let mut chain = self.order.clone();
        for link in all {
            if !chain.contains(&link) {
                chain.push(link);
            }
        }
        chain
    }

    /// How many may say who the bearer of a token is. With more than one, principals say whose
    /// they are.
    pub(crate) fn token_sources(&self) -> usize {
        let webhooks = self.webhooks.iter().filter(|webhook| webhook.tokens);
        self.issuers.len() + self.introspection.len() + webhooks.count()
    }

    /// How many may say whose a password is.
    pub(crate) fn password_sources(&self) -> usize {
        let webhooks = self.webhooks.iter().filter(|webhook| webhook.passwords);
        usize::from(self.password_file.is_some()) + webhooks.count()
    }

    /// Kind and name of the sources that stand in their principals: one of several.
    pub(crate) fn named_sources(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let (tokens, passwords) = (self.token_sources() > 1, self.password_sources() > 1);
        let issuers = self.issuers.iter().map(|issuer| &issuer.name);
        let servers = self.introspection.iter().map(|server| &server.name);
        let webhooks = move |kind: fn(&WebhookSettings) -> bool| {
            let webhooks = self.webhooks.iter().filter(move |webhook| kind(webhook));
            webhooks.map(|webhook| &webhook.name)
        };
        let bearers = issuers
            .chain(servers)
            .chain(webhooks(|webhook| webhook.tokens));
        let bearers = bearers
            .filter(move |_| tokens)
            .map(|name| ("jwt", name.as_str()));
        let users = webhooks(|webhook| webhook.passwords).filter(move |_| passwords);
        bearers.chain(users.map(|name| ("user", name.as_str())))
    }

    fn check_remotes(&self) -> Result<(), Error> {
        let several = self.token_sources() > 1;
        let mut names: Vec<&str> = Vec::new();
        let introspection = self.introspection.iter().map(|one| {
            let roles = one.allowed_roles.is_some();
            ("introspection", &one.name, &one.url, roles)
        });
        let webhooks = self.webhooks.iter().map(|one| {
            let roles = one.allowed_roles.is_some() || !one.tokens;
            ("webhook", &one.name, &one.url, roles)
        });
        for (section, name, url, has_roles) in introspection.chain(webhooks) {
            let of = format!("auth.{section} {name:?}");
            check_name(section, name)?;
            if names.contains(&name.as_str())
                || self.issuers.iter().any(|issuer| issuer.name == *name)
            {
                let remedy = "rename one: names stand before those of principals";
                return Err(Error::setting(
                    format!("{of}: the name is there twice"),
                    remedy,
                ));
            }
            names.push(name);
            if !url.is_protected() {
                return Err(Error::setting(
                    format!("{of}: url is neither https nor on a loopback address"),
                    "use https: passwords and tokens are sent there",
                ));
            }
            if several && !has_roles {
                return Err(Error::setting(
                    format!("{of}: allowed-roles is missing"),
                    "with more than one source of tokens, list the roles that this one may give (or [])",
                ));
            }
        }
        for one in &self.introspection {
            if one.client.is_none() && one.connection.identity.is_none() {
                return Err(Error::setting(
                    format!(
                        "auth.introspection {:?}: the broker has no credential",
                        one.name
                    ),
                    "set client-id and client-secret-file, or tls-certificate and tls-key",
                ));
            }
        }
        for one in &self.webhooks {
            if !one.passwords && !one.tokens {
                return Err(Error::setting(
                    format!("auth.webhook {:?}: it judges nothing", one.name),
                    "set credentials to [\"password\"], [\"token\"] or both",
                ));
            }
        }
        Ok(())
    }

    /// What is asked over HTTP.
    fn connections(&self) -> impl Iterator<Item = (String, &Url, &Connection)> {
        let keys = self
            .issuers
            .iter()
            .filter_map(|issuer| match &issuer.source {
                KeySource::JwksUrl(from) => Some((
                    format!("auth.jwt {:?}", issuer.name),
                    &from.url,
                    &from.connection,
                )),
                KeySource::JwksFile(_) | KeySource::KeyFile(_) => None,
            });
        let introspection = self.introspection.iter().map(|one| {
            let of = format!("auth.introspection {:?}", one.name);
            (of, &one.url, &one.connection)
        });
        let webhooks = self.webhooks.iter().map(|one| {
            let of = format!("auth.webhook {:?}", one.name);
            (of, &one.url, &one.connection)
        });
        keys.chain(introspection).chain(webhooks)
    }

    /// Warnings of certificates that the broker would show, if it were asked.
    pub(crate) fn unseen(&self) -> impl Iterator<Item = String> {
        let unseen = self
            .connections()
            .filter(|(_, url, connection)| connection.identity.is_some() && !url.uses_tls());
        unseen.map(|(of, ..)| {
            format!(
                "{of}: there is a tls-certificate, and the address is not https, so that nobody sees it; use https, or remove tls-certificate and tls-key"
            )
        })
    }

    /// Files with what proves the broker to others.
    pub(crate) fn secret_files(&self) -> impl Iterator<Item = &Path> {
        let keys = self.connections().filter_map(|(_, _, connection)| {
            let (_, key) = connection.identity.as_ref()?;
            Some(key.as_path())
        });
        let introspection = self.introspection.iter();
        let introspection = introspection.filter_map(|one| Some(one.client.as_ref()?.1.as_path()));
        let webhooks = self.webhooks.iter();
        let webhooks = webhooks.filter_map(|one| one.secret_file.as_deref());
        keys.chain(introspection).chain(webhooks)
    }

    fn check_issuer(&self, issuer: &IssuerSettings) -> Result<(), Error> {
        let name = &issuer.name;
        check_name("jwt", name)?;
        if let KeySource::JwksUrl(from) = &issuer.source
            && !from.url.is_protected()
        {
            return Err(Error::setting(
                format!("auth.jwt {name:?}: jwks-url is neither https nor on a loopback address"),
                "use https: whoever answers there decides who is let in",
            ));
        }
        if self
            .issuers
            .iter()
            .filter(|other| other.name == *name)
            .count()
            > 1
        {
            return Err(Error::setting(
                format!("auth.jwt: two issuers have the name {name:?}"),
                "rename one",
            ));
        }
        for (key, empty) in [
            ("issuer", issuer.issuer.is_empty()),
            (
                "audience",
                issuer.audience.is_empty() || issuer.audience.iter().any(String::is_empty),
            ),
            ("principal", issuer.principal.is_empty()),
        ] {
            if empty {
                return Err(Error::setting(
                    format!("auth.jwt {name:?}: {key} is empty"),
                    "set it to what the issuer writes into its tokens",
                ));
            }
        }
        if self.token_sources() > 1 && issuer.allowed_roles.is_none() {
            return Err(Error::setting(
                format!("auth.jwt {name:?}: allowed-roles is missing"),
                "with more than one source of tokens, list the roles that this one may give (or [])",
            ));
        }
        issuer.algorithms().map(drop)
    }
}

fn check_name(section: &str, name: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    Err(Error::setting(
        format!("auth.{section}: {name:?} cannot be a name"),
        "use 1 to 64 letters, digits, '-', '_' or '.'; it becomes a part of principals",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(name: &str) -> IssuerSettings {
        let source = KeySource::JwksFile("jwks.json".into());
        IssuerSettings::new(name, "https://id", "portcullis", "ES256", source)
    }

    fn settings(issuers: &[IssuerSettings]) -> Settings {
        Settings {
            issuers: issuers.to_vec(),
            ..Settings::default()
        }
    }

    #[test]
    fn impossible_settings_are_refused_by_the_name_of_their_key() {
        let with = |change: fn(&mut IssuerSettings)| {
            let mut one = issuer("id");
            change(&mut one);
            settings(&[one])
        };
        let require = |methods: &[Method]| Settings {
            require: methods.to_vec(),
            ..settings(&[issuer("id")])
        };
        for (broken, word) in [
            (with(|i| i.name = "a/b".into()), "name"),
            (with(|i| i.name.clear()), "name"),
            (with(|i| i.audience.clear()), "audience"),
            (with(|i| i.audience = vec![String::new()]), "audience"),
            (with(|i| i.issuer.clear()), "issuer"),
            (with(|i| i.principal.clear()), "principal"),
            (with(|i| i.algorithms.clear()), "algorithms"),
            (with(|i| i.algorithms = vec!["none".into()]), "none"),
            (
                with(|i| i.algorithms = vec!["HS256".into(), "RS256".into()]),
                "mixes",
            ),
            (with(|i| i.algorithms = vec!["HS256".into()]), "jwks-file"),
            (settings(&[issuer("a"), issuer("b")]), "allowed-roles"),
            (settings(&[issuer("a"), issuer("a")]), "two issuers"),
            (require(&[Method::Password]), "auth.require"),
            (require(&[Method::Jwt]), "auth.require"),
            (
                Settings {
                    require: vec![Method::Certificate, Method::Jwt],
                    ..Settings::default()
                },
                "no issuer",
            ),
        ] {
            let text = broken.check().unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
        require(&[Method::Jwt, Method::Certificate])
            .check()
            .unwrap();
        settings(&[issuer("id")]).check().unwrap();
    }
}
