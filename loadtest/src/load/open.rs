//! Open loop: oha at a fixed rate on the load's core; a late answer does not delay the requests behind it.
//! Latency is corrected: it counts from when a request was due, not from when it could be sent.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::http::only_loopback;
use crate::load::Load;
use crate::programs::{Core, on_core};
use crate::tools;

/// oha, found.
pub struct Oha {
    program: PathBuf,
}

/// One run: `rate` requests a second for `seconds`, to `path`.
pub struct Run<'a> {
    pub address: SocketAddr,
    pub path: &'a str,
    pub key: Option<&'a str>,
    pub connections: u32,
    pub seconds: u32,
    pub rate: u32,
}

impl Oha {
    pub fn new() -> io::Result<Self> {
        let program = tools::find("oha")
            .map_err(|_| io::Error::other("oha is not installed: `make bench-peers`, or `cargo install oha`"))?;
        Ok(Self { program })
    }

    pub fn version(&self) -> io::Result<String> {
        Ok(tools::say(&self.program, &["--version"])?.trim().to_owned())
    }

    pub fn run(&self, run: &Run) -> io::Result<Load> {
        let mut command = on_core(Core::Load, &self.program);
        command.args(["--no-tui", "--output-format", "json", "--latency-correction", "--worker-threads", "1"]);
        command.args(["-n", &(u64::from(run.rate) * u64::from(run.seconds)).to_string()]);
        command.args(["-q", &run.rate.to_string(), "-c", &run.connections.to_string(), "-t", "5s"]);
        if let Some(key) = run.key {
            command.args(["-H", &format!("X-API-Key: {key}")]);
        }
        let output = command.arg(format!("http://{}{}", only_loopback(run.address)?, run.path)).output()?;
        read(&output.stdout).map_err(|error| {
            let (out, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            io::Error::other(format!("oha did not report ({}): {error}:\n{out}{said}", output.status))
        })
    }
}

#[derive(Deserialize)]
struct Report {
    summary: Summary,
    #[serde(rename = "latencyPercentiles")]
    latencies: Latencies,
    #[serde(rename = "statusCodeDistribution")]
    statuses: BTreeMap<u16, u64>,
    #[serde(rename = "errorDistribution")]
    errors: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Summary {
    /// Seconds.
    total: f64,
}

/// Seconds.
#[derive(Deserialize)]
struct Latencies {
    p50: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p999: f64,
}

fn read(json: &[u8]) -> serde_json::Result<Load> {
    let report: Report = serde_json::from_slice(json)?;
    Ok(Load {
        answers: report.statuses.values().sum(),
        micros: (report.summary.total * 1e6) as u64,
        not_ok: report
            .statuses
            .iter()
            .filter(|(status, _)| !(200..400).contains(*status))
            .map(|(_, count)| count)
            .sum(),
        errors: report.errors,
        p50_us: report.latencies.p50 * 1e6,
        p99_us: report.latencies.p99 * 1e6,
        p999_us: report.latencies.p999 * 1e6,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let json =
            br#"{"summary": {"successRate": 1.0, "total": 2.0}, "latencyPercentiles": {"p50": 0.000092, "p99": 0.0002,
            "p99.9": 0.0004, "p99.99": 0.1}, "statusCodeDistribution": {"200": 9990, "429": 6},
            "errorDistribution": {"connection error": 4}}"#;
        let load = read(json).unwrap();
        assert_eq!((load.answers, load.not_ok, load.errors_count()), (9_996, 6, 4));
        assert!((load.p50_us - 92.0).abs() < 1e-6 && (load.p999_us - 400.0).abs() < 1e-6);
        assert!((load.per_second() - 4_998.0).abs() < 1e-6);
    }

    #[test]
    fn anything_else_is_an_error() {
        assert!(read(b"Error: no such host").is_err());
        assert!(read(br#"{"summary": {"total": 1.0}}"#).is_err());
    }
}
