//! Questions to the request log, and their answers as tables: the first one is usage per endpoint.
//! Reads only: no question creates a database, a table or a row. The SQL behind it is in `store`.
//! Not here: live figures of a running gateway (`metrics`, `admin`).

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use crate::config::Config;
use crate::store::{self, EndpointUsage, Moment};

/// A window of time that ends now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// `1h`
    Hour,
    /// `24h`
    Day,
    /// `all`
    All,
}

impl Last {
    /// The words of the command line.
    pub const WORDS: [&str; 3] = ["1h", "24h", "all"];

    fn length(self) -> Option<Duration> {
        match self {
            Self::Hour => Some(Duration::from_secs(3_600)),
            Self::Day => Some(Duration::from_secs(24 * 3_600)),
            Self::All => None,
        }
    }
}

impl FromStr for Last {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1h" => Ok(Self::Hour),
            "24h" => Ok(Self::Day),
            "all" => Ok(Self::All),
            other => Err(format!("`{other}` is no window of time: write one of {}", Self::WORDS.join(", "))),
        }
    }
}

/// Requests, errors, error rate, mean and p95 response time of each endpoint and in all, as a table.
///
/// # Errors
/// There is no log, or it can't be read; the text says what to do.
pub fn usage(config: &Config, last: Last) -> Result<String, String> {
    usage_until(&config.log.store, last, SystemTime::now())
}

fn usage_until(store: &crate::config::StoreUrl, last: Last, now: SystemTime) -> Result<String, String> {
    let from = last.length().map(|length| now.checked_sub(length).unwrap_or(SystemTime::UNIX_EPOCH));
    let rows = store::usage(store, from, now)?;
    let until = seconds(now);
    let window = match from {
        Some(from) => format!("{} to {until} UTC", seconds(from)),
        None => format!("all time, to {until} UTC"),
    };
    if rows.is_empty() {
        return Ok(format!("No requests: {window}\n"));
    }
    Ok(format!("Requests: {window}\n{}\n", table(&rows)))
}

/// A time as people read it, to the second.
fn seconds(time: SystemTime) -> String {
    Moment::of(time).to_string().chars().take(19).collect()
}

fn table(rows: &[EndpointUsage]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["endpoint", "requests", "errors", "error rate", "mean ms", "p95 ms"]);
    for row in rows {
        table.add_row([
            Cell::new(row.endpoint.as_deref().map_or_else(|| "total".to_owned(), printable)),
            Cell::new(row.requests),
            Cell::new(row.errors),
            Cell::new(percent(row.errors, row.requests)),
            Cell::new(format!("{:.2}", row.mean_ms)),
            Cell::new(format!("{:.2}", row.p95_ms)),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    // The style pads every line to the table's width; nobody needs blanks at the end of a line in a file.
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Text from the log can't steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

fn percent(part: u64, whole: u64) -> String {
    // Counts of requests are far below 2^53.
    #[allow(clippy::cast_precision_loss)]
    let share = if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
    format!("{share:.2}%")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, StoreUrl};
    use crate::record::Record;
    use crate::request_log::RequestLog;

    fn record(endpoint: &str, status: u16, milliseconds: u64, started: SystemTime) -> Record {
        Record {
            started,
            duration: Duration::from_millis(milliseconds),
            endpoint: endpoint.into(),
            method: http::Method::GET,
            status,
            request_id: uuid::Uuid::now_v7(),
            client_request_id: None,
            host: None,
            path: "/".into(),
            protocol: "HTTP/1.1",
            consumer: None,
            key: None,
            client_ip: [127, 0, 0, 1].into(),
            service: None,
            instance: None,
            attempts: 0,
            upstream_time: None,
            cache: None,
            decided_by: "upstream",
            blocked: false,
            limit_name: None,
            observed: None,
            bytes_in: 0,
            bytes_out: 0,
            user_agent: None,
            generation: 1,
        }
    }

    #[test]
    fn usage_counts_each_endpoint_within_the_window() {
        let folder = tempfile::tempdir().unwrap();
        let store = StoreUrl::Sqlite(folder.path().join("log.db"));
        let log = config::Log { store: store.clone(), ..config::Log::default() };
        let (log, writer) = RequestLog::start(&log, "node", "0.0.0").unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_366_400);
        // 1 to 100 ms, a tenth of them errors.
        (1..=100).for_each(|ms| {
            log.record(record("/a/*", if ms % 10 == 0 { 500 } else { 200 }, ms, now - Duration::from_secs(60)))
        });
        log.record(record("orders", 404, 7, now - Duration::from_secs(60)));
        log.record(record("/a/*", 200, 9_000, now - Duration::from_secs(7_200)));
        writer.finish(std::time::Instant::now() + Duration::from_secs(10));

        let hour = store::usage(&store, Some(now - Duration::from_secs(3_600)), now).unwrap();
        let row = |endpoint: Option<&str>, requests, errors, mean_ms, p95_ms| EndpointUsage {
            endpoint: endpoint.map(str::to_owned),
            requests,
            errors,
            mean_ms,
            p95_ms,
        };
        assert_eq!(hour[..2], [row(Some("/a/*"), 100, 10, 50.5, 95.0), row(Some("orders"), 1, 0, 7.0, 7.0)]);
        assert_eq!((hour[2].endpoint.as_deref(), hour[2].requests, hour[2].p95_ms), (None, 101, 95.0));
        assert_eq!(store::usage(&store, None, now).unwrap()[0].requests, 101);

        let text = usage_until(&store, Last::Hour, now).unwrap();
        assert!(text.starts_with("Requests: 2026-03-01 11:00:00 to 2026-03-01 12:00:00 UTC\n"), "{text}");
        assert!(text.contains("| /a/*     |      100 |     10 |     10.00% |   50.50 |  95.00 |"), "{text}");
        assert!(text.contains("| total    |      101 |     10 |      9.90% |"), "{text}");
        assert!(usage_until(&store, Last::Day, SystemTime::UNIX_EPOCH).unwrap().starts_with("No requests"));
    }

    #[test]
    fn reading_creates_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.db");
        let message = usage_until(&StoreUrl::Sqlite(path.clone()), Last::All, SystemTime::now()).unwrap_err();
        assert!(message.contains("tollgate run"), "{message}");
        assert!(store::probe(&StoreUrl::Sqlite(path.clone())).unwrap()[0].contains("start creates it"));
        assert!(!path.exists());
        assert!(usage_until(&StoreUrl::None, Last::All, SystemTime::now()).unwrap_err().contains("log.store"));
    }

    #[test]
    fn windows_are_written_as_on_the_command_line() {
        let read: Vec<_> = Last::WORDS.iter().map(|word| word.parse::<Last>().unwrap()).collect();
        assert_eq!(read, [Last::Hour, Last::Day, Last::All]);
        assert!("7d".parse::<Last>().unwrap_err().contains("24h"));
    }

    #[test]
    fn the_log_can_not_steer_the_terminal() {
        assert_eq!(printable("/a\u{1b}[2J"), "/a\u{fffd}[2J");
    }
}
