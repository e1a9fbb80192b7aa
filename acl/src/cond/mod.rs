//! Conditions: the sixth column of a `p` line, for example
//! `"claim.site == 'north' && source in ['10.0.0.0/8']"`.
//!
//! A language of comparisons, `&&`, `||` and `!`: every expression ends, costs no more than its
//! length, and reads nothing but a client's snapshot and the clock. It is evaluated when a client's
//! grants are made and when a time window opens or closes. What a line says of its messages (`qos
//! <= 1`, `payload <= '64 KiB'`) is taken out of the expression as [`Bounds`]: two comparisons of
//! numbers are all that is left to do for a message.
//!
//! A comparison with something that the client does not have is neither true nor false. What
//! follows is Kleene's logic of three values, and at its end the strict reading: an allow line
//! needs a yes, a deny line holds unless there is a no. So `!(cert.ou == 'icu')` in an allow line
//! grants nothing to a client without certificate.

mod bounds;
mod parse;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use portcullis_core::hook::Snapshot;

use crate::error::Complaint;
use crate::pattern::Slot;
use crate::policy::Effect;
use crate::window::Window;

pub(crate) use bounds::{Bounds, Kinds, size};

/// Most different bounds on messages in one policy: each is asked about by itself.
const MAX_BOUNDS: usize = 32;

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
    /// Each once.
    bounds: Vec<Bounds>,
}

#[derive(Debug)]
struct Condition {
    text: Box<str>,
    /// Of the client and the time.
    expr: Expr,
    /// Of the message.
    bounds: Bounds,
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
    /// Of the message; only while an expression is read.
    Message(Bounds),
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
        let (expr, bounds) = parse::condition(text, &mut self.windows)?;
        if bounds != Bounds::ALL && !self.bounds.contains(&bounds) {
            if self.bounds.len() >= MAX_BOUNDS {
                return Err(Complaint::new(
                    format!("these are more than {MAX_BOUNDS} different bounds on messages"),
                    "use the same few sizes for all lines",
                ));
            }
            self.bounds.push(bounds);
        }
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.list.push(Condition {
            text: text.into(),
            expr,
            bounds,
        });
        self.numbers.insert(text.into(), number);
        Ok(number)
    }

    pub(crate) fn text(&self, number: u32) -> &str {
        self.list.get(number as usize).map_or("", |c| &c.text)
    }

    /// What a condition asks of the client and the time, in one spelling; `None` if nothing.
    pub(crate) fn of_client(&self, number: u32) -> Option<String> {
        let expr = &self.list.get(number as usize)?.expr;
        let nothing = matches!(expr, Expr::All(parts) if parts.is_empty());
        (!nothing).then(|| expr.text(&self.windows))
    }

    /// The messages that a line with this condition is about.
    pub(crate) fn bounds(&self, number: Option<u32>) -> Bounds {
        let condition = number.and_then(|number| self.list.get(number as usize));
        condition.map_or(Bounds::ALL, |condition| condition.bounds)
    }

    /// Which time windows are open.
    pub(crate) fn windows_at(&self, at: Option<SystemTime>) -> Box<[Truth]> {
        self.windows
            .iter()
            .map(|window| window.is_open(at))
            .collect()
    }

    /// What each condition says of a client, apart from its messages, while these windows are open.
    pub(crate) fn of(&self, who: &Snapshot, windows: &[Truth]) -> Vec<Truth> {
        let list = self.list.iter();
        list.map(|condition| condition.expr.of(who, windows))
            .collect()
    }

    /// The same for one condition; a line without one always counts.
    pub(crate) fn truth(&self, number: Option<u32>, who: &Snapshot, windows: &[Truth]) -> Truth {
        number.map_or(Truth::Yes, |number| {
            let condition = self.list.get(number as usize);
            condition.map_or(Truth::Unknown, |condition| condition.expr.of(who, windows))
        })
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

impl Conditions {
    /// The listeners that a condition asks for.
    pub(crate) fn listeners(&self, number: u32) -> Vec<&str> {
        let mut found = Vec::new();
        if let Some(condition) = self.list.get(number as usize) {
            condition.expr.listeners(&mut found);
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
            // Taken out when the condition was read.
            Self::Message(_) => Truth::Unknown,
        }
    }

    /// As a condition; equal for expressions that differ in spelling alone.
    fn text(&self, windows: &[Window]) -> String {
        let inside = |part: &Self| {
            if matches!(part, Self::Any(_)) {
                format!("({})", part.text(windows))
            } else {
                part.text(windows)
            }
        };
        let joined = |parts: &[Self], joint: &str| {
            let parts: Vec<String> = parts.iter().map(inside).collect();
            parts.join(joint)
        };
        match self {
            Self::All(parts) => joined(parts, " && "),
            Self::Any(parts) => joined(parts, " || "),
            Self::Not(part) => format!("!({})", part.text(windows)),
            Self::Is(slot, values) => {
                let slot = slot.to_string();
                let slot = slot.trim_matches(['{', '}']);
                match values.as_slice() {
                    [only] => format!("{slot} == '{only}'"),
                    several => format!("{slot} in {}", list(several)),
                }
            }
            Self::Source(networks) => format!("source in {}", list(networks)),
            Self::Time(numbers) => {
                let windows = numbers.iter().filter_map(|number| windows.get(*number));
                match windows.collect::<Vec<_>>().as_slice() {
                    [only] => format!("time {} '{only}'", only.word()),
                    several => format!("time in {}", list(several)),
                }
            }
            // Taken out when the condition was read.
            Self::Message(bounds) => bounds.to_string(),
        }
    }

    fn listeners<'a>(&'a self, found: &mut Vec<&'a str>) {
        match self {
            Self::All(parts) | Self::Any(parts) => {
                for part in parts {
                    part.listeners(found);
                }
            }
            Self::Not(part) => part.listeners(found),
            Self::Is(Slot::Listener, names) => found.extend(names.iter().map(|name| &**name)),
            Self::Is(..) | Self::Source(_) | Self::Time(_) | Self::Message(_) => {}
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
            Self::Source(_) | Self::Time(_) | Self::Message(_) => {}
        }
    }
}

/// `['x', 'y']`
fn list<T: fmt::Display>(texts: &[T]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| format!("'{text}'")).collect();
    format!("[{}]", quoted.join(", "))
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
            // Of an IPv4 network, which is in its mapped form, the prefix before it stays.
            let mask = u128::MAX
                .checked_shl(most.checked_sub(length)?)
                .unwrap_or(0);
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

    /// As an address and its length.
    fn parts(self) -> (IpAddr, u32) {
        let length = self.mask.leading_ones();
        match IpAddr::V6(self.bits.into()).to_canonical() {
            v4 @ IpAddr::V4(_) => (v4, length.saturating_sub(96)),
            v6 @ IpAddr::V6(_) => (v6, length),
        }
    }

    fn holds(self, address: IpAddr) -> bool {
        bits(address) & self.mask == self.bits
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, length) = self.parts();
        write!(f, "{address}/{length}")
    }
}

fn bits(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use portcullis_core::wire::QoS;

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
    fn bounds_are_taken_out_of_the_condition() {
        use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};
        for (text, within, beyond) in [
            ("qos <= 1", (AtLeastOnce, 9), (ExactlyOnce, 9)),
            ("qos < 1", (AtMostOnce, 9), (AtLeastOnce, 9)),
            ("qos == 1", (AtLeastOnce, 9), (AtMostOnce, 9)),
            ("qos >= 1", (ExactlyOnce, 9), (AtMostOnce, 9)),
            ("!qos >= 1", (AtMostOnce, 9), (AtLeastOnce, 9)),
            ("!!(qos <= 0)", (AtMostOnce, 9), (AtLeastOnce, 9)),
            ("payload <= '1 KiB'", (AtMostOnce, 1024), (AtMostOnce, 1025)),
            ("payload < '1 KiB'", (AtMostOnce, 1023), (AtMostOnce, 1024)),
            ("!payload > '1 KiB'", (AtMostOnce, 1024), (AtMostOnce, 1025)),
            (
                "!payload <= '1 KiB'",
                (AtMostOnce, 1025),
                (AtMostOnce, 1024),
            ),
            ("payload > '1 KiB'", (AtMostOnce, 1025), (AtMostOnce, 1024)),
            (
                "!(payload <= '1 KiB')",
                (AtMostOnce, 1025),
                (AtMostOnce, 1024),
            ),
            ("payload == '0 B'", (ExactlyOnce, 0), (ExactlyOnce, 1)),
            (
                "name == 'pump-17' && (qos <= 1 && payload <= '2 B')",
                (AtLeastOnce, 2),
                (AtLeastOnce, 3),
            ),
        ] {
            let mut conditions = Conditions::default();
            let number = conditions.number(text).map_err(|c| c.message).unwrap();
            let bounds = conditions.bounds(Some(number));
            assert!(bounds.within(within.0, within.1), "{text}");
            assert!(!bounds.within(beyond.0, beyond.1), "{text}");
            // What is left of it is about the client alone.
            assert_eq!(say(text, &client()), Truth::Yes, "{text}");
        }
    }

    #[test]
    fn what_is_asked_of_the_client_has_one_spelling_that_means_the_same() {
        for (text, spelling) in [
            ("qos <= 1", None),
            ("name=='a'", Some("name == 'a'")),
            (
                "(name == 'a') && qos <= 1 && listener in ['x','y']",
                Some("name == 'a' && listener in ['x', 'y']"),
            ),
            (
                "name == 'a' && (cert.ou == 'x' || !(claim.a.b == 'y'))",
                Some("name == 'a' && (cert.ou == 'x' || !(claim.a.b == 'y'))"),
            ),
            (
                "name == 'a' || name == 'b' && name != 'c'",
                Some("name == 'a' || name == 'b' && !(name == 'c')"),
            ),
            ("source == '10.1.2.3'", Some("source in ['10.1.2.3/32']")),
            (
                "source in ['0.0.0.0/0', '::/0', '2001:db8::/32']",
                Some("source in ['0.0.0.0/0', '::/0', '2001:db8::/32']"),
            ),
            (
                "time in '00:00-24:00 UTC'",
                Some("time in '00:00-24:00 UTC'"),
            ),
            (
                "time in ['Mon-Wed 22:30-06:00 +02:00','Sun 01:00-02:00 Europe/Berlin']",
                Some("time in ['Mon,Tue,Wed 22:30-06:00 +02:00', 'Sun 01:00-02:00 Europe/Berlin']"),
            ),
            (
                "time before '2026-12-01T07:00:00+01:00'",
                Some("time before '2026-12-01T06:00:00Z'"),
            ),
        ] {
            let mut conditions = Conditions::default();
            let mut read = |text: &str| {
                let number = conditions.number(text).map_err(|c| c.message).unwrap();
                conditions.of_client(number)
            };
            assert_eq!(read(text).as_deref(), spelling, "{text}");
            if let Some(spelling) = spelling {
                assert_eq!(read(spelling).as_deref(), Some(spelling), "{text}");
            }
        }
    }

    /// Rule 9: each kind of bounds is asked about by itself.
    #[test]
    fn a_policy_has_only_so_many_different_bounds() {
        let mut conditions = Conditions::default();
        for size in 0..MAX_BOUNDS {
            for name in ["a", "b"] {
                let text = format!("payload <= '{size} B' && name == '{name}'");
                assert!(conditions.number(&text).is_ok(), "{text}");
            }
        }
        let complaint = conditions.number("payload <= '1 MiB'").unwrap_err();
        assert!(complaint.message.contains("more than 32"));
        assert!(conditions.number("payload <= '0 B'").is_ok());
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
            // The first and the last address of a network, and those beside it.
            ("10.0.15.255", "source == '10.0.16.0/20'", Truth::No),
            ("10.0.16.0", "source == '10.0.16.0/20'", Truth::Yes),
            ("10.0.31.255", "source == '10.0.16.0/20'", Truth::Yes),
            ("10.0.32.0", "source == '10.0.16.0/20'", Truth::No),
            ("192.0.2.7", "source == '192.0.2.6/31'", Truth::Yes),
            ("192.0.2.8", "source == '192.0.2.7'", Truth::No),
            ("2001:db8:7fff::", "source in ['2001:db8::/33']", Truth::Yes),
            ("2001:db8:8000::", "source in ['2001:db8::/33']", Truth::No),
            ("255.255.255.255", "source in ['0.0.0.0/0']", Truth::Yes),
            ("::ffff:10.0.0.1", "source in ['::/0']", Truth::Yes),
            ("::1", "source in ['::/128']", Truth::No),
            // `::10.0.0.1` and a mapped address are not the same.
            ("::10.0.0.1", "source in ['10.0.0.0/8']", Truth::No),
        ] {
            assert_eq!(from(address, text), truth, "{address} {text}");
        }
        let mut local = client();
        local.address = None;
        assert_eq!(say("source in ['0.0.0.0/0']", &local), Truth::Unknown);
    }

    #[test]
    fn one_of_several_windows_is_enough() {
        let open = |text: &str, hour: u64| {
            let mut conditions = Conditions::default();
            let number = conditions.number(text).map_err(|c| c.message).unwrap();
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_hours(hour);
            let windows = conditions.windows_at(Some(at));
            let truths = conditions.of(&client().snapshot().unwrap(), &windows);
            truths.get(number as usize).copied().unwrap()
        };
        let two = "time in ['08:00-09:00 UTC', '10:00-11:00 UTC']";
        for (hour, truth) in [
            (7, Truth::No),
            (8, Truth::Yes),
            (9, Truth::No),
            (10, Truth::Yes),
            (11, Truth::No),
        ] {
            assert_eq!(open(two, hour), truth, "{hour}");
            assert_eq!(open(&format!("!({two})"), hour), truth.not(), "{hour}");
        }
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
            ("max-qos == 1", "write `qos <= 1`"),
            ("max-payload == '1 KiB'", "write `payload <= '64 KiB'`"),
            ("qos <= 3", "`3` is not a QoS"),
            ("qos", "`qos` is followed by nothing"),
            ("qos != 1", "with <=, >=, <, > or =="),
            ("qos in [0, 1]", "`qos` is followed by `in`"),
            ("qos <= payload", "`payload` is not a QoS"),
            ("payload <= 64", "`payload` is compared with `64`"),
            ("payload <= '64'", "'64' is not a size"),
            ("payload <= '64 kb'", "'64 kb' is not a size"),
            ("payload <= '4 GiB'", "'4 GiB' is not a size"),
            ("payload < '0 B'", "no message is within"),
            ("qos > 2", "no message is within"),
            ("qos > 1 && qos < 1", "no message is within"),
            ("qos <= 1 || name == 'a'", "write a line for each"),
            (
                "name == 'a' && !(qos <= 1 && name == 'b')",
                "write a line for each",
            ),
            ("!(qos == 1)", "write a line for each"),
            ("!(qos <= 1 && payload <= '1 B')", "write a line for each"),
            ("qos <= 1 && qos", "`qos` is followed by nothing"),
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
