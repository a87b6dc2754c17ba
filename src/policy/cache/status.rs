//! `Cache-Status` (RFC 9211): what the cache did, told to the client behind what the caches of the upstream said.
//! Not here: what it did (`turn.rs`).

use std::time::SystemTime;

use http::HeaderValue;
use pingora_cache::{CachePhase, HttpCache, NoCacheReason};

use super::request::Bypass;
use super::turn::{CacheTurn, Consulted};
use crate::cache::Lack;

/// What is said of a hit, without the seconds for which it is fresh.
pub(super) const HIT: &str = "tollgate; hit; ttl=";
const HIT_WITHOUT_TTL: HeaderValue = HeaderValue::from_static("tollgate; hit");
const FORWARDED: HeaderValue = HeaderValue::from_static("tollgate; fwd=miss");

impl CacheTurn {
    /// In `response_filter`: the value of `Cache-Status`, to be appended.
    pub fn status(&self, cache: &HttpCache, now: SystemTime) -> HeaderValue {
        let phase = cache.phase();
        if phase == CachePhase::Hit && !self.collapsed {
            return hit(ttl(cache, now));
        }
        HeaderValue::try_from(format!("tollgate; {}", self.way(cache, phase, now))).unwrap_or(FORWARDED)
    }

    fn way(&self, cache: &HttpCache, phase: CachePhase, now: SystemTime) -> String {
        match phase {
            CachePhase::Hit => format!("fwd={}; collapsed", self.forwarded(cache)),
            CachePhase::Stale if self.served_stale => {
                let status =
                    self.failed_status.map_or(String::new(), |status| format!("; fwd-status={}", status.as_u16()));
                format!("fwd=stale{status}; ttl={}; detail=stale_if_error", ttl(cache, now))
            }
            CachePhase::Revalidated => "fwd=stale; fwd-status=304".to_owned(),
            CachePhase::RevalidatedNoCache(reason) => {
                format!("fwd=stale; fwd-status=304; detail={}", word(reason))
            }
            CachePhase::Miss | CachePhase::Expired if cache.maybe_cache_meta().is_some() => {
                format!("fwd={}; stored", self.forwarded(cache))
            }
            _ if self.fills_part => format!("fwd={}; stored", self.forwarded(cache)),
            CachePhase::Disabled(reason) if self.consulted == Consulted::Yes => {
                format!("fwd={}; detail={}", self.forwarded(cache), self.part_refused.unwrap_or_else(|| word(reason)))
            }
            _ => match self.consulted {
                Consulted::No(Bypass::Method) => "fwd=method".to_owned(),
                Consulted::No(reason) => format!("fwd=bypass; detail={}", reason.as_str()),
                Consulted::NotYet => "fwd=bypass".to_owned(),
                Consulted::Yes => format!("fwd={}", self.forwarded(cache)),
            },
        }
    }

    fn forwarded(&self, cache: &HttpCache) -> &'static str {
        let has_variants = || cache.maybe_cache_key().is_some_and(|key| key.get_variance_key().is_some());
        match self.lack {
            _ if self.stale => "stale",
            Some(Lack::Freshness) => "stale",
            Some(Lack::Parts) => "partial",
            Some(Lack::Variant) => "vary-miss",
            None if has_variants() => "vary-miss",
            None => "uri-miss",
        }
    }
}

/// What is said of a hit that is fresh, or stale, for so many seconds.
pub(super) fn hit(ttl: impl std::fmt::Display) -> HeaderValue {
    HeaderValue::try_from(format!("{HIT}{ttl}")).unwrap_or(HIT_WITHOUT_TTL)
}

/// Seconds of freshness that are left; below zero, for how long it has been stale.
fn ttl(cache: &HttpCache, now: SystemTime) -> i64 {
    let seconds = |time: std::time::Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match cache.cache_meta().fresh_until().duration_since(now) {
        Ok(left) => seconds(left),
        // A second that has begun counts: what is stale has a number below zero.
        Err(past) => -seconds(past.duration()).saturating_add(1),
    }
}

fn word(reason: NoCacheReason) -> &'static str {
    match reason {
        NoCacheReason::Custom(word) => word,
        NoCacheReason::CacheLockGiveUp => "not_shared",
        NoCacheReason::CacheLockTimeout | NoCacheReason::CacheLockRetryLimit => "waited_in_vain",
        NoCacheReason::StorageError => "store",
        _ => "off",
    }
}
