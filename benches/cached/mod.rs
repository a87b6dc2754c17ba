//! What the benchmarks of the cache store: the answers of an API, and what they take of memory.
//! Not here: bodies, which differ by what is measured.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName};
use pingora_cache::{CacheKey, CacheMeta};
use pingora_http::ResponseHeader;
use tollgate::cache::key::KeyParts;
use tollgate::cache::tags::Tags;
use tollgate::cache::{Cache, Reservation, Ticket};

/// The key of an answer.
pub fn key(number: u64, consumer: Option<&str>) -> CacheKey {
    let path = format!("/api/objects/{number}");
    let parts = KeyParts {
        fingerprint: 1,
        endpoint: "/api/*",
        scheme: "https",
        host: "api.example.com",
        path: &path,
        query: None,
        consumer,
        additions: None,
    };
    parts.key()
}

/// Its header, for ten minutes; one in four has tags.
pub fn meta(cache: &'static Cache, number: u64) -> CacheMeta {
    let mut head = ResponseHeader::build(200, None).unwrap();
    head.insert_header("etag", format!("\"{number:x}\"")).unwrap();
    head.insert_header("content-type", "application/json").unwrap();
    head.insert_header("cache-control", "public, max-age=600").unwrap();
    head.insert_header("date", "Sat, 21 Nov 2026 12:00:00 GMT").unwrap();
    let now = SystemTime::now();
    let mut meta = CacheMeta::new(now + Duration::from_secs(600), now, 0, 0, head);
    let field = HeaderName::from_static("cache-tag");
    let tags = HeaderMap::from_iter([(field.clone(), format!("objects object-{number}").parse().unwrap())]);
    let reservation = Arc::new(Reservation::of(cache, 0).unwrap());
    meta.extensions_mut().insert(Ticket {
        stamp: cache.stamp(),
        body_max: 1 << 20,
        endpoint: Arc::from("/api/*"),
        tags: if number.is_multiple_of(4) { Tags::read(&tags, &[field]).unwrap() } else { None },
        reservation,
    });
    meta
}

/// Bytes of this process that are in memory and in no file.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}
