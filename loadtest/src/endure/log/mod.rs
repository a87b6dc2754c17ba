//! What the request log costs, keeps up with, and how it takes faults of its store: `loadtest log cost`, `saturation`, `replay`
//! and `faults`. Each holds what it measures against what is promised, and ends with 1 when a promise is not kept.
//! Every run checks the log's account: what was answered is in the store, and nothing is unaccounted in any scrape.

mod account;
mod cost;
mod faults;
mod relay;
mod replay;
mod saturation;
mod store;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

/// A promise is not kept; any other failure ends with 2.
const BROKEN: u8 = 1;

#[derive(Subcommand)]
pub enum Log {
    /// CPU time of a request without a log, with JSON lines, with SQLite and with MariaDB; two minutes, needs wrk and MariaDB.
    Cost(cost::Cost),
    /// As many requests as this machine can do for a minute, with SQLite and with MariaDB; needs wrk and MariaDB.
    Saturation(saturation::Saturation),
    /// How soon the spool is replayed when the store is back, and how fast; needs wrk, oha and MariaDB.
    Replay(replay::Replay),
    /// Latency with the store killed, paused and slow, beside that with a healthy one; six minutes, needs oha and MariaDB.
    Faults(faults::Faults),
}

/// What all of them have in common.
#[derive(Args)]
struct Common {
    /// The program to measure, built with `cargo build --release -p tollgate`.
    #[arg(long, default_value = "target/release/tollgate")]
    tollgate: PathBuf,
    /// Keep-alive connections of the load.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Rows of a batch, as `log.flush.rows`.
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rows: u32,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub fn run(command: &Log) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Log::Cost(options) => cost::run(options),
        Log::Saturation(options) => saturation::run(options),
        Log::Replay(options) => replay::run(options),
        Log::Faults(options) => faults::run(options),
    }
}

/// Says which promises are not kept.
fn end(broken: &[String]) -> ExitCode {
    for promise in broken {
        eprintln!("error: {promise}");
    }
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(BROKEN) }
}
