//! The stores of the request log, and the only SQL of the program: SQLite (embedded) and MySQL or MariaDB.
//! A store takes batches, each in one transaction; a batch that is tried again is stored once, because the ledger has its
//! range (`ledger`). When to try again, and what to count, is the writer's (`request_log`).
//! No message that leaves here holds a password or the contents of a row.

mod counters;
pub mod keys;
mod ledger;
mod migrations;
mod mysql;
pub mod read;
mod row;
mod sqlite;
mod upkeep;
pub mod usage;

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::{Retention, StoreUrl};

pub use counters::{CHUNK, CounterId, CounterRow, Counters};
pub use row::{Moment, Row, address_bytes};
use usage::Increments;

/// One process start of a gateway, as `log_runs` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Identifies the run before a database has numbered it (UUIDv7).
    pub id: Uuid,
    /// The label of the gateway.
    pub node: String,
    /// The version of the program.
    pub version: String,
    /// When the process started.
    pub started: SystemTime,
}

/// Where a run stands: what `log_runs` says of it after its next batch or beat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Records the gateway made.
    pub accepted: u64,
    /// Records of earlier runs, found in the spool at start.
    pub recovered: u64,
    /// Rows that are stored.
    pub written: u64,
    /// Records that lie in the spool.
    pub spooled: u64,
    /// Records that were lost, for whatever reason.
    pub dropped: u64,
    /// The highest number that was given to a record.
    pub last: u64,
}

/// A checkpoint: records that were lost, as `log_drops` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// From 1 in each run; a checkpoint that is tried again is stored once.
    pub id: u64,
    /// The number given last before; where they had numbers, theirs are `after + 1` to `after + count`.
    pub after: u64,
    /// How many.
    pub count: u64,
    /// Why.
    pub reason: String,
    /// Whether they had numbers.
    pub numbered: bool,
    /// When the first of them was lost.
    pub since: SystemTime,
    /// When the last of them was lost.
    pub until: SystemTime,
}

/// What is written about a run beside its rows, in the same transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beat {
    /// With everything that this transaction stores already counted as written.
    pub totals: Totals,
    /// Checkpoints that are not stored yet.
    pub drops: Vec<Drops>,
    /// The run has ended in order, whether or not its store could be told.
    pub has_ended: bool,
}

/// Records with consecutive numbers of one run, stored in one transaction. Its bounds stay the same in memory, spool and
/// every retry.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Whose records these are; not the writer's own run where they were found in the spool.
    pub run: &'a Run,
    /// The sequence of the first row.
    pub first: u64,
    /// At least one.
    pub rows: &'a [Row<'a>],
    /// What the roll-ups count beside the rows: requests whose records were dropped to spare the queue.
    pub unrecorded: &'a Increments<String>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Stored {
    /// It was there already; nothing was changed.
    pub was_there: bool,
    /// Rows that the store will never take; all others are stored.
    pub rejected: Vec<Rejected>,
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

    /// Connects where that has not happened yet, migrates, and gives this run its row in `log_runs`; its number.
    ///
    /// # Errors
    /// The store can't be used now.
    pub async fn open(&mut self) -> Result<u32, Failure> {
        match self {
            Self::Sqlite(store) => store.open(),
            Self::Mysql(store) => store.open().await,
        }
    }

    /// Stores a batch and the beat of this run in one transaction: its row in the ledger, its rows, its increments, the totals
    /// and the checkpoints. A batch whose range the ledger has is skipped. The totals in `beat` say that every row is stored;
    /// for those that are rejected they are corrected here, and a checkpoint `rejected` is written.
    ///
    /// # Errors
    /// Nothing is known to be stored; the same batch may be tried again.
    pub async fn insert(&mut self, batch: &Batch<'_>, beat: &Beat) -> Result<Stored, Failure> {
        match self {
            Self::Sqlite(store) => store.insert(batch, beat),
            Self::Mysql(store) => store.insert(batch, beat).await,
        }
    }

    /// Says that this run lives, and where it stands.
    ///
    /// # Errors
    /// The store can't be used now.
    pub async fn beat(&mut self, beat: &Beat) -> Result<(), Failure> {
        match self {
            Self::Sqlite(store) => store.beat(beat),
            Self::Mysql(store) => store.beat(beat).await,
        }
    }

    /// Ends this run: the last beat, the time, and what the usage counts of records that were dropped since the last batch. To be
    /// tried once: who tries again may count these twice.
    ///
    /// # Errors
    /// The store can't be used now.
    pub async fn close(&mut self, beat: &Beat, unrecorded: &Increments<String>) -> Result<(), Failure> {
        match self {
            Self::Sqlite(store) => store.close(beat, unrecorded),
            Self::Mysql(store) => store.close(beat, unrecorded).await,
        }
    }

    /// Ends an earlier run that was killed, after its spooled batches are stored: its totals as far as they are known, and a
    /// checkpoint `killed` for what was accepted by its last beat and is neither stored nor in a checkpoint.
    ///
    /// # Errors
    /// The store can't be used now.
    pub async fn close_killed(&mut self, run: &Run, last_known: &Beat) -> Result<(), Failure> {
        match self {
            Self::Sqlite(store) => store.close_killed(run, last_known),
            Self::Mysql(store) => store.close_killed(run, last_known).await,
        }
    }

    /// One small step of what is due: hours and days are packed, what retention no longer keeps is removed, old rows of the
    /// ledger are merged, partitions are made. True when there is more to do.
    ///
    /// # Errors
    /// The store can't be used now.
    pub async fn upkeep(&mut self, retention: &Retention) -> Result<bool, Failure> {
        match self {
            Self::Sqlite(store) => store.upkeep(retention),
            Self::Mysql(store) => store.upkeep(retention).await,
        }
    }

    /// What the store keeps, as upkeep saw it last, about once a minute; none before that.
    pub fn kept(&self) -> Option<Arc<Kept>> {
        match self {
            Self::Sqlite(store) => store.kept(),
            Self::Mysql(store) => store.kept(),
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

/// Brings the tables of a store up to date: `tollgate log migrate`, for operators who give the gateway a user that may not
/// make or change tables. Returns what was done, a line each.
///
/// # Errors
/// The store can't be used, or this user may not do it either.
pub fn migrate(url: &StoreUrl) -> Result<Vec<String>, String> {
    match url {
        StoreUrl::None => Ok(vec!["log.store is none: there are no tables".to_owned()]),
        StoreUrl::Sqlite(path) => sqlite::migrate(path),
        StoreUrl::Mysql(url) => mysql::migrate(url),
    }
}

/// What a store keeps. Times are UTC, as the store writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// When that was seen.
    pub seen: SystemTime,
    /// Of the whole log: what `log.retention.size` is about.
    pub bytes: u64,
    /// The time of the oldest request; none without requests.
    pub oldest: Option<String>,
    /// What retention has removed, also before this process began.
    pub removed: Vec<Removed>,
}

/// What retention has removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// `requests`, `minutes` or `hours`.
    pub what: String,
    /// Everything before that.
    pub before: String,
    /// Which limit under `log.retention` did it: `requests`, `minutes`, `hours` or `size`.
    pub limit: String,
    /// When that was done last.
    pub at: String,
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
