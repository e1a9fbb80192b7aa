//! What ends by itself, and when: for gauges and warnings.

use std::time::{Duration, SystemTime};

/// Something that has to be renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// What it is.
    pub what: What,
    /// Whose: a subject, or of a list its issuer.
    pub name: String,
    /// When.
    pub until: SystemTime,
}

/// A kind of thing that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// A certificate of the server's.
    Server,
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
            Self::ClientCa => "client-ca",
            Self::Crl => "crl",
        }
    }
}

impl Ends {
    /// A certificate that ends within this time is worth a warning.
    const SOON: Duration = Duration::from_hours(14 * 24);
    const DAY: u64 = 86_400;

    /// Whole days left at `now`; 0 when it is over.
    #[must_use]
    pub fn days(&self, now: SystemTime) -> u64 {
        let left = self.until.duration_since(now).unwrap_or_default();
        left.as_secs() / Self::DAY
    }

    /// A warning if it ends soon. Lists end all the time: they are warned of when they are over.
    #[must_use]
    pub fn warning(&self, now: SystemTime) -> Option<String> {
        let left = self.until.duration_since(now).unwrap_or_default();
        let whose = match self.what {
            What::Server => "its certificate",
            What::ClientCa => "its client CA",
            What::Crl => return None,
        };
        let (name, days) = (&self.name, self.days(now));
        (left < Self::SOON).then(|| format!("{whose} {name:?} ends in {days} days; renew it"))
    }
}
