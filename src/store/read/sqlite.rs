//! A SQLite file, opened read-only: one transaction of WAL mode is one snapshot, and no writer waits for it.
//! Not here: which questions there are (`mod.rs`), and writing.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, Value as Sql, ValueRef};
use rusqlite::{Connection, Error, ErrorCode, InterruptHandle, OpenFlags};

use super::cells::{Cell, Cells, Row};
use super::{EachRow, Source, Unreadable, Value};
use crate::store::row::Moment;

/// How long a question waits for another program's lock: in WAL mode only while the file is being set up.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// An open file.
pub(super) struct Sqlite {
    connection: Connection,
    path: PathBuf,
    time_max: Duration,
    _watch: mpsc::Sender<()>,
}

impl Sqlite {
    pub(super) fn open(path: &Path, time_max: Duration) -> Result<Self, Unreadable> {
        if !path.exists() {
            let why = format!("there is no request log at {} yet: `tollgate run` creates it", path.display());
            return Err(Unreadable::Absent(why));
        }
        let text = |error: Error| Unreadable::Failed(format!("{}: {error}", path.display()));
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(text)?;
        connection.busy_timeout(LOCK_TIMEOUT).map_err(text)?;
        let watch = watch(connection.get_interrupt_handle(), time_max);
        connection.execute_batch("BEGIN").map_err(text)?;
        Ok(Self { connection, path: path.to_owned(), time_max, _watch: watch })
    }

    fn failed(&self, error: &Error) -> Unreadable {
        if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) {
            return Unreadable::TooLong(self.time_max);
        }
        Unreadable::Failed(format!("{}: {error}", self.path.display()))
    }
}

impl Source for Sqlite {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn tables(&self) -> &'static str {
        "SELECT name FROM sqlite_schema WHERE type = 'table'"
    }

    fn join_in_order(&self) -> &'static str {
        "CROSS JOIN"
    }

    fn each(&mut self, sql: &str, values: &[Value], each: EachRow<'_>) -> Result<(), Unreadable> {
        let failed = |error: Error| self.failed(&error);
        let mut statement = self.connection.prepare(sql).map_err(failed)?;
        let mut rows = statement.query(rusqlite::params_from_iter(values)).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            each(Row(row))?;
        }
        Ok(())
    }
}

/// Interrupts whatever runs after `time_max`, until the sender is gone.
fn watch(handle: InterruptHandle, time_max: Duration) -> mpsc::Sender<()> {
    let (sender, gone) = mpsc::channel::<()>();
    let watch = move || {
        let mut wait = time_max;
        while gone.recv_timeout(wait) == Err(mpsc::RecvTimeoutError::Timeout) {
            handle.interrupt();
            // Again: it ends only what runs at that moment.
            wait = Duration::from_millis(100);
        }
    };
    // Without a thread the question has no bound; the lesser evil.
    if let Err(error) = std::thread::Builder::new().name("read-bound".to_owned()).spawn(watch) {
        log::warn!("request log: a question has no time bound: {error}");
    }
    sender
}

impl Cells for rusqlite::Row<'_> {
    fn cell(&self, place: usize) -> Cell<'_> {
        match self.get_ref(place) {
            Ok(ValueRef::Null) => Cell::Null,
            Ok(ValueRef::Integer(number)) => u64::try_from(number).map_or(Cell::Odd, Cell::Number),
            Ok(ValueRef::Real(number)) => Cell::Real(number),
            Ok(ValueRef::Text(bytes) | ValueRef::Blob(bytes)) => Cell::Bytes(bytes),
            Err(_) => Cell::Odd,
        }
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Number(number) => ToSqlOutput::Owned(Sql::Integer(*number)),
            Self::Real(number) => ToSqlOutput::Owned(Sql::Real(*number)),
            Self::Time(time) => ToSqlOutput::Owned(Sql::Text(Moment::of((*time).into()).to_string())),
            // As the roll-ups have it: without parts of a second.
            Self::Minute(minute) => {
                let mut text = Moment::of(minute.time()).to_string();
                text.truncate("2026-03-01 12:30:00".len());
                ToSqlOutput::Owned(Sql::Text(text))
            }
            Self::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_ends_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        let mut store = Sqlite::open(&path, Duration::from_millis(50)).unwrap();
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0";
        let result = store.each(endless, &[], &mut |_| Ok(()));
        assert_eq!(result, Err(Unreadable::TooLong(Duration::from_millis(50))));
    }
}
