//! A stored answer, and the family of answers that share a key and differ by `Vary`.
//! Immutable once stored: a change makes a new one, so readers never wait and never see half of anything.
//! Weights count what is really held: bytes are copied to their exact size, because the buffers that
//! Pingora reads into are larger than what it hands out of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use pingora_cache::CacheMeta;
use pingora_cache::key::HashBinary;
use pingora_http::ResponseHeader;

use super::range::Wanted;
use super::tags::Tags;
use super::vary::Selected;

/// Stored answers of one key; the oldest goes when there is one more.
pub const VARIANTS_MAX: usize = 64;

/// What an answer costs beside its bytes: its structures, allocations, and its places in map and index. Measured, as is what
/// the allocator adds to bodies: `cargo bench --bench cache_memory` says whether they hold.
const ENTRY_OVERHEAD: u64 = 1_280;
const HEADER_OVERHEAD: u64 = 160;
const CHUNK_OVERHEAD: u64 = 64;

/// Pieces of a stored body; larger ones are handed to the client in as many writes.
pub const CHUNK_BYTES: usize = 64 << 10;

/// One stored answer.
#[derive(Debug)]
pub struct Entry {
    /// Status and headers, as they are sent again.
    pub head: ResponseHeader,
    /// Shared with the entries that a revalidation replaced.
    pub body: Arc<Body>,
    /// Usable without asking until then, unless a purge said otherwise.
    fresh_until: SystemTime,
    /// A purge took the freshness away, at that time in seconds since 1970; 0 where none did.
    stale_since: AtomicU64,
    /// When it was made, as far as its `Age` and `Date` told.
    pub epoch: SystemTime,
    /// Seconds after `fresh_until` for which it may be used while another one is fetched, and instead of an error.
    pub stale_seconds: (u32, u32),
    /// Which variant it is.
    pub variance: Option<HashBinary>,
    /// What chose it, where it varies.
    pub selected: Option<Arc<Selected>>,
    /// What it can be purged by beside its URL.
    pub tags: Tags,
    /// How often it was served.
    pub hits: AtomicU64,
    /// Bytes.
    pub weight: u64,
}

/// When a stored answer is used: what is kept of it beside header, body and tags. Fields as in [`Entry`].
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) fresh_until: SystemTime,
    pub(super) stale_since: u64,
    pub(super) epoch: SystemTime,
    pub(super) stale_seconds: (u32, u32),
    pub(super) variance: Option<HashBinary>,
    pub(super) selected: Option<Selected>,
}

/// In the meta of an answer that varies: what chose it, when it is stored; all that it may be chosen from, when it is found.
#[derive(Clone)]
pub struct Chosen(pub Arc<Selected>);

/// In the meta of an answer that varies and was found: all that may be chosen from.
#[derive(Clone)]
pub struct Choice(pub Arc<Family>);

/// The bytes of an answer, in the pieces that are handed out; all of them, or some parts.
#[derive(Debug, Default)]
pub struct Body {
    /// None is empty, and of a whole body all but the last are of [`CHUNK_BYTES`].
    pub chunks: Vec<Bytes>,
    /// Where each chunk begins, in order, where there are parts only; empty of a whole body.
    pub starts: Vec<usize>,
    /// Of the whole, whether it is here or not.
    pub length: usize,
}

impl Body {
    /// The pieces of a body, copied where they are not of the size that is kept. None of them may be part of a larger buffer.
    pub fn of(pieces: Vec<Bytes>) -> Self {
        let length = pieces.iter().map(Bytes::len).sum();
        let regular = pieces.iter().rev().skip(1).all(|piece| piece.len() == CHUNK_BYTES)
            && pieces.last().is_none_or(|last| last.len() <= CHUNK_BYTES);
        if regular {
            return Self { chunks: pieces, starts: Vec::new(), length };
        }
        let mut chunks = Vec::with_capacity(length.div_ceil(CHUNK_BYTES));
        let mut left = length;
        let mut chunk = Vec::with_capacity(left.min(CHUNK_BYTES));
        for mut piece in pieces {
            while !piece.is_empty() {
                let part = piece.split_to(piece.len().min(CHUNK_BYTES - chunk.len()));
                chunk.extend_from_slice(&part);
                left -= part.len();
                if chunk.len() == CHUNK_BYTES || left == 0 {
                    chunks.push(Bytes::from(std::mem::take(&mut chunk).into_boxed_slice()));
                    chunk.reserve_exact(left.min(CHUNK_BYTES));
                }
            }
        }
        Self { chunks, starts: Vec::new(), length }
    }

    /// Whether all of it is here.
    pub fn is_whole(&self) -> bool {
        self.starts.is_empty()
    }

    /// Bytes of it that are here.
    pub fn held(&self) -> usize {
        if self.is_whole() { self.length } else { self.chunks.iter().map(Bytes::len).sum() }
    }

    /// Bytes that it takes. The allocator has sizes an eighth apart, and pages that are seldom full.
    fn weight(&self) -> u64 {
        let held = self.held();
        (held + held / 8) as u64 + self.chunks.len() as u64 * CHUNK_OVERHEAD
    }

    /// What is there from `offset` on, up to `end`, without copying it; none at the end, and where nothing is there.
    pub fn read(&self, offset: usize, end: usize) -> Option<Bytes> {
        let end = end.min(self.length);
        if offset >= end {
            return None;
        }
        let (place, start) = if self.is_whole() {
            (offset / CHUNK_BYTES, offset % CHUNK_BYTES)
        } else {
            let place = self.starts.partition_point(|start| *start <= offset).checked_sub(1)?;
            (place, offset - self.starts[place])
        };
        let chunk = self.chunks.get(place).filter(|chunk| start < chunk.len())?;
        Some(chunk.slice(start..start + (end - offset).min(chunk.len() - start)))
    }
}

/// The answers of one key.
#[derive(Debug)]
pub struct Family {
    /// The hash of host, path and query.
    pub url: u64,
    /// The route's pattern or name.
    pub endpoint: Arc<str>,
    /// The frame of its key (`key.rs`).
    pub key: Arc<[u8]>,
    /// The last stored answer comes last.
    pub variants: Vec<Arc<Entry>>,
    /// Bytes of key and all variants.
    pub weight: u64,
}

impl Entry {
    /// Takes what Pingora would keep in `meta`.
    pub fn new(meta: &CacheMeta, body: Arc<Body>, tags: Tags) -> Self {
        let head = compact(meta.response_header());
        let weight = weigh(&head, &body, &tags);
        Self {
            head,
            body,
            fresh_until: meta.fresh_until(),
            stale_since: AtomicU64::new(0),
            epoch: meta.epoch(),
            stale_seconds: (meta.stale_while_revalidate_sec(), meta.stale_if_error_sec()),
            variance: meta.variance(),
            selected: meta.extensions().get::<Chosen>().map(|chosen| Arc::clone(&chosen.0)),
            tags,
            hits: AtomicU64::new(0),
            weight,
        }
    }

    /// An answer that was stored before, as it was.
    pub(super) fn restored(terms: Terms, head: ResponseHeader, body: Arc<Body>, tags: Tags) -> Self {
        let weight = weigh(&head, &body, &tags);
        Self {
            head,
            body,
            fresh_until: terms.fresh_until,
            stale_since: AtomicU64::new(terms.stale_since),
            epoch: terms.epoch,
            stale_seconds: terms.stale_seconds,
            variance: terms.variance,
            selected: terms.selected.map(Arc::new),
            tags,
            hits: AtomicU64::new(0),
            weight,
        }
    }

    /// This answer with these tags, where `before` was: as often used as that.
    pub(super) fn in_place_of(mut self, before: &Self, tags: Tags) -> Self {
        self.weight = weigh(&self.head, &self.body, &tags);
        self.hits = before.hits.load(Ordering::Relaxed).into();
        self.tags = tags;
        self
    }

    /// Whether a request may be answered from it, which wants all of it or a part: of an answer in parts what is stale cannot be confirmed, or be
    /// used all the same.
    fn has(&self, wanted: Option<Wanted>) -> bool {
        self.body.has(wanted) && (self.body.is_whole() || self.fresh_until() >= SystemTime::now())
    }

    /// All that decides when it is used.
    pub(super) fn terms(&self) -> Terms {
        Terms {
            fresh_until: self.fresh_until,
            stale_since: self.stale_since.load(Ordering::Relaxed),
            epoch: self.epoch,
            stale_seconds: self.stale_seconds,
            variance: self.variance,
            selected: self.selected.as_deref().cloned(),
        }
    }

    /// Seconds since 1970 when a purge took its freshness away; 0 where none did.
    pub(super) fn stale_since(&self) -> u64 {
        self.stale_since.load(Ordering::Relaxed)
    }

    /// What a purge did to it before it was read.
    pub(super) fn set_stale_since(&self, seconds: u64) {
        self.stale_since.store(seconds, Ordering::Relaxed);
    }

    /// Usable without asking until then.
    pub fn fresh_until(&self) -> SystemTime {
        match self.stale_since.load(Ordering::Relaxed) {
            0 => self.fresh_until,
            // Also where the clock went back since.
            seconds => {
                let purged = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
                self.fresh_until.min(purged).min(SystemTime::now() - Duration::from_secs(1))
            }
        }
    }

    /// Whether it is never used without asking.
    pub(super) fn is_always_confirmed(&self) -> bool {
        self.fresh_until == SystemTime::UNIX_EPOCH
    }

    /// Whether a purge took its freshness away.
    pub fn is_purged(&self) -> bool {
        self.stale_since.load(Ordering::Relaxed) != 0
    }

    /// Takes its freshness away; false where it was stale already.
    pub fn mark_stale(&self, now: SystemTime) -> bool {
        let was_fresh = self.fresh_until() >= now;
        if was_fresh {
            self.stale_since.store(stale_from(now), Ordering::Relaxed);
        }
        was_fresh
    }

    /// This answer, of which the whole body has come.
    pub fn with_body(&self, head: ResponseHeader, body: Arc<Body>) -> Self {
        let weight = self.weight + body.weight();
        Self {
            head,
            body,
            fresh_until: self.fresh_until,
            stale_since: AtomicU64::new(self.stale_since.load(Ordering::Relaxed)),
            epoch: self.epoch,
            stale_seconds: self.stale_seconds,
            variance: self.variance,
            selected: self.selected.clone(),
            tags: self.tags.clone(),
            hits: AtomicU64::new(0),
            weight,
        }
    }

    /// What Pingora works with.
    pub fn meta(&self) -> CacheMeta {
        // Pingora compares `created` of variants to tell which were purged; here a purge removes them all at once,
        // so every entry is created at the same time. Age and freshness come from `epoch` and `fresh_until`.
        let (revalidating, on_error) = self.stale_seconds;
        let mut meta =
            CacheMeta::new(self.fresh_until(), SystemTime::UNIX_EPOCH, revalidating, on_error, self.head.clone());
        meta.set_epoch_override(self.epoch);
        if let Some(variance) = self.variance {
            meta.set_variance(variance);
        }
        meta
    }
}

/// What is noted where freshness is taken away, in seconds since 1970. A second that has begun is over for the answer.
pub(super) fn stale_from(now: SystemTime) -> u64 {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    seconds.saturating_sub(1).max(1)
}

/// Bytes of an answer.
fn weigh(head: &ResponseHeader, body: &Body, tags: &Tags) -> u64 {
    let headers: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    ENTRY_OVERHEAD + headers as u64 + head.headers.len() as u64 * HEADER_OVERHEAD + body.weight() + tags.weight()
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
    pub fn of(url: u64, endpoint: Arc<str>, key: Arc<[u8]>, entry: Arc<Entry>) -> Self {
        Self { url, endpoint, weight: entry.weight + key.len() as u64, key, variants: vec![entry] }
    }

    /// Whether an answer tells requests apart by the same fields as those that are here; one that does not replaces them.
    fn varies_like(&self, entry: &Entry) -> bool {
        let here = self.variants.last().and_then(|entry| entry.selected.as_deref());
        match &entry.selected {
            Some(selected) => selected.has_names_of(here),
            None => here.is_none(),
        }
    }

    /// This family with one answer more, or with one replaced; of at most so many bytes.
    pub fn with(&self, entry: Arc<Entry>, weight_max: u64) -> Self {
        let like = self.varies_like(&entry);
        let mut family = Self::of(self.url, Arc::clone(&self.endpoint), Arc::clone(&self.key), entry);
        if !like {
            return family;
        }
        let newest = family.variants.pop();
        family.variants = self.variants.clone();
        family.variants.retain(|other| newest.as_ref().is_none_or(|newest| newest.variance != other.variance));
        family.variants.extend(newest);
        family.bound(weight_max);
        family
    }

    /// This family with what was stored of it before and is not in it, behind what it has or before it; of at most so many
    /// bytes.
    pub(super) fn with_found(&self, found: Vec<Arc<Entry>>, last: bool, weight_max: u64) -> Self {
        let is_new = |entry: &Arc<Entry>| {
            self.varies_like(entry) && self.variants.iter().all(|other| other.variance != entry.variance)
        };
        let found: Vec<Arc<Entry>> = found.into_iter().filter(is_new).collect();
        let variants = if last { [&self.variants[..], &found[..]] } else { [&found[..], &self.variants[..]] }.concat();
        let mut family = Self {
            url: self.url,
            endpoint: Arc::clone(&self.endpoint),
            key: Arc::clone(&self.key),
            variants,
            weight: 0,
        };
        family.bound(weight_max);
        family
    }

    /// The first go where it is too much.
    fn bound(&mut self, weight_max: u64) {
        self.weight = self.key.len() as u64 + self.variants.iter().map(|entry| entry.weight).sum::<u64>();
        while self.variants.len() > VARIANTS_MAX || (self.weight > weight_max && self.variants.len() > 1) {
            self.weight -= self.variants.remove(0).weight;
        }
    }

    /// The answer for a variant; without one, the newest answer, whose `Vary` tells which variant to ask for. Of what is
    /// stored in parts only what has the wanted one.
    pub fn find(&self, variance: Option<HashBinary>, wanted: Option<Wanted>) -> Option<&Arc<Entry>> {
        let of_variant = |entry: &&Arc<Entry>| variance.is_none() || entry.variance == variance;
        self.variants.iter().rev().find(|entry| of_variant(entry) && entry.has(wanted))
    }

    /// Which variant a request with these fields asks for; `newest` is what chose any of them.
    pub fn variance_asked(&self, newest: &Selected, request: &HeaderMap) -> Option<HashBinary> {
        let variants = self.variants.iter().rev();
        let variants = variants.filter_map(|entry| Some((&**entry.selected.as_ref()?, &entry.head.headers)));
        newest.asked(request, variants)
    }

    /// The whole answer that a request with these fields asks for.
    pub(super) fn chosen_by(&self, request: &HeaderMap) -> Option<&Arc<Entry>> {
        let newest = self.find(None, None)?;
        let Some(selected) = &newest.selected else { return Some(newest) };
        self.find(Some(self.variance_asked(selected, request)?), None)
    }

    /// The answer of this variance, or the one that does not vary.
    pub(super) fn find_exactly(&self, variance: Option<HashBinary>) -> Option<&Arc<Entry>> {
        self.variants.iter().find(|entry| entry.variance == variance)
    }
}
