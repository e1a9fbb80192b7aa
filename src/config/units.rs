//! Quantities as people write them: `"1 MiB"`, `"10 s"`, `"30/min"`, `"1 MiB/s"`.
//!
//! A quantity is a whole number and a unit, with at most one space between them. Nothing here
//! accepts a number without its unit, a fraction, a sign, or more than the stated maximum: sums
//! with these values (an instant plus a duration, ten seconds of a rate) stay in range.

use std::time::Duration;

/// The largest size that can be written: 256 TiB.
pub const MAX_BYTES: u64 = 1 << 48;
/// The longest duration that can be written: 36 500 d.
pub const MAX_DURATION: Duration = Duration::from_hours(36_500 * 24);
/// The largest count in a rate.
pub const MAX_COUNT: u64 = 1_000_000_000;

/// How often something may happen: `count` times in each `period`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Events in each period; at least 1.
    pub count: u64,
    /// One second or one minute.
    pub period: Duration,
}

impl Rate {
    /// `count` events in each second.
    #[must_use]
    pub const fn per_second(count: u64) -> Self {
        Self {
            count,
            period: Duration::from_secs(1),
        }
    }

    /// `count` events in each minute.
    #[must_use]
    pub const fn per_minute(count: u64) -> Self {
        Self {
            count,
            period: Duration::from_mins(1),
        }
    }

    /// So many times as often.
    #[must_use]
    pub const fn times(self, factor: u64) -> Self {
        Self {
            count: self.count.saturating_mul(factor),
            period: self.period,
        }
    }

    /// The rate at which more events happen.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        if self.interval() < other.interval() {
            self
        } else {
            other
        }
    }

    /// Events that may happen at once: ten seconds of the rate, at least one (DESIGN, `[limits]`).
    #[must_use]
    pub fn burst(self) -> u64 {
        let periods = self.period.as_secs().max(1);
        (self.count.saturating_mul(10) / periods).max(1)
    }

    /// The mean time between two events.
    #[must_use]
    pub fn interval(self) -> Duration {
        let nanoseconds = self.period.as_nanos() / u128::from(self.count.max(1));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX).max(1))
    }
}

/// Bytes in each second; at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRate(pub u64);

impl ByteRate {
    /// So many times as many.
    #[must_use]
    pub const fn times(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    /// Bytes that may come at once: ten seconds of the rate and at least `largest`, one largest
    /// packet (DESIGN, `[limits]`).
    #[must_use]
    pub fn burst(self, largest: u64) -> u64 {
        self.0.saturating_mul(10).max(largest)
    }
}

const BYTES: [(&str, u64); 4] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];
const MILLISECONDS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("min", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// A size in bytes, zero included. `None`: not a size, or larger than [`MAX_BYTES`].
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    quantity(text, &BYTES).filter(|bytes| *bytes <= MAX_BYTES)
}

/// A duration, zero included. `None`: not a duration, or longer than [`MAX_DURATION`].
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    quantity(text, &MILLISECONDS)
        .map(Duration::from_millis)
        .filter(|duration| *duration <= MAX_DURATION)
}

/// `N/s` or `N/min`, zero included. `None`: not a rate, or a count above [`MAX_COUNT`].
#[must_use]
pub fn rate(text: &str) -> Option<Rate> {
    let (count, period) = text.split_once('/')?;
    let count = number(count).filter(|count| *count <= MAX_COUNT)?;
    match period {
        "s" => Some(Rate::per_second(count)),
        "min" => Some(Rate::per_minute(count)),
        _ => None,
    }
}

/// `SIZE/s`, zero included. `None`: not such a rate, or a size above [`MAX_BYTES`].
#[must_use]
pub fn byte_rate(text: &str) -> Option<ByteRate> {
    size(text.strip_suffix("/s")?).map(ByteRate)
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, rest) = text.split_at_checked(end)?;
    let unit = rest.strip_prefix(' ').unwrap_or(rest);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number(digits)?.checked_mul(*scale)
}

/// Digits only: `u64::from_str` would also take a plus sign.
fn number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024_with_their_unit() {
        for (text, bytes) in [
            ("1 B", 1),
            ("64 KiB", 65_536),
            ("64KiB", 65_536),
            ("1 MiB", 1_048_576),
            ("2 GiB", 2_147_483_648),
            ("0 B", 0),
            ("262144 GiB", MAX_BYTES),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn durations_reach_from_milliseconds_to_days() {
        for (text, milliseconds) in [
            ("250 ms", 250),
            ("10 s", 10_000),
            ("20 min", 1_200_000),
            ("24 h", 86_400_000),
            ("7 d", 604_800_000),
            ("7d", 604_800_000),
            ("0 s", 0),
        ] {
            let expected = Some(Duration::from_millis(milliseconds));
            assert_eq!(duration(text), expected, "{text}");
        }
    }

    #[test]
    fn rates_are_per_second_or_per_minute() {
        assert_eq!(rate("10/s"), Some(Rate::per_second(10)));
        assert_eq!(rate("30/min"), Some(Rate::per_minute(30)));
        assert_eq!(byte_rate("1 MiB/s"), Some(ByteRate(1_048_576)));
        assert_eq!(byte_rate("512B/s"), Some(ByteRate(512)));
    }

    #[test]
    fn what_is_not_a_whole_number_and_a_known_unit_is_nothing() {
        for text in [
            "",
            " ",
            "1",
            "B",
            "1 b",
            "1 kB",
            "1 KB",
            "1 MB",
            "1  MiB",
            " 1 MiB",
            "1 MiB ",
            "+1 MiB",
            "-1 MiB",
            "1.5 MiB",
            "1_000 B",
            "1e3 B",
            "１ B",
            "1\tMiB",
            "1 TiB",
            "18446744073709551616 B",
            "18446744073709551615 GiB",
            "262145 GiB",
        ] {
            assert_eq!(size(text), None, "{text:?}");
        }
        for text in [
            "10",
            "10 sec",
            "10 m",
            "10 S",
            "1 w",
            "-1 s",
            "36501 d",
            "99999999999999999 d",
        ] {
            assert_eq!(duration(text), None, "{text:?}");
        }
        for text in [
            "10",
            "10/h",
            "10 /s",
            "10/ s",
            "/s",
            "+1/s",
            "10/s/s",
            "1000000001/s",
        ] {
            assert_eq!(rate(text), None, "{text:?}");
        }
        for text in ["1 MiB", "1 MiB/min", "1/s", "1 MiB /s", "1 MB/s"] {
            assert_eq!(byte_rate(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_burst_is_ten_seconds_of_the_rate_and_at_least_one_packet() {
        assert_eq!(Rate::per_second(200).burst(), 2_000);
        assert_eq!(Rate::per_minute(30).burst(), 5);
        assert_eq!(Rate::per_minute(1).burst(), 1);
        assert_eq!(ByteRate(1_000).burst(4_096), 10_000);
        assert_eq!(ByteRate(1).burst(4_096), 4_096);
    }

    #[test]
    fn the_interval_is_the_period_divided_by_the_count() {
        assert_eq!(Rate::per_second(10).interval(), Duration::from_millis(100));
        assert_eq!(Rate::per_minute(30).interval(), Duration::from_secs(2));
    }
}
