//! How long the cache's tier on disk needs until it knows what it has after a start, with 100,000 answers, and what its index
//! takes of memory: `cargo bench --bench cache_disk`. Requests are served meanwhile; what was not looked at yet is a miss.
//! Ends with an error beyond 20 s, or where the index takes more than it counts.

#![allow(clippy::unwrap_used, reason = "a benchmark whose fixture can't be made has to end")]
#![allow(clippy::print_stdout, reason = "it is a program of the command line")]

mod cached;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cached::{key, meta, resident};
use futures::executor::block_on;
use pingora_cache::Storage;
use pingora_cache::trace::Span;
use tollgate::cache::{Cache, DiskStats};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc; // as in the gateway

const ANSWERS: u64 = 100_000;
const MEMORY: u64 = 512 << 20;
const ROOM: u64 = 4 << 30;

const SCANNED_WITHIN: Duration = Duration::from_secs(20);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [step, folder] = &arguments[..] {
        return if step == "fill" { fill_all(Path::new(folder)) } else { scan(Path::new(folder)) };
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for step in ["fill", "scan"] {
        // Each in a process of its own, as a start is. Huge pages round its memory up, whatever it holds.
        let mut child = Command::new(std::env::current_exe().unwrap());
        let ended = child.arg(step).arg(folder.path()).env("MIMALLOC_ALLOW_THP", "0").status().unwrap();
        assert!(ended.success(), "{step}: beyond its bound");
    }
}

fn open(folder: &Path) -> &'static Cache {
    let cache: &'static Cache = Box::leak(Box::new(Cache::new(MEMORY)));
    cache.open_disk(folder, MEMORY, ROOM).unwrap();
    cache
}

fn disk(cache: &'static Cache) -> DiskStats {
    cache.stats().disk.unwrap()
}

fn fill_all(folder: &Path) {
    let cache = open(folder);
    let begun = Instant::now();
    for number in 0..ANSWERS {
        let body = Bytes::from(vec![7; (number * 37 % 3_000) as usize]);
        let meta = meta(cache, number);
        let consumer = number.is_multiple_of(3).then_some("acme");
        block_on(async {
            let span = Span::inactive().handle();
            let mut fill = cache.get_miss_handler(&key(number, consumer), &meta, &span).await.unwrap();
            fill.write_body(body, true).await.unwrap();
            fill.finish().await.unwrap();
        });
        while disk(cache).queued_bytes > 8 << 20 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    cache.close_disk(Instant::now() + Duration::from_secs(60));
    let (stats, took) = (disk(cache), begun.elapsed());
    assert_eq!((stats.entries, stats.dropped, stats.errors), (ANSWERS, 0, 0), "{stats:?}");
    let each = took.as_micros() as f64 / ANSWERS as f64;
    println!("written: {ANSWERS} answers, {} bytes of files, {took:.1?}, {each:.0} us each", stats.bytes);
}

fn scan(folder: &Path) {
    let before = resident();
    let begun = Instant::now();
    let cache = open(folder);
    while disk(cache).state != "open" {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (took, stats) = (begun.elapsed(), disk(cache));
    assert_eq!((stats.entries, stats.corrupt, stats.errors), (ANSWERS, 0, 0), "{stats:?}");
    let resident = resident() - before;
    let each = |bytes: u64| bytes / ANSWERS;
    println!("looked at after a start: {ANSWERS} answers, {took:.2?}");
    println!("index: counted {} bytes an answer, resident {}", each(stats.index_bytes), each(resident));
    if took > SCANNED_WITHIN || resident > stats.index_bytes + (8 << 20) {
        std::process::exit(1);
    }
}
