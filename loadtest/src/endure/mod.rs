//! What a gateway is like when it has much to hold, runs for long, or is disturbed: `memory`, `soak`, `disturb`, `balance`, `failover` and `log`.
//! Each starts its own programs on loopback, checks that the work was done, and ends what it started.
//! Not here: what a request costs in CPU time, which is the comparison's.

pub mod balance;
mod configs;
mod crowd;
pub mod disturb;
mod disturbance;
pub mod failover;
mod gateway;
mod idle;
pub mod log;
mod mariadb;
pub mod memory;
mod rate;
mod resident;
mod scrape;
mod series;
pub mod soak;
mod stream;

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::programs::{Core, Program, free_address, on_core};
use crate::stop::Folder;

/// The gateway's program as an absolute path.
fn program(path: &Path) -> Result<PathBuf, Box<dyn Error>> {
    fs::canonicalize(path).map_err(|error| {
        format!("{}: {error}; build it with `cargo build --release -p tollgate`", path.display()).into()
    })
}

/// A folder that goes with this process, however that ends.
fn folder() -> io::Result<Folder> {
    let folder = Folder::make()?;
    folder.watch_signals()?;
    Ok(folder)
}

/// This program as an upstream, on the load's core.
fn start_upstream(folder: &Path) -> io::Result<Program> {
    start_upstream_on(Core::Load, folder)
}

fn start_upstream_on(core: Core, folder: &Path) -> io::Result<Program> {
    let address = free_address()?;
    let mut command = on_core(core, std::env::current_exe()?);
    command.args(["upstream", "--listen", &address.to_string()]);
    Program::start("upstream", command, address, folder)
}

/// A number with a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let pieces: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|piece| std::str::from_utf8(piece).unwrap_or_default()).collect();
    pieces.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1_000, 12_345, 1_000_000].map(grouped), ["0", "999", "1,000", "12,345", "1,000,000"]);
    }
}
