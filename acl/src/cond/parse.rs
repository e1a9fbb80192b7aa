//! From the text of a condition to its meaning.

use crate::error::Complaint;
use crate::pattern::Slot;
use crate::suggest::nearest;
use crate::window::Window;

use super::bounds::{Bounds, Ordering};
use super::{Expr, Network};

/// Longest condition, bytes.
const MAX_LENGTH: usize = 4096;
/// Deepest nesting of parentheses and `!`.
const MAX_DEPTH: u32 = 16;

/// Every word that may begin a comparison and has no free part.
const WORDS: [&str; 9] = [
    "name",
    "principal",
    "client_id",
    "listener",
    "username",
    "source",
    "time",
    "qos",
    "payload",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Text(&'a str),
    Sign(&'a str),
}

impl std::fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(text) | Self::Sign(text) => write!(f, "`{text}`"),
            Self::Text(text) => write!(f, "'{text}'"),
        }
    }
}

const SIGNS: [&str; 14] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "(", ")", "[", "]", ",",
];

fn tokens(text: &str) -> Result<Vec<Token<'_>>, Complaint> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '\'' {
            let inside = rest.get(1..).unwrap_or_default();
            let (text, after) = inside
                .split_once('\'')
                .ok_or_else(|| Complaint::new("a quote is not closed", "end the text with `'`"))?;
            tokens.push(Token::Text(text));
            rest = after.trim_start();
            continue;
        }
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            rest = rest.get(sign.len()..).unwrap_or_default().trim_start();
            continue;
        }
        let inside = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        let end = rest.find(|c| !inside(c)).unwrap_or(rest.len());
        if end == 0 {
            let remedy = match first {
                '=' => "compare with `==`, `<=` or `>=`",
                '&' => "write `&&`",
                '|' => "write `||`",
                _ => {
                    "conditions have words, 'texts', ==, !=, <=, >, in [..], &&, ||, ! and parentheses"
                }
            };
            return Err(Complaint::new(
                format!("`{first}` does not belong in a condition"),
                remedy,
            ));
        }
        let (word, after) = rest.split_at(end);
        tokens.push(Token::Word(word));
        rest = after.trim_start();
    }
    Ok(tokens)
}

/// Reads a condition: what it says of the client and the time, and of the message.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn condition(
    text: &str,
    windows: &mut Vec<Window>,
) -> Result<(Expr, Bounds), Complaint> {
    let (rest, bounds) = split(Parser::parse(text, windows)?)?;
    if bounds.is_empty() {
        return Err(Complaint::new(
            "no message is within these bounds",
            "look at the comparisons with qos and payload again",
        ));
    }
    Ok((single(rest, Expr::All), bounds))
}

/// Takes the bounds out of an expression, of which the whole of them must hold.
fn split(expr: Expr) -> Result<(Vec<Expr>, Bounds), Complaint> {
    match expr {
        Expr::Message(bounds) => Ok((Vec::new(), bounds)),
        Expr::Not(inside) if names_message(&inside) => match *inside {
            Expr::Message(bounds) => match bounds.others() {
                Some(others) => Ok((Vec::new(), others)),
                None => Err(beside_itself()),
            },
            Expr::Not(twice) => split(*twice),
            Expr::All(_) | Expr::Any(_) | Expr::Is(..) | Expr::Source(_) | Expr::Time(_) => {
                Err(beside_itself())
            }
        },
        Expr::All(parts) => {
            let (mut rest, mut bounds) = (Vec::new(), Bounds::ALL);
            for part in parts {
                let (more, also) = split(part)?;
                rest.extend(more);
                bounds = bounds.and(also);
            }
            Ok((rest, bounds))
        }
        Expr::Any(_) if names_message(&expr) => Err(beside_itself()),
        Expr::Any(_) | Expr::Not(_) | Expr::Is(..) | Expr::Source(_) | Expr::Time(_) => {
            Ok((vec![expr], Bounds::ALL))
        }
    }
}

fn names_message(expr: &Expr) -> bool {
    match expr {
        Expr::Message(_) => true,
        Expr::All(parts) | Expr::Any(parts) => parts.iter().any(names_message),
        Expr::Not(part) => names_message(part),
        Expr::Is(..) | Expr::Source(_) | Expr::Time(_) => false,
    }
}

fn beside_itself() -> Complaint {
    Complaint::new(
        "qos and payload bound a whole line: they stand neither beside `||` nor in `!( )` with more",
        "write a line for each alternative",
    )
}

struct Parser<'a> {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token<'a>>>,
    windows: &'a mut Vec<Window>,
}

impl<'a> Parser<'a> {
    fn parse(text: &'a str, windows: &'a mut Vec<Window>) -> Result<Expr, Complaint> {
        if text.len() > MAX_LENGTH {
            return Err(Complaint::new(
                format!("the condition is longer than {MAX_LENGTH} bytes"),
                "use a role, or several lines",
            ));
        }
        let mut parser = Self {
            tokens: tokens(text)?.into_iter().peekable(),
            windows,
        };
        if parser.tokens.peek().is_none() {
            return Err(Complaint::new(
                "the condition is empty",
                "end the line after allow or deny",
            ));
        }
        let expr = parser.any(0)?;
        match parser.tokens.next() {
            None => Ok(expr),
            Some(token) => Err(Complaint::new(
                format!("{token} follows a whole condition"),
                match token {
                    Token::Word("and") => "write `&&`",
                    Token::Word("or") => "write `||`",
                    Token::Word(_) | Token::Text(_) | Token::Sign(_) => {
                        "put `&&` or `||` between two conditions"
                    }
                },
            )),
        }
    }

    fn take(&mut self, sign: &str) -> bool {
        let is = matches!(self.tokens.peek(), Some(Token::Sign(next)) if *next == sign);
        if is {
            self.tokens.next();
        }
        is
    }

    fn any(&mut self, depth: u32) -> Result<Expr, Complaint> {
        let first = self.all(depth)?;
        let mut parts = vec![first];
        while self.take("||") {
            parts.push(self.all(depth)?);
        }
        Ok(single(parts, Expr::Any))
    }

    fn all(&mut self, depth: u32) -> Result<Expr, Complaint> {
        let first = self.one(depth)?;
        let mut parts = vec![first];
        while self.take("&&") {
            parts.push(self.one(depth)?);
        }
        Ok(single(parts, Expr::All))
    }

    fn one(&mut self, depth: u32) -> Result<Expr, Complaint> {
        if depth > MAX_DEPTH {
            return Err(Complaint::new(
                format!("the condition is nested deeper than {MAX_DEPTH}"),
                "use a role, or several lines",
            ));
        }
        if self.take("!") {
            return Ok(Expr::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.take("(") {
            let inside = self.any(depth + 1)?;
            if !self.take(")") {
                return Err(Complaint::new("a parenthesis is not closed", "add `)`"));
            }
            return Ok(inside);
        }
        match self.tokens.next() {
            Some(Token::Word(word)) => self.comparison(word),
            Some(token) => Err(Complaint::new(
                format!("{token} stands where a comparison begins"),
                "write what is compared first: `cert.ou == 'icu'`",
            )),
            None => Err(Complaint::new(
                "the condition ends too early",
                "write a comparison, such as `cert.ou == 'icu'`",
            )),
        }
    }

    fn comparison(&mut self, word: &str) -> Result<Expr, Complaint> {
        match word {
            "source" => self.source(),
            "time" => self.time(),
            "qos" | "payload" => self.message(word),
            "max-qos" | "max_qos" => Err(Complaint::new(
                format!("`{word}` is not a word of conditions"),
                "write `qos <= 1`",
            )),
            "max-payload" | "max_payload" => Err(Complaint::new(
                format!("`{word}` is not a word of conditions"),
                "write `payload <= '64 KiB'`",
            )),
            _ => {
                let slot = slot(word)?;
                let (values, equal) = self.operand(word)?;
                let values = values.into_iter().map(Into::into).collect();
                Ok(negated(Expr::Is(slot, values), equal))
            }
        }
    }

    fn message(&mut self, word: &str) -> Result<Expr, Complaint> {
        let remedy = "write `qos <= 1` or `payload <= '64 KiB'`, with <=, >=, <, > or ==";
        let operator = self.tokens.next();
        let ordering = match operator {
            Some(Token::Sign(sign)) => Ordering::of(sign),
            Some(Token::Word(_) | Token::Text(_)) | None => None,
        };
        let Some(ordering) = ordering else {
            let found = operator.map_or_else(|| "nothing".to_owned(), |token| token.to_string());
            let message = format!("`{word}` is followed by {found}");
            return Err(Complaint::new(message, remedy));
        };
        let bounds = match (word, self.tokens.next()) {
            ("qos", Some(Token::Word(number) | Token::Text(number))) => {
                Bounds::qos(ordering, number)
            }
            (_, Some(Token::Text(size))) => Bounds::payload(ordering, size),
            (_, other) => {
                let found = other.map_or_else(|| "nothing".to_owned(), |token| token.to_string());
                let message = format!("`{word}` is compared with {found}");
                Err(Complaint::new(message, remedy))
            }
        };
        bounds.map(Expr::Message)
    }

    fn source(&mut self) -> Result<Expr, Complaint> {
        let (texts, equal) = self.operand("source")?;
        let networks: Result<Vec<_>, _> = texts.into_iter().map(Network::parse).collect();
        Ok(negated(Expr::Source(networks?), equal))
    }

    fn time(&mut self) -> Result<Expr, Complaint> {
        let remedy = "write `time in 'Mon-Fri 08:00-18:00 Europe/Berlin'`, or `time before` or \
                      `time after` with '2026-12-01T06:00:00Z'";
        let windows = match (self.tokens.next(), self.tokens.peek().copied()) {
            (Some(Token::Word("in")), Some(Token::Text(text))) => {
                self.tokens.next();
                vec![Window::hours(text)?]
            }
            (Some(Token::Word("in")), Some(Token::Sign("["))) => {
                let texts = self.list()?;
                let windows: Result<Vec<_>, _> = texts.into_iter().map(Window::hours).collect();
                windows?
            }
            (Some(Token::Word(word @ ("before" | "after"))), Some(Token::Text(text))) => {
                self.tokens.next();
                vec![Window::instant(word == "before", text)?]
            }
            _ => return Err(Complaint::new("`time` is not followed by a window", remedy)),
        };
        let numbers = windows.into_iter().map(|window| {
            let known = self.windows.iter().position(|known| *known == window);
            known.unwrap_or_else(|| {
                self.windows.push(window);
                self.windows.len() - 1
            })
        });
        Ok(Expr::Time(numbers.collect()))
    }

    /// What follows the first word; `false` for `!=`.
    fn operand(&mut self, word: &str) -> Result<(Vec<&'a str>, bool), Complaint> {
        let operator = self.tokens.next();
        let equal = match operator {
            Some(Token::Word("in")) => return Ok((self.list()?, true)),
            Some(Token::Sign("==")) => true,
            Some(Token::Sign("!=")) => false,
            other => {
                let found = other.map_or_else(|| "nothing".to_owned(), |token| token.to_string());
                return Err(Complaint::new(
                    format!("`{word}` is followed by {found}"),
                    "compare it: == 'x', != 'x', or in ['x', 'y']",
                ));
            }
        };
        match self.tokens.next() {
            Some(Token::Text(text)) => Ok((vec![text], equal)),
            other => Err(no_text(other)),
        }
    }

    fn list(&mut self) -> Result<Vec<&'a str>, Complaint> {
        if !self.take("[") {
            return Err(Complaint::new(
                "`in` is not followed by a list",
                "write `in ['x', 'y']`",
            ));
        }
        let mut texts = Vec::new();
        loop {
            match self.tokens.next() {
                Some(Token::Text(text)) => texts.push(text),
                other => return Err(no_text(other)),
            }
            if self.take("]") {
                return Ok(texts);
            }
            if !self.take(",") {
                return Err(Complaint::new(
                    "a list goes on without a comma",
                    "write `in ['x', 'y']`",
                ));
            }
        }
    }
}

fn no_text(token: Option<Token<'_>>) -> Complaint {
    let found = token.map_or_else(|| "nothing".to_owned(), |token| token.to_string());
    Complaint::new(
        format!("{found} stands where a text is expected"),
        "write texts in single quotes: 'icu'",
    )
}

fn single(mut parts: Vec<Expr>, join: impl Fn(Vec<Expr>) -> Expr) -> Expr {
    if parts.len() == 1
        && let Some(only) = parts.pop()
    {
        return only;
    }
    join(parts)
}

fn negated(expr: Expr, equal: bool) -> Expr {
    if equal {
        expr
    } else {
        Expr::Not(Box::new(expr))
    }
}

/// The fact that a word names.
fn slot(word: &str) -> Result<Slot, Complaint> {
    if let Ok(slot) = Slot::parse(word) {
        return Ok(slot);
    }
    let (head, tail) = word.split_once('.').unwrap_or((word, ""));
    let near = if tail.is_empty() {
        nearest(&head.replace('-', "_"), WORDS).map(str::to_owned)
    } else {
        nearest(head, ["cert", "claim"]).map(|word| format!("{word}.{tail}"))
    };
    let remedy = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => "conditions know name, principal, client_id, listener, username, source, time, \
                 cert.FIELD and claim.PATH, and of messages qos and payload"
            .into(),
    };
    Err(Complaint::new(
        format!("`{word}` is not a word of conditions"),
        remedy,
    ))
}
