//! Reading the request log: one snapshot of a store, opened read-only, and the questions that analytics asks.
//! Creates nothing, not even a file, and holds no lock that a writer waits for. Every reader has a time after which its
//! question is given up, so that no report can hold a thread, a connection or a snapshot for ever.
//! Not here: what the answers mean (`analytics`).

mod cells;
mod logged;
mod mysql;
mod sqlite;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::usage::{Minute, Reading, Series};
use crate::config::StoreUrl;

use cells::Row;
pub use logged::{Logged, Position, Question};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// There is no request log, or none that this program can read; what to do.
    Absent(String),
    /// The store does not answer, or holds what nobody wrote.
    Failed(String),
    /// The time is over.
    TooLong(Duration),
    /// The answer would be larger than anyone reads; what to do.
    TooLarge(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(message) | Self::Failed(message) | Self::TooLarge(message) => out.write_str(message),
            Self::TooLong(time) => {
                write!(out, "no answer within {} s: ask for a shorter window", time.as_secs())
            }
        }
    }
}

impl From<super::usage::Damaged> for Unreadable {
    fn from(_: super::usage::Damaged) -> Self {
        Self::Failed("a packed value of the roll-ups is damaged".to_owned())
    }
}

/// A run as `log_runs` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRun {
    /// Its number in this database.
    pub run: u32,
    /// The label of the gateway.
    pub node: String,
    /// The version of the program.
    pub version: String,
    /// When the process started.
    pub started: Timestamp,
    /// When it was last heard of.
    pub beat: Timestamp,
    /// When it ended; a run that was killed has none.
    pub closed: Option<Timestamp>,
    /// What it counted by its last beat.
    pub totals: super::Totals,
    /// Its hours before are packed.
    pub hours_until: Minute,
    /// Its days before are packed.
    pub days_until: Minute,
}

/// A row of `log_batches`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    /// Whose records.
    pub run: u32,
    /// The first number.
    pub first: u64,
    /// The last number.
    pub last: u64,
    /// How many of them were stored in `api_logs`.
    pub rows: u64,
    /// Of the timestamps.
    pub oldest: Timestamp,
    /// Of the timestamps.
    pub newest: Timestamp,
    /// When the batch was stored.
    pub written: Timestamp,
}

/// A row of `log_drops`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDrops {
    /// Whose records.
    pub run: u32,
    /// See [`super::Drops`].
    pub after: u64,
    /// How many.
    pub count: u64,
    /// Why.
    pub reason: String,
    /// Whether they had numbers.
    pub numbered: bool,
}

/// What retention has removed: everything before these times. Nothing was removed before 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Single requests.
    pub requests: Timestamp,
    /// Usage by minute.
    pub minutes: Timestamp,
    /// Usage by hour.
    pub hours: Timestamp,
}

/// A row of `api_usage_minute`, lent for as long as it is looked at.
#[derive(Debug)]
pub struct MinuteRow<'a> {
    /// When.
    pub minute: Minute,
    /// Whose.
    pub run: u32,
    /// What is told apart.
    pub series: Series<&'a str>,
    /// Count, errors, blocked, bytes in and out, duration and upstream in microseconds.
    pub numbers: [u64; 7],
    /// For [`super::usage::Histogram::merge_encoded`].
    pub histogram: &'a [u8],
}

/// Which hours of each run are read: those in `window` that are packed, without those whose day is packed and lies in
/// `but_days`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    /// Whole hours.
    pub window: Range<Minute>,
    /// Whole days.
    pub but_days: Range<Minute>,
}

/// What is done with a packed value: when it begins, and its bytes.
pub type EachPacked<'a> = &'a mut dyn FnMut(Minute, &[u8]) -> Result<(), Unreadable>;

/// What is done with a minute.
pub type EachMinute<'a> = &'a mut dyn FnMut(&MinuteRow<'_>) -> Result<(), Unreadable>;

/// What is done with the identity of a request.
pub type EachPosition<'a> = &'a mut dyn FnMut(Position) -> Result<(), Unreadable>;

type EachRow<'a> = &'a mut dyn FnMut(Row<'_>) -> Result<(), Unreadable>;

/// A value of a statement.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Text(String),
    Number(i64),
    Real(f64),
    Time(Timestamp),
    Minute(Minute),
    Bytes([u8; 16]),
}

/// A store that answers statements, all from one snapshot.
trait Source {
    /// For messages.
    fn name(&self) -> String;

    /// The statement that lists its tables.
    fn tables(&self) -> &'static str;

    /// A join that reads its tables in the order in which they are written.
    fn join_in_order(&self) -> &'static str;

    /// Runs a statement, one row after the other.
    fn each(&mut self, sql: &str, values: &[Value], each: EachRow<'_>) -> Result<(), Unreadable>;
}

/// One snapshot of a store. Every question fails as [`Unreadable`] says, and a reader that failed is of no use any more.
pub struct Reader {
    source: Box<dyn Source>,
}

impl Reader {
    /// Opens a store for reading. All questions together may take `time_max`. Blocks; not for a thread that serves others.
    ///
    /// # Errors
    /// There is no store, no request log in it, or no way to it.
    pub fn open(url: &StoreUrl, time_max: Duration) -> Result<Self, Unreadable> {
        let source: Box<dyn Source> = match url {
            StoreUrl::None => {
                let why = "log.store is none: requests are not stored, so there is nothing to read";
                return Err(Unreadable::Absent(why.to_owned()));
            }
            StoreUrl::Sqlite(path) => Box::new(sqlite::Sqlite::open(path, time_max)?),
            StoreUrl::Mysql(url) => Box::new(mysql::Mysql::open(url, time_max)?),
        };
        let mut reader = Self { source };
        reader.has_tables()?;
        Ok(reader)
    }

    fn has_tables(&mut self) -> Result<(), Unreadable> {
        let sql = self.source.tables();
        let tables = self.list(sql, &[], |row| row.text(0).map(str::to_owned))?;
        let has = |table: &str| tables.iter().any(|name| name == table);
        let name = self.source.name();
        if !has("api_logs") {
            let why = format!("{name} holds no request log yet: `tollgate run` creates its tables");
            return Err(Unreadable::Absent(why));
        }
        if !has("api_usage_outline_hour") {
            let why =
                format!("{name} holds a request log of an older version: `tollgate log migrate` brings it up to date");
            return Err(Unreadable::Absent(why));
        }
        Ok(())
    }

    fn list<T>(
        &mut self,
        sql: &str,
        values: &[Value],
        read: fn(Row<'_>) -> Result<T, Unreadable>,
    ) -> Result<Vec<T>, Unreadable> {
        let mut list = Vec::new();
        self.source.each(sql, values, &mut |row| {
            list.push(read(row)?);
            Ok(())
        })?;
        Ok(list)
    }

    /// All runs, by number.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn runs(&mut self) -> Result<Vec<StoredRun>, Unreadable> {
        self.list(RUNS, &[], |row| row.run())
    }

    /// The ledger, by run and first number.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn batches(&mut self) -> Result<Vec<StoredBatch>, Unreadable> {
        self.list(BATCHES, &[], |row| row.batch())
    }

    /// The checkpoints, by run and id.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn drops(&mut self) -> Result<Vec<StoredDrops>, Unreadable> {
        self.list(DROPS, &[], |row| row.drops())
    }

    /// What retention has removed.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn removed(&mut self) -> Result<Removed, Unreadable> {
        let mut removed = Removed::default();
        self.source.each(REMOVED, &[], &mut |row| {
            let before = row.time(1)?;
            match row.text(0)? {
                "requests" => removed.requests = before,
                "minutes" => removed.minutes = before,
                "hours" => removed.hours = before,
                _ => {}
            }
            Ok(())
        })?;
        Ok(removed)
    }

    /// From the beginning of the first minute, hour or day there is to the end of the last; none where there is none.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn span(&mut self) -> Result<Option<Range<Minute>>, Unreadable> {
        let mut span: Option<Range<Minute>> = None;
        for (sql, length) in SPAN {
            self.source.each(sql, &[], &mut |row| {
                // Both are NULL where the table is empty.
                if row.time_or_none(0)?.is_some() {
                    let (first, end) = (row.minute(0)?, Minute(row.minute(1)?.0.saturating_add(length)));
                    let all = span.take().unwrap_or(first..end);
                    span = Some(all.start.min(first)..all.end.max(end));
                }
                Ok(())
            })?;
        }
        Ok(span)
    }

    /// The packed days of all runs in a window of whole days: of those without outlines everything, whatever is read of others.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn days(&mut self, window: Range<Minute>, reading: &Reading, each: EachPacked<'_>) -> Result<(), Unreadable> {
        self.packed(&PackedSql::of("day", self.source.join_in_order(), ""), &window, &[], reading, each)
    }

    /// The packed hours of all runs; otherwise like [`Self::days`].
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn hours(&mut self, hours: &Hours, reading: &Reading, each: EachPacked<'_>) -> Result<(), Unreadable> {
        // No packed day stands for them.
        let but = " AND NOT (u.`hour` >= ? AND u.`hour` < ? AND u.`hour` < r.days_until)";
        let values = [Value::Minute(hours.but_days.start), Value::Minute(hours.but_days.end)];
        self.packed(&PackedSql::of("hour", self.source.join_in_order(), but), &hours.window, &values, reading, each)
    }

    fn packed(
        &mut self,
        sql: &PackedSql,
        window: &Range<Minute>,
        more: &[Value],
        reading: &Reading,
        each: EachPacked<'_>,
    ) -> Result<(), Unreadable> {
        if window.is_empty() {
            return Ok(());
        }
        let mut values = vec![Value::Minute(window.start), Value::Minute(window.end)];
        values.extend_from_slice(more);
        let mut each = |row: Row<'_>| each(row.minute(0)?, row.bytes(1)?);
        let Reading::Outlines(outlines) = reading else { return self.source.each(&sql.full(), &values, &mut each) };
        for outline in outlines {
            let mut values = values.clone();
            values.insert(0, Value::Text(outline.clone()));
            self.source.each(&sql.outline(), &values, &mut each)?;
        }
        // Asked first whether there is any: MariaDB reads a value before it finds that it is not wanted.
        if self.list(&sql.has_none(), &values, |_| Ok(()))?.is_empty() {
            return Ok(());
        }
        self.source.each(&sql.without_outlines(), &values, &mut each)
    }

    /// The minutes of all runs in a window.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn minutes(&mut self, window: Range<Minute>, each: EachMinute<'_>) -> Result<(), Unreadable> {
        if window.is_empty() {
            return Ok(());
        }
        let values = [Value::Minute(window.start), Value::Minute(window.end)];
        self.source.each(MINUTES, &values, &mut |row| each(&row.usage()?))
    }

    /// Single requests, the newest first.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn requests(&mut self, question: &Question) -> Result<Vec<Logged>, Unreadable> {
        let (condition, values) = question.condition();
        let order = "ORDER BY `timestamp` DESC, `run` DESC, `sequence` DESC";
        let sql = logged::select(&format!("WHERE {condition} {order} LIMIT {}", question.limit));
        self.list(&sql, &values, |row| row.request())
    }

    /// All requests with an id; clients behind a trusted proxy may choose theirs, so there can be several.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn requests_with(&mut self, id: Uuid) -> Result<Vec<Logged>, Unreadable> {
        let order = "ORDER BY `timestamp`, `run`, `sequence`";
        let sql = logged::select(&format!("WHERE `request_id` = ? {order} LIMIT {SAME_ID_MAX}"));
        self.list(&sql, &[Value::Bytes(*id.as_bytes())], |row| row.request())
    }

    /// Which request every row of `api_logs` is, in the order of time.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn positions(&mut self, each: EachPosition<'_>) -> Result<(), Unreadable> {
        self.source.each(POSITIONS, &[], &mut |row| {
            each(Position { timestamp: row.time(0)?, run: row.number(1)?, sequence: row.number(2)? })
        })
    }
}

/// Requests with one id that are given at most.
const SAME_ID_MAX: u32 = 1_000;

// Both stores take backquotes around names.
const RUNS: &str = "SELECT run, node, version, started_at, beat_at, closed_at, accepted, recovered, written, spooled, \
                    dropped, last, hours_until, days_until FROM log_runs ORDER BY run";
const BATCHES: &str =
    "SELECT run, first, last, `rows`, oldest, newest, written_at FROM log_batches ORDER BY run, first";
const DROPS: &str = "SELECT run, `after`, `count`, reason, numbered FROM log_drops ORDER BY run, id";
const REMOVED: &str = "SELECT what, `before` FROM log_retention";
const POSITIONS: &str = "SELECT `timestamp`, `run`, `sequence` FROM api_logs ORDER BY `timestamp`, `run`, `sequence`";
// Apart from each other, because SQLite finds one end in an index, but reads everything to find both.
const SPAN: [(&str, u32); 3] = [
    ("SELECT (SELECT MIN(`minute`) FROM api_usage_minute), (SELECT MAX(`minute`) FROM api_usage_minute)", 1),
    ("SELECT (SELECT MIN(`hour`) FROM api_usage_hour), (SELECT MAX(`hour`) FROM api_usage_hour)", Minute::HOUR),
    ("SELECT (SELECT MIN(`day`) FROM api_usage_day), (SELECT MAX(`day`) FROM api_usage_day)", Minute::DAY),
];
const MINUTES: &str = "SELECT `minute`, run, endpoint, method, status, decided_by, consumer, `key`, service, instance, \
                       `count`, errors, blocked, bytes_in, bytes_out, duration_us, upstream_us, histogram \
                       FROM api_usage_minute WHERE `minute` >= ? AND `minute` < ?";

/// The statements about the packed hours or days of a window: the outlines, and everything where there is no outline. The
/// window is one range of the primary key; the run is looked up for each of its few rows.
struct PackedSql {
    level: &'static str,
    join: &'static str,
    and: &'static str,
}

impl PackedSql {
    fn of(level: &'static str, join: &'static str, and: &'static str) -> Self {
        Self { level, join, and }
    }

    fn select(&self, what: &str, table: &str, which: &str) -> String {
        let Self { level, join, and } = self;
        format!(
            "SELECT {what} FROM {table} u {join} log_runs r ON r.run = u.run \
             WHERE {which}u.`{level}` >= ? AND u.`{level}` < ? AND u.`{level}` < r.{level}s_until{and}"
        )
    }

    fn full(&self) -> String {
        self.select(&format!("u.`{}`, u.packed", self.level), &format!("api_usage_{}", self.level), "")
    }

    fn outline(&self) -> String {
        let table = format!("api_usage_outline_{}", self.level);
        self.select(&format!("u.`{}`, u.packed", self.level), &table, "u.outline = ? AND ")
    }

    fn but_outlined(&self) -> String {
        let (level, always) = (self.level, Reading::ALWAYS);
        format!(
            " AND NOT EXISTS (SELECT 1 FROM api_usage_outline_{level} o \
             WHERE o.outline = '{always}' AND o.`{level}` = u.`{level}` AND o.run = u.run)"
        )
    }

    fn has_none(&self) -> String {
        self.select("u.run", &format!("api_usage_{}", self.level), "") + &self.but_outlined() + " LIMIT 1"
    }

    fn without_outlines(&self) -> String {
        self.full() + &self.but_outlined()
    }
}
