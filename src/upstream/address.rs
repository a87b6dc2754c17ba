//! Where an instance is: an IP address and port, or a Unix socket.
//! Not here: names, which are resolved to these.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pingora_core::protocols::l4::socket;

pub(super) use crate::config::UNIX;

/// Where an instance is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// Connected to over TCP.
    Inet(SocketAddr),
    /// The path of a Unix socket.
    Unix(Arc<Path>),
}

impl Address {
    /// That of a Unix socket.
    pub(super) fn unix(path: &str) -> Self {
        Self::Unix(PathBuf::from(path).into())
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
        let inet: SocketAddr = "127.0.0.1:80".parse().unwrap();
        assert_eq!(Address::from(inet).to_string(), "127.0.0.1:80");
        assert_eq!(Address::unix("/run/users.sock").to_string(), "unix:/run/users.sock");
    }

    #[test]
    fn a_path_that_is_too_long_for_a_socket_is_an_error() {
        assert!(Address::unix("/run/users.sock").socket().is_ok());
        assert!(
            Address::unix(&format!("/{}", "a".repeat(200))).socket().unwrap_err().contains("can't be connected to")
        );
    }
}
