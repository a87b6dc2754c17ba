//! `tollgate tail`: requests as they come, from the running gateway's `GET /admin/tail`. Ends by Ctrl-C.
//! The gateway ends a stream now and then; it is opened again, and what came in between is not shown.

use std::io::{self, BufRead, BufReader, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::running::Running;
use super::{complain, finish};
use crate::analytics::{printable, printable_json};
use crate::words::counted;

/// Between two tries at a gateway that was there before.
const PAUSE: Duration = Duration::from_secs(1);

/// Follows until it fails, or nobody reads.
pub(super) fn tail(gateway: &Running, pairs: &[(String, String)], json: bool) -> ExitCode {
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    let path = if query.is_empty() { "/admin/tail".to_owned() } else { format!("/admin/tail?{query}") };
    let mut was_there = false;
    loop {
        match gateway.follow(&path) {
            Ok(answer) => {
                was_there = true;
                let (_, body) = answer.into_parts();
                if let Err(error) = show(BufReader::new(body.into_reader()), &mut io::stdout().lock(), json) {
                    // A reader that left, as in `| head`, is no failure of the command.
                    return if error.kind() == io::ErrorKind::BrokenPipe {
                        ExitCode::SUCCESS
                    } else {
                        finish(Err(error.to_string()))
                    };
                }
            }
            Err(message) if !was_there => return finish(Err(message)),
            Err(message) => complain(&message),
        }
        std::thread::sleep(PAUSE);
    }
}

/// Shows one stream to its end.
///
/// # Errors
/// The output can't be written.
fn show(stream: impl BufRead, out: &mut impl Write, json: bool) -> io::Result<()> {
    let mut is_missed = false;
    // A stream that breaks off has ended.
    for line in stream.lines().map_while(Result::ok) {
        if let Some(event) = line.strip_prefix("event:") {
            is_missed = event.trim() == "missed";
        } else if let Some(data) = line.strip_prefix("data:").map(str::trim_start) {
            if is_missed {
                complain(&format!("too slow: {} not shown", counted(number(data, "missed"), "request")));
            } else if json {
                writeln!(out, "{}", printable_json(data))?;
            } else {
                writeln!(out, "{}", readable(data))?;
            }
            out.flush()?;
        } else if line.is_empty() {
            is_missed = false;
        }
    }
    Ok(())
}

fn number(data: &str, name: &str) -> u64 {
    serde_json::from_str::<Value>(data).ok().and_then(|data| data.get(name)?.as_u64()).unwrap_or_default()
}

/// One request in one line.
fn readable(data: &str) -> String {
    let Ok(record) = serde_json::from_str::<Value>(data) else { return printable(data) };
    let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or("-");
    let time = text("timestamp").get(11..23).unwrap_or("-").to_owned();
    let status = record.get("status_code").and_then(Value::as_u64).unwrap_or_default();
    let took = record.get("response_time_ms").and_then(Value::as_f64).unwrap_or_default();
    let (method, path, endpoint) = (text("http_method"), text("path"), text("endpoint"));
    let (decided_by, consumer) = (text("decided_by"), text("consumer"));
    printable(&format!("{time} {status} {took:>9.3} ms  {method} {path}  [{endpoint}] {decided_by} {consumer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": nothing\n\ndata: {\"timestamp\":\"2026-03-01T12:30:05.000123Z\",\"status_code\":200,\
                          \"response_time_ms\":1.25,\"http_method\":\"GET\",\"path\":\"/a\\u001b[2J\",\"endpoint\":\"/a/*\",\
                          \"decided_by\":\"upstream\",\"consumer\":null}\n\nevent: missed\ndata: {\"missed\":7}\n\n";

    #[test]
    fn a_request_is_a_line_that_can_not_steer_the_terminal() {
        let mut out = Vec::new();
        show(STREAM.as_bytes(), &mut out, false).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out, "12:30:05.000 200     1.250 ms  GET /a\\u{1b}[2J  [/a/*] upstream -\n");
    }

    #[test]
    fn json_can_not_steer_the_terminal_either() {
        let mut out = Vec::new();
        show("data: {\"user_agent\":\"x\u{9b}31m\u{202e}\"}\n\n".as_bytes(), &mut out, true).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "{\"user_agent\":\"x\\u009b31m\\u202e\"}\n");
    }

    #[test]
    fn json_goes_through_as_it_came() {
        let mut out = Vec::new();
        show(STREAM.as_bytes(), &mut out, true).unwrap();
        assert!(String::from_utf8(out).unwrap().starts_with("{\"timestamp\":\"2026"));
    }
}
