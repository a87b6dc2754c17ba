//! Where an instance is: an IP address and port, or a Unix socket.
//! Not here: names, which are resolved to these.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pingora_core::protocols::l4::socket;
use serde::{Deserialize, Serialize};

pub(super) use crate::config::UNIX;

/// Where an instance is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Address {
    /// Connected to over TCP.
    Inet(SocketAddr),
    /// The path of a Unix socket.
    Unix(Arc<Path>),
}

impl Address {
    /// Reads `10.0.0.1:80`, or `unix:` and the path of a socket.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix(UNIX) else {
            let wrong = || format!("`{text}` is no address with a port, such as 10.0.0.1:80 or [2001:db8::1]:80");
            return text.parse().map(Self::Inet).map_err(|_| wrong());
        };
        if !path.starts_with('/') {
            return Err(format!("`{text}` names no socket by its whole path: {UNIX}/run/users.sock"));
        }
        let socket = Self::Unix(PathBuf::from(path).into());
        socket.socket().map(|_| socket)
    }

    /// Whether the text is one, and no name that is still to be resolved.
    pub(super) fn is_written_in(text: &str) -> bool {
        text.starts_with(UNIX) || text.parse::<SocketAddr>().is_ok()
    }

    /// As Pingora has it.
    ///
    /// # Errors
    /// Why there can be no such socket.
    pub(super) fn socket(&self) -> Result<socket::SocketAddr, String> {
        match self {
            Self::Inet(address) => Ok(socket::SocketAddr::Inet(*address)),
            Self::Unix(path) => std::os::unix::net::SocketAddr::from_pathname(path)
                .map(socket::SocketAddr::Unix)
                .map_err(|error| format!("`{self}` can't be connected to: {error}")),
        }
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for Address {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

/// As it is written in the configuration, and named in log and metrics.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in ["127.0.0.1:80", "[2001:db8::1]:80", "unix:/run/users.sock"] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
            assert!(Address::is_written_in(text));
        }
        assert!(!Address::is_written_in("users.internal:80"));
    }

    #[test]
    fn what_is_no_address_says_what_would_be_right() {
        for (text, says) in [
            ("127.0.0.1", "with a port"),
            ("users.internal:80", "with a port"),
            ("unix:run/users.sock", "whole path"),
            ("unix:", "whole path"),
        ] {
            assert!(Address::parse(text).unwrap_err().contains(says), "{text}");
        }
        let long = format!("unix:/{}", "a".repeat(200));
        assert!(Address::parse(&long).unwrap_err().contains("can't be connected to"));
    }
}
