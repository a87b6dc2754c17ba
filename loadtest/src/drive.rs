//! The load: wrk, closed loop, on its own core, and what it reports.
//! Latency is not read here: in a closed loop it says how fast the proxy is, not how long anybody waits.

use std::io;

use crate::programs::{Core, on_core};

/// What wrk counted.
#[derive(Debug, PartialEq)]
pub struct Load {
    pub answers: u64,
    /// Answers outside 200 to 399.
    pub not_ok: u64,
    /// Failed connects, reads, writes and time-outs.
    pub errors: u64,
    pub per_second: f64,
}

pub fn drive(url: &str, header: Option<(&str, &str)>, connections: u32, seconds: u32) -> io::Result<Load> {
    let mut wrk = on_core(Core::Load, "wrk");
    wrk.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--timeout", "5s"]);
    if let Some((name, value)) = header {
        wrk.args(["-H", &format!("{name}: {value}")]);
    }
    let output = wrk.arg(url).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    read(&text).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        io::Error::other(format!("wrk did not report (is it installed? apt-get install wrk):\n{text}{said}"))
    })
}

fn read(text: &str) -> Option<Load> {
    let mut load = Load { answers: 0, not_ok: 0, errors: 0, per_second: 0.0 };
    let mut is_whole = false;
    for line in text.lines().map(str::trim) {
        if let Some((answers, _)) = line.split_once(" requests in ") {
            load.answers = answers.parse().ok()?;
        } else if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses: ") {
            load.not_ok = count.parse().ok()?;
        } else if let Some(counts) = line.strip_prefix("Socket errors: ") {
            load.errors = counts.split(", ").filter_map(|count| count.split(' ').nth(1)?.parse::<u64>().ok()).sum();
        } else if let Some(rate) = line.strip_prefix("Requests/sec:") {
            load.per_second = rate.trim().parse().ok()?;
            is_whole = true;
        }
    }
    is_whole.then_some(load)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let text = "Running 3s test @ http://127.0.0.1:1/\n  1 threads and 64 connections\n  121380 requests in 3.10s, 31.1MB read\n  \
                    Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 17\nRequests/sec:  39154.84\n";
        assert_eq!(read(text), Some(Load { answers: 121_380, not_ok: 17, errors: 10, per_second: 39_154.84 }));
    }

    #[test]
    fn half_a_report_is_none() {
        assert_eq!(read("unable to connect to 127.0.0.1:1 Connection refused\n"), None);
    }
}
