//! Reads stored answers back. Whatever is not exactly as it was written is a miss: counted, and its file removed.
//! Not here: what is done with them (`memory/tier.rs`).

use std::fs::File;
use std::io::{BufReader, Error, ErrorKind};
use std::sync::Arc;

use pingora_cache::key::HashBinary;
use tokio::sync::Semaphore;

use super::super::entry::Entry;
use super::file::{self, Damage, Kept};
use super::folder::Name;
use super::{Disk, TURNS, count};

/// An answer that is here.
pub(in super::super) struct Found {
    pub(in super::super) variance: Option<HashBinary>,
    /// Grows with each write.
    pub(in super::super) version: u64,
    /// Bytes that it takes in memory, about.
    pub(in super::super) bytes: u64,
    /// Where it is not on disk yet.
    pub(in super::super) queued: Option<Arc<Entry>>,
}

impl Disk {
    /// Whose turn it is among those who wait for a key.
    pub(in super::super) fn turn(&self, primary: &HashBinary) -> Arc<Semaphore> {
        Arc::clone(&self.turns[usize::from(primary[0]) % TURNS])
    }

    /// The variants of a key, or one of them; the newest comes last. Notes that they are used.
    pub(in super::super) fn find(&self, primary: &HashBinary, variance: Option<HashBinary>) -> Vec<Found> {
        let mut state = self.state.lock();
        let is_asked = |other: Option<HashBinary>| variance.is_none() || variance == other;
        let jobs = state.queue.family(primary).filter(|job| is_asked(job.entry.variance));
        let mut found: Vec<Found> = jobs
            .map(|job| Found {
                variance: job.entry.variance,
                version: job.version,
                bytes: job.entry.weight,
                queued: Some(Arc::clone(&job.entry)),
            })
            .collect();
        state.index.change_family(primary, |record| {
            if is_asked(record.variance) && !found.iter().any(|other| other.variance == record.variance) {
                record.is_used = true;
                let (variance, version, bytes) = (record.variance, record.version, u64::from(record.room));
                found.push(Found { variance, version, bytes, queued: None });
            }
        });
        found.sort_unstable_by_key(|found| found.version);
        found
    }

    /// Whether what was found is still the newest that there is of it; says since when a purge made it stale.
    pub(in super::super) fn is_current(&self, primary: &HashBinary, found: &Found) -> Option<u64> {
        let state = self.state.lock();
        let name = (*primary, found.variance);
        match (state.queue.find(&name), state.index.find(&name)) {
            (Some(job), _) => (job.version == found.version).then(|| job.entry.stale_since()),
            (None, Some(record)) => (record.version == found.version).then_some(record.stale_since),
            (None, None) => None,
        }
    }

    /// Reads an answer that was found. Waits for the disk: not for a thread that serves.
    pub(in super::super) fn read(&self, primary: &HashBinary, found: &Found, key: &[u8]) -> Option<Entry> {
        let with_body = |mut file: BufReader<File>, kept: Kept| match *kept.key == *key {
            true => kept.with_body(&mut file),
            false => Err(Damage::Wrong),
        };
        let entry = self.open_file(&(*primary, found.variance), found.version, with_body)?;
        count(&self.counts.loads);
        Some(entry)
    }

    /// Reads what is known of an answer without its body: its key, the length of its body in bytes, and the rest of it.
    pub(in super::super) fn tell(&self, primary: &HashBinary, found: &Found) -> Option<(Arc<[u8]>, u64, Arc<Entry>)> {
        if let Some(entry) = &found.queued {
            let key = self.state.lock().queue.find(&(*primary, found.variance)).map(|job| Arc::clone(&job.key))?;
            return Some((key, entry.body.length as u64, Arc::clone(entry)));
        }
        self.open_file(&(*primary, found.variance), found.version, |_, kept| {
            let (key, body_bytes) = (Arc::from(&*kept.key), kept.body_bytes);
            Ok((key, body_bytes, Arc::new(kept.without_body())))
        })
    }

    /// Reads a file up to its body, and the rest by `read`.
    fn open_file<T>(
        &self,
        name: &Name,
        version: u64,
        read: impl FnOnce(BufReader<File>, Kept) -> Result<T, Damage>,
    ) -> Option<T> {
        let opened = match self.folder.open_file(name) {
            Ok(file) => head(file),
            // Someone else took it away.
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Damage::Wrong),
            Err(error) => Err(Damage::Unread(error)),
        };
        let read = match opened {
            // It was replaced a moment ago.
            Ok((_, kept)) if kept.version != version => return None,
            Ok((_, kept)) if kept.terms.variance != name.1 => Err(Damage::Wrong),
            Ok((file, kept)) => read(file, kept),
            Err(damage) => Err(damage),
        };
        read.map_err(|damage| self.is_damaged(name, version, &damage)).ok()
    }

    /// Counts a file that is no answer, and has it removed where it still is what was looked at. One that can't be read now may
    /// be read later: files may all be open, or a disk away.
    fn is_damaged(&self, name: &Name, version: u64, damage: &Damage) {
        if let Damage::Unread(error) = damage {
            return self.fails("read", error);
        }
        let mut state = self.state.lock();
        // Or it was removed or replaced while it was read.
        if state.index.find(name).is_some_and(|record| record.version == version) {
            count(&self.counts.corrupt);
            state.forget(name);
        }
        drop(state);
        self.work.notify_one();
    }

    /// Counts what the file system refused.
    pub(super) fn fails(&self, what: &str, error: &Error) {
        count(&self.counts.errors);
        if let Some(silent) = self.faults.may_speak() {
            let more = if silent > 0 { format!(" ({silent} more since the last time)") } else { String::new() };
            let folder = self.folder.path().display();
            log::warn!("cache.disk.path: a file in {folder} can't be {what}: {error}; requests go on without it{more}");
        }
    }
}

/// Reads all but the body.
///
/// # Errors
/// It is not what was written.
pub(super) fn head(file: File) -> Result<(BufReader<File>, Kept), Damage> {
    let mut file = BufReader::new(file);
    let length = file.get_ref().metadata()?.len();
    let kept = file::read_head(&mut file, length)?;
    Ok((file, kept))
}
