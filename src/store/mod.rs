//! The stores of the request log, and the only SQL of the program: SQLite (embedded) and MySQL or MariaDB.
//! A store takes batches, each in one transaction; a batch that is tried again is stored once, because (`timestamp`,
//! `run`, `sequence`) is the primary key. When to try again, and what to count, is the writer's (`request_log`).
//! No message that leaves here holds a password or the contents of a row.

mod mysql;
mod mysql_failure;
mod row;
mod sqlite;

use std::time::SystemTime;

use uuid::Uuid;

use crate::config::{ClientIp, StoreUrl};
use crate::record::Record;

pub use row::{Moment, Row, address_bytes};

/// One process start of a gateway, as `log_runs` has it.
#[derive(Clone, Debug)]
pub struct Run {
    /// Identifies the run before a database has numbered it.
    pub id: Uuid,
    /// The label of the gateway.
    pub node: String,
    /// The version of the program.
    pub version: String,
    /// When the process started.
    pub started: SystemTime,
    /// What is kept of client addresses.
    pub client_ip: ClientIp,
}

/// The totals of a run that ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Records the gateway made.
    pub accepted: u64,
    /// Rows that are stored.
    pub written: u64,
    /// Records that were lost, for whatever reason.
    pub dropped: u64,
}

/// Records with consecutive numbers, stored in one transaction.
#[derive(Debug)]
pub struct Batch {
    /// The sequence of the first record.
    pub first: u64,
    /// At least one.
    pub records: Vec<Record>,
}

/// A row that the store will never take.
#[derive(Debug)]
pub struct Rejected {
    /// Which one.
    pub sequence: u64,
    /// The database's error code; its text could hold what the row held.
    pub code: String,
}

/// Why a batch could not be stored now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, a lock, a full disk, a time-out: soon to be tried again.
    Away(String),
    /// Wrong password, missing right, missing database: tried again at leisure, because only an operator can mend it.
    Denied(String),
}

impl Failure {
    /// What went wrong, without secrets.
    pub fn message(&self) -> &str {
        match self {
            Self::Away(message) | Self::Denied(message) => message,
        }
    }
}

/// Where batches go.
pub enum Store {
    /// A file on this machine.
    Sqlite(Box<sqlite::Sqlite>),
    /// A server.
    Mysql(Box<mysql::Mysql>),
}

impl Store {
    /// The store of a URL, or nothing for `none`. A SQLite file is opened here, its folder and tables are created;
    /// a server is not asked yet.
    ///
    /// # Errors
    /// What can't work however often it is tried: a folder that can't be created, a file that is no database, a URL
    /// that can't be read.
    pub fn of(url: &StoreUrl, run: Run) -> Result<Option<Self>, String> {
        Ok(match url {
            StoreUrl::None => None,
            StoreUrl::Sqlite(path) => Some(Self::Sqlite(Box::new(sqlite::Sqlite::start(path.clone(), run)?))),
            StoreUrl::Mysql(url) => Some(Self::Mysql(Box::new(mysql::Mysql::new(url, run)?))),
        })
    }

    /// Connects where that has not happened yet, creates missing tables, and gives this run its row in `log_runs`.
    ///
    /// # Errors
    /// The store can't be used now.
    pub async fn open(&mut self) -> Result<u32, Failure> {
        match self {
            Self::Sqlite(store) => store.open(),
            Self::Mysql(store) => store.open().await,
        }
    }

    /// Stores a batch in one transaction; rows that are there already are left as they are.
    /// Returns the rows that the store will never take; all others are stored then.
    ///
    /// # Errors
    /// Nothing is known to be stored; the same batch may be tried again.
    pub async fn insert(&mut self, batch: &Batch) -> Result<Vec<Rejected>, Failure> {
        match self {
            Self::Sqlite(store) => store.insert(batch),
            Self::Mysql(store) => store.insert(batch).await,
        }
    }

    /// Ends the run: its row in `log_runs` gets the totals and the time.
    ///
    /// # Errors
    /// The store can't be used now.
    pub async fn close(&mut self, totals: Totals) -> Result<(), Failure> {
        match self {
            Self::Sqlite(store) => store.close(totals),
            Self::Mysql(store) => store.close(totals).await,
        }
    }
}

/// Tries a store without changing anything, not even creating a SQLite file. Returns what was found, a line each.
///
/// # Errors
/// What is missing before the log can be written: the server, the database, a right.
pub fn probe(url: &StoreUrl) -> Result<Vec<String>, String> {
    match url {
        StoreUrl::None => Ok(vec!["log.store is none: requests are not stored".to_owned()]),
        StoreUrl::Sqlite(path) => sqlite::probe(path),
        StoreUrl::Mysql(url) => mysql::probe(url),
    }
}

/// The requests of one endpoint in a window of time.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointUsage {
    /// The route's pattern or name; none for the totals.
    pub endpoint: Option<String>,
    /// Rows.
    pub requests: u64,
    /// Rows with `is_error`.
    pub errors: u64,
    /// Milliseconds.
    pub mean_ms: f64,
    /// The response time that 95 of 100 requests did not exceed, exact (nearest rank), in milliseconds.
    pub p95_ms: f64,
}

/// Usage per endpoint, most requests first, with the totals (`endpoint: None`) as the last. Reads only.
///
/// # Errors
/// The store can't be read; the text says what to do.
pub fn usage(url: &StoreUrl, from: Option<SystemTime>, to: SystemTime) -> Result<Vec<EndpointUsage>, String> {
    let (from, to) = (Moment::of(from.unwrap_or(SystemTime::UNIX_EPOCH)), Moment::of(to));
    match url {
        StoreUrl::None => Err("`log.store` is none: there is no request log to read. Set it, for example to \
                               sqlite:data/tollgate.db"
            .to_owned()),
        StoreUrl::Sqlite(path) => sqlite::usage(path, from, to),
        StoreUrl::Mysql(url) => mysql::usage(url, from, to),
    }
}

/// The columns of `api_logs`, in the order in which both stores bind them.
const COLUMNS: [&str; 28] = [
    "timestamp",
    "endpoint",
    "http_method",
    "status_code",
    "response_time_ms",
    "is_error",
    "run",
    "sequence",
    "request_id",
    "client_request_id",
    "host",
    "path",
    "protocol",
    "consumer",
    "key",
    "client_ip",
    "service",
    "instance",
    "attempts",
    "upstream_ms",
    "cache",
    "decided_by",
    "limit_name",
    "observed",
    "bytes_in",
    "bytes_out",
    "user_agent",
    "generation",
];

/// The tables that have to be there before a batch can be stored.
const TABLES: [&str; 2] = ["log_runs", "api_logs"];

/// Usage of a window, the same for both databases: `?` from, `?` to. Nearest rank: the p95 of n values is the one at
/// rank `ceil(0.95 n)`, in whole numbers. `by` is the column that groups, or a constant for the totals.
fn usage_sql(by: &str) -> String {
    format!(
        "SELECT g, COUNT(*), COALESCE(SUM(is_error), 0), AVG(ms), MIN(CASE WHEN place * 100 >= size * 95 THEN ms END)
         FROM (SELECT g, is_error, ms, ROW_NUMBER() OVER (PARTITION BY g ORDER BY ms) AS place,
                 COUNT(*) OVER (PARTITION BY g) AS size
               FROM (SELECT {by} AS g, is_error, response_time_ms AS ms FROM api_logs
                     WHERE timestamp >= ? AND timestamp < ?) AS rows_of_window) AS ranked
         GROUP BY g ORDER BY COUNT(*) DESC, g"
    )
}
