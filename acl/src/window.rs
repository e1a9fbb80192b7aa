//! Time windows of conditions: the same hours every week in some zone, or before or after an
//! instant.
//!
//! Zones and their summer times come with the program, so that a policy means the same on every
//! machine. An hour is compared as a wall clock in the zone shows it: an hour that summer time
//! skips is not there on that day, one that it repeats is there twice.

use std::fmt;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};

use crate::cond::Truth;
use crate::error::Complaint;
use crate::suggest::nearest;

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const EXAMPLE: &str = "write `time in 'Mon-Fri 08:00-18:00 Europe/Berlin'`";
const MINUTES: u16 = 24 * 60;

/// When something holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Window {
    Hours(Hours),
    Before(Timestamp),
    After(Timestamp),
}

/// The same hours on some days.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hours {
    days: Days,
    /// Minutes since midnight; inside.
    from: u16,
    /// Minutes since midnight; outside. Not after `from`: on the next day.
    until: u16,
    zone: TimeZone,
}

/// Days on which all of it fits: `Sun` and `1-7` is the first Sunday of a month.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Days {
    /// Bit 0 is Monday.
    week: u32,
    /// Bit 0 is the first day of a month.
    month: u32,
    /// Bit 0 is January.
    year: u32,
}

impl Window {
    /// `[MONTHS] [DAYS] [DATES] HH:MM-HH:MM ZONE`
    pub(crate) fn hours(text: &str) -> Result<Self, Complaint> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [days @ .., hours, zone] = words.as_slice() else {
            let message = format!("'{text}' is not days, hours and a zone");
            return Err(Complaint::new(message, EXAMPLE));
        };
        if !hours.contains(':') {
            let message = format!("'{text}' is not days, hours and a zone");
            return Err(Complaint::new(message, EXAMPLE));
        }
        let days = Days::read(days)?;
        let read = || {
            let (from, until) = hours.split_once('-')?;
            let (from, until) = (clock(from)?, clock(until)?);
            (from < MINUTES && from != until).then_some((from, until % MINUTES))
        };
        let (from, until) = read().ok_or_else(|| {
            let message = format!("`{hours}` is not a span of hours");
            Complaint::new(message, "write HH:MM-HH:MM, from 00:00 to 24:00")
        })?;
        Ok(Self::Hours(Hours {
            days,
            from,
            until,
            zone: self::zone(zone)?,
        }))
    }

    /// `before` or `after` an instant.
    pub(crate) fn instant(before: bool, text: &str) -> Result<Self, Complaint> {
        let instant: Timestamp = text.parse().map_err(|_| {
            let message = format!("'{text}' is not an instant");
            Complaint::new(message, "write one with its zone: '2026-12-01T06:00:00Z'")
        })?;
        Ok(if before {
            Self::Before(instant)
        } else {
            Self::After(instant)
        })
    }

    /// The word before it in a condition.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Hours(_) => "in",
            Self::Before(_) => "before",
            Self::After(_) => "after",
        }
    }

    /// Whether it is open; not known while the time is not.
    pub(crate) fn is_open(&self, at: Option<SystemTime>) -> Truth {
        let Some(at) = at.and_then(|at| Timestamp::try_from(at).ok()) else {
            return Truth::Unknown;
        };
        Truth::of(match self {
            Self::Hours(hours) => hours.is_open(at),
            Self::Before(end) => at < *end,
            Self::After(start) => at >= *start,
        })
    }
}

/// As conditions write it, after its [`word`](Window::word).
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hours(hours) => hours.fmt(f),
            Self::Before(instant) | Self::After(instant) => instant.fmt(f),
        }
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dates: Vec<String> = (1..=31).map(|date| date.to_string()).collect();
        let dates: Vec<&str> = dates.iter().map(String::as_str).collect();
        for (set, names) in [
            (self.year, &MONTHS[..]),
            (self.week, &DAYS[..]),
            (self.month, &dates[..]),
        ] {
            let some = (0..).zip(names).filter(|(place, _)| set >> place & 1 == 1);
            let some: Vec<&str> = some.map(|(_, name)| *name).collect();
            if some.len() < names.len() {
                write!(f, "{} ", some.join(","))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.days.fmt(f)?;
        let clock = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        let until = if self.until == 0 { MINUTES } else { self.until };
        write!(f, "{}-{} ", clock(self.from), clock(until))?;
        match (self.zone.iana_name(), self.zone.to_fixed_offset()) {
            (Some(name), _) => f.write_str(name),
            (None, Ok(offset)) => {
                let minutes = offset.seconds() / 60;
                let sign = if minutes < 0 { '-' } else { '+' };
                let minutes = minutes.unsigned_abs();
                write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
            (None, Err(_)) => Ok(()),
        }
    }
}

impl Hours {
    fn is_open(&self, at: Timestamp) -> bool {
        let local = at.to_zoned(self.zone.clone());
        // It is small and not negative.
        let minute = u16::try_from(i16::from(local.hour()) * 60 + i16::from(local.minute()));
        let minute = minute.unwrap_or_default();
        let today = self.days.hold(local.date());
        if self.from < self.until {
            return today && (self.from..self.until).contains(&minute);
        }
        // Past midnight it belongs to the day on which it began.
        let yesterday = local.date().yesterday();
        let yesterday = yesterday.is_ok_and(|date| self.days.hold(date));
        (today && minute >= self.from) || (yesterday && minute < self.until)
    }
}

impl Days {
    /// Months, days of the week and dates, in any order, each at most once; what is not named is not
    /// bounded.
    fn read(words: &[&str]) -> Result<Self, Complaint> {
        let mut named = [None; 3];
        for word in words {
            let (kind, set) = match word.split([',', '-']).next() {
                Some(first) if first.starts_with(|c: char| c.is_ascii_digit()) => (2, dates(word)?),
                Some(first) if MONTHS.contains(&first) => (1, names(word, &MONTHS, "month")?),
                Some(_) | None => (0, names(word, &DAYS, "day")?),
            };
            if let Some(known) = named.get_mut(kind)
                && known.replace(set).is_some()
            {
                return Err(Complaint::new(
                    format!("`{word}` names days of one kind a second time"),
                    "put a comma between them, without a blank",
                ));
            }
        }
        let [week, year, month] = named;
        let week = week.unwrap_or(0x7f);
        let month = month.unwrap_or(u32::MAX >> 1);
        let year = year.unwrap_or(0xfff);
        let days = Self { week, month, year };
        let longest = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let mut months = (0..)
            .zip(longest)
            .filter(|(place, _)| year >> place & 1 == 1);
        if months.all(|(_, length)| month.trailing_zeros() >= length) {
            return Err(Complaint::new(
                format!("there is no {days}"),
                "look at the months and their dates again",
            ));
        }
        Ok(days)
    }

    fn hold(self, date: Date) -> bool {
        let week = date.weekday().to_monday_zero_offset();
        let bits = [
            (self.week, week),
            (self.month, date.day() - 1),
            (self.year, date.month() - 1),
        ];
        bits.into_iter().all(|(set, place)| set >> place & 1 == 1)
    }
}

/// `Mon,Wed-Fri`, as bits; a span may go round.
fn names(text: &str, all: &[&str], what: &str) -> Result<u32, Complaint> {
    let place = |word: &str| {
        all.iter().position(|name| *name == word).ok_or_else(|| {
            let remedy = match nearest(word, DAYS.into_iter().chain(MONTHS)) {
                Some(name) => format!("did you mean {name}?"),
                None => format!(
                    "the days are {}; the months {}; dates are numbers",
                    DAYS.join(", "),
                    MONTHS.join(", ")
                ),
            };
            Complaint::new(format!("`{word}` is not a {what}"), remedy)
        })
    };
    let mut set = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (place(first)?, place(last)?);
        let mut at = first;
        set |= 1 << at;
        while at != last {
            at = (at + 1) % all.len();
            set |= 1 << at;
        }
    }
    Ok(set)
}

/// `1-7,15`, as bits.
fn dates(text: &str) -> Result<u32, Complaint> {
    let mut set = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let date = |text: &str| {
            text.parse::<u32>()
                .ok()
                .filter(|date| (1..=31).contains(date))
        };
        let (Some(first), Some(last)) = (date(first), date(last)) else {
            return Err(not_dates(part));
        };
        if first > last {
            return Err(not_dates(part));
        }
        for date in first..=last {
            set |= 1 << (date - 1);
        }
    }
    Ok(set)
}

fn not_dates(part: &str) -> Complaint {
    Complaint::new(
        format!("`{part}` is not a date of a month"),
        "write numbers from 1 to 31, or a span of them: 1-7",
    )
}

/// Minutes since midnight.
fn clock(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let two = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hour, minute) = (two(hour)?, two(minute)?);
    let total = hour * 60 + minute;
    (minute < 60 && total <= MINUTES).then_some(total)
}

fn zone(name: &str) -> Result<TimeZone, Complaint> {
    if let Some(offset) = offset(name) {
        return Ok(TimeZone::fixed(offset));
    }
    if name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    let database = jiff::tz::db();
    let found = database.get(name).ok();
    // The look-up forgives letters of the wrong case; a policy has one spelling.
    if let Some(zone) = found.filter(|zone| zone.iana_name() == Some(name)) {
        return Ok(zone);
    }
    let known: Vec<String> = database.available().map(|name| name.to_string()).collect();
    let remedy = match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => "write UTC, an offset such as +02:00, or a name such as Europe/Berlin".into(),
    };
    Err(Complaint::new(
        format!("`{name}` is not a time zone"),
        remedy,
    ))
}

/// `+02:00`
fn offset(text: &str) -> Option<Offset> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let minutes = clock(rest).filter(|minutes| *minutes < MINUTES)?;
    Offset::from_seconds(sign * i32::from(minutes) * 60).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(window: &str, at: &str) -> bool {
        let at: Timestamp = at.parse().unwrap();
        let window = Window::hours(window).map_err(|complaint| complaint.message);
        window.unwrap().is_open(Some(at.into())) == Truth::Yes
    }

    #[test]
    fn hours_are_those_of_a_wall_clock_in_the_zone() {
        // 2026-11-24 is a Tuesday.
        for (window, at, inside) in [
            ("Mon-Fri 08:00-18:00 UTC", "2026-11-24T08:00:00Z", true),
            ("Mon-Fri 08:00-18:00 UTC", "2026-11-24T07:59:59Z", false),
            ("Mon-Fri 08:00-18:00 UTC", "2026-11-24T17:59:59Z", true),
            ("Mon-Fri 08:00-18:00 UTC", "2026-11-24T18:00:00Z", false),
            ("Mon-Fri 08:00-18:00 UTC", "2026-11-28T12:00:00Z", false),
            ("Sat,Sun 00:00-24:00 UTC", "2026-11-28T23:59:59Z", true),
            ("Sat,Sun 00:00-24:00 UTC", "2026-11-30T00:00:00Z", false),
            ("Fri-Mon 00:00-24:00 UTC", "2026-11-29T12:00:00Z", true),
            ("Fri-Mon 00:00-24:00 UTC", "2026-11-25T12:00:00Z", false),
            ("08:00-09:00 +02:00", "2026-11-24T06:30:00Z", true),
            ("08:00-09:00 -05:30", "2026-11-24T13:30:00Z", true),
            // Winter and summer time.
            ("08:00-09:00 Europe/Berlin", "2026-11-24T07:30:00Z", true),
            ("08:00-09:00 Europe/Berlin", "2026-07-01T06:30:00Z", true),
            ("08:00-09:00 Europe/Berlin", "2026-07-01T07:30:00Z", false),
            // The hour that is skipped, and the one that comes twice.
            ("02:00-03:00 Europe/Berlin", "2026-03-29T01:30:00Z", false),
            ("02:00-03:00 Europe/Berlin", "2026-10-25T00:30:00Z", true),
            ("02:00-03:00 Europe/Berlin", "2026-10-25T01:30:00Z", true),
        ] {
            assert_eq!(open(window, at), inside, "{window} {at}");
        }
    }

    #[test]
    fn a_span_past_midnight_belongs_to_the_day_on_which_it_begins() {
        for (at, inside) in [
            ("2026-11-27T21:59:59Z", false),
            ("2026-11-27T22:00:00Z", true),
            ("2026-11-28T05:59:59Z", true),
            ("2026-11-28T06:00:00Z", false),
            ("2026-11-28T22:00:00Z", false),
            ("2026-11-27T05:00:00Z", false),
        ] {
            assert_eq!(open("Fri 22:00-06:00 UTC", at), inside, "{at}");
        }
    }

    #[test]
    fn days_months_and_dates_bound_each_other() {
        // 2026-12-06 is the first Sunday of December.
        for (window, at, inside) in [
            ("Sun 1-7 02:00-04:00 UTC", "2026-12-06T02:00:00Z", true),
            ("1-7 Sun 02:00-04:00 UTC", "2026-12-06T02:00:00Z", true),
            ("Sun 1-7 02:00-04:00 UTC", "2026-12-13T02:00:00Z", false),
            ("Sun 1-7 02:00-04:00 UTC", "2026-12-07T02:00:00Z", false),
            ("1,31 00:00-24:00 UTC", "2026-12-01T00:00:00Z", true),
            ("1,31 00:00-24:00 UTC", "2026-12-31T23:59:00Z", true),
            ("1,31 00:00-24:00 UTC", "2026-12-30T23:59:00Z", false),
            ("1,31 00:00-24:00 UTC", "2026-12-02T00:00:00Z", false),
            ("Nov-Jan 00:00-24:00 UTC", "2027-01-31T12:00:00Z", true),
            ("Nov-Jan 00:00-24:00 UTC", "2027-02-01T00:00:00Z", false),
            ("Nov-Jan 00:00-24:00 UTC", "2026-10-31T23:59:59Z", false),
            ("Dec Sun 00:00-24:00 UTC", "2026-11-29T12:00:00Z", false),
            ("Dec Sun 00:00-24:00 UTC", "2026-12-06T12:00:00Z", true),
            // The date is that of the zone, and past midnight that of the evening before.
            ("1 00:00-02:00 Europe/Berlin", "2026-11-30T23:30:00Z", true),
            ("1 00:00-02:00 Europe/Berlin", "2026-12-01T23:30:00Z", false),
            ("31 Dec 22:00-06:00 UTC", "2027-01-01T05:59:59Z", true),
            ("31 Dec 22:00-06:00 UTC", "2026-12-31T05:59:59Z", false),
            ("29 Feb 00:00-24:00 UTC", "2028-02-29T12:00:00Z", true),
        ] {
            assert_eq!(open(window, at), inside, "{window} {at}");
        }
    }

    #[test]
    fn a_window_is_written_as_it_is_read() {
        for (text, written) in [
            ("08:00-24:00 UTC", "08:00-24:00 UTC"),
            ("Jan-Dec Wed-Tue 1-31 08:00-09:00 UTC", "08:00-09:00 UTC"),
            (
                "Fri-Sun 22:00-06:00 +02:00",
                "Fri,Sat,Sun 22:00-06:00 +02:00",
            ),
            (
                "1-3 Sun Jan 01:00-02:00 UTC",
                "Jan Sun 1,2,3 01:00-02:00 UTC",
            ),
        ] {
            let read = |text: &str| Window::hours(text).map_err(|c| c.message).unwrap();
            assert_eq!(read(text).to_string(), written);
            assert_eq!(read(written), read(text));
        }
    }

    #[test]
    fn what_is_no_window_is_said_with_a_remedy() {
        for (text, says) in [
            ("08:00-18:00", "is not days, hours and a zone"),
            ("Mon-Fry 08:00-18:00 UTC", "did you mean Fri?"),
            ("mon 08:00-18:00 UTC", "did you mean Mon?"),
            ("Jen 08:00-18:00 UTC", "did you mean Jan?"),
            ("Jan-Mai 08:00-18:00 UTC", "`Mai` is not a month"),
            ("Jan,Mon 08:00-18:00 UTC", "`Mon` is not a month"),
            ("Mon Tue 08:00-18:00 UTC", "a second time"),
            ("0 08:00-18:00 UTC", "`0` is not a date"),
            ("1,32 08:00-18:00 UTC", "`32` is not a date"),
            ("7-1 08:00-18:00 UTC", "`7-1` is not a date"),
            ("30 Feb 08:00-18:00 UTC", "there is no Feb 30"),
            ("31 Apr,Jun 08:00-18:00 UTC", "there is no Apr,Jun 31"),
            ("Mon-Fri UTC", "is not days, hours and a zone"),
            ("08:00-25:00 UTC", "is not a span of hours"),
            ("8:00-18:00 UTC", "is not a span of hours"),
            ("08:00-08:00 UTC", "is not a span of hours"),
            ("08:60-10:00 UTC", "is not a span of hours"),
            ("24:00-06:00 UTC", "is not a span of hours"),
            ("23:00-24:01 UTC", "is not a span of hours"),
            ("08:00-18:00 Europe/Berlim", "did you mean Europe/Berlin?"),
            ("08:00-18:00 europe/berlin", "did you mean Europe/Berlin?"),
            ("08:00-18:00 +25:00", "is not a time zone"),
        ] {
            let complaint = Window::hours(text).map(drop).unwrap_err();
            let said = format!("{}; {}", complaint.message, complaint.remedy);
            assert!(said.contains(says), "{text}: {said}");
        }
        assert!(Window::instant(true, "2026-12-01").is_err());
    }

    #[test]
    fn an_instant_parts_time_in_two() {
        let at = |text: &str| text.parse::<Timestamp>().ok().map(SystemTime::from);
        let end = Window::instant(true, "2026-12-01T06:00:00Z").map_err(|c| c.message);
        let start = Window::instant(false, "2026-12-01T06:00:00Z").map_err(|c| c.message);
        let (end, start) = (end.unwrap(), start.unwrap());
        for (time, before) in [
            ("2026-12-01T05:59:59Z", true),
            ("2026-12-01T06:00:00Z", false),
        ] {
            assert_eq!(end.is_open(at(time)), Truth::of(before));
            assert_eq!(start.is_open(at(time)), Truth::of(!before));
        }
        assert_eq!(end.is_open(None), Truth::Unknown);
    }
}
