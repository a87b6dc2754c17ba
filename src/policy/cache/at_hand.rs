//! A fresh answer that is in memory, for a request that asks for no more than that: found without Pingora's cache phases, which
//! would find the same and make the same of it. Not here: whatever else may become of a request (`turn.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, AGE, CONTENT_LENGTH, HeaderName};
use http::{StatusCode, Version};
use pingora_cache::CacheKey;
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use smallvec::SmallVec;

use super::request::is_looked_up;
use super::rule::CacheRule;
use super::status::{HIT, hit};
use crate::cache::cache_control::Wishes;
use crate::cache::entry::Entry;
use crate::cache::store;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const BYTES: &str = "bytes";

/// A stored answer that is about to be served.
pub struct AtHand<'a> {
    rule: &'a CacheRule,
    entry: Arc<Entry>,
    now: SystemTime,
}

impl CacheRule {
    /// The answer to a request without a body, a range or a condition; none where the phases have to say what becomes of it.
    pub fn at_hand(&self, request: &RequestHeader, key: &CacheKey, now: SystemTime) -> Option<AtHand<'_>> {
        let has_wishes = self.obeys_wishes && Wishes::of(&request.headers) != Wishes::default();
        if has_wishes || !is_looked_up(request, &self.methods) {
            return None;
        }
        let entry = store().at_hand(key, &request.headers, now)?;
        // Its length is told, so the connection can go on after it.
        entry.head.headers.contains_key(CONTENT_LENGTH).then_some(AtHand { rule: self, entry, now })
    }
}

impl AtHand<'_> {
    /// The status it was stored with.
    pub fn status(&self) -> StatusCode {
        self.entry.head.status
    }

    /// What stands behind the status; nothing where it is none that is known.
    pub fn reason(&self) -> &str {
        self.entry.head.get_reason_phrase().unwrap_or_default()
    }

    fn age(&self) -> Duration {
        self.now.duration_since(self.entry.epoch).unwrap_or_default()
    }

    /// Seconds for which it stays fresh.
    fn ttl(&self) -> u64 {
        self.entry.fresh_until().duration_since(self.now).unwrap_or_default().as_secs()
    }

    /// Whether parts of it may be asked for, which is said as Pingora says it.
    fn has_ranges(&self) -> bool {
        self.status() == StatusCode::OK
    }

    /// The header as the cache has it for this request (RFC 9111 section 5.1, RFC 9211).
    ///
    /// # Errors
    /// Pingora's, when a header can't be set.
    pub fn header(&self) -> Result<ResponseHeader> {
        let mut header = self.entry.head.clone();
        header.set_version(Version::HTTP_11);
        header.insert_header(AGE, self.age().as_secs())?;
        self.rule.hide_tags(&mut header);
        self.rule.hide_surrogate_control(&mut header);
        if self.has_ranges() {
            header.insert_header(ACCEPT_RANGES, BYTES)?;
        }
        header.append_header(CACHE_STATUS, hit(self.ttl()))?;
        Ok(header)
    }

    /// The fields of [`Self::header`], one after the other and without a copy of what is stored, but for those that `is_replaced`.
    pub fn tell(&self, is_replaced: impl Fn(&str) -> bool, mut field: impl FnMut(&str, &[u8])) {
        let is_own = |name: &HeaderName| *name == AGE || (*name == ACCEPT_RANGES && self.has_ranges());
        let headers = &self.entry.head.headers;
        let is_hidden = |name: &HeaderName| self.rule.hides_tag(name) || self.rule.hides_surrogate(name, headers);
        let is_left = |name: &HeaderName| !is_own(name) && !is_hidden(name) && !is_replaced(name.as_str());
        for (name, value) in headers.iter().filter(|(name, _)| is_left(name)) {
            field(name.as_str(), value.as_bytes());
        }
        let mut digits = itoa::Buffer::new();
        field(AGE.as_str(), digits.format(self.age().as_secs()).as_bytes());
        if self.has_ranges() {
            field(ACCEPT_RANGES.as_str(), BYTES.as_bytes());
        }
        let mut status: SmallVec<[u8; 48]> = SmallVec::from_slice(HIT.as_bytes());
        status.extend_from_slice(digits.format(self.ttl()).as_bytes());
        field(CACHE_STATUS.as_str(), &status);
    }

    /// The whole body.
    pub fn body(&self) -> &[Bytes] {
        &self.entry.body.chunks
    }

    /// Counts that it is served.
    pub fn is_served(&self) {
        self.entry.hits.fetch_add(1, Ordering::Relaxed);
        store().serves_at_hand(self.age());
    }
}
