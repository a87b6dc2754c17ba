//! What a limit decides about one request: one caller again and again, a million callers, and two threads at once.
//! The clock stands still, so that nothing is forgotten; reading it is not part of a decision.

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use divan::{Bencher, black_box};
use tollgate::config::{self, Limit, LimitRule, Per, Rate, Span, Window};
use tollgate::policy::limit::{Book, Caller, Now, RouteLimits};

use super::case::{Case, SAMPLE_SIZE, Work, case, work};
use super::checks::addresses_in_turn;

const MANY: u32 = 1_000_000;

pub const CASES: &[Case] = &[
    case("limit/sliding window/1 address", || decide(sliding_window(), 1)),
    case("limit/sliding window/1,000,000 addresses", || decide(sliding_window(), MANY)),
    case("limit/token bucket/1 address", || decide(token_bucket(), 1)),
    case("limit/token bucket/1,000,000 addresses", || decide(token_bucket(), MANY)),
    case("limit/refused", || decide(vec![limit(1, None)], 1)),
    case("limit/two limits", || decide([sliding_window(), token_bucket()].concat(), 1)),
];

#[divan::bench(args = CASES, sample_size = SAMPLE_SIZE)]
fn limit_decision(bencher: Bencher<'_, '_>, case: &Case) {
    case.bench(bencher);
}

/// The time a thread needs beside another; without another it is the usual decision and the cost of two counters.
#[divan::bench(threads = [1, 2], args = [1, MANY], sample_size = SAMPLE_SIZE)]
fn sliding_window_by_threads(bencher: Bencher<'_, '_>, addresses: u32) {
    by_threads(bencher, &sliding_window(), addresses);
}

/// See `sliding_window_by_threads`.
#[divan::bench(threads = [1, 2], args = [1, MANY], sample_size = SAMPLE_SIZE)]
fn token_bucket_by_threads(bencher: Bencher<'_, '_>, addresses: u32) {
    by_threads(bencher, &token_bucket(), addresses);
}

fn by_threads(bencher: Bencher<'_, '_>, config: &[Limit], addresses: u32) {
    let (limits, now) = (filled(config, addresses), Now::read());
    let turn = AtomicU32::new(0);
    bencher
        .with_inputs(|| caller(turn.fetch_add(1, Ordering::Relaxed).wrapping_mul(2_654_435_769) % addresses))
        .bench_values(|caller| limits.of(None).unwrap().admit(&caller, now).refused.is_none());
}

fn decide(config: Vec<Limit>, addresses: u32) -> Work {
    let (limits, now) = (filled(&config, addresses), Now::read());
    let mut ip = addresses_in_turn(addresses);
    work(move || {
        limits
            .of(None)
            .unwrap()
            .admit(black_box(&Caller { ip: ip(), consumer: None, key: None, headers: None }), now)
            .refused
            .is_none()
    })
}

/// Limits that have counted each of these addresses once.
fn filled(config: &[Limit], addresses: u32) -> RouteLimits {
    let (limits, now) = (limits_of(config), Now::read());
    for number in 0..addresses {
        assert!(limits.of(None).unwrap().admit(&caller(number), now).refused.is_none(), "address {number}");
    }
    limits
}

/// A route with these limits.
fn limits_of(limits: &[Limit]) -> RouteLimits {
    const REST: &str =
        "listen: 127.0.0.1:1\nadmin: none\nlog: none\nservices: {a: ['127.0.0.1:9']}\nroutes: {/bench: {to: a}}";
    let mut config = config::read(REST, Path::new("/bench.yaml"), &|_| None).unwrap();
    config.routes["/bench"].limit = Some(limits.iter().cloned().map(LimitRule::Own).collect());
    Book::compile(&config, None).1.remove("/bench").unwrap()
}

fn caller(number: u32) -> Caller<'static> {
    let ip = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
    Caller { ip, consumer: None, key: None, headers: None }
}

fn sliding_window() -> Vec<Limit> {
    vec![limit(u32::MAX, None)]
}

fn token_bucket() -> Vec<Limit> {
    vec![limit(1_000_000_000, Some(1_000_000_000))]
}

fn limit(count: u32, burst: Option<u32>) -> Limit {
    let rate = Rate { count, window: Window::Rolling(Span(Duration::from_secs(3_600))), burst };
    Limit::of(rate, vec![Per::Ip])
}
