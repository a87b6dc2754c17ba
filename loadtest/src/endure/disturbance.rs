//! What happens to a gateway while its latency is measured: scrapes, reloads, an outage of the log's store.
//! Each counts what it did, and fails when it was less than was meant to happen: a run that was not disturbed proves nothing.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::configs::{self, KEY_HEADER, PATH_OF_B, Variant};
use super::gateway::Gateway;
use super::grouped;
use super::mariadb::MariaDb;
use super::rate::Rate;

const SCRAPE_EVERY: Duration = Duration::from_millis(100);
const RELOAD_EVERY: Duration = Duration::from_secs(1);
const OUTAGE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    None,
    Scrapes,
    Reloads,
    Outage,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Done {
    /// For the table.
    pub what: String,
    /// Requests through the gateway that were not the load's.
    pub requests: u64,
}

impl Disturbance {
    /// Goes on until the load is over.
    pub fn run(
        self,
        gateway: &Gateway,
        store: Option<&MariaDb>,
        rate: Rate,
        is_over: &AtomicBool,
    ) -> Result<Done, String> {
        let done = match self {
            Self::None => Ok(Done::default()),
            Self::Scrapes => scrapes(gateway, rate, is_over),
            Self::Reloads => reloads(gateway, rate, is_over),
            Self::Outage => outage(gateway, store, rate),
        };
        done.map_err(|error| error.to_string())
    }
}

fn scrapes(gateway: &Gateway, rate: Rate, is_over: &AtomicBool) -> Result<Done, Box<dyn Error>> {
    let scrapes = repeat(SCRAPE_EVERY, is_over, |_| {
        gateway.scrape()?.sum("tollgate_http_requests_total", "")?;
        Ok(())
    })?;
    at_least(scrapes, u64::from(rate.seconds) * 8, "scrapes")?;
    Ok(Done { what: format!("{} scrapes", grouped(scrapes)), requests: 0 })
}

/// The variants take turns; that one came into force is seen by a route that only the second has.
fn reloads(gateway: &Gateway, rate: Rate, is_over: &AtomicBool) -> Result<Done, Box<dyn Error>> {
    let log = configs::log_lines();
    let reloads = repeat(RELOAD_EVERY, is_over, |turn| reload(gateway, Variant::of_turn(turn + 1), &log))?;
    at_least(reloads, u64::from(rate.seconds) - 1, "reloads")?;
    // The next run begins with what this one began with.
    let mut requests = reloads;
    if Variant::of_turn(reloads) == Variant::B {
        reload(gateway, Variant::A, &log)?;
        requests += 1;
    }
    Ok(Done { what: format!("{} reloads", grouped(reloads)), requests })
}

/// One reload, and one request that shows that it is in force.
pub fn reload(gateway: &Gateway, variant: Variant, log: &str) -> Result<(), Box<dyn Error>> {
    gateway.reload(&configs::gateway(variant, log))?;
    let status = if variant == Variant::B { 200 } else { 404 };
    gateway.expect(PATH_OF_B, &format!("{KEY_HEADER}: {}\r\n", configs::key(0)), status)
}

/// In the middle of the run; records wait meanwhile, which shows that the store really was away.
fn outage(gateway: &Gateway, store: Option<&MariaDb>, rate: Rate) -> Result<Done, Box<dyn Error>> {
    let store = store.ok_or("there is no store that could be away")?;
    thread::sleep(Duration::from_secs(u64::from(rate.seconds)) / 2 - OUTAGE / 2);
    let scrape = store.stop_for(OUTAGE, || gateway.scrape().map_err(|error| error.to_string()))??;
    let waiting = super::scrape::waiting(&scrape)?;
    at_least(waiting, u64::from(rate.per_second) / 2, "records that waited for the store")?;
    Ok(Done { what: format!("{} records waited", grouped(waiting)), requests: 0 })
}

/// Calls `work` with 0, 1, 2 ... at fixed times until the load is over; how often it was.
fn repeat(
    every: Duration,
    is_over: &AtomicBool,
    mut work: impl FnMut(u64) -> Result<(), Box<dyn Error>>,
) -> Result<u64, Box<dyn Error>> {
    let start = Instant::now();
    for turn in 0.. {
        let due = start + every * (turn as u32 + 1);
        loop {
            // Looked at also when this turn is late already.
            if is_over.load(Ordering::Relaxed) {
                return Ok(turn);
            }
            let rest = due.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            thread::sleep(rest.min(Duration::from_millis(20)));
        }
        work(turn)?;
    }
    Ok(0)
}

fn at_least(count: u64, least: u64, what: &str) -> Result<(), String> {
    if count >= least { Ok(()) } else { Err(format!("only {count} {what}, at least {least} were meant to happen")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_repeated_until_the_load_is_over() {
        let (is_over, mut turns) = (AtomicBool::new(false), Vec::new());
        let count = repeat(Duration::from_millis(2), &is_over, |turn| {
            turns.push(turn);
            is_over.store(turn == 2, Ordering::Relaxed);
            Ok(())
        });
        assert_eq!((count.unwrap(), turns), (3, vec![0, 1, 2]));
    }

    #[test]
    fn work_that_fails_ends_it() {
        assert!(repeat(Duration::ZERO, &AtomicBool::new(false), |_| Err("no".into())).is_err());
    }

    #[test]
    fn too_little_is_an_error() {
        assert!(at_least(8, 8, "x").is_ok() && at_least(7, 8, "x").is_err());
    }
}
