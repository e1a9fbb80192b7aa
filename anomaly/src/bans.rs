//! [`Bans`]: who an operator keeps out, until when, and why.
//!
//! A visible, expiring layer above the configuration (rule 11 of the design). A ban is in force
//! the moment it is added; the file is what a restart reads. What a banned author stored is
//! withheld while the ban lasts.
//!
//! The table has a bound of [`Bans::MOST`]; a full one refuses the next ban loudly rather than
//! forget one. Asking costs a few hash look-ups, whatever the number of bans.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use portcullis_core::clock::{Now, unix_millis};
use portcullis_core::hook::{Admission, Arrival, BatchFacts, Meter, Principal, Snapshot, Verdict};
use portcullis_core::wire::ReasonCode;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Whom a ban keeps out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// A proven principal, with its kind: `cert:pump-17`.
    Principal(String),
    /// Whoever uses this client id.
    ClientId(String),
    /// Whoever comes from there.
    Network(Network),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Principal(name) => write!(f, "principal {name:?}"),
            Self::ClientId(id) => write!(f, "client id {id:?}"),
            Self::Network(network) => write!(f, "network {network}"),
        }
    }
}

/// An address or a CIDR block, with the host bits cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    length: u8,
}

/// Not an address and not a CIDR block.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not an address or a block such as 192.0.2.0/24 or 2001:db8::/32")]
pub struct NetworkError(String);

impl Network {
    /// The block of this length around an address; `None` for a length beyond the address.
    /// An IPv4 address that is mapped into IPv6 counts as IPv4.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let (address, length) = match address {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                (address.to_canonical(), length.checked_sub(96)?)
            }
            IpAddr::V4(_) | IpAddr::V6(_) => (address, length),
        };
        let address = match address {
            IpAddr::V4(v4) => {
                let host = 32_u32.checked_sub(length.into())?;
                IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(host).unwrap_or(0)).into())
            }
            IpAddr::V6(v6) => {
                let host = 128_u32.checked_sub(length.into())?;
                IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(host).unwrap_or(0)).into())
            }
        };
        Some(Self { address, length })
    }

    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && Self::new(address, self.length) == Some(*self)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let read = || match text.split_once('/') {
            // `/08` and `/+8` are other people's spellings.
            Some((address, length)) if length.bytes().all(|b| b.is_ascii_digit()) => {
                Self::new(address.parse().ok()?, length.parse().ok()?)
            }
            Some(_) => None,
            None => {
                let address: IpAddr = text.parse().ok()?;
                Self::new(address, if address.is_ipv4() { 32 } else { 128 })
            }
        };
        read().ok_or_else(|| NetworkError(text.to_owned()))
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// One ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Whom it keeps out.
    pub target: Target,
    /// In the operator's words; for log and record, never told to the client.
    pub reason: String,
    /// Since when.
    pub created: SystemTime,
    /// Until when; every ban ends.
    pub until: SystemTime,
}

/// Why a ban is not there, or not kept.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BanError {
    /// There are [`Bans::MOST`] bans that have not expired.
    #[error("there are {most} bans already; lift some first", most = Bans::MOST)]
    Full,
    /// It would be over before it begins.
    #[error("the ban ends before it begins")]
    Expired,
    /// The change is in force, but a restart will not know it.
    #[error("in force, but not kept in {path}: {error}")]
    NotSaved {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        error: io::Error,
    },
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        error: io::Error,
    },
    /// The file does not hold bans. Nothing is let in on a guess.
    #[error("{path}: {reason}; correct it, or remove it to lift all bans")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// The bans, as an [`Admission`] module named `bans`. Cheap to clone: clones share everything.
#[derive(Clone)]
pub struct Bans {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None`: nothing is kept.
    path: Option<PathBuf>,
    /// Held while the file is written, so that files follow each other like the changes.
    writing: Mutex<()>,
    index: RwLock<Arc<Index>>,
    generation: AtomicU64,
    refused: AtomicU64,
}

/// All bans, by what they are asked by.
#[derive(Clone, Default)]
struct Index {
    bans: HashMap<Target, Ban>,
    /// The lengths that occur among networks; at most 33 + 129.
    lengths: Vec<(bool, u8)>,
}

impl Bans {
    /// Most bans at a time.
    pub const MOST: usize = 10_000;
    /// Most bytes of the file; reason and target of an operator fit many times.
    const MOST_BYTES: u64 = 64 << 20;

    /// No bans, and nothing kept over a restart.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::with(None, Index::default())
    }

    /// The bans of this file that have not expired; it is made with the first ban.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is not what [`add`](Self::add) wrote: then nothing may start,
    /// because somebody banned might get in.
    pub fn load(path: impl Into<PathBuf>, now: Now) -> Result<Self, BanError> {
        let path = path.into();
        let mut text = String::new();
        let read = File::open(&path)
            .and_then(|file| file.take(Self::MOST_BYTES).read_to_string(&mut text));
        let mut index = Index::default();
        match read {
            Ok(_) => {
                let broken = |reason: String| BanError::Broken {
                    path: path.clone(),
                    reason,
                };
                let file: BanFile =
                    serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
                if file.bans.len() > Self::MOST {
                    return Err(broken(format!("more than {} bans", Self::MOST)));
                }
                for raw in file.bans {
                    let ban = Ban::try_from(raw).map_err(|reason| broken(reason.to_owned()))?;
                    index.bans.insert(ban.target.clone(), ban);
                }
                index.tidy(now.wall);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(BanError::Broken {
                    path,
                    reason: "not text".to_owned(),
                });
            }
            Err(error) => return Err(BanError::Unreadable { path, error }),
        }
        Ok(Self::with(Some(path), index))
    }

    fn with(path: Option<PathBuf>, index: Index) -> Self {
        Self {
            shared: Arc::new(Shared {
                path,
                writing: Mutex::new(()),
                index: RwLock::new(Arc::new(index)),
                generation: AtomicU64::new(1),
                refused: AtomicU64::new(0),
            }),
        }
    }

    /// Bans a target, or replaces its ban. In force when this returns, whatever it returns but
    /// [`BanError::Full`] and [`BanError::Expired`].
    ///
    /// Writes a file and waits for the disk: not for threads that must not block.
    ///
    /// # Errors
    ///
    /// See [`BanError`].
    pub fn add(&self, ban: Ban, now: Now) -> Result<(), BanError> {
        if ban.until <= now.wall {
            return Err(BanError::Expired);
        }
        self.change(now, |index| {
            if index.bans.len() >= Self::MOST && !index.bans.contains_key(&ban.target) {
                return Err(BanError::Full);
            }
            index.bans.insert(ban.target.clone(), ban);
            Ok(true)
        })?;
        Ok(())
    }

    /// Lifts a ban; `false` where there is none. Writes a file, like [`add`](Self::add).
    ///
    /// # Errors
    ///
    /// [`BanError::NotSaved`]: lifted, but it will be back after a restart, until it expires.
    pub fn remove(&self, target: &Target, now: Now) -> Result<bool, BanError> {
        self.change(now, |index| Ok(index.bans.remove(target).is_some()))
    }

    /// The bans in force, those that end first in front.
    #[must_use]
    pub fn list(&self, now: Now) -> Vec<Ban> {
        let index = self.index();
        let mut bans: Vec<Ban> = index
            .bans
            .values()
            .filter(|ban| ban.until > now.wall)
            .cloned()
            .collect();
        bans.sort_by(|a, b| (a.until, &a.target).cmp(&(b.until, &b.target)));
        bans
    }

    /// How often somebody was refused by a ban.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    fn index(&self) -> Arc<Index> {
        Arc::clone(&self.shared.index.read())
    }

    fn change(
        &self,
        now: Now,
        edit: impl FnOnce(&mut Index) -> Result<bool, BanError>,
    ) -> Result<bool, BanError> {
        let _turn = self.shared.writing.lock();
        let mut index = Index::clone(&self.index());
        index.tidy(now.wall);
        if !edit(&mut index)? {
            return Ok(false);
        }
        index.tidy(now.wall);
        let index = Arc::new(index);
        *self.shared.index.write() = Arc::clone(&index);
        self.shared.generation.fetch_add(1, Ordering::Release);
        if let Some(path) = &self.shared.path {
            save(path, &index).map_err(|error| BanError::NotSaved {
                path: path.clone(),
                error,
            })?;
        }
        Ok(true)
    }

    /// A verdict where a ban speaks.
    fn judge(&self, ban: Option<&Ban>, code: ReasonCode) -> Verdict {
        let Some(ban) = ban else {
            return Verdict::Admit;
        };
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
        Verdict::Refuse {
            code,
            reason: format!("banned: {}: {}", ban.target, ban.reason),
            will: false,
        }
    }
}

impl Index {
    /// Forgets what has expired.
    fn tidy(&mut self, now: SystemTime) {
        self.bans.retain(|_, ban| ban.until > now);
        self.lengths = self
            .bans
            .keys()
            .filter_map(|target| match target {
                Target::Network(network) => Some((network.address.is_ipv4(), network.length)),
                Target::Principal(_) | Target::ClientId(_) => None,
            })
            .collect();
        self.lengths.sort_unstable();
        self.lengths.dedup();
    }

    fn of(&self, target: &Target, now: SystemTime) -> Option<&Ban> {
        self.bans.get(target).filter(|ban| ban.until > now)
    }

    fn address(&self, address: Option<IpAddr>, now: SystemTime) -> Option<&Ban> {
        let address = address?.to_canonical();
        self.lengths
            .iter()
            .filter(|(is_v4, _)| *is_v4 == address.is_ipv4())
            .filter_map(|(_, length)| Network::new(address, *length))
            .find_map(|network| self.of(&Target::Network(network), now))
    }

    fn client(&self, who: &Snapshot, now: SystemTime) -> Option<&Ban> {
        if self.bans.is_empty() {
            return None;
        }
        let principal = Target::Principal(who.principal().as_str().to_owned());
        self.of(&principal, now)
            .or_else(|| self.of(&Target::ClientId(who.client_id.to_string()), now))
            .or_else(|| self.address(who.address, now))
    }
}

impl Admission for Bans {
    fn name(&self) -> &'static str {
        "bans"
    }

    fn arrive(&self, arrival: &Arrival<'_>, now: Now) -> Verdict {
        self.judge(
            self.index().address(arrival.address, now.wall),
            ReasonCode::Banned,
        )
    }

    fn attempt(&self, arrival: &Arrival<'_>, _claimed: Option<&str>, now: Now) -> Verdict {
        // A claimed name is no proof; the address may have been banned since it arrived.
        self.judge(
            self.index().address(arrival.address, now.wall),
            ReasonCode::NotAuthorized,
        )
    }

    fn admit(&self, who: &Snapshot, now: Now) -> Verdict {
        self.judge(
            self.index().client(who, now.wall),
            ReasonCode::NotAuthorized,
        )
    }

    fn failed(&self, _arrival: &Arrival<'_>, _claimed: Option<&Principal>, _now: Now) {}

    fn watch(&self, _who: &Snapshot, _now: Now) -> Box<dyn Meter> {
        Box::new(NoMeter)
    }

    fn in_good_standing(&self, author: &Snapshot, now: Now) -> bool {
        self.index().client(author, now.wall).is_none()
    }

    fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }
}

/// Bans act when core asks again because the generation moved, not by traffic.
struct NoMeter;

impl Meter for NoMeter {
    fn batch(&mut self, _facts: &BatchFacts, _now: Now) -> Verdict {
        Verdict::Admit
    }
}

/// The file's shape.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BanFile {
    bans: Vec<RawBan>,
}

/// Times in milliseconds since the Unix epoch.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawBan {
    target: Target,
    reason: String,
    created: u64,
    until: u64,
}

impl TryFrom<RawBan> for Ban {
    type Error = &'static str;

    fn try_from(raw: RawBan) -> Result<Self, &'static str> {
        let time = |millis| {
            UNIX_EPOCH
                .checked_add(Duration::from_millis(millis))
                .ok_or("a time beyond the calendar")
        };
        Ok(Self {
            target: raw.target,
            reason: raw.reason,
            created: time(raw.created)?,
            until: time(raw.until)?,
        })
    }
}

/// Replaces the file as a whole: after a crash there is the old one or the new one.
fn save(path: &Path, index: &Index) -> io::Result<()> {
    let mut bans: Vec<RawBan> = index
        .bans
        .values()
        .map(|ban| RawBan {
            target: ban.target.clone(),
            reason: ban.reason.clone(),
            created: unix_millis(ban.created),
            until: unix_millis(ban.until),
        })
        .collect();
    bans.sort_by(|a, b| a.target.cmp(&b.target));
    let text = serde_json::to_vec_pretty(&BanFile { bans })?;
    let new = path.with_added_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        Some(_) | None => Ok(()),
    }
}
