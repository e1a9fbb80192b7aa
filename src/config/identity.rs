//! `[auth]`: which credentials count, and what they say.

use std::time::Duration;

use super::InputFile;
use super::problem::Position;
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
}

impl Auth {
    pub(super) fn input_files(&self) -> impl Iterator<Item = &InputFile> {
        let keys = self.jwt.iter().map(|issuer| issuer.keys.file());
        self.password_file.iter().chain(keys)
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
    /// Algorithms that are accepted; at least one.
    pub algorithms: Vec<Algorithm>,
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
    /// Where the section begins.
    pub at: Position,
}

/// A signature algorithm for tokens (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519.
    EdDsa,
    /// ECDSA over P-256.
    Es256,
    /// RSA PKCS#1 v1.5 with SHA-256.
    Rs256,
}

/// The public keys of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwtKeys {
    /// `jwks-file`: a JSON Web Key Set.
    JwksFile(InputFile),
    /// `key-file`: one public key, PEM.
    KeyFile(InputFile),
}

impl JwtKeys {
    /// The file that has the keys.
    #[must_use]
    pub fn file(&self) -> &InputFile {
        match self {
            Self::JwksFile(file) | Self::KeyFile(file) => file,
        }
    }
}

/// Names and claims longer than this are nobody's.
const MAX_NAME: usize = 128;

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
    let issuers = section.tables("jwt", "[[auth.jwt]]");
    let several = issuers.len() > 1;
    let has_issuer = !issuers.is_empty();
    let mut jwt: Vec<JwtIssuer> = Vec::with_capacity(issuers.len());
    for mut issuer in issuers {
        let read = read_issuer(&mut issuer, several);
        if let Some(read) = read {
            if jwt.iter().any(|other| other.name == read.name) {
                issuer.source().error(
                    issuer.place("name").unwrap_or(read.at),
                    format_args!("two issuers are named {:?}", read.name),
                    "give each a name of its own",
                );
            }
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
    Auth {
        anonymous,
        password_file,
        require: require.map_or(Require::One, |list| {
            read_require(section, &list, has_issuer)
        }),
        client_id,
        certificate_name,
        jwt,
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
        at: section.at(),
    })
}

/// The name becomes a part of principals: `jwt:NAME/...` must be read in one way only.
fn check_name(section: &Section<'_>, name: Placed<&str>) {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.value.len() > MAX_NAME || !name.value.chars().all(fits) {
        section.source().error(
            name.at,
            format_args!("name in [[auth.jwt]] is {:?}", name.value),
            "write letters, digits, hyphens, underscores and dots, at most 128",
        );
    }
}

fn read_audience(section: &mut Section<'_>) -> Option<Vec<String>> {
    let list = required_list(section, "audience", "portcullis")?;
    Some(list.iter().map(|name| name.value.to_owned()).collect())
}

fn read_algorithms(section: &mut Section<'_>) -> Option<Vec<Algorithm>> {
    const LATER: [&str; 9] = [
        "ES384", "RS384", "RS512", "PS256", "PS384", "PS512", "HS256", "HS384", "HS512",
    ];
    const REMEDY: &str = "write one or more of \"EdDSA\", \"ES256\" and \"RS256\"";
    let list = required_list(section, "algorithms", "ES256")?;
    let mut algorithms = Vec::with_capacity(list.len());
    for Placed { value, at } in list {
        let algorithm = match value {
            "EdDSA" => Algorithm::EdDsa,
            "ES256" => Algorithm::Es256,
            "RS256" => Algorithm::Rs256,
            later if LATER.contains(&later) => {
                let what = format_args!("algorithm {later:?} in [[auth.jwt]]");
                section.source().unsupported(at, what, REMEDY);
                continue;
            }
            other => {
                let message = format_args!("algorithm {other:?} in [[auth.jwt]] is unknown");
                section.source().error(at, message, REMEDY);
                continue;
            }
        };
        if !algorithms.contains(&algorithm) {
            algorithms.push(algorithm);
        }
    }
    Some(algorithms)
}

/// Exactly one source of keys.
fn read_keys(section: &mut Section<'_>) -> Option<JwtKeys> {
    const ONE: &str = "write exactly one of jwks-file and key-file";
    let url = section.text("jwks-url", "https://id.example/jwks.json");
    let jwks = section
        .file("jwks-file", "jwks.json")
        .map(JwtKeys::JwksFile);
    let key = section.file("key-file", "issuer.pub").map(JwtKeys::KeyFile);
    let source = section.source();
    if let Some(url) = url {
        source.unsupported(
            url.at,
            "jwks-url in [[auth.jwt]]",
            "use jwks-file or key-file",
        );
        return None;
    }
    match (jwks, key) {
        (Some(keys), None) | (None, Some(keys)) => Some(keys),
        (Some(_), Some(second)) => {
            let message = "[[auth.jwt]] has jwks-file and key-file";
            source.error(second.file().at, message, ONE);
            None
        }
        (None, None) => {
            let named = |key| section.place(key).is_some();
            // A key that is there and wrong was reported already.
            if !named("jwks-url") && !named("jwks-file") && !named("key-file") {
                source.error(section.at(), "[[auth.jwt]] has no keys", ONE);
            }
            None
        }
    }
}

fn read_claim(section: &mut Section<'_>, key: &'static str, default: &'static str) -> String {
    let claim = section.text(key, default);
    claim.map_or(default, |claim| claim.value).to_owned()
}

fn read_allowed_roles(section: &mut Section<'_>, several: bool) -> Option<Vec<String>> {
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
                format_args!("allowed-roles in [[auth.jwt]] has {:?}", role.value),
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
