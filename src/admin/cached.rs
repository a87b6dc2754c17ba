//! The cache, as the admin API tells of it: plain data, like all of `control.rs`.
//! Field names are the names in the JSON: they are stable, so they grow and are never renamed.

use std::collections::BTreeMap;

use serde::Serialize;

/// The cache as a whole. Counts are since process start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CacheStatus {
    /// Stored answers, each variant for itself.
    pub entries: u64,
    /// Keys that they have: answers of one key are variants of each other, by `Vary`.
    pub keys: u64,
    /// Bytes they take: bodies, headers, keys and overhead.
    pub bytes: u64,
    /// The bound of `bytes`.
    pub bytes_max: u64,
    /// Bytes of answers on their way in.
    pub filling_bytes: u64,
    /// Nothing more is received to be stored from here on.
    pub filling_bytes_max: u64,
    /// Answers that were stored.
    pub stored: u64,
    /// Answers that gave way.
    pub evictions: u64,
    /// Answers that were purged.
    pub purged: u64,
    /// By what the cache did, on routes that have one.
    pub results: BTreeMap<&'static str, CacheCount>,
    /// The part of the requests that were looked up which no instance had to answer; null before the first one.
    pub hit_ratio: Option<f64>,
    /// Bytes of bodies that clients got and no instance sent for them.
    pub saved_bytes: u64,
    /// Answers that were not stored, by why; what never happened is left out.
    pub refused: BTreeMap<&'static str, u64>,
    /// The tier on disk; null where there is none.
    pub disk: Option<CacheDiskStatus>,
    /// The largest stored answers.
    pub largest: Vec<CachedEntry>,
    /// Those that were served most often since they were stored.
    pub hottest: Vec<CachedEntry>,
}

/// The cache's tier on disk. Counts are since process start.
#[derive(Clone, Debug, Serialize)]
pub struct CacheDiskStatus {
    /// `waiting` while another process has the folder, `scanning` while it is looked at after the start, `open`, `closed`.
    pub state: &'static str,
    /// Answers in files, each variant for itself.
    pub entries: u64,
    /// Bytes of the files, in whole blocks.
    pub bytes: u64,
    /// The bound of `bytes`.
    pub bytes_max: u64,
    /// Bytes of memory that its index takes.
    pub index_bytes: u64,
    /// The bound of `index_bytes`.
    pub index_bytes_max: u64,
    /// Answers that wait to be written.
    pub queued: u64,
    /// Bytes of memory that they take.
    pub queued_bytes: u64,
    /// The bound of `queued_bytes`.
    pub queued_bytes_max: u64,
    /// Requests that found here what memory did not have.
    pub hits: u64,
    /// Files that were read.
    pub loads: u64,
    /// Files that were written.
    pub writes: u64,
    /// Answers that were not written.
    pub dropped_writes: u64,
    /// Files that were not as they had been written, and were removed.
    pub corrupt: u64,
    /// Files that gave way.
    pub evictions: u64,
    /// What the file system refused.
    pub errors: u64,
}

/// Requests, and bytes of their answers' bodies.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CacheCount {
    /// Requests.
    pub requests: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What is stored of a URL.
#[derive(Clone, Debug, Serialize)]
pub struct CachedUrl {
    /// As it was asked for.
    pub url: String,
    /// The route that answers GET for it.
    pub route: Option<String>,
    /// Whether something is stored, and if not, what stands against it.
    pub why: String,
    /// The answers of all consumers, each variant for itself.
    pub entries: Vec<CachedEntry>,
}

/// One stored answer.
#[derive(Clone, Debug, Serialize)]
pub struct CachedEntry {
    /// As the client asked for it, with the query that counts.
    pub url: String,
    /// The route's pattern or name.
    pub route: String,
    /// Whose it is; null where all share it.
    pub consumer: Option<String>,
    /// Where it is: `memory`, `disk`, or `memory and disk`.
    pub stored: &'static str,
    /// What of the request chose it among the variants, as `name: value`.
    pub variant: Vec<String>,
    /// Its status.
    pub status: u16,
    /// `fresh`, `stale`, or `confirmed`: the instance is asked before each use.
    pub state: &'static str,
    /// Seconds for which it is fresh still; below zero, for how long it has been stale; null where it is always confirmed.
    pub ttl_seconds: Option<i64>,
    /// Which word made it so.
    pub why: String,
    /// How old it is.
    pub age_seconds: u64,
    /// How long it may be used when stale while another one is fetched.
    pub stale_while_revalidate_seconds: u32,
    /// How long it may be used when stale instead of an error.
    pub stale_if_error_seconds: u32,
    /// Bytes that it takes.
    pub bytes: u64,
    /// Whether all of its body is here, and not only parts.
    pub whole: bool,
    /// Bytes of its body that are here.
    pub body_bytes: u64,
    /// How often it was served from here.
    pub hits: u64,
    /// What it can be purged by.
    pub tags: Vec<String>,
    /// Its header, name and value; left out in lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}
