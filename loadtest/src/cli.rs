//! The commands that measure: their options, what they plan, and what they do with the report.
//! How a plan is carried out is in `compare/`.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::de::DeserializeOwned;

use crate::baseline::{self, Baseline, TOLERANCE, Worse};
use crate::compare::{self, Plan};
use crate::contenders::{BARE, BARE_DRESSED, TOLLGATE};
use crate::endure::balance::Measured;
use crate::job::{self, Job, Row};
use crate::report::{Report, Settings, page};

/// Something is worse than it may be; any other failure ends with [`FAILED`].
const WORSE: u8 = 1;
const FAILED: u8 = 2;

/// The rows of the quick table.
const QUICK: [&str; 4] = ["J1", "J2", "J3", "J4-401"];

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables for a terminal.
    Text,
    /// Everything, every round.
    Json,
    /// The page `docs/performance.md`.
    Markdown,
}

/// What all measurements have in common.
#[derive(Args)]
pub struct Common {
    /// The program to measure, built with `cargo build --release -p tollgate`.
    #[arg(long, default_value = "target/release/tollgate")]
    tollgate: PathBuf,
    /// Keep-alive connections of the load.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
}

#[derive(Args)]
pub struct Compare {
    #[command(flatten)]
    common: Common,
    /// Jobs to run; all when left out.
    #[arg(long, value_enum, ignore_case = true, num_args = 1.., value_delimiter = ',')]
    job: Vec<Job>,
    /// Contenders that take part, e.g. `tollgate,bare-dressed,nginx`; all when left out.
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// How often everybody is measured, in turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=50))]
    rounds: u32,
    /// Seconds of load for one measurement.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Requests a second in J8.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    rate: u32,
    /// Connections in J7.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    idle_connections: u32,
    /// Client addresses in J9; each has to ask once before a measurement, which takes its time.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    addresses: u32,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Where the result goes instead of standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also writes the ratios to bare Pingora; needs J1 to J6 with tollgate and both bare ones.
    #[arg(long, value_name = "FILE")]
    baseline_out: Option<PathBuf>,
}

#[derive(Args)]
pub struct Quick {
    #[command(flatten)]
    common: Common,
    /// How often everybody is measured, in turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Seconds of load for one measurement.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Check {
    #[command(flatten)]
    common: Common,
    /// How often everybody is measured, in turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(3..=50))]
    rounds: u32,
    /// Seconds of load for one measurement.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// The ratios that may not get worse.
    #[arg(long, default_value = "loadtest/baseline.json")]
    baseline: PathBuf,
}

#[derive(Args)]
pub struct Show {
    /// A result that `compare --format json` wrote.
    result: PathBuf,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Where it goes instead of standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What `balance --json` wrote, for the page.
    #[arg(long, value_name = "FILE")]
    balance: Option<PathBuf>,
    /// Also writes the ratios to bare Pingora.
    #[arg(long, value_name = "FILE")]
    baseline_out: Option<PathBuf>,
}

pub fn compare(options: &Compare) -> Result<ExitCode, Box<dyn Error>> {
    let jobs = |job: &Job| options.job.is_empty() || options.job.contains(job);
    // A job is a group: its rows are measured in the same rounds.
    let groups: Vec<Vec<&Row>> = Job::value_variants()
        .iter()
        .filter(|job| jobs(job))
        .map(|job| job::ROWS.iter().filter(|row| row.job == *job).collect())
        .collect();
    let mut settings = settings(&options.common, options.rounds, options.seconds);
    settings.rate = options.rate;
    settings.idle_connections = options.idle_connections;
    settings.addresses = options.addresses;
    let only: Vec<String> = options.only.iter().map(|name| name.replace('-', " ")).collect();
    if options.baseline_out.is_some() {
        let has = |id: &str| groups.iter().flatten().any(|row| row.id == id);
        let is_there = |name: &str| only.is_empty() || only.iter().any(|only| only == name);
        if !(baseline::ROWS.iter().all(|id| has(id))
            && [TOLLGATE, BARE, BARE_DRESSED].iter().all(|name| is_there(name)))
        {
            return Err(format!("--baseline-out needs J1 to J6 with {TOLLGATE}, {BARE} and {BARE_DRESSED}").into());
        }
    }
    let plan = Plan { tollgate: program(&options.common.tollgate)?, groups, only, settings, command: command() };
    let report = compare::run(plan)?;
    // Kept even when something failed: the rest of a long run is of use.
    write(&text(&report, options.format)?, options.out.as_deref())?;
    let failures = end(&report)?;
    if let (Some(path), true) = (&options.baseline_out, failures == ExitCode::SUCCESS) {
        Baseline::of(&report)?.write(path)?;
    }
    Ok(failures)
}

pub fn quick(options: &Quick) -> Result<ExitCode, Box<dyn Error>> {
    let report = compare::run(beside_bare(&options.common, options.rounds, options.seconds, &[&QUICK])?)?;
    let format = if options.json { Format::Json } else { Format::Text };
    write(&text(&report, format)?, None)?;
    end(&report)
}

/// What looks worse is measured a second time, with twice the rounds: on a busy machine a single run may be off by 5%.
pub fn check(options: &Check) -> Result<ExitCode, Box<dyn Error>> {
    let baseline = Baseline::read(&options.baseline)?;
    let (warm, rest): (Vec<&str>, Vec<&str>) = baseline::ROWS.iter().partition(|id| !["J5", "J6"].contains(*id));
    let groups: Vec<Vec<&str>> = std::iter::once(warm).chain(rest.into_iter().map(|id| vec![id])).collect();
    let groups: Vec<&[&str]> = groups.iter().map(Vec::as_slice).collect();
    let measure = |rounds: u32| -> Result<(Report, Vec<Worse>), Box<dyn Error>> {
        let report = compare::run(beside_bare(&options.common, rounds, options.seconds, &groups)?)?;
        if let Some(failure) = report.failures().first() {
            return Err((*failure).into());
        }
        let worse = baseline.worse(&Baseline::of(&report)?)?;
        Ok((report, worse))
    };
    let (mut report, mut worse) = measure(options.rounds)?;
    if !worse.is_empty() {
        let rows: Vec<String> = worse.iter().map(ToString::to_string).collect();
        eprintln!("worse than the baseline, so all is measured again with more rounds:\n{}", rows.join("\n"));
        (report, worse) = measure(options.rounds * 2)?;
    }
    println!("{}", page::text(&report));
    if worse.is_empty() {
        println!(
            "no ratio to bare Pingora is more than {:.0}% worse than {}",
            TOLERANCE * 100.0,
            options.baseline.display()
        );
        return Ok(ExitCode::SUCCESS);
    }
    for worse in &worse {
        eprintln!("error: {worse}");
    }
    Ok(ExitCode::from(WORSE))
}

pub fn show(options: &Show) -> Result<ExitCode, Box<dyn Error>> {
    let report: Report = read(&options.result)?;
    let balance = options.balance.as_deref().map(read::<Measured>).transpose()?;
    let text = match options.format {
        Format::Markdown => page::page(&report, balance.as_ref().map(Measured::markdown))?,
        format => text(&report, format)?,
    };
    write(&text, options.out.as_deref())?;
    if let Some(path) = &options.baseline_out {
        Baseline::of(&report)?.write(path)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Tollgate and the two references only.
fn beside_bare(common: &Common, rounds: u32, seconds: u32, groups: &[&[&str]]) -> Result<Plan, Box<dyn Error>> {
    Ok(Plan {
        tollgate: program(&common.tollgate)?,
        groups: groups.iter().map(|ids| ids.iter().filter_map(|id| job::row(id)).collect()).collect(),
        only: [BARE, BARE_DRESSED, TOLLGATE].map(str::to_owned).into(),
        settings: settings(common, rounds, seconds),
        command: command(),
    })
}

fn settings(common: &Common, rounds: u32, seconds: u32) -> Settings {
    Settings { rounds, seconds, connections: common.connections, ..Settings::default() }
}

fn program(path: &Path) -> Result<PathBuf, String> {
    fs::canonicalize(path)
        .map_err(|error| format!("{}: {error}; build it with `cargo build --release -p tollgate`", path.display()))
}

fn command() -> String {
    std::env::args().collect::<Vec<_>>().join(" ")
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let place = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("{place}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{place}: {error}"))
}

fn text(report: &Report, format: Format) -> Result<String, Box<dyn Error>> {
    Ok(match format {
        Format::Text => page::text(report),
        Format::Json => serde_json::to_string_pretty(report)? + "\n",
        Format::Markdown => page::page(report, None)?,
    })
}

fn write(text: &str, out: Option<&Path>) -> Result<(), Box<dyn Error>> {
    match out {
        Some(path) => fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?,
        None => print!("{text}"),
    }
    Ok(())
}

/// Names what failed.
fn end(report: &Report) -> Result<ExitCode, Box<dyn Error>> {
    let failures = report.failures();
    for failure in &failures {
        eprintln!("error: {failure}");
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}
