//! The SQLite store: one file, nothing else to install. WAL mode, so that reports read while the gateway writes.
//! `synchronous = NORMAL`: a crash of the gateway loses nothing that was counted as written; a power failure can lose
//! the last transactions, never the file. Calls block, so they run on the writer's own thread.
//! The only file that knows rusqlite.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, Error, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::row::{Moment, Row, address_bytes};
use super::{Batch, COLUMNS, EndpointUsage, Failure, Rejected, Run, TABLES, Totals, usage_sql};

const SCHEMA: &str = include_str!("../../conf/sql/sqlite.sql");

/// How long one statement waits for another program's lock. Short, because the writer tries again anyway and a
/// shutdown must not wait for it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// The store behind `log.store: sqlite:PATH`.
pub struct Sqlite {
    path: PathBuf,
    run: Run,
    insert_sql: String,
    open: Option<Open>,
}

struct Open {
    connection: Connection,
    /// This run's number in this file.
    run: u32,
    /// Device and inode: a file that was moved away or removed is not written any more.
    file: (u64, u64),
}

impl Sqlite {
    /// Opens the file, creating it, its folder and its tables.
    ///
    /// # Errors
    /// The folder or the file can't be created, or the file is no SQLite database. A locked file is no error here.
    pub fn start(path: PathBuf, run: Run) -> Result<Self, String> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|error| format!("log.store: can't create the folder {}: {error}", folder.display()))?;
        }
        let values = vec!["?"; COLUMNS.len()].join(", ");
        let insert_sql = format!(
            "INSERT INTO api_logs (\"{}\") VALUES ({values}) ON CONFLICT (timestamp, run, sequence) DO NOTHING",
            COLUMNS.join("\", \"")
        );
        let mut store = Self { path, run, insert_sql, open: None };
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
        let mut connection = Connection::open(&self.path)?;
        connection.busy_timeout(LOCK_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        // What a burst or a long report made the WAL grow to is given back.
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if !missing_tables(&transaction)?.is_empty() {
            transaction.execute_batch(SCHEMA)?;
        }
        let run = self.run_number(&transaction)?;
        transaction.commit()?;
        // Without its identity the file counts as moved, and is opened again with the next batch.
        Ok(Open { connection, run, file: file_identity(&self.path).unwrap_or_default() })
    }

    fn run_number(&self, connection: &Connection) -> Result<u32, Error> {
        let Run { id, node, version, started, .. } = &self.run;
        let started = Moment::of(*started).to_string();
        connection.execute(
            "INSERT INTO log_runs (run_id, node, version, started_at, beat_at) VALUES (?1, ?2, ?3, ?4, ?4)
             ON CONFLICT (run_id) DO NOTHING",
            params![id.as_bytes(), node, version, started],
        )?;
        connection.query_row("SELECT run FROM log_runs WHERE run_id = ?1", [id.as_bytes()], |row| row.get(0))
    }

    /// Stores a batch; see [`super::Store::insert`].
    pub fn insert(&mut self, batch: &Batch) -> Result<Vec<Rejected>, Failure> {
        self.open()?;
        let Some(open) = &mut self.open else { return Err(Failure::Away("the file is not open".to_owned())) };
        let stored = insert(open, &self.insert_sql, batch, &self.run);
        stored.map_err(|error| {
            // A full disk or an I/O error leaves the connection in doubt; a lock does not.
            if !matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) {
                self.open = None;
            }
            failure(&self.path, &error)
        })
    }

    /// Ends the run; see [`super::Store::close`].
    pub fn close(&mut self, totals: Totals) -> Result<(), Failure> {
        self.open()?;
        let Some(open) = self.open.take() else { return Ok(()) };
        let now = Moment::of(SystemTime::now()).to_string();
        let Totals { accepted, written, dropped } = totals;
        open.connection
            .execute(
                "UPDATE log_runs SET beat_at = ?2, closed_at = ?2, accepted = ?3, written = ?4, dropped = ?5
                 WHERE run = ?1",
                params![open.run, now, accepted.cast_signed(), written.cast_signed(), dropped.cast_signed()],
            )
            .map_err(|error| failure(&self.path, &error))?;
        Ok(())
    }
}

fn insert(open: &mut Open, sql: &str, batch: &Batch, run: &Run) -> Result<Vec<Rejected>, Error> {
    let transaction = open.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut rejected = Vec::new();
    {
        let mut statement = transaction.prepare_cached(sql)?;
        for (sequence, record) in (batch.first..).zip(&batch.records) {
            match insert_row(&mut statement, open.run, sequence, &Row::of(record, run.client_ip)) {
                Ok(_) => {}
                // A refused row undoes its own statement only; the rest of the transaction stands.
                Err(error) if is_about_the_row(&error) => {
                    let code = error.sqlite_error().map_or(0, |error| error.extended_code);
                    rejected.push(Rejected { sequence, code: format!("SQLite error {code}") });
                }
                Err(error) => return Err(error),
            }
        }
    }
    transaction.commit()?;
    Ok(rejected)
}

fn insert_row(statement: &mut rusqlite::Statement<'_>, run: u32, sequence: u64, row: &Row<'_>) -> Result<usize, Error> {
    let mut room = [0; 16];
    let client_ip = row.client_ip.map(|address| address_bytes(address, &mut room));
    statement.execute(params![
        row.timestamp.to_string(),
        row.endpoint,
        row.http_method,
        row.status_code,
        row.response_time_ms,
        row.is_error,
        run,
        sequence.cast_signed(),
        row.request_id,
        row.client_request_id,
        row.host,
        row.path,
        row.protocol,
        row.consumer,
        row.key,
        client_ip,
        row.service,
        row.instance,
        row.attempts,
        row.upstream_ms,
        row.cache,
        row.decided_by,
        row.limit_name,
        row.observed,
        row.bytes_in,
        row.bytes_out,
        row.user_agent,
        row.generation,
    ])
}

/// Whether the row itself is at fault, so that trying it again can't help.
fn is_about_the_row(error: &Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::ConstraintViolation
                | ErrorCode::TooBig
                | ErrorCode::TypeMismatch
                | ErrorCode::ParameterOutOfRange
        )
    )
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

fn missing_tables(connection: &Connection) -> Result<Vec<&'static str>, Error> {
    let mut statement = connection.prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1")?;
    let mut missing = Vec::new();
    for table in TABLES {
        if statement.query_row([table], |_| Ok(())).optional()?.is_none() {
            missing.push(table);
        }
    }
    Ok(missing)
}

fn open_to_read(path: &Path) -> Result<Connection, String> {
    let text = |error: Error| format!("{}: {error}", path.display());
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(text)?;
    connection.busy_timeout(LOCK_TIMEOUT).map_err(text)?;
    Ok(connection)
}

/// What is there, without creating anything; see [`super::probe`].
pub fn probe(path: &Path) -> Result<Vec<String>, String> {
    if !path.exists() {
        let above = path.ancestors().skip(1).find(|folder| folder.exists());
        let above = above.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let metadata = std::fs::metadata(above).map_err(|error| format!("{}: {error}", above.display()))?;
        if !metadata.is_dir() {
            return Err(format!("{}: {} is not a folder", path.display(), above.display()));
        }
        return Ok(vec![format!("{} does not exist yet: start creates it", path.display())]);
    }
    let connection = open_to_read(path)?;
    let missing = missing_tables(&connection).map_err(|error| format!("{}: {error}", path.display()))?;
    if std::fs::OpenOptions::new().append(true).open(path).is_err() {
        return Err(format!("{} can't be written by this user", path.display()));
    }
    let mut found = vec![format!("{} can be opened", path.display())];
    if !missing.is_empty() {
        found.push(format!("tables {} do not exist yet: start creates them", missing.join(", ")));
    }
    Ok(found)
}

/// Usage per endpoint and in all; see [`super::usage`].
pub fn usage(path: &Path, from: Moment, to: Moment) -> Result<Vec<EndpointUsage>, String> {
    if !path.exists() {
        return Err(format!("there is no request log at {} yet: `tollgate run` creates it", path.display()));
    }
    let text = |error: Error| format!("{}: {error}", path.display());
    let mut connection = open_to_read(path)?;
    if missing_tables(&connection).map_err(text)?.contains(&"api_logs") {
        return Err(format!("{} holds no request log: it has no table api_logs", path.display()));
    }
    // One transaction: the endpoints and the totals are of the same moment.
    let transaction = connection.transaction().map_err(text)?;
    let mut all = Vec::new();
    for by in ["endpoint", "NULL"] {
        let mut statement = transaction.prepare(&usage_sql(by)).map_err(text)?;
        let rows = statement.query_map([from.to_string(), to.to_string()], |row| {
            Ok(EndpointUsage {
                endpoint: row.get(0)?,
                requests: row.get::<_, i64>(1)?.cast_unsigned(),
                errors: row.get::<_, i64>(2)?.cast_unsigned(),
                mean_ms: row.get(3)?,
                p95_ms: row.get(4)?,
            })
        });
        all.extend(rows.map_err(text)?.collect::<Result<Vec<_>, _>>().map_err(text)?);
    }
    Ok(all)
}
