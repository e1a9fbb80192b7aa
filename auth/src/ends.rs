//! What ends by itself, and when: for gauges and warnings.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use x509_parser::prelude::X509Certificate;

use crate::der::time;

/// How long something that the configuration names still counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expiry {
    /// Where it is named.
    pub part: Part,
    /// The name of that part.
    pub name: Box<str>,
    /// What it is, and until when.
    pub ends: Ends,
}

/// A part of the configuration that names files which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// `[[listener]]`.
    Listener,
    /// `[[auth.jwt]]`.
    Issuer,
    /// `[[auth.introspection]]`.
    Introspection,
    /// `[[auth.webhook]]`.
    Webhook,
}

impl Part {
    /// A word for labels and warnings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Issuer => "issuer",
            Self::Introspection => "introspection",
            Self::Webhook => "webhook",
        }
    }
}

/// Something that has to be renewed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// What it is.
    pub what: What,
    /// Whose: a subject, or of a list its issuer.
    pub name: String,
    /// Since when it counts.
    pub since: SystemTime,
    /// When it ends.
    pub until: SystemTime,
}

/// A kind of thing that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// A certificate of the server's.
    Server,
    /// The certificate that the broker shows to a server which it asks: `tls-certificate`.
    Client,
    /// A CA of clients.
    ClientCa,
    /// A revocation list.
    Crl,
}

impl What {
    /// A word for labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::ClientCa => "client-ca",
            Self::Crl => "crl",
        }
    }
}

impl Ends {
    const HOUR: u64 = 3_600;
    const DAY: u64 = 24 * Self::HOUR;
    /// So many days before it ends something is warned of, if that is in the last quarter of its
    /// life: what is made for a week is no emergency after an hour.
    const THRESHOLDS: [u64; 3] = [30, 7, 1];
    const QUARTER: u32 = 4;

    /// When `certificate` ends; one without a subject is named by its file.
    pub(crate) fn of(what: What, certificate: &X509Certificate<'_>, path: &Path) -> Self {
        let subject = certificate.subject().to_string();
        Self {
            what,
            name: if subject.is_empty() {
                path.display().to_string()
            } else {
                subject
            },
            since: time(certificate.validity().not_before),
            until: time(certificate.validity().not_after),
        }
    }

    /// Whole days left at `now`; 0 when it is over.
    #[must_use]
    pub fn days(&self, now: SystemTime) -> u64 {
        self.left(now).as_secs() / Self::DAY
    }

    fn left(&self, now: SystemTime) -> Duration {
        self.until.duration_since(now).unwrap_or_default()
    }

    /// How many warnings are due at `now`: one for each threshold, then one each day.
    fn stage(&self, now: SystemTime) -> u64 {
        let life = self.until.duration_since(self.since).unwrap_or_default();
        let counts = |days: &&u64| {
            let span = Duration::from_secs(**days * Self::DAY);
            self.left(now) <= span && span.saturating_mul(Self::QUARTER) <= life
        };
        let thresholds = Self::THRESHOLDS.iter().filter(counts).count() as u64;
        let over = now.duration_since(self.until).ok();
        let over = over.map_or(0, |over| 1 + over.as_secs() / Self::DAY);
        thresholds + over
    }

    /// What an operator should know of it at `now`.
    fn words(&self, now: SystemTime) -> String {
        let name = &self.name;
        let over = self.until <= now;
        let (whose, then) = match self.what {
            What::Server => (
                "its certificate",
                "its clients refuse it; put a new one there",
            ),
            What::Client => (
                "the certificate that the broker shows to it",
                "it answers the broker no more, and whom it should judge is refused; put a new one there",
            ),
            What::ClientCa => (
                "its client CA",
                "its clients are refused; put a new one there",
            ),
            What::Crl => (
                "the revocation list of its CA",
                "it counts for crl-grace, and then the CA's clients are refused; publish a new one",
            ),
        };
        if over {
            return format!("{whose} {name:?} HAS ENDED: {then}");
        }
        let left = match self.left(now).as_secs() {
            seconds if seconds < 2 * Self::DAY => format!("{} hours", seconds / Self::HOUR),
            seconds => format!("{} days", seconds / Self::DAY),
        };
        format!("{whose} {name:?} ends in {left}; renew it")
    }
}

/// Warns of what ends, once at each threshold.
#[derive(Debug, Default)]
pub(crate) struct Reminder {
    /// What there is, and how many of its warnings have been said.
    said: HashMap<Expiry, u64>,
}

impl Reminder {
    /// The warnings that are due at `now`. What is there no more is forgotten.
    pub(crate) fn due(&mut self, expiries: Vec<Expiry>, now: SystemTime) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut said = HashMap::with_capacity(expiries.len());
        for expiry in expiries {
            let stage = expiry.ends.stage(now);
            let before = self.said.get(&expiry).copied().unwrap_or(0);
            if said.insert(expiry.clone(), stage.max(before)).is_none() && stage > before {
                let words = expiry.ends.words(now);
                let (part, name) = (expiry.part.as_str(), &expiry.name);
                warnings.push(format!("{part} {name:?}: {words}"));
            }
        }
        self.said = said;
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(Ends::DAY);
    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn ends(what: What, days: u32) -> Expiry {
        Expiry {
            part: Part::Listener,
            name: "internet".into(),
            ends: Ends {
                what,
                name: "CN=x".to_owned(),
                since: START,
                until: START + DAY * days,
            },
        }
    }

    /// On which days of its life something is warned of, and how.
    fn said(expiry: &Expiry, until: u32) -> Vec<(u32, String)> {
        let mut reminder = Reminder::default();
        let hours = (0..=until * 24).map(|hour| (hour / 24, START + DAY * hour / 24));
        hours
            .flat_map(|(day, now)| {
                let warnings = reminder.due(vec![expiry.clone()], now);
                warnings.into_iter().map(move |warning| (day, warning))
            })
            .collect()
    }

    #[test]
    fn each_warning_is_said_once_and_daily_when_it_is_over() {
        for (life, days) in [
            (365, vec![335, 358, 364, 365, 366, 367]),
            (120, vec![90, 113, 119, 120, 121, 122]),
            // Thirty days are more than a quarter of these, a week of those, a day of that.
            (90, vec![83, 89, 90, 91, 92]),
            (7, vec![6, 7, 8, 9]),
            (3, vec![3, 4, 5]),
        ] {
            for what in [What::Server, What::Client, What::ClientCa, What::Crl] {
                let said = said(&ends(what, life), life + 2);
                let when: Vec<_> = said.iter().map(|(day, _)| *day).collect();
                assert_eq!(when, days, "{life} {what:?}");
                let over = said.iter().filter(|(_, words)| words.contains("HAS ENDED"));
                assert_eq!(over.count(), 3, "{said:?}");
            }
        }
    }

    #[test]
    fn what_is_renewed_is_quiet_and_what_is_near_its_end_at_first_sight_is_said_at_once() {
        let mut reminder = Reminder::default();
        let (old, new) = (ends(What::Server, 365), ends(What::Server, 700));
        let at = |day: u32| START + DAY * day;
        let first = reminder.due(vec![old.clone()], at(360));
        assert_eq!(
            first,
            ["listener \"internet\": its certificate \"CN=x\" ends in 5 days; renew it"]
        );
        assert!(reminder.due(vec![old.clone(), old], at(360)).is_empty());
        assert!(reminder.due(vec![new.clone()], at(370)).is_empty());
        assert_eq!(reminder.due(vec![new], at(671)).len(), 1);
        assert!(reminder.due(Vec::new(), at(672)).is_empty());
        assert!(reminder.said.is_empty());
    }
}
