//! The MySQL and MariaDB store: one connection, multi-row INSERTs, one transaction a batch.
//! Every call has a time-out, so that a server that hangs can't hang a shutdown; after any failure the connection is
//! thrown away. The password stays in the URL and is in no message. The only file, with `mysql_failure.rs`, that knows
//! mysql_async.

use std::time::{Duration, SystemTime};

use mysql_async::prelude::{FromValue, Queryable};
use mysql_async::{Conn, Opts, OptsBuilder, Params, TxOpts, Value};

use super::mysql_failure::{Meaning, failure, meaning};
use super::row::{Moment, Row, address_bytes};
use super::{Batch, COLUMNS, EndpointUsage, Failure, Rejected, Run, TABLES, Totals, usage_sql};

const SCHEMA: &str = include_str!("../../conf/sql/mysql.sql");

/// How long the store waits for any one answer of the server.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a report may take: it reads many rows.
const REPORT_TIMEOUT: Duration = Duration::from_secs(600);

/// Rows of one INSERT: powers of two up to this, so that a connection prepares few statements. A statement takes at
/// most 65,535 values.
const STATEMENT_ROWS_MAX: usize = 1_024;

/// What the session must be, whatever the server's defaults are: data that does not fit is an error, times are UTC.
const SESSION: &str = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE', \
                       SESSION time_zone = '+00:00', SESSION innodb_lock_wait_timeout = 5";

/// The store behind `log.store: mysql://...`.
pub struct Mysql {
    options: Opts,
    /// `host:port/database`, for messages.
    server: String,
    run: Run,
    open: Option<Open>,
}

struct Open {
    connection: Conn,
    /// This run's number in this database.
    run: u32,
    /// Bytes of one INSERT, well below the server's `max_allowed_packet`.
    statement_bytes_max: usize,
}

impl Mysql {
    /// Reads the URL; asks nobody.
    ///
    /// # Errors
    /// The URL can't be read, or names no database.
    pub fn new(url: &str, run: Run) -> Result<Self, String> {
        let (options, server) = options(url)?;
        Ok(Self { options, server, run, open: None })
    }

    /// See [`super::Store::open`].
    pub async fn open(&mut self) -> Result<u32, Failure> {
        if let Some(open) = &self.open {
            return Ok(open.run);
        }
        let mut connection = connect(&self.options, &self.server).await?;
        let opened = timed(&self.server, prepare(&mut connection, &self.run)).await;
        let (run, packet_bytes_max) = opened?;
        let statement_bytes_max = (packet_bytes_max / 2).clamp(16 << 10, 16 << 20);
        Ok(self.open.insert(Open { connection, run, statement_bytes_max }).run)
    }

    /// See [`super::Store::insert`].
    pub async fn insert(&mut self, batch: &Batch) -> Result<Vec<Rejected>, Failure> {
        self.open().await?;
        // Taken out: a call that fails, or is cut off by a deadline, leaves no connection in doubt behind.
        let Some(mut open) = self.open.take() else { return Err(Failure::Away("not connected".to_owned())) };
        let rows: Vec<Row<'_>> = batch.records.iter().map(|record| Row::of(record, self.run.client_ip)).collect();
        let rejected = insert(&mut open, &self.server, batch.first, &rows).await?;
        self.open = Some(open);
        Ok(rejected)
    }

    /// See [`super::Store::close`].
    pub async fn close(&mut self, totals: Totals) -> Result<(), Failure> {
        self.open().await?;
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let Totals { accepted, written, dropped } = totals;
        let now = date(Moment::of(SystemTime::now()));
        let values = vec![now.clone(), now, accepted.into(), written.into(), dropped.into(), open.run.into()];
        timed(
            &self.server,
            open.connection.exec_drop(
                "UPDATE log_runs SET beat_at = ?, closed_at = ?, accepted = ?, written = ?, dropped = ? WHERE run = ?",
                Params::Positional(values),
            ),
        )
        .await?;
        // The server would find out by itself; this spares it an "aborted connection".
        let _ = timed(&self.server, open.connection.disconnect()).await;
        Ok(())
    }
}

fn options(url: &str) -> Result<(Opts, String), String> {
    // The driver's own error could quote the URL.
    let options = Opts::from_url(url).map_err(|_| {
        "log.store: the URL can't be read; it looks like mysql://user:password@host:3306/database".to_owned()
    })?;
    let Some(database) = options.db_name() else {
        return Err("log.store: the URL names no database: mysql://user:password@host:3306/database".to_owned());
    };
    let server = format!("{}:{}/{database}", options.ip_or_hostname(), options.tcp_port());
    // By default the driver moves a loopback connection over to the server's socket, past what the URL says.
    let options = OptsBuilder::from_opts(options).prefer_socket(false).setup(vec![SESSION]);
    Ok((options.into(), server))
}

async fn timed<T>(server: &str, call: impl Future<Output = mysql_async::Result<T>>) -> Result<T, Failure> {
    timed_by(CALL_TIMEOUT, server, call).await
}

async fn timed_by<T>(
    limit: Duration,
    server: &str,
    call: impl Future<Output = mysql_async::Result<T>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result.map_err(|error| failure(server, &error)),
        Err(_) => Err(Failure::Away(format!("{server}: no answer within {} s", limit.as_secs()))),
    }
}

async fn connect(options: &Opts, server: &str) -> Result<Conn, Failure> {
    timed(server, Conn::new(options.clone())).await
}

/// Creates what is missing and gives the run its number; the number, and the server's `max_allowed_packet`.
async fn prepare(connection: &mut Conn, run: &Run) -> mysql_async::Result<(u32, usize)> {
    if !missing(connection, &TABLES).await?.is_empty() {
        for statement in statements().filter(|statement| statement.starts_with("CREATE TABLE")) {
            connection.query_drop(statement).await?;
        }
    }
    if !missing(connection, &["api_logs_readable"]).await?.is_empty() {
        for statement in statements().filter(|statement| statement.starts_with("CREATE VIEW")) {
            // The log works without it; another gateway may have been faster.
            match connection.query_drop(statement).await {
                Err(mysql_async::Error::Server(error)) if error.code != 1050 => {
                    log::warn!("request log: the view api_logs_readable can't be created: error {}", error.code);
                }
                result => result?,
            }
        }
    }
    let started = date(Moment::of(run.started));
    let id = Value::Bytes(run.id.as_bytes().to_vec());
    let values = vec![id.clone(), run.node.as_str().into(), run.version.as_str().into(), started.clone(), started];
    let insert = "INSERT INTO log_runs (run_id, node, version, started_at, beat_at) VALUES (?, ?, ?, ?, ?)
                  ON DUPLICATE KEY UPDATE run = run";
    let select = "SELECT run FROM log_runs WHERE run_id = ?";
    // Asked first, because an INSERT that meets a duplicate would use up a number.
    let mut number = first(connection, select, vec![id.clone()]).await?;
    if number.is_none() {
        connection.exec_drop(insert, Params::Positional(values)).await?;
        number = first(connection, select, vec![id]).await?;
    }
    let packet: Option<u64> = first(connection, "SELECT @@max_allowed_packet", vec![]).await?;
    let packet = usize::try_from(packet.unwrap_or_default()).unwrap_or(usize::MAX);
    let number = number.ok_or(mysql_async::Error::Driver(mysql_async::DriverError::ConnectionClosed))?;
    Ok((number, packet))
}

/// The first value of the first row.
async fn first<T: FromValue>(connection: &mut Conn, sql: &str, values: Vec<Value>) -> mysql_async::Result<Option<T>> {
    let values = if values.is_empty() { Params::Empty } else { Params::Positional(values) };
    let row: Option<mysql_async::Row> = connection.exec_first(sql, values).await?;
    Ok(row.and_then(|row| row.get_opt(0)).and_then(Result::ok))
}

/// The statements of the schema, without comments.
fn statements() -> impl Iterator<Item = &'static str> {
    SCHEMA.split(";\n").map(|part| {
        let comments: usize = part
            .split_inclusive('\n')
            .take_while(|line| line.starts_with("--") || line.trim().is_empty())
            .map(str::len)
            .sum();
        part[comments..].trim()
    })
}

async fn missing<'a>(connection: &mut Conn, names: &[&'a str]) -> mysql_async::Result<Vec<&'a str>> {
    let sql = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?";
    let mut missing = Vec::new();
    for name in names {
        let count: Option<u64> = first(connection, sql, vec![(*name).into()]).await?;
        if count.unwrap_or_default() == 0 {
            missing.push(*name);
        }
    }
    Ok(missing)
}

async fn insert(open: &mut Open, server: &str, first: u64, rows: &[Row<'_>]) -> Result<Vec<Rejected>, Failure> {
    let mut transaction = timed(server, open.connection.start_transaction(TxOpts::default())).await?;
    let mut rejected = Vec::new();
    // Parts yet to be sent, the next one last. A part with a bad row is halved; a refused statement undoes itself only,
    // so the transaction goes on.
    let mut parts: Vec<(u64, &[Row<'_>])> = vec![(first, rows)];
    while let Some((first, rows)) = parts.pop() {
        let count = statement_rows(rows, open.statement_bytes_max);
        let (now, later) = rows.split_at(count);
        let later_first = first.saturating_add(count as u64);
        if !later.is_empty() {
            parts.push((later_first, later));
        }
        let values = now.iter().zip(first..).flat_map(|(row, sequence)| values(row, open.run, sequence)).collect();
        let call = transaction.exec_drop(insert_sql(count), Params::Positional(values));
        let result = match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(result) => result,
            Err(_) => return Err(Failure::Away(format!("{server}: no answer within {} s", CALL_TIMEOUT.as_secs()))),
        };
        match result {
            Ok(()) => {}
            Err(mysql_async::Error::Server(error)) if meaning(error.code) == Meaning::Row => {
                if now.len() == 1 {
                    rejected.push(Rejected { sequence: first, code: format!("MySQL error {}", error.code) });
                } else {
                    let (left, right) = now.split_at(now.len() / 2);
                    parts.push((first.saturating_add(left.len() as u64), right));
                    parts.push((first, left));
                }
            }
            Err(error) => return Err(failure(server, &error)),
        }
    }
    timed(server, transaction.commit()).await?;
    Ok(rejected)
}

/// How many of these rows, at least one, go into one statement: a power of two within the bounds.
fn statement_rows(rows: &[Row<'_>], bytes_max: usize) -> usize {
    let mut bytes = 0_usize;
    let fitting = rows
        .iter()
        .take(STATEMENT_ROWS_MAX)
        .take_while(|row| {
            bytes = bytes.saturating_add(row.bytes_max());
            bytes <= bytes_max
        })
        .count();
    1 << fitting.max(1).ilog2()
}

fn insert_sql(rows: usize) -> String {
    let row = format!("({})", vec!["?"; COLUMNS.len()].join(","));
    // Not INSERT IGNORE, which would also store what does not fit, cut or changed.
    format!(
        "INSERT INTO api_logs (`{}`) VALUES {} ON DUPLICATE KEY UPDATE `run` = `run`",
        COLUMNS.join("`,`"),
        vec![row; rows].join(",")
    )
}

fn values(row: &Row<'_>, run: u32, sequence: u64) -> [Value; COLUMNS.len()] {
    let mut room = [0; 16];
    let client_ip = row.client_ip.map(|address| address_bytes(address, &mut room));
    [
        date(row.timestamp),
        row.endpoint.into(),
        row.http_method.into(),
        row.status_code.into(),
        row.response_time_ms.into(),
        row.is_error.into(),
        run.into(),
        sequence.into(),
        row.request_id.as_slice().into(),
        row.client_request_id.into(),
        row.host.into(),
        row.path.into(),
        row.protocol.into(),
        row.consumer.into(),
        row.key.into(),
        client_ip.into(),
        row.service.into(),
        row.instance.into(),
        row.attempts.into(),
        row.upstream_ms.into(),
        row.cache.into(),
        row.decided_by.into(),
        row.limit_name.into(),
        row.observed.into(),
        row.bytes_in.into(),
        row.bytes_out.into(),
        row.user_agent.into(),
        row.generation.into(),
    ]
}

fn date(moment: Moment) -> Value {
    let Moment { year, month, day, hour, minute, second, microsecond } = moment;
    Value::Date(year, month, day, hour, minute, second, microsecond)
}

/// Runs a question of a command that has no runtime of its own.
fn ask<T>(question: impl Future<Output = Result<T, Failure>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime for the database's connection: {error}"))?;
    runtime.block_on(question).map_err(|failure| failure.message().to_owned())
}

/// What is there, without changing anything; see [`super::probe`].
pub fn probe(url: &str) -> Result<Vec<String>, String> {
    let (options, server) = options(url)?;
    let (found, lacking) = ask(async {
        let mut connection = connect(&options, &server).await?;
        timed(&server, look(&mut connection, &server)).await
    })?;
    if lacking.is_empty() { Ok(found) } else { Err(format!("{server}: {}", lacking.join("; "))) }
}

/// What was found, and what is lacking.
async fn look(connection: &mut Conn, server: &str) -> mysql_async::Result<(Vec<String>, Vec<String>)> {
    let version: Option<String> = first(connection, "SELECT VERSION()", vec![]).await?;
    let mut found = vec![format!("{server}: connected, version {}", version.unwrap_or_default())];
    let mut lacking = Vec::new();
    let missing = missing(connection, &TABLES).await?;
    if missing.is_empty() {
        // Explaining a statement needs the rights of the statement, and changes nothing.
        for (right, statement) in [
            ("SELECT on api_logs", "EXPLAIN SELECT run FROM api_logs"),
            ("INSERT on api_logs", "EXPLAIN INSERT INTO api_logs SELECT * FROM api_logs"),
            ("UPDATE on api_logs", "EXPLAIN UPDATE api_logs SET run = 0 WHERE run = 0"),
            ("SELECT on log_runs", "EXPLAIN SELECT run FROM log_runs"),
            ("INSERT on log_runs", "EXPLAIN INSERT INTO log_runs SELECT * FROM log_runs"),
            ("UPDATE on log_runs", "EXPLAIN UPDATE log_runs SET run = 0 WHERE run = 0"),
        ] {
            match connection.query_drop(statement).await {
                Ok(()) => {}
                Err(mysql_async::Error::Server(error)) if meaning(error.code) == Meaning::Denied => {
                    lacking.push(format!("the right {right} is missing (error {})", error.code));
                }
                Err(error) => return Err(error),
            }
        }
        return Ok((found, lacking));
    }
    let grants: Vec<mysql_async::Row> = connection.query("SHOW GRANTS").await?;
    let grants: Vec<String> =
        grants.iter().filter_map(|row| row.get_opt::<String, usize>(0)).filter_map(Result::ok).collect();
    if may_create(&grants) {
        found.push(format!("tables {} do not exist yet: start creates them", missing.join(", ")));
    } else {
        lacking.push(format!(
            "tables {} do not exist, and this user has no right to CREATE: run conf/sql/mysql.sql as another",
            missing.join(", ")
        ));
    }
    Ok((found, lacking))
}

/// Whether one of the grants, or a role that can't be looked into, may hold CREATE.
fn may_create(grants: &[String]) -> bool {
    grants.iter().any(|grant| {
        let rights = grant.strip_prefix("GRANT ").unwrap_or(grant);
        match rights.split_once(" ON ") {
            Some((rights, _)) => {
                rights.split(',').map(str::trim).any(|right| right == "CREATE" || right == "ALL PRIVILEGES")
            }
            None => true,
        }
    })
}

/// Usage per endpoint and in all; see [`super::usage`].
pub fn usage(url: &str, from: Moment, to: Moment) -> Result<Vec<EndpointUsage>, String> {
    let (options, server) = options(url)?;
    let rows = ask(async {
        let mut connection = connect(&options, &server).await?;
        timed_by(REPORT_TIMEOUT, &server, read_usage(&mut connection, from, to)).await
    })?;
    rows.ok_or_else(|| format!("{server}: there is no request log yet: `tollgate run` creates its tables"))
}

async fn read_usage(
    connection: &mut Conn,
    from: Moment,
    to: Moment,
) -> mysql_async::Result<Option<Vec<EndpointUsage>>> {
    if !missing(connection, &["api_logs"]).await?.is_empty() {
        return Ok(None);
    }
    // One snapshot: the endpoints and the totals are of the same moment.
    let mut options = TxOpts::default();
    options.with_consistent_snapshot(true).with_readonly(true);
    let mut transaction = connection.start_transaction(options).await?;
    let mut all = Vec::new();
    for by in ["endpoint", "NULL"] {
        let window = Params::Positional(vec![date(from), date(to)]);
        let rows: Vec<mysql_async::Row> = transaction.exec(usage_sql(by), window).await?;
        all.extend(rows.iter().map(|row| EndpointUsage {
            endpoint: value(row, 0),
            requests: value(row, 1).unwrap_or_default(),
            errors: value::<String>(row, 2).and_then(|number| number.parse().ok()).unwrap_or_default(),
            mean_ms: value(row, 3).unwrap_or_default(),
            p95_ms: value(row, 4).unwrap_or_default(),
        }));
    }
    transaction.rollback().await?;
    Ok(Some(all))
}

fn value<T: FromValue>(row: &mysql_async::Row, index: usize) -> Option<T> {
    row.get_opt(index).and_then(Result::ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_in_no_message() {
        let run = || Run {
            id: uuid::Uuid::nil(),
            node: String::new(),
            version: String::new(),
            started: SystemTime::UNIX_EPOCH,
            client_ip: crate::config::ClientIp::Full,
        };
        for url in
            ["mysql://user:s3cret@[bad/db", "mysql://user:s3cret@host", "mysql://user:s3cret@host/db?nonsense=s3cret"]
        {
            let message = Mysql::new(url, run()).err().unwrap();
            assert!(!message.contains("s3cret"), "{message}");
        }
        let store = Mysql::new("mysql://user:s3cret@db.example/tollgate", run()).unwrap();
        assert_eq!(store.server, "db.example:3306/tollgate");
        assert!(!store.options.prefer_socket());
    }

    #[test]
    fn the_schema_falls_into_its_statements() {
        let kinds: Vec<_> = statements().map(|text| text.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(kinds, ["CREATE TABLE", "CREATE TABLE", "CREATE VIEW", ""]);
    }

    #[test]
    fn create_is_found_among_the_grants() {
        let check = |grant: &str| may_create(&[grant.to_owned()]);
        assert!(check("GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost`"));
        assert!(check("GRANT SELECT, INSERT, CREATE ON `tollgate`.* TO `a`@`%`"));
        assert!(!check("GRANT SELECT, CREATE VIEW ON `tollgate`.* TO `a`@`%`"));
        assert!(!check("GRANT USAGE ON *.* TO `a`@`%`"));
    }
}
