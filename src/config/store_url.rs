//! Where the request log goes: `sqlite:PATH`, `mysql://...`, or `none`.
//! The password never reaches `Debug`, `Display`, an error text or a dump.

use std::fmt;
use std::path::PathBuf;

use super::text::text_form;

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

text_form!(StoreUrl, "`sqlite:PATH`, `mysql://user:password@host/database`, or `none`", "");

/// Stands for a password wherever a URL is shown.
pub const REDACTED: &str = "redacted";

impl StoreUrl {
    /// Reads `sqlite:PATH`, `mysql://...` or `none`.
    ///
    /// # Errors
    /// What is wrong with the text, which is not repeated: there may be a password in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        if let Some(path) = text.strip_prefix("sqlite:") {
            return match path {
                "" => Err("the path is missing after `sqlite:`".to_owned()),
                ":memory:" => Err("a log in memory would be lost: write sqlite:PATH, or none".to_owned()),
                path if path.starts_with("//") => {
                    Err("write sqlite:PATH, without slashes before a relative path".to_owned())
                }
                path => Ok(Self::Sqlite(PathBuf::from(path))),
            };
        }
        let Some((scheme, _)) = text.split_once("://") else {
            let hint =
                if text.ends_with(".db") || text.ends_with(".sqlite") { "; a file is written sqlite:PATH" } else { "" };
            return Err(format!("expected sqlite:PATH, mysql://user:password@host/database or none{hint}"));
        };
        match scheme {
            "mysql" => check_mysql(text),
            "mariadb" => Err("a MariaDB database is written mysql://...".to_owned()),
            _ => Err("only sqlite:PATH, mysql://user:password@host/database and none are known".to_owned()),
        }
    }
}

fn check_mysql(text: &str) -> Result<StoreUrl, String> {
    // `url` explains its errors without the text.
    let url = url::Url::parse(text).map_err(|error| {
        format!("this is no URL ({error}); special characters in a password are percent-encoded, which ${{NAME}} does by itself")
    })?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err("the host is missing: mysql://user:password@host/database".to_owned());
    }
    if url.username().is_empty() {
        return Err("the user is missing: mysql://user:password@host/database".to_owned());
    }
    match url.path().trim_start_matches('/') {
        "" => Err("the database is missing at the end: mysql://user:password@host/database".to_owned()),
        database if database.contains('/') => Err("one name of a database is expected after the host".to_owned()),
        _ => Ok(StoreUrl::Mysql(text.to_owned())),
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => out.write_str("none"),
            Self::Sqlite(path) => write!(out, "sqlite:{}", path.display()),
            Self::Mysql(text) => match url::Url::parse(text) {
                Ok(mut url) => {
                    if url.password().is_some() && url.set_password(Some(REDACTED)).is_err() {
                        return out.write_str("mysql://<redacted>");
                    }
                    // Options are rarely secret, but nobody promises it.
                    url.set_query(None);
                    write!(out, "{url}")
                }
                Err(_) => out.write_str("mysql://<redacted>"),
            },
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_never_shown() {
        let Ok(url) = StoreUrl::parse("mysql://user:hunter2@db:3306/tollgate?ssl=1") else { panic!() };
        assert_eq!(url.to_string(), "mysql://user:redacted@db:3306/tollgate");
        assert!(!format!("{url:?}").contains("hunter2"));
        for text in [
            "mysql://user:hunter2@/x",
            "postgres://user:hunter2@host/x",
            "mysql://u:hunter2@h:port/x",
            "mysql://:hunter2@h/x",
            "hunter2",
            "mysql://u:hunter2@h",
        ] {
            assert!(!StoreUrl::parse(text).unwrap_err().contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn files_are_paths() {
        assert_eq!(StoreUrl::parse("sqlite:data/log.db"), Ok(StoreUrl::Sqlite("data/log.db".into())));
        assert!(StoreUrl::parse("data/log.db").unwrap_err().contains("sqlite:PATH"));
        assert!(StoreUrl::parse("sqlite::memory:").is_err());
        assert!(StoreUrl::parse("sqlite:").is_err());
    }
}
