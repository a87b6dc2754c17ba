//! The choice of an instance among 1,000, in each way to balance: what it costs beside the request, and that it does not grow with their number.
//! Not here: what a try counts (in flight, latency), which is in the cost of a whole request.

use std::sync::Arc;

use divan::{Bencher, black_box};
use tollgate::config::{Balance, ConsistentHash, HashBy, Instance, Percent, Service};
use tollgate::upstream::{Before, Pool, balance_key};

use super::case::{Case, SAMPLE_SIZE, Work, case, work};

pub const CASES: &[Case] = &[
    case("select/1,000 instances/round_robin", || select(Balance::RoundRobin)),
    case("select/1,000 instances/least_requests", || select(Balance::LeastRequests)),
    case("select/1,000 instances/peak_ewma", || select(Balance::PeakEwma)),
    case("select/1,000 instances/random", || select(Balance::Random)),
    case("select/1,000 instances/consistent_hash", || select(hash(None))),
    case("select/1,000 instances/consistent_hash with load_max", || select(hash(Some(Percent(125))))),
    case("select/key of a request", || work(|| balance_key(black_box(b"192.0.2.1 and a little more")))),
];

#[divan::bench(args = CASES, sample_size = SAMPLE_SIZE)]
fn selection(bencher: Bencher<'_, '_>, case: &Case) {
    case.bench(bencher);
}

fn hash(load_max: Option<Percent>) -> Balance {
    Balance::ConsistentHash(ConsistentHash { by: HashBy::Path, load_max })
}

fn select(balance: Balance) -> Work {
    let instances = (0..1_000).map(|number| Instance::at(&format!("10.0.{}.{}:80", number / 250, number % 250 + 1)));
    let service = Service { instances: instances.collect(), balance, ..Service::default() };
    let pool = Pool::compile("many", &service, Before::Start).unwrap();
    let mut key = 0_u32;
    work(move || {
        key = key.wrapping_add(2_654_435_769);
        pool.select(&[], Some(key)).map(Arc::as_ptr)
    })
}
