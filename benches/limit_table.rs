//! What a limit costs at a million identities: bytes of memory each, and the time of a decision for a newcomer and for one who is known.
//! Each kind in a process of its own, so that its resident memory is its own: `cargo bench --bench limit_table`.

#![allow(clippy::unwrap_used, reason = "a benchmark whose fixture can't be made has to end")]
#![allow(clippy::print_stdout, reason = "it is a program of the command line")]

use std::hint::black_box;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tollgate::config;
use tollgate::policy::limit::{Book, Caller, Now, RouteLimits};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc; // as in the gateway

const IDENTITIES: u32 = 1_000_000;

const KINDS: [(&str, &str); 3] = [
    ("sliding window", "1000/h per ip"),
    ("token bucket", "1000/h burst 1000 per ip"),
    ("fixed window", "1000/month per ip"),
];

fn main() {
    let asked = std::env::args().nth(1).and_then(|kind| KINDS.iter().find(|(_, limit)| *limit == kind));
    if let Some((name, limit)) = asked {
        return measure(name, limit);
    }
    println!("{IDENTITIES} identities     bytes each  ns newcomer     ns known");
    for (_, limit) in KINDS {
        let mut child = Command::new(std::env::current_exe().unwrap());
        // Huge pages round the memory of a process up by several megabytes, whatever it holds.
        child.arg(limit).env("MIMALLOC_ALLOW_THP", "0").status().unwrap();
    }
}

fn measure(name: &str, limit: &str) {
    let route = route(limit);
    let limits = route.of(None).unwrap();
    let before = resident();
    let now = Now::read();
    let decide = |number: u32| {
        // Far apart in memory, and each once.
        let address = number.wrapping_mul(2_654_435_769);
        let caller = Caller { ip: IpAddr::from(address.to_be_bytes()), consumer: None, key: None, headers: None };
        black_box(limits.admit(&caller, now).refused.is_none())
    };
    let round = || {
        let begun = Instant::now();
        let admitted = (0..IDENTITIES).filter(|number| decide(*number)).count();
        assert_eq!(admitted, IDENTITIES as usize, "each has its own entry");
        begun.elapsed().as_nanos() / u128::from(IDENTITIES)
    };
    let newcomer = round();
    let bytes = (resident() - before) as f64 / f64::from(IDENTITIES);
    let known = round();
    println!("{name:<22} {bytes:>10.1} {newcomer:>12} {known:>12}");
}

fn route(limit: &str) -> RouteLimits {
    let text = format!(
        "listen: 127.0.0.1:1\nadmin: none\nlog: none\nservices: {{a: ['127.0.0.1:9']}}\nroutes: {{/bench: {{to: a, limit: {limit}}}}}"
    );
    let config = config::read(&text, Path::new("/bench.yaml"), &|_| None).unwrap();
    Book::compile(&config, None).1.remove("/bench").unwrap()
}

/// Bytes of memory that this process has written to and not given back; without the pages of its program.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1_024
}
