//! Counts of limits in a SQLite file; see [`super::super::Counters`]. After any failure the file is opened anew.
//! Not here: what a row means, and when it is written.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_in_parts_and_go_when_they_expire() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/log.db");
        let mut counters = Counters::new(path.clone(), "a".to_owned());
        let row = |n: u64| CounterRow {
            limit: "route /a ip-3600s".to_owned(),
            identity: format!("ip:10.0.{}.{}", n / 256, n % 256),
            uses: "1:1000000".to_owned(),
            expires_ms: 1_000 + n,
        };
        let rows: Vec<CounterRow> = (0..1_200).map(row).collect();
        rows.chunks(CHUNK).for_each(|chunk| counters.save(chunk).unwrap());
        counters.save(&[CounterRow { uses: "2:2000000".to_owned(), ..row(7) }]).unwrap();
        let all = |counters: &mut Counters, now_ms| {
            let (mut after, mut found) = ([0; 16], Vec::new());
            loop {
                let part = counters.load(after, now_ms).unwrap();
                after = part.last().map(CounterRow::id).unwrap_or_default();
                let is_last = part.len() < CHUNK;
                found.extend(part);
                if is_last {
                    return found;
                }
            }
        };
        let found = all(&mut counters, 999);
        assert_eq!(found.len(), 1_200);
        assert!(found.iter().any(|one| one.uses == "2:2000000" && one.identity == "ip:10.0.0.7"));
        assert_eq!(all(&mut counters, 1_999).len(), 200);
        assert!(all(&mut Counters::new(path.clone(), "b".to_owned()), 0).is_empty(), "another gateway's");
        let removed: Vec<usize> = (0..4).map(|_| counters.remove_expired(1_999).unwrap()).collect();
        assert_eq!(removed, [500, 500, 0, 0]);
        // A file that was removed is made anew.
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", path.display()));
        }
        assert!(all(&mut counters, 0).is_empty());
        counters.save(&rows[..1]).unwrap();
        assert_eq!(all(&mut counters, 0), rows[..1]);
    }
}
