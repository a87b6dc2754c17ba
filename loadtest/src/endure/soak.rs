//! A long load with a reload every ten seconds: memory must not grow after the first minute, and no request may fail.
//! Ends with exit code 1 when one of the two happens.

use std::error::Error;
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, value_parser};
use serde_json::{Value, json};

use super::configs::{self, LINES_FILE, PATH, Variant};
use super::disturbance::reload;
use super::gateway::Gateway;
use super::series::{GROWTH_MAX, Growth, Sample};
use super::{folder, grouped, program, start_upstream};
use crate::job::Pick;
use crate::load::Load;
use crate::load::closed::{Run, Wrk};
use crate::programs::Core;

/// The exit code when memory grows or something was lost; any other failure ends with another.
const FAILED: u8 = 1;

/// Between two samples: medians of a minute are of sixty.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Samples between two reloads, and between two that are said.
const RELOAD_SAMPLES: u64 = 10;

#[derive(Args)]
pub struct Soak {
    /// The program to measure, built with `cargo build --release -p tollgate`.
    #[arg(long, default_value = "target/release/tollgate")]
    tollgate: PathBuf,
    /// Minutes of load; below three nothing could be said about growth.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(3..=1_440))]
    minutes: u32,
    /// Keep-alive connections of the load.
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// What the gateway itself counted.
#[derive(Debug, Default, PartialEq)]
struct Counted {
    reloads: u64,
    failed_reloads: u64,
    records: u64,
    written: u64,
    dropped: u64,
}

pub fn run(options: &Soak) -> Result<ExitCode, Box<dyn Error>> {
    let tollgate = program(&options.tollgate)?;
    let folder = folder()?;
    let wrk = Wrk::new(folder.path(), &[], 0, 0)?;
    let upstream = start_upstream(folder.path())?;
    let log = configs::log_lines();
    let config = configs::gateway(Variant::A, &log);
    let gateway = Gateway::start("tollgate", &tollgate, folder.path(), upstream.address, None, &config)?;

    let (key, address) = (configs::key(0), gateway.address());
    let (connections, seconds) = (options.connections, options.minutes * 60);
    let begin = Instant::now();
    let load = thread::spawn(move || {
        let pick = Pick::Path(PATH);
        let core = Core::Load;
        let run = Run { core, address, is_tls: false, pick, key: Some(&key), connections, seconds, seed: 1 };
        wrk.run(&run)
    });
    let mut samples = Vec::new();
    let mut reloads = 0;
    for turn in 1..=u64::from(seconds) {
        thread::sleep((begin + SAMPLE_EVERY * turn as u32).saturating_duration_since(Instant::now()));
        let memory = gateway.memory()?;
        let seconds = begin.elapsed().as_secs_f64();
        samples.push(Sample { seconds, resident: memory.resident, anonymous: memory.anonymous });
        let is_said = turn.is_multiple_of(RELOAD_SAMPLES);
        if is_said {
            say(&samples, options.json);
        }
        if load.is_finished() {
            break;
        }
        if is_said {
            reloads += 1;
            reload(&gateway, Variant::of_turn(reloads), &log)?;
            // Lines are appended, so a file that is cut goes on at its beginning.
            File::options().write(true).open(folder.path().join(LINES_FILE))?.set_len(0)?;
        }
    }
    let load = load.join().map_err(|_| "the load panicked")??;
    let counted = counted(&gateway)?;
    let growth = Growth::of(&samples, f64::from(seconds)).ok_or("there are too few samples")?;
    let problems = problems(&load, &counted, reloads, u64::from(connections), &growth);
    if options.json {
        println!("{:#}", to_json(&samples, &growth, &load, reloads, &problems));
    } else {
        println!("{}", summary(&growth, &load, reloads));
    }
    problems.iter().for_each(|problem| eprintln!("error: {problem}"));
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// The newest sample, behind the table's head where nothing was said before. Beside JSON it is progress only.
fn say(samples: &[Sample], is_json: bool) {
    let Some(sample) = samples.last() else { return };
    let head = format!("{:>7} {:>14} {:>14}\n", "seconds", "resident MiB", "anonymous MiB");
    let head = if samples.len() as u64 == RELOAD_SAMPLES { head } else { String::new() };
    let (resident, anonymous) = (mib(sample.resident as f64), mib(sample.anonymous as f64));
    let line = format!("{head}{:>7.0} {resident:>14.2} {anonymous:>14.2}", sample.seconds);
    if is_json { eprintln!("{line}") } else { println!("{line}") }
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn counted(gateway: &Gateway) -> Result<Counted, Box<dyn Error>> {
    // What was on its way when the load ended is served, and its records are written in batches.
    thread::sleep(Duration::from_secs(2));
    let scrape = gateway.scrape()?;
    Ok(Counted {
        reloads: scrape.sum("tollgate_config_reloads_total", "result=\"success\"")?,
        failed_reloads: scrape.sum("tollgate_config_reloads_total", "result=\"failure\"")?,
        records: scrape.sum("tollgate_log_records_accepted_total", "")?,
        written: scrape.sum("tollgate_log_records_written_total", "")?,
        dropped: scrape.sum("tollgate_log_records_dropped_total", "")?,
    })
}

/// Everything that was not as it should be.
fn problems(load: &Load, counted: &Counted, reloads: u64, connections: u64, growth: &Growth) -> Vec<String> {
    let mut problems = Vec::new();
    if load.answers == 0 || load.errors_count() > 0 || load.not_ok > 0 {
        problems.push(format!("requests failed: {load:?}"));
    }
    if counted.reloads != reloads || counted.failed_reloads > 0 {
        problems.push(format!("{reloads} reloads were asked for: {counted:?}"));
    }
    // After each reload one request looked whether it is in force.
    let least = load.answers + reloads;
    let is_logged = (least..=least + connections).contains(&counted.records);
    if !is_logged || counted.written != counted.records || counted.dropped > 0 {
        problems.push(format!("{least} requests were answered and not all are logged: {counted:?}"));
    }
    if !growth.is_bounded() {
        problems.push(format!(
            "memory grows: the median of the last minute is {:.3} of the second minute's, at most {GROWTH_MAX} is no growth",
            growth.ratio
        ));
    }
    problems
}

fn summary(growth: &Growth, load: &Load, reloads: u64) -> String {
    format!(
        "\nsecond minute {:.2} MiB, last minute {:.2} MiB (medians): ratio {:.3}, at most {GROWTH_MAX} is no growth\n\
         {} requests, {:.0} a second; {} failed; {reloads} reloads",
        mib(growth.second_minute),
        mib(growth.last_minute),
        growth.ratio,
        grouped(load.answers),
        load.per_second(),
        load.errors_count() + load.not_ok
    )
}

fn to_json(samples: &[Sample], growth: &Growth, load: &Load, reloads: u64, problems: &[String]) -> Value {
    let series = samples.iter().map(|sample| {
        json!({"seconds": sample.seconds, "resident_bytes": sample.resident, "anonymous_bytes": sample.anonymous})
    });
    json!({
        "series": series.collect::<Vec<_>>(),
        "second_minute_bytes": growth.second_minute, "last_minute_bytes": growth.last_minute,
        "ratio": growth.ratio, "ratio_max": GROWTH_MAX,
        "requests": load.answers, "requests_per_second": load.per_second(), "failed": load.errors_count() + load.not_ok,
        "reloads": reloads, "problems": problems,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn check(change: impl Fn(&mut Load, &mut Counted, &mut Growth), expected: &str) {
        let mut load = Load {
            answers: 1_000,
            micros: 1_000_000,
            not_ok: 0,
            errors: BTreeMap::new(),
            p50_us: 1.0,
            p99_us: 2.0,
            p999_us: 3.0,
        };
        let mut counted = Counted { reloads: 5, failed_reloads: 0, records: 1_005, written: 1_005, dropped: 0 };
        let mut growth = Growth { second_minute: 1e8, last_minute: 1e8, ratio: 1.0 };
        change(&mut load, &mut counted, &mut growth);
        let problems = problems(&load, &counted, 5, 64, &growth).join("; ");
        assert_eq!(problems.is_empty(), expected.is_empty(), "{problems}");
        assert!(problems.contains(expected), "{problems}");
    }

    #[test]
    fn a_soak_without_problems_has_none() {
        check(|_, _, _| (), "");
        // What was on its way when the load ended.
        check(|_, counted, _| (counted.records, counted.written) = (1_069, 1_069), "");
    }

    #[test]
    fn failed_requests_are_a_problem() {
        check(|load, _, _| load.not_ok = 1, "requests failed");
        check(|load, _, _| load.errors = BTreeMap::from([("timeout".to_owned(), 1)]), "requests failed");
        check(|load, _, _| load.answers = 0, "requests failed");
    }

    #[test]
    fn missing_reloads_and_records_are_a_problem() {
        check(|_, counted, _| counted.reloads = 4, "5 reloads were asked for");
        check(|_, counted, _| counted.failed_reloads = 1, "5 reloads were asked for");
        check(|_, counted, _| counted.written = 1_004, "not all are logged");
        check(|_, counted, _| counted.dropped = 1, "not all are logged");
        check(|_, counted, _| counted.records = 1_004, "not all are logged");
    }

    #[test]
    fn growth_is_a_problem() {
        check(|_, _, growth| growth.ratio = 1.031, "memory grows");
    }
}
