//! Whether the log keeps up when the machine has nothing left: gateway, load, upstream and store share all processors, nothing is
//! pinned or nice, and every connection asks again as soon as it has its answer. The account is read every second.

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
use super::super::{folder, grouped, program, start_upstream_on};
use super::account::Account;
use super::store::{Kind, Store};
use super::{Common, end};
use crate::job::Pick;
use crate::load::Load;
use crate::load::closed::{Run, Wrk};
use crate::programs::Core;

const SCRAPE_EVERY: Duration = Duration::from_secs(1);
/// What may wait at the end: a full spool takes its time.
const SETTLE_MAX: Duration = Duration::from_secs(300);

#[derive(Args)]
pub struct Saturation {
    #[command(flatten)]
    common: Common,
    /// Seconds of load.
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u32).range(5..=600))]
    seconds: u32,
    /// Which stores; both when left out.
    #[arg(long, value_enum, num_args = 1.., value_delimiter = ',')]
    store: Vec<Kind>,
}

/// What became of the records of one run.
#[derive(Debug, Serialize)]
struct Outcome {
    store: &'static str,
    requests_per_second: f64,
    accepted: u64,
    /// When the load ended.
    at_end: Account,
    queued_max: u64,
    spooled_max: u64,
    dropped: u64,
    /// Of the dropped, those that had no room in the spool.
    dropped_spool_full: u64,
    rows: u64,
    scrapes: u64,
    /// From the end of the load until all was stored.
    drained_seconds: f64,
    /// CPU microseconds a request, until all was stored.
    gateway_us: f64,
    server_us: f64,
}

pub fn run(options: &Saturation) -> Result<ExitCode, Box<dyn Error>> {
    let kinds = if options.store.is_empty() { &Kind::ALL[..] } else { &options.store };
    let outcomes = kinds.iter().map(|kind| measure(*kind, options)).collect::<Result<Vec<_>, _>>()?;
    if options.common.json {
        println!("{:#}", json!({ "seconds": options.seconds, "stores": outcomes }));
    } else {
        println!("{}", table(&outcomes, options));
    }
    Ok(end(&outcomes.iter().filter_map(Outcome::broken).collect::<Vec<_>>()))
}

fn measure(kind: Kind, options: &Saturation) -> Result<Outcome, Box<dyn Error>> {
    let tollgate = program(&options.common.tollgate)?;
    let folder = folder()?;
    let wrk = Wrk::new(folder.path(), &[], 0, 0)?;
    let upstream = start_upstream_on(Core::Any, folder.path())?;
    let store = Store::start(kind, folder.path(), Core::Any, Share::Equal)?;
    let config = configs::gateway(Variant::A, &store.log(options.common.rows));
    let gateway = Gateway::start_anywhere("tollgate", &tollgate, folder.path(), upstream.address, &config)?;
    eprintln!("{}: {} s of load", kind.name(), options.seconds);
    let (cpu, server) = (gateway.cpu()?, store.cpu()?);
    let is_over = AtomicBool::new(false);
    let (load, seen) = thread::scope(|scope| {
        let scraper = scope.spawn(|| watch(&gateway, &is_over).map_err(|error| error.to_string()));
        let load = send(&wrk, &gateway, options);
        is_over.store(true, Ordering::Relaxed);
        (load, scraper.join().unwrap_or_else(|_| Err("the scraper panicked".to_owned())))
    });
    let (load, (queued_max, spooled_max, scrapes)) = (load?, seen?);
    let (ended, at_end) = (Instant::now(), Account::of(&gateway)?);
    let account = drained(&gateway)?;
    let drained_seconds = ended.elapsed().as_secs_f64();
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / load.answers as f64;
    Ok(Outcome {
        store: kind.name(),
        requests_per_second: load.per_second(),
        accepted: account.accepted,
        at_end,
        queued_max,
        spooled_max,
        dropped: account.dropped,
        dropped_spool_full: account.spool_full,
        rows: store.rows()?,
        scrapes,
        drained_seconds,
        gateway_us: each(gateway.cpu()? - cpu),
        server_us: each(store.cpu()? - server),
    })
}

fn send(wrk: &Wrk, gateway: &Gateway, options: &Saturation) -> Result<Load, Box<dyn Error>> {
    let load = wrk.run(&Run {
        core: Core::Any,
        address: gateway.address(),
        is_tls: false,
        pick: Pick::Path(PATH),
        key: Some(&configs::key(0)),
        connections: options.common.connections,
        seconds: options.seconds,
        seed: 0,
    })?;
    if load.not_ok > 0 || load.errors_count() > 0 || load.answers == 0 {
        return Err(format!("not every request was answered well: {load:?}").into());
    }
    Ok(load)
}

/// The most that was queued and spooled, and how often that was looked at; each account has to add up.
fn watch(gateway: &Gateway, is_over: &AtomicBool) -> Result<(u64, u64, u64), Box<dyn Error>> {
    let (mut queued, mut spooled, mut scrapes) = (0, 0, 0);
    while !is_over.load(Ordering::Relaxed) {
        let account = Account::of(gateway)?;
        (queued, spooled, scrapes) = (account.queued.max(queued), account.spooled.max(spooled), scrapes + 1);
        thread::sleep(SCRAPE_EVERY);
    }
    Ok((queued, spooled, scrapes))
}

/// The account when nothing waits any more.
fn drained(gateway: &Gateway) -> Result<Account, Box<dyn Error>> {
    let deadline = Instant::now() + SETTLE_MAX;
    loop {
        let account = Account::of(gateway)?;
        if account.waiting() == 0 {
            return Ok(account);
        }
        if Instant::now() > deadline {
            return Err(format!("{} records still wait after {SETTLE_MAX:?}", account.waiting()).into());
        }
        thread::sleep(Duration::from_millis(50));
    }
}

impl Outcome {
    fn broken(&self) -> Option<String> {
        let Self { store, accepted, dropped, dropped_spool_full, rows, .. } = self;
        if rows + dropped != *accepted {
            return Some(format!("{store}: {accepted} records, {rows} rows and {dropped} dropped"));
        }
        (dropped > dropped_spool_full).then(|| {
            format!("{store}: {} records were dropped although the spool had room", dropped - dropped_spool_full)
        })
    }
}

fn table(outcomes: &[Outcome], options: &Saturation) -> String {
    let mut lines = vec![
        format!(
            "{} s of as many requests as this machine can do (a key, a limit per address), everything on the same {} processors, {} connections",
            options.seconds,
            thread::available_parallelism().map_or(0, usize::from),
            options.common.connections
        ),
        "Unaccounted in every scrape: 0; CPU in microseconds a request".to_owned(),
        String::new(),
        format!(
            "{:<8} {:>10} {:>10} {:>14} {:>10} {:>11} {:>9} {:>7} {:>7} {:>7} {:>7}",
            "store",
            "requests/s",
            "accepted",
            "written at end",
            "queued max",
            "spooled max",
            "drained s",
            "dropped",
            "scrapes",
            "gateway",
            "server"
        ),
    ];
    for outcome in outcomes {
        lines.push(format!(
            "{:<8} {:>10} {:>10} {:>14} {:>10} {:>11} {:>9.1} {:>7} {:>7} {:>7.2} {:>7.2}",
            outcome.store,
            grouped(outcome.requests_per_second as u64),
            grouped(outcome.accepted),
            grouped(outcome.at_end.written),
            grouped(outcome.queued_max),
            grouped(outcome.spooled_max),
            outcome.drained_seconds,
            grouped(outcome.dropped),
            outcome.scrapes,
            outcome.gateway_us,
            outcome.server_us
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(rows: u64, dropped: u64, dropped_spool_full: u64) -> Option<String> {
        let outcome = Outcome {
            store: "SQLite",
            requests_per_second: 1.0,
            accepted: 10,
            at_end: Account::default(),
            queued_max: 0,
            spooled_max: 0,
            dropped,
            dropped_spool_full,
            rows,
            scrapes: 1,
            drained_seconds: 0.0,
            gateway_us: 1.0,
            server_us: 0.0,
        };
        outcome.broken()
    }

    #[test]
    fn only_a_full_spool_may_drop() {
        assert_eq!(broken(10, 0, 0), None);
        assert_eq!(broken(8, 2, 2), None);
        assert!(broken(8, 2, 1).unwrap().contains("1 records were dropped"));
    }

    #[test]
    fn every_record_is_a_row_or_dropped() {
        assert!(broken(9, 0, 0).unwrap().contains("9 rows"));
    }
}
