//! The store as Pingora's cache phases see it: look up, read, fill, confirm.
//! A fill becomes visible only when it is whole; one that is dropped, cut, too large or overtaken by a clear leaves
//! nothing, and its client notices nothing. What is being received is bounded and counted apart from what is stored.
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

use super::entry::{Body, Entry};
use super::key::KeyParts;
use super::memory::{Cache, Place};

/// Pieces of a stored body; larger ones are handed to the client in as many writes.
const CHUNK_BYTES: usize = 64 << 10;

/// What an answer that may be stored brings along in its meta; one without is not stored.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// From [`Cache::stamp`], before anything was asked of an instance.
    pub stamp: u64,
    /// Bytes of the body; a larger one is not stored.
    pub body_max: u64,
    /// The route's pattern or name.
    pub endpoint: Arc<str>,
}

/// The stale entry that a request found, so that only this one is confirmed by its 304.
#[derive(Clone)]
struct FoundStale(Arc<Entry>);

#[async_trait]
impl Storage for Cache {
    async fn lookup(&'static self, key: &CacheKey, _: &SpanHandle) -> Result<Option<(CacheMeta, HitHandler)>> {
        let Some(family) = self.find(&key.primary_bin()) else { return Ok(None) };
        let Some(entry) = family.find(key.variance_bin()) else { return Ok(None) };
        let mut meta = entry.meta();
        if !meta.is_fresh(SystemTime::now()) {
            meta.extensions_mut().insert(FoundStale(Arc::clone(entry)));
        }
        Ok(Some((meta, Box::new(Hit::of(Arc::clone(entry))))))
    }

    async fn get_miss_handler(&'static self, key: &CacheKey, meta: &CacheMeta, _: &SpanHandle) -> Result<MissHandler> {
        let Some((place, ticket)) = self.place(key, meta) else {
            return Error::e_explain(ErrorType::InternalError, "an answer without a ticket cannot be stored");
        };
        let mut copy = CacheMeta::new(meta.fresh_until(), meta.created(), 0, 0, meta.response_header_copy());
        copy.set_epoch_override(meta.epoch());
        if let Some(variance) = meta.variance() {
            copy.set_variance(variance);
        }
        Ok(Box::new(Fill {
            cache: self,
            place,
            meta: copy,
            body_bytes: content_length(meta),
            body_max: ticket.body_max.min(self.weight_max()),
            body: Body::default(),
            tail: Vec::new(),
            reserved: 0,
            given_up: false,
            finished: false,
        }))
    }

    async fn purge(&'static self, target: PurgeTarget<'_>, _: PurgeType, _: &SpanHandle) -> Result<PurgeOutcome> {
        // Clears go through `Cache::clear`, which knows all variants and consumers; Pingora never calls this,
        // as there is no eviction manager and no PURGE method.
        log::warn!("cache: a purge of {target} through Pingora is not supported");
        Ok(PurgeOutcome::NotFound)
    }

    async fn update_meta(&'static self, key: &CacheKey, meta: &CacheMeta, _: &SpanHandle) -> Result<bool> {
        let Some((place, _)) = self.place(key, meta) else { return Ok(false) };
        let Some(FoundStale(found)) = meta.extensions().get::<FoundStale>() else { return Ok(false) };
        Ok(self.confirm(&place, found, Entry::new(meta, Arc::clone(&found.body))))
    }

    fn support_streaming_partial_write(&self) -> bool {
        false
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

impl Cache {
    fn place(&self, key: &CacheKey, meta: &CacheMeta) -> Option<(Place, Ticket)> {
        let ticket = meta.extensions().get::<Ticket>()?.clone();
        let parts = KeyParts::of(key)?;
        let url = self.url(parts.host, parts.path, parts.query);
        let primary: HashBinary = key.primary_bin();
        Some((Place { primary, url, endpoint: Arc::clone(&ticket.endpoint), stamp: ticket.stamp }, ticket))
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
}

impl Hit {
    fn of(entry: Arc<Entry>) -> Self {
        let end = entry.body.length;
        Self { entry, next: 0, end }
    }

    /// The rest of the chunk at `next`, up to `end`.
    fn read(&mut self) -> Option<Bytes> {
        if self.next >= self.end {
            return None;
        }
        // All chunks but the last are of one size.
        let chunk = self.entry.body.chunks.get(self.next / CHUNK_BYTES)?;
        let start = self.next % CHUNK_BYTES;
        let piece = chunk.slice(start..chunk.len().min(start + self.end - self.next));
        self.next += piece.len();
        Some(piece)
    }
}

#[async_trait]
impl HandleHit for Hit {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        Ok(self.read())
    }

    async fn finish(self: Box<Self>, _: &'static (dyn Storage + Sync), _: &CacheKey, _: &SpanHandle) -> Result<()> {
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

/// Receives one answer.
struct Fill {
    cache: &'static Cache,
    place: Place,
    meta: CacheMeta,
    body_bytes: Option<u64>,
    body_max: u64,
    body: Body,
    tail: Vec<u8>,
    reserved: u64,
    given_up: bool,
    finished: bool,
}

impl Fill {
    fn write(&mut self, mut bytes: &[u8]) {
        let length = (self.body.length + self.tail.len() + bytes.len()) as u64;
        let counts = &self.cache.counts;
        if self.given_up {
            return;
        } else if length > self.body_max {
            counts.dropped_too_large.fetch_add(1, Ordering::Relaxed);
            return self.give_up();
        } else if !self.cache.reserve(bytes.len() as u64) {
            counts.dropped_no_room.fetch_add(1, Ordering::Relaxed);
            return self.give_up();
        }
        self.reserved += bytes.len() as u64;
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.tail.len()));
            self.tail.extend_from_slice(piece);
            bytes = rest;
            if self.tail.len() == CHUNK_BYTES {
                self.cut();
            }
        }
    }

    /// Ends the chunk in hand, at its exact size.
    fn cut(&mut self) {
        let chunk = Bytes::from(std::mem::take(&mut self.tail).into_boxed_slice());
        if !chunk.is_empty() {
            self.body.length += chunk.len();
            self.body.chunks.push(chunk);
        }
    }

    fn give_up(&mut self) {
        self.given_up = true;
        self.body = Body::default();
        self.tail = Vec::new();
        self.cache.release(std::mem::take(&mut self.reserved));
    }

    /// Makes the answer visible; the bytes it weighs, 0 where it was not stored.
    fn store(mut self) -> usize {
        self.cut();
        self.finished = true;
        if self.given_up {
            return 0;
        }
        let length = self.body.length as u64;
        match self.body_bytes {
            Some(wanted) if wanted != length => {
                self.cache.counts.dropped_truncated.fetch_add(1, Ordering::Relaxed);
                return 0;
            }
            // The whole is here now, so its length can be told.
            None if self.meta.response_header().status != StatusCode::NO_CONTENT => {
                let _ = self.meta.response_header_mut().insert_header(CONTENT_LENGTH, length);
            }
            _ => {}
        }
        let entry = Entry::new(&self.meta, Arc::new(std::mem::take(&mut self.body)));
        let weight = entry.weight as usize;
        if self.cache.store(&self.place, entry) { weight } else { 0 }
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.cache.release(self.reserved);
        if !self.finished && !self.given_up {
            self.cache.counts.dropped_truncated.fetch_add(1, Ordering::Relaxed);
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
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pingora_cache::trace::Span;
    use pingora_http::ResponseHeader;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::super::memory::Scope;
    use super::*;

    const MB: u64 = 1 << 20;

    fn cache(bytes_max: u64) -> &'static Cache {
        Box::leak(Box::new(Cache::new(bytes_max)))
    }

    fn key(path: &str, consumer: Option<&str>) -> CacheKey {
        let host = "example.com";
        KeyParts { fingerprint: 1, endpoint: "/*", scheme: "http", host, path, query: None, consumer }.key()
    }

    fn meta(cache: &Cache, headers: &[(&'static str, &str)]) -> CacheMeta {
        let mut head = ResponseHeader::build(200, None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        let now = SystemTime::now();
        let mut meta = CacheMeta::new(now + Duration::from_secs(60), now, 0, 0, head);
        meta.set_epoch_override(now);
        meta.extensions_mut().insert(Ticket { stamp: cache.stamp(), body_max: MB, endpoint: Arc::from("/*") });
        meta
    }

    fn variant(cache: &Cache, language: u8) -> CacheMeta {
        let mut meta = meta(cache, &[("vary", "accept-language")]);
        meta.set_variance([language; 16]);
        meta
    }

    async fn fill(cache: &'static Cache, key: &CacheKey, meta: &CacheMeta, pieces: &[&[u8]]) -> usize {
        let mut handler = cache.get_miss_handler(key, meta, &Span::inactive().handle()).await.unwrap();
        for piece in pieces {
            handler.write_body(Bytes::copy_from_slice(piece), false).await.unwrap();
        }
        match handler.finish().await.unwrap() {
            MissFinishType::Created(weight) => weight,
            MissFinishType::Appended(..) => unreachable!("nothing appends"),
        }
    }

    async fn body(hit: &mut HitHandler) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(piece) = hit.read_body().await.unwrap() {
            body.extend_from_slice(&piece);
        }
        body
    }

    async fn look(cache: &'static Cache, key: &CacheKey) -> Option<(CacheMeta, Vec<u8>)> {
        let (meta, mut hit) = cache.lookup(key, &Span::inactive().handle()).await.unwrap()?;
        Some((meta, body(&mut hit).await))
    }

    #[tokio::test]
    async fn what_was_filled_is_found_again_with_its_length() {
        let cache = cache(8 * MB);
        let key = key("/a", None);
        assert!(look(cache, &key).await.is_none());
        let meta = meta(cache, &[("content-type", "text/plain")]);
        assert!(fill(cache, &key, &meta, &[b"hello ", b"world"]).await > 11);
        let (meta, body) = look(cache, &key).await.unwrap();
        assert_eq!(body, b"hello world");
        assert_eq!(meta.headers()["content-length"], "11");
        assert_eq!(meta.headers()["content-type"], "text/plain");
        assert_eq!((cache.stats().entries, cache.stats().filling_bytes), (1, 0));
    }

    #[tokio::test]
    async fn a_range_is_read_across_chunks() {
        let cache = cache(32 * MB);
        let key = key("/a", None);
        let whole: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        fill(cache, &key, &meta(cache, &[]), &[&whole]).await;
        assert_eq!(look(cache, &key).await.unwrap().1, whole);
        for (start, end) in [(0, 1), (65_535, 65_537), (65_536, 131_072), (1, 199_999), (199_999, 200_000)] {
            let (_, mut hit) = cache.lookup(&key, &Span::inactive().handle()).await.unwrap().unwrap();
            hit.seek(start, Some(end)).unwrap();
            assert_eq!(body(&mut hit).await, whole[start..end], "{start}..{end}");
        }
        let (_, mut hit) = cache.lookup(&key, &Span::inactive().handle()).await.unwrap().unwrap();
        assert!(hit.seek(200_000, None).is_err());
    }

    #[tokio::test]
    async fn a_fill_that_does_not_end_whole_leaves_nothing() {
        let cache = cache(8 * MB);
        let key = key("/a", None);
        let mut handler = cache.get_miss_handler(&key, &meta(cache, &[]), &Span::inactive().handle()).await.unwrap();
        handler.write_body(Bytes::from_static(b"half"), false).await.unwrap();
        assert_eq!(cache.stats().filling_bytes, 4);
        assert!(look(cache, &key).await.is_none());
        drop(handler);
        assert_eq!(fill(cache, &key, &meta(cache, &[("content-length", "9")]), &[b"short"]).await, 0);
        assert!(look(cache, &key).await.is_none());
        assert_eq!((cache.stats().filling_bytes, cache.stats().dropped_truncated), (0, 2));
    }

    #[tokio::test]
    async fn a_fill_that_grows_too_large_is_dropped_without_an_error() {
        let cache = cache(64 * MB);
        let key = key("/a", None);
        let piece = vec![0; 700_000];
        assert_eq!(fill(cache, &key, &meta(cache, &[]), &[&piece, &piece]).await, 0);
        assert!(look(cache, &key).await.is_none());
        assert_eq!((cache.stats().dropped_too_large, cache.stats().filling_bytes), (1, 0));
    }

    #[tokio::test]
    async fn all_fills_together_are_bounded() {
        let cache = cache(16 * MB);
        let (key, piece) = (key("/a", None), Bytes::from(vec![0; MB as usize]));
        let mut handlers = Vec::new();
        for _ in 0..8 {
            let mut handler =
                cache.get_miss_handler(&key, &meta(cache, &[]), &Span::inactive().handle()).await.unwrap();
            handler.write_body(piece.clone(), false).await.unwrap();
            handlers.push(handler);
        }
        let stats = cache.stats();
        assert_eq!((stats.filling_bytes, stats.filling_bytes_max, stats.dropped_no_room), (4 * MB, 4 * MB, 4));
        drop(handlers);
        assert_eq!(cache.stats().filling_bytes, 0);
    }

    #[tokio::test]
    async fn variants_are_found_by_their_variance() {
        let cache = cache(8 * MB);
        let mut key = key("/a", None);
        for language in 1..=3 {
            fill(cache, &key, &variant(cache, language), &[&[language]]).await;
        }
        let newest = look(cache, &key).await.unwrap();
        assert_eq!((newest.0.variance(), newest.1), (Some([3; 16]), vec![3]));
        key.set_variance_key([1; 16]);
        assert_eq!(look(cache, &key).await.unwrap().1, [1]);
        key.set_variance_key([9; 16]);
        assert!(look(cache, &key).await.is_none());
        assert_eq!(cache.stats().entries, 3);
        // An answer that varies by something else says that what was stored was chosen wrongly.
        key.remove_variance_key();
        fill(cache, &key, &meta(cache, &[]), &[b"plain"]).await;
        assert_eq!(cache.stats().entries, 1);
    }

    #[tokio::test]
    async fn a_family_is_bounded_and_the_oldest_goes() {
        let cache = cache(8 * MB);
        let mut key = key("/a", None);
        for language in 1..=65 {
            fill(cache, &key, &variant(cache, language), &[&[language]]).await;
        }
        assert_eq!(cache.stats().entries, 64);
        key.set_variance_key([1; 16]);
        assert!(look(cache, &key).await.is_none());
        key.set_variance_key([2; 16]);
        assert!(look(cache, &key).await.is_some());
    }

    #[tokio::test]
    async fn a_url_is_cleared_for_all_consumers_and_nothing_else() {
        let cache = cache(8 * MB);
        let consumers = [None, Some("acme"), Some("other")];
        for consumer in consumers {
            fill(cache, &key("/a", consumer), &variant(cache, 1), &[b"1"]).await;
            fill(cache, &key("/a", consumer), &variant(cache, 2), &[b"2"]).await;
            fill(cache, &key("/b", consumer), &meta(cache, &[]), &[b"b"]).await;
        }
        assert_eq!(cache.clear(Scope::Url { host: "example.com", path_and_query: "/a?" }), 0);
        assert_eq!(cache.clear(Scope::Url { host: "example.com", path_and_query: "/a" }), 6);
        assert_eq!(cache.invalidate("example.com", "/a"), 0);
        for consumer in consumers {
            assert!(look(cache, &key("/a", consumer)).await.is_none());
            assert!(look(cache, &key("/b", consumer)).await.is_some());
        }
        assert_eq!(cache.clear(Scope::Route("/other/*")), 0);
        assert_eq!(cache.clear(Scope::Route("/*")), 3);
        fill(cache, &key("/c", None), &meta(cache, &[]), &[b"c"]).await;
        assert_eq!(cache.clear(Scope::All), 1);
        assert_eq!((cache.stats().entries, cache.stats().bytes), (0, 0));
    }

    #[tokio::test]
    async fn a_clear_wins_over_what_was_asked_before_it() {
        let cache = cache(8 * MB);
        let key = key("/a", None);
        let url = Scope::Url { host: "example.com", path_and_query: "/a" };
        for scope in [Scope::All, Scope::Route("/*"), url] {
            let before = meta(cache, &[]);
            cache.clear(scope);
            assert_eq!(fill(cache, &key, &before, &[b"old"]).await, 0, "{scope:?}");
            assert!(look(cache, &key).await.is_none());
            assert!(fill(cache, &key, &meta(cache, &[]), &[b"new"]).await > 0);
            assert_eq!(cache.clear(Scope::All), 1);
        }
        assert_eq!(cache.stats().dropped_cleared, 3);
    }

    #[tokio::test]
    async fn a_confirmation_changes_only_the_answer_that_was_confirmed() {
        let cache = cache(8 * MB);
        let key = key("/a", None);
        let span = Span::inactive().handle();
        let mut stale = meta(cache, &[("etag", "1")]);
        stale.expire_at(SystemTime::now() - Duration::from_secs(5));
        fill(cache, &key, &stale, &[b"body"]).await;
        let confirm = |found: &CacheMeta| {
            let mut confirmed = meta(cache, &[("etag", "1"), ("x-new", "yes")]);
            confirmed.extensions_mut().extend(found.extensions().clone());
            confirmed
        };
        let (found, _) = look(cache, &key).await.unwrap();
        assert!(cache.update_meta(&key, &confirm(&found), &span).await.unwrap());
        let (fresh, body) = look(cache, &key).await.unwrap();
        assert!(fresh.is_fresh(SystemTime::now()));
        assert_eq!((body.as_slice(), &fresh.headers()["x-new"]), (b"body".as_slice(), &"yes".parse().unwrap()));
        // Replaced meanwhile: the old confirmation is of another answer.
        assert!(!cache.update_meta(&key, &confirm(&found), &span).await.unwrap());
        cache.clear(Scope::All);
        assert!(!cache.update_meta(&key, &confirm(&found), &span).await.unwrap());
        assert_eq!(cache.stats().entries, 0);
    }

    #[tokio::test]
    async fn the_bound_holds_over_random_inserts_and_resizes() {
        let cache = cache(4 * MB);
        let mut random = StdRng::seed_from_u64(7);
        let block = vec![7_u8; 40_000];
        for round in 0..200_000_u32 {
            let key = key(&format!("/{}", random.random_range(0..20_000)), None);
            let meta =
                if random.random_bool(0.3) { variant(cache, random.random_range(0..70)) } else { meta(cache, &[]) };
            // Mostly small, now and then large.
            let length = if round % 100 == 0 { random.random_range(0..40_000) } else { random.random_range(0..600) };
            fill(cache, &key, &meta, &[&block[..length]]).await;
            if round % 50_000 == 49_999 {
                cache.resize(u64::from(round % 3 + 2) * MB);
            }
            let stats = cache.stats();
            assert!(stats.bytes <= stats.bytes_max, "{stats:?}");
        }
        let stats = cache.stats();
        assert!(stats.bytes > stats.bytes_max / 2 && stats.evictions > 100_000, "{stats:?}");
        // Everything that is stored is in the index, so that clearing by route finds all of it.
        assert_eq!(cache.clear(Scope::Route("/*")), stats.entries);
        assert_eq!((cache.stats().bytes, cache.stats().entries), (0, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn readers_writers_and_clears_at_once_never_mix_answers() {
        let cache = cache(2 * MB);
        let tasks = (0..8_u64).map(|seed| {
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed);
                for _ in 0..4_000 {
                    let id: u16 = random.random_range(0..400);
                    let (key, path) = (key(&format!("/{id}"), None), format!("/{id}"));
                    match random.random_range(0..20) {
                        0 => drop(cache.invalidate("example.com", &path)),
                        1 if random.random_bool(0.02) => drop(cache.clear(Scope::All)),
                        2 if random.random_bool(0.02) => cache.resize(random.random_range(1..4) * MB),
                        1..=9 => {
                            let whole = id.to_be_bytes().repeat(random.random_range(1..4_000));
                            fill(cache, &key, &meta(cache, &[]), &[&whole]).await;
                        }
                        _ => {
                            if let Some((meta, body)) = look(cache, &key).await {
                                assert_eq!(meta.headers()["content-length"], body.len().to_string());
                                assert!(body.chunks(2).all(|pair| pair == id.to_be_bytes()));
                            }
                        }
                    }
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let stats = cache.stats();
        assert!(stats.bytes <= stats.bytes_max && stats.filling_bytes == 0, "{stats:?}");
        assert_eq!(cache.clear(Scope::All), stats.entries);
        assert_eq!(cache.stats().bytes, 0);
    }
}
