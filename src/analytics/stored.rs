//! What the cache of a running gateway holds, as a person reads it. It comes as the JSON of the admin API.
//! Not here: asking for it (`cli`).

use std::fmt::Write;

use serde_json::Value;

use super::sheet::{Cell, NEEDED, Sheet, Style, Tint, column};
use super::text::{bytes, count, counted, printable};

fn text(entry: &Value, name: &str) -> String {
    printable(entry.get(name).and_then(Value::as_str).unwrap_or("-"))
}

fn number(entry: &Value, name: &str) -> u64 {
    entry.get(name).and_then(Value::as_u64).unwrap_or_default()
}

fn list(entry: &Value, name: &str, between: &str) -> String {
    let parts = entry.get(name).and_then(Value::as_array).into_iter().flatten();
    let parts: Vec<String> = parts.filter_map(Value::as_str).map(printable).collect();
    parts.join(between)
}

fn freshness(entry: &Value) -> Cell {
    let ttl = entry.get("ttl_seconds").and_then(Value::as_i64).unwrap_or_default();
    match entry.get("state").and_then(Value::as_str) {
        Some("fresh") => Cell { text: format!("fresh for {ttl} s"), tint: Tint::Good },
        Some("stale") => Cell { text: format!("stale for {} s", ttl.unsigned_abs()), tint: Tint::Bad },
        _ => Cell::from("confirmed at each use".to_owned()),
    }
}

/// Several stored answers, a row each.
pub fn stored_table(entries: &[Value], style: Style) -> String {
    let columns = vec![
        column("url", true, 0),
        column("consumer", true, 2),
        column("status", false, 3),
        column("freshness", true, 4),
        column("age s", false, 1),
        column("size", false, NEEDED + 1),
        column("served", false, NEEDED),
    ];
    let rows = entries.iter().map(|entry| {
        vec![
            text(entry, "url").into(),
            text(entry, "consumer").into(),
            number(entry, "status").to_string().into(),
            freshness(entry),
            count(number(entry, "age_seconds")).into(),
            bytes(number(entry, "bytes")).into(),
            count(number(entry, "hits")).into(),
        ]
    });
    Sheet { columns, rows: rows.collect() }.render(style)
}

/// Everything about one stored answer.
pub fn stored_facts(entry: &Value, style: Style) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}", text(entry, "url"));
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(out, "  {name:<11}{value}");
        }
    };
    line("route", text(entry, "route"));
    line(
        "consumer",
        if entry.get("consumer").is_some_and(Value::is_null) { "all".to_owned() } else { text(entry, "consumer") },
    );
    line("stored in", text(entry, "stored"));
    line("variant", list(entry, "variant", ", "));
    line("status", number(entry, "status").to_string());
    let Cell { text: fresh, tint } = freshness(entry);
    line("freshness", format!("{} ({})", style.paint(&fresh, tint), text(entry, "why")));
    let [revalidating, on_error] =
        ["stale_while_revalidate_seconds", "stale_if_error_seconds"].map(|name| number(entry, name));
    if revalidating + on_error > 0 {
        line("then", format!("stale {revalidating} s while another one is fetched, {on_error} s instead of an error"));
    }
    line("age", format!("{} s", number(entry, "age_seconds")));
    let is_whole = entry.get("whole").is_none_or(|whole| *whole == Value::Bool(true));
    let part = if is_whole { "the body" } else { "parts of the body" };
    line("size", format!("{}, of which {part} {}", bytes(number(entry, "bytes")), bytes(number(entry, "body_bytes"))));
    line("served", format!("{} times", count(number(entry, "hits"))));
    line("tags", list(entry, "tags", " "));
    for field in entry.get("headers").and_then(Value::as_array).into_iter().flatten() {
        let part = |at: usize| field.get(at).and_then(Value::as_str).map(printable).unwrap_or_default();
        line("header", format!("{}: {}", part(0), part(1)));
    }
    style.wrap(&out, 13)
}

/// The cache as a whole.
pub fn stored_summary(status: &Value, style: Style) -> String {
    let mut out = String::new();
    let size = |name: &str| bytes(number(status, name));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12} {value}");
    };
    let answers = [counted(number(status, "entries"), "answer"), counted(number(status, "keys"), "key")];
    line("stored", format!("{} under {}, {} of {}", answers[0], answers[1], size("bytes"), size("bytes_max")));
    line("on the way", format!("{} of {}", size("filling_bytes"), size("filling_bytes_max")));
    let ratio = status.get("hit_ratio").and_then(Value::as_f64);
    line("hit ratio", ratio.map_or("-".to_owned(), |ratio| format!("{:.1} %", ratio * 100.0)));
    line("saved", format!("{} that no instance had to send", size("saved_bytes")));
    for (result, counts) in status.get("results").and_then(Value::as_object).into_iter().flatten() {
        line(
            &printable(result),
            format!("{}, {}", counted(number(counts, "requests"), "request"), bytes(number(counts, "bytes"))),
        );
    }
    let [stored, evictions, purged] = ["stored", "evictions", "purged"].map(|name| count(number(status, name)));
    line("since start", format!("{stored} stored, {evictions} gave way, {purged} purged"));
    for (reason, times) in status.get("refused").and_then(Value::as_object).into_iter().flatten() {
        line("not stored", format!("{} because of {}", count(times.as_u64().unwrap_or_default()), printable(reason)));
    }
    if let Some(disk) = status.get("disk").filter(|disk| disk.is_object()) {
        on_disk(disk, &mut line);
    }
    for (title, name) in [("The largest:", "largest"), ("Served most often:", "hottest")] {
        let entries = status.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if !entries.is_empty() {
            let _ = write!(out, "\n{title}\n{}", stored_table(entries, style));
        }
    }
    out
}

/// The tier on disk.
fn on_disk(disk: &Value, line: &mut impl FnMut(&str, String)) {
    let times = |name| count(number(disk, name));
    let size = |name| bytes(number(disk, name));
    let held = format!("{}, {} of {}", counted(number(disk, "entries"), "answer"), size("bytes"), size("bytes_max"));
    line("on disk", format!("{held} ({})", text(disk, "state")));
    line("", format!("index {} of {} memory", size("index_bytes"), size("index_bytes_max")));
    let waiting = format!("{} answers wait to be written", times("queued"));
    line("", format!("{waiting}, {} of {} memory", size("queued_bytes"), size("queued_bytes_max")));
    line(
        "",
        format!("{} requests answered, {} files read, {} written", times("hits"), times("loads"), times("writes")),
    );
    let [dropped, corrupt] = ["dropped_writes", "corrupt"].map(times);
    line(
        "",
        format!(
            "{dropped} not written, {corrupt} damaged, {} gave way, {} errors",
            times("evictions"),
            times("errors")
        ),
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn variants_are_told_from_keys() {
        let text =
            stored_summary(&json!({"entries": 1_234, "keys": 1, "bytes": 1_000, "bytes_max": 2_048}), Style::default());
        assert!(text.starts_with("stored       1,234 answers under 1 key, 1000 B of 2.0 KiB\n"), "{text}");
    }

    #[test]
    fn what_was_stored_can_not_steer_the_terminal() {
        let entry = json!({
            "url": "http://a/\u{1b}[2J", "route": "/*", "consumer": null, "variant": ["accept-language: de"], "status": 200,
            "state": "stale", "ttl_seconds": -3, "why": "Cache-Control: max-age=1", "age_seconds": 4, "bytes": 2_048,
            "body_bytes": 10, "hits": 7, "tags": ["a", "b"], "headers": [["x", "\u{9b}31m"]],
        });
        let facts = stored_facts(&entry, Style::default());
        assert!(
            facts.contains("stale for 3 s (Cache-Control: max-age=1)") && facts.contains("tags       a b"),
            "{facts}"
        );
        assert!(facts.contains("consumer   all") && facts.contains("accept-language: de"), "{facts}");
        let table = stored_table(std::slice::from_ref(&entry), Style::default());
        assert!(table.contains("2.0 KiB") && table.contains("stale for 3 s"), "{table}");
        for text in [facts, table] {
            assert!(!text.contains(['\u{1b}', '\u{9b}']), "{text:?}");
        }
    }
}
