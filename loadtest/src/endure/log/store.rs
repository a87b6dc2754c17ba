//! The stores of the request log that are measured: a SQLite file or a MariaDB of its own, that can be away and come back.
//! SQLite is away while somebody else holds its lock; MariaDB is away when it is killed.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use rusqlite::Connection;

use super::super::mariadb::{MariaDb, Share};
use crate::programs::Core;

/// The gateway writes all the time.
const LOCK_MAX: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Sqlite,
    Mariadb,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Sqlite, Self::Mariadb];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Mariadb => "MariaDB",
        }
    }
}

/// A store, gone with the value; the SQLite file with its folder.
pub enum Store {
    Sqlite { path: PathBuf, lock: Option<Connection> },
    Mariadb(MariaDb),
}

impl Store {
    /// On this core and with this share of it, as far as it is a program of its own.
    pub fn start(kind: Kind, folder: &Path, core: Core, share: Share) -> Result<Self, Box<dyn Error>> {
        Ok(match kind {
            Kind::Sqlite => Self::Sqlite { path: folder.join("log.db"), lock: None },
            Kind::Mariadb => Self::Mariadb(MariaDb::start(folder, core, share)?),
        })
    }

    /// What `log` says to use it, with the spool beside the configuration, and batches of so many rows.
    pub fn log(&self, rows: u32) -> String {
        let (store, spool) = match self {
            Self::Sqlite { path, .. } => (format!("sqlite:{}", path.display()), "sqlite.spool"),
            Self::Mariadb(server) => (server.url(), "mariadb.spool"),
        };
        format!("{{store: \"{store}\", spool: {spool}, flush: {{rows: {rows}}}}}")
    }

    /// Rows of the request log.
    pub fn rows(&self) -> Result<u64, Box<dyn Error>> {
        match self {
            Self::Sqlite { path, .. } => {
                let rows: i64 = open(path)?.query_row("SELECT COUNT(*) FROM api_logs", [], |row| row.get(0))?;
                Ok(rows.cast_unsigned())
            }
            Self::Mariadb(server) => server.rows(),
        }
    }

    /// CPU time of the server so far; nothing where there is none.
    pub fn cpu(&self) -> Result<Duration, Box<dyn Error>> {
        match self {
            Self::Sqlite { .. } => Ok(Duration::ZERO),
            Self::Mariadb(server) => Ok(server.cpu()?),
        }
    }

    /// Nothing can be stored any more.
    pub fn leave(&mut self) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Sqlite { path, lock } => {
                let connection = open(path)?;
                connection.execute_batch("BEGIN IMMEDIATE")?;
                *lock = Some(connection);
            }
            Self::Mariadb(server) => server.kill()?,
        }
        Ok(())
    }

    /// It is back, and answers.
    pub fn come_back(&mut self) -> Result<(), Box<dyn Error>> {
        match self {
            // Nothing was written under the lock.
            Self::Sqlite { lock, .. } => drop(lock.take()),
            Self::Mariadb(server) => server.revive()?,
        }
        Ok(())
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(LOCK_MAX)?;
    Ok(connection)
}
