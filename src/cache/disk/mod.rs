//! The cache's second tier: stored answers in files, so that a restart begins warm, however the process ended.
//! Each answer is written when it is stored, by one thread (`writer.rs`), which alone makes, replaces and removes files; what
//! is to be written waits in a bounded queue (`queue.rs`), what is there stands in a bounded index (`index.rs`). A request
//! waits for a file only where memory has no answer and the index has (`read.rs`), and never for long.
//! Invariants: what is purged is in neither queue nor index any more, and its file is gone when the purge says that it is over;
//! files never take more than their bound; the lock on queue and index is held for a page of records (or the variants of a key)
//! at a time, however many there are; whatever goes wrong with files costs a miss and is counted.
//! Not here: when answers are looked for, stored and purged (`memory.rs`).

mod file;
mod folder;
mod index;
mod purging;
mod queue;
mod read;
mod scan;
mod stats;
mod writer;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use pingora_cache::key::HashBinary;
use smallvec::SmallVec;
use tokio::sync::Semaphore;

use self::folder::{Folder, Name};
use self::index::Index;
use self::queue::{Chore, Job, Queue};
use self::stats::{Counts, Faults};
use super::entry::{Entry, VARIANTS_MAX};
use super::memory::Place;

pub use self::folder::usable;
pub(super) use self::read::Found;
pub(super) use self::scan::Scanned;
pub use self::stats::DiskStats;

/// Requests that wait for files at once: each key has its turn among these.
const TURNS: usize = 64;

/// One answer takes at most this part of the disk, or it would push out too much.
const PART_OF_ONE: u64 = 8;

/// Bounds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Of files.
    pub(super) room: u64,
    /// Of memory for the index.
    pub(super) index: u64,
    /// Of memory for answers that wait to be written.
    pub(super) queue: u64,
}

/// How far the folder is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Another process has it.
    Waiting,
    /// What earlier processes left is being looked at.
    Scanning,
    Open,
    Closed,
}

/// How often memory has served an answer; none where it does not have it.
type HitsOf = dyn Fn(&HashBinary, Option<HashBinary>) -> Option<u64> + Send + Sync;

/// Stored answers in a folder.
pub(super) struct Disk {
    folder: Folder,
    lock: File,
    state: Mutex<State>,
    /// There is something to do.
    work: Condvar,
    /// Something was done.
    done: Condvar,
    /// Purges that look for what they purge.
    hits: OnceLock<Box<HitsOf>>,
    purging: AtomicUsize,
    turns: [Arc<Semaphore>; TURNS],
    counts: Counts,
    faults: Faults,
}

struct State {
    index: Index,
    queue: Queue,
    bounds: Bounds,
    phase: Phase,
    /// Nothing more is taken; what waits is written.
    closing: bool,
    version: u64,
}

impl Disk {
    /// Makes the folder where it is missing. Nothing is done with it before [`Self::run`].
    ///
    /// # Errors
    /// It can't be made or written to.
    pub(super) fn open(path: &Path, bounds: Bounds) -> Result<Self, String> {
        let (folder, lock) = Folder::open(path)?;
        let state = State {
            index: Index::default(),
            queue: Queue::default(),
            bounds,
            phase: Phase::Waiting,
            closing: false,
            version: 0,
        };
        Ok(Self {
            folder,
            lock,
            state: Mutex::new(state),
            work: Condvar::new(),
            done: Condvar::new(),
            purging: AtomicUsize::new(0),
            hits: OnceLock::new(),
            turns: std::array::from_fn(|_| Arc::new(Semaphore::new(1))),
            counts: Counts::default(),
            faults: Faults::default(),
        })
    }

    /// How it learns how often memory has served what it has, too.
    pub(super) fn asks_for_hits(
        &self,
        hits: impl Fn(&HashBinary, Option<HashBinary>) -> Option<u64> + Send + Sync + 'static,
    ) {
        // Set once: a disk has one memory.
        let _ = self.hits.set(Box::new(hits));
    }

    /// Changes the bounds; what no longer fits goes soon.
    pub(super) fn resize(&self, bounds: Bounds) {
        self.state.lock().bounds = bounds;
        self.work.notify_one();
    }

    /// Takes an answer to be written. Never waits: where there is no room, what was there of it before goes, too.
    pub(super) fn store(&self, place: &Place, entry: &Arc<Entry>) {
        let mut state = self.state.lock();
        if state.closing || state.phase == Phase::Closed {
            return;
        }
        let (name, version) = ((place.primary, entry.variance), state.next_version());
        state.make_way(&name, file::fields_of(entry.selected.as_deref()));
        let job = Job { entry: Arc::clone(entry), key: Arc::clone(&place.key), url: place.url, version };
        let before = state.queue.find(&name).map_or(0, Job::cost);
        // Answers of which only parts are stored are for memory alone.
        let is_whole = entry.body.is_whole();
        let fits = is_whole
            && state.queue.cost - before + job.cost() <= state.bounds.queue
            && entry.weight <= (state.bounds.room / PART_OF_ONE).min(u64::from(u32::MAX / 2));
        if fits {
            state.queue.put(name, job);
        } else {
            self.counts.dropped.fetch_add(u64::from(is_whole), Ordering::Relaxed);
            // What is there is older than what memory has now: it must not come back.
            state.forget(&name);
        }
        drop(state);
        self.work.notify_one();
    }

    /// Whether something of this key is here.
    pub(super) fn has(&self, name: &Name, any_variant: bool) -> bool {
        let state = self.state.lock();
        match any_variant {
            true => state.index.has(&name.0) || state.queue.family(&name.0).next().is_some(),
            false => state.index.find(name).is_some() || state.queue.find(name).is_some(),
        }
    }

    /// Whether a purge is looking for what it purges: nothing may be found meanwhile.
    pub(super) fn is_purging(&self) -> bool {
        self.purging.load(Ordering::SeqCst) > 0
    }

    /// Writes what waits, and gives the folder up; how many answers were not written in time.
    pub(super) fn close(&self, deadline: Instant) -> usize {
        let mut state = self.state.lock();
        state.closing = true;
        self.work.notify_one();
        while state.phase != Phase::Closed {
            if self.done.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.queue.len()
    }
}

impl State {
    /// The clock's microseconds, so that what a later process writes is newer; each is larger than the one before.
    fn next_version(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.version = u64::try_from(now.as_micros()).unwrap_or(u64::MAX).max(self.version + 1);
        self.version
    }

    /// Whether files may be touched.
    fn has_folder(&self) -> bool {
        matches!(self.phase, Phase::Scanning | Phase::Open)
    }

    /// Takes a file out of queue and index, and has it removed.
    fn forget(&mut self, name: &Name) {
        let was_queued = self.queue.forget(name).is_some();
        let was_there = self.index.remove(name).is_some();
        if (was_queued || was_there) && self.has_folder() {
            // Also where it only waited: it may be half written.
            self.queue.ask(Chore::Remove(*name));
        }
    }

    /// What gives way to a new answer: variants told apart by other fields, as in memory, and the oldest of too many.
    fn make_way(&mut self, name: &Name, fields: u32) {
        let mut gone: SmallVec<[Name; 4]> = SmallVec::new();
        let mut alike: SmallVec<[(u64, Name); 4]> = SmallVec::new();
        let records = self.index.family(&name.0).map(|record| (record.name(), record.fields, record.version));
        let jobs = self
            .queue
            .family(&name.0)
            .map(|job| ((name.0, job.entry.variance), file::fields_of(job.entry.selected.as_deref()), job.version));
        for (other, other_fields, version) in records.chain(jobs).filter(|(other, ..)| other != name) {
            match other_fields == fields {
                true => alike.push((version, other)),
                false => gone.push(other),
            }
        }
        alike.sort_unstable();
        alike.dedup_by_key(|(_, other)| *other);
        let too_many = (alike.len() + 1).saturating_sub(VARIANTS_MAX);
        gone.extend(alike.iter().take(too_many).map(|(_, other)| *other));
        gone.iter().for_each(|other| self.forget(other));
    }

    /// The variants of a key, each once, and whether it is fresh; what waits is newer than what is there.
    fn variants(&self, primary: &HashBinary, now: SystemTime) -> SmallVec<[(Option<HashBinary>, bool); 4]> {
        let jobs = self.queue.family(primary);
        let mut found: SmallVec<[_; 4]> =
            jobs.map(|job| (job.entry.variance, job.entry.fresh_until() >= now)).collect();
        for record in self.index.family(primary) {
            if !found.iter().any(|(variance, _)| *variance == record.variance) {
                found.push((record.variance, record.is_fresh(now)));
            }
        }
        found
    }

    fn is_over_its_bounds(&self, more: u64) -> bool {
        self.index.room + more > self.bounds.room || self.index.cost > self.bounds.index
    }
}

/// Adds to a counter.
fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
