//! The series of the cache's store, read at scrape time: what it holds, what it did not take, how old its answers are.
//! Not here: what the cache did for each exchange (`metrics.rs`).

use prometheus::proto::{MetricFamily, MetricType};

use super::family::{counter, family, gauge, histogram, sample};

/// The store of the cache.
#[derive(Clone, Debug, Default)]
pub struct CacheState {
    /// Stored answers.
    pub entries: u64,
    /// Keys that they have.
    pub keys: u64,
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
    /// Hits that needed none of the proxy's phases.
    pub at_hand: u64,
    /// Answers that were not stored, by why.
    pub refused: Vec<(&'static str, u64)>,
    /// The tier on disk, where there is one.
    pub disk: Option<CacheDiskState>,
    /// Upper bounds of ages in seconds, and served answers that were at most so old.
    pub ages: Vec<(f64, u64)>,
    /// Served answers, and the sum of their ages in seconds.
    pub served: (u64, f64),
}

/// The cache's tier on disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheDiskState {
    /// Answers in files.
    pub entries: u64,
    /// Bytes of the files, and their bound.
    pub bytes: (u64, u64),
    /// Bytes of memory that the index takes, and their bound.
    pub index_bytes: (u64, u64),
    /// Bytes of memory that waiting answers take, and their bound.
    pub queued_bytes: (u64, u64),
    /// Requests that found there what memory did not have.
    pub hits: u64,
    /// Files that were read.
    pub loads: u64,
    /// Files that were written.
    pub writes: u64,
    /// Answers that were not written.
    pub dropped_writes: u64,
    /// Files that were not as they had been written.
    pub corrupt: u64,
    /// Files that gave way.
    pub evictions: u64,
    /// What the file system refused.
    pub errors: u64,
}

/// Every one of the tier on disk.
pub(super) fn disk_families(disk: &CacheDiskState) -> [MetricFamily; 14] {
    let gauge = |name, help, value: u64| gauge(name, help, value as f64);
    let counter = |name, help, value: u64| counter(name, help, value as f64);
    let ((bytes, bytes_max), (index, index_max), (queued, queued_max)) =
        (disk.bytes, disk.index_bytes, disk.queued_bytes);
    [
        gauge("tollgate_cache_disk_entries", "Answers of the cache in files.", disk.entries),
        gauge("tollgate_cache_disk_bytes", "Bytes of the cache's files, in whole blocks.", bytes),
        gauge("tollgate_cache_disk_bytes_max", "Bytes that the cache's files may take.", bytes_max),
        gauge("tollgate_cache_disk_index_bytes", "Bytes of memory that the index of the cache's files takes.", index),
        gauge("tollgate_cache_disk_index_bytes_max", "Bytes of memory that this index may take.", index_max),
        gauge("tollgate_cache_disk_queued_bytes", "Bytes of memory of answers that wait to be written.", queued),
        gauge("tollgate_cache_disk_queued_bytes_max", "Bytes of memory that these answers may take.", queued_max),
        counter("tollgate_cache_disk_hits_total", "Requests that found on disk what memory did not have.", disk.hits),
        counter("tollgate_cache_disk_loads_total", "Files of the cache that were read.", disk.loads),
        counter("tollgate_cache_disk_writes_total", "Files of the cache that were written.", disk.writes),
        counter(
            "tollgate_cache_disk_dropped_writes_total",
            "Answers that were not written to disk: the queue was full, they are too large, or the file system refused them.",
            disk.dropped_writes,
        ),
        counter(
            "tollgate_cache_disk_corrupt_total",
            "Files of the cache that were not as they had been written, and were removed.",
            disk.corrupt,
        ),
        counter("tollgate_cache_disk_evictions_total", "Files of the cache removed to make room.", disk.evictions),
        counter("tollgate_cache_disk_errors_total", "What the file system refused the cache.", disk.errors),
    ]
}

/// Every one.
pub(super) fn families(cache: &CacheState) -> [MetricFamily; 11] {
    let refused =
        cache.refused.iter().map(|(why, count)| sample(MetricType::COUNTER, &[("reason", why)], *count as f64));
    [
        gauge("tollgate_cache_entries", "Answers in the cache.", cache.entries as f64),
        gauge("tollgate_cache_keys", "Keys of these answers, which have one for each variant.", cache.keys as f64),
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
        counter(
            "tollgate_cache_at_hand_total",
            "Hits answered from memory as soon as they were admitted, without the proxy's phases.",
            cache.at_hand as f64,
        ),
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
