//! What a request costs: tollgate beside bare Pingora and other proxies, on the same machine in the same minutes.
//! The figure is CPU microseconds per request of the whole proxy, which holds where requests per second do not.
//! A run counts only if its work was done: answers, log lines and requests that reached the upstream are compared.

mod bare;
mod baseline;
mod certificate;
mod cli;
mod compare;
mod contender;
mod contenders;
mod endure;
mod guard;
mod http;
mod job;
mod lines;
mod load;
mod machine;
mod pace;
mod process;
mod programs;
mod report;
mod stop;
mod tools;
mod upstream;

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

// Tollgate's own allocator: what is compared is the code above it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(version, about = "Measures what a request costs in tollgate, beside bare Pingora and other proxies")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures every contender in every job and prints tables; needs wrk, and oha for J8.
    Compare(cli::Compare),
    /// Measures a built tollgate beside bare Pingora in about two minutes and prints tables; needs wrk.
    Quick(cli::Quick),
    /// Measures tollgate beside bare Pingora, and fails when a ratio is more than 5% worse than the baseline; needs wrk.
    Check(cli::Check),
    /// Prints a result that was written as JSON in another format.
    Show(cli::Show),
    /// Measures what a built tollgate holds in memory: idle, per connection, route, key and client address; about two minutes.
    Memory(endure::memory::Memory),
    /// Loads a built tollgate for minutes with a reload every 10 s; fails when memory grows or a request does; needs wrk.
    Soak(endure::soak::Soak),
    /// Measures latency at a fixed rate beside scrapes, reloads and an outage of the log's store; needs oha and MariaDB.
    Disturb(endure::disturb::Disturb),
    /// Measures latency behind three instances of which one is twice as slow, for each `balance`; needs oha.
    Balance(endure::balance::Balance),
    /// Measures what clients notice while instances are killed, frozen and made to fail in turns; a minute.
    Failover(endure::failover::Failover),
    /// Measures the request log: its share of a request, what it keeps up with, its replay, and latency with a store at fault.
    #[command(subcommand)]
    Log(endure::log::Log),
    /// Runs bare Pingora as a reverse proxy, one worker.
    Bare(bare::Options),
    /// Runs the upstream: any GET is answered with the same 206 bytes; `/requests` says how many there were.
    Upstream {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
        /// How long it works on a request, on average.
        #[arg(long, default_value_t = 0)]
        work_ms: u64,
        /// How many requests it works on at once, where that takes time.
        #[arg(long, default_value_t = 1)]
        at_once: usize,
    },
    /// Runs a program until standard input is closed, then ends it and all it has started.
    #[command(hide = true)]
    Guard(guard::Guard),
}

fn main() -> ExitCode {
    let result = run(Options::parse().command);
    // A signal has ended the programs, and whatever failed, failed by that.
    stop::wait_if_stopping();
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}

fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Compare(options) => cli::compare(&options),
        Command::Quick(options) => cli::quick(&options),
        Command::Check(options) => cli::check(&options),
        Command::Show(options) => cli::show(&options),
        Command::Memory(options) => endure::memory::run(&options),
        Command::Soak(options) => endure::soak::run(&options),
        Command::Disturb(options) => endure::disturb::run(&options),
        Command::Balance(options) => endure::balance::run(&options),
        Command::Failover(options) => endure::failover::run(&options),
        Command::Log(command) => endure::log::run(&command),
        Command::Bare(options) => bare::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Upstream { listen, work_ms, at_once } => {
            let pace = (work_ms > 0).then(|| pace::Pace::new(Duration::from_millis(work_ms), at_once));
            Ok(upstream::run(listen, pace).map(|()| ExitCode::SUCCESS)?)
        }
        Command::Guard(options) => guard::run(&options),
    }
}
