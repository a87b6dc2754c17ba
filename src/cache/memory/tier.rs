//! Memory and disk together: what is stored is written through, what memory does not have is read back, once for all who ask
//! for it at the same time. An answer from disk gets into memory as one from an instance does: a purge meanwhile wins.
//! Not here: the files themselves (`disk`).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::HeaderName;
use http::header::{AGE, DATE, EXPIRES};
use pingora_cache::CacheKey;
use pingora_cache::key::HashBinary;
use tokio::time::timeout;

use super::{Cache, Place};
use crate::cache::disk::{Bounds, Disk, Found, Scanned};
use crate::cache::entry::{Entry, Family};
use crate::cache::explain::Stored;
use crate::cache::filling::Reservation;
use crate::cache::key::{self, KeyParts};
use crate::cache::range::Wanted;
use crate::cache::tags::Tags;
use crate::words::counted;

/// How long a request waits for the disk: a slower one is as good as none.
const LOADED_WITHIN: Duration = Duration::from_secs(1);

/// With a disk, these parts of the memory are its index and its queue.
const INDEX_PART: u64 = 8;
const QUEUE_PART: u64 = 8;

/// The bounds of a disk of so many bytes, and what is left of the memory for answers.
fn bounds(memory: u64, room: u64) -> (Bounds, u64) {
    let bounds = Bounds { room, index: memory / INDEX_PART, queue: memory / QUEUE_PART };
    (bounds, memory - bounds.index - bounds.queue)
}

impl Cache {
    /// Keeps answers in a folder, too; `memory` and `room` are bounds in bytes. What is in the folder is looked at in the
    /// background.
    ///
    /// # Errors
    /// The folder can't be made or written to.
    pub fn open_disk(&'static self, path: &Path, memory: u64, room: u64) -> Result<(), String> {
        let (bounds, left) = bounds(memory, room);
        let disk = Arc::new(Disk::open(path, bounds)?);
        if self.disk.set(Arc::clone(&disk)).is_err() {
            return Err(format!("cache.disk.path: this process has a folder already, not {}", path.display()));
        }
        self.resize(left);
        let thread = std::thread::Builder::new().name("cache-disk".to_owned());
        disk.asks_for_hits(move |primary, variance| self.hits(primary, variance));
        let run = move || disk.run(|scanned| self.admit(&disk, scanned));
        thread.spawn(run).map(drop).map_err(|error| format!("no thread for cache.disk: {error}"))
    }

    /// Changes the bounds: bytes of memory, and of files where there are any.
    pub fn bound(&self, memory: u64, room: Option<u64>) {
        match (self.disk.get(), room) {
            (Some(disk), Some(room)) => {
                let (bounds, left) = bounds(memory, room);
                disk.resize(bounds);
                self.resize(left);
            }
            _ => self.resize(memory),
        }
    }

    /// Where an answer is that is in memory.
    pub(in super::super) fn stored(&self, key: &[u8], variance: Option<HashBinary>) -> Stored {
        match self.disk.get() {
            Some(disk) if disk.has(&(key::hash(key), variance), false) => Stored::Both,
            _ => Stored::Memory,
        }
    }

    /// What the disk alone has of a URL, without bodies: each with the bytes of its file and of its body.
    pub(in super::super) fn only_on_disk(&self, host: &str, path_and_query: &str) -> Vec<(Family, u64, u64)> {
        let Some(disk) = self.disk.get() else { return Vec::new() };
        let url = self.url_of(host, path_and_query);
        let mut only_there = Vec::new();
        for primary in disk.of_url(url) {
            let in_memory = self.map.peek(&primary);
            for found in disk.find(&primary, None).into_iter().rev() {
                let is_there = |family: &Arc<Family>| family.find_exactly(found.variance).is_some();
                if in_memory.as_ref().is_some_and(is_there) {
                    continue;
                }
                // None where it went meanwhile, or is no answer.
                let Some((key, body_bytes, entry)) = disk.tell(&primary, &found) else { continue };
                let endpoint = KeyParts::read(&key).map_or_else(|| Arc::from(""), |parts| Arc::from(parts.endpoint));
                only_there.push((Family::of(url, endpoint, key, entry), found.bytes, body_bytes));
            }
        }
        only_there
    }

    /// Has what waits written to disk, and gives the folder up.
    pub fn close_disk(&self, deadline: Instant) {
        if let Some(disk) = self.disk.get() {
            let lost = disk.close(deadline);
            if lost > 0 {
                log::warn!("cache.disk: {} not written in time", counted(lost as u64, "answer"));
            }
        }
    }

    /// Whoever calls holds the stripe, so that the last answer stored is the last one written.
    pub(super) fn write_through(&self, place: &Place, entry: &Arc<Entry>) {
        if let Some(disk) = self.disk.get() {
            disk.store(place, entry);
        }
    }

    /// How often an answer was served that is in memory.
    fn hits(&self, primary: &HashBinary, variance: Option<HashBinary>) -> Option<u64> {
        let family = self.map.peek(primary)?;
        Some(family.find_exactly(variance)?.hits.load(Ordering::Relaxed))
    }

    /// Takes an answer in that an earlier process left; false where it is not wanted. A purge since the start of this process
    /// wins over it, and so does what memory has.
    fn admit(&self, disk: &Disk, scanned: Scanned) -> bool {
        let (primary, variance) = scanned.name;
        let key: Arc<[u8]> = Arc::from(scanned.key());
        let Some(parts) = KeyParts::read(&key) else { return false };
        let url = self.url(parts.host, parts.path, parts.query);
        let endpoint = Arc::from(parts.endpoint);
        let place = Place { primary, url, endpoint, key: Arc::clone(&key), tags: scanned.tags().clone(), stamp: 0 };
        let stripe = self.stripe(url).lock();
        let is_older = self.map.peek(&primary).is_some_and(|family| family.find_exactly(variance).is_some());
        if is_older || self.is_purged(&stripe, &place) {
            return false;
        }
        disk.take_in(scanned, url);
        true
    }

    /// Looks on disk for what memory does not have: a family with the asked variant, or with all of them where none is asked
    /// for. What is there is whole.
    pub(in super::super) async fn load_from_disk(
        &'static self,
        key: &CacheKey,
        primary: HashBinary,
        variance: Option<HashBinary>,
        wanted: Option<Wanted>,
    ) -> Option<Arc<Family>> {
        let disk = self.disk.get()?;
        if !disk.has(&(primary, variance), variance.is_none()) {
            return None;
        }
        let turn = timeout(LOADED_WITHIN, disk.turn(&primary).acquire_owned()).await.ok()?.ok()?;
        // Whoever had the turn before may have found it for all.
        let has = |family: &Arc<Family>| family.find(variance, wanted).is_some();
        if let Some(family) = self.find(&primary).filter(has) {
            disk.is_hit();
            return Some(family);
        }
        let key: Arc<[u8]> = Arc::from(key.primary_key());
        let load = tokio::task::spawn_blocking(move || {
            // Kept although nobody may wait for it any more: a disk that hangs is not asked for the same again and again.
            let _turn = turn;
            self.load(disk, key, primary, variance)
        });
        let family = timeout(LOADED_WITHIN, load).await.ok()?.ok()?.filter(has)?;
        disk.is_hit();
        Some(family)
    }

    fn load(
        &'static self,
        disk: &Disk,
        key: Arc<[u8]>,
        primary: HashBinary,
        variance: Option<HashBinary>,
    ) -> Option<Arc<Family>> {
        // Before it is found: a purge after this wins. One that has begun may not have come as far as what would be found.
        let stamp = self.stamp();
        if disk.is_purging() {
            return None;
        }
        let parts = KeyParts::read(&key)?;
        let url = self.url(parts.host, parts.path, parts.query);
        let endpoint = Arc::from(parts.endpoint);
        let mut found = disk.find(&primary, variance);
        if let Some(family) = self.map.peek(&primary) {
            // What memory has is newer, be it only in parts.
            found.retain(|found| family.find_exactly(found.variance).is_none());
        }
        let bytes = keep_what_fits(&mut found, self.weight_max());
        let _room = Reservation::of(self, bytes)?;
        let read = |found: Found| {
            let entry = match &found.queued {
                Some(entry) => Arc::clone(entry),
                None => Arc::new(disk.read(&primary, &found, &key)?),
            };
            Some((found, entry))
        };
        let loaded: Vec<(Found, Arc<Entry>)> = found.into_iter().filter_map(read).collect();
        let tags = Tags::of(loaded.iter().flat_map(|(_, entry)| entry.tags.iter()).collect());
        let place = Place { primary, url, endpoint, key, tags, stamp };
        self.take_in(disk, &place, loaded, variance.is_some())
    }

    /// Puts what was read into memory, beside what is there, which is newer.
    fn take_in(&self, disk: &Disk, place: &Place, loaded: Vec<(Found, Arc<Entry>)>, last: bool) -> Option<Arc<Family>> {
        let weight_max = self.weight_max();
        self.change(place, |before| {
            let current = loaded.into_iter().filter_map(|(found, entry)| {
                let stale_since = disk.is_current(&place.primary, &found)?;
                entry.set_stale_since(stale_since);
                Some(entry)
            });
            let mut current: Vec<Arc<Entry>> = current.filter(|entry| entry.weight <= weight_max).collect();
            let family = match before {
                Some(family) => family.with_found(current, last, weight_max),
                None => {
                    let newest = current.pop()?;
                    let family = Family::of(place.url, Arc::clone(&place.endpoint), Arc::clone(&place.key), newest);
                    family.with_found(current, false, weight_max)
                }
            };
            // It is there.
            Some((family, None))
        })
    }
}

/// Whether what is on disk of `before` does for `now`, which confirmed it: no fresher than before, as it is confirmed at each
/// use, it would be written at each use. Fields that tell nothing but times come anew with the next confirmation.
pub(super) fn is_known_as(now: &Entry, before: &Entry) -> bool {
    let (one, other) = (&now.head.headers, &before.head.headers);
    let is_equal = |name: &HeaderName| [DATE, AGE, EXPIRES].contains(name) || one.get_all(name) == other.get_all(name);
    now.is_always_confirmed()
        && before.is_always_confirmed()
        && now.tags == before.tags
        && now.stale_seconds == before.stale_seconds
        && one.keys_len() == other.keys_len()
        && one.keys().all(is_equal)
}

/// The newest that fit together; the bytes that they take.
fn keep_what_fits(found: &mut Vec<Found>, bytes_max: u64) -> u64 {
    // One that memory has no room for alone is never read.
    found.retain(|found| found.bytes <= bytes_max);
    let mut bytes = 0;
    let fits = found.iter().rev().take_while(|found| {
        bytes += found.bytes;
        bytes <= bytes_max
    });
    let count = fits.count();
    found.drain(..found.len() - count);
    found.iter().map(|found| found.bytes).sum()
}
