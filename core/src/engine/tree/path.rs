//! Topics and filters as the tree walks them: bytes, level by level.

/// The first level of a path.
pub(super) fn first(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'/').next().unwrap_or_default()
}

/// Levels that are still to be walked; `None` at the end, which is not the same as one empty level.
pub(super) type Rest<'a> = Option<&'a [u8]>;

/// What follows `label` in `path`, if the path begins with these very levels.
pub(super) fn after<'a>(path: &'a [u8], label: &[u8]) -> Option<Rest<'a>> {
    match path.strip_prefix(label)? {
        [] => Some(None),
        [b'/', rest @ ..] => Some(Some(rest)),
        _ => None,
    }
}

pub(super) fn is_wildcard(level: &[u8]) -> bool {
    matches!(level, b"+" | b"#")
}

/// The literal levels that a path begins with.
pub(super) fn literal_run(path: &[u8]) -> &[u8] {
    let mut length = 0;
    for level in path.split(|byte| *byte == b'/') {
        if is_wildcard(level) {
            // Without the separator in front of it.
            return path.get(..length - 1).unwrap_or_default();
        }
        length += level.len() + 1;
    }
    path
}

/// How many bytes of whole levels two paths have in common; they share the first.
pub(super) fn common(a: &[u8], b: &[u8]) -> usize {
    let levels = |path| <[u8]>::split(path, |byte| *byte == b'/');
    let shared = levels(a).zip(levels(b)).take_while(|(a, b)| a == b);
    shared.map(|(level, _)| level.len() + 1).sum::<usize>() - 1
}
