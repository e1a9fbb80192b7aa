//! Revocation lists from `crl-url`: fetched in the background, checked like those from files.
//!
//! Only configured addresses are asked, never one that a certificate names. Plain HTTP is good
//! enough, since a list is signed; but a list older than the one that is there is refused, so that
//! nobody on the way can bring back a certificate by sending last week's list. While a server does
//! not answer the last list counts until its `nextUpdate` and `crl-grace`; before the first answer
//! the certificates of its CA are refused.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use hyper::body::Bytes;
use parking_lot::Mutex;

use crate::crl::{Authorities, Lists};
use crate::fetch::{Ask, Client};
use crate::remote::Schedule;
use crate::{Connection, Error, Url};

/// Largest list, in bytes: some eight hundred thousand entries.
const MAX_ANSWER: usize = 32 << 20;
/// Least time between two requests.
const FLOOR: Duration = Duration::from_secs(30);
/// Large lists take their time.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One address.
pub(crate) struct RemoteList {
    url: Url,
    refresh: Duration,
    client: Client,
    schedule: Mutex<Schedule>,
    fetching: tokio::sync::Mutex<()>,
    found: ArcSwapOption<Found>,
}

struct Found {
    bytes: Bytes,
    made: SystemTime,
    lists: Lists,
}

impl RemoteList {
    /// # Errors
    ///
    /// A broken file of the connection.
    pub(crate) fn new(url: &Url, ca: Option<&Path>, refresh: Duration) -> Result<Self, Error> {
        let connection = Connection {
            ca: ca.map(Path::to_owned),
            identity: None,
            timeout: TIMEOUT,
        };
        Ok(Self {
            url: url.clone(),
            refresh,
            client: Client::new(&connection, url)?,
            schedule: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            found: ArcSwapOption::empty(),
        })
    }

    /// The address.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// What the list says, if there is one.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&Lists) -> T) -> Option<T> {
        self.found.load().as_ref().map(|found| look(&found.lists))
    }

    /// Takes over what `old` has fetched, if it is signed by one of these CAs.
    pub(crate) fn inherit(&self, old: &Self, authorities: &Authorities<'_>) {
        if let Some(found) = old.found.load_full()
            && let Ok(found) = self.read(found.bytes.clone(), authorities, found.made)
        {
            self.found.store(Some(Arc::new(found)));
        }
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.schedule.lock().is_due(now, self.refresh, FLOOR)
    }

    /// Asks for the list if it is time.
    ///
    /// # Errors
    ///
    /// No answer.
    pub(crate) async fn fetch(&self, now: Instant) -> Result<Option<Bytes>, String> {
        let _fetching = self.fetching.lock().await;
        if !self.is_due(now) {
            return Ok(None);
        }
        self.schedule.lock().tried(now);
        let ask = Ask {
            url: &self.url,
            accept: "application/pkix-crl, */*",
            content: None,
            authorization: None,
            limit: MAX_ANSWER,
        };
        let sent = self.client.send(ask).await;
        if sent.is_err() {
            self.schedule.lock().ended(false);
        }
        sent.map(Some).map_err(|failure| failure.to_string())
    }

    /// Takes what was fetched. Gives whether it is another list than the one before.
    ///
    /// # Errors
    ///
    /// No list that counts; the old one stays.
    pub(crate) fn take(
        &self,
        bytes: Bytes,
        authorities: &Authorities<'_>,
        now: SystemTime,
    ) -> Result<bool, String> {
        let taken = self.replace(bytes, authorities, now);
        self.schedule.lock().ended(taken.is_ok());
        taken
    }

    fn replace(
        &self,
        bytes: Bytes,
        authorities: &Authorities<'_>,
        now: SystemTime,
    ) -> Result<bool, String> {
        let old = self.found.load_full();
        if old.as_ref().is_some_and(|old| old.bytes == bytes) {
            return Ok(false);
        }
        let found = self
            .read(bytes, authorities, now)
            .map_err(|error| error.to_string())?;
        if let Some(old) = old
            && found.lists.made() < old.lists.made()
        {
            return Err(format!(
                "{}: the list is older than the one that was there before; it is not taken",
                self.url
            ));
        }
        self.found.store(Some(Arc::new(found)));
        Ok(true)
    }

    fn read(
        &self,
        bytes: Bytes,
        authorities: &Authorities<'_>,
        now: SystemTime,
    ) -> Result<Found, Error> {
        let (lists, warnings) =
            Lists::parse(Path::new(self.url.as_str()), &bytes, authorities, now)?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        Ok(Found {
            bytes,
            made: now,
            lists,
        })
    }
}
