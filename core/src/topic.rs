//! Topic names and topic filters that have been checked (MQTT 5.0, section 4.7 and 4.8).
//!
//! Holding a [`TopicName`] or a [`TopicFilter`] means that the rules of the text and the limits
//! of the configuration hold for it; nothing downstream checks again.

use std::fmt;

use thiserror::Error;

/// How long and how deep a topic may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicLimits {
    /// Bytes in a topic name or filter.
    pub length: usize,
    /// Levels in a topic name or filter; bounds the depth of every walk through a topic tree.
    pub levels: usize,
}

impl Default for TopicLimits {
    fn default() -> Self {
        Self {
            length: 4096,
            levels: 64,
        }
    }
}

/// What is wrong with a topic name or filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TopicError {
    /// \[MQTT-4.7.3-1\]
    #[error("is empty")]
    Empty,
    /// \[MQTT-4.7.3-2\]
    #[error("contains U+0000")]
    Nul,
    /// \[MQTT-3.3.2-2\]
    #[error("is a topic name with a wildcard")]
    Wildcard,
    /// \[MQTT-4.7.1-1\], \[MQTT-4.7.1-2\]
    #[error("has a wildcard that is not a whole level, or a # that is not the last")]
    MisplacedWildcard,
    /// \[MQTT-4.8.2-1\], \[MQTT-4.8.2-2\]
    #[error("has a malformed $share prefix")]
    Share,
    /// Longer than the configuration allows.
    #[error("is longer than the limit")]
    TooLong,
    /// Deeper than the configuration allows.
    #[error("has more levels than the limit")]
    TooDeep,
}

/// A topic name: not empty, without wildcard and NUL, within the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName<'a>(&'a str);

impl<'a> TopicName<'a> {
    /// Checks a topic name.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks.
    pub fn new(name: &'a str, limits: TopicLimits) -> Result<Self, TopicError> {
        let bytes = name.as_bytes();
        if bytes.is_empty() {
            return Err(TopicError::Empty);
        }
        if bytes.len() > limits.length {
            return Err(TopicError::TooLong);
        }
        let mut levels = 1;
        for byte in bytes {
            match byte {
                b'+' | b'#' => return Err(TopicError::Wildcard),
                0 => return Err(TopicError::Nul),
                b'/' => levels += 1,
                _ => {}
            }
        }
        if levels > limits.levels {
            return Err(TopicError::TooDeep);
        }
        Ok(Self(name))
    }

    /// A name that was checked before and kept by the broker itself.
    pub(crate) fn trusted(name: &'a str) -> Self {
        Self(name)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// Whether the name begins with `$`, so that a leading wildcard does not match it
    /// \[MQTT-4.7.2-1\].
    #[must_use]
    pub fn is_reserved(self) -> bool {
        self.0.starts_with('$')
    }
}

impl fmt::Display for TopicName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A topic filter: wildcards only as whole levels, `#` only as the last, within the limits.
/// A `$share/GROUP/` prefix is taken apart, see [`TopicFilter::share`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter<'a> {
    group: Option<&'a str>,
    filter: &'a str,
    whole: &'a str,
}

impl<'a> TopicFilter<'a> {
    /// Checks a topic filter, shared or not.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks.
    pub fn new(text: &'a str, limits: TopicLimits) -> Result<Self, TopicError> {
        if text.len() > limits.length {
            return Err(TopicError::TooLong);
        }
        let (group, filter) = match text.strip_prefix("$share") {
            Some("") => return Err(TopicError::Share),
            Some(rest) if rest.starts_with('/') => {
                let rest = rest.strip_prefix('/').unwrap_or_default();
                let (group, filter) = rest.split_once('/').ok_or(TopicError::Share)?;
                let nested = filter == "$share" || filter.starts_with("$share/");
                if group.is_empty()
                    || filter.is_empty()
                    || group.contains(['+', '#', '\0'])
                    || nested
                {
                    return Err(TopicError::Share);
                }
                (Some(group), filter)
            }
            _ => (None, text),
        };
        Self::check(filter, limits)?;
        Ok(Self {
            group,
            filter,
            whole: text,
        })
    }

    fn check(filter: &str, limits: TopicLimits) -> Result<(), TopicError> {
        if filter.is_empty() {
            return Err(TopicError::Empty);
        }
        let mut hash = false;
        for (depth, level) in filter.split('/').enumerate() {
            if hash {
                return Err(TopicError::MisplacedWildcard);
            }
            if depth >= limits.levels {
                return Err(TopicError::TooDeep);
            }
            match level {
                "#" => hash = true,
                "+" => {}
                _ if level.contains(['+', '#']) => return Err(TopicError::MisplacedWildcard),
                _ if level.contains('\0') => return Err(TopicError::Nul),
                _ => {}
            }
        }
        Ok(())
    }

    /// The group of a shared subscription (section 4.8.2).
    #[must_use]
    pub fn share(self) -> Option<&'a str> {
        self.group
    }

    /// The filter that topics are matched with; without the `$share` prefix.
    #[must_use]
    pub fn filter(self) -> &'a str {
        self.filter
    }

    /// The filter as the client wrote it, `$share` prefix included.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.whole
    }

    /// Whether there is a wildcard in it.
    #[must_use]
    pub fn has_wildcard(self) -> bool {
        self.filter.contains(['+', '#'])
    }
}

impl fmt::Display for TopicFilter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.whole)
    }
}

/// Whether `filter` (valid, without `$share` prefix) matches the topic `name`. The plain reading
/// of section 4.7, level by level; trees elsewhere are tested against it.
#[must_use]
pub fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = name.split('/');
    for pattern in filter.split('/') {
        if pattern == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if pattern == "+" || pattern == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TopicLimits = TopicLimits {
        length: 20,
        levels: 4,
    };

    #[test]
    fn a_topic_name_obeys_the_text_and_the_limits() {
        for (name, answer) in [
            ("a", Ok(())),
            ("/", Ok(())),
            ("a//b", Ok(())),
            ("$SYS/x", Ok(())),
            ("", Err(TopicError::Empty)),
            ("a/+", Err(TopicError::Wildcard)),
            ("a#", Err(TopicError::Wildcard)),
            ("a\0", Err(TopicError::Nul)),
            ("a/b/c/d/e", Err(TopicError::TooDeep)),
            ("aaaaaaaaaaaaaaaaaaaaa", Err(TopicError::TooLong)),
        ] {
            assert_eq!(TopicName::new(name, LIMITS).map(drop), answer, "{name:?}");
        }
    }

    #[test]
    fn a_topic_filter_obeys_the_text_and_the_limits() {
        for (filter, answer) in [
            ("#", Ok((None, "#"))),
            ("+/+", Ok((None, "+/+"))),
            ("a/#", Ok((None, "a/#"))),
            ("$share/g/a/#", Ok((Some("g"), "a/#"))),
            ("$share/g//", Ok((Some("g"), "/"))),
            ("$shared/g", Ok((None, "$shared/g"))),
            ("", Err(TopicError::Empty)),
            ("a#", Err(TopicError::MisplacedWildcard)),
            ("#/a", Err(TopicError::MisplacedWildcard)),
            ("a+/b", Err(TopicError::MisplacedWildcard)),
            ("$share", Err(TopicError::Share)),
            ("$share/", Err(TopicError::Share)),
            ("$share/g", Err(TopicError::Share)),
            ("$share/g/", Err(TopicError::Share)),
            ("$share//a", Err(TopicError::Share)),
            ("$share/+/a", Err(TopicError::Share)),
            ("$share/g/$share/h/a", Err(TopicError::Share)),
            ("$share/g#/a", Err(TopicError::Share)),
            ("a/b/c/d/e", Err(TopicError::TooDeep)),
        ] {
            let got = TopicFilter::new(filter, LIMITS).map(|f| (f.share(), f.filter()));
            assert_eq!(got, answer, "{filter:?}");
        }
    }

    #[test]
    fn mqtt_4_7_matching_is_by_whole_levels() {
        for (filter, name, answer) in [
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("#", "a/b", true),
            ("+", "a", true),
            ("+", "a/b", false),
            ("+/+", "/a", true),
            ("/+", "/a", true),
            ("+", "/a", false),
            ("a/+", "a/", true),
            ("a/+", "a", false),
            ("#", "$SYS/a", false),
            ("+/a", "$SYS/a", false),
            ("$SYS/#", "$SYS/a", true),
            ("a/+/c", "a/b/c", true),
        ] {
            assert_eq!(matches(filter, name), answer, "{filter} {name}");
        }
    }
}
