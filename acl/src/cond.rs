//! Conditions: the sixth column of a `p` line, for example
//! `"claim.site == 'north' && source in ['10.0.0.0/8']"`.
//!
//! A language of comparisons, `&&`, `||` and `!`: every expression ends, costs no more than its
//! length, and reads nothing but a client's snapshot and the clock. It is evaluated when a client's
//! grants are made and when a time window opens or closes, never for a message.
//!
//! A comparison with something that the client does not have is neither true nor false. What
//! follows is Kleene's logic of three values, and at its end the strict reading: an allow line
//! needs a yes, a deny line holds unless there is a no. So `!(cert.ou == 'icu')` in an allow line
//! grants nothing to a client without certificate.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::SystemTime;

use portcullis_core::hook::Snapshot;

use crate::error::Complaint;
use crate::pattern::Slot;
use crate::policy::Effect;
use crate::suggest::nearest;
use crate::window::Window;

/// Longest condition, bytes.
const MAX_LENGTH: usize = 4096;
/// Deepest nesting of parentheses and `!`.
const MAX_DEPTH: u32 = 16;

/// Every word that may begin a comparison and has no free part.
const WORDS: [&str; 7] = [
    "name",
    "principal",
    "client_id",
    "listener",
    "username",
    "source",
    "time",
];

/// The answer of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Truth {
    No,
    /// What it asks about is not there.
    Unknown,
    Yes,
}

impl Truth {
    pub(crate) const fn of(truth: bool) -> Self {
        if truth { Self::Yes } else { Self::No }
    }

    const fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
            Self::Yes => Self::No,
        }
    }

    /// Whether a line with this effect counts.
    pub(crate) fn applies(self, effect: Effect) -> bool {
        match effect {
            Effect::Allow => self == Self::Yes,
            Effect::Deny => self != Self::No,
        }
    }
}

/// The conditions of a policy, each once; a condition's number is its place.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    list: Vec<Condition>,
    numbers: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
    windows: Vec<Window>,
}

#[derive(Debug)]
struct Condition {
    text: Box<str>,
    expr: Expr,
}

#[derive(Debug)]
enum Expr {
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Not(Box<Expr>),
    Is(Slot, Vec<Box<str>>),
    Source(Vec<Network>),
    /// By number.
    Time(Vec<usize>),
}

impl Conditions {
    /// The number of a condition, which is read when it is new.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn number(&mut self, text: &str) -> Result<u32, Complaint> {
        if let Some(number) = self.numbers.get(text) {
            return Ok(*number);
        }
        let expr = Parser::parse(text, &mut self.windows)?;
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.list.push(Condition {
            text: text.into(),
            expr,
        });
        self.numbers.insert(text.into(), number);
        Ok(number)
    }

    pub(crate) fn text(&self, number: u32) -> &str {
        self.list.get(number as usize).map_or("", |c| &c.text)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Which time windows are open.
    pub(crate) fn windows_at(&self, at: Option<SystemTime>) -> Box<[Truth]> {
        self.windows
            .iter()
            .map(|window| window.is_open(at))
            .collect()
    }

    /// What each condition says of a client while these windows are open.
    pub(crate) fn of(&self, who: &Snapshot, windows: &[Truth]) -> Vec<Truth> {
        let list = self.list.iter();
        list.map(|condition| condition.expr.of(who, windows))
            .collect()
    }

    /// The facts about a client that a condition names.
    pub(crate) fn slots(&self, number: u32) -> Vec<&Slot> {
        let mut found = Vec::new();
        if let Some(condition) = self.list.get(number as usize) {
            condition.expr.slots(&mut found);
        }
        found
    }
}

impl Expr {
    fn of(&self, who: &Snapshot, windows: &[Truth]) -> Truth {
        match self {
            Self::All(parts) => {
                let parts = parts.iter().map(|part| part.of(who, windows));
                parts.min().unwrap_or(Truth::Yes)
            }
            Self::Any(parts) => {
                let parts = parts.iter().map(|part| part.of(who, windows));
                parts.max().unwrap_or(Truth::No)
            }
            Self::Not(part) => part.of(who, windows).not(),
            Self::Is(slot, values) => slot.text(who).map_or(Truth::Unknown, |found| {
                Truth::of(values.iter().any(|value| **value == *found))
            }),
            Self::Source(networks) => who.address.map_or(Truth::Unknown, |address| {
                Truth::of(networks.iter().any(|network| network.holds(address)))
            }),
            Self::Time(numbers) => {
                let open = numbers.iter().map(|number| windows.get(*number).copied());
                open.map(|open| open.unwrap_or(Truth::Unknown))
                    .max()
                    .unwrap_or(Truth::Unknown)
            }
        }
    }

    fn slots<'a>(&'a self, found: &mut Vec<&'a Slot>) {
        match self {
            Self::All(parts) | Self::Any(parts) => {
                for part in parts {
                    part.slots(found);
                }
            }
            Self::Not(part) => part.slots(found),
            Self::Is(slot, _) => found.push(slot),
            Self::Source(_) | Self::Time(_) => {}
        }
    }
}

/// Addresses with a common beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    /// As 128 bits; IPv4 in its mapped form.
    bits: u128,
    mask: u128,
}

impl Network {
    fn parse(text: &str) -> Result<Self, Complaint> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let read = || {
            let address: IpAddr = address.parse().ok()?;
            // Mapped addresses are IPv4 in the other spelling; one is enough.
            if address.to_canonical() != address {
                return None;
            }
            let most = if address.is_ipv4() { 32 } else { 128 };
            let length: u32 = length.map_or(Some(most), |length| length.parse().ok())?;
            let mask = u128::MAX
                .checked_shl(most.checked_sub(length)?)
                .unwrap_or(0);
            // An IPv4 mask leaves the mapped prefix alone.
            let mask = if address.is_ipv4() && length == 0 {
                u128::MAX << 32
            } else {
                mask
            };
            Some(Self {
                bits: bits(address),
                mask,
            })
        };
        let network = read().ok_or_else(|| {
            Complaint::new(
                format!("'{text}' is not a network"),
                "write an address or a network: '192.0.2.7', '10.0.0.0/8', '2001:db8::/32'",
            )
        })?;
        if network.bits & network.mask != network.bits {
            return Err(Complaint::new(
                format!("'{text}' has bits beyond its length"),
                "write the first address of the network",
            ));
        }
        Ok(network)
    }

    fn holds(self, address: IpAddr) -> bool {
        bits(address) & self.mask == self.bits
    }
}

fn bits(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

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

const SIGNS: [&str; 10] = ["&&", "||", "==", "!=", "!", "(", ")", "[", "]", ","];

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
                '=' => "compare with `==`",
                '&' => "write `&&`",
                '|' => "write `||`",
                _ => "conditions have words, 'texts', ==, !=, in [..], &&, ||, ! and parentheses",
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
            "max-qos" | "max-payload" | "max_qos" | "max_payload" => Err(Complaint::new(
                format!("`{word}` is not supported yet"),
                "leave it out, or use max-qos and max-packet-size under [mqtt], for all clients",
            )),
            _ => {
                let slot = slot(word)?;
                let (values, equal) = self.operand(word)?;
                let values = values.into_iter().map(Into::into).collect();
                Ok(negated(Expr::Is(slot, values), equal))
            }
        }
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
                vec![Window::weekly(text)?]
            }
            (Some(Token::Word("in")), Some(Token::Sign("["))) => {
                let texts = self.list()?;
                let windows: Result<Vec<_>, _> = texts.into_iter().map(Window::weekly).collect();
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
        let near = nearest(&head.replace('-', "_"), WORDS).map(str::to_owned);
        near.or_else(|| {
            ["max-qos", "max-payload"]
                .into_iter()
                .find(|w| *w == head)
                .map(Into::into)
        })
    } else {
        nearest(head, ["cert", "claim"]).map(|word| format!("{word}.{tail}"))
    };
    let remedy = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => "conditions know name, principal, client_id, listener, username, source, time, \
                 cert.FIELD and claim.PATH"
            .into(),
    };
    Err(Complaint::new(
        format!("`{word}` is not a word of conditions"),
        remedy,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::Who;

    fn client() -> Who {
        Who {
            principal: "cert:pump-17".into(),
            client_id: "pump".into(),
            listener: "internet".into(),
            address: Some([10, 1, 2, 3].into()),
            attributes: [("cert.ou".to_owned(), "icu".to_owned())].into(),
            ..Who::default()
        }
    }

    fn say(text: &str, who: &Who) -> Truth {
        let mut conditions = Conditions::default();
        let number = conditions.number(text).map_err(|c| c.message).unwrap();
        let truths = conditions.of(&who.snapshot().unwrap(), &conditions.windows_at(None));
        truths.get(number as usize).copied().unwrap()
    }

    #[test]
    fn comparisons_and_their_joints() {
        use Truth::{No, Unknown, Yes};
        for (text, truth) in [
            ("cert.ou == 'icu'", Yes),
            ("cert.ou == 'Icu'", No),
            ("cert.ou != 'icu'", No),
            ("cert.ou in ['er','icu']", Yes),
            ("cert.ou in ['er']", No),
            ("name == 'pump-17'", Yes),
            ("principal == 'cert:pump-17'", Yes),
            ("client_id == 'pump' && listener == 'internet'", Yes),
            ("username == 'pump-17'", Unknown),
            ("claim.site == 'x'", Unknown),
            ("claim.site != 'x'", Unknown),
            ("!(claim.site == 'x')", Unknown),
            ("claim.site == 'x' || cert.ou == 'icu'", Yes),
            ("claim.site == 'x' || cert.ou == 'er'", Unknown),
            ("claim.site == 'x' && cert.ou == 'icu'", Unknown),
            ("claim.site == 'x' && cert.ou == 'er'", No),
            ("source in ['10.0.0.0/8']", Yes),
            ("source in ['10.1.2.3']", Yes),
            ("source == '10.1.2.3/32'", Yes),
            ("source in ['192.168.0.0/16', '0.0.0.0/0']", Yes),
            ("source in ['::/0']", Yes),
            ("source in ['2001:db8::/32']", No),
            ("source != '10.0.0.0/8'", No),
            ("time in '00:00-24:00 UTC'", Unknown),
            // `&&` binds closer than `||`, `!` closest.
            ("cert.ou == 'icu' || name == 'x' && name == 'y'", Yes),
            ("(cert.ou == 'icu' || name == 'x') && name == 'y'", No),
            ("!name == 'x' && cert.ou == 'icu'", Yes),
            ("!!(name == 'pump-17')", Yes),
        ] {
            assert_eq!(say(text, &client()), truth, "{text}");
        }
    }

    #[test]
    fn networks_are_of_one_family() {
        let from = |address: &str, text: &str| {
            let mut who = client();
            who.address = Some(address.parse().unwrap());
            say(text, &who)
        };
        for (address, text, truth) in [
            ("::ffff:10.0.0.1", "source in ['10.0.0.0/8']", Truth::Yes),
            ("2001:db8::1", "source in ['2001:db8::/32']", Truth::Yes),
            ("2001:db9::1", "source in ['2001:db8::/32']", Truth::No),
            ("2001:db8::1", "source in ['0.0.0.0/0']", Truth::No),
            ("11.0.0.1", "source in ['10.0.0.0/8']", Truth::No),
        ] {
            assert_eq!(from(address, text), truth, "{address} {text}");
        }
        let mut local = client();
        local.address = None;
        assert_eq!(say("source in ['0.0.0.0/0']", &local), Truth::Unknown);
    }

    #[test]
    fn a_missing_fact_grants_nothing_and_lifts_no_deny() {
        assert!(!Truth::Unknown.applies(Effect::Allow));
        assert!(Truth::Unknown.applies(Effect::Deny));
        assert!(Truth::Yes.applies(Effect::Allow) && Truth::Yes.applies(Effect::Deny));
        assert!(!Truth::No.applies(Effect::Allow) && !Truth::No.applies(Effect::Deny));
    }

    #[test]
    fn what_is_no_condition_is_said_with_a_remedy() {
        let deep = format!("{}name == 'x'{}", "(".repeat(20), ")".repeat(20));
        let long = format!("name == '{}'", "x".repeat(5000));
        for (text, says) in [
            ("", "the condition is empty"),
            ("nmae == 'x'", "did you mean `name`?"),
            ("client-id == 'x'", "did you mean `client_id`?"),
            ("certs.ou == 'x'", "did you mean `cert.ou`?"),
            ("colour == 'x'", "conditions know name"),
            ("cert. == 'x'", "is not a word"),
            ("name = 'x'", "compare with `==`"),
            ("name == x", "`x` stands where a text is expected"),
            ("name == 'x", "a quote is not closed"),
            ("name", "`name` is followed by nothing"),
            ("name in 'x'", "is not followed by a list"),
            ("name in []", "`]` stands where a text is expected"),
            ("name in ['a' 'b']", "without a comma"),
            ("name == 'a' and name == 'b'", "write `&&`"),
            ("name == 'a' or name == 'b'", "write `||`"),
            ("name == 'a' & name == 'b'", "write `&&`"),
            ("(name == 'a'", "a parenthesis is not closed"),
            ("name == 'a')", "`)` follows a whole condition"),
            ("name == 'a' &&", "ends too early"),
            ("'a' == name", "stands where a comparison begins"),
            ("source in ['10.0.0.1/8']", "bits beyond its length"),
            ("source in ['10.0.0.0/33']", "is not a network"),
            ("source in ['::ffff:10.0.0.0/104']", "is not a network"),
            ("time == 'x'", "`time` is not followed by a window"),
            ("time in 'Mon 08:00 UTC'", "is not a span of hours"),
            ("time before 'tomorrow'", "is not an instant"),
            ("max-qos == '1'", "`max-qos` is not supported yet"),
            (
                "max-payload == '1 KiB'",
                "`max-payload` is not supported yet",
            ),
            ("name == 'a'; name", "`;` does not belong in a condition"),
            (&deep, "nested deeper"),
            (&long, "longer than"),
        ] {
            let complaint = Conditions::default().number(text).unwrap_err();
            let said = format!("{}; {}", complaint.message, complaint.remedy);
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
