//! Counts of limits that outlive the process, in the store of the request log: one row per limit and identity, each gateway its own.
//! On a connection of its own and in small transactions, so that neither the log nor the data path waits for it.
//! What a count means is the limits' (`policy/limit`), when it is saved the server's.

use sha2::{Digest as _, Sha256};

use super::{Failure, mysql, sqlite};
use crate::config::StoreUrl;

/// Rows of one transaction.
pub const CHUNK: usize = 500;

/// A row of `limit_counters`, without its gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterRow {
    /// The limit with its place.
    pub limit: String,
    /// Who is counted.
    pub identity: String,
    /// What was used; at most 2,048 bytes.
    pub uses: String,
    /// When none of it counts any more, in milliseconds since 1970.
    pub expires_ms: u64,
}

/// Where a row stands: rows are read in the order of these.
pub type CounterId = [u8; 16];

/// The counters of one gateway in a store.
pub enum Counters {
    /// A file on this machine.
    Sqlite(Box<sqlite::Counters>),
    /// A server.
    Mysql(Box<mysql::Counters>),
}

impl CounterRow {
    /// Limit and identity, which tell one row from another.
    pub fn id(&self) -> CounterId {
        let mut hash = Sha256::new();
        hash.update((self.limit.len() as u64).to_le_bytes());
        hash.update(self.limit.as_bytes());
        hash.update(self.identity.as_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        digest.first_chunk().copied().unwrap_or_default()
    }
}

impl Counters {
    /// The counters of the gateway with this name; nothing for `none`. Asks nobody.
    ///
    /// # Errors
    /// The URL can't be read.
    pub fn of(url: &StoreUrl, gateway: &str) -> Result<Option<Self>, String> {
        let gateway = gateway.chars().take(255).collect();
        Ok(match url {
            StoreUrl::None => None,
            StoreUrl::Sqlite(path) => Some(Self::Sqlite(Box::new(sqlite::Counters::new(path.clone(), gateway)))),
            StoreUrl::Mysql(url) => Some(Self::Mysql(Box::new(mysql::Counters::new(url, gateway)?))),
        })
    }

    /// Some rows that have not expired, in the order of their ids, beginning after `after`; fewer than [`CHUNK`] at the end.
    ///
    /// # Errors
    /// The store can't be used now.
    pub async fn load(&mut self, after: CounterId, now_ms: u64) -> Result<Vec<CounterRow>, Failure> {
        match self {
            Self::Sqlite(counters) => counters.load(after, now_ms),
            Self::Mysql(counters) => counters.load(after, now_ms).await,
        }
    }

    /// Writes at most [`CHUNK`] rows, in one transaction.
    ///
    /// # Errors
    /// The store can't be used now; nothing was written.
    pub async fn save(&mut self, rows: &[CounterRow]) -> Result<(), Failure> {
        match self {
            Self::Sqlite(counters) => counters.save(rows),
            Self::Mysql(counters) => counters.save(rows).await,
        }
    }

    /// Removes at most [`CHUNK`] rows of any gateway that have expired; how many.
    ///
    /// # Errors
    /// The store can't be used now.
    pub async fn remove_expired(&mut self, now_ms: u64) -> Result<usize, Failure> {
        match self {
            Self::Sqlite(counters) => counters.remove_expired(now_ms),
            Self::Mysql(counters) => counters.remove_expired(now_ms).await,
        }
    }
}
