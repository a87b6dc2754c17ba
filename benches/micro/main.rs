//! Micro benchmarks of the functions that every request runs, and of compiling a configuration: `make bench-micro`.
//! Without arguments divan measures their time. `cases` lists them with how often each is counted; `count NAME TIMES` runs one for callgrind, which counts instructions.
//! Not here: what a request costs altogether (`make bench`). This program is built for fast builds, so its figures compare among themselves only.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark whose fixture can't be made has to end")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program of the command line")]

mod case;
mod checks;
mod config;
mod limits;
mod records;
mod routes;
mod selection;

use std::process::ExitCode;

use case::Case;

// Tollgate's own allocator: allocations are a good part of what is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["cases"] => cases().for_each(|case| println!("{} {}", case.times, case.name)),
        ["count", name, times] => {
            let (case, times) = (cases().find(|case| case.name == name), times.parse());
            let (Some(case), Ok(times)) = (case, times) else {
                eprintln!("usage: count NAME TIMES; `cases` lists the names");
                return ExitCode::FAILURE;
            };
            case.count(times);
        }
        _ => divan::main(),
    }
    ExitCode::SUCCESS
}

fn cases() -> impl Iterator<Item = &'static Case> {
    [routes::CASES, checks::CASES, limits::CASES, records::CASES, records::SLOW_CASES, config::CASES, selection::CASES]
        .into_iter()
        .flatten()
}
