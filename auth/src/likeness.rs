//! Names that look as if somebody else had vouched for them.
//!
//! `cert:plant/pump` is from the CA `plant`, `jwt:id/anna` from the issuer `id`, and from nobody
//! else. Who is not named in its principals (a CA without a name, the only source of tokens or
//! passwords, the password file) may say a NAME with a slash in it, as long as nobody is called
//! what stands before the slash: on any listener, and for as long as the identity is used. So the
//! credential remembers it, as a hash: it may have any character.

use crate::der::{hex, sha256};

/// In the reference of a credential.
pub(crate) const FIELD: &str = " like=";

/// Stands for the beginning `KIND:SOURCE/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Likeness(Box<str>);

impl Likeness {
    /// Of the names that `source` vouches for.
    pub(crate) fn of(kind: &str, source: &str) -> Self {
        let text = format!("{kind}:{source}/");
        Self(hex(sha256(text.as_bytes()).get(..8).unwrap_or_default()).into())
    }

    /// Of a principal that does not say who vouched for it; `None`: like nobody's.
    pub(crate) fn found(kind: &str, name: &str) -> Option<Self> {
        let (source, _) = name.split_once('/')?;
        Some(Self::of(kind, source))
    }

    /// What a reference ends with.
    pub(crate) fn text(likeness: Option<&Self>) -> String {
        likeness.map_or_else(String::new, |Self(hash)| format!("{FIELD}{hash}"))
    }

    /// Takes it off the end of a reference.
    pub(crate) fn split(text: &str) -> (&str, Option<Self>) {
        match text.rsplit_once(FIELD) {
            Some((text, hash)) => (text, Some(Self(hash.into()))),
            None => (text, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_like_those_of_the_source_before_its_first_slash() {
        let plant = Likeness::of("cert", "plant");
        for name in ["plant/pump", "plant/", "plant/a/b"] {
            assert_eq!(Likeness::found("cert", name), Some(plant.clone()), "{name}");
        }
        for (kind, name) in [
            ("cert", "plant"),
            ("cert", "Plant/pump"),
            ("cert", "plan/t"),
            ("jwt", "plant/pump"),
            ("cert", "/plant"),
        ] {
            assert_ne!(Likeness::found(kind, name), Some(plant.clone()), "{name}");
        }
        let text = format!("server=x{}", Likeness::text(Some(&plant)));
        assert_eq!(Likeness::split(&text), ("server=x", Some(plant)));
        assert_eq!(Likeness::split("server=x"), ("server=x", None));
    }
}
