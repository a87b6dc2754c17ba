//! `tollgate log`: where the request log of the running gateway stands, and the tables of its database.
//! What the log says of itself is `request_log`'s; the answers from the database alone are `analytics`'.

use std::fmt::Write;
use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

use super::commands::load;
use super::running::Running;
use crate::analytics::{Style, printable_json};
use crate::store;

/// Columns of what stands before the text of a line.
const NAME_WIDTH: usize = 13;

/// What the running gateway says; and whether the store works and every record is accounted for.
pub(super) fn status(gateway: &Running, json: bool) -> Result<(String, bool), String> {
    let answer = gateway.get("/admin/log")?;
    let number = |name: &str| answer.get(name).and_then(Value::as_i64);
    let (Some(_), Some(unaccounted)) = (number("accepted"), number("unaccounted")) else {
        return Err(gateway.is_no_gateway("the state of a request log"));
    };
    let store_up = answer.get("store_up").and_then(Value::as_bool).unwrap_or_default();
    let text = if json {
        let json = serde_json::to_string_pretty(&answer).map_err(|error| error.to_string())?;
        printable_json(&json) + "\n"
    } else {
        shown(&answer, Style::of_stdout())
    };
    Ok((text, store_up && unaccounted == 0))
}

/// As a person reads it, no wider than the terminal.
fn shown(answer: &Value, style: Style) -> String {
    let text = readable(answer) + &answer.get("retention").map(readable_retention).unwrap_or_default();
    style.wrap(&text, NAME_WIDTH)
}

/// To the second: what comes after is noise.
fn second(time: &str) -> String {
    time.parse::<Timestamp>().map_or_else(|_| time.to_owned(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// What the store keeps, and what retention has removed.
fn readable_retention(retention: &Value) -> String {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let limits = retention.get("limits").cloned().unwrap_or_default();
    let limit = |name: &str| text(&limits, name);
    let mut out = String::new();
    if let Some(bytes) = retention.get("bytes").and_then(Value::as_u64) {
        let _ = writeln!(out, "kept         {bytes:>12}  bytes at {}", second(&text(retention, "seen")));
        let oldest = text(retention, "oldest_request");
        if !oldest.is_empty() {
            let _ = writeln!(out, "kept since   {}, the time of the oldest request", second(&oldest));
        }
    }
    let [requests, minutes, hours, size] = ["requests", "minutes", "hours", "size"].map(limit);
    let _ =
        writeln!(out, "retention    requests {requests}, usage by minute {minutes}, by hour {hours}, in all {size}");
    for removed in retention.get("removed").and_then(Value::as_array).into_iter().flatten() {
        let [what, before, limit, at] = ["what", "before", "limit", "at"].map(|name| text(removed, name));
        let (before, at) = (second(&before), second(&at));
        let _ = writeln!(out, "removed      {what} before {before}, by log.retention.{limit} at {at}");
    }
    out
}

/// As a person reads it.
fn readable(answer: &Value) -> String {
    let number = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
    let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default();
    let seconds = |name: &str| answer.get(name).and_then(Value::as_f64).unwrap_or_default();
    let mut out = String::new();
    let state = if answer.get("store_up").and_then(Value::as_bool) == Some(true) { "works" } else { "AWAY" };
    let _ = writeln!(out, "store        {} ({state})", text("store"));
    if let Some(error) = answer.get("last_error").and_then(Value::as_str) {
        let _ = writeln!(out, "last error   {error}, {} failed tries in all", number("store_errors"));
    }
    if let Some(error) = answer.get("spool_error").and_then(Value::as_str) {
        let _ = writeln!(out, "spool        {error}");
    }
    let dropped = answer.get("dropped").and_then(Value::as_object);
    let lost: Vec<(&String, u64)> = dropped
        .into_iter()
        .flatten()
        .filter_map(|(reason, count)| Some((reason, count.as_u64()?)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let rows = [
        ("accepted", number("accepted"), "records of this process"),
        ("recovered", number("recovered"), "records of earlier runs, found in the spool at start"),
        ("written", number("written"), "in the store"),
        ("queued", number("queued"), "in memory"),
        ("spooled", number("spooled"), "on disk"),
        ("dropped", lost.iter().map(|(_, count)| count).sum(), "lost"),
    ];
    for (name, count, what) in rows {
        let bytes = match name {
            "queued" if count > 0 => format!(", {} bytes", number("queued_bytes")),
            "spooled" if count > 0 => format!(", {} bytes", number("spooled_bytes")),
            _ => String::new(),
        };
        let _ = writeln!(out, "{name:<12} {count:>12}  {what}{bytes}");
    }
    for (reason, count) in lost {
        let _ = writeln!(out, "  {reason:<10} {count:>12}");
    }
    if number("usage_dropped") > 0 {
        let _ =
            writeln!(out, "usage        {:>12}  of the dropped are not in the usage either", number("usage_dropped"));
    }
    let unaccounted = answer.get("unaccounted").and_then(Value::as_i64).unwrap_or_default();
    let _ =
        writeln!(out, "unaccounted  {unaccounted:>12}  accepted + recovered - written - queued - spooled - dropped");
    if seconds("oldest_unwritten_seconds") > 0.0 {
        let _ = writeln!(out, "oldest       {:>10.1} s  waits", seconds("oldest_unwritten_seconds"));
    }
    if number("batches") > 0 {
        let mean = seconds("batch_seconds") * 1_000.0 / number("batches") as f64;
        let _ = writeln!(out, "batches      {:>12}  {mean:.1} ms each", number("batches"));
    }
    out
}

/// Brings the tables up to date.
pub(super) fn migrate(path: &Path) -> Result<String, String> {
    Ok(store::migrate(&load(path)?.log.store)?.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_told_by_reason() {
        let answer = serde_json::json!({
            "store": "sqlite:log.db", "store_up": false, "last_error": "log.db: locked", "store_errors": 3,
            "accepted": 10, "recovered": 1, "written": 5, "queued": 2, "queued_bytes": 900, "spooled": 1,
            "spooled_bytes": 300, "dropped": {"queue_full": 3, "rejected": 0}, "unaccounted": 0,
            "oldest_unwritten_seconds": 1.25, "batches": 2, "batch_seconds": 0.01
        });
        let text = readable(&answer);
        for part in [
            "sqlite:log.db (AWAY)",
            "log.db: locked, 3 failed",
            "queue_full            3",
            "5.0 ms each",
            "1.2 s  waits",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert!(!text.contains("rejected"), "{text}");
    }

    #[test]
    fn what_retention_has_removed_is_told() {
        let text = readable_retention(&serde_json::json!({
            "limits": {"requests": "30d", "minutes": "90d", "hours": "2y", "size": "10gb"},
            "seen": "2026-03-31T00:00:00.123456789Z", "bytes": 4096, "oldest_request": "2026-03-01T12:00:00.500000Z",
            "removed": [{"what": "requests", "before": "2026-03-01T00:00:00Z", "limit": "size", "at": "2026-03-30T00:00:00Z"}]
        }));
        for part in [
            "kept                 4096  bytes at 2026-03-31T00:00:00Z\n",
            "kept since   2026-03-01T12:00:00Z, the time of the oldest request\n",
            "retention    requests 30d, usage by minute 90d, by hour 2y, in all 10gb\n",
            "removed      requests before 2026-03-01T00:00:00Z, by log.retention.size at 2026-03-30T00:00:00Z\n",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }

    #[test]
    fn the_status_fits_the_terminal() {
        let answer = serde_json::json!({
            "store": "mysql://tollgate@database.internal.example.org:3306/tollgate", "store_up": false, "store_errors": 3,
            "last_error": "the server at database.internal.example.org:3306 refuses the password of `tollgate`",
            "spool_error": "/var/lib/tollgate/data/spool: no space left on device", "accepted": 10_000_000_000_u64,
            "usage_dropped": 3, "dropped": {"queue_full": 3}, "unaccounted": 0, "oldest_unwritten_seconds": 1.25,
            "queued": 2, "queued_bytes": 900_000_000, "batches": 2, "batch_seconds": 0.01,
            "retention": {
                "limits": {"requests": "30d", "minutes": "90d", "hours": "2y", "size": "10gb"},
                "seen": "2026-03-31T00:00:00.123456789Z", "bytes": 4096, "oldest_request": "2026-03-01T12:00:00Z",
                "removed": [{"what": "requests", "before": "2026-03-01T00:00:00Z", "limit": "requests", "at": "2026-03-30T00:00:00Z"}]
            }
        });
        let wide = shown(&answer, Style::default());
        let words = |text: &str| text.split_whitespace().collect::<String>();
        for width in [40, 60, 80] {
            let text = shown(&answer, Style { width: Some(width), colours: false });
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            assert_eq!(words(&text), words(&wide));
        }
    }
}
