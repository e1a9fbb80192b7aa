//! Certificates, lists and keys that the `openssl` command makes, as people do by hand.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::{Instant, SystemTime};

use common::{attempt, desk, principal, revocation};
use portcullis_auth::tls::{self, ClientAuth, TlsSettings};
use portcullis_auth::{Desk, Settings};
use portcullis_core::clock::Now;
use portcullis_core::hook::{Attempt, ClientCertificate};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

/// A CA with what `openssl ca` wants to have, one intermediate CA, and clients.
const SCRIPT: &str = r#"
cat > ca.cnf <<'END'
[ca]
default_ca = here
[here]
database = index.txt
serial = serial
crlnumber = crlnumber
default_md = sha256
default_days = 30
default_crl_days = 30
new_certs_dir = .
policy = any
copy_extensions = none
[any]
commonName = supplied
organizationalUnitName = optional
[v3_ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[client]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = URI:spiffe://example/pump, DNS:pump.example
[bare]
basicConstraints = CA:FALSE
[server]
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
END
: > index.txt; echo 1000 > serial; echo 01 > crlnumber
openssl req -x509 -newkey rsa:3072 -noenc -keyout ca.key -out ca.pem -days 60 -subj "/CN=Works CA" -config ca.cnf -extensions v3_ca
sign() { # NAME EXTENSIONS SUBJECT, for NAME.key
    openssl req -new -key $1.key -out $1.csr -subj "$3" -config ca.cnf
    openssl ca -batch -notext -config ca.cnf -cert ca.pem -keyfile ca.key -extensions $2 -in $1.csr -out $1.pem
}
ec() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:$2 -out $1.key; }
ec p256 P-256;  sign p256 client "/OU=icu/CN=pump-17"
ec p384 P-384;  sign p384 client "/CN=pump-384"
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.key;      sign rsa client "/CN=pump-rsa"
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out weak.key;     sign weak client "/CN=pump-weak"
openssl genpkey -algorithm ED25519 -out ed.key; sign ed client "/CN=pump-ed"
ec p192 prime192v1;  sign p192 client "/CN=pump-192"
ec k256 secp256k1;   sign k256 client "/CN=pump-k"
ec bare P-256;       sign bare bare "/CN=pump-bare"
ec gone P-256;       sign gone client "/CN=pump-gone"
ec server P-256;     sign server server "/CN=localhost"
openssl ca -config ca.cnf -cert ca.pem -keyfile ca.key -revoke gone.pem
openssl ca -config ca.cnf -cert ca.pem -keyfile ca.key -gencrl -out ca.crl
openssl crl -in ca.crl -outform DER -out ca.crl.der
"#;

fn made() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-euc", SCRIPT])
        .current_dir(directory.path())
        // What somebody has configured for openssl on this machine is not asked for.
        .env_remove("OPENSSL_CONF");
    let made = command.output().unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}; run scripts/setup-tests");
    directory
}

fn shown(directory: &Path, name: &str) -> ClientCertificate {
    let pem = std::fs::read(directory.join(format!("{name}.pem"))).unwrap();
    let der = CertificateDer::from_pem_slice(&pem).unwrap();
    common::chain(&[&der])
}

fn judge(desk: &Desk, certificate: &ClientCertificate) -> Result<String, String> {
    let attempt = Attempt {
        certificate: Some(certificate),
        now: Now {
            mono: Instant::now(),
            wall: SystemTime::now(),
        },
        ..attempt()
    };
    principal(desk, &attempt)
}

#[test]
fn what_openssl_makes_is_taken_or_refused_for_what_it_is() {
    let directory = made();
    let path = |name: &str| directory.path().join(name);
    for list in ["ca.crl", "ca.crl.der"] {
        let settings = TlsSettings {
            certificate: path("server.pem"),
            key: path("server.key"),
            client_ca: vec![path("ca.pem").into()],
            client_auth: ClientAuth::Required,
            revocation: revocation(vec![path(list)]),
            sni: vec![],
            alpn: vec![b"mqtt".to_vec()],
        };
        let loaded = tls::load(&settings, SystemTime::now())
            .map_err(|error| error.to_string())
            .unwrap();
        for (kind, expected) in [
            ("cn", "cert:pump-17"),
            ("san-uri", "cert:spiffe://example/pump"),
            ("san-dns", "cert:pump.example"),
            ("subject", "cert:OU=icu,CN=pump-17"),
        ] {
            let desk = desk(Settings {
                certificate: kind.parse().unwrap(),
                ..Settings::default()
            });
            desk.set_listener("internet", &loaded);
            let judged = judge(&desk, &shown(directory.path(), "p256"));
            assert_eq!(judged.as_deref(), Ok(expected));
        }
        let desk = desk(Settings::default());
        desk.set_listener("internet", &loaded);
        for (name, expected) in [
            ("p384", Ok("cert:pump-384")),
            ("rsa", Ok("cert:pump-rsa")),
            ("ed", Ok("cert:pump-ed")),
            ("weak", Err("1024 bits")),
            ("p192", Err("is not P-256, P-384 or P-521")),
            ("k256", Err("is not P-256, P-384 or P-521")),
            ("bare", Err("no extended key usage")),
            ("server", Err("lacks clientAuth")),
            ("gone", Err("revoked")),
        ] {
            let judged = judge(&desk, &shown(directory.path(), name));
            match expected {
                Ok(who) => assert_eq!(judged.as_deref(), Ok(who)),
                Err(word) => assert!(judged.clone().unwrap_err().contains(word), "{judged:?}"),
            }
        }
    }
}
