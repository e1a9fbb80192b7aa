//! Time windows of conditions: the same hours every week in some zone, or before or after an
//! instant.
//!
//! Zones and their summer times come with the program, so that a policy means the same on every
//! machine. An hour is compared as a wall clock in the zone shows it: an hour that summer time
//! skips is not there on that day, one that it repeats is there twice.

use std::fmt;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

use crate::cond::Truth;
use crate::error::Complaint;
use crate::suggest::nearest;

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const EXAMPLE: &str = "write `time in 'Mon-Fri 08:00-18:00 Europe/Berlin'`";
const MINUTES: u16 = 24 * 60;

/// When something holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Window {
    Weekly(Weekly),
    Before(Timestamp),
    After(Timestamp),
}

/// The same hours on some days of every week.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Weekly {
    /// Bit 0 is Monday.
    days: u8,
    /// Minutes since midnight; inside.
    from: u16,
    /// Minutes since midnight; outside. Not after `from`: on the next day.
    until: u16,
    zone: TimeZone,
}

impl Window {
    /// `[DAYS] HH:MM-HH:MM ZONE`
    pub(crate) fn weekly(text: &str) -> Result<Self, Complaint> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (days, hours, zone) = match words.as_slice() {
            [hours, zone] => (0x7f, *hours, *zone),
            [days, hours, zone] => (self::days(days)?, *hours, *zone),
            _ => {
                let message = format!("'{text}' is not days, hours and a zone");
                return Err(Complaint::new(message, EXAMPLE));
            }
        };
        let read = || {
            let (from, until) = hours.split_once('-')?;
            let (from, until) = (clock(from)?, clock(until)?);
            (from < MINUTES && from != until).then_some((from, until % MINUTES))
        };
        let (from, until) = read().ok_or_else(|| {
            let message = format!("`{hours}` is not a span of hours");
            Complaint::new(message, "write HH:MM-HH:MM, from 00:00 to 24:00")
        })?;
        Ok(Self::Weekly(Weekly {
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
            Self::Weekly(_) => "in",
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
            Self::Weekly(weekly) => weekly.is_open(at),
            Self::Before(end) => at < *end,
            Self::After(start) => at >= *start,
        })
    }
}

/// As conditions write it, after its [`word`](Window::word).
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weekly(weekly) => weekly.fmt(f),
            Self::Before(instant) | Self::After(instant) => instant.fmt(f),
        }
    }
}

impl fmt::Display for Weekly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = (0..).zip(DAYS).filter(|(day, _)| self.days >> day & 1 == 1);
        let days: Vec<&str> = days.map(|(_, day)| day).collect();
        if days.len() < DAYS.len() {
            write!(f, "{} ", days.join(","))?;
        }
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

impl Weekly {
    fn is_open(&self, at: Timestamp) -> bool {
        let local = at.to_zoned(self.zone.clone());
        // Both are small and not negative.
        let day = u8::try_from(local.weekday().to_monday_zero_offset()).unwrap_or_default();
        let minute = u16::try_from(i16::from(local.hour()) * 60 + i16::from(local.minute()));
        let minute = minute.unwrap_or_default();
        let today = self.days >> day & 1 == 1;
        if self.from < self.until {
            return today && (self.from..self.until).contains(&minute);
        }
        // Past midnight it belongs to the day on which it began.
        let yesterday = self.days >> ((day + 6) % 7) & 1 == 1;
        (today && minute >= self.from) || (yesterday && minute < self.until)
    }
}

fn days(text: &str) -> Result<u8, Complaint> {
    let day = |word: &str| {
        DAYS.iter().position(|day| *day == word).ok_or_else(|| {
            let remedy = match nearest(word, DAYS) {
                Some(day) => format!("did you mean {day}?"),
                None => format!("the days are {}", DAYS.join(", ")),
            };
            Complaint::new(format!("`{word}` is not a day"), remedy)
        })
    };
    let mut set = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let mut at = first;
        set |= 1 << at;
        while at != last {
            at = (at + 1) % DAYS.len();
            set |= 1 << at;
        }
    }
    Ok(set)
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
        let window = Window::weekly(window).map_err(|complaint| complaint.message);
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
    fn what_is_no_window_is_said_with_a_remedy() {
        for (text, says) in [
            ("08:00-18:00", "is not days, hours and a zone"),
            ("Mon-Fry 08:00-18:00 UTC", "did you mean Fri?"),
            ("mon 08:00-18:00 UTC", "did you mean Mon?"),
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
            let complaint = Window::weekly(text).map(drop).unwrap_err();
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
