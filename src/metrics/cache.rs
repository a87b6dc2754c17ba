//! The series of the cache's store, read at scrape time: what it holds, what it did not take, how old its answers are.
//! Not here: what the cache did for each exchange (`metrics.rs`).

use prometheus::proto::{MetricFamily, MetricType};

use super::families::{counter, family, gauge, histogram, sample};

/// The store of the cache.
#[derive(Clone, Debug, Default)]
pub struct CacheState {
    /// Stored answers.
    pub entries: u64,
    /// Bytes they take, and their bound.
    pub bytes: (u64, u64),
    /// Bytes of answers that are being received.
    pub filling_bytes: u64,
    /// Answers that were stored.
    pub stored: u64,
    /// Answers that were removed to make room.
    pub evictions: u64,
    /// Answers that were purged.
    pub purged: u64,
    /// Answers that were not stored, by why.
    pub refused: Vec<(&'static str, u64)>,
    /// Upper bounds of ages in seconds, and served answers that were at most so old.
    pub ages: Vec<(f64, u64)>,
    /// Served answers, and the sum of their ages in seconds.
    pub served: (u64, f64),
}

/// Every one.
pub(super) fn families(cache: &CacheState) -> [MetricFamily; 9] {
    let refused =
        cache.refused.iter().map(|(why, count)| sample(MetricType::COUNTER, &[("reason", why)], *count as f64));
    [
        gauge("tollgate_cache_entries", "Answers in the cache.", cache.entries as f64),
        gauge("tollgate_cache_bytes", "Bytes of the answers in the cache.", cache.bytes.0 as f64),
        gauge("tollgate_cache_bytes_max", "Bytes that the answers in the cache may take.", cache.bytes.1 as f64),
        gauge("tollgate_cache_filling_bytes", "Bytes of answers on their way in.", cache.filling_bytes as f64),
        counter("tollgate_cache_stored_total", "Answers that were stored.", cache.stored as f64),
        counter(
            "tollgate_cache_evictions_total",
            "Answers removed from the cache to make room.",
            cache.evictions as f64,
        ),
        counter("tollgate_cache_purged_total", "Stored answers that were purged.", cache.purged as f64),
        family(
            MetricType::COUNTER,
            "tollgate_cache_refused_total",
            "Answers that were not stored, by why.",
            refused.collect(),
        ),
        histogram(
            "tollgate_cache_age_seconds",
            "How old answers were when they were served from the cache.",
            &cache.ages,
            cache.served,
        ),
    ]
}
