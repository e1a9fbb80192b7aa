//! One line of a policy file into its fields.
//!
//! The same language as the casbin crate's parser, minus everything that it reads in a way that
//! nobody would guess: a quote inside a field, text after a closing quote, a comment at the end of
//! a line. Those are errors here. The loader compares what both have read.

use std::borrow::Cow;

use crate::error::Complaint;

/// A field and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    pub(crate) text: Cow<'a, str>,
    /// In characters, counted from 1.
    pub(crate) column: u32,
}

/// The fields of a line; `None` for an empty line or a comment.
///
/// # Errors
///
/// A quote out of place, or a control character; with its column.
pub(crate) fn fields(line: &str) -> Result<Option<Vec<Field<'_>>>, (Complaint, u32)> {
    let body = line.trim();
    if body.is_empty() || body.starts_with('#') {
        return Ok(None);
    }
    let mut fields = Vec::with_capacity(6);
    let mut rest = Some(line);
    while let Some(text) = rest {
        let start = text.trim_start();
        let column = column(line, start);
        let (field, after) = if let Some(quoted) = start.strip_prefix('"') {
            let Some((inside, after)) = quoted.split_once('"') else {
                return Err((quote("a quote is not closed"), column));
            };
            let after = after.trim_start();
            match after.strip_prefix(',') {
                Some(next) => (inside, Some(next)),
                None if after.is_empty() => (inside, None),
                None => {
                    let complaint = quote("there is text after a closing quote");
                    return Err((complaint, self::column(line, after)));
                }
            }
        } else {
            match start.split_once(',') {
                Some((field, next)) => (field.trim_end(), Some(next)),
                None => (start.trim_end(), None),
            }
        };
        if field.contains('"') {
            return Err((quote("a quote stands inside a field"), column));
        }
        if field.chars().any(char::is_control) {
            let complaint = Complaint::new(
                "a field has a control character",
                "remove it (tabs are fine around fields, not inside)",
            );
            return Err((complaint, column));
        }
        fields.push(Field {
            text: Cow::Borrowed(field),
            column,
        });
        rest = after;
    }
    Ok(Some(fields))
}

/// A field as it is written: in quotes where it would be read as something else without.
pub(crate) fn written(field: &str) -> Cow<'_, str> {
    if field.contains(',') || field.trim() != field {
        format!("\"{field}\"").into()
    } else {
        field.into()
    }
}

/// Whether a character has no shape of its own, or turns the order of others round.
pub(crate) fn is_hidden(character: char) -> bool {
    matches!(
        character,
        '\u{a0}'
            | '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{180b}'..='\u{180f}'
            | '\u{2000}'..='\u{200f}'
            | '\u{2028}'..='\u{202f}'
            | '\u{205f}'..='\u{206f}'
            | '\u{3000}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

fn quote(message: &str) -> Complaint {
    Complaint::new(
        message,
        "put double quotes around the whole field, and only where it contains a comma",
    )
}

/// Where `tail`, a suffix of `line`, begins.
fn column(line: &str, tail: &str) -> u32 {
    let before = line.len().saturating_sub(tail.len());
    let characters = line.get(..before).map_or(0, |head| head.chars().count());
    u32::try_from(characters + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Result<Option<Vec<String>>, String> {
        fields(line)
            .map(|fields| fields.map(|f| f.into_iter().map(|f| f.text.into_owned()).collect()))
            .map_err(|(complaint, column)| format!("{column}: {}", complaint.message))
    }

    #[test]
    fn fields_are_cut_at_commas_and_trimmed() {
        for (line, answer) in [
            ("", None),
            ("  # p, a", None),
            ("p,a , b", Some(vec!["p", "a", "b"])),
            (
                "\tp, \"cert:CN=a,O=b\" , x\r",
                Some(vec!["p", "cert:CN=a,O=b", "x"]),
            ),
            ("p,", Some(vec!["p", ""])),
            ("p, a/#", Some(vec!["p", "a/#"])),
        ] {
            let answer = answer.map(|words| words.into_iter().map(String::from).collect());
            assert_eq!(texts(line), Ok(answer), "{line:?}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (line, says) in [
            ("p, \"a", "4: a quote is not closed"),
            ("p, \"a\" b, c", "8: there is text after a closing quote"),
            ("p, a\"b", "4: a quote stands inside a field"),
            ("p, a\u{1}b", "4: a field has a control character"),
        ] {
            assert_eq!(texts(line), Err(says.to_owned()), "{line:?}");
        }
    }
}
