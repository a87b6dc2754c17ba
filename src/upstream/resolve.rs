//! From `host:port` to socket addresses.
//! At load and reload only: the data path never resolves.

use std::net::{SocketAddr, ToSocketAddrs};

/// Every address of `host:port`, in order, each once.
///
/// # Errors
/// Why the name has no address.
pub(super) fn resolve(address: &str) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    let mut found: Vec<SocketAddr> =
        address.to_socket_addrs().map_err(|error| format!("`{address}` does not resolve: {error}"))?.collect();
    found.sort_unstable();
    found.dedup();
    if found.is_empty() { Err(format!("`{address}` resolves to no address")) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_itself() {
        assert_eq!(resolve("127.0.0.1:80").unwrap(), ["127.0.0.1:80".parse().unwrap()]);
    }

    #[test]
    fn a_name_is_looked_up() {
        assert!(resolve("localhost:80").unwrap().iter().all(|address| address.ip().is_loopback()));
    }

    #[test]
    fn a_name_that_does_not_resolve_is_an_error() {
        assert!(resolve("no-such-host.invalid:80").unwrap_err().contains("does not resolve"));
    }
}
