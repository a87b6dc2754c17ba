//! Where limits are counted that several gateways share: `redis://...`, or `local`; and what to do while that is away.
//! The password never reaches `Debug`, `Display`, an error text or a dump.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::store_url::REDACTED;
use super::text::text_form;

/// `limits.store`
#[derive(Clone, PartialEq, Eq, Default)]
pub enum SharedStore {
    /// Each process counts for itself.
    #[default]
    Local,
    /// Redis or Valkey; the whole URL, password included.
    Redis(String),
}

/// `limits.on_error`: what a shared limit does while the store is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnStoreError {
    /// Counts in this process, each gateway its share of the limit.
    #[default]
    Local,
    /// Answers 503.
    Refuse,
    /// Admits without counting.
    Allow,
}

/// `limits.gateways`: among how many a limit is divided while the store is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gateways {
    /// Those that the store has seen within the last minute.
    #[default]
    Auto,
    /// So many, 1 to 1000.
    Count(u16),
}

text_form!(SharedStore, "`redis://user:password@host:6379`, `rediss://...` with TLS, or `local`", "");
text_form!(Gateways, "`auto`, or a number from 1 to 1000", "");

impl SharedStore {
    /// Reads `redis://...`, `rediss://...` or `local`.
    ///
    /// # Errors
    /// What is wrong with the text, which is not repeated: there may be a password in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "local" {
            return Ok(Self::Local);
        }
        let Some((scheme, _)) = text.split_once("://") else {
            return Err("expected redis://user:password@host:6379, rediss://... with TLS, or local".to_owned());
        };
        match scheme {
            "redis" | "rediss" => {}
            "valkey" | "valkeys" => {
                return Err("a Valkey server is written redis://..., or rediss://... with TLS".to_owned());
            }
            "redis+unix" | "unix" => return Err("only redis://host:port and rediss://host:port are known".to_owned()),
            _ => return Err("only redis://..., rediss://... and local are known".to_owned()),
        }
        // `url` explains its errors without the text.
        let url = url::Url::parse(text).map_err(|error| {
            format!("this is no URL ({error}); special characters in a password are percent-encoded, which ${{NAME}} does by itself")
        })?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err("the host is missing: redis://host:6379".to_owned());
        }
        if !url.username().is_empty() && url.password().is_none() {
            return Err(
                "a user without a password: write redis://user:password@host, or redis://:password@host".to_owned()
            );
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("no options are known behind `?` or `#`".to_owned());
        }
        let database = url.path().trim_start_matches('/');
        if !database.is_empty() && database.parse::<u16>().is_err() {
            return Err("after the host comes nothing, or the number of a database: redis://host:6379/0".to_owned());
        }
        Ok(Self::Redis(text.to_owned()))
    }
}

impl SharedStore {
    /// Whether it is asked over TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Redis(url) if url.starts_with("rediss://"))
    }
}

impl fmt::Display for SharedStore {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Redis(text) = self else { return out.write_str("local") };
        match url::Url::parse(text) {
            Ok(mut url) => {
                if url.password().is_some() && url.set_password(Some(REDACTED)).is_err() {
                    return out.write_str("redis://<redacted>");
                }
                write!(out, "{url}")
            }
            Err(_) => out.write_str("redis://<redacted>"),
        }
    }
}

impl fmt::Debug for SharedStore {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl Gateways {
    /// Reads `auto` or a number.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.parse::<u16>() {
            _ if text == "auto" => Ok(Self::Auto),
            Ok(count @ 1..=1000) => Ok(Self::Count(count)),
            _ => Err(format!("`{text}`: write auto, or how many gateways share the limits, 1 to 1000")),
        }
    }
}

impl fmt::Display for Gateways {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => out.write_str("auto"),
            Self::Count(count) => count.fmt(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_never_shown() {
        let url = SharedStore::parse("redis://user:hunter2@cache:6379/1").unwrap();
        assert_eq!(url.to_string(), "redis://user:redacted@cache:6379/1");
        assert_eq!(format!("{:?}", SharedStore::parse("rediss://:hunter2@cache").unwrap()), "rediss://:redacted@cache");
        for text in [
            "redis://user:hunter2@",
            "hunter2",
            "memcached://u:hunter2@h",
            "valkey://:hunter2@h",
            "redis://u:hunter2@h:port",
            "redis://u:hunter2@h/x",
            "redis://u:hunter2@h?x=1",
            "redis://hunter2@h",
        ] {
            assert!(!SharedStore::parse(text).unwrap_err().contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn gateways_are_a_number_or_auto() {
        assert_eq!(Gateways::parse("auto"), Ok(Gateways::Auto));
        assert_eq!(Gateways::parse("3"), Ok(Gateways::Count(3)));
        for text in ["0", "1001", "-1", "three", ""] {
            assert!(Gateways::parse(text).is_err(), "{text}");
        }
    }
}
