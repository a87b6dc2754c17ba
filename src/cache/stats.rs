//! What the store counts, and what it tells about itself.
//! Counts are since process start and never fall. Not here: the exchanges, which are counted by their records (`metrics.rs`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::disk::DiskStats;
use super::freshness::Unstorable;
use super::memory::Cache;

/// Upper bounds of ages, in seconds: 1 s to a week.
const AGES: [u64; 9] = [1, 10, 60, 300, 1_800, 3_600, 21_600, 86_400, 604_800];

/// What is counted as it happens.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) entries: AtomicU64,
    pub(super) stored: AtomicU64,
    pub(super) gone: AtomicU64,
    pub(super) replaced: AtomicU64,
    pub(super) purged: AtomicU64,
    pub(super) filling: AtomicU64,
    pub(super) dropped_too_large: AtomicU64,
    pub(super) dropped_no_room: AtomicU64,
    pub(super) dropped_cleared: AtomicU64,
    pub(super) dropped_truncated: AtomicU64,
    pub(super) at_hand: AtomicU64,
    /// In the order of [`Unstorable::ALL`].
    refused: [AtomicU64; 16],
    /// In the order of [`AGES`], and those beyond.
    ages: [AtomicU64; 10],
    age_seconds: AtomicU64,
}

/// How old answers were when they were served.
#[derive(Clone, Debug, Default)]
pub struct Ages {
    /// Upper bound in seconds, and answers that were at most so old.
    pub buckets: Vec<(f64, u64)>,
    /// All answers, and the sum of their ages in seconds.
    pub sum: (u64, f64),
}

impl Cache {
    /// Counts an answer that is not stored.
    pub fn refuses(&self, why: Unstorable) {
        self.counts.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answer of this age that is served.
    pub fn serves(&self, age: Duration) {
        let bucket = AGES.partition_point(|bound| *bound < age.as_secs());
        self.counts.ages[bucket].fetch_add(1, Ordering::Relaxed);
        self.counts.age_seconds.fetch_add(age.as_secs(), Ordering::Relaxed);
    }

    /// Counts an answer of this age that is served without Pingora's phases.
    pub fn serves_at_hand(&self, age: Duration) {
        self.serves(age);
        self.counts.at_hand.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers that were not stored, by why; also those that went wrong after they had begun.
    pub fn refused(&self) -> Vec<(&'static str, u64)> {
        let stats = self.stats();
        let refused = Unstorable::ALL.iter().zip(&self.counts.refused);
        let refused = refused.map(|(why, count)| (why.as_str(), count.load(Ordering::Relaxed)));
        let dropped = [
            ("dropped_too_large", stats.dropped_too_large),
            ("dropped_no_room", stats.dropped_no_room),
            ("dropped_purged", stats.dropped_cleared),
            ("dropped_truncated", stats.dropped_truncated),
        ];
        refused.chain(dropped).collect()
    }

    /// How old answers were when they were served.
    pub fn ages(&self) -> Ages {
        let mut count = 0;
        let counts: Vec<u64> = self.counts.ages.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let buckets = AGES.iter().zip(&counts).map(|(bound, bucket)| {
            count += bucket;
            (*bound as f64, count)
        });
        let buckets = buckets.collect();
        let seconds = self.counts.age_seconds.load(Ordering::Relaxed) as f64;
        Ages { buckets, sum: (counts.iter().sum(), seconds) }
    }
}

/// The state of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Stored answers, each variant for itself.
    pub entries: u64,
    /// Keys that they have: answers of one key are variants of each other.
    pub keys: u64,
    /// Bytes held: bodies, headers, keys and overhead.
    pub bytes: u64,
    /// `bytes` is never more.
    pub bytes_max: u64,
    /// Bytes of answers that are being received, on top of `bytes`.
    pub filling_bytes: u64,
    /// Nothing more is received to be stored from here on; what passes by without being stored counts, too, and may be more.
    pub filling_bytes_max: u64,
    /// Answers stored since start.
    pub stored: u64,
    /// Answers that went to make room, since start.
    pub evictions: u64,
    /// Answers that were purged, since start.
    pub purged: u64,
    /// Answers not stored because they grew over the route's `body_max`, since start.
    pub dropped_too_large: u64,
    /// Answers not stored because too many were being received at once, since start.
    pub dropped_no_room: u64,
    /// Answers not stored because they were purged meanwhile, since start.
    pub dropped_cleared: u64,
    /// Answers not stored because they did not arrive whole, since start.
    pub dropped_truncated: u64,
    /// Answers served by the front, without Pingora's phases, since start.
    pub at_hand: u64,
    /// The second tier; none where there is none.
    pub disk: Option<DiskStats>,
}
