//! The MySQL and MariaDB store: one connection, one transaction a batch. After any failure the connection is thrown away.
//! Every call has a time-out (`link.rs`). The password stays in the URL and is in no message.
//! The only folder that knows mysql_async.

mod counters;
pub(super) mod failure;
mod keys;
mod ledger;
mod link;
mod load;
mod migrate;
mod pack;
mod partitions;
mod rows;
mod upkeep;
mod usage;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mysql_async::{Opts, OptsBuilder};

use super::migrations::{MYSQL, newest};
use super::upkeep::Upkeep;
use super::usage::{Increments, Known};
use super::{Batch, Beat, Failure, Kept, Run, Stored};
use crate::config::Retention;

pub use counters::Counters;
pub use keys::Keys;
use link::Link;
pub use migrate::{probe, probe_connection};

/// What the session must be, whatever the server's defaults are: data that does not fit is an error, times are UTC.
const SESSION: &str = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE', \
                       SESSION time_zone = '+00:00', SESSION innodb_lock_wait_timeout = 5, SESSION lock_wait_timeout = 8";

/// Statements that stay prepared.
const STATEMENTS: usize = 64;

/// How long the end of a connection is waited for: it is a courtesy to the server.
const BYE_TIMEOUT: Duration = Duration::from_secs(1);

/// The store behind `log.store: mysql://...`.
pub struct Mysql {
    options: Opts,
    /// `host:port/database`, for messages.
    server: String,
    run: Run,
    open: Option<Open>,
    upkeep: Upkeep,
}

struct Open {
    link: Link,
    /// This run's number in this database.
    run: u32,
    ways: rows::Ways,
    known: Known,
}

impl Mysql {
    /// Reads the URL; asks nobody.
    ///
    /// # Errors
    /// The URL can't be read, or names no database.
    pub fn new(url: &str, run: Run) -> Result<Self, String> {
        let (options, server) = options(url)?;
        Ok(Self { options, server, run, open: None, upkeep: Upkeep::default() })
    }

    /// See [`super::Store::open`].
    pub async fn open(&mut self) -> Result<u32, Failure> {
        if let Some(open) = &self.open {
            return Ok(open.run);
        }
        let mut link = Link::open(&self.options, &self.server).await?;
        for line in migrate::apply(&mut link).await? {
            log::info!("request log: {}: {line}", self.server);
        }
        let run = ledger::run_row(&mut link, &self.run).await?.run;
        let packet: Option<u64> = link.first("SELECT @@max_allowed_packet", vec![]).await?;
        let packet = usize::try_from(packet.unwrap_or_default()).unwrap_or(usize::MAX);
        let ways = rows::Ways { may_load: true, statement_bytes_max: (packet / 2).clamp(16 << 10, 16 << 20) };
        Ok(self.open.insert(Open { link, run, ways, known: Known::default() }).run)
    }

    /// See [`super::Store::insert`].
    pub async fn insert(&mut self, batch: &Batch<'_>, beat: &Beat) -> Result<Stored, Failure> {
        let mut open = self.take().await?;
        let stored = ledger::insert(&mut open, &self.run, batch, beat).await?;
        self.open = Some(open);
        Ok(stored)
    }

    /// See [`super::Store::beat`].
    pub async fn beat(&mut self, beat: &Beat) -> Result<(), Failure> {
        let mut open = self.take().await?;
        ledger::beat(&mut open, beat).await?;
        self.open = Some(open);
        Ok(())
    }

    /// See [`super::Store::close`].
    pub async fn close(&mut self, beat: &Beat, unrecorded: &Increments<String>) -> Result<(), Failure> {
        let mut open = self.take().await?;
        ledger::close(&mut open, &self.run, beat, unrecorded).await?;
        // The server would find out by itself; this spares it an "aborted connection".
        let _ = link::timed_by(BYE_TIMEOUT, &self.server, open.link.connection.disconnect()).await;
        Ok(())
    }

    /// See [`super::Store::close_killed`].
    pub async fn close_killed(&mut self, run: &Run, last_known: &Beat) -> Result<(), Failure> {
        let mut open = self.take().await?;
        ledger::close_killed(&mut open, run, last_known).await?;
        self.open = Some(open);
        Ok(())
    }

    /// See [`super::Store::upkeep`].
    pub async fn upkeep(&mut self, retention: &Retention) -> Result<bool, Failure> {
        if self.upkeep.due().is_none() {
            return Ok(false);
        }
        let mut open = self.take().await?;
        let result = upkeep::step(&mut open, &mut self.upkeep, retention, SystemTime::now()).await;
        match result {
            Ok(_) => self.open = Some(open),
            Err(_) => self.upkeep.packing = None,
        }
        result
    }

    /// See [`super::Store::kept`].
    pub fn kept(&self) -> Option<Arc<Kept>> {
        self.upkeep.kept.clone()
    }

    /// The connection, taken out: a call that fails, or is cut off by a deadline, leaves none in doubt behind.
    async fn take(&mut self) -> Result<Open, Failure> {
        self.open().await?;
        self.open.take().ok_or_else(|| Failure::Away("not connected".to_owned()))
    }
}

/// Brings the tables up to date; see [`super::migrate`].
pub fn migrate(url: &str) -> Result<Vec<String>, String> {
    let (options, server) = options(url)?;
    ask(async {
        let mut link = Link::open(&options, &server).await?;
        let mut done = migrate::apply(&mut link).await?;
        if done.is_empty() {
            done.push(format!("nothing to do, version {} is applied", newest(MYSQL)));
        }
        Ok(done.into_iter().map(|line| format!("{server}: {line}")).collect())
    })
}

/// What a URL says, and how the server is called in messages.
pub(in crate::store) fn options(url: &str) -> Result<(Opts, String), String> {
    // The driver's own error could quote the URL.
    let options = Opts::from_url(url).map_err(|_| {
        "log.store: the URL can't be read; it looks like mysql://user:password@host:3306/database".to_owned()
    })?;
    let Some(database) = options.db_name() else {
        return Err("log.store: the URL names no database: mysql://user:password@host:3306/database".to_owned());
    };
    let server = format!("{}:{}/{database}", options.ip_or_hostname(), options.tcp_port());
    // By default the driver moves a loopback connection over to the server's socket, past what the URL says.
    let options = OptsBuilder::from_opts(options).prefer_socket(false).stmt_cache_size(STATEMENTS).setup(vec![SESSION]);
    Ok((options.into(), server))
}

/// Runs a question of a command that has no runtime of its own.
pub(in crate::store) fn ask<T>(question: impl Future<Output = Result<T, Failure>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime for the database's connection: {error}"))?;
    runtime.block_on(question).map_err(|failure| failure.message().to_owned())
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
}
