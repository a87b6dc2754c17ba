//! What is counted of the disk, and what is told about it. Counts are since process start and never fall.
//! Not here: series and JSON (`metrics/cache.rs`, `admin/cached.rs`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Disk, Phase};

/// How often faults are said at most.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// What is counted as it happens.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) hits: AtomicU64,
    pub(super) loads: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) corrupt: AtomicU64,
    pub(super) evictions: AtomicU64,
    pub(super) errors: AtomicU64,
}

/// When something was said last, and how many times nothing was said since.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<(Option<Instant>, u64)>);

impl Faults {
    /// Whether it is time to say something: how often nothing was said since the last time.
    pub(super) fn may_speak(&self) -> Option<u64> {
        let mut said = self.0.lock();
        if said.0.is_some_and(|last| last.elapsed() < SAID_EVERY) {
            said.1 += 1;
            return None;
        }
        said.0 = Some(Instant::now());
        Some(std::mem::take(&mut said.1))
    }
}

/// The state of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// `waiting` (another process has the folder), `scanning`, `open` or `closed`.
    pub state: &'static str,
    /// Answers in files, each variant for itself.
    pub entries: u64,
    /// Bytes of their files, in whole blocks.
    pub bytes: u64,
    /// `bytes` is never more.
    pub bytes_max: u64,
    /// Bytes of memory that the index takes, and their bound.
    pub index_bytes: u64,
    /// `index_bytes` is never more.
    pub index_bytes_max: u64,
    /// Answers that wait to be written.
    pub queued: u64,
    /// Bytes of memory that they take.
    pub queued_bytes: u64,
    /// `queued_bytes` is never more.
    pub queued_bytes_max: u64,
    /// Requests for which an answer came from here that memory did not have.
    pub hits: u64,
    /// Files that were read.
    pub loads: u64,
    /// Files that were written.
    pub writes: u64,
    /// Answers that were not written: the queue was full, they are too large, or the file system refused them.
    pub dropped: u64,
    /// Files that were not as they had been written; they were removed.
    pub corrupt: u64,
    /// Files that went to make room.
    pub evictions: u64,
    /// What the file system refused.
    pub errors: u64,
}

impl Disk {
    /// A request got an answer from here.
    pub(in super::super) fn is_hit(&self) {
        super::count(&self.counts.hits);
    }

    /// A snapshot of sizes and counts.
    pub(in super::super) fn stats(&self) -> DiskStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let state = self.state.lock();
        DiskStats {
            state: match state.phase {
                Phase::Waiting => "waiting",
                Phase::Scanning => "scanning",
                Phase::Open => "open",
                Phase::Closed => "closed",
            },
            entries: state.index.len() as u64,
            bytes: state.index.room,
            bytes_max: state.bounds.room,
            index_bytes: state.index.cost,
            index_bytes_max: state.bounds.index,
            queued: state.queue.len() as u64,
            queued_bytes: state.queue.cost,
            queued_bytes_max: state.bounds.queue,
            hits: count(&self.counts.hits),
            loads: count(&self.counts.loads),
            writes: count(&self.counts.writes),
            dropped: count(&self.counts.dropped),
            corrupt: count(&self.counts.corrupt),
            evictions: count(&self.counts.evictions),
            errors: count(&self.counts.errors),
        }
    }
}
