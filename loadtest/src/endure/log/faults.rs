//! Latency while the store is killed, paused (SIGSTOP) or slow (a relay delays what passes), beside that with a healthy store.
//! The rounds alternate; within a run the fault begins after the first half second and ends two seconds before the load does, so
//! that the return and the replay are measured, too. A killed server is started again only after the load: on two cores its start
//! would be measured, not the gateway. Every run ends with all its records in the store.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Args, value_parser};
use serde::Serialize;
use serde_json::json;

use super::super::configs::{self, Variant};
use super::super::gateway::Gateway;
use super::super::mariadb::{MariaDb, Share};
use super::super::rate::Rate;
use super::super::series::median;
use super::super::{folder, grouped, program, start_upstream};
use super::account::Account;
use super::relay::Relay;
use super::{Common, end};
use crate::load::Load;
use crate::load::open::Oha;
use crate::programs::{Core, Program};
use crate::stop::Folder;

/// What the medians may be, as multiples of the healthy ones.
const P50_MAX: f64 = 1.05;
const P99_MAX: f64 = 1.25;

/// When the fault begins, and how long before the load's end it is over.
const BEGIN: Duration = Duration::from_millis(500);
const END: Duration = Duration::from_secs(2);
/// Each 16 KiB take so long: a batch of a thousand rows more than a second.
const DELAY: Duration = Duration::from_millis(40);
/// How long records may take to be stored after the load has ended: a paused server may keep a lock until a call has timed out.
const SETTLE_MAX: Duration = Duration::from_secs(40);

#[derive(Args)]
pub struct Faults {
    #[command(flatten)]
    common: Common,
    /// Requests per second, far below what the gateway can do.
    #[arg(long, default_value_t = 4_000, value_parser = value_parser!(u32).range(100..=50_000))]
    rate: u32,
    /// Seconds of load for one measurement.
    #[arg(long, default_value_t = 15, value_parser = value_parser!(u32).range(4..=120))]
    seconds: u32,
    /// How often every kind is measured, in turns.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..=50))]
    rounds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Killed,
    Paused,
    Slow,
}

const KINDS: [(Fault, &str); 4] =
    [(Fault::None, "healthy"), (Fault::Killed, "killed"), (Fault::Paused, "paused"), (Fault::Slow, "slow")];

/// One measurement.
#[derive(Clone, Debug, Serialize)]
struct Round {
    load: Load,
    /// Records that waited for the store when the fault was about to end.
    waited: u64,
}

struct Bench {
    // Dropped first to last: the gateway before its store and its upstream, the folder at the end.
    gateway: Gateway,
    relay: Relay,
    server: MariaDb,
    _upstream: Program,
    oha: Oha,
    rate: Rate,
    _folder: Folder,
}

pub fn run(options: &Faults) -> Result<ExitCode, Box<dyn Error>> {
    let mut bench = Bench::start(options)?;
    Account::begun(&bench.gateway, SETTLE_MAX)?;
    bench.measure(Fault::None, Rate { seconds: 2, ..bench.rate })?;
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); KINDS.len()];
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for ((fault, name), rounds) in KINDS.iter().zip(&mut rounds) {
            rounds.push(bench.measure(*fault, bench.rate).map_err(|error| format!("{name}: {error}"))?);
        }
    }
    let rows: Vec<Row> = KINDS.iter().zip(&rounds).map(|((_, name), own)| Row::of(name, own, &rounds[0])).collect();
    if options.common.json {
        println!("{:#}", json!({ "requests_per_second": options.rate, "seconds": options.seconds, "stores": rows }));
    } else {
        println!("{}", table(&rows, options));
    }
    Ok(end(&rows.iter().flat_map(Row::broken).collect::<Vec<_>>()))
}

impl Bench {
    fn start(options: &Faults) -> Result<Self, Box<dyn Error>> {
        let tollgate = program(&options.common.tollgate)?;
        let (folder, oha) = (folder()?, Oha::new()?);
        let upstream = start_upstream(folder.path())?;
        eprintln!("starting MariaDB and a gateway");
        let server = MariaDb::start(folder.path(), Core::Load, Share::Rest)?;
        let relay = Relay::to(server.address())?;
        let config = configs::gateway(Variant::A, &log(relay.address, options.common.rows));
        let gateway = Gateway::start("tollgate", &tollgate, folder.path(), upstream.address, None, &config)?;
        let rate = Rate { per_second: options.rate, seconds: options.seconds, connections: options.common.connections };
        Ok(Self { gateway, relay, server, _upstream: upstream, oha, rate, _folder: folder })
    }

    fn measure(&mut self, fault: Fault, rate: Rate) -> Result<Round, Box<dyn Error>> {
        let rows_before = self.server.rows()?;
        let written_before = Account::of(&self.gateway)?.written;
        let (oha, address) = (&self.oha, self.gateway.address());
        let (gateway, relay, server) = (&self.gateway, &self.relay, &self.server);
        let (load, waited) = thread::scope(|scope| {
            let load = scope.spawn(move || rate.send(oha, address));
            thread::sleep(BEGIN);
            let began = fault.begin(server, relay);
            thread::sleep(Duration::from_secs(rate.seconds.into()).saturating_sub(BEGIN + END));
            let waited = Account::of(gateway).map(|account| account.waiting());
            let ended = fault.end(server, relay);
            let load = load.join().map_err(|_| io::Error::other("the load panicked")).flatten();
            (load, began.and(ended).and(waited))
        });
        let (load, waited) = (load?, waited?);
        if fault == Fault::Killed {
            self.server.revive()?;
        }
        Account::settled(&self.gateway, written_before + rate.requests(), SETTLE_MAX)?;
        let rows = self.server.rows()? - rows_before;
        if rows != rate.requests() {
            return Err(format!("{} requests, and MariaDB has {rows} rows more", rate.requests()).into());
        }
        // A run without its fault proves nothing.
        let least = if fault == Fault::None { 0 } else { u64::from(rate.per_second) };
        if waited < least {
            return Err(format!("only {waited} records waited for the store, at least {least} were meant to").into());
        }
        Ok(Round { load, waited })
    }
}

/// The log by way of the relay. The queue is small, so that the spool is used within seconds.
fn log(relay: SocketAddr, rows: u32) -> String {
    format!("{{store: \"{}\", queue: 8192, spool: spool, flush: {{rows: {rows}}}}}", MariaDb::url_by(relay))
}

impl Fault {
    fn begin(self, server: &MariaDb, relay: &Relay) -> Result<(), Box<dyn Error>> {
        match self {
            Self::None => {}
            Self::Killed => server.kill()?,
            Self::Paused => server.pause()?,
            Self::Slow => relay.delay(DELAY),
        }
        Ok(())
    }

    fn end(self, server: &MariaDb, relay: &Relay) -> Result<(), Box<dyn Error>> {
        match self {
            Self::None | Self::Killed => {}
            Self::Paused => server.resume()?,
            Self::Slow => relay.delay(Duration::ZERO),
        }
        Ok(())
    }
}

/// What is said about a kind; microseconds, medians over the rounds.
#[derive(Debug, Serialize)]
struct Row {
    store: &'static str,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    /// As multiples of the healthy ones.
    p50_ratio: f64,
    p99_ratio: f64,
    waited: f64,
    rounds: Vec<Round>,
}

impl Row {
    fn of(store: &'static str, rounds: &[Round], healthy: &[Round]) -> Self {
        let of = |rounds: &[Round], pick: fn(&Load) -> f64| median(rounds.iter().map(|round| pick(&round.load)));
        let (p50_us, p99_us) = (of(rounds, |load| load.p50_us), of(rounds, |load| load.p99_us));
        Self {
            store,
            p50_us,
            p99_us,
            p999_us: of(rounds, |load| load.p999_us),
            p50_ratio: p50_us / of(healthy, |load| load.p50_us),
            p99_ratio: p99_us / of(healthy, |load| load.p99_us),
            waited: median(rounds.iter().map(|round| round.waited as f64)),
            rounds: rounds.to_vec(),
        }
    }

    fn broken(&self) -> Vec<String> {
        [("p50", self.p50_ratio, P50_MAX), ("p99", self.p99_ratio, P99_MAX)]
            .iter()
            .filter(|(_, ratio, most)| ratio > most)
            .map(|(what, ratio, most)| {
                format!("{}: {what} is {ratio:.3} of the healthy one, at most {most} is promised", self.store)
            })
            .collect()
    }
}

fn table(rows: &[Row], options: &Faults) -> String {
    let mut lines = vec![
        format!(
            "Latency in microseconds at {} requests/s, counted from when each request was due; {} connections, {} s a run",
            grouped(options.rate.into()),
            options.common.connections,
            options.seconds
        ),
        format!("Medians over {} alternating rounds", options.rounds),
        String::new(),
        format!(
            "{:<8} {:>6} {:>6} {:>7}  {:>14} {:>14}  {:>14}",
            "store", "p50", "p99", "p99.9", "p50 to healthy", "p99 to healthy", "records waited"
        ),
    ];
    for row in rows {
        lines.push(format!(
            "{:<8} {:>6.0} {:>6.0} {:>7.0}  {:>14.3} {:>14.3}  {:>14}",
            row.store,
            row.p50_us,
            row.p99_us,
            row.p999_us,
            row.p50_ratio,
            row.p99_ratio,
            grouped(row.waited as u64)
        ));
    }
    lines.push(String::new());
    lines.push(format!("Promised: p50 at most {P50_MAX} and p99 at most {P99_MAX} of the healthy ones"));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn rounds(p50: &[f64], p99: &[f64]) -> Vec<Round> {
        let load = |p50_us: f64, p99_us: f64| Load {
            answers: 1,
            micros: 1,
            not_ok: 0,
            errors: BTreeMap::new(),
            p50_us,
            p99_us,
            p999_us: p99_us,
        };
        p50.iter().zip(p99).map(|(p50, p99)| Round { load: load(*p50, *p99), waited: 1 }).collect()
    }

    #[test]
    fn medians_are_held_against_the_healthy_ones() {
        let healthy = rounds(&[90.0, 100.0, 300.0], &[900.0, 1_000.0, 1_100.0]);
        let good = Row::of("killed", &rounds(&[105.0, 50.0, 900.0], &[1_250.0, 0.0, 9_000.0]), &healthy);
        assert_eq!((good.p50_ratio, good.p99_ratio), (1.05, 1.25));
        assert_eq!(good.broken(), Vec::<String>::new());
        let bad = Row::of("paused", &rounds(&[106.0], &[1_260.0]), &healthy);
        assert_eq!(bad.broken().len(), 2);
        assert!(bad.broken()[1].contains("paused: p99 is 1.260"));
    }
}
