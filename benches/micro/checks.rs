//! What a request meets on its way in, apart from routes and limits: the form of its path, the flood guard, its key, the cache's key.
//! Each with what is usual, and with what is not.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use divan::{Bencher, black_box};
use tollgate::cache::key::KeyParts;
use tollgate::config::{self, Key, Span};
use tollgate::keys::{KeyTable, digest_of};
use tollgate::policy::flood_guard::FloodGuard;
use tollgate::policy::path::normalise;

use super::case::{Case, SAMPLE_SIZE, Work, case, work};

pub const CASES: &[Case] = &[
    case("path/normal", || path("/api/user_service/users/42/orders")),
    case("path/with escapes", || path("/api/user%5Fservice/users/%C3%A4/orders")),
    case("path/with dots", || path("/api/./user_service//users/../users/42/orders")),
    case("flood guard/1 address", || flood_guard(1)),
    case("flood guard/1,000,000 addresses", || flood_guard(1_000_000)),
    case("key/1 key/known", || key(1, 0, 1)),
    case("key/1 key/unknown", || key(1, 1, MANY)),
    case("key/100,000 keys/known", || key(MANY, 0, MANY)),
    case("key/100,000 keys/unknown", || key(MANY, MANY, MANY)),
    case("cache key/short", || cache_key(None)),
    case("cache key/with query and consumer", || cache_key(Some("page=2&sort=name&filter=open"))),
];

#[divan::bench(args = CASES, sample_size = SAMPLE_SIZE)]
fn check(bencher: Bencher<'_, '_>, case: &Case) {
    case.bench(bencher);
}

fn path(path: &'static str) -> Work {
    assert!(normalise(path.as_bytes()).is_ok(), "{path}");
    work(move || normalise(black_box(path.as_bytes())).map(|path| path.len()))
}

fn flood_guard(addresses: u32) -> Work {
    // Not reached while it is measured: an hour admits four billion.
    let guard = config::FloodGuard { requests: u32::MAX, window: Span(Duration::from_secs(3_600)) };
    let guard = FloodGuard::compile(guard, None);
    let mut ip = addresses_in_turn(addresses);
    work(move || guard.admit(black_box(ip())).is_ok())
}

/// So many addresses, far apart in memory.
pub fn addresses_in_turn(addresses: u32) -> impl FnMut() -> IpAddr {
    let mut turn = 0_u32;
    move || {
        turn = turn.wrapping_add(1);
        IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + turn.wrapping_mul(2_654_435_769) % addresses))
    }
}

/// The text of the key with this number, as long as those of `tollgate keys new`.
fn key_text(number: u32) -> String {
    format!("tg_{number:049}")
}

/// Keys enough that table and names are in no cache of the processor that is near.
const MANY: u32 = 100_000;

/// A look-up of the keys from `first` on in turn, `asked` of them: far apart in memory, as clients come.
fn key(keys: u32, first: u32, asked: u32) -> Work {
    let entry = |number: u32| {
        let sha256 = digest_of(key_text(number).as_bytes());
        (format!("key-{number}"), Key::new(sha256))
    };
    let table = KeyTable::compile(&(0..keys).map(entry).collect::<BTreeMap<String, Key>>());
    let texts: Vec<String> = (first..first + asked).map(key_text).collect();
    assert_eq!((table.len(), table.find(texts[0].as_bytes()).is_some()), (keys as usize, first < keys));
    let mut turn = 0_usize;
    work(move || {
        turn += 1;
        if turn == texts.len() {
            turn = 0;
        }
        // What a request takes from its entry, so that its line has to come as well.
        table.find(black_box(texts[turn].as_bytes())).map(|entry| entry.consumer_id)
    })
}

fn cache_key(query: Option<&'static str>) -> Work {
    let parts = KeyParts {
        fingerprint: 0x0123_4567_89ab_cdef,
        endpoint: "/api/product_service/*",
        scheme: "https",
        host: "gateway.example",
        path: "/api/product_service/products/42",
        query,
        consumer: query.map(|_| "acme"),
        additions: None,
    };
    work(move || black_box(parts).key())
}
