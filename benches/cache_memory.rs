//! What a million random answers take of memory, against the bound that the cache was given: `cargo bench --bench cache_memory`.
//! In the process of its own that a benchmark is, so that its resident memory is its own. Ends with an error beyond 5%.

#![allow(clippy::unwrap_used, reason = "a benchmark whose fixture can't be made has to end")]
#![allow(clippy::print_stdout, reason = "it is a program of the command line")]

mod cached;

use std::process::Command;
use std::time::Instant;

use bytes::Bytes;
use cached::{key, meta, resident};
use futures::executor::block_on;
use pingora_cache::Storage;
use pingora_cache::trace::Span;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tollgate::cache::Cache;

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
        let meta = meta(cache, u64::from(number));
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
