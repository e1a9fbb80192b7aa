//! A node of the tree: 64 bytes, with what most filters need.

use super::Entry;

/// The number of the root; nobody's child, so that it stands for none.
pub(super) const ROOT: u32 = 0;

#[derive(Default)]
#[repr(align(64))]
pub(super) struct Node {
    pub(super) parent: u32,
    /// How many literal children it has; no two begin with the same level.
    pub(super) children: u32,
    /// The child `+`, the child `#`; [`ROOT`], which is nobody's child, where there is none.
    pub(super) plus: u32,
    pub(super) hash: u32,
    pub(super) label: Label,
    pub(super) entries: Entries,
}

/// Who subscribed to one filter; mostly one.
#[derive(Default)]
pub(super) enum Entries {
    #[default]
    None,
    One(Entry),
    #[expect(clippy::box_collection, reason = "a node is 64 bytes")]
    Many(Box<Vec<Entry>>),
}

impl Entries {
    pub(super) fn as_slice(&self) -> &[Entry] {
        match self {
            Self::None => &[],
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Many(entries) => entries,
        }
    }

    pub(super) fn push(&mut self, entry: Entry) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(entry),
            Self::One(first) => Self::Many(Box::new(vec![first, entry])),
            Self::Many(mut entries) => {
                entries.push(entry);
                Self::Many(entries)
            }
        };
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, is: impl Fn(&Entry) -> bool) {
        *self = match std::mem::take(self) {
            Self::One(entry) if !is(&entry) => Self::One(entry),
            Self::None | Self::One(_) => Self::None,
            Self::Many(mut entries) => {
                if let Some(place) = entries.iter().position(is) {
                    entries.swap_remove(place);
                }
                if entries.len() > 1 {
                    Self::Many(entries)
                } else {
                    entries.pop().map_or(Self::None, Self::One)
                }
            }
        };
    }
}

/// `+`, `#`, or literal levels with their separators.
pub(super) enum Label {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Box<[u8]>),
}

/// Longest label that needs no memory of its own, bytes.
pub(super) const SHORT: usize = 22;

impl Default for Label {
    fn default() -> Self {
        Self::new(b"")
    }
}

impl Label {
    pub(super) fn new(text: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(room), Ok(length)) => {
                room.copy_from_slice(text);
                Self::Short { length, bytes }
            }
            _ => Self::Long(text.into()),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_the_size_that_the_memory_per_subscription_is_reckoned_with() {
        // With what tells a vacant place apart.
        assert_eq!(size_of::<Option<Node>>(), 64);
    }

    #[test]
    fn a_label_of_any_length_is_kept() {
        for length in [0, 1, SHORT / 2, SHORT / 2 + 1, 300] {
            let text = "é".repeat(length);
            assert_eq!(Label::new(text.as_bytes()).bytes(), text.as_bytes());
        }
    }
}
