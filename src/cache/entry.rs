//! A stored answer, and the family of answers that share a key and differ by `Vary`.
//! Immutable once stored: a change makes a new one, so readers never wait and never see half of anything.
//! Weights count what is really held: bytes are copied to their exact size, because the buffers that
//! Pingora reads into are larger than what it hands out of them.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use pingora_cache::CacheMeta;
use pingora_cache::key::HashBinary;
use pingora_http::ResponseHeader;

use super::vary;

/// Stored answers of one key; the oldest goes when there is one more.
pub const VARIANTS_MAX: usize = 64;

/// What an answer costs beside its bytes: its structures, allocations, and its places in map and index.
const ENTRY_OVERHEAD: u64 = 512;
const HEADER_OVERHEAD: u64 = 160;
const CHUNK_OVERHEAD: u64 = 64;

/// One stored answer.
#[derive(Debug)]
pub struct Entry {
    /// Status and headers, as they are sent again.
    pub head: ResponseHeader,
    /// Shared with the entries that a revalidation replaced.
    pub body: Arc<Body>,
    /// Usable without asking until then.
    pub fresh_until: SystemTime,
    /// When it was made, as far as its `Age` and `Date` told.
    pub epoch: SystemTime,
    /// Which variant it is.
    pub variance: Option<HashBinary>,
    /// Bytes.
    pub weight: u64,
}

/// The bytes of an answer, in the pieces that are handed out.
#[derive(Debug, Default)]
pub struct Body {
    /// None is empty.
    pub chunks: Vec<Bytes>,
    /// Sum of the chunks' lengths.
    pub length: usize,
}

/// The answers of one key.
#[derive(Debug)]
pub struct Family {
    /// The hash of host, path and query.
    pub url: u64,
    /// The route's pattern or name.
    pub endpoint: Arc<str>,
    /// The last stored answer comes last.
    pub variants: Vec<Arc<Entry>>,
    /// Bytes of all variants.
    pub weight: u64,
    /// What the variants differ by; an answer that varies otherwise replaces them all.
    nominated: Vec<HeaderName>,
}

impl Entry {
    /// Takes what Pingora would keep in `meta`.
    pub fn new(meta: &CacheMeta, body: Arc<Body>) -> Self {
        let head = compact(meta.response_header());
        let headers: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let weight = ENTRY_OVERHEAD
            + headers as u64
            + head.headers.len() as u64 * HEADER_OVERHEAD
            + body.length as u64
            + body.chunks.len() as u64 * CHUNK_OVERHEAD;
        Self { head, body, fresh_until: meta.fresh_until(), epoch: meta.epoch(), variance: meta.variance(), weight }
    }

    /// What Pingora works with.
    pub fn meta(&self) -> CacheMeta {
        // Pingora compares `created` of variants to tell which were purged; here a purge removes them all at once,
        // so every entry is created at the same time. Age and freshness come from `epoch` and `fresh_until`.
        let mut meta = CacheMeta::new(self.fresh_until, SystemTime::UNIX_EPOCH, 0, 0, self.head.clone());
        meta.set_epoch_override(self.epoch);
        if let Some(variance) = self.variance {
            meta.set_variance(variance);
        }
        meta
    }
}

/// The same header without the buffer it was read into.
fn compact(head: &ResponseHeader) -> ResponseHeader {
    // Without the map of the names' spelling: it doubles the cost of each hit.
    let Ok(mut compact) = ResponseHeader::build_no_case(head.status, Some(head.headers.len())) else {
        return head.clone();
    };
    for (name, value) in &head.headers {
        if let Ok(mut copy) = HeaderValue::from_bytes(value.as_bytes()) {
            copy.set_sensitive(value.is_sensitive());
            // Fails only beyond 32,768 headers, which Pingora does not read.
            let _ = compact.append_header(name.clone(), copy);
        }
    }
    compact
}

impl Family {
    /// The family of one answer.
    pub fn of(url: u64, endpoint: Arc<str>, entry: Arc<Entry>) -> Self {
        let nominated = vary::nominated(&entry.head.headers).unwrap_or_default();
        Self { url, endpoint, weight: entry.weight, variants: vec![entry], nominated }
    }

    /// This family with one answer more, or with one replaced; of at most so many bytes.
    pub fn with(&self, entry: Arc<Entry>, weight_max: u64) -> Self {
        let mut family = Self::of(self.url, Arc::clone(&self.endpoint), entry);
        if family.nominated != self.nominated {
            return family;
        }
        let newest = family.variants.pop();
        family.variants = self.variants.clone();
        family.variants.retain(|other| newest.as_ref().is_none_or(|newest| newest.variance != other.variance));
        family.variants.extend(newest);
        family.weight = family.variants.iter().map(|entry| entry.weight).sum();
        while family.variants.len() > VARIANTS_MAX || (family.weight > weight_max && family.variants.len() > 1) {
            family.weight -= family.variants.remove(0).weight;
        }
        family
    }

    /// The answer for a variant; without one, the newest answer, whose `Vary` tells which variant to ask for.
    pub fn find(&self, variance: Option<HashBinary>) -> Option<&Arc<Entry>> {
        match variance {
            None => self.variants.last(),
            Some(_) => self.variants.iter().rev().find(|entry| entry.variance == variance),
        }
    }
}
