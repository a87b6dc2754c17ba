//! How soon the spool is replayed when the store is back, and how fast, while requests go on at a fixed rate. The store is away for
//! longer than the writer's longest pause between two tries takes to be reached, so its return is noticed as late as it ever is.

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, value_parser};
use serde::Serialize;
use serde_json::json;

use super::super::configs::{self, PATH, Variant};
use super::super::gateway::Gateway;
use super::super::mariadb::Share;
use super::super::rate::Rate;
use super::super::series::median;
use super::super::{folder, grouped, program, start_upstream};
use super::account::Account;
use super::store::{Kind, Store};
use super::{Common, end};
use crate::job::Pick;
use crate::load::closed::{Run, Wrk};
use crate::load::open::Oha;
use crate::programs::Core;

/// What is promised.
const BEGIN_SECONDS_MAX: f64 = 5.0;
const ROWS_PER_SECOND_MIN: f64 = 10_000.0;

const LOOK_EVERY: Duration = Duration::from_millis(20);
const REPLAY_MAX: Duration = Duration::from_secs(120);

#[derive(Args)]
pub struct Replay {
    #[command(flatten)]
    common: Common,
    /// Seconds without the store, under as much load as the gateway can take.
    #[arg(long, default_value_t = 15, value_parser = value_parser!(u32).range(1..=600))]
    away: u32,
    /// Requests per second meanwhile the spool is replayed; 0 for none.
    #[arg(long, default_value_t = 4_000, value_parser = value_parser!(u32).range(0..=50_000))]
    rate: u32,
    /// How often the store goes away.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Which stores; both when left out.
    #[arg(long, value_enum, num_args = 1.., value_delimiter = ',')]
    store: Vec<Kind>,
}

/// One return of the store.
#[derive(Clone, Copy, Debug, Serialize)]
struct Return {
    /// Records in the spool when the store came back.
    spooled: u64,
    /// From the store's first answer until the spool held less.
    begin_seconds: f64,
    /// Rows of the spool a second, from then on until it was empty.
    rows_per_second: f64,
}

#[derive(Serialize)]
struct Outcome {
    store: &'static str,
    returns: Vec<Return>,
}

pub fn run(options: &Replay) -> Result<ExitCode, Box<dyn Error>> {
    let kinds = if options.store.is_empty() { &Kind::ALL[..] } else { &options.store };
    let outcomes = kinds.iter().map(|kind| measure(*kind, options)).collect::<Result<Vec<_>, _>>()?;
    if options.common.json {
        println!("{:#}", json!({ "away_seconds": options.away, "rate": options.rate, "stores": outcomes }));
    } else {
        println!("{}", table(&outcomes, options));
    }
    Ok(end(&outcomes.iter().flat_map(Outcome::broken).collect::<Vec<_>>()))
}

fn measure(kind: Kind, options: &Replay) -> Result<Outcome, Box<dyn Error>> {
    let tollgate = program(&options.common.tollgate)?;
    let (folder, oha) = (folder()?, Oha::new()?);
    let wrk = Wrk::new(folder.path(), &[], 0, 0)?;
    let upstream = start_upstream(folder.path())?;
    let mut store = Store::start(kind, folder.path(), Core::Load, Share::Small)?;
    let config = configs::gateway(Variant::A, &store.log(options.common.rows));
    let gateway = Gateway::start("tollgate", &tollgate, folder.path(), upstream.address, None, &config)?;
    let mut returns = Vec::new();
    for round in 1..=options.rounds {
        eprintln!("{}, round {round} of {}", kind.name(), options.rounds);
        store.leave()?;
        fill(&wrk, &gateway, options)?;
        returns.push(come_back(&gateway, &mut store, &oha, options)?);
        Account::settled(&gateway, 0, REPLAY_MAX)?;
    }
    let account = Account::of(&gateway)?;
    let rows = store.rows()?;
    if rows != account.accepted {
        return Err(format!("{} records, and {rows} rows in the store", account.accepted).into());
    }
    Ok(Outcome { store: kind.name(), returns })
}

fn fill(wrk: &Wrk, gateway: &Gateway, options: &Replay) -> Result<(), Box<dyn Error>> {
    let load = wrk.run(&Run {
        core: Core::Load,
        address: gateway.address(),
        is_tls: false,
        pick: Pick::Path(PATH),
        key: Some(&configs::key(0)),
        connections: options.common.connections,
        seconds: options.away,
        seed: 0,
    })?;
    if load.not_ok > 0 || load.errors_count() > 0 || load.answers == 0 {
        return Err(format!("not every request was answered well: {load:?}").into());
    }
    Ok(())
}

fn come_back(gateway: &Gateway, store: &mut Store, oha: &Oha, options: &Replay) -> Result<Return, Box<dyn Error>> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| keep_asking(gateway, oha, options, &is_over));
        let seen = watch(gateway, store).map_err(|error| error.to_string());
        is_over.store(true, Ordering::Relaxed);
        load.join().unwrap_or_else(|_| Err("the load panicked".to_owned()))?;
        Ok(seen?)
    })
}

/// Requests at the fixed rate until the spool is empty.
fn keep_asking(gateway: &Gateway, oha: &Oha, options: &Replay, is_over: &AtomicBool) -> Result<(), String> {
    let rate = Rate { per_second: options.rate, seconds: 3, connections: options.common.connections };
    while options.rate > 0 && !is_over.load(Ordering::Relaxed) {
        rate.send(oha, gateway.address()).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn watch(gateway: &Gateway, store: &mut Store) -> Result<Return, Box<dyn Error>> {
    let waited = Account::of(gateway)?;
    if waited.spooled == 0 {
        return Err(format!("the store was away, and nothing is in the spool: {waited:?}").into());
    }
    store.come_back()?;
    let back = Instant::now();
    let began = |account: &Account| account.written > waited.written;
    let first = until(gateway, began)?;
    let (begin, begun) = (back.elapsed(), Instant::now());
    until(gateway, |account| account.spooled == 0)?;
    Ok(Return {
        spooled: first.spooled,
        begin_seconds: begin.as_secs_f64(),
        rows_per_second: first.spooled as f64 / begun.elapsed().as_secs_f64(),
    })
}

fn until(gateway: &Gateway, is_met: impl Fn(&Account) -> bool) -> Result<Account, Box<dyn Error>> {
    let deadline = Instant::now() + REPLAY_MAX;
    loop {
        let account = Account::of(gateway)?;
        if is_met(&account) {
            return Ok(account);
        }
        if Instant::now() > deadline {
            return Err(format!("after {REPLAY_MAX:?}: {account:?}").into());
        }
        thread::sleep(LOOK_EVERY);
    }
}

impl Outcome {
    /// The latest begin and the slowest replay count: what is promised holds for each return.
    fn broken(&self) -> Vec<String> {
        let (begin, pace) = (self.begin_seconds(), self.rows_per_second().0);
        let mut broken = Vec::new();
        if begin > BEGIN_SECONDS_MAX {
            broken.push(format!(
                "{}: replay began {begin:.1} s after the store's return, at most {BEGIN_SECONDS_MAX} are promised",
                self.store
            ));
        }
        if pace < ROWS_PER_SECOND_MIN {
            broken.push(format!("{}: {pace:.0} rows/s, at least {ROWS_PER_SECOND_MIN} are promised", self.store));
        }
        broken
    }

    /// The latest.
    fn begin_seconds(&self) -> f64 {
        self.returns.iter().map(|one| one.begin_seconds).fold(0.0, f64::max)
    }

    /// The slowest, and the median.
    fn rows_per_second(&self) -> (f64, f64) {
        let all = || self.returns.iter().map(|one| one.rows_per_second);
        (all().fold(f64::INFINITY, f64::min), median(all()))
    }
}

fn table(outcomes: &[Outcome], options: &Replay) -> String {
    let mut lines = vec![
        format!(
            "The store away for {} s of load, {} times; {} requests/s while the spool is replayed",
            options.away,
            options.rounds,
            grouped(options.rate.into())
        ),
        String::new(),
        format!(
            "{:<8} {:>12} {:>18} {:>14} {:>13}",
            "store", "spooled", "begins after, max", "rows/s, median", "rows/s, least"
        ),
    ];
    for outcome in outcomes {
        let spooled = median(outcome.returns.iter().map(|one| one.spooled as f64));
        let (least, pace) = outcome.rows_per_second();
        lines.push(format!(
            "{:<8} {:>12} {:>16.2} s {:>14} {:>13}",
            outcome.store,
            grouped(spooled as u64),
            outcome.begin_seconds(),
            grouped(pace as u64),
            grouped(least as u64)
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(begin_seconds: f64, rows_per_second: f64) -> Outcome {
        let good = Return { spooled: 9, begin_seconds: 1.0, rows_per_second: 20_000.0 };
        Outcome { store: "SQLite", returns: vec![good, Return { spooled: 9, begin_seconds, rows_per_second }] }
    }

    #[test]
    fn every_return_has_to_keep_the_promise() {
        assert_eq!(outcome(5.0, 10_000.0).broken(), Vec::<String>::new());
        assert!(outcome(5.1, 10_000.0).broken()[0].contains("5.1 s after"));
        assert!(outcome(5.0, 9_999.0).broken()[0].contains("9999 rows/s"));
    }
}
