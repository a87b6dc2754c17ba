//! Who the client is: the peer of the connection, or, through trusted proxies, whom they name.
//! Not here: what is forwarded about it (`headers.rs`).

use std::net::{IpAddr, SocketAddr};

use http::HeaderValue;
use ipnet::IpNet;

/// The networks whose word about the client is believed.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// The compiled form of `trusted_proxies`.
    pub fn compile(networks: &[IpNet]) -> Self {
        Self(networks.to_vec())
    }

    /// Whether `address` belongs to a trusted proxy.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client's address: `peer`, or, where `peer` is trusted, the last address from the right of
    /// `X-Forwarded-For` that is not. A malformed entry ends the walk.
    pub fn client<'a>(&self, peer: IpAddr, forwarded_for: impl DoubleEndedIterator<Item = &'a HeaderValue>) -> IpAddr {
        let mut client = peer;
        if !self.contains(peer) {
            return client;
        }
        for value in forwarded_for.rev() {
            let Ok(value) = value.to_str() else { return client };
            for entry in value.rsplit(',') {
                let Some(address) = parse(entry.trim()) else { return client };
                client = address;
                if !self.contains(address) {
                    return client;
                }
            }
        }
        client
    }
}

/// An address, with or without a port; IPv4 in IPv6 is IPv4.
fn parse(entry: &str) -> Option<IpAddr> {
    let address = entry
        .parse::<IpAddr>()
        .or_else(|_| entry.parse::<SocketAddr>().map(|address| address.ip()))
        .or_else(|_| entry.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>())
        .ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(peer: &str, forwarded_for: &[&str], client: &str) {
        let trusted = TrustedProxies::compile(&["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let values: Vec<HeaderValue> =
            forwarded_for.iter().map(|value| HeaderValue::from_str(value).unwrap()).collect();
        let found = trusted.client(peer.parse().unwrap(), values.iter());
        assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{peer} {forwarded_for:?}");
    }

    #[test]
    fn an_untrusted_peer_is_the_client() {
        check("192.0.2.1", &["198.51.100.1"], "192.0.2.1");
    }

    #[test]
    fn trusted_proxies_are_walked_from_the_right() {
        check("10.0.0.1", &["203.0.113.9, 198.51.100.1, 10.0.0.2"], "198.51.100.1");
        check("10.0.0.1", &["203.0.113.9", "198.51.100.1", "10.0.0.2"], "198.51.100.1");
        check("10.0.0.1", &["10.0.0.3"], "10.0.0.3");
        check("10.0.0.1", &[], "10.0.0.1");
        check("fd00::1", &["2001:db8::7"], "2001:db8::7");
    }

    #[test]
    fn ports_and_brackets_are_understood() {
        check("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1");
        check("10.0.0.1", &["[2001:db8::7]:443"], "2001:db8::7");
        check("10.0.0.1", &["[2001:db8::7]"], "2001:db8::7");
        check("10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1");
    }

    #[test]
    fn a_malformed_entry_ends_the_walk() {
        check("10.0.0.1", &["198.51.100.1, unknown, 10.0.0.2"], "10.0.0.2");
        check("10.0.0.1", &["198.51.100.1,"], "10.0.0.1");
        check("10.0.0.1", &["198.51.100.1", "x"], "10.0.0.1");
    }
}
