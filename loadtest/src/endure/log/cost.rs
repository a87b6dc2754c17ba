//! What the log costs: CPU time of the gateway for a request of J2 (a key, a limit per address), with no log, JSON lines, SQLite
//! and MariaDB, all written out before the time is read. All take turns; differences are taken within a round. How fast the machine
//! is at the moment is what bare Pingora takes in the same round.

use std::error::Error;
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, value_parser};
use serde::Serialize;
use serde_json::json;

use super::super::configs::{self, LINES_FILE, PATH, Variant};
use super::super::gateway::Gateway;
use super::super::mariadb::Share;
use super::super::series::median;
use super::super::{folder, program, start_upstream};
use super::account::Account;
use super::store::{Kind, Store};
use super::{Common, end};
use crate::job::Pick;
use crate::load::Load;
use crate::load::closed::{Run, Wrk};
use crate::programs::{Core, Program, free_address, on_core};
use crate::stop::Folder;

/// What a request cost bare Pingora, in CPU microseconds, on the machine for which the promises were made.
const PACE_US: f64 = 22.5;
/// How long records may take to be written after the load has ended.
const SETTLE_MAX: Duration = Duration::from_secs(30);

#[derive(Args)]
pub struct Cost {
    #[command(flatten)]
    common: Common,
    /// Seconds of load for one measurement.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// How often every log is measured, in turns.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..=50))]
    rounds: u32,
}

/// One measurement.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Sample {
    /// CPU microseconds of the gateway per request.
    gateway_us: f64,
    /// CPU microseconds of the store's server per record.
    server_us: f64,
    per_second: f64,
}

/// A gateway with a log, and what it cost in each round.
struct Case {
    name: &'static str,
    /// CPU microseconds that may be added to a request, where something is promised.
    added_max: Option<f64>,
    gateway: Gateway,
    store: Option<Store>,
    has_log: bool,
    rounds: Vec<Sample>,
}

struct Bench {
    // Dropped first to last: the gateways before their stores and their upstream, the folder at the end.
    cases: Vec<Case>,
    bare: Program,
    /// CPU microseconds of bare Pingora per request in each round.
    pace: Vec<f64>,
    _upstream: Program,
    wrk: Wrk,
    folder: Folder,
}

pub fn run(options: &Cost) -> Result<ExitCode, Box<dyn Error>> {
    let mut bench = start(options)?;
    for round in 0..=options.rounds {
        // The first one only warms up.
        let seconds = if round == 0 { 1 } else { options.seconds };
        if round > 0 {
            eprintln!("round {round} of {}", options.rounds);
        }
        let pace = bench.measure_bare(seconds, options.common.connections)?;
        if round > 0 {
            bench.pace.push(pace);
        }
        for place in 0..bench.cases.len() {
            let sample = bench.measure(place, seconds, options.common.connections)?;
            if round > 0 {
                bench.cases[place].rounds.push(sample);
            }
        }
    }
    let rows: Vec<Row> = bench.cases.iter().map(|case| Row::of(case, &bench.cases[0].rounds, &bench.pace)).collect();
    if options.common.json {
        let (seconds, rounds) = (options.seconds, options.rounds);
        println!("{:#}", json!({ "seconds": seconds, "rounds": rounds, "bare_us": bench.pace, "logs": rows }));
    } else {
        println!("{}", table(&rows, median(bench.pace.iter().copied()), options));
    }
    Ok(end(&rows.iter().filter_map(Row::broken).collect::<Vec<_>>()))
}

fn start(options: &Cost) -> Result<Bench, Box<dyn Error>> {
    let tollgate = program(&options.common.tollgate)?;
    let folder = folder()?;
    let wrk = Wrk::new(folder.path(), &[], 0, 0)?;
    let upstream = start_upstream(folder.path())?;
    eprintln!("starting MariaDB and four gateways");
    let start = |name: &'static str, added_max: Option<f64>, log: &str, store: Option<Store>| {
        let config = configs::gateway(Variant::A, log);
        let gateway = Gateway::start(name, &tollgate, folder.path(), upstream.address, None, &config)?;
        Ok::<_, Box<dyn Error>>(Case { name, added_max, gateway, store, has_log: log != "none", rounds: Vec::new() })
    };
    let mut cases = vec![start("none", None, "none", None)?, start("lines", None, &configs::log_lines(), None)?];
    for (kind, added_max) in [(Kind::Sqlite, 6.0), (Kind::Mariadb, 4.0)] {
        let store = Store::start(kind, folder.path(), Core::Load, Share::Small)?;
        let case = start(kind.name(), Some(added_max), &store.log(options.common.rows), Some(store))?;
        Account::begun(&case.gateway, SETTLE_MAX)?;
        cases.push(case);
    }
    let bare = start_bare(folder.path(), upstream.address)?;
    Ok(Bench { cases, bare, pace: Vec::new(), _upstream: upstream, wrk, folder })
}

fn start_bare(folder: &Path, upstream: SocketAddr) -> Result<Program, Box<dyn Error>> {
    let address = free_address()?;
    let mut command = on_core(Core::Proxy, std::env::current_exe()?);
    command.args(["bare", "--listen", &address.to_string(), "--upstream", &upstream.to_string()]);
    Ok(Program::start("bare", command, address, folder)?)
}

impl Bench {
    /// As many requests as `address` answers in that time, each of them well.
    fn load(&self, name: &str, address: SocketAddr, seconds: u32, connections: u32) -> Result<Load, Box<dyn Error>> {
        let load = self.wrk.run(&Run {
            core: Core::Load,
            address,
            is_tls: false,
            pick: Pick::Path(PATH),
            key: Some(&configs::key(0)),
            connections,
            seconds,
            seed: 0,
        })?;
        if load.not_ok > 0 || load.errors_count() > 0 || load.answers == 0 {
            return Err(format!("{name}: not every request was answered well: {load:?}").into());
        }
        Ok(load)
    }

    fn measure_bare(&self, seconds: u32, connections: u32) -> Result<f64, Box<dyn Error>> {
        let before = self.bare.cpu()?;
        let load = self.load("bare Pingora", self.bare.address, seconds, connections)?;
        Ok(each(self.bare.cpu()? - before, &load))
    }

    fn measure(&self, place: usize, seconds: u32, connections: u32) -> Result<Sample, Box<dyn Error>> {
        let case = &self.cases[place];
        // A few hundred megabytes of lines are of no use to anyone.
        File::options().write(true).open(self.folder.path().join(LINES_FILE))?.set_len(0)?;
        let server = || case.store.as_ref().map_or(Ok(Duration::ZERO), Store::cpu);
        let rows = || case.store.as_ref().map_or(Ok(0), Store::rows);
        let rows_before = rows()?;
        let written_before = if case.has_log { Account::of(&case.gateway)?.written } else { 0 };
        let (cpu_before, server_before) = (case.gateway.cpu()?, server()?);
        let load = self.load(case.name, case.gateway.address(), seconds, connections)?;
        // Writing the records is part of the cost.
        if case.has_log {
            Account::settled(&case.gateway, written_before + load.answers, SETTLE_MAX)?;
        }
        let (cpu, server) = (case.gateway.cpu()? - cpu_before, server()? - server_before);
        // What is on its way when the load ends is served, but not counted by it.
        let stored = rows()? - rows_before;
        if case.store.is_some() && !(load.answers..=load.answers + u64::from(connections)).contains(&stored) {
            return Err(format!("{}: {} answers, and the store has {stored} rows more", case.name, load.answers).into());
        }
        Ok(Sample { gateway_us: each(cpu, &load), server_us: each(server, &load), per_second: load.per_second() })
    }
}

/// CPU microseconds a request.
fn each(cpu: Duration, load: &Load) -> f64 {
    cpu.as_secs_f64() * 1e6 / load.answers as f64
}

/// What is said about a log; medians over the rounds.
#[derive(Debug, Serialize)]
struct Row {
    log: &'static str,
    gateway_us: f64,
    gateway_us_min: f64,
    gateway_us_max: f64,
    /// Over no log, within a round.
    added_us: f64,
    /// The same on a machine where bare Pingora takes `PACE_US`.
    added_at_pace_us: f64,
    added_us_max: Option<f64>,
    server_us: f64,
    requests_per_second: f64,
    rounds: Vec<Sample>,
}

impl Row {
    fn of(case: &Case, without: &[Sample], bare: &[f64]) -> Self {
        let of = |pick: fn(&Sample) -> f64| case.rounds.iter().map(pick);
        let pairs = case.rounds.iter().zip(without);
        let added: Vec<f64> = pairs.map(|(with, without)| with.gateway_us - without.gateway_us).collect();
        Self {
            log: case.name,
            gateway_us: median(of(|sample| sample.gateway_us)),
            gateway_us_min: of(|sample| sample.gateway_us).fold(f64::INFINITY, f64::min),
            gateway_us_max: of(|sample| sample.gateway_us).fold(0.0, f64::max),
            added_us: median(added.iter().copied()),
            added_at_pace_us: median(added.iter().zip(bare).map(|(added, bare)| added * PACE_US / bare)),
            added_us_max: case.added_max,
            server_us: median(of(|sample| sample.server_us)),
            requests_per_second: median(of(|sample| sample.per_second)),
            rounds: case.rounds.clone(),
        }
    }

    fn broken(&self) -> Option<String> {
        let most = self.added_us_max.filter(|most| self.added_at_pace_us > *most)?;
        let (log, added) = (self.log, self.added_at_pace_us);
        Some(format!(
            "{log} adds {added:.2} us to a request where bare Pingora takes {PACE_US}, at most {most:.0} are promised"
        ))
    }
}

fn table(rows: &[Row], bare: f64, options: &Cost) -> String {
    let mut lines = vec![
        format!(
            "CPU microseconds a request (a key, a limit per address), all records written; {} connections, {} s a run, {} rounds, {} rows a batch",
            options.common.connections, options.seconds, options.rounds, options.common.rows
        ),
        format!("Bare Pingora took {bare:.2}; \"at {PACE_US}\" is what is added where it takes {PACE_US}"),
        String::new(),
        format!(
            "{:<8} {:>7} {:>14}  {:>9} {:>7} {:>7}  {:>13} {:>10}",
            "log",
            "gateway",
            "min to max",
            "over none",
            format!("at {PACE_US}"),
            "at most",
            "server/record",
            "requests/s"
        ),
    ];
    for row in rows {
        let span = format!("{:.1} to {:.1}", row.gateway_us_min, row.gateway_us_max);
        let most = row.added_us_max.map_or(String::new(), |most| format!("{most:.0}"));
        let server = if row.server_us > 0.0 { format!("{:.2}", row.server_us) } else { String::new() };
        lines.push(format!(
            "{:<8} {:>7.2} {span:>14}  {:>+9.2} {:>+7.2} {most:>7}  {server:>13} {:>10.0}",
            row.log, row.gateway_us, row.added_us, row.added_at_pace_us, row.requests_per_second
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(added_at_pace_us: f64, added_us_max: Option<f64>) -> Row {
        Row {
            log: "SQLite",
            gateway_us: 30.0,
            gateway_us_min: 29.0,
            gateway_us_max: 31.0,
            added_us: 60.0,
            added_at_pace_us,
            added_us_max,
            server_us: 0.0,
            requests_per_second: 1.0,
            rounds: Vec::new(),
        }
    }

    #[test]
    fn more_than_is_promised_is_named() {
        assert_eq!(row(6.0, Some(6.0)).broken(), None);
        assert_eq!(row(60.0, None).broken(), None);
        assert!(row(6.1, Some(6.0)).broken().unwrap().contains("SQLite adds 6.10 us"));
    }
}
