//! Answers of which only parts are stored (`partial: true` of a route): a part as it comes from an instance, and how it is
//! put together with what is there (RFC 9110 section 15.3.7.3: only what has the same strong `ETag`). What has become whole is an answer
//! like any other. Not here: which parts may be stored (`policy/cache/ranges.rs`).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderMap;
use http::header::ETAG;
use pingora_cache::key::CacheHashKey;
use pingora_cache::{CacheKey, CacheMeta};

use super::entry::{Body, Entry};
use super::memory::{Cache, Place};
use super::range::Wanted;
use super::storage::Ticket;
use super::tags::{TAGS_MAX, Tags};

/// Parts of one answer that do not make the whole; with more of them only the last is kept.
const PARTS_MAX: usize = 1024;

/// A part that is being received.
pub struct Part {
    cache: &'static Cache,
    place: Place,
    /// The answer without its body.
    entry: Entry,
    /// Where the part begins, and ends.
    range: Range<usize>,
    /// Of the whole.
    length: usize,
    /// What has come of it.
    bytes: Vec<u8>,
    stored: bool,
    /// Holds room for the part.
    _ticket: Ticket,
}

impl Part {
    /// Of an answer with `length` bytes, whose header is in `meta`; none without a ticket there.
    pub fn new(
        cache: &'static Cache,
        key: &CacheKey,
        meta: &CacheMeta,
        range: Range<usize>,
        length: usize,
    ) -> Option<Self> {
        let (place, ticket) = cache.place(key, meta)?;
        let entry = Entry::new(meta, Arc::default(), place.tags.clone());
        let bytes = Vec::with_capacity(range.len());
        Some(Self { cache, place, entry, range, length, bytes, stored: false, _ticket: ticket })
    }

    /// Takes what came; false where it is more than the part has: then nothing is stored.
    pub fn add(&mut self, piece: &[u8]) -> bool {
        let fits = piece.len() <= self.range.len() - self.bytes.len();
        if fits {
            self.bytes.extend_from_slice(piece);
        }
        fits
    }

    /// Stores it, where all of it has come.
    pub fn store(mut self) {
        if self.bytes.len() == self.range.len() {
            self.stored = true;
            let bytes = std::mem::take(&mut self.bytes).into_boxed_slice();
            let part = Body::part(self.range.start, bytes.into(), self.length);
            self.cache.store_part(&self.place, &self.entry, part);
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.stored {
            self.cache.counts.dropped_truncated.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Entry {
    /// This answer, as it is stored after `before`, which may be the same in parts or whole; none where what is stored is worth more.
    pub(super) fn with_part(&self, part: Body, before: Option<&Entry>, weight_max: u64) -> Option<Self> {
        let alone = |part: Body| Some(self.with_body(self.head.clone(), Arc::new(part)));
        let Some(before) = before else { return alone(part) };
        let is_same =
            before.body.length == part.length && strong_tag(self).is_some_and(|tag| strong_tag(before) == Some(tag));
        if !is_same {
            // A few bytes don't push out what is fresh and whole, or newer (RFC 9111 section 4).
            let is_fresh = before.fresh_until() >= SystemTime::now();
            let stays = is_fresh && (before.body.is_whole() || before.epoch > self.epoch);
            return if stays { None } else { alone(part) };
        }
        // The header of the part is newer, also where the whole is here.
        let body = if before.body.is_whole() { Arc::clone(&before.body) } else { Arc::new(before.body.with(&part)) };
        let is_bounded = body.is_whole() || body.chunks.len() <= PARTS_MAX;
        let tags: Vec<&str> = before.tags.iter().chain(self.tags.iter()).collect();
        let both = is_bounded.then(|| self.with_body(self.head.clone(), body).in_place_of(before, Tags::of(tags)));
        both.filter(|all| all.weight <= weight_max && all.tags.iter().count() <= TAGS_MAX).or_else(|| alone(part))
    }
}

/// Why what is stored of a key does not answer a request (RFC 9211 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Only other variants are here.
    Variant,
    /// It is here in parts, and they are stale.
    Freshness,
    /// It is here in parts, of which none is what is asked for.
    Parts,
}

impl Cache {
    /// Why what is stored of its key did not answer a request; none where memory has nothing of it.
    pub fn lack(&self, key: &CacheKey, request: &HeaderMap) -> Option<Lack> {
        let family = self.peek(&key.primary_bin())?;
        let stored = family.variants.iter().rev();
        let stored = stored.filter_map(|entry| Some((&**entry.selected.as_ref()?, &entry.head.headers)));
        let newest = family.variants.last()?.selected.as_ref();
        let asked = key.variance_bin().or_else(|| newest?.asked(request, stored));
        match family.find_exactly(asked) {
            None => Some(Lack::Variant),
            Some(entry) if entry.fresh_until() < SystemTime::now() => Some(Lack::Freshness),
            // What is whole came since.
            Some(entry) => (!entry.body.is_whole()).then_some(Lack::Parts),
        }
    }
}

/// What two answers share that are the same byte by byte (RFC 9110 section 8.8.1).
fn strong_tag(entry: &Entry) -> Option<&[u8]> {
    entry.head.headers.get(ETAG).map(|tag| tag.as_bytes()).filter(|tag| tag.starts_with(b"\"") && tag.len() > 2)
}

impl Body {
    /// One part of a body; the whole, where it is all of it.
    fn part(start: usize, bytes: Bytes, length: usize) -> Self {
        Self { chunks: vec![bytes], starts: vec![start], length }.whole_where_it_is()
    }

    /// The parts of both, which are of the same body.
    fn with(&self, part: &Self) -> Self {
        if part.is_whole() {
            return Self::of(part.chunks.clone());
        }
        let (mut chunks, mut starts) = (Vec::new(), Vec::new());
        let mut old = self.starts.iter().zip(&self.chunks);
        let mut new = part.starts.iter().zip(&part.chunks);
        let (mut next_old, mut next_new) = (old.next(), new.next());
        let mut end = 0;
        loop {
            let (start, chunk) = match (next_old, next_new) {
                (Some(one), Some(other)) if one.0 <= other.0 => {
                    next_old = old.next();
                    one
                }
                (_, Some(other)) => {
                    next_new = new.next();
                    other
                }
                (Some(one), None) => {
                    next_old = old.next();
                    one
                }
                (None, None) => break,
            };
            // What is here already is not kept twice.
            let known = end.max(*start) - start;
            if known < chunk.len() {
                // Copied where it is cut, or the rest would be held with it.
                let bytes = if known == 0 { chunk.clone() } else { Bytes::copy_from_slice(&chunk[known..]) };
                starts.push(start + known);
                end = start + chunk.len();
                chunks.push(bytes);
            }
        }
        chunks.shrink_to_fit();
        starts.shrink_to_fit();
        Self { chunks, starts, length: self.length }.whole_where_it_is()
    }

    fn whole_where_it_is(self) -> Self {
        if self.has_range(&(0..self.length)) { Self::of(self.chunks) } else { self }
    }

    /// Whether it is whole, or has what is wanted.
    pub(super) fn has(&self, wanted: Option<Wanted>) -> bool {
        let is_there = |wanted: Wanted| wanted.of_length(self.length).is_some_and(|range| self.has_range(&range));
        self.is_whole() || wanted.is_some_and(is_there)
    }

    fn has_range(&self, range: &Range<usize>) -> bool {
        let mut next = range.start;
        for (start, chunk) in self.starts.iter().zip(&self.chunks) {
            if *start > next {
                break;
            }
            next = next.max(start + chunk.len());
        }
        next >= range.end
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTH: usize = 24;

    fn byte(at: usize) -> u8 {
        b'a' + at as u8
    }

    fn part(range: &Range<usize>) -> Body {
        Body::part(range.start, range.clone().map(byte).collect::<Vec<u8>>().into(), LENGTH)
    }

    fn read(body: &Body, range: &Range<usize>) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(piece) = body.read(range.start + bytes.len(), range.end) {
            bytes.extend_from_slice(&piece);
        }
        bytes
    }

    proptest! {
        #[test]
        fn parts_add_up_to_what_is_known_of_them(
            parts in proptest::collection::vec((0..LENGTH).prop_flat_map(|start| (Just(start), start + 1..=LENGTH)), 1..8),
            asked in (0..LENGTH).prop_flat_map(|start| (Just(start), start + 1..=LENGTH)),
        ) {
            let mut known = [false; LENGTH];
            let mut body: Option<Body> = None;
            for (start, end) in parts {
                known[start..end].fill(true);
                let part = part(&(start..end));
                body = Some(match body {
                    Some(body) if body.is_whole() => body,
                    Some(body) => body.with(&part),
                    None => part,
                });
            }
            let body = body.unwrap();
            let (start, end) = asked;
            let is_known = known[start..end].iter().all(|known| *known);
            prop_assert_eq!(body.has(Some(Wanted::From(start, Some(end - 1)))), is_known);
            prop_assert_eq!(body.is_whole(), known.iter().all(|known| *known));
            prop_assert_eq!(body.held(), known.iter().filter(|known| **known).count());
            let got = read(&body, &(start..end));
            let expected: Vec<u8> = (start..end).take_while(|at| known[*at]).map(byte).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
