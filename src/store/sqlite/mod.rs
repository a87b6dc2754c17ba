//! The SQLite store: one file, nothing else to install. WAL mode, so that reports read while the gateway writes.
//! `synchronous = NORMAL`: a crash of the gateway loses nothing that was counted as written; a power failure can lose
//! the last transactions, never the file. Calls block, so they run on the writer's own thread.
//! The only folder that knows rusqlite.

mod counters;
mod keys;
mod ledger;
mod migrate;
mod pack;
mod rows;
mod upkeep;
mod usage;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, Error, ErrorCode, OpenFlags, TransactionBehavior};

use super::migrations::{SQLITE, newest};
use super::upkeep::Upkeep;
use super::usage::{Increments, Known};
use super::{Batch, Beat, Failure, Kept, Run, Stored};
use crate::config::Retention;

pub use counters::Counters;
pub use keys::Keys;
pub use migrate::probe;

/// How long one statement waits for another program's lock. Short, because the writer tries again anyway and a
/// shutdown must not wait for it.
const LOCK_TIMEOUT: Duration = Duration::from_millis(250);

/// Statements that stay prepared.
const STATEMENTS: usize = 64;

/// The store behind `log.store: sqlite:PATH`.
pub struct Sqlite {
    path: PathBuf,
    run: Run,
    open: Option<Open>,
    upkeep: Upkeep,
}

struct Open {
    connection: Connection,
    /// This run's number in this file.
    run: u32,
    /// Device and inode: a file that was moved away or removed is not written any more.
    file: (u64, u64),
    known: Known,
}

/// Why a call failed.
enum Fault {
    Sql(Error),
    Said(Failure),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Sql(error)
    }
}

impl Sqlite {
    /// Opens the file, creating it, its folder and its tables.
    ///
    /// # Errors
    /// The folder or the file can't be created, or the file is no SQLite database. A locked file is no error here.
    pub fn start(path: PathBuf, run: Run) -> Result<Self, String> {
        make_folder(&path)?;
        let mut store = Self { path, run, open: None, upkeep: Upkeep::default() };
        match store.open() {
            Ok(_) | Err(Failure::Away(_)) => Ok(store),
            Err(Failure::Denied(message)) => Err(format!("log.store: {message}")),
        }
    }

    /// Opens the file if it is not open, or no longer the one that the path names; this run's number in it.
    pub fn open(&mut self) -> Result<u32, Failure> {
        if let Some(open) = &self.open {
            if file_identity(&self.path).is_some_and(|file| file == open.file) {
                return Ok(open.run);
            }
            log::warn!("request log: {} was moved or removed; opening it again", self.path.display());
            self.open = None;
        }
        let opened = self.open_file().map_err(|error| failure(&self.path, &error))?;
        Ok(self.open.insert(opened).run)
    }

    fn open_file(&self) -> Result<Open, Error> {
        let mut connection = connect(&self.path)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        migrate::apply(&transaction)?;
        let run = ledger::run_row(&transaction, &self.run)?.run;
        transaction.commit()?;
        // Without its identity the file counts as moved, and is opened again with the next batch.
        let file = file_identity(&self.path).unwrap_or_default();
        Ok(Open { connection, run, file, known: Known::default() })
    }

    /// Stores a batch; see [`super::Store::insert`].
    pub fn insert(&mut self, batch: &Batch<'_>, beat: &Beat) -> Result<Stored, Failure> {
        self.with(|open, run, _| ledger::insert(open, run, batch, beat))
    }

    /// See [`super::Store::beat`].
    pub fn beat(&mut self, beat: &Beat) -> Result<(), Failure> {
        self.with(|open, _, _| ledger::beat(open, beat))
    }

    /// Ends the run; see [`super::Store::close`].
    pub fn close(&mut self, beat: &Beat, unrecorded: &Increments<String>) -> Result<(), Failure> {
        self.with(|open, run, _| ledger::close(open, run, beat, unrecorded))?;
        self.open = None;
        Ok(())
    }

    /// See [`super::Store::close_killed`].
    pub fn close_killed(&mut self, run: &Run, last_known: &Beat) -> Result<(), Failure> {
        self.with(|open, _, _| ledger::close_killed(open, run, last_known))
    }

    /// See [`super::Store::upkeep`].
    pub fn upkeep(&mut self, retention: &Retention) -> Result<bool, Failure> {
        if self.upkeep.due().is_none() {
            return Ok(false);
        }
        self.with(|open, _, upkeep| upkeep::step(open, upkeep, retention, SystemTime::now()))
    }

    /// See [`super::Store::kept`].
    pub fn kept(&self) -> Option<Arc<Kept>> {
        self.upkeep.kept.clone()
    }

    fn with<T>(&mut self, call: impl FnOnce(&mut Open, &Run, &mut Upkeep) -> Result<T, Fault>) -> Result<T, Failure> {
        self.open()?;
        let Some(open) = &mut self.open else { return Err(Failure::Away("the file is not open".to_owned())) };
        let fault = match call(open, &self.run, &mut self.upkeep) {
            Ok(done) => return Ok(done),
            Err(fault) => fault,
        };
        open.known = Known::default();
        self.upkeep.packing = None;
        let is_lock = matches!(&fault, Fault::Sql(error) if is_lock(error));
        if !is_lock {
            // A full disk or an I/O error leaves the connection in doubt; a lock does not.
            self.open = None;
        }
        Err(match fault {
            Fault::Sql(error) => failure(&self.path, &error),
            Fault::Said(failure) => failure,
        })
    }
}

fn is_lock(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn make_folder(path: &Path) -> Result<(), String> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => std::fs::create_dir_all(folder)
            .map_err(|error| format!("log.store: can't create the folder {}: {error}", folder.display())),
        None => Ok(()),
    }
}

fn connect(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(LOCK_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // What a burst or a long report made the WAL grow to is given back.
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    Ok(connection)
}

fn failure(path: &Path, error: &Error) -> Failure {
    let message = format!("{}: {error}", path.display());
    match error.sqlite_error_code() {
        Some(
            ErrorCode::NotADatabase
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::AuthorizationForStatementDenied,
        ) => Failure::Denied(message),
        // `Unknown` is a missing table or column, among others: opening the file again creates missing tables.
        _ => Failure::Away(message),
    }
}

fn file_identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// A connection for questions: it changes nothing.
pub fn open_to_read(path: &Path) -> Result<Connection, String> {
    let text = |error: Error| format!("{}: {error}", path.display());
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(text)?;
    connection.busy_timeout(LOCK_TIMEOUT).map_err(text)?;
    Ok(connection)
}

/// Brings the tables up to date; see [`super::migrate`].
pub fn migrate(path: &Path) -> Result<Vec<String>, String> {
    make_folder(path)?;
    let apply = || {
        let mut connection = connect(path)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = migrate::apply(&transaction)?;
        transaction.commit()?;
        Ok(done)
    };
    let mut done = apply().map_err(|error| failure(path, &error).message().to_owned())?;
    if done.is_empty() {
        done.push(format!("{}: nothing to do, version {} is applied", path.display(), newest(SQLITE)));
    }
    Ok(done)
}
