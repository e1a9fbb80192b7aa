//! One segment while it is written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Key;
use super::disk::{Disk, DiskFile, is_full, segment_path, write_all};
use super::format::{BATCH, BatchHeader, Codec, Header};

/// Where and how segments of a store are made.
pub(super) struct Place {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) store: [u8; 16],
    pub(super) key: Option<Key>,
}

/// A segment that is written to.
pub(super) struct Segment {
    number: u64,
    file: Box<dyn DiskFile>,
    codec: Codec,
    length: u64,
    synced: u64,
    /// Groups sealed so far.
    sealed: u64,
    /// Groups written so far.
    written: u64,
}

impl Place {
    /// Makes a segment. When this returns, it is on the disk under its name and empty, or not at
    /// all: a header is never torn. Where the disk is full, `wait` is asked.
    pub(super) fn create(
        &self,
        number: u64,
        base: u64,
        wait: &mut dyn FnMut() -> bool,
    ) -> io::Result<Segment> {
        let path = segment_path(&self.dir, number);
        let fresh = path.with_extension("log.new");
        let (mut file, codec, length) = loop {
            match self.write_fresh(&fresh, number, base) {
                Err(error) if is_full(&error) && wait() => {}
                other => break other?,
            }
        };
        file.sync()?;
        self.disk.rename(&fresh, &path)?;
        self.disk.sync_dir(&self.dir)?;
        Ok(Segment {
            number,
            file,
            codec,
            length,
            synced: length,
            sealed: 0,
            written: 0,
        })
    }

    /// Each attempt has a salt of its own, so that no key is used for two files.
    fn write_fresh(
        &self,
        fresh: &Path,
        number: u64,
        base: u64,
    ) -> io::Result<(Box<dyn DiskFile>, Codec, u64)> {
        let salt = random()?;
        let header = Header::new(number, base, self.store, salt, self.key.as_ref());
        let (header, codec) = header.ok_or_else(|| io::Error::other("no cipher"))?;
        let preamble = header.preamble();
        let mut file = self.disk.create(fresh)?;
        write_all(&mut *file, &preamble, &mut || false)?;
        Ok((file, codec, preamble.len() as u64))
    }
}

/// Sixteen bytes from the operating system.
pub(super) fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

impl Segment {
    /// A segment that was read to `length` and cut there, so that it can be finished.
    pub(super) fn resumed(
        number: u64,
        file: Box<dyn DiskFile>,
        codec: Codec,
        length: u64,
        groups: u64,
    ) -> Self {
        Self {
            number,
            file,
            codec,
            length,
            synced: 0,
            sealed: groups,
            written: groups,
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Bytes in the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether no group was put into it.
    pub(super) fn is_empty(&self) -> bool {
        self.sealed == 0
    }

    /// Makes the group at the front of `bytes` ready to be written, and says where it ends.
    pub(super) fn seal(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let end = self.codec.seal(self.sealed, bytes);
        let end = end.ok_or_else(|| io::Error::other("a group in the buffer is not whole"))?;
        self.sealed += 1;
        Ok(end)
    }

    /// Writes sealed groups with one call. `batch` begins with [`BATCH`] bytes that are free to be
    /// overwritten.
    pub(super) fn write(
        &mut self,
        batch: &mut [u8],
        wait: &mut dyn FnMut() -> bool,
    ) -> io::Result<()> {
        let length = u32::try_from(batch.len().saturating_sub(BATCH));
        let header = self.codec.batch(BatchHeader {
            first: self.written,
            synced: self.synced,
            length: length.map_err(io::Error::other)?,
        });
        let place = batch.first_chunk_mut::<BATCH>();
        *place.ok_or_else(|| io::Error::other("no room for the header of a batch"))? = header;
        write_all(&mut *self.file, batch, wait)?;
        self.length += batch.len() as u64;
        self.written = self.sealed;
        Ok(())
    }

    /// Returns when all that was written is on the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.synced < self.length {
            self.file.sync()?;
            self.synced = self.length;
        }
        Ok(())
    }

    /// Syncs, writes the mark that nothing follows, and syncs that.
    pub(super) fn finish(&mut self, wait: &mut dyn FnMut() -> bool) -> io::Result<()> {
        self.sync()?;
        self.write(&mut [0; BATCH], wait)?;
        self.sync()
    }
}
