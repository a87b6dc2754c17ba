//! Counts of limits in MySQL or MariaDB; see [`super::super::Counters`]. After any failure the connection is thrown away.
//! Not here: what a row means, and when it is written.

use mysql_async::{Opts, Value};

use super::super::Failure;
use super::super::counters::{CHUNK, CounterId, CounterRow};
use super::link::{Link, value};
use super::{migrate, options};

/// The counters of one gateway in a database.
pub struct Counters {
    options: Opts,
    server: String,
    gateway: String,
    open: Option<Link>,
}

impl Counters {
    /// Reads the URL; asks nobody.
    ///
    /// # Errors
    /// The URL can't be read, or names no database.
    pub fn new(url: &str, gateway: String) -> Result<Self, String> {
        let (options, server) = options(url)?;
        Ok(Self { options, server, gateway, open: None })
    }

    /// See [`super::super::Counters::load`].
    pub async fn load(&mut self, after: CounterId, now_ms: u64) -> Result<Vec<CounterRow>, Failure> {
        let mut link = self.take().await?;
        let sql = "SELECT `limit`, identity, uses, expires_ms FROM limit_counters
                   WHERE gateway = ? AND id > ? AND expires_ms > ? ORDER BY id LIMIT ?";
        let values = vec![self.gateway.as_str().into(), after.as_slice().into(), now_ms.into(), CHUNK.into()];
        let rows = link.rows(sql, values).await?;
        self.open = Some(link);
        let row = |row: &mysql_async::Row| {
            let (limit, identity, uses) = (value(row, 0)?, value(row, 1)?, value(row, 2)?);
            Some(CounterRow { limit, identity, uses, expires_ms: value(row, 3)? })
        };
        Ok(rows.iter().filter_map(row).collect())
    }

    /// See [`super::super::Counters::save`].
    pub async fn save(&mut self, rows: &[CounterRow]) -> Result<(), Failure> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut link = self.take().await?;
        let places = vec!["(?, ?, ?, ?, ?, ?)"; rows.len()].join(", ");
        let sql = format!(
            "INSERT INTO limit_counters (gateway, id, `limit`, identity, uses, expires_ms) VALUES {places}
             ON DUPLICATE KEY UPDATE uses = VALUES(uses), expires_ms = VALUES(expires_ms)"
        );
        let mut values: Vec<Value> = Vec::with_capacity(rows.len() * 6);
        for row in rows {
            values.extend([self.gateway.as_str().into(), row.id().as_slice().into(), row.limit.as_str().into()]);
            values.extend([row.identity.as_str().into(), row.uses.as_str().into(), row.expires_ms.into()]);
        }
        link.run(&sql, values).await?;
        self.open = Some(link);
        Ok(())
    }

    /// See [`super::super::Counters::remove_expired`].
    pub async fn remove_expired(&mut self, now_ms: u64) -> Result<usize, Failure> {
        let mut link = self.take().await?;
        let sql = format!("DELETE FROM limit_counters WHERE expires_ms <= ? ORDER BY expires_ms LIMIT {CHUNK}");
        let removed = link.run(&sql, vec![now_ms.into()]).await?;
        self.open = Some(link);
        Ok(usize::try_from(removed).unwrap_or(usize::MAX))
    }

    async fn take(&mut self) -> Result<Link, Failure> {
        if let Some(link) = self.open.take() {
            return Ok(link);
        }
        let mut link = Link::open(&self.options, &self.server).await?;
        migrate::apply(&mut link).await?;
        Ok(link)
    }
}
