//! Where and with what a run was made: the machine, its system, and the version of Pingora that was built in.
//! Figures mean nothing without it.

use std::fs;
use std::thread;

use serde::{Deserialize, Serialize};

/// The whole workspace was built with it.
const LOCK: &str = include_str!("../../Cargo.lock");

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub ram_bytes: u64,
    pub kernel: String,
    pub system: String,
    /// Of the last minute before the run: somebody else's work makes figures worse.
    pub load_average: f64,
}

impl Machine {
    pub fn read() -> Self {
        let cpus = text("/proc/cpuinfo");
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let memory = text("/proc/meminfo");
        let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
        let system = text("/etc/os-release");
        let pretty = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        Self {
            cpu: model.map_or("unknown", |(_, name)| name).to_owned(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            ram_bytes: total.and_then(|kb| kb.parse::<u64>().ok()).unwrap_or_default() << 10,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: pretty.unwrap_or("unknown").trim_matches('"').to_owned(),
            load_average: text("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or_default(),
        }
    }
}

/// As in Cargo.lock.
pub fn pingora_version() -> &'static str {
    let entry = LOCK.split("name = \"pingora\"\nversion = \"").nth(1);
    entry.and_then(|entry| entry.split('"').next()).unwrap_or("unknown")
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_known() {
        let machine = Machine::read();
        assert!(machine.cores > 0 && machine.ram_bytes > 1 << 20 && !machine.kernel.is_empty(), "{machine:?}");
    }

    #[test]
    fn pingora_has_a_version() {
        assert!(pingora_version().starts_with(|c: char| c.is_ascii_digit()), "{}", pingora_version());
    }
}
