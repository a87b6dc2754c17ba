//! Latency behind three instances of which one is twice as slow, for each way to choose among them that does not depend on a key.
//! An instance works on few requests at once, and the others wait there: sent its equal share, the slow one is nearly at its limit.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, value_parser};
use serde::{Deserialize, Serialize};

use super::gateway::Gateway;
use super::rate::Rate;
use super::series::median;
use super::{configs, folder, grouped, program};
use crate::load::Load;
use crate::load::open::Oha;
use crate::programs::{Core, Program, free_address, on_core};

/// What the others are compared with.
const EQUAL: &str = "round_robin";
/// These have to be better than that.
const HELPS: [&str; 2] = ["least_requests", "peak_ewma"];
const BALANCES: [&str; 4] = [EQUAL, "random", HELPS[0], HELPS[1]];

/// Milliseconds that each instance works on a request, on average.
const WORK_MS: [u32; 3] = [8, 4, 4];
/// Requests that each works on at once.
const AT_ONCE: u32 = 4;

#[derive(Args)]
pub struct Balance {
    /// The program to measure, built with `cargo build --release -p tollgate`.
    #[arg(long, default_value = "target/release/tollgate")]
    tollgate: PathBuf,
    /// Requests per second. The instances bear 2,500 together; the slow one 500, which is a third of 1,500.
    #[arg(long, default_value_t = 1_300, value_parser = value_parser!(u32).range(100..=2_400))]
    rate: u32,
    /// Keep-alive connections of the load.
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(16..=1_000))]
    connections: u32,
    /// Seconds of load for one measurement.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(3..=120))]
    seconds: u32,
    /// How often each is measured, in turns.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    command: String,
    requests_per_second: u32,
    connections: u32,
    seconds: u32,
    balances: Vec<Row>,
}

/// All rounds of one way to choose.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    balance: String,
    rounds: Vec<Load>,
    /// The part of the requests that the slow instance got.
    slow_share: Vec<f64>,
}

/// Milliseconds, medians over the rounds; the ratio within a round.
#[derive(Debug, PartialEq)]
struct Figures {
    p50: f64,
    p99: f64,
    p999: f64,
    p99_ratio: f64,
    slow_share: f64,
}

pub fn run(options: &Balance) -> Result<ExitCode, Box<dyn Error>> {
    let tollgate = program(&options.tollgate)?;
    let oha = Oha::new()?;
    let folder = folder()?;
    let instances: Vec<Program> =
        WORK_MS.iter().map(|work| instance(*work, folder.path())).collect::<io::Result<_>>()?;
    let addresses: Vec<SocketAddr> = instances.iter().map(|instance| instance.address).collect();
    let start = |balance: &&str| {
        let config = configs::balanced(balance, &addresses);
        Gateway::start(balance, &tollgate, folder.path(), addresses[0], None, &config)
    };
    let gateways: Vec<Gateway> = BALANCES.iter().map(start).collect::<Result<_, _>>()?;
    let Balance { rate, connections, seconds, rounds, .. } = *options;
    let rate = Rate { per_second: rate, seconds, connections };
    let row = |balance: &&str| Row { balance: (*balance).to_owned(), rounds: Vec::new(), slow_share: Vec::new() };
    let mut rows: Vec<Row> = BALANCES.iter().map(row).collect();
    for gateway in &gateways {
        Rate { seconds: 1, ..rate }.send(&oha, gateway.address())?;
    }
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for (gateway, row) in gateways.iter().zip(&mut rows) {
            let slow = || connections_of(gateway, addresses[0]);
            let before = slow()?;
            row.rounds.push(rate.send(&oha, gateway.address()).map_err(|error| format!("{}: {error}", row.balance))?);
            row.slow_share.push((slow()? - before) as f64 / rate.requests() as f64);
        }
    }
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    let measured = Measured { command, requests_per_second: rate.per_second, connections, seconds, balances: rows };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&measured)?);
    } else {
        println!("{}", measured.text());
    }
    match measured.broken() {
        None => Ok(ExitCode::SUCCESS),
        Some(broken) => {
            eprintln!("{broken}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// An instance that works so long, on the load's core.
fn instance(work_ms: u32, folder: &std::path::Path) -> io::Result<Program> {
    let address = free_address()?;
    let mut command = on_core(Core::Load, std::env::current_exe()?);
    let (work, at_once) = (work_ms.to_string(), AT_ONCE.to_string());
    command.args(["upstream", "--listen", &address.to_string(), "--work-ms", &work, "--at-once", &at_once]);
    Program::start(&format!("instance-{address}"), command, address, folder)
}

/// Tries at an instance so far.
fn connections_of(gateway: &Gateway, instance: SocketAddr) -> Result<u64, Box<dyn Error>> {
    let label = format!("instance=\"{instance}\"");
    Ok(gateway.scrape()?.sum("tollgate_upstream_connections_total", &label)?)
}

impl Measured {
    fn figures(&self) -> Vec<(&str, Figures)> {
        let equal = self.balances.iter().find(|row| row.balance == EQUAL);
        let figures = |row: &Row| {
            let ms = |of: fn(&Load) -> f64| median(row.rounds.iter().map(|load| of(load) / 1e3));
            let beside = equal.map_or(&row.rounds, |equal| &equal.rounds);
            let ratios = row.rounds.iter().zip(beside).map(|(own, beside)| own.p99_us / beside.p99_us);
            Figures {
                p50: ms(|load| load.p50_us),
                p99: ms(|load| load.p99_us),
                p999: ms(|load| load.p999_us),
                p99_ratio: median(ratios),
                slow_share: median(row.slow_share.iter().copied()),
            }
        };
        self.balances.iter().map(|row| (row.balance.as_str(), figures(row))).collect()
    }

    /// Which promise does not hold.
    fn broken(&self) -> Option<String> {
        let figures = self.figures();
        let broken = figures.iter().find(|(name, figures)| HELPS.contains(name) && figures.p99_ratio >= 1.0);
        broken.map(|(name, figures)| format!("{name}: p99 is {:.2} of that of {EQUAL}", figures.p99_ratio))
    }

    fn about(&self) -> String {
        let [slow, fast, _] = WORK_MS;
        format!(
            "{} requests/s over {} connections, {} s a run, medians of {} rounds in turns. Three instances work on {AT_ONCE} requests at once, \
             for {slow}, {fast} and {fast} ms on average (exponentially distributed); what is more waits there.",
            grouped(self.requests_per_second.into()),
            self.connections,
            self.seconds,
            self.balances.first().map_or(0, |row| row.rounds.len())
        )
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{}\nMilliseconds, counted from when each request was due; p99 as a part of {EQUAL}'s\n\n",
            self.about()
        );
        let _ =
            writeln!(text, "{:<15} {:>6} {:>6} {:>6}  {:>9}  to the slow one", "", "p50", "p99", "p99.9", "p99 ratio");
        for (name, Figures { p50, p99, p999, p99_ratio, slow_share }) in self.figures() {
            let _ = writeln!(
                text,
                "{name:<15} {p50:>6.1} {p99:>6.1} {p999:>6.1}  {p99_ratio:>9.2}  {:>14.0}%",
                slow_share * 1e2
            );
        }
        text
    }

    /// For the page `docs/performance.md`.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{} Milliseconds, counted from when each request was due, by\n\n```text\n{}\n```\n\n",
            self.about(),
            self.command
        );
        text.push_str("| `balance` | p50 | p99 | p99.9 | p99, part of `round_robin`'s | requests to the slow one |\n");
        text.push_str("| --- | --- | --- | --- | --- | --- |\n");
        for (name, Figures { p50, p99, p999, p99_ratio, slow_share }) in self.figures() {
            let share = slow_share * 1e2;
            let _ = writeln!(text, "| `{name}` | {p50:.1} | {p99:.1} | {p999:.1} | {p99_ratio:.2} | {share:.0}% |");
        }
        text.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn measured(p99: &[(&str, [f64; 3])]) -> Measured {
        let load = |p99_us: &f64| Load {
            answers: 1,
            micros: 1,
            not_ok: 0,
            errors: BTreeMap::new(),
            p50_us: p99_us / 10.0,
            p99_us: *p99_us,
            p999_us: p99_us * 2.0,
        };
        let row = |(name, p99): &(&str, [f64; 3])| Row {
            balance: (*name).to_owned(),
            rounds: p99.iter().map(load).collect(),
            slow_share: vec![0.25; 3],
        };
        let balances = p99.iter().map(row).collect();
        Measured {
            command: "loadtest balance".into(),
            requests_per_second: 1_300,
            connections: 64,
            seconds: 10,
            balances,
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was half as fast in the second round.
        let all =
            measured(&[(EQUAL, [40e3, 80e3, 40e3]), (HELPS[0], [20e3, 40e3, 20e3]), (HELPS[1], [10e3, 20e3, 10e3])]);
        let ratios: Vec<f64> = all.figures().iter().map(|(_, figures)| figures.p99_ratio).collect();
        assert_eq!((ratios, all.broken()), (vec![1.0, 0.5, 0.25], None));
        assert!(
            all.text().contains("peak_ewma")
                && all.markdown().contains("| `least_requests` | 2.0 | 20.0 | 40.0 | 0.50 | 25% |")
        );
    }

    #[test]
    fn what_does_not_help_is_said() {
        let all = measured(&[(EQUAL, [40e3; 3]), (HELPS[0], [20e3; 3]), (HELPS[1], [41e3; 3])]);
        assert_eq!(all.broken().unwrap(), "peak_ewma: p99 is 1.02 of that of round_robin");
    }
}
