//! Clients: from which addresses a route may be used. `deny` wins over `allow`; a list that is left out says nothing.
//! The address is the client's, after trusted proxies; not here: who that is (`client_address`).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{self, Mode};
use crate::refusal::Refusal;

/// The client list of one route.
#[derive(Clone, Debug)]
pub struct Clients {
    allow: Box<[IpNet]>,
    deny: Box<[IpNet]>,
    mode: Mode,
}

impl Clients {
    /// Compiles `routes.X.clients`.
    pub fn compile(clients: &config::Clients) -> Self {
        Self { allow: clients.allow.as_slice().into(), deny: clients.deny.as_slice().into(), mode: clients.mode }
    }

    /// Whether this address may use the route; the reason, where it would have been refused but for `mode: observe`.
    ///
    /// # Errors
    /// `ClientNotAllowed`.
    pub fn admit(&self, address: IpAddr) -> Result<Option<&'static str>, Refusal> {
        // A listener on [::] sees IPv4 clients as ::ffff:a.b.c.d.
        let address = address.to_canonical();
        let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        let is_refused = is_in(&self.deny) || !(self.allow.is_empty() || is_in(&self.allow));
        match self.mode {
            _ if !is_refused => Ok(None),
            Mode::Enforce => Err(Refusal::ClientNotAllowed),
            Mode::Observe => Ok(Some(Refusal::ClientNotAllowed.reason())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(allow: &[&str], deny: &[&str], address: &str, expected: bool) {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let config = config::Clients { allow: networks(allow), deny: networks(deny), mode: Mode::Enforce };
        let address = address.parse().unwrap();
        assert_eq!(Clients::compile(&config).admit(address).is_ok(), expected, "{allow:?} {deny:?} {address}");
        let observed = Clients::compile(&config::Clients { mode: Mode::Observe, ..config }).admit(address);
        assert_eq!(observed, Ok((!expected).then_some("client_not_allowed")));
    }

    #[test]
    fn only_what_is_allowed_is_admitted() {
        check(&["10.0.0.0/8", "2001:db8::/32"], &[], "10.1.2.3", true);
        check(&["10.0.0.0/8", "2001:db8::/32"], &[], "2001:db8::1", true);
        check(&["10.0.0.0/8"], &[], "11.0.0.1", false);
        check(&["10.0.0.0/8"], &[], "2001:db8::1", false);
    }

    #[test]
    fn what_is_denied_is_refused_whatever_is_allowed() {
        check(&["10.0.0.0/8"], &["10.1.0.0/16"], "10.1.2.3", false);
        check(&["10.0.0.0/8"], &["10.1.0.0/16"], "10.2.2.3", true);
        check(&[], &["10.1.0.0/16"], "10.1.2.3", false);
        check(&[], &["10.1.0.0/16"], "192.0.2.1", true);
    }

    #[test]
    fn an_ipv4_address_in_ipv6_is_the_ipv4_address() {
        check(&["10.0.0.0/8"], &[], "::ffff:10.1.2.3", true);
        check(&[], &["10.0.0.0/8"], "::ffff:10.1.2.3", false);
    }
}
