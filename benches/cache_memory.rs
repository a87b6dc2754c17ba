//! What a million random answers take of memory, against the bound that the cache was given: `cargo bench --bench cache_memory`.
//! In the process of its own that a benchmark is, so that its resident memory is its own. Ends with an error beyond 5%.

#![allow(clippy::unwrap_used, reason = "a benchmark whose fixture can't be made has to end")]
#![allow(clippy::print_stdout, reason = "it is a program of the command line")]

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::executor::block_on;
use http::{HeaderMap, HeaderName};
use pingora_cache::trace::Span;
use pingora_cache::{CacheKey, CacheMeta, Storage};
use pingora_http::ResponseHeader;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tollgate::cache::key::KeyParts;
use tollgate::cache::tags::Tags;
use tollgate::cache::{Cache, Reservation, Ticket};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc; // as in the gateway

const ANSWERS: u32 = 1_000_000;

const BODY_BYTES_MAX: usize = 40_000;

/// What the bodies are like, and how many bytes the largest of most and of one in fifty of them has.
const KINDS: [(&str, usize, usize); 3] =
    [("small", 200, 200), ("mixed", 1_500, BODY_BYTES_MAX), ("large", BODY_BYTES_MAX, BODY_BYTES_MAX)];

fn main() {
    let asked = std::env::args().nth(1).and_then(|kind| KINDS.iter().find(|(name, ..)| *name == kind));
    if let Some(kind) = asked {
        return measure(*kind);
    }
    println!("{ANSWERS} answers        limit      counted   resident at most   part   answers held   us each");
    let mut fits = true;
    for (name, ..) in KINDS {
        let mut child = Command::new(std::env::current_exe().unwrap());
        // Huge pages round the memory of a process up by several megabytes, whatever it holds.
        fits &= child.arg(name).env("MIMALLOC_ALLOW_THP", "0").status().unwrap().success();
    }
    assert!(fits, "more than 5% beyond the limit");
}

fn measure((name, most, one_in_fifty): (&str, usize, usize)) {
    let limit: u64 = 256 << 20;
    let cache: &'static Cache = Box::leak(Box::new(Cache::new(limit)));
    let mut random = StdRng::seed_from_u64(5);
    let body = Bytes::from(vec![7; BODY_BYTES_MAX]);
    let (before, begun) = (resident(), Instant::now());
    let mut at_most = 0;
    for number in 0..ANSWERS {
        let length = if number.is_multiple_of(50) { one_in_fifty } else { most };
        let body = body.slice(..random.random_range(0..=length));
        let key = key(random.random(), (number.is_multiple_of(3)).then_some("acme"));
        let meta = meta(cache, number);
        block_on(async {
            let mut fill = cache.get_miss_handler(&key, &meta, &Span::inactive().handle()).await.unwrap();
            fill.write_body(body, true).await.unwrap();
            fill.finish().await.unwrap();
        });
        if number.is_multiple_of(5_000) {
            at_most = at_most.max(resident() - before);
        }
    }
    at_most = at_most.max(resident() - before);
    let (stats, micros) = (cache.stats(), begun.elapsed().as_micros() as f64 / f64::from(ANSWERS));
    let part = at_most as f64 / limit as f64;
    println!(
        "{name:<10} {limit:>18} {:>12} {at_most:>18} {part:>6.3} {:>14} {micros:>9.1}",
        stats.bytes, stats.entries
    );
    if part > 1.05 {
        std::process::exit(1);
    }
}

fn key(number: u64, consumer: Option<&str>) -> CacheKey {
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

fn meta(cache: &'static Cache, number: u32) -> CacheMeta {
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
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}
