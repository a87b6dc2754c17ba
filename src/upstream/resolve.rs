//! From an instance as it is written to addresses.
//! At load and reload only: the data path never resolves.

use std::net::{SocketAddr, ToSocketAddrs};

use super::address::{Address, UNIX};

/// Every address of `host:port`, in order, each once; a Unix socket is its own.
///
/// # Errors
/// Why the name has no address.
pub(super) fn resolve(address: &str) -> Result<Vec<Address>, String> {
    if let Some(path) = address.strip_prefix(UNIX) {
        let socket = Address::unix(path);
        return socket.socket().map(|_| vec![socket]);
    }
    if let Ok(address) = address.parse::<SocketAddr>() {
        return Ok(vec![address.into()]);
    }
    let found = address.to_socket_addrs().map_err(|error| format!("`{address}` does not resolve: {error}"))?;
    let mut found: Vec<Address> = found.map(Address::Inet).collect();
    found.sort_unstable();
    found.dedup();
    if found.is_empty() { Err(format!("`{address}` resolves to no address")) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_itself() {
        assert_eq!(resolve("127.0.0.1:80").unwrap(), [Address::Inet(([127, 0, 0, 1], 80).into())]);
        assert_eq!(resolve("unix:/run/users.sock").unwrap(), [Address::unix("/run/users.sock")]);
    }

    #[test]
    fn a_name_is_looked_up() {
        let is_loopback = |address: &Address| matches!(address, Address::Inet(address) if address.ip().is_loopback());
        assert!(resolve("localhost:80").unwrap().iter().all(is_loopback));
    }

    #[test]
    fn a_name_that_does_not_resolve_is_an_error() {
        assert!(resolve("no-such-host.invalid:80").unwrap_err().contains("does not resolve"));
    }
}
