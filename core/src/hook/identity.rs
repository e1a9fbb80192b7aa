//! Who a client is, once somebody vouched for it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use thiserror::Error;

/// A proven name with its kind: `cert:pump-17`, `jwt:anna`, `user:anna`, `anonymous`, `system:NAME`.
///
/// Byte-exact; sessions, messages and records belong to this string.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal(Arc<str>);

/// Why a name cannot be a principal's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PrincipalError {
    /// There is no name.
    #[error("the name is empty")]
    Empty,
    /// More than 1024 bytes.
    #[error("the name is longer than 1024 bytes")]
    TooLong,
    /// A control character.
    #[error("the name has a control character")]
    Control,
    /// Not a kind of principal; `role` is for roles alone.
    #[error("that is not a kind of principal")]
    Kind,
}

impl Principal {
    /// Longest name accepted, in bytes.
    pub const MAX_NAME: usize = 1024;

    /// Asserts that `name` of this `kind` was proven. Searching for calls finds every origin of
    /// trust.
    ///
    /// # Errors
    ///
    /// A name that nobody can have.
    pub fn vouched(kind: &str, name: &str) -> Result<Self, PrincipalError> {
        let word = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_lowercase());
        if !word || matches!(kind, "role" | "anonymous" | "system") {
            return Err(PrincipalError::Kind);
        }
        if name.is_empty() {
            return Err(PrincipalError::Empty);
        }
        if name.len() > Self::MAX_NAME {
            return Err(PrincipalError::TooLong);
        }
        if name.chars().any(char::is_control) {
            return Err(PrincipalError::Control);
        }
        Ok(Self(format!("{kind}:{name}").into()))
    }

    /// The one principal that all anonymous clients are.
    #[must_use]
    pub fn anonymous() -> Self {
        static ANONYMOUS: LazyLock<Principal> = LazyLock::new(|| Principal("anonymous".into()));
        ANONYMOUS.clone()
    }

    /// A part of the broker itself that publishes: `system:NAME`.
    #[must_use]
    pub fn system(name: &str) -> Self {
        Self(format!("system:{name}").into())
    }

    /// A principal as it was written into the broker's own store.
    pub(crate) fn recorded(text: &str) -> Self {
        Self(text.into())
    }

    /// What stands before the first colon: `cert`, `jwt`, `user`, `system` or `anonymous`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.0.split_once(':').map_or(&self.0, |(kind, _)| kind)
    }

    /// What stands after the first colon; empty for `anonymous`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, name)| name)
    }

    /// The whole string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Facts about an identity that policies may name: `cert.ou`, `claim.site`, ...
/// The key is the placeholder's text without braces.
pub type Attributes = BTreeMap<Box<str>, Box<str>>;

/// What an [`Authenticator`](super::Authenticator) found out about a client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The proven name.
    pub principal: Principal,
    /// Role names without the `role:` prefix, as the credential carries them (the policy may add
    /// more), sorted and without repetition.
    pub roles: Arc<[Box<str>]>,
    /// What policies may name.
    pub attributes: Arc<Attributes>,
}

impl Identity {
    /// The attribute that holds the NAME of a principal which says first who vouched for it:
    /// `cert:CANAME/NAME`, `jwt:ISSUER/NAME`. Set by [`vouched_by`](Self::vouched_by) alone.
    pub const NAME: &'static str = "name";

    /// A principal without roles and attributes.
    #[must_use]
    pub fn new(principal: Principal) -> Self {
        /// Shared: most have none.
        static NO_ATTRIBUTES: LazyLock<Arc<Attributes>> = LazyLock::new(Arc::default);
        Self {
            principal,
            roles: Arc::default(),
            attributes: Arc::clone(&NO_ATTRIBUTES),
        }
    }

    /// Asserts, as [`Principal::vouched`] does, that `source` vouched for `name`: `KIND:SOURCE/NAME`. For
    /// sources that may give the same name to different clients.
    ///
    /// # Errors
    ///
    /// A name that nobody can have.
    pub fn vouched_by(
        kind: &str,
        source: Option<&str>,
        name: &str,
        roles: Arc<[Box<str>]>,
        mut attributes: Attributes,
    ) -> Result<Self, PrincipalError> {
        attributes.remove(Self::NAME);
        let principal = match source {
            None => Principal::vouched(kind, name)?,
            Some(_) if name.is_empty() => return Err(PrincipalError::Empty),
            Some(source) => {
                attributes.insert(Self::NAME.into(), name.into());
                Principal::vouched(kind, &format!("{source}/{name}"))?
            }
        };
        Ok(Self {
            principal,
            roles,
            attributes: Arc::new(attributes),
        })
    }

    /// The NAME of the principal: what stands after its kind, and after the source where the
    /// principal names one. This is `{name}` in policies and what `client-id = "name"` asks for.
    #[must_use]
    pub fn name(&self) -> &str {
        let whole = self.principal.name();
        let own = self.attributes.get(Self::NAME).map(|name| &**name);
        own.filter(|own| {
            let source = whole.strip_suffix(own);
            source.is_some_and(|source| source.ends_with('/'))
        })
        .unwrap_or(whole)
    }
}

/// Everything that a policy decision may depend on, frozen at CONNECT (or re-authentication).
///
/// Also the author stamp of messages (rule 4 of the design): what is stored keeps an `Arc` of it,
/// so that the same question can be asked again later.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// Who.
    pub identity: Identity,
    /// The credential that proved it; stored messages are asked about by it.
    pub credential: super::Credential,
    /// The client identifier.
    pub client_id: Arc<str>,
    /// The listener's name.
    pub listener: Arc<str>,
    /// Where from; `None` for Unix sockets and the broker itself.
    pub address: Option<IpAddr>,
}

impl Snapshot {
    /// The principal.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.identity.principal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Casbin gives a subject that is named like a role the role's rights. Nobody can be.
    #[test]
    fn a_client_can_never_be_named_like_a_role_or_like_the_broker() {
        for kind in [
            "role",
            "system",
            "anonymous",
            "*",
            "",
            "Role",
            "role:x",
            "ro le",
        ] {
            let refused = Principal::vouched(kind, "x");
            assert_eq!(refused, Err(PrincipalError::Kind), "{kind:?}");
        }
        // The kind is what stands before the first colon, whatever the name says.
        for name in ["role:x", "x,role:x", ":role:x"] {
            if let Ok(principal) = Principal::vouched("cert", name) {
                assert_eq!(principal.kind(), "cert", "{name}");
                assert!(!principal.as_str().starts_with("role:"), "{name}");
            }
        }
    }

    #[test]
    fn the_source_of_a_name_is_no_part_of_it() {
        let identity = |source, name| {
            let attributes = Attributes::from([("name".into(), "somebody".into())]);
            Identity::vouched_by("cert", source, name, Arc::from([]), attributes)
        };
        for (source, name, principal) in [
            (None, "pump", "cert:pump"),
            (None, "plant/pump", "cert:plant/pump"),
            (Some("plant"), "pump", "cert:plant/pump"),
            (Some("plant"), "a/b", "cert:plant/a/b"),
        ] {
            let identity = identity(source, name).unwrap();
            assert_eq!(identity.principal.as_str(), principal);
            assert_eq!(identity.name(), name);
        }
        assert_eq!(identity(Some("plant"), ""), Err(PrincipalError::Empty));
        // A module that says something else about a name is not followed.
        for own in ["else", "ump", "plant/pump", ""] {
            let identity = Identity {
                attributes: Arc::new([("name".into(), own.into())].into()),
                ..Identity::new(Principal::vouched("cert", "plant/pump").unwrap())
            };
            assert_eq!(identity.name(), "plant/pump", "{own:?}");
        }
    }
}
