//! The store behind Pingora's trait, without a proxy around it.
//! What is filled is found again, whole or not at all.

mod disk;

use std::time::Duration;

use pingora_cache::trace::Span;
use pingora_http::ResponseHeader;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::purge::{How, Scope};
use super::super::vary::Selected;
use super::*;

const MB: u64 = 1 << 20;

fn cache(bytes_max: u64) -> &'static Cache {
    Box::leak(Box::new(Cache::new(bytes_max)))
}

fn key(path: &str, consumer: Option<&str>) -> CacheKey {
    let host = "example.com";
    let parts =
        KeyParts { fingerprint: 1, endpoint: "/*", scheme: "http", host, path, query: None, consumer, additions: None };
    parts.key()
}

fn meta(cache: &'static Cache, headers: &[(&'static str, &str)]) -> CacheMeta {
    let mut head = ResponseHeader::build(200, None).unwrap();
    for (name, value) in headers {
        head.append_header(*name, *value).unwrap();
    }
    let now = SystemTime::now();
    let mut meta = CacheMeta::new(now + Duration::from_secs(60), now, 0, 0, head);
    meta.set_epoch_override(now);
    let reservation = Arc::new(Reservation::of(cache, 0).unwrap());
    meta.extensions_mut().insert(Ticket {
        stamp: cache.stamp(),
        body_max: MB,
        endpoint: Arc::from("/*"),
        tags: None,
        reservation,
    });
    meta
}

fn selected(language: u8) -> Selected {
    let [answer, asked] =
        [("vary", "accept-language".to_owned()), ("accept-language", language.to_string())].map(|(name, value)| {
            http::HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
        });
    Selected::of(&answer, &[], &asked).unwrap()
}

fn variance(language: u8) -> HashBinary {
    selected(language).variance().unwrap()
}

fn variant(cache: &'static Cache, language: u8) -> CacheMeta {
    let mut meta = meta(cache, &[("vary", "accept-language")]);
    meta.set_variance(variance(language));
    meta.extensions_mut().insert(Chosen(Arc::new(selected(language))));
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
    assert_eq!((cache.stats().filling_bytes, cache.stats().entries), (4, 0));
    let (_, mut follower) = cache.lookup(&key, &Span::inactive().handle()).await.unwrap().unwrap();
    drop(handler);
    assert_eq!(&follower.read_body().await.unwrap().unwrap()[..], b"half");
    assert!(follower.read_body().await.is_err(), "what broke off is taken for whole");
    assert!(look(cache, &key).await.is_none());
    drop(follower);
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
    // All are decided on before the first one needs room.
    let metas: Vec<_> = (0..8).map(|_| meta(cache, &[])).collect();
    for meta in metas {
        let mut handler = cache.get_miss_handler(&key, &meta, &Span::inactive().handle()).await.unwrap();
        handler.write_body(piece.clone(), false).await.unwrap();
        handlers.push(handler);
    }
    let stats = cache.stats();
    // What finds no room goes on for its own client, and is counted.
    assert_eq!((stats.filling_bytes, stats.filling_bytes_max, stats.dropped_no_room), (8 * MB, 4 * MB, 4));
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
    assert_eq!((newest.0.variance(), newest.1), (Some(variance(3)), vec![3]));
    key.set_variance_key(variance(1));
    assert_eq!(look(cache, &key).await.unwrap().1, [1]);
    key.set_variance_key(variance(9));
    assert!(look(cache, &key).await.is_none());
    assert_eq!((cache.stats().entries, cache.stats().keys), (3, 1));
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
    key.set_variance_key(variance(1));
    assert!(look(cache, &key).await.is_none());
    key.set_variance_key(variance(2));
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
    assert_eq!(cache.purge(Scope::Url { host: "example.com", path_and_query: "/a?" }, How::Hard), 0);
    assert_eq!(cache.purge(Scope::Url { host: "example.com", path_and_query: "/a" }, How::Hard), 6);
    assert_eq!(cache.invalidate("example.com", "/a"), 0);
    for consumer in consumers {
        assert!(look(cache, &key("/a", consumer)).await.is_none());
        assert!(look(cache, &key("/b", consumer)).await.is_some());
    }
    assert_eq!(cache.purge(Scope::Route("/other/*"), How::Hard), 0);
    assert_eq!(cache.purge(Scope::Route("/*"), How::Hard), 3);
    fill(cache, &key("/c", None), &meta(cache, &[]), &[b"c"]).await;
    assert_eq!(cache.purge(Scope::All, How::Hard), 1);
    assert_eq!((cache.stats().entries, cache.stats().bytes), (0, 0));
}

#[tokio::test]
async fn a_clear_wins_over_what_was_asked_before_it() {
    let cache = cache(8 * MB);
    let key = key("/a", None);
    let url = Scope::Url { host: "example.com", path_and_query: "/a" };
    for scope in [Scope::All, Scope::Route("/*"), url] {
        let before = meta(cache, &[]);
        cache.purge(scope, How::Hard);
        assert_eq!(fill(cache, &key, &before, &[b"old"]).await, 0, "{scope:?}");
        assert!(look(cache, &key).await.is_none());
        assert!(fill(cache, &key, &meta(cache, &[]), &[b"new"]).await > 0);
        assert_eq!(cache.purge(Scope::All, How::Hard), 1);
    }
    assert_eq!(cache.stats().dropped_cleared, 3);
}

#[tokio::test]
async fn changes_elsewhere_cost_no_fill() {
    let cache = cache(MB);
    let under_way: Vec<_> = (0..100).map(|n| (key(&format!("/{n}"), None), meta(cache, &[]))).collect();
    for n in 0..1000 {
        cache.invalidate("example.com", &format!("/other/{n}"));
    }
    for (key, meta) in &under_way {
        assert!(fill(cache, key, meta, &[b"a"]).await > 0);
    }
}

fn tagged(cache: &'static Cache, tags: &str) -> CacheMeta {
    let mut meta = meta(cache, &[]);
    let fields = http::HeaderMap::from_iter([(http::HeaderName::from_static("cache-tag"), tags.parse().unwrap())]);
    let tags = Tags::read(&fields, &[http::HeaderName::from_static("cache-tag")]).unwrap();
    let ticket = meta.extensions().get::<Ticket>().unwrap().clone();
    meta.extensions_mut().insert(Ticket { tags, ..ticket });
    meta
}

#[tokio::test]
async fn a_purge_finds_what_it_names_and_nothing_else() {
    let cache = cache(8 * MB);
    let host = "example.com";
    for consumer in [None, Some("acme"), Some("other")] {
        fill(cache, &key("/img/a", consumer), &tagged(cache, "blog front"), &[b"a"]).await;
        fill(cache, &key("/img/b", consumer), &tagged(cache, "blog"), &[b"b"]).await;
        fill(cache, &key("/image", consumer), &meta(cache, &[]), &[b"c"]).await;
    }
    assert_eq!(cache.purge(Scope::Tag("blo"), How::Hard), 0);
    assert_eq!(cache.purge(Scope::Consumer("acme"), How::Hard), 3);
    assert_eq!(cache.purge(Scope::Tag("front"), How::Hard), 2);
    assert_eq!(cache.purge(Scope::Tag("front"), How::Hard), 0);
    assert_eq!(cache.purge(Scope::Prefix { host: "example.net", path: "/" }, How::Hard), 0);
    assert_eq!(cache.purge(Scope::Prefix { host, path: "/img/" }, How::Hard), 2);
    assert_eq!(cache.purge(Scope::Prefix { host, path: "/im" }, How::Hard), 2);
    let stats = cache.stats();
    assert_eq!((stats.entries, stats.bytes, stats.purged, stats.evictions), (0, 0, 9, 0));
}

#[tokio::test]
async fn a_soft_purge_leaves_a_stale_answer() {
    let cache = cache(8 * MB);
    let key = key("/a", None);
    fill(cache, &key, &tagged(cache, "t"), &[b"old"]).await;
    let before = tagged(cache, "t");
    assert_eq!(cache.purge(Scope::Tag("t"), How::Soft), 1);
    assert_eq!(cache.purge(Scope::Tag("t"), How::Soft), 0, "it is stale already");
    let (meta, body) = look(cache, &key).await.unwrap();
    assert!(!meta.is_fresh(SystemTime::now()) && body == b"old");
    assert_eq!(fill(cache, &key, &before, &[b"asked before"]).await, 0);
    assert!(fill(cache, &key, &tagged(cache, "t"), &[b"new"]).await > 0);
    assert!(look(cache, &key).await.unwrap().0.is_fresh(SystemTime::now()));
}

#[tokio::test]
async fn every_kind_of_purge_wins_over_what_was_asked_before_it() {
    let cache = cache(8 * MB);
    let key = key("/a/b", Some("acme"));
    let (host, path) = ("example.com", "/a/");
    for scope in [Scope::Tag("t"), Scope::Consumer("acme"), Scope::Prefix { host, path }] {
        for how in [How::Hard, How::Soft] {
            let before = tagged(cache, "s t");
            cache.purge(scope, how);
            assert_eq!(fill(cache, &key, &before, &[b"old"]).await, 0, "{scope:?}");
            assert!(fill(cache, &key, &tagged(cache, "s t"), &[b"new"]).await > 0);
            assert_eq!(cache.purge(Scope::All, How::Hard), 1);
        }
    }
    for other in [Scope::Tag("u"), Scope::Consumer("other"), Scope::Prefix { host, path: "/b" }] {
        let before = tagged(cache, "s t");
        cache.purge(other, How::Hard);
        assert!(fill(cache, &key, &before, &[b"good"]).await > 0, "{other:?}");
    }
}

#[tokio::test]
async fn what_gives_way_leaves_nothing_in_the_index() {
    let cache = cache(MB);
    for number in 0..5_000 {
        let meta = tagged(cache, &format!("all t{number}"));
        fill(cache, &key(&format!("/{number}"), Some("acme")), &meta, &[&[0; 500]]).await;
    }
    let stats = cache.stats();
    assert!(stats.evictions > 3_000, "{stats:?}");
    assert_eq!(cache.indexed(), (stats.entries as usize, 3 * stats.entries as usize));
    cache.resize(MB / 2);
    let entries = cache.stats().entries;
    assert!(entries < stats.entries);
    assert_eq!(cache.purge(Scope::Tag("all"), How::Hard), entries);
    assert_eq!(cache.indexed(), (0, 0));
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
    cache.purge(Scope::All, How::Hard);
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
        let meta = if random.random_bool(0.3) { variant(cache, random.random_range(0..70)) } else { meta(cache, &[]) };
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
    assert_eq!(cache.purge(Scope::Route("/*"), How::Hard), stats.entries);
    assert_eq!((cache.stats().bytes, cache.stats().entries), (0, 0));
}

#[tokio::test]
async fn a_scan_does_not_push_out_what_is_used() {
    let cache = cache(8 * MB);
    let mut random = StdRng::seed_from_u64(11);
    let body = [7_u8; 4_000];
    let hot = |number: u32| key(&format!("/hot/{number}"), None);
    let ask = async |key: CacheKey| {
        let is_hit = look(cache, &key).await.is_some();
        if !is_hit {
            fill(cache, &key, &meta(cache, &[]), &[&body]).await;
        }
        is_hit
    };
    for _ in 0..10_000 {
        ask(hot(random.random_range(0..500))).await;
    }
    // A crawler asks for a hundred thousand things once, far more than there is room for, ten for each hot request.
    let mut hits = 0;
    for number in 0..100_000 {
        ask(key(&format!("/scan/{number}"), None)).await;
        if number % 10 == 0 {
            hits += u32::from(ask(hot(random.random_range(0..500))).await);
        }
    }
    assert!(hits > 9_000, "{hits} of 10,000 requests for hot answers found them");
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
                    1 if random.random_bool(0.02) => drop(cache.purge(Scope::All, How::Hard)),
                    2 if random.random_bool(0.02) => cache.resize(random.random_range(1..4) * MB),
                    1..=9 => {
                        let whole = id.to_be_bytes().repeat(random.random_range(1..4_000));
                        fill(cache, &key, &meta(cache, &[]), &[&whole]).await;
                    }
                    _ => {
                        if let Some((meta, body)) = look(cache, &key).await {
                            // Of one that is still being received nobody knows the length.
                            let length = meta.headers().get("content-length");
                            assert!(length.is_none_or(|length| *length == body.len().to_string()));
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
    assert_eq!(cache.purge(Scope::All, How::Hard), stats.entries);
    assert_eq!(cache.stats().bytes, 0);
}
