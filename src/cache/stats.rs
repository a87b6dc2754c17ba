//! What the store counts, and what it tells about itself.
//! Counts are since process start and never fall. Not here: the exchanges, which are counted by their records (`metrics.rs`).

use std::sync::atomic::AtomicU64;

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
}

/// The state of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Stored answers, each variant for itself.
    pub entries: u64,
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
}
