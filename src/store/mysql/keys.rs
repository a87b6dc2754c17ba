//! Keys in a MySQL or MariaDB database: the one of the request log, or one of its own. See [`super::super::keys`].
//! Calls block on a runtime of their own; after a failure the connection is thrown away.

use std::time::Duration;

use jiff::Timestamp;
use mysql_async::{Opts, Row, Value};
use tokio::runtime::Runtime;

use super::super::Failure;
use super::super::keys::{Cell, Change, KeyRow, SELECT, StoredKey, StoredKeys, Unchanged, statements};
use super::super::migrations::MYSQL_KEYS;
use super::link::{Link, value, within};
use super::{migrate, options};

/// How long a whole question may take. Gateways ask for the stamp every second, and a revocation has to arrive.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the tables, or all keys, may take.
const LONG_TIMEOUT: Duration = Duration::from_secs(30);

/// A database with keys.
pub struct Keys {
    runtime: Runtime,
    options: Opts,
    server: String,
    link: Option<Link>,
}

impl Keys {
    pub(in crate::store) fn open(url: &str) -> Result<Self, Failure> {
        let (options, server) = options(url).map_err(|why| Failure::Denied(why.replace("log.store", "key_store")))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Away(format!("no runtime for the connection: {error}")))?;
        let mut keys = Self { runtime, options, server, link: None };
        keys.with(LONG_TIMEOUT, async |link| migrate::apply_only(link, MYSQL_KEYS).await)?;
        Ok(keys)
    }

    pub(in crate::store) fn stamp(&mut self) -> Result<String, Failure> {
        self.with(CALL_TIMEOUT, stamp)
    }

    pub(in crate::store) fn read(&mut self) -> Result<StoredKeys, Failure> {
        self.with(LONG_TIMEOUT, async |link| {
            link.text("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await?;
            let read = StoredKeys { stamp: stamp(link).await?, keys: keys(link).await? };
            link.text("COMMIT").await?;
            Ok(read)
        })
    }

    pub(in crate::store) fn change<T>(
        &mut self,
        may: impl FnOnce(&[StoredKey]) -> Result<(Vec<Change>, T), String>,
    ) -> Result<T, Unchanged> {
        let changed = self.with(LONG_TIMEOUT, async |link| {
            link.text("START TRANSACTION").await?;
            // One change at a time: what `may` looks at is still so when it is written.
            link.text_rows("SELECT id FROM key_changes WHERE id = 1 FOR UPDATE").await?;
            let (changes, outcome) = match may(&keys(link).await?) {
                Ok(may) => may,
                Err(why) => {
                    link.text("ROLLBACK").await?;
                    return Ok(Err(why));
                }
            };
            for statement in statements(changes, Timestamp::now()) {
                link.run(statement.sql, statement.values.into_iter().map(Value::from).collect()).await?;
            }
            link.text("COMMIT").await?;
            Ok(Ok(outcome))
        })?;
        changed.map_err(Unchanged::No)
    }

    /// The connection is taken out meanwhile: a call that fails leaves none in doubt behind.
    fn with<T>(
        &mut self,
        limit: Duration,
        call: impl AsyncFnOnce(&mut Link) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Self { runtime, options, server, link } = self;
        let taken = link.take();
        let (kept, outcome) = runtime.block_on(within(limit, server, async {
            let mut link = match taken {
                Some(link) => link,
                None => Link::open(options, server).await?,
            };
            let outcome = call(&mut link).await?;
            Ok::<_, Failure>((link, outcome))
        }))??;
        *link = Some(kept);
        Ok(outcome)
    }
}

impl From<Cell> for Value {
    fn from(cell: Cell) -> Self {
        match cell {
            Cell::Text(text) => text.into(),
            Cell::Number(number) => number.into(),
            Cell::Nothing => Self::NULL,
        }
    }
}

async fn stamp(link: &mut Link) -> Result<String, Failure> {
    let stamp = link.first("SELECT stamp FROM key_changes WHERE id = 1", vec![]).await?;
    stamp.ok_or_else(|| Failure::Denied(format!("{}: key_changes has lost its row", link.server)))
}

async fn keys(link: &mut Link) -> Result<Vec<StoredKey>, Failure> {
    let server = link.server.clone();
    let bad = || Failure::Denied(format!("{server}: api_keys has a row that can't be read"));
    link.rows(SELECT, vec![]).await?.iter().map(|row| key_row(row).ok_or_else(bad)?.key()).collect()
}

fn key_row(row: &Row) -> Option<KeyRow> {
    Some(KeyRow {
        name: value(row, 0)?,
        consumer: value(row, 1)?,
        sha256: value(row, 2)?,
        plan: value(row, 3),
        labels: value(row, 4),
        created: value(row, 5)?,
        expires: value(row, 6),
        revoked: value(row, 7),
        weak: value::<i64>(row, 8)? != 0,
    })
}
