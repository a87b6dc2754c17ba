//! A MySQL or MariaDB server, read over one connection in one read-only transaction, which is one snapshot.
//! Blocks: the connection lives on a runtime of its own, because whoever asks has none, or may not wait on the one it has.
//! The password is in no message. Not here: which questions there are (`mod.rs`), and writing.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder, Params, Value as Sql};
use tokio::runtime::{Builder, Runtime};

use super::cells::{Cell, Cells, Row, timestamp};
use super::{EachRow, Source, Unreadable, Value};
use crate::store::Failure;
use crate::store::mysql::failure::failure;
use crate::store::row::Moment;

/// How long a server may take to let us in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Statements that the server ended because of their time limit: MariaDB, MySQL.
const TOO_LONG: [u16; 2] = [1969, 3024];

/// A connection in a transaction.
pub(super) struct Mysql {
    connection: Option<Conn>,
    /// `host:port/database`, for messages.
    server: String,
    time_max: Duration,
    deadline: Instant,
    runtime: Runtime,
}

impl Mysql {
    pub(super) fn open(url: &str, time_max: Duration) -> Result<Self, Unreadable> {
        let (options, server) = options(url, time_max)?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime
            .map_err(|error| Unreadable::Failed(format!("no runtime for the database's connection: {error}")))?;
        let connecting = async { tokio::time::timeout(CONNECT_TIMEOUT, Conn::new(options)).await };
        let connection = match runtime.block_on(connecting) {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(unreadable(&server, &error, time_max)),
            Err(_) => {
                let why = format!("{server}: no answer within {} s", CONNECT_TIMEOUT.as_secs());
                return Err(Unreadable::Failed(why));
            }
        };
        let deadline = Instant::now().checked_add(time_max).unwrap_or_else(Instant::now);
        let mut store = Self { connection: Some(connection), server, time_max, deadline, runtime };
        store.each("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY", &[], &mut |_| Ok(()))?;
        Ok(store)
    }
}

impl Source for Mysql {
    fn name(&self) -> String {
        self.server.clone()
    }

    fn tables(&self) -> &'static str {
        "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
    }

    fn join_in_order(&self) -> &'static str {
        "STRAIGHT_JOIN"
    }

    /// After an error the connection is gone.
    fn each(&mut self, sql: &str, values: &[Value], each: EachRow<'_>) -> Result<(), Unreadable> {
        let Some(mut connection) = self.connection.take() else {
            return Err(Unreadable::Failed(format!("{}: the connection was closed", self.server)));
        };
        let (server, time_max) = (&self.server, self.time_max);
        let failed = |error: Error| unreadable(server, &error, time_max);
        let asking = async {
            if values.is_empty() {
                let mut rows = connection.query_iter(sql).await.map_err(failed)?;
                while let Some(row) = rows.next().await.map_err(failed)? {
                    each(Row(&row))?;
                }
                return rows.drop_result().await.map_err(failed);
            }
            let values = Params::Positional(values.iter().map(bound).collect());
            let mut rows = connection.exec_iter(sql, values).await.map_err(failed)?;
            while let Some(row) = rows.next().await.map_err(failed)? {
                each(Row(&row))?;
            }
            rows.drop_result().await.map_err(failed)
        };
        let left = self.deadline.saturating_duration_since(Instant::now());
        let asked = self.runtime.block_on(async { tokio::time::timeout(left, asking).await });
        asked.unwrap_or(Err(Unreadable::TooLong(time_max)))?;
        self.connection = Some(connection);
        Ok(())
    }
}

impl Drop for Mysql {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // The server would find out by itself; this spares it an "aborted connection".
            let leaving = async { tokio::time::timeout(Duration::from_secs(1), connection.disconnect()).await };
            let _ = self.runtime.block_on(leaving);
        }
    }
}

fn options(url: &str, time_max: Duration) -> Result<(Opts, String), Unreadable> {
    // The driver's own error could quote the URL.
    let unreadable = || Unreadable::Failed("log.store: the URL can't be read".to_owned());
    let options = Opts::from_url(url).map_err(|_| unreadable())?;
    let database = options.db_name().ok_or_else(unreadable)?;
    let server = format!("{}:{}/{database}", options.ip_or_hostname(), options.tcp_port());
    // The server gives up by itself, too: nobody else would stop it. MariaDB reads the first comment, MySQL the second.
    let session = format!(
        "SET SESSION time_zone = '+00:00' /*M!100101 , SESSION max_statement_time = {} */ \
         /*!50704 , SESSION max_execution_time = {} */",
        time_max.as_secs().max(1),
        time_max.as_millis().max(1),
    );
    // By default the driver moves a loopback connection over to the server's socket, past what the URL says.
    let options = OptsBuilder::from_opts(options).prefer_socket(false).setup(vec![session]);
    Ok((options.into(), server))
}

fn unreadable(server: &str, error: &Error, time_max: Duration) -> Unreadable {
    match error {
        Error::Server(error) if TOO_LONG.contains(&error.code) => Unreadable::TooLong(time_max),
        error => match failure(server, error) {
            Failure::Away(message) | Failure::Denied(message) => Unreadable::Failed(message),
        },
    }
}

fn bound(value: &Value) -> Sql {
    match value {
        Value::Text(text) => text.into(),
        Value::Number(number) => number.into(),
        Value::Real(number) => number.into(),
        Value::Time(time) => date(Moment::of((*time).into())),
        Value::Minute(minute) => date(Moment::of(minute.time())),
        Value::Bytes(bytes) => Sql::Bytes(bytes.to_vec()),
    }
}

fn date(moment: Moment) -> Sql {
    let Moment { year, month, day, hour, minute, second, microsecond } = moment;
    Sql::Date(year, month, day, hour, minute, second, microsecond)
}

impl Cells for mysql_async::Row {
    fn cell(&self, place: usize) -> Cell<'_> {
        match self.as_ref(place) {
            Some(Sql::NULL) => Cell::Null,
            Some(Sql::UInt(number)) => Cell::Number(*number),
            Some(Sql::Int(number)) => u64::try_from(*number).map_or(Cell::Odd, Cell::Number),
            Some(Sql::Double(number)) => Cell::Real(*number),
            Some(Sql::Float(number)) => Cell::Real((*number).into()),
            Some(Sql::Bytes(bytes)) => Cell::Bytes(bytes),
            Some(Sql::Date(year, month, day, hour, minute, second, microsecond)) => {
                let [month, day, hour, minute, second] = [*month, *day, *hour, *minute, *second].map(i16::from);
                let date = i16::try_from(*year).map(|year| [year, month, day, hour, minute, second]);
                date.ok().and_then(|date| timestamp(date, *microsecond)).map_or(Cell::Odd, Cell::Time)
            }
            _ => Cell::Odd,
        }
    }
}
