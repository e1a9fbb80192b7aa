//! Portcullis: who is it?
//!
//! Certificates, JSON Web Tokens and passwords, judged by one [`Desk`] that follows the identity
//! rules of `docs/authentication.md`: the first credential that is present (and looked at by the
//! listener) is judged, and one that fails never falls through to another.
//!
//! What holds here, against a client that sends whatever it likes:
//!
//! 1. **Closed.** Silence, error and absence refuse. A broken or empty file keeps the old state
//!    and says so; at start it is an error that names file, line and remedy.
//! 2. **Bounded.** Tokens, chains, files, hashing in parallel and what waits for it have limits.
//! 3. **Told apart by the operator only.** Each refusal carries its whole reason for the log; the
//!    client sees one code. No reason holds a password, a token or a key.
//! 4. **Time is an argument.** Every check takes the moment from its caller.
//!
//! | module | question |
//! | --- | --- |
//! | [`Desk`] | which credential counts, and does it still stand? |
//! | [`tls`] | what does a listener's TLS accept? |
//! | [`ClientTrust`] | does a chain lead to a client CA, and is it revoked? |
//! | [`CertificateName`] | what is a certificate's name? |
//! | [`IssuerSettings`] | whose tokens are believed, and what do they say? |
//! | [`password`] | the password file: reading, verifying, editing |
//!
//! Not here: what an identity may do (`acl`), how often it may try (`anomaly`), client-id rules,
//! sessions and CONNACK codes (`core`).

mod bounded;
mod breaker;
mod certificate;
mod claims;
mod crl;
mod crl_url;
mod deny;
mod der;
mod desk;
mod ends;
mod error;
mod exchange;
mod fetch;
mod file;
mod guess;
mod introspection;
mod jwt;
mod keys;
mod likeness;
mod names;
pub mod password;
mod remote;
mod scram;
mod settings;
mod slots;
pub mod tls;
mod token;
mod trust;
mod url;
mod webhook;

pub use certificate::{CertificateName, certificate_attributes};
pub use claims::ClaimCondition;
pub use desk::{Desk, Reloaded};
pub use ends::{Ends, Expiry, Part, What};
pub use error::Error;
pub use fetch::Connection;
pub use settings::{
    IntrospectionSettings, IssuerSettings, JwksUrl, KeySource, Link, Method, Settings,
    WebhookSettings,
};
pub use token::{ed25519_public_pem, generate_ed25519, issue_ed25519};
pub use trust::{ClientCa, ClientTrust, Revocation};
pub use url::Url;
