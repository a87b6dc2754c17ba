//! `discovery` and `services.NAME.discover`: where instances are found that do not stand in this file.
//! Not here: how they are found, and what becomes of those that leave (`upstream/discovery`).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::short_forms::{self, OneOrMany};
use super::text::text_form;
use super::units::Span;

/// The port of DNS.
const DNS_PORT: u16 = 53;

/// `discovery`: how instances are found, for all services.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Discovery {
    /// The DNS servers that are asked; those of `/etc/resolv.conf` when left out.
    #[serde(deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<DnsServer>")]
    pub resolver: Vec<DnsServer>,
    /// A name is not asked for again earlier than this, however short the TTL of its answer is.
    pub ttl_min: Span,
    /// The file that keeps registered instances, and who is drained, over a restart; the SQLite file with `.instances` behind its name, or
    /// `data/instances.json`, when left out.
    pub state: Option<PathBuf>,
}

impl Default for Discovery {
    fn default() -> Self {
        Self { resolver: Vec::new(), ttl_min: Span::seconds(1), state: None }
    }
}

/// `services.NAME.discover`: instances beside those of `instances`; at least one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Discover {
    /// `name:port`; every address of the name is an instance. The start does not wait for an answer as it does for `instances`.
    pub dns: Option<String>,
    /// The name of SRV records, such as `_http._tcp.users.internal`. The lowest priority is for all requests, higher ones are backups.
    pub srv: Option<String>,
    /// A YAML or JSON file with a list as `instances` has it, addresses only; read again when it changes.
    pub file: Option<PathBuf>,
    /// Whether instances register themselves through the admin API.
    pub registration: bool,
}

impl Discover {
    /// Whether it names nothing.
    pub const fn is_empty(&self) -> bool {
        self.dns.is_none() && self.srv.is_none() && self.file.is_none() && !self.registration
    }
}

/// A DNS server: `127.0.0.1`, or with a port, `127.0.0.1:5353`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsServer(pub SocketAddr);

text_form!(DnsServer, "the address of a DNS server, such as 10.0.0.2 or 127.0.0.1:5353", "");

impl DnsServer {
    /// Reads an address with or without a port.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let with_port = text.parse::<SocketAddr>().ok();
        let address = with_port.or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, DNS_PORT)));
        match address {
            Some(address) if address.port() != 0 && !address.ip().is_unspecified() => Ok(Self(address)),
            _ => Err(format!("`{text}` is no address of a DNS server: write 10.0.0.2, or 127.0.0.1:5353 with a port")),
        }
    }
}

impl fmt::Display for DnsServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.port() {
            DNS_PORT => write!(out, "{}", self.0.ip()),
            _ => write!(out, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dns_server_has_port_53_unless_it_says_otherwise() {
        let round = |text: &str| DnsServer::parse(text).map(|server| (server.0.port(), server.to_string()));
        assert_eq!(round("10.0.0.2"), Ok((53, "10.0.0.2".to_owned())));
        assert_eq!(round("[::1]:5353"), Ok((5353, "[::1]:5353".to_owned())));
        for wrong in ["dns.internal", "10.0.0.2:0", "0.0.0.0", "10.0.0.2:x", ""] {
            assert!(round(wrong).unwrap_err().contains("127.0.0.1:5353"), "{wrong}");
        }
    }
}
