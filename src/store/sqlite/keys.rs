//! Keys in a SQLite file: the one of the request log, or one of its own.
//! Not here: what the statements are ([`super::super::keys`]).

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::{ToSqlOutput, Value};
use rusqlite::{Connection, Error, Row, ToSql, TransactionBehavior, params_from_iter};

use super::super::Failure;
use super::super::keys::{Cell, Change, KeyRow, SELECT, StoredKey, StoredKeys, Unchanged, statements};
use super::super::migrations::SQLITE_KEYS;
use super::{connect, failure, file_identity, make_folder, migrate};

/// How long another program's lock is waited for: nothing but the poller's thread, or a command, waits with it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// A file with keys.
pub struct Keys {
    path: PathBuf,
    connection: Connection,
    file: Option<(u64, u64)>,
}

impl Keys {
    pub(in crate::store) fn open(path: &Path) -> Result<Self, Failure> {
        make_folder(path).map_err(Failure::Denied)?;
        let open = || {
            let mut connection = connect(path)?;
            connection.busy_timeout(LOCK_TIMEOUT)?;
            // Taken before a lock is: most of the time nothing lacks, and another program may be writing.
            if !migrate::is_complete(&connection, SQLITE_KEYS)? {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                migrate::apply_only(&transaction, SQLITE_KEYS)?;
                transaction.commit()?;
            }
            Ok(connection)
        };
        let connection = open().map_err(|error| failure(path, &error))?;
        Ok(Self { path: path.to_owned(), connection, file: file_identity(path) })
    }

    pub(in crate::store) fn stamp(&mut self) -> Result<String, Failure> {
        if file_identity(&self.path) != self.file {
            return Err(Failure::Away(format!("{} was moved or removed", self.path.display())));
        }
        stamp(&self.connection).map_err(|error| failure(&self.path, &error))
    }

    pub(in crate::store) fn read(&mut self) -> Result<StoredKeys, Failure> {
        let path = &self.path;
        let rows = || {
            let transaction = self.connection.unchecked_transaction()?;
            Ok((stamp(&transaction)?, rows(&transaction)?))
        };
        let (stamp, rows) = rows().map_err(|error| failure(path, &error))?;
        Ok(StoredKeys { stamp, keys: rows.into_iter().map(KeyRow::key).collect::<Result<_, _>>()? })
    }

    pub(in crate::store) fn change<T>(
        &mut self,
        may: impl FnOnce(&[StoredKey]) -> Result<(Vec<Change>, T), String>,
    ) -> Result<T, Unchanged> {
        let path = &self.path;
        let failed = |error: Error| Unchanged::Failed(failure(path, &error));
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let keys = rows(&transaction).map_err(failed)?.into_iter().map(KeyRow::key).collect::<Result<Vec<_>, _>>()?;
        let (changes, outcome) = may(&keys).map_err(Unchanged::No)?;
        for statement in statements(changes, Timestamp::now()) {
            transaction.execute(statement.sql, params_from_iter(statement.values)).map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        Ok(outcome)
    }
}

impl ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Text(text) => text.as_str().into(),
            Self::Number(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            Self::Nothing => ToSqlOutput::Owned(Value::Null),
        })
    }
}

fn stamp(connection: &Connection) -> Result<String, Error> {
    connection.prepare_cached("SELECT stamp FROM key_changes WHERE id = 1")?.query_row([], |row| row.get(0))
}

fn rows(connection: &Connection) -> Result<Vec<KeyRow>, Error> {
    connection.prepare_cached(SELECT)?.query_map([], key_row)?.collect()
}

fn key_row(row: &Row<'_>) -> Result<KeyRow, Error> {
    Ok(KeyRow {
        name: row.get(0)?,
        consumer: row.get(1)?,
        sha256: row.get(2)?,
        plan: row.get(3)?,
        labels: row.get(4)?,
        created: row.get(5)?,
        expires: row.get(6)?,
        revoked: row.get(7)?,
        weak: row.get(8)?,
    })
}
