//! Where the request log goes: `sqlite:PATH`, `mysql://...`, or `none`.
//! The password never reaches `Debug`, `Display` or a dump.

use std::fmt;
use std::path::PathBuf;

/// `log.store`
#[derive(Clone, PartialEq, Eq, Default)]
pub enum StoreUrl {
    /// No store.
    #[default]
    None,
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A MySQL or MariaDB database; the whole URL, password included.
    Mysql(String),
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => out.write_str("none"),
            Self::Sqlite(path) => write!(out, "sqlite:{}", path.display()),
            Self::Mysql(_) => out.write_str("mysql://<redacted>"),
        }
    }
}
crate::placeholder_serde!(StoreUrl);
