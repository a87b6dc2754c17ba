//! A database with the tables of the request log, filled with statements that both stores take.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;

use crate::config::StoreUrl;
use crate::store::Moment;
use crate::store::read::Reader;
use crate::store::usage::{Minute, Series, Tally, outlines, pack};

pub const SQLITE: [&str; 4] = [
    include_str!("../../../conf/sql/sqlite/0001_request_log.sql"),
    include_str!("../../../conf/sql/sqlite/0002_ledger_and_usage.sql"),
    include_str!("../../../conf/sql/sqlite/0003_usage_outlines.sql"),
    include_str!("../../../conf/sql/sqlite/0006_usage_by_outline.sql"),
];
pub const MYSQL: [&str; 4] = [
    include_str!("../../../conf/sql/mysql/0001_request_log.sql"),
    include_str!("../../../conf/sql/mysql/0002_ledger_and_usage.sql"),
    include_str!("../../../conf/sql/mysql/0003_usage_outlines.sql"),
    include_str!("../../../conf/sql/mysql/0006_usage_by_outline.sql"),
];

/// A SQLite file of its own.
pub struct Database {
    folder: tempfile::TempDir,
}

impl Database {
    /// With tables, and what else these statements write.
    pub fn with(statements: &str) -> Self {
        let database = Self { folder: tempfile::tempdir().unwrap() };
        let connection = rusqlite::Connection::open(database.path()).unwrap();
        connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = WAL").unwrap();
        for schema in SQLITE {
            connection.execute_batch(schema).unwrap();
        }
        connection.execute_batch(&format!("BEGIN; {statements} COMMIT")).unwrap();
        database
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("log.db")
    }

    pub fn url(&self) -> StoreUrl {
        StoreUrl::Sqlite(self.path())
    }

    pub fn reader(&self) -> Reader {
        reader(&self.url())
    }
}

pub fn reader(url: &StoreUrl) -> Reader {
    Reader::open(url, Duration::from_secs(60)).unwrap_or_else(|why| panic!("{why}"))
}

/// What is counted of some minutes and series of a run.
pub type Counts = BTreeMap<(Minute, Series<String>), Tally>;

/// Statements that fill the tables.
#[derive(Default)]
pub struct Statements(pub String);

fn quoted(text: Option<&str>) -> String {
    text.map_or_else(|| "NULL".to_owned(), |text| format!("'{}'", text.replace('\'', "''")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub fn minute_text(minute: Minute) -> String {
    Moment::of(minute.time()).to_string()[..19].to_owned()
}

impl Statements {
    pub fn run(&mut self, run: u32, beat: Minute, hours_until: Minute, days_until: Minute) {
        let started = minute_text(Minute(beat.0.saturating_sub(30 * Minute::DAY)));
        let [beat, hours, days] = [beat, hours_until, days_until].map(minute_text);
        let _ = writeln!(
            self.0,
            "INSERT INTO log_runs (run, run_id, node, version, started_at, beat_at, hours_until, days_until)
             VALUES ({run}, X'{run:032x}', 'gate', '1', '{started}', '{beat}', '{hours}', '{days}');"
        );
    }

    pub fn removed(&mut self, what: &str, before: Minute) {
        let before = minute_text(before);
        let _ = writeln!(self.0, "INSERT INTO log_retention VALUES ('{what}', '{before}', '{before}');");
    }

    pub fn minute(&mut self, run: u32, minute: Minute, series: &Series<String>, tally: &Tally) {
        let mut histogram = Vec::new();
        tally.histogram.encode(&mut histogram);
        let text = |part: &Option<String>| quoted(part.as_deref());
        let _ = writeln!(
            self.0,
            "INSERT INTO api_usage_minute (minute, run, series, endpoint, method, status, decided_by, consumer, `key`, service,
             instance, `count`, errors, blocked, bytes_in, bytes_out, duration_us, upstream_us, histogram)
             VALUES ('{}', {run}, X'{}', {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, X'{}');",
            minute_text(minute),
            hex(&series.id()),
            quoted(Some(&series.endpoint)),
            quoted(Some(&series.method)),
            series.status,
            quoted(Some(&series.decided_by)),
            text(&series.consumer),
            text(&series.key),
            text(&series.service),
            text(&series.instance),
            tally.count,
            tally.errors,
            tally.blocked,
            tally.bytes_in,
            tally.bytes_out,
            tally.duration,
            tally.upstream,
            hex(&histogram),
        );
    }

    /// The hours (60) or days (1440) of some minutes, and outlines of most of them.
    pub fn packed(&mut self, run: u32, length: u32, counts: &Counts) {
        let mut whole: BTreeMap<Minute, BTreeMap<Series<String>, Tally>> = BTreeMap::new();
        for ((minute, series), tally) in counts {
            let of_whole = whole.entry(minute.floor(length)).or_default();
            of_whole.entry(series.clone()).or_default().merge(tally);
        }
        let name = if length == Minute::HOUR { "hour" } else { "day" };
        for (begin, series) in whole {
            let count: u64 = series.values().map(|tally| tally.count).sum();
            let (begin, packed) = (minute_text(begin), hex(&pack(&series)));
            let _ = writeln!(self.0, "INSERT INTO api_usage_{name} VALUES ('{begin}', {run}, {count}, X'{packed}');");
            // A part was packed before there were outlines.
            if !count.is_multiple_of(3) {
                let outlines = outlines(series.iter().map(|(series, tally)| (series.borrowed(), tally)));
                for (outline, packed) in outlines {
                    let (table, packed) = (format!("api_usage_outline_{name}"), hex(&packed));
                    let _ =
                        writeln!(self.0, "INSERT INTO {table} VALUES ('{outline}', '{begin}', {run}, X'{packed}');");
                }
            }
        }
    }

    /// One request; `more` sets other columns.
    pub fn request(&mut self, run: u32, sequence: u64, time: Timestamp, more: &[(&str, &str)]) {
        let mut columns: BTreeMap<&str, String> = BTreeMap::from([
            ("timestamp", quoted(Some(&Moment::of(time.into()).to_string()))),
            ("run", run.to_string()),
            ("sequence", sequence.to_string()),
            ("request_id", format!("X'{sequence:032x}'")),
            ("endpoint", "'/a'".to_owned()),
            ("http_method", "'GET'".to_owned()),
            ("status_code", "200".to_owned()),
            ("response_time_ms", "1.5".to_owned()),
            ("is_error", "0".to_owned()),
            ("path", "'/a'".to_owned()),
            ("protocol", "'HTTP/1.1'".to_owned()),
            ("attempts", "1".to_owned()),
            ("decided_by", "'upstream'".to_owned()),
            ("bytes_in", "0".to_owned()),
            ("bytes_out", "7".to_owned()),
            ("generation", "1".to_owned()),
        ]);
        for (column, value) in more {
            columns.insert(column, (*value).to_owned());
        }
        let names: Vec<&str> = columns.keys().copied().collect();
        let values: Vec<&str> = columns.values().map(String::as_str).collect();
        let _ = writeln!(self.0, "INSERT INTO api_logs (`{}`) VALUES ({});", names.join("`, `"), values.join(", "));
    }
}
