//! The store as Pingora's cache phases see it: look up, read, fill, confirm.
//! A fill is stored only when it is whole; one that is dropped, cut, too large or overtaken by a purge leaves nothing. While
//! it comes, others may follow it (`filling.rs`). What is being received is bounded and counted apart from what is stored.
//! Pingora's eviction, purge and size limit are not used: they count less than is held, or cut the client's answer.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_LENGTH;
use pingora_cache::key::{CacheHashKey, HashBinary};
use pingora_cache::storage::{HandleHit, HandleMiss, MissFinishType};
use pingora_cache::trace::SpanHandle;
use pingora_cache::{CacheKey, CacheMeta, HitHandler, MissHandler, PurgeOutcome, PurgeTarget, PurgeType, Storage};
use pingora_core::{Error, ErrorType, Result};

use super::entry::{Choice, Chosen, Entry};
use super::filling::{Filling, Follower, Reservation};
use super::key::KeyParts;
use super::memory::{Cache, Place};
use super::range::Wanted;
use super::tags::Tags;

/// What an answer that may be stored brings along in its meta; one without is not stored.
#[derive(Clone)]
pub struct Ticket {
    /// From [`Cache::stamp`], before anything was asked of an instance.
    pub stamp: u64,
    /// Bytes of the body; a larger one is not stored.
    pub body_max: u64,
    /// The route's pattern or name.
    pub endpoint: Arc<str>,
    /// What the answer can be purged by beside its URL; none where it does not say: a 304 then leaves what was.
    pub tags: Option<Tags>,
    /// Room for as much of the body as is known.
    pub reservation: Arc<Reservation>,
}

/// The stale entry that a request found, so that only this one is confirmed by its 304.
#[derive(Clone)]
struct FoundStale(Arc<Entry>);

/// In the meta of an answer that is still being received for another request.
#[derive(Clone, Copy)]
pub struct Collapsed;

#[async_trait]
impl Storage for Cache {
    async fn lookup(&'static self, key: &CacheKey, _: &SpanHandle) -> Result<Option<(CacheMeta, HitHandler)>> {
        let (primary, variance) = (key.primary_bin(), key.variance_bin());
        let wanted = key.extensions.get::<Wanted>().copied();
        let is_fresh = |entry: &Arc<Entry>| entry.fresh_until() >= SystemTime::now();
        let mut family = self.find(&primary);
        if !family.as_ref().and_then(|family| family.find(variance, wanted)).is_some_and(is_fresh) {
            if let Some(found) = self.follow(&primary, variance) {
                return Ok(Some(found));
            }
            // What was still being received at the first look may be stored since.
            family = self.find(&primary);
        }
        if family.as_ref().and_then(|family| family.find(variance, wanted)).is_none() {
            family = self.load_from_disk(key, primary, variance, wanted).await;
        }
        let Some(entry) = family.as_ref().and_then(|family| family.find(variance, wanted)) else { return Ok(None) };
        let mut meta = entry.meta();
        if !meta.is_fresh(SystemTime::now()) {
            meta.extensions_mut().insert(FoundStale(Arc::clone(entry)));
        }
        if let (Some(selected), Some(family)) = (&entry.selected, &family) {
            meta.extensions_mut().insert(Chosen(Arc::clone(selected)));
            meta.extensions_mut().insert(Choice(Arc::clone(family)));
        }
        Ok(Some((meta, Box::new(Hit::of(Arc::clone(entry))))))
    }

    async fn lookup_streaming_write(
        &'static self,
        key: &CacheKey,
        tag: Option<&[u8]>,
        _: &SpanHandle,
    ) -> Result<Option<(CacheMeta, HitHandler)>> {
        let own = self.fills.find_tagged(&key.primary_bin(), tag);
        Ok(own.map(|filling| (filling.entry.meta(), Box::new(Following(filling.follow_own())) as HitHandler)))
    }

    async fn get_miss_handler(&'static self, key: &CacheKey, meta: &CacheMeta, _: &SpanHandle) -> Result<MissHandler> {
        let Some((place, ticket)) = self.place(key, meta) else {
            return Error::e_explain(ErrorType::InternalError, "an answer without a ticket cannot be stored");
        };
        let entry = Entry::new(meta, Arc::default(), place.tags.clone());
        let filling = Arc::new(Filling::new(place, entry, ticket.reservation));
        self.fills.add(&filling);
        Ok(Box::new(Fill {
            cache: self,
            key: key.clone(),
            body_bytes: content_length(meta),
            body_max: ticket.body_max.min(self.body_bytes_max()),
            filling,
            given_up: false,
            finished: false,
        }))
    }

    async fn purge(&'static self, target: PurgeTarget<'_>, _: PurgeType, _: &SpanHandle) -> Result<PurgeOutcome> {
        // Purges go through `Cache::purge`, which knows all variants and consumers; Pingora never calls this,
        // as there is no eviction manager and no PURGE method.
        log::warn!("cache: a purge of {target} through Pingora is not supported");
        Ok(PurgeOutcome::NotFound)
    }

    async fn update_meta(&'static self, key: &CacheKey, meta: &CacheMeta, _: &SpanHandle) -> Result<bool> {
        let Some((mut place, ticket)) = self.place(key, meta) else { return Ok(false) };
        let Some(FoundStale(found)) = meta.extensions().get::<FoundStale>() else { return Ok(false) };
        if ticket.tags.is_none() {
            place.tags = found.tags.clone();
        }
        let mut entry = Entry::new(meta, Arc::clone(&found.body), place.tags.clone());
        entry.hits = found.hits.load(Ordering::Relaxed).into();
        // The request that confirmed it may have asked in other words.
        entry.selected.clone_from(&found.selected);
        Ok(self.confirm(&place, found, entry))
    }

    fn support_streaming_partial_write(&self) -> bool {
        true
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

impl Cache {
    pub(super) fn place(&self, key: &CacheKey, meta: &CacheMeta) -> Option<(Place, Ticket)> {
        let ticket = meta.extensions().get::<Ticket>()?.clone();
        let parts = KeyParts::of(key)?;
        let url = self.url(parts.host, parts.path, parts.query);
        let primary: HashBinary = key.primary_bin();
        let place = Place {
            primary,
            url,
            endpoint: Arc::clone(&ticket.endpoint),
            key: Arc::from(key.primary_key()),
            tags: ticket.tags.clone().unwrap_or_default(),
            stamp: ticket.stamp,
        };
        Some((place, ticket))
    }

    /// A fresh answer that is being received for another request.
    fn follow(&self, primary: &HashBinary, variance: Option<HashBinary>) -> Option<(CacheMeta, HitHandler)> {
        let filling = self.fills.find(primary, variance)?;
        if filling.entry.fresh_until() < SystemTime::now() || self.is_overtaken(&filling.place) {
            return None;
        }
        let follower = filling.follow()?;
        let mut meta = filling.entry.meta();
        meta.extensions_mut().insert(Collapsed);
        if let Some(selected) = &filling.entry.selected {
            meta.extensions_mut().insert(Chosen(Arc::clone(selected)));
        }
        Some((meta, Box::new(Following(follower))))
    }
}

fn content_length(meta: &CacheMeta) -> Option<u64> {
    meta.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a stored body, whole or one range of it; hands out what is stored without copying.
struct Hit {
    entry: Arc<Entry>,
    next: usize,
    end: usize,
    is_counted: bool,
}

impl Hit {
    fn of(entry: Arc<Entry>) -> Self {
        let end = entry.body.length;
        Self { entry, next: 0, end, is_counted: false }
    }

    /// Not when it is found: Pingora may then look for another variant.
    fn count(&mut self) {
        if !std::mem::replace(&mut self.is_counted, true) {
            self.entry.hits.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[async_trait]
impl HandleHit for Hit {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        self.count();
        let piece = self.entry.body.read(self.next, self.end);
        self.next += piece.as_ref().map_or(0, Bytes::len);
        if piece.is_none() && self.next < self.end {
            return Error::e_explain(ErrorType::InternalError, format!("no byte {} is stored", self.next));
        }
        Ok(piece)
    }

    async fn finish(mut self: Box<Self>, _: &'static (dyn Storage + Sync), _: &CacheKey, _: &SpanHandle) -> Result<()> {
        self.count();
        Ok(())
    }

    fn can_seek(&self) -> bool {
        true
    }

    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        let length = self.entry.body.length;
        if start >= length {
            return Error::e_explain(ErrorType::InternalError, format!("range starts at {start} of {length} bytes"));
        }
        self.next = start;
        self.end = end.map_or(length, |end| end.min(length));
        Ok(())
    }

    fn should_count_access(&self) -> bool {
        false
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

/// Reads an answer that is being received.
struct Following(Follower);

#[async_trait]
impl HandleHit for Following {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        self.0.read().await
    }

    async fn finish(self: Box<Self>, _: &'static (dyn Storage + Sync), _: &CacheKey, _: &SpanHandle) -> Result<()> {
        Ok(())
    }

    // Ranges of an answer without a length are not served: Pingora asks for its Content-Length.
    fn can_seek(&self) -> bool {
        true
    }

    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        self.0.seek(start, end.unwrap_or(usize::MAX));
        Ok(())
    }

    fn should_count_access(&self) -> bool {
        false
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

/// Receives one answer.
struct Fill {
    cache: &'static Cache,
    key: CacheKey,
    filling: Arc<Filling>,
    body_bytes: Option<u64>,
    body_max: u64,
    given_up: bool,
    finished: bool,
}

impl Fill {
    fn write(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || self.filling.add(bytes, self.body_max) || std::mem::replace(&mut self.given_up, true) {
            return;
        }
        let counts = &self.cache.counts;
        if self.filling.has_come().0 as u64 > self.body_max {
            self.cache.oversized.remember(&self.key);
            counts.dropped_too_large.fetch_add(1, Ordering::Relaxed);
        } else {
            counts.dropped_no_room.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes the answer visible; the bytes it weighs, 0 where it was not stored.
    fn store(mut self) -> usize {
        self.finished = true;
        let (length, kept) = self.filling.has_come();
        if self.body_bytes.is_some_and(|wanted| wanted != length as u64) {
            self.cache.counts.dropped_truncated.fetch_add(1, Ordering::Relaxed);
            self.filling.breaks_off();
            return 0;
        }
        if !kept {
            self.filling.ends(None);
            return 0;
        }
        let body = self.filling.take_body();
        let mut head = self.filling.entry.head.clone();
        if self.body_bytes.is_none() && head.status != StatusCode::NO_CONTENT {
            // The whole is here now, so its length can be told.
            let _ = head.insert_header(CONTENT_LENGTH, length);
        }
        let entry = self.filling.entry.with_body(head, Arc::clone(&body));
        let weight = entry.weight as usize;
        let stored = self.cache.store(&self.filling.place, entry);
        // Now, so that whoever looks meanwhile finds the one or the other.
        self.cache.fills.remove(&self.filling);
        self.filling.ends(Some(body));
        if stored { weight } else { 0 }
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.cache.fills.remove(&self.filling);
        if !self.finished {
            self.filling.breaks_off();
            if !self.given_up {
                self.cache.counts.dropped_truncated.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[async_trait]
impl HandleMiss for Fill {
    async fn write_body(&mut self, data: Bytes, _eof: bool) -> Result<()> {
        self.write(&data);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<MissFinishType> {
        Ok(MissFinishType::Created(self.store()))
    }

    fn streaming_write_tag(&self) -> Option<&[u8]> {
        Some(self.filling.tag())
    }
}

#[cfg(test)]
mod tests;
