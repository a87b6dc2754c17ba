//! The key store: keys as rows of a database, and the changes of their lives. Every change is one transaction that also gives
//! the store another stamp, so whoever polls the stamp misses none.
//! A key is never removed, only revoked: its name stays taken, so the log never means two keys by one name.
//! Calls block, and each has a time-out. Not here: what a key is made of, and what a gateway does with it (`keys`).

use jiff::Timestamp;

use super::{Failure, mysql, sqlite};
use crate::config::{Digest, StoreUrl};

/// A key as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// Unique for ever.
    pub name: String,
    /// Whose it is.
    pub consumer: String,
    /// The SHA-256 of the key.
    pub sha256: Digest,
    /// The consumer's plan.
    pub plan: Option<String>,
    /// The consumer's labels.
    pub labels: Vec<String>,
    /// When it was made or imported.
    pub created: Timestamp,
    /// From when on it is refused.
    pub expires: Option<Timestamp>,
    /// Since when it is refused.
    pub revoked: Option<Timestamp>,
    /// Whether it was imported although it is short or chosen.
    pub weak: bool,
}

/// Every key at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredKeys {
    /// Another one after every change.
    pub stamp: String,
    /// By name, those included that expired or were revoked.
    pub keys: Vec<StoredKey>,
}

/// What a consumer is; what is none stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerChange {
    /// `Some(None)` takes the plan away.
    pub plan: Option<Option<String>>,
    /// All of them.
    pub labels: Option<Vec<String>>,
}

/// A change of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key that was not there. Plan and labels are its consumer's: they are written when the consumer is new.
    Add(StoredKey),
    /// From when on a key is refused.
    Expire(String, Option<Timestamp>),
    /// A key is refused from now on.
    Revoke(String, Timestamp),
    /// What a consumer is.
    Consumer(String, ConsumerChange),
}

/// A database of keys.
pub enum KeyStore {
    /// A file on this machine.
    Sqlite(Box<sqlite::Keys>),
    /// A server.
    Mysql(Box<mysql::Keys>),
}

impl KeyStore {
    /// Connects, and makes the tables where they are missing; none for `none`.
    ///
    /// # Errors
    /// The store can't be used now.
    pub fn open(url: &StoreUrl) -> Result<Option<Self>, Failure> {
        Ok(match url {
            StoreUrl::None => None,
            StoreUrl::Sqlite(path) => Some(Self::Sqlite(Box::new(sqlite::Keys::open(path)?))),
            StoreUrl::Mysql(url) => Some(Self::Mysql(Box::new(mysql::Keys::open(url)?))),
        })
    }

    /// Another one after every change.
    ///
    /// # Errors
    /// The store can't be used now.
    pub fn stamp(&mut self) -> Result<String, Failure> {
        match self {
            Self::Sqlite(store) => store.stamp(),
            Self::Mysql(store) => store.stamp(),
        }
    }

    /// Every key, and the stamp that belongs to them.
    ///
    /// # Errors
    /// The store can't be used now, or holds what is no key.
    pub fn read(&mut self) -> Result<StoredKeys, Failure> {
        match self {
            Self::Sqlite(store) => store.read(),
            Self::Mysql(store) => store.read(),
        }
    }

    /// Makes these changes, all or none, where `may` finds nothing against them in what the store holds at that moment.
    ///
    /// # Errors
    /// What `may` says, as [`Unchanged::No`]; or the store can't be used now.
    pub fn change<T>(
        &mut self,
        may: impl FnOnce(&[StoredKey]) -> Result<(Vec<Change>, T), String>,
    ) -> Result<T, Unchanged> {
        match self {
            Self::Sqlite(store) => store.change(may),
            Self::Mysql(store) => store.change(may),
        }
    }
}

/// Tries a key store of its own without changing anything; what was found.
///
/// # Errors
/// What is missing before it can be used.
pub fn probe(url: &StoreUrl) -> Result<String, String> {
    match url {
        StoreUrl::None => Ok("key_store is none".to_owned()),
        StoreUrl::Sqlite(path) if !path.exists() => {
            Ok(format!("{} does not exist yet: start creates it", path.display()))
        }
        StoreUrl::Sqlite(path) => sqlite::open_to_read(path).map(|_| format!("{} can be opened", path.display())),
        StoreUrl::Mysql(url) => mysql::probe_connection(url).map_err(|why| why.replace("log.store", "key_store")),
    }
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unchanged {
    /// It may not be: why, and what would be right.
    No(String),
    /// The store can't be used now.
    Failed(Failure),
}

impl From<Failure> for Unchanged {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Unchanged {
    /// Why, in words.
    pub fn message(&self) -> &str {
        match self {
            Self::No(message) => message,
            Self::Failed(failure) => failure.message(),
        }
    }
}

/// A row as both databases give it.
pub(super) struct KeyRow {
    pub name: String,
    pub consumer: String,
    pub sha256: String,
    pub plan: Option<String>,
    pub labels: Option<String>,
    pub created: i64,
    pub expires: Option<i64>,
    pub revoked: Option<i64>,
    pub weak: bool,
}

/// The columns of a [`KeyRow`], in its order.
pub(super) const SELECT: &str = "SELECT k.name, k.consumer, k.sha256, c.plan, c.labels, k.created_at, k.expires_at, k.revoked_at, k.weak \
     FROM api_keys k LEFT JOIN api_consumers c ON c.consumer = k.consumer ORDER BY k.name";

impl KeyRow {
    /// The key; what is none is the fault of somebody's hands, and is named.
    pub fn key(self) -> Result<StoredKey, Failure> {
        let bad = |what: &str| Failure::Denied(format!("api_keys: the row `{}` has no good {what}", self.name));
        let time = |seconds: i64, what: &str| Timestamp::from_second(seconds).map_err(|_| bad(what));
        let optional = |seconds: Option<i64>, what: &str| seconds.map(|seconds| time(seconds, what)).transpose();
        Ok(StoredKey {
            sha256: Digest::parse(&self.sha256).map_err(|_| bad("sha256"))?,
            created: time(self.created, "created_at")?,
            expires: optional(self.expires, "expires_at")?,
            revoked: optional(self.revoked, "revoked_at")?,
            labels: listed(self.labels.as_deref().unwrap_or_default()),
            name: self.name,
            consumer: self.consumer,
            plan: self.plan,
            weak: self.weak,
        })
    }
}

/// Names separated by commas.
fn listed(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// A statement with its values.
pub(super) struct Statement {
    pub sql: &'static str,
    pub values: Vec<Cell>,
}

/// A value of a statement.
pub(super) enum Cell {
    Text(String),
    Number(i64),
    Nothing,
}

impl Cell {
    fn text(text: Option<String>) -> Self {
        text.map_or(Self::Nothing, Self::Text)
    }

    fn time(time: Option<Timestamp>) -> Self {
        time.map_or(Self::Nothing, |time| Self::Number(time.as_second()))
    }
}

/// The statements of these changes; the stamp at last.
pub(super) fn statements(changes: Vec<Change>, now: Timestamp) -> Vec<Statement> {
    let mut statements: Vec<Statement> = changes.into_iter().flat_map(Change::statements).collect();
    let stamp = Cell::Text(uuid::Uuid::now_v7().to_string());
    statements.push(Statement {
        sql: "UPDATE key_changes SET stamp = ?, changed_at = ? WHERE id = 1",
        values: vec![stamp, Cell::time(Some(now))],
    });
    statements
}

impl Change {
    /// In SQL that both databases understand.
    fn statements(self) -> Vec<Statement> {
        const NEW_CONSUMER: &str = "INSERT INTO api_consumers (consumer, plan, labels) SELECT ?, ?, ? FROM key_changes \
             WHERE id = 1 AND NOT EXISTS (SELECT 1 FROM api_consumers AS c WHERE c.consumer = ?)";
        let new_consumer = |consumer: &str, plan: Option<String>, labels: &[String]| Statement {
            sql: NEW_CONSUMER,
            values: vec![
                Cell::Text(consumer.to_owned()),
                Cell::text(plan),
                Cell::Text(labels.join(",")),
                Cell::Text(consumer.to_owned()),
            ],
        };
        match self {
            Self::Add(key) => {
                let StoredKey { name, consumer, sha256, plan, labels, created, expires, revoked, weak } = key;
                let known = new_consumer(&consumer, plan, &labels);
                let values = vec![
                    Cell::Text(name),
                    Cell::Text(consumer),
                    Cell::Text(sha256.to_string()),
                    Cell::time(Some(created)),
                    Cell::time(expires),
                    Cell::time(revoked),
                    Cell::Number(weak.into()),
                ];
                let sql = "INSERT INTO api_keys (name, consumer, sha256, created_at, expires_at, revoked_at, weak) \
                     VALUES (?, ?, ?, ?, ?, ?, ?)";
                vec![known, Statement { sql, values }]
            }
            Self::Expire(name, expires) => {
                let values = vec![Cell::time(expires), Cell::Text(name)];
                vec![Statement { sql: "UPDATE api_keys SET expires_at = ? WHERE name = ?", values }]
            }
            Self::Revoke(name, now) => {
                let values = vec![Cell::time(Some(now)), Cell::Text(name)];
                vec![Statement {
                    sql: "UPDATE api_keys SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL",
                    values,
                }]
            }
            Self::Consumer(consumer, change) => {
                let mut statements = vec![new_consumer(&consumer, None, &[])];
                if let Some(plan) = change.plan {
                    let values = vec![Cell::text(plan), Cell::Text(consumer.clone())];
                    statements.push(Statement { sql: "UPDATE api_consumers SET plan = ? WHERE consumer = ?", values });
                }
                if let Some(labels) = change.labels {
                    let values = vec![Cell::Text(labels.join(",")), Cell::Text(consumer)];
                    statements
                        .push(Statement { sql: "UPDATE api_consumers SET labels = ? WHERE consumer = ?", values });
                }
                statements
            }
        }
    }
}
