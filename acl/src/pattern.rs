//! Topic patterns of policies: MQTT filters in which a level may be a placeholder.
//!
//! A placeholder is a whole level and stands for one literal level (rule 7 of the design). What a
//! client could use to widen it - a wildcard, a separator, a leading `$` - makes the value unsafe:
//! an allow line then grants nothing, and in a deny line the level counts as `+`.

use std::fmt;

use portcullis_core::hook::Snapshot;
use portcullis_core::topic::{TopicError, TopicFilter, TopicLimits};

use crate::error::Complaint;
use crate::suggest::nearest;

/// The most bytes that the value of a placeholder may have.
pub const MAX_VALUE: usize = 128;

/// Every placeholder that has no free part.
const FIXED: [&str; 5] = ["name", "principal", "client_id", "listener", "username"];

/// A fact about a client that a pattern may name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Slot {
    /// The NAME of the principal.
    Name,
    /// The principal with its kind.
    Principal,
    /// The client identifier, which the client chooses unless the configuration binds it.
    ClientId,
    /// The listener's name.
    Listener,
    /// The NAME of a `user:` principal.
    Username,
    /// `cert.FIELD` or `claim.PATH`.
    Attribute(Box<str>),
}

impl Slot {
    /// Reads what stands between the braces.
    pub(crate) fn parse(text: &str) -> Result<Self, Complaint> {
        match text {
            "name" => return Ok(Self::Name),
            "principal" => return Ok(Self::Principal),
            "client_id" => return Ok(Self::ClientId),
            "listener" => return Ok(Self::Listener),
            "username" => return Ok(Self::Username),
            _ => {}
        }
        let free = text
            .strip_prefix("cert.")
            .or_else(|| text.strip_prefix("claim."));
        match free {
            Some(path) if is_path(path) => Ok(Self::Attribute(text.into())),
            Some(_) => Err(Complaint::new(
                format!("`{{{text}}}` does not name a field"),
                "write {cert.FIELD} or {claim.PATH}, with letters, digits, `_`, `-` and inner dots",
            )),
            None => Err(Complaint::new(
                format!("`{{{text}}}` is not a placeholder"),
                Self::remedy(text),
            )),
        }
    }

    fn remedy(text: &str) -> String {
        let (head, tail) = text.split_once('.').unwrap_or((text, ""));
        let near = if tail.is_empty() {
            nearest(&head.replace('-', "_"), FIXED).map(|word| format!("{{{word}}}"))
        } else {
            nearest(head, ["cert", "claim"]).map(|word| format!("{{{word}.{tail}}}"))
        };
        match near {
            Some(word) => format!("did you mean {word}?"),
            None => "the placeholders are {name}, {principal}, {client_id}, {listener}, \
                     {username}, {cert.FIELD} and {claim.PATH}"
                .into(),
        }
    }

    /// The value for this client; `None` when it is missing or unsafe.
    pub(crate) fn value<'a>(&self, who: &'a Snapshot) -> Option<&'a str> {
        self.text(who).filter(|value| is_safe(value))
    }

    /// The value for this client as it is, for comparisons; `None` when it is missing.
    pub(crate) fn text<'a>(&self, who: &'a Snapshot) -> Option<&'a str> {
        let principal = who.principal();
        let value = match self {
            Self::Name => who.identity.name(),
            Self::Principal => principal.as_str(),
            Self::ClientId => &who.client_id,
            Self::Listener => &who.listener,
            Self::Username if principal.kind() == "user" => who.identity.name(),
            Self::Username => return None,
            Self::Attribute(key) => who.identity.attributes.get(key)?,
        };
        (!value.is_empty()).then_some(value)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Name => "name",
            Self::Principal => "principal",
            Self::ClientId => "client_id",
            Self::Listener => "listener",
            Self::Username => "username",
            Self::Attribute(key) => key,
        };
        write!(f, "{{{text}}}")
    }
}

fn is_path(path: &str) -> bool {
    path.split('.').all(|part| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
    })
}

/// Whether a value may stand for a topic level (rule 7).
pub(crate) fn is_safe(value: &str) -> bool {
    !value.is_empty()
        && value.len() <= MAX_VALUE
        && !value.starts_with('$')
        && !value
            .chars()
            .any(|c| matches!(c, '+' | '#' | '/') || c.is_control())
}

/// One level of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Level {
    /// This text.
    Literal(Box<str>),
    /// `+`
    Any,
    /// `#`
    Rest,
    /// The value of the slot with this number.
    Slot(u16),
}

/// The placeholders of a policy, each once; a slot's number is its place here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots(Vec<Slot>);

impl Slots {
    pub(crate) fn get(&self, number: u16) -> Option<&Slot> {
        self.0.get(usize::from(number))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.0.iter()
    }

    fn number(&mut self, slot: Slot) -> Option<u16> {
        let place = self.0.iter().position(|known| *known == slot);
        let place = place.unwrap_or_else(|| {
            self.0.push(slot);
            self.0.len() - 1
        });
        u16::try_from(place).ok()
    }
}

/// Reads the topic column of a line about topics.
pub(crate) fn topic(text: &str, slots: &mut Slots) -> Result<Box<[Level]>, Complaint> {
    if text.starts_with("$share/") || text == "$share" {
        return Err(Complaint::new(
            "a topic column does not take `$share/`",
            "write the plain filter here, and a line with the action share and the group name",
        ));
    }
    let (levels, plain) = levels(text, slots)?;
    match TopicFilter::new(&plain, TopicLimits::default()) {
        Ok(_) => Ok(levels),
        Err(error) => Err(Complaint::new(
            format!("the topic column {error}"),
            match error {
                TopicError::Empty => "name a topic filter, for example `#`",
                TopicError::MisplacedWildcard | TopicError::Wildcard => {
                    "`+` stands for one whole level, `#` for all further ones, at the end"
                }
                TopicError::Nul | TopicError::Share => "remove it",
                TopicError::TooLong | TopicError::TooDeep => {
                    "use at most 4096 bytes and 64 levels; no topic has more"
                }
            },
        )),
    }
}

/// Reads the topic column of a `share` line: the name of a group, or a wildcard.
pub(crate) fn group(text: &str, slots: &mut Slots) -> Result<Level, Complaint> {
    let remedy = "write the group name alone, or `+` or `#` for any group";
    if text.is_empty() {
        return Err(Complaint::new("the group name is empty", remedy));
    }
    if text.contains('/') {
        return Err(Complaint::new(
            "the topic column of a share line is a group name, not a filter",
            remedy,
        ));
    }
    let (levels, _) = levels(text, slots)?;
    match levels.into_vec().pop() {
        Some(Level::Literal(name)) if name.contains(['+', '#']) => Err(Complaint::new(
            "the group name has a wildcard in it",
            remedy,
        )),
        Some(level) => Ok(level),
        None => Err(Complaint::new("the group name is empty", remedy)),
    }
}

/// Whether a text stands in quotes that CSV does not know: they are a part of it, and a deny line with
/// them matches nothing that was meant.
pub(crate) fn is_quoted(text: &str) -> bool {
    let quote = |c: char| {
        matches!(
            c,
            '\'' | '`' | '\u{ab}' | '\u{bb}' | '\u{2018}'..='\u{201f}'
        )
    };
    text.chars().count() > 1 && text.starts_with(quote) && text.ends_with(quote)
}

/// The levels of a pattern, and the pattern with a plain word for each placeholder.
fn levels(text: &str, slots: &mut Slots) -> Result<(Box<[Level]>, String), Complaint> {
    let mut levels = Vec::new();
    let mut plain = String::with_capacity(text.len());
    for part in text.split('/') {
        if !levels.is_empty() {
            plain.push('/');
        }
        let level = match part {
            "+" => Level::Any,
            "#" => Level::Rest,
            _ if part.contains(['{', '}']) => {
                let slot = Slot::parse(braced(part)?)?;
                let number = slots.number(slot).ok_or_else(|| {
                    Complaint::new("more than 65536 placeholders", "use fewer different ones")
                })?;
                plain.push('x');
                levels.push(Level::Slot(number));
                continue;
            }
            _ => Level::Literal(part.into()),
        };
        plain.push_str(part);
        levels.push(level);
    }
    Ok((levels.into(), plain))
}

/// What stands in the braces of a level that is a placeholder and nothing else.
fn braced(level: &str) -> Result<&str, Complaint> {
    let inside = level
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .filter(|inside| !inside.contains(['{', '}']));
    if let Some(inside) = inside {
        return Ok(inside);
    }
    let opened = level.matches('{').count();
    if opened == 1 && level.matches('}').count() == 1 && level.find('{') < level.find('}') {
        return Err(Complaint::new(
            format!("the placeholder in `{level}` is not a whole level"),
            "put `/` on both sides of it",
        ));
    }
    Err(Complaint::new(
        format!("`{level}` has a stray brace"),
        "write a placeholder as {name}, alone in its level; other levels have no braces",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_safe_only_as_one_plain_level() {
        let long = "x".repeat(129);
        for (value, safe) in [
            ("pump-17", true),
            ("cert:pump 17", true),
            (&long[1..], true),
            (&long, false),
            ("", false),
            ("+", false),
            ("a#", false),
            ("a/b", false),
            ("a\u{7f}", false),
            ("$SYS", false),
            ("a$", true),
        ] {
            assert_eq!(is_safe(value), safe, "{value:?}");
        }
    }

    #[test]
    fn what_is_not_a_pattern_is_told_apart() {
        for (text, says) in [
            ("a/{nmae}", "did you mean {name}?"),
            ("a/{client-id}", "did you mean {client_id}?"),
            ("a/{certs.ou}", "did you mean {cert.ou}?"),
            ("a/{clientid}/b", "did you mean {client_id}?"),
            ("a/{zzz}", "the placeholders are"),
            ("a/{cert.}", "does not name a field"),
            ("a/x{name}", "is not a whole level"),
            ("a/{name", "stray brace"),
            ("a/}{", "stray brace"),
            ("a/{{name}}", "stray brace"),
            ("a/#/b", "at the end"),
            ("a+", "one whole level"),
            ("", "is empty"),
            ("$share/g/a", "does not take `$share/`"),
        ] {
            let complaint = topic(text, &mut Slots::default()).unwrap_err();
            let said = format!("{}; {}", complaint.message, complaint.remedy);
            assert!(said.contains(says), "{text}: {said}");
        }
    }

    #[test]
    fn a_share_line_names_a_group() {
        for (text, good) in [
            ("workers", true),
            ("+", true),
            ("#", true),
            ("{name}", true),
            ("a/b", false),
            ("a+", false),
            ("'a'", true),
            ("", false),
        ] {
            assert_eq!(group(text, &mut Slots::default()).is_ok(), good, "{text}");
        }
    }
}
