//! Latency at a fixed rate: what the gateway adds to asking the upstream itself, and what becomes of that while it is scraped, reloaded,
//! or without its log store for a second. All cases take turns; differences and ratios are taken within a round, because machines drift.

use std::error::Error;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, value_parser};
use serde_json::{Value, json};

use super::configs::{self, LINES_FILE, Variant};
use super::disturbance::{Disturbance, Done};
use super::gateway::Gateway;
use super::mariadb::{MariaDb, Share};
use super::rate::Rate;
use super::series::median;
use super::{folder, grouped, program, start_upstream};
use crate::load::Load;
use crate::load::open::Oha;
use crate::programs::Core;
use crate::stop::Folder;

/// How long records may take to be written after the load has ended.
const SETTLE_MAX: Duration = Duration::from_secs(20);

#[derive(Args)]
pub struct Disturb {
    /// The program to measure, built with `cargo build --release -p tollgate`.
    #[arg(long, default_value = "target/release/tollgate")]
    tollgate: PathBuf,
    /// Requests per second, far below what the gateway can do.
    #[arg(long, default_value_t = 5_000, value_parser = value_parser!(u32).range(100..=50_000))]
    rate: u32,
    /// Keep-alive connections of the load.
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Seconds of load for one measurement.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(3..=120))]
    seconds: u32,
    /// How often every case is measured, in turns.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Upstream,
    /// The gateway with JSON lines.
    Lines,
    /// The gateway with MariaDB.
    Store,
}

struct Case {
    name: &'static str,
    what: &'static str,
    target: Target,
    disturbance: Disturbance,
    /// The case that is the same without the disturbance.
    beside: &'static str,
}

const DIRECT: &str = "direct";

const CASES: [Case; 6] = [
    case(DIRECT, "the upstream itself", Target::Upstream, Disturbance::None, DIRECT),
    case("gateway", "key, limit per ip, JSON lines", Target::Lines, Disturbance::None, DIRECT),
    case("scraped", "/metrics every 100 ms", Target::Lines, Disturbance::Scrapes, "gateway"),
    case("reloaded", "another configuration every second", Target::Lines, Disturbance::Reloads, "gateway"),
    case("stored", "key, limit per ip, MariaDB", Target::Store, Disturbance::None, DIRECT),
    case("store away", "MariaDB stopped for 1 s", Target::Store, Disturbance::Outage, "stored"),
];

const fn case(
    name: &'static str,
    what: &'static str,
    target: Target,
    disturbance: Disturbance,
    beside: &'static str,
) -> Case {
    Case { name, what, target, disturbance, beside }
}

/// All rounds of one case.
struct Row {
    case: &'static Case,
    rounds: Vec<Load>,
    /// Of the last round.
    done: Done,
}

struct Bench {
    // Dropped first to last: the gateways before their store and their upstream, the folder at the end.
    lines: Gateway,
    stored: Gateway,
    store: MariaDb,
    upstream: SocketAddr,
    oha: Oha,
    folder: Folder,
}

pub fn run(options: &Disturb) -> Result<ExitCode, Box<dyn Error>> {
    let tollgate = program(&options.tollgate)?;
    let oha = Oha::new()?;
    let folder = folder()?;
    let upstream = start_upstream(folder.path())?;
    eprintln!("starting MariaDB and two gateways");
    let store = MariaDb::start(folder.path(), Core::Load, Share::Small)?;
    let start = |name: &str, log: &str| {
        let config = configs::gateway(Variant::A, log);
        Gateway::start(name, &tollgate, folder.path(), upstream.address, None, &config)
    };
    let lines = start("tollgate-lines", &configs::log_lines())?;
    let stored = start("tollgate-stored", &store.url())?;
    let bench = Bench { lines, stored, store, upstream: upstream.address, oha, folder };

    let rate = Rate { per_second: options.rate, seconds: options.seconds, connections: options.connections };
    let mut rows: Vec<Row> = CASES.iter().map(|case| Row { case, rounds: Vec::new(), done: Done::default() }).collect();
    for case in CASES.iter().filter(|case| case.disturbance == Disturbance::None) {
        bench.measure(case, Rate { seconds: 1, ..rate })?;
    }
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for row in &mut rows {
            let (load, done) = bench.measure(row.case, rate).map_err(|error| format!("{}: {error}", row.case.name))?;
            row.rounds.push(load);
            row.done = done;
        }
    }
    if options.json {
        println!("{:#}", to_json(&rows, rate));
    } else {
        println!("{}", table(&rows, rate));
    }
    Ok(ExitCode::SUCCESS)
}

impl Bench {
    fn measure(&self, case: &Case, rate: Rate) -> Result<(Load, Done), Box<dyn Error>> {
        let gateway = match case.target {
            Target::Upstream => return Ok((rate.send(&self.oha, self.upstream)?, Done::default())),
            Target::Lines => &self.lines,
            Target::Store => &self.stored,
        };
        self.empty_lines()?;
        let before = written(gateway)?;
        let rows_before = self.store.rows()?;
        let is_over = AtomicBool::new(false);
        let (load, done) = thread::scope(|scope| {
            let disturber = scope.spawn(|| case.disturbance.run(gateway, Some(&self.store), rate, &is_over));
            let load = rate.send(&self.oha, gateway.address());
            is_over.store(true, Ordering::Relaxed);
            (load, disturber.join().unwrap_or_else(|_| Err("the disturbance panicked".to_owned())))
        });
        let (load, done) = (load?, done?);
        let requests = rate.requests() + done.requests;
        settle(gateway, before + requests)?;
        let rows = self.store.rows()? - rows_before;
        if rows != if case.target == Target::Store { requests } else { 0 } {
            return Err(format!("{requests} requests, and MariaDB has {rows} rows more").into());
        }
        Ok((load, done))
    }

    /// A few hundred megabytes of lines are of no use to anyone.
    fn empty_lines(&self) -> std::io::Result<()> {
        File::options().write(true).open(self.folder.path().join(LINES_FILE))?.set_len(0)
    }
}

fn written(gateway: &Gateway) -> Result<u64, Box<dyn Error>> {
    Ok(gateway.scrape()?.sum("tollgate_log_records_total", "state=\"written\"")?)
}

/// Waits until so many records are written, and wants that none was lost and none waits.
fn settle(gateway: &Gateway, records: u64) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + SETTLE_MAX;
    while written(gateway)? < records && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
    }
    let scrape = gateway.scrape()?;
    let written = scrape.sum("tollgate_log_records_total", "state=\"written\"")?;
    let dropped = scrape.sum("tollgate_log_records_dropped_total", "")?;
    let waiting = super::scrape::waiting(&scrape)?;
    if (written, dropped, waiting) != (records, 0, 0) {
        return Err(
            format!("{records} records were due: {written} written, {dropped} dropped, {waiting} waiting").into()
        );
    }
    Ok(())
}

/// What is said about a row; microseconds, medians over the rounds.
#[derive(Debug, PartialEq)]
struct Figures {
    p50: f64,
    p99: f64,
    p999: f64,
    added_p50: f64,
    added_p99: f64,
    p99_ratio: f64,
}

fn figures(row: &Row, rows: &[Row]) -> Figures {
    let rounds_of = |name: &str| rows.iter().find(|row| row.case.name == name).map_or(&row.rounds, |row| &row.rounds);
    let (direct, beside) = (rounds_of(DIRECT), rounds_of(row.case.beside));
    let own = |of: fn(&Load) -> f64| median(row.rounds.iter().map(of));
    let added = |of: fn(&Load) -> f64| median(row.rounds.iter().zip(direct).map(|(own, direct)| of(own) - of(direct)));
    Figures {
        p50: own(|load| load.p50_us),
        p99: own(|load| load.p99_us),
        p999: own(|load| load.p999_us),
        added_p50: added(|load| load.p50_us),
        added_p99: added(|load| load.p99_us),
        p99_ratio: median(row.rounds.iter().zip(beside).map(|(own, beside)| own.p99_us / beside.p99_us)),
    }
}

fn table(rows: &[Row], rate: Rate) -> String {
    let mut lines = vec![
        format!(
            "Latency in microseconds at {} requests/s, counted from when each request was due; {} connections, {} s a run",
            grouped(rate.per_second.into()),
            rate.connections,
            rate.seconds
        ),
        "Medians over the rounds; added over direct, ratio to the row it is beside".to_owned(),
        String::new(),
        format!(
            "{:<11} {:>7} {:>7} {:>8}  {:>9} {:>9}  {:>9} {:<8}  what",
            "", "p50", "p99", "p99.9", "added p50", "added p99", "p99 ratio", "beside"
        ),
    ];
    for row in rows {
        let Figures { p50, p99, p999, added_p50, added_p99, p99_ratio } = figures(row, rows);
        let done = if row.done.what.is_empty() { String::new() } else { format!(" ({})", row.done.what) };
        lines.push(format!(
            "{:<11} {p50:>7.0} {p99:>7.0} {p999:>8.0}  {added_p50:>+9.0} {added_p99:>+9.0}  {p99_ratio:>9.2} {:<8}  {}{done}",
            row.case.name, row.case.beside, row.case.what
        ));
    }
    lines.join("\n")
}

fn to_json(rows: &[Row], rate: Rate) -> Value {
    let cases = rows.iter().map(|row| {
        let Figures { p50, p99, p999, added_p50, added_p99, p99_ratio } = figures(row, rows);
        json!({
            "case": row.case.name, "what": row.case.what, "done": row.done.what, "beside": row.case.beside,
            "p50_us": p50, "p99_us": p99, "p99.9_us": p999,
            "added_p50_us": added_p50, "added_p99_us": added_p99, "p99_ratio": p99_ratio,
            "rounds": row.rounds,
        })
    });
    json!({
        "requests_per_second": rate.per_second, "connections": rate.connections, "seconds": rate.seconds,
        "cases": cases.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn rows(direct: &[f64], gateway: &[f64], scraped: &[f64]) -> Vec<Row> {
        let load = |p99: &f64| Load {
            answers: 1,
            micros: 1,
            not_ok: 0,
            errors: BTreeMap::new(),
            p50_us: p99 / 10.0,
            p99_us: *p99,
            p999_us: p99 * 2.0,
        };
        let rounds = [direct, gateway, scraped];
        CASES
            .iter()
            .zip(rounds)
            .map(|(case, p99)| Row { case, rounds: p99.iter().map(load).collect(), done: Done::default() })
            .collect()
    }

    #[test]
    fn differences_and_ratios_are_taken_within_a_round() {
        // The machine was half as fast in the second round.
        let rows = rows(&[100.0, 200.0, 100.0], &[200.0, 400.0, 200.0], &[220.0, 440.0, 220.0]);
        let figures = figures(&rows[2], &rows);
        assert_eq!((figures.p99, figures.added_p99, figures.added_p50), (220.0, 120.0, 12.0));
        assert!((figures.p99_ratio - 1.1).abs() < 1e-9);
    }

    #[test]
    fn every_case_is_beside_one_that_is_not_disturbed() {
        for case in &CASES {
            let beside = CASES.iter().find(|other| other.name == case.beside).unwrap();
            assert!(beside.disturbance == Disturbance::None, "{}", case.name);
            assert!(case.disturbance == Disturbance::None || beside.target == case.target, "{}", case.name);
        }
    }

    #[test]
    fn table_and_json_have_every_case() {
        let rows = rows(&[100.0], &[200.0], &[220.0]);
        let rate = Rate { per_second: 5_000, seconds: 10, connections: 64 };
        assert!(["direct", "gateway", "scraped"].iter().all(|name| table(&rows, rate).contains(name)));
        assert_eq!(to_json(&rows, rate)["cases"][2]["p99_ratio"], 1.1);
    }
}
