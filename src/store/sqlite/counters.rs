//! Counts of limits in a SQLite file; see [`super::super::Counters`].

use std::path::PathBuf;

use rusqlite::{Connection, Error, TransactionBehavior, params};

use super::super::Failure;
use super::super::counters::{CHUNK, CounterId, CounterRow};
use super::{connect, failure, file_identity, make_folder, migrate};

/// The counters of one gateway in a file.
pub struct Counters {
    path: PathBuf,
    gateway: String,
    open: Option<(Connection, (u64, u64))>,
}

impl Counters {
    /// Opens nothing yet.
    pub fn new(path: PathBuf, gateway: String) -> Self {
        Self { path, gateway, open: None }
    }

    /// See [`super::super::Counters::load`].
    pub fn load(&mut self, after: CounterId, now_ms: u64) -> Result<Vec<CounterRow>, Failure> {
        self.with(|connection, gateway| {
            let mut statement = connection.prepare_cached(
                "SELECT \"limit\", identity, uses, expires_ms FROM limit_counters
                 WHERE gateway = ?1 AND id > ?2 AND expires_ms > ?3 ORDER BY id LIMIT ?4",
            )?;
            let rows = statement.query_map(params![gateway, after, millis(now_ms), CHUNK as i64], |row| {
                let expires_ms = u64::try_from(row.get::<_, i64>(3)?).unwrap_or_default();
                Ok(CounterRow { limit: row.get(0)?, identity: row.get(1)?, uses: row.get(2)?, expires_ms })
            })?;
            rows.collect()
        })
    }

    /// See [`super::super::Counters::save`].
    pub fn save(&mut self, rows: &[CounterRow]) -> Result<(), Failure> {
        self.with(|connection, gateway| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut statement = transaction.prepare_cached(
                "INSERT INTO limit_counters (gateway, id, \"limit\", identity, uses, expires_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (gateway, id) DO UPDATE SET uses = excluded.uses, expires_ms = excluded.expires_ms",
            )?;
            for row in rows {
                let expires = millis(row.expires_ms);
                statement.execute(params![gateway, row.id(), row.limit, row.identity, row.uses, expires])?;
            }
            drop(statement);
            transaction.commit()
        })
    }

    /// See [`super::super::Counters::remove_expired`].
    pub fn remove_expired(&mut self, now_ms: u64) -> Result<usize, Failure> {
        self.with(|connection, _| {
            connection.execute(
                "DELETE FROM limit_counters WHERE (gateway, id) IN
                   (SELECT gateway, id FROM limit_counters WHERE expires_ms <= ?1 LIMIT ?2)",
                params![millis(now_ms), CHUNK as i64],
            )
        })
    }

    fn with<T>(&mut self, call: impl FnOnce(&mut Connection, &str) -> Result<T, Error>) -> Result<T, Failure> {
        // A file that was moved away or removed is not written any more.
        if self.open.as_ref().is_some_and(|(_, file)| file_identity(&self.path) != Some(*file)) {
            self.open = None;
        }
        let (mut connection, file) = match self.open.take() {
            Some(open) => open,
            None => self.connect()?,
        };
        let done = call(&mut connection, &self.gateway).map_err(|error| failure(&self.path, &error))?;
        self.open = Some((connection, file)); // after a failure it is opened anew
        Ok(done)
    }

    fn connect(&self) -> Result<(Connection, (u64, u64)), Failure> {
        make_folder(&self.path).map_err(Failure::Denied)?;
        let open = || {
            let mut connection = connect(&self.path)?;
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            migrate::apply(&transaction)?;
            transaction.commit()?;
            Ok(connection)
        };
        let connection = open().map_err(|error| failure(&self.path, &error))?;
        Ok((connection, file_identity(&self.path).unwrap_or_default()))
    }
}

fn millis(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
