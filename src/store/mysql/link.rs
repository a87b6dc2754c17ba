//! A connection to the server: every call has a time-out, so that a server that hangs can't hang a shutdown.
//! After a failure nobody knows what the server did: the connection is thrown away, and with it its transaction.

use std::time::Duration;

use mysql_async::prelude::{FromValue, Queryable};
use mysql_async::{Conn, Opts, Params, Row, Value};

use super::super::{Failure, Moment};
use super::failure::{Meaning, failure, meaning};

/// How long the store waits for any one answer of the server.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may take to be made: shorter than the longest pause between two tries, so that a try that hangs does not
/// keep the store's return from being noticed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a change of a table may take: it copies all rows.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(3_600);

/// An open connection.
pub(super) struct Link {
    pub(super) connection: Conn,
    /// `host:port/database`, for messages.
    pub(super) server: String,
}

impl Link {
    /// Connects.
    pub(super) async fn open(options: &Opts, server: &str) -> Result<Self, Failure> {
        let connection = timed_by(CONNECT_TIMEOUT, server, Conn::new(options.clone())).await?;
        Ok(Self { connection, server: server.to_owned() })
    }

    /// A statement without values: it is not prepared.
    pub(super) async fn text(&mut self, sql: &str) -> Result<(), Failure> {
        timed(&self.server, self.connection.query_drop(sql)).await
    }

    /// The rows of a statement without values.
    pub(super) async fn text_rows(&mut self, sql: &str) -> Result<Vec<Row>, Failure> {
        timed(&self.server, self.connection.query(sql)).await
    }

    /// A statement; how many rows it changed.
    pub(super) async fn run(&mut self, sql: &str, values: Vec<Value>) -> Result<u64, Failure> {
        timed(&self.server, self.connection.exec_drop(sql, Params::Positional(values))).await?;
        Ok(self.connection.affected_rows())
    }

    /// A statement that may fail because of what a row holds: then, the number of the error.
    pub(super) async fn attempt(&mut self, sql: &str, values: Vec<Value>) -> Result<Option<u16>, Failure> {
        let call = self.connection.exec_drop(sql, Params::Positional(values));
        let result = within(CALL_TIMEOUT, &self.server, call).await?;
        self.fault_of_row(result)
    }

    /// The same without values.
    pub(super) async fn attempt_text(&mut self, sql: &str) -> Result<Option<u16>, Failure> {
        let result = within(CALL_TIMEOUT, &self.server, self.connection.query_drop(sql)).await?;
        self.fault_of_row(result)
    }

    fn fault_of_row(&self, result: mysql_async::Result<()>) -> Result<Option<u16>, Failure> {
        match result {
            Err(mysql_async::Error::Server(error)) if meaning(error.code) == Meaning::Row => Ok(Some(error.code)),
            result => result.map(|()| None).map_err(|error| failure(&self.server, &error)),
        }
    }

    /// A change of a table: the server's error and its text, if it refuses.
    pub(super) async fn change(&mut self, sql: &str) -> Result<Result<(), (u16, String)>, Failure> {
        let call = self.connection.query_drop(sql);
        match within(CHANGE_TIMEOUT, &self.server, call).await? {
            Err(mysql_async::Error::Server(error)) => Ok(Err((error.code, error.message))),
            result => result.map(Ok).map_err(|error| failure(&self.server, &error)),
        }
    }

    /// The rows of a query.
    pub(super) async fn rows(&mut self, sql: &str, values: Vec<Value>) -> Result<Vec<Row>, Failure> {
        let values = if values.is_empty() { Params::Empty } else { Params::Positional(values) };
        timed(&self.server, self.connection.exec(sql, values)).await
    }

    /// The first row of a query.
    pub(super) async fn row(&mut self, sql: &str, values: Vec<Value>) -> Result<Option<Row>, Failure> {
        Ok(self.rows(sql, values).await?.into_iter().next())
    }

    /// The first value of the first row; none where there is none, or it is NULL.
    pub(super) async fn first<T: FromValue>(&mut self, sql: &str, values: Vec<Value>) -> Result<Option<T>, Failure> {
        Ok(self.row(sql, values).await?.and_then(|row| value(&row, 0)))
    }
}

/// A call of the driver, by the usual time-out.
pub(in crate::store) async fn timed<T>(
    server: &str,
    call: impl Future<Output = mysql_async::Result<T>>,
) -> Result<T, Failure> {
    timed_by(CALL_TIMEOUT, server, call).await
}

/// A call of the driver, by a time-out of its own.
pub(in crate::store) async fn timed_by<T>(
    limit: Duration,
    server: &str,
    call: impl Future<Output = mysql_async::Result<T>>,
) -> Result<T, Failure> {
    within(limit, server, call).await?.map_err(|error| failure(server, &error))
}

pub(super) async fn within<T>(limit: Duration, server: &str, call: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(limit, call)
        .await
        .map_err(|_| Failure::Away(format!("{server}: no answer within {} s", limit.as_secs())))
}

/// A column of a row; none for NULL, and for what is of another type.
pub(in crate::store) fn value<T: FromValue>(row: &Row, index: usize) -> Option<T> {
    row.get_opt(index).and_then(Result::ok)
}

/// A time as a value of a statement.
pub(in crate::store) fn date(moment: Moment) -> Value {
    let Moment { year, month, day, hour, minute, second, microsecond } = moment;
    Value::Date(year, month, day, hour, minute, second, microsecond)
}
