//! Distinguished names as text: RFC 4514.

use x509_parser::asn1_rs::{Oid, ToDer};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::der::hex;

/// Attribute types with a short name; RFC 4514, section 3.
const SHORT: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// A name as RFC 4514, section 2 writes it: the last relative name first, types of the table in
/// section 3 by their short names, all others by number with the value in hexadecimal.
///
/// `None` for a value that cannot be re-encoded, which a parsed name does not have.
pub(crate) fn rfc4514(name: &X509Name<'_>) -> Option<String> {
    let mut relative = Vec::new();
    for rdn in name.iter() {
        let mut parts = Vec::new();
        for attribute in rdn.iter() {
            parts.push(attribute_text(attribute)?);
        }
        relative.push(parts.join("+"));
    }
    relative.reverse();
    Some(relative.join(","))
}

/// The only value of this attribute type, as text.
pub(crate) fn only<'a>(name: &'a X509Name<'_>, oid: &Oid<'static>) -> Only<'a> {
    let mut found = name.iter_by_oid(oid);
    match (found.next(), found.next()) {
        (None, _) => Only::None,
        (Some(value), None) => value.as_str().map_or(Only::Unreadable, Only::One),
        (Some(_), Some(_)) => Only::Several(2 + found.count()),
    }
}

/// How many values there are of something of which there should be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Only<'a> {
    /// Not any.
    None,
    /// Exactly one.
    One(&'a str),
    /// One that is not text.
    Unreadable,
    /// So many.
    Several(usize),
}

fn attribute_text(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let oid = attribute.attr_type().to_id_string();
    let short = SHORT.iter().find(|(number, _)| *number == oid);
    if let (Some((_, short)), Ok(text)) = (short, attribute.as_str()) {
        return Some(format!("{short}={}", escape(text)));
    }
    let der = attribute.attr_value().to_der_vec().ok()?;
    let name = short.map_or(oid.as_str(), |(_, short)| short);
    Some(format!("{name}=#{}", hex(&der)))
}

/// RFC 4514, section 2.4.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (at, char) in text.chars().enumerate() {
        match char {
            '\0' => out.push_str("\\00"),
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => {
                out.push('\\');
                out.push(char);
            }
            ' ' if at == 0 || at == last => out.push_str("\\ "),
            '#' if at == 0 => out.push_str("\\#"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_as_rfc_4514_says() {
        for (value, text) in [
            ("James \"Jim\" Smith, III", "James \\\"Jim\\\" Smith\\, III"),
            (" lead", "\\ lead"),
            ("trail ", "trail\\ "),
            (" ", "\\ "),
            ("#1", "\\#1"),
            ("1#", "1#"),
            ("a+b;c<d>e\\f", "a\\+b\\;c\\<d\\>e\\\\f"),
            ("nul\0", "nul\\00"),
            ("Lu\u{10d}i\u{107}", "Lu\u{10d}i\u{107}"),
            ("", ""),
        ] {
            assert_eq!(escape(value), text);
        }
    }
}
