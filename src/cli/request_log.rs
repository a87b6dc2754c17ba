//! `tollgate log`: where the request log of the running gateway stands, and the tables of its database.
//! What the log says of itself is `request_log`'s; the answers from the database alone are `analytics`'.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::commands::load;
use super::running::Running;
use crate::store::{self, Kept};

/// What the running gateway says; and whether the store works and every record is accounted for.
pub(super) fn status(
    gateway: &Running,
    file: impl FnOnce() -> Result<PathBuf, String>,
    json: bool,
) -> Result<(String, bool), String> {
    let answer = gateway.get("/admin/log")?;
    let number = |name: &str| answer.get(name).and_then(Value::as_i64);
    let (Some(_), Some(unaccounted)) = (number("accepted"), number("unaccounted")) else {
        return Err(gateway.is_no_gateway("the state of a request log"));
    };
    let store_up = answer.get("store_up").and_then(Value::as_bool).unwrap_or_default();
    let text = if json {
        format!("{}\n", serde_json::to_string_pretty(&answer).map_err(|error| error.to_string())?)
    } else {
        // What is kept is asked of the store itself, where the configuration is at hand and the store works.
        let kept = if store_up { file().and_then(|path| load(&path)).ok() } else { None };
        let kept = kept.and_then(|config| store::kept(&config.log.store).ok().flatten());
        readable(&answer) + &kept.map(|kept| readable_kept(&kept)).unwrap_or_default()
    };
    Ok((text, store_up && unaccounted == 0))
}

/// What the store keeps, and what retention has removed.
fn readable_kept(kept: &Kept) -> String {
    let oldest = kept.oldest.as_ref().map(|oldest| format!(", requests since {oldest} UTC")).unwrap_or_default();
    let mut out = format!("kept         {:>12}  bytes{oldest}\n", kept.bytes);
    for (what, before) in &kept.removed {
        let _ = writeln!(out, "removed      {what} before {before} UTC (log.retention)");
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
        let kept = Kept {
            bytes: 4_096,
            oldest: Some("2026-03-01 12:00:00.000000".to_owned()),
            removed: vec![("requests".to_owned(), "2026-03-01 00:00:00".to_owned())],
        };
        let text = readable_kept(&kept);
        assert!(text.starts_with("kept                 4096  bytes, requests since 2026-03-01 12"), "{text}");
        assert!(text.contains("requests before 2026-03-01 00:00:00 UTC"), "{text}");
    }
}
