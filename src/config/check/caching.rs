//! Rules across the fields of `cache` and `routes.NAME.cache`, and of what they hold.
//! Not here: what each field may look like (`caching.rs` beside this folder).

use http::HeaderName;
use http::header::{AUTHORIZATION, COOKIE, RANGE};

use super::Check;
use crate::config::{CachePolicy, CacheStore, Size, Spool};

/// Parts of a whole are not freshness longer than the answer has lasted.
const HEURISTIC_PERCENT_MAX: u32 = 100;

/// Bytes below which a disk is a mistake.
const DISK_MIN: u64 = 16 << 20;

/// Bytes of memory below which next to nothing fits: an answer may have a tenth of it, or of the three quarters that a disk
/// leaves. With this an answer of 64 KiB is stored (a test of the store says so).
pub const CACHE_MEMORY_MIN: u64 = 1 << 20;

impl Check<'_> {
    pub(super) fn cache_store(&mut self) {
        let config = &self.draft.config;
        match config.cache.memory {
            Size(0) => self.problem("cache.memory", "0b holds no answer: leave `cache` out of the routes instead"),
            memory if memory.0 < CACHE_MEMORY_MIN => {
                let least = Size(CACHE_MEMORY_MIN);
                let message = format!(
                    "{memory} is less than {least}, in which hardly an answer fits: one may have a tenth of it; {} when left out",
                    CacheStore::default().memory
                );
                self.problem("cache.memory", message);
            }
            _ => {}
        }
        let Some(disk) = &config.cache.disk else { return };
        if disk.size.0 < DISK_MIN {
            self.problem("cache.disk.size", format!("{} is less than 16mb: leave `disk` out instead", disk.size));
        }
        if config.log.spool == Spool::Folder(disk.path.clone()) {
            self.problem("cache.disk.path", "this folder is `log.spool`: give the cache one of its own");
        }
    }

    pub(super) fn cache(&mut self, path: &str, cache: &CachePolicy) {
        if cache.max.is_some_and(|max| max < cache.ttl) {
            self.problem(format!("{path}.max"), "shorter than `ttl`: nothing is ever fresh that long");
        }
        if let (Some(max), Some(always)) = (cache.max, cache.always)
            && max < always
        {
            self.problem(format!("{path}.max"), "shorter than `override`: nothing is ever fresh that long");
        }
        if let Some(always) = cache.always {
            self.not_zero(format!("{path}.override"), always);
        }
        if cache.heuristic.0 > HEURISTIC_PERCENT_MAX {
            self.problem(format!("{path}.heuristic"), "more than 100%; 10% is what the field uses");
        }
        for (index, status) in cache.statuses.iter().enumerate() {
            let at = self.element(&format!("{path}.statuses"), index, cache.statuses.len());
            match status {
                206 | 304 => self.problem(at, format!("{status} is no whole answer, and is never stored")),
                200..=599 => {}
                _ => self.problem(at, format!("{status} is no status of a final answer: 200 to 599")),
            }
        }
        if cache.methods.is_empty() {
            self.problem(format!("{path}.methods"), "without a method nothing is cached: leave `cache` out instead");
        }
        for (index, name) in cache.vary.iter().enumerate() {
            let at = self.element(&format!("{path}.vary"), index, cache.vary.len());
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) if [AUTHORIZATION, COOKIE, RANGE].contains(&name) => {
                    self.problem(at, format!("`{name}` tells every client apart: name a part of it in `key`"));
                }
                Ok(_) => {}
                Err(_) => self.problem(at, format!("`{name}` is no header name")),
            }
        }
        for (index, name) in cache.tags_header.iter().enumerate() {
            let at = self.element(&format!("{path}.tags_header"), index, cache.tags_header.len());
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                self.problem(at, format!("`{name}` is no header name"));
            }
        }
        for (index, name) in cache.query.ignore.iter().enumerate() {
            let at = self.element(&format!("{path}.query.ignore"), index, cache.query.ignore.len());
            let bare = name.strip_suffix('*').unwrap_or(name);
            if name.is_empty() || bare.contains(['*', '&', '=', '#', '?']) {
                self.problem(
                    at,
                    format!("`{name}` is no name of a parameter: `page`, or `utm_*` for all that begin so"),
                );
            }
        }
    }
}
