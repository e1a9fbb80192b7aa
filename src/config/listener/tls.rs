//! `[listener.tls]`: what the server shows, and whose certificates it believes.

use std::time::Duration;

use portcullis_auth::Url;

use super::super::InputFile;
use super::super::identity::check_name;
use super::super::remote::any_url;
use super::super::section::{FileOrTable, Section};
use super::super::units::MAX_DURATION;

/// `[listener.tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The server's certificate chain, PEM.
    pub certificate: InputFile,
    /// Its private key, PEM.
    pub key: InputFile,
    /// Whether clients show certificates.
    pub client_auth: ClientAuth,
    /// `[[listener.tls.sni]]`: certificates for some of the server's names.
    pub sni: Vec<Sni>,
}

/// `[[listener.tls.sni]]`: what clients see that ask for one of these names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sni {
    /// Host names; `*.example` stands for one more label.
    pub names: Vec<String>,
    /// The chain, PEM.
    pub certificate: InputFile,
    /// Its private key, PEM.
    pub key: InputFile,
}

/// `[listener.tls] client-auth`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Clients are not asked for a certificate.
    None,
    /// A client may show a certificate; one that does not verify ends the handshake.
    Optional(ClientCa),
    /// Without a certificate that verifies there is no connection.
    Required(ClientCa),
}

impl ClientAuth {
    /// Who signs the clients' certificates; `None` where there are none.
    #[must_use]
    pub fn ca(&self) -> Option<&ClientCa> {
        match self {
            Self::None => None,
            Self::Optional(ca) | Self::Required(ca) => Some(ca),
        }
    }
}

/// Who signs the clients' certificates, and which are revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCa {
    /// The certificate authorities, PEM, each with its name in principals, if it has one; at least
    /// one.
    pub ca: Vec<(Option<String>, InputFile)>,
    /// Revocation lists. Empty: nothing is revoked. Otherwise a CA without one is refused.
    pub crl: Vec<InputFile>,
    /// How long a list counts after its `nextUpdate`.
    pub crl_grace: Duration,
    /// Addresses of revocation lists, which count as `crl` does.
    pub crl_url: Vec<Url>,
    /// How often they are asked.
    pub crl_refresh: Duration,
    /// The CAs of their servers; `None`: those of the system.
    pub crl_tls_ca: Option<InputFile>,
    /// Certificates that are refused here.
    pub deny_fingerprints: Option<InputFile>,
}

pub(super) fn read_tls(section: &mut Section<'_>) -> Option<Tls> {
    const GRACE: Duration = Duration::from_hours(24);
    let certificate = section.required_file("certificate", "server.pem");
    let key = section.required_file("key", "server.key");
    let ca = read_client_ca(section);
    let client_auth = section.optional_choice(
        "client-auth",
        &[
            ("required", Wish::Required),
            ("optional", Wish::Optional),
            ("none", Wish::None),
        ],
    );
    let crl = section.files("crl", "ca.crl");
    let crl_grace = section.duration("crl-grace", GRACE, (Duration::from_millis(1), MAX_DURATION));
    let crl_refresh = section.duration(
        "crl-refresh",
        Duration::from_hours(1),
        (Duration::from_mins(1), MAX_DURATION),
    );
    let crl_tls_ca = section.file("crl-tls-ca", "ca.pem");
    let deny_fingerprints = section.file("deny-fingerprints", "denied.txt");
    let crl_url = section
        .list("crl-url", "http://ca.example/ca.crl")
        .unwrap_or_default();
    let crl_url: Vec<Url> = crl_url
        .into_iter()
        .filter_map(|url| any_url(section, "crl-url", url))
        .collect();
    let sni = section
        .tables("sni", "[[listener.tls.sni]]")
        .into_iter()
        .filter_map(read_sni)
        .collect();
    let source = section.source();
    if crl.as_ref().is_some_and(Vec::is_empty) {
        source.error(
            section.place("crl").unwrap_or(section.at()),
            "crl in [listener.tls] names no file",
            "write crl = [\"ca.crl\"], or leave it out to check no revocation",
        );
    }
    // A client-ca that is there and wrong was reported already.
    let ca_named = section.place("client-ca").is_some();
    for key in ["crl", "crl-url", "deny-fingerprints"] {
        if let Some(at) = section.place(key).filter(|_| !ca_named) {
            source.error(
                at,
                format_args!("{key} in [listener.tls] without client-ca"),
                "add client-ca = \"ca.pem\", the CA of the clients, or leave it out",
            );
        }
    }
    let client_ca = ca.map(|ca| ClientCa {
        ca,
        crl: crl.unwrap_or_default(),
        crl_grace,
        crl_url,
        crl_refresh,
        crl_tls_ca,
        deny_fingerprints,
    });
    let client_auth = match (client_ca, client_auth) {
        (Some(ca), None) => ClientAuth::Required(ca),
        (Some(ca), Some(wish)) => match wish.value {
            Wish::Required => ClientAuth::Required(ca),
            Wish::Optional => ClientAuth::Optional(ca),
            Wish::None => {
                source.warn(
                    wish.at,
                    "client-auth = \"none\" beside client-ca: no certificate is asked for",
                    "write \"optional\" or \"required\", or leave client-ca out",
                );
                ClientAuth::None
            }
        },
        (None, Some(wish)) if wish.value != Wish::None && !ca_named => {
            source.error(
                wish.at,
                format_args!(
                    "client-auth = {:?} in [listener.tls] without client-ca",
                    wish.value.as_str()
                ),
                "add client-ca = \"ca.pem\", the CA of the clients",
            );
            ClientAuth::None
        }
        (None, _) => ClientAuth::None,
    };
    Some(Tls {
        certificate: certificate?,
        key: key?,
        client_auth,
        sni,
    })
}

/// `client-ca`: one file, or a list of files and of tables with `name` and `file`.
fn read_client_ca(section: &mut Section<'_>) -> Option<Vec<(Option<String>, InputFile)>> {
    let at = section.place("client-ca")?;
    let mut cas: Vec<(Option<String>, InputFile)> = Vec::new();
    for item in section.files_or_tables("client-ca", "ca.pem")? {
        match item {
            FileOrTable::File(file) => cas.push((None, file)),
            FileOrTable::Table(mut table) => {
                let name = table.required("name", "plant");
                let file = table.required_file("file", "plant.pem");
                if let Some(name) = name {
                    check_name(&table, name);
                }
                table.finish();
                cas.push((Some(name?.value.to_owned()), file?));
            }
        }
    }
    if cas.is_empty() {
        section.source().error(
            at,
            "client-ca in [listener.tls] names no file",
            "write client-ca = \"ca.pem\", or leave it out to ask for no certificates",
        );
        return None;
    }
    Some(cas)
}

fn read_sni(mut section: Section<'_>) -> Option<Sni> {
    let names = section.list("names", "broker.example");
    let certificate = section.required_file("certificate", "broker.pem");
    let key = section.required_file("key", "broker.key");
    if names.as_ref().is_none_or(Vec::is_empty) {
        section.missing("names", "names = [\"broker.example\"]");
    }
    section.finish();
    Some(Sni {
        names: names?.iter().map(|name| name.value.to_owned()).collect(),
        certificate: certificate?,
        key: key?,
    })
}

/// `client-auth` as written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Required,
    Optional,
    None,
}

impl Wish {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optional => "optional",
            Self::None => "none",
        }
    }
}
