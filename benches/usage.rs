//! What questions about usage cost: `tollgate usage` over a log of some months, read from SQLite and from MariaDB. The log is made
//! here, by the stores' own writing and packing, from a seed: the same arguments make the same requests.
//! `cargo bench --bench usage` makes 10 million requests in a folder of its own, and its own MariaDB server; that takes a while.
//! `-- --store sqlite:PATH` makes the log there, and leaves it; when it is there already, it is only asked.

// A program for people: it prints, and ends when something is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/support/mariadb.rs"]
mod mariadb;
#[path = "../tests/support/stores.rs"]
mod stores;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stores::{Opened, Place, record, run_of};
use tollgate::analytics::{Format, Parameters, question, usage};
use tollgate::config::{Retention, Size, Span, StoreUrl};
use tollgate::record::Record;
use tollgate::store::read::Reader;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ENDPOINTS: usize = 50;
const KEYS: usize = 500;
const INSTANCES: usize = 6;
/// Endpoints that one key calls.
const OF_A_KEY: usize = 5;
const GATEWAYS: usize = 2;
const BATCH: usize = 10_000;
/// A question is asked so often; the median is shown.
const ROUNDS: usize = 5;

/// What questions about usage cost.
#[derive(Debug, Parser)]
struct Line {
    /// Requests of the log
    #[arg(long, default_value_t = 10_000_000)]
    requests: u64,
    /// Days they are spread over, up to now
    #[arg(long, default_value_t = 90)]
    days: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this store, which is kept: sqlite:PATH, or mysql://...
    #[arg(long)]
    store: Option<String>,
    /// Only this question, e.g. "last=7d by=key"; may be repeated
    #[arg(long)]
    ask: Vec<String>,
    /// Cargo says so to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let line = Line::parse();
    match &line.store {
        Some(url) => {
            let url = match url.strip_prefix("sqlite:") {
                Some(path) => StoreUrl::Sqlite(path.into()),
                None => StoreUrl::Mysql(url.clone()),
            };
            measure(&line, &url);
        }
        None => {
            for place in [Place::sqlite(), Place::mariadb()] {
                if let Place::Mariadb(server) = &place {
                    // A server that is meant to hold months is given more than one that a test starts.
                    server.sql("SET GLOBAL innodb_buffer_pool_size = 1073741824");
                }
                measure(&line, &place.url());
            }
        }
    }
}

fn measure(line: &Line, url: &StoreUrl) {
    println!("{url}");
    if Reader::open(url, Duration::from_secs(60)).ok().and_then(|mut reader| reader.span().unwrap()).is_none() {
        fill(line, url);
    }
    ask(url, &line.ask);
}

/// Texts that many requests share.
struct Texts {
    endpoints: Vec<Arc<str>>,
    services: Vec<Arc<str>>,
    consumers: Vec<Arc<str>>,
    keys: Vec<Arc<str>>,
    instances: Vec<Arc<str>>,
}

impl Texts {
    fn new() -> Self {
        let texts = |count: usize, text: &dyn Fn(usize) -> String| -> Vec<Arc<str>> {
            (0..count).map(|number| text(number).as_str().into()).collect()
        };
        Self {
            endpoints: texts(ENDPOINTS, &|number| format!("/api/service_{}/resource_{number}/*", number % 10)),
            services: texts(10, &|number| format!("service_{number}")),
            consumers: texts(KEYS / 2, &|number| format!("consumer-{number}")),
            keys: texts(KEYS, &|number| format!("key-{number}-2026")),
            instances: texts(INSTANCES, &|number| format!("10.0.0.{}:9101", number + 1)),
        }
    }

    /// A few keys make most of the requests, and most of each key's go to a few endpoints.
    fn record(&self, random: &mut StdRng, started: SystemTime) -> Record {
        let key = zipf(random, KEYS);
        let endpoint = (key * 7 + zipf(random, OF_A_KEY) * 13) % ENDPOINTS;
        let (status, decided_by) = match random.random_range(0..1_000) {
            0..950 => (200, "upstream"),
            950..975 => (404, "upstream"),
            975..988 => (429, "rate_limited"),
            988..995 => (500, "upstream"),
            _ => (502, "upstream_failed"),
        };
        // Most are fast, some are slow: the product of some even numbers is about as skewed as response times are.
        let spread: f64 = (0..4).map(|_| random.random_range(0.4..2.5_f64)).product();
        let duration = Duration::from_micros(((800 + 300 * endpoint) as f64 * spread) as u64);
        let blocked = status == 429;
        Record {
            started,
            duration,
            endpoint: Arc::clone(&self.endpoints[endpoint]),
            method: if endpoint.is_multiple_of(5) { http::Method::POST } else { http::Method::GET },
            status,
            request_id: version_7(started, random),
            consumer: Some(Arc::clone(&self.consumers[key / 2])),
            key: Some(Arc::clone(&self.keys[key])),
            service: Some(Arc::clone(&self.services[endpoint % 10])),
            instance: (!blocked).then(|| Arc::clone(&self.instances[random.random_range(0..INSTANCES)])),
            upstream_time: (!blocked).then_some(duration * 9 / 10),
            decided_by,
            blocked,
            bytes_out: random.random_range(100..5_000),
            ..record("/", started)
        }
    }
}

/// As gateways make them: in the order of time, so that their index grows at its end.
fn version_7(time: SystemTime, random: &mut StdRng) -> uuid::Uuid {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(since.as_millis() as u64, &random.random()).into_uuid()
}

/// A number below `count`, the first the most likely.
fn zipf(random: &mut StdRng, count: usize) -> usize {
    let place = ((count as f64 + 1.0).ln() * random.random::<f64>()).exp() - 1.0;
    (place as usize).min(count - 1)
}

fn fill(line: &Line, url: &StoreUrl) {
    let texts = Texts::new();
    let mut random = StdRng::seed_from_u64(line.seed);
    let length = Duration::from_secs(line.days * stores::DAY);
    let begin = SystemTime::now() - length;
    let runs: Vec<_> = (0..GATEWAYS).map(|number| run_of(&format!("gate-{number}"), begin)).collect();
    let mut open: Vec<Opened> =
        runs.iter().map(|run| stores::try_open(url, run).unwrap_or_else(|why| panic!("{why:?}"))).collect();
    let mut firsts = [1; GATEWAYS];
    let began = Instant::now();
    let mut made = 0;
    while made < line.requests {
        let count = BATCH.min(usize::try_from(line.requests - made).unwrap_or(BATCH));
        let records: Vec<Record> = (made..made + count as u64)
            .map(|number| {
                let part = number as f64 / line.requests as f64;
                texts.record(&mut random, begin + length.mul_f64(part))
            })
            .collect();
        // Each gateway has its half of every window.
        for (gateway, records) in records.chunks(count.div_ceil(GATEWAYS)).enumerate() {
            // A server that is filled so fast may stop for a while to write to its disk.
            open[gateway].insert_until_stored(&runs[gateway], firsts[gateway], records);
            firsts[gateway] += records.len() as u64;
        }
        made += count as u64;
    }
    let (written, began) = (began.elapsed(), Instant::now());
    let keep = Retention {
        requests: Span::seconds(3_650 * stores::DAY),
        minutes: Span::seconds(3_650 * stores::DAY),
        hours: Span::seconds(3_650 * stores::DAY),
        size: Size(1 << 50),
    };
    for store in &mut open {
        while store.step(&keep) {}
    }
    println!(
        "{made} requests written in {:.0} s, packed in {:.0} s",
        written.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
}

fn ask(url: &StoreUrl, only: &[String]) {
    let mut reader = Reader::open(url, Duration::from_secs(600)).unwrap_or_else(|why| panic!("{why}"));
    let span = reader.span().unwrap().expect("a log");
    drop(reader);
    let now = jiff::Timestamp::try_from(span.end.time()).unwrap();
    let ago = |hours: i64| (now - jiff::SignedDuration::from_hours(hours)).to_string();
    let (from, to) = (ago(24 * 71 + 5), ago(24 * 11 + 7));
    let within = format!("from={from} to={to}");
    println!("{:<60}{:>10}{:>10}{:>10}", "question", "median ms", "worst ms", "groups");
    let all = [
        "last=15m",
        "last=1h",
        "last=3h",
        "last=24h",
        "last=24h by=key",
        "last=7d",
        "last=7d by=key,endpoint",
        "last=30d",
        "last=all",
        "last=all by=consumer",
        "last=all by=key",
        "last=all by=status",
        "last=all by=instance,method",
        "last=all by=endpoint,status,instance",
        "last=all by=key,endpoint",
        "last=all by=day",
        "last=all by=day,endpoint",
        "last=all status=5xx",
        "last=all key=key-3-2026 by=endpoint",
        "last=30d compare=previous",
        "summary=true",
        &within,
        &format!("{within} by=key"),
        &format!("{within} by=day zone=Europe/Berlin"),
        "last=7d by=hour",
        "last=30d by=hour",
        "last=all by=hour",
        "last=30d by=hour,endpoint",
        "last=all by=hour,instance",
        "last=all by=hour,status",
        "last=all by=hour key=key-3-2026",
        "last=all by=hour key=key-3-2026 endpoint=/api/service_1/resource_21/*",
        "last=7d by=hour,key",
        "last=all by=day,key",
    ];
    let all: Vec<&str> = if only.is_empty() { all.to_vec() } else { only.iter().map(String::as_str).collect() };
    for words in all {
        let pairs: Vec<(String, String)> = words
            .split(' ')
            .map(|word| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap())
            .collect();
        let mut times = Vec::new();
        let mut groups = 0;
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let parameters = Parameters::new(pairs.clone());
            let (question, _) = question(parameters, &Format::ALL, usage::Question::take, now).unwrap();
            let mut reader = Reader::open(url, Duration::from_secs(600)).unwrap_or_else(|why| panic!("{why}"));
            let answer = question.answer(&mut reader, now).unwrap_or_else(|why| panic!("{why}"));
            groups = answer.csv(false).lines().count() - 1;
            times.push(began.elapsed().as_secs_f64() * 1_000.0);
        }
        times.sort_by(f64::total_cmp);
        println!("{words:<60}{:>10.0}{:>10.0}{groups:>10}", times[ROUNDS / 2], times[ROUNDS - 1]);
    }
}
