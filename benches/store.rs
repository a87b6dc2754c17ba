//! What the request log's stores cost: rows per second, and CPU time per row in this process and in the server, from a record in
//! memory to the commit. `cargo bench --bench store`, or `cargo bench --bench store -- 1000` for batches of 1,000; `-- upkeep`
//! measures the steps of upkeep instead. It starts its own MariaDB and takes a minute. The figures that decided how rows are sent:
//! docs/decisions/0015-how-rows-reach-the-store.md.

// A program for people: it prints, and ends when something is wrong.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/support/mariadb.rs"]
mod mariadb;
#[path = "../tests/support/stores.rs"]
mod stores;

use std::time::{Duration, Instant, SystemTime};

use stores::{Place, record, run_of};
use tollgate::config::{Retention, Span};
use tollgate::record::Record;

// The gateway's own allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rows of one measurement.
const ROWS: usize = 200_000;
const ROUNDS: usize = 3;

fn main() {
    if std::env::args().any(|word| word == "upkeep") {
        println!("store       steps   median ms   p99 ms   longest ms");
        [Place::sqlite(), Place::mariadb()].iter().for_each(upkeep);
        return;
    }
    let rows: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let rows = if rows.is_empty() { vec![200, 1_000, 4_000] } else { rows };
    println!("store    rows a batch   rows/s   CPU us a row: here   server");
    for rows in rows {
        for place in [Place::sqlite(), Place::mariadb()] {
            for _ in 0..ROUNDS {
                measure(&place, rows);
            }
        }
    }
}

/// Requests as a gateway with some routes and keys sees them.
fn records(rows: usize) -> Vec<Record> {
    let now = SystemTime::now();
    (0..rows)
        .map(|place| Record {
            endpoint: format!("/api/service_{}/*", place % 20).as_str().into(),
            status: if place % 50 == 0 { 404 } else { 200 },
            key: Some(["acme-2026", "zenith-1", "orbit-7"][place % 3].into()),
            duration: Duration::from_micros(900 + (place as u64 * 7_919) % 40_000),
            ..record("/", now + Duration::from_micros(place as u64))
        })
        .collect()
}

fn measure(place: &Place, rows: usize) {
    let run = run_of("bench", SystemTime::now());
    let mut store = place.open(&run);
    let records = records(ROWS);
    let server = match place {
        Place::Mariadb(database) => Some(database.id()),
        Place::Sqlite(_) => None,
    };
    let cpu = || (cpu_microseconds("self"), server.map_or(0, |id| cpu_microseconds(&id.to_string())));
    let (before, began) = (cpu(), Instant::now());
    let mut first = 1;
    for batch in records.chunks(rows) {
        store.insert(&run, first, batch);
        first += batch.len() as u64;
    }
    let (after, took) = (cpu(), began.elapsed());
    assert_eq!(place.number("SELECT SUM(`rows`) FROM log_batches") % ROWS as u64, 0);
    let per_row = |microseconds: u64| microseconds as f64 / ROWS as f64;
    println!(
        "{:<9}{rows:>8}{:>12.0}{:>18.2}{:>14.2}",
        if server.is_some() { "MariaDB" } else { "SQLite" },
        ROWS as f64 / took.as_secs_f64(),
        per_row(after.0 - before.0),
        per_row(after.1 - before.1)
    );
}

/// How long the steps of upkeep take on five days with much traffic, of which two are kept.
fn upkeep(place: &Place) {
    const DAYS: u64 = 5;
    let run = run_of("bench", stores::ago(DAYS * stores::DAY));
    let mut store = place.open(&run);
    let mut records = records(1_000);
    let batches = DAYS * 100;
    for batch in 0..batches {
        let started = stores::ago((batches - batch) * DAYS * stores::DAY / batches);
        let spread = Duration::from_millis(864);
        for (place, record) in (0_u32..).zip(&mut records) {
            record.started = started + spread * place;
            record.request_id = uuid::Uuid::now_v7();
        }
        store.insert(&run, 1 + batch * 1_000, &records);
    }
    place.sql(&format!("UPDATE log_batches SET written_at = '{}'", stores::clock(stores::ago(2 * stores::DAY))));
    let mut store = place.open(&run);
    let keep = Retention {
        requests: Span::seconds(2 * stores::DAY - 1),
        minutes: Span::seconds(2 * stores::DAY),
        ..Retention::default()
    };
    let mut steps = Vec::new();
    loop {
        let began = Instant::now();
        let has_more = store.step(&keep);
        steps.push(began.elapsed());
        if !has_more {
            break;
        }
    }
    steps.sort_unstable();
    let milliseconds = |place: usize| steps[place].as_secs_f64() * 1_000.0;
    println!(
        "{:<9}{:>8}{:>12.1}{:>9.1}{:>13.1}",
        if matches!(place, Place::Mariadb(_)) { "MariaDB" } else { "SQLite" },
        steps.len(),
        milliseconds(steps.len() / 2),
        milliseconds(steps.len() * 99 / 100),
        milliseconds(steps.len() - 1)
    );
}

/// CPU time of a process, all its threads, in steps of 10 ms.
fn cpu_microseconds(process: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10_000
}
