//! Closed loop: wrk, every connection asks again as soon as it has its answer.
//! Its latencies say how fast the proxy is, not how long anybody would wait at some rate: they are labelled so.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::http::only_loopback;
use crate::job::{ITEMS_PATH, Pick};
use crate::load::Load;
use crate::programs::{Core, on_core};
use crate::tools;

const REPORT: &str = include_str!("report.lua");
const PICKS: &str = include_str!("picks.lua");

/// wrk, found, with its scripts in place.
pub struct Wrk {
    program: PathBuf,
    report: PathBuf,
    picks: PathBuf,
    /// One key a line.
    keys: PathBuf,
    keys_count: usize,
    routes_count: usize,
    addresses_count: u32,
}

/// One run.
pub struct Run<'a> {
    /// Where wrk itself runs.
    pub core: Core,
    pub address: SocketAddr,
    pub is_tls: bool,
    pub pick: Pick,
    pub key: Option<&'a str>,
    pub connections: u32,
    pub seconds: u32,
    /// Picks at random are the same for the same seed.
    pub seed: u32,
}

impl Wrk {
    pub fn new(folder: &Path, keys: &[&str], routes_count: usize, addresses_count: u32) -> io::Result<Self> {
        let program = tools::find("wrk")
            .map_err(|_| io::Error::other("wrk is not installed: `make bench-peers`, or `apt-get install wrk`"))?;
        let wrk = Self {
            program,
            report: folder.join("report.lua"),
            picks: folder.join("picks.lua"),
            keys: folder.join("keys.txt"),
            keys_count: keys.len(),
            routes_count,
            addresses_count,
        };
        fs::write(&wrk.report, REPORT)?;
        fs::write(&wrk.picks, format!("{PICKS}\n{REPORT}"))?;
        fs::write(&wrk.keys, keys.join("\n") + "\n")?;
        Ok(wrk)
    }

    pub fn version(&self) -> io::Result<String> {
        // It ends with 1 when it says its version.
        let output = std::process::Command::new(&self.program).arg("-v").output()?;
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        Ok(said.split(" [").next().unwrap_or_default().trim().to_owned())
    }

    pub fn run(&self, run: &Run) -> io::Result<Load> {
        let mut command = on_core(run.core, &self.program);
        let (connections, seconds) = (run.connections, run.seconds);
        command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--timeout", "5s"]);
        if let Some(key) = run.key {
            command.args(["-H", &format!("X-API-Key: {key}")]);
        }
        let (path, picks) = self.picks(run.pick);
        command.arg("-s").arg(if picks.is_some() { &self.picks } else { &self.report });
        let scheme = if run.is_tls { "https" } else { "http" };
        command.arg(format!("{scheme}://{}{path}", only_loopback(run.address)?));
        if let Some((kind, count, start)) = picks {
            command.args(["--", kind, &count, &start, &run.seed.to_string()]).arg(&self.keys);
        }
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        read(&text).ok_or_else(|| {
            let said = String::from_utf8_lossy(&output.stderr);
            io::Error::other(format!("wrk did not report ({}):\n{text}{said}", output.status))
        })
    }

    /// The path in wrk's URL, and what the script is told: the kind, how many, where to begin.
    fn picks(&self, pick: Pick) -> (&'static str, Option<(&'static str, String, String)>) {
        let told = |kind, count: usize, start: u32| Some((kind, count.to_string(), start.to_string()));
        match pick {
            Pick::Path(path) => (path, None),
            Pick::One => (ITEMS_PATH, told("one", 1, 0)),
            Pick::Routes => (ITEMS_PATH, told("routes", self.routes_count, 0)),
            Pick::Keys => (ITEMS_PATH, told("keys", self.keys_count, 0)),
            Pick::Addresses => (ITEMS_PATH, told("addresses", self.addresses_count as usize, 0)),
            Pick::AddressesInTurn(start) => {
                (ITEMS_PATH, told("addresses-in-turn", self.addresses_count as usize, start))
            }
        }
    }
}

/// The line that the script prints.
fn read(text: &str) -> Option<Load> {
    let line = text.lines().rev().find(|line| line.starts_with("{\"answers\""))?;
    let load: Load = serde_json::from_str(line).ok()?;
    (load.micros > 0).then_some(load)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_script_is_read() {
        let text = "Running 3s test @ http://127.0.0.1:1/\nRequests/sec:  39154.84\n\
            {\"answers\":121380,\"micros\":3100000,\"not_ok\":17,\"errors\":{\"connect\":1,\"timeout\":9},\"p50_us\":1500,\"p99_us\":2500,\"p999_us\":3500}\n";
        let load = read(text).unwrap();
        assert_eq!((load.answers, load.not_ok, load.errors_count(), load.p999_us), (121_380, 17, 10, 3500.0));
        assert!((load.per_second() - 39_154.84).abs() < 0.01);
    }

    #[test]
    fn half_a_report_is_none() {
        assert_eq!(read("unable to connect to 127.0.0.1:1 Connection refused\n"), None);
        assert_eq!(read("{\"answers\":1,\"mic"), None);
    }
}
