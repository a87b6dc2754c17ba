//! What a request costs: tollgate beside bare Pingora, on the same machine in the same minute.
//! The figure is CPU microseconds per request of the whole proxy, which holds where requests per second do not.
//! A run counts only if its work was done: answers, log lines and requests that reached the upstream are compared.

mod bare;
mod drive;
mod programs;
mod quick;
mod report;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

// Tollgate's own allocator: what is compared is the code above it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(version, about = "Measures what a request costs in tollgate, beside bare Pingora")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures a built tollgate in about 90 seconds and prints a table; needs wrk.
    Quick(Quick),
    /// Runs bare Pingora as a reverse proxy, one worker.
    Bare(Bare),
    /// Runs the upstream: any GET is answered with the same 206 bytes; `/requests` says how many there were.
    Upstream {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
    },
}

#[derive(Args)]
struct Quick {
    /// The program to measure, built with `cargo build --release -p tollgate`.
    #[arg(long, default_value = "target/release/tollgate")]
    tollgate: PathBuf,
    /// How often every scenario is measured, in turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Seconds of load for one measurement.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Keep-alive connections of the load.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Bare {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Where requests go.
    #[arg(long)]
    upstream: SocketAddr,
    /// Also a request id and forwarded headers, as tollgate sets them.
    #[arg(long)]
    dressed: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Options::parse().command {
        Command::Quick(options) => quick::run(&options),
        Command::Bare(options) => bare::run(&options),
        Command::Upstream { listen } => Ok(upstream::run(listen)?),
    }
}
