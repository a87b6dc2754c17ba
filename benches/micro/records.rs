//! What is kept of a finished exchange: its series in the metrics, its JSON line, its row in SQLite.
//! A row is one of a batch of a thousand, so that the transaction is shared as it is when the gateway is busy; the file is a real one.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use divan::{Bencher, black_box};
use http::Method;
use tollgate::config::{ClientIp, StoreUrl};
use tollgate::metrics::{BuildFacts, Metrics};
use tollgate::record::{DECIDED_BY_UPSTREAM, Record};
use tollgate::request_log::push_line;
use tollgate::store::usage::Increments;
use tollgate::store::{Batch, Beat, Row, Run, Store};
use uuid::Uuid;

use super::case::{Case, SAMPLE_SIZE, SLOW_SAMPLE_COUNT, Work, case, slow, work};

const ROWS: u64 = 1_000;

pub const CASES: &[Case] = &[case("record/metrics", observe), case("record/row", row), case("record/JSON line", line)];

pub const SLOW_CASES: &[Case] = &[slow("record/1,000 rows in SQLite", sqlite)];

#[divan::bench(args = CASES, sample_size = SAMPLE_SIZE)]
fn record_made(bencher: Bencher<'_, '_>, case: &Case) {
    case.bench(bencher);
}

#[divan::bench(args = SLOW_CASES, sample_count = SLOW_SAMPLE_COUNT, sample_size = 1)]
fn rows_stored(bencher: Bencher<'_, '_>, case: &Case) {
    case.bench(bencher);
}

/// What a usual request leaves.
fn record() -> Record {
    Record {
        started: SystemTime::now(),
        duration: Duration::from_micros(1_791),
        endpoint: "/api/user_service/*".into(),
        method: Method::GET,
        status: 200,
        request_id: Uuid::now_v7(),
        client_request_id: None,
        host: Some("gateway.example".into()),
        path: "/api/user_service/users/42".into(),
        protocol: "HTTP/1.1",
        consumer: Some("acme".into()),
        key: Some("acme-2026".into()),
        client_ip: IpAddr::from([192, 0, 2, 1]),
        service: Some("user_service".into()),
        instance: Some("127.0.0.1:9101".into()),
        attempts: 1,
        retries: Default::default(),
        upstream_time: Some(Duration::from_micros(1_368)),
        timeout: None,
        cache: None,
        decided_by: DECIDED_BY_UPSTREAM,
        blocked: false,
        limit_name: None,
        observed: None,
        bytes_in: 0,
        bytes_out: 206,
        user_agent: Some("curl/8.5.0".into()),
        generation: 1,
    }
}

fn observe() -> Work {
    let metrics = Metrics::new(BuildFacts { version: "0", revision: "bench", rust: "bench" }).unwrap();
    let record = record();
    work(move || metrics.observe(black_box(&record)))
}

fn row() -> Work {
    let record = record();
    work(move || Row::of(black_box(&record), ClientIp::Full).bytes_max())
}

fn line() -> Work {
    let (record, mut buffer) = (record(), Vec::new());
    work(move || {
        buffer.clear();
        push_line(&mut buffer, black_box(&record), ClientIp::Full, Some(1), Some(23));
        buffer.len()
    })
}

fn sqlite() -> Work {
    let folder = tempfile::tempdir().unwrap();
    let run = Run { id: Uuid::now_v7(), node: "bench".into(), version: "0".into(), started: SystemTime::now() };
    let mut store = Store::of(&StoreUrl::Sqlite(folder.path().join("bench.db")), run.clone()).unwrap().unwrap();
    let background = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    background.block_on(store.open()).unwrap();
    let records: Vec<Record> = (0..ROWS).map(|_| record()).collect();
    let (unrecorded, beat) = (Increments::default(), Beat::default());
    let mut first = 1;
    work(move || {
        let _ = &folder; // the file lives as long as the store
        let rows: Vec<Row<'_>> = records.iter().map(|record| Row::of(record, ClientIp::Full)).collect();
        let batch = Batch { run: &run, first, rows: &rows, unrecorded: &unrecorded };
        first += ROWS;
        background.block_on(store.insert(black_box(&batch), &beat)).unwrap().rejected.len()
    })
}
