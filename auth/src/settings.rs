//! `[auth]` of portcullis.toml, as the desk uses it. The configuration layer parses the file and
//! resolves paths; the rules between fields are checked here, in [`Settings::check`].

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use jsonwebtoken::Algorithm;

use crate::{CertificateName, Error};

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
        if secrets != 0 && matches!(self.source, KeySource::JwksFile(_)) {
            return Err(Error::setting(
                format!("auth.jwt {:?}: HS algorithms with jwks-file", self.name),
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
        if !require.is_empty() && self.issuers.is_empty() {
            return Err(Error::setting(
                "auth.require asks for a JWT, but there is no issuer",
                "add [[auth.jwt]]",
            ));
        }
        self.issuers
            .iter()
            .try_for_each(|issuer| self.check_issuer(issuer))
    }

    fn check_issuer(&self, issuer: &IssuerSettings) -> Result<(), Error> {
        let name = &issuer.name;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(Error::setting(
                format!("auth.jwt: {name:?} cannot be an issuer's name"),
                "use 1 to 64 letters, digits, '-', '_' or '.'; it becomes a part of principals",
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
        if self.issuers.len() > 1 && issuer.allowed_roles.is_none() {
            return Err(Error::setting(
                format!("auth.jwt {name:?}: allowed-roles is missing"),
                "with more than one issuer, list the roles that this one may give (or [])",
            ));
        }
        issuer.algorithms().map(drop)
    }
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
