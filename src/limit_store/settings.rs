//! Where the store is and how it is asked, ready to connect: compiled from the configuration, once for each that differs.
//! The password stays in the URL, which is never printed.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsCertificates};

use crate::config::{Gateways, SharedStore};

/// Everything that makes one store differ from another.
#[derive(Clone)]
pub struct Settings {
    /// With the password; never printed.
    url: String,
    /// The URL without its password.
    name: String,
    /// How long a request waits for an answer.
    pub timeout: Duration,
    /// Among how many a limit is divided while the store is away.
    pub gateways: Gateways,
    /// What all keys begin with, the hash tag included.
    prefix: String,
    /// PEM of the authorities that are believed; the system's when there is none.
    authorities: Option<Vec<u8>>,
}

impl Settings {
    /// None where limits are counted in this process.
    ///
    /// # Errors
    /// What is wrong with the file of authorities.
    pub fn compile(
        store: &SharedStore,
        timeout: Duration,
        gateways: Gateways,
        prefix: &str,
        authorities: Option<&Path>,
    ) -> Result<Option<Self>, String> {
        let SharedStore::Redis(url) = store else { return Ok(None) };
        let authorities = authorities
            .map(|path| std::fs::read(path).map_err(|error| format!("can't read {}: {error}", path.display())));
        let settings = Self {
            url: url.clone(),
            name: store.to_string(),
            timeout,
            gateways,
            // One hash tag: all keys of a deployment are in one slot of a cluster, so that one script may touch them.
            prefix: format!("{prefix}:{{limits}}:"),
            authorities: authorities.transpose()?,
        };
        settings.client(None).map_err(|error| super::fault::Fault::of(&error).text)?;
        Ok(Some(settings))
    }

    /// Whether `other` means the same store, asked in the same way.
    pub fn same(&self, other: &Self) -> bool {
        self.url == other.url
            && self.timeout == other.timeout
            && self.gateways == other.gateways
            && self.prefix == other.prefix
            && self.authorities == other.authorities
    }

    /// The URL, without its password.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A client of the configured server, or of the node of a cluster that has our keys.
    pub(super) fn client(&self, node: Option<&str>) -> Result<Client, redis::RedisError> {
        let mut info = self.url.as_str().into_connection_info()?;
        if let Some((host, port)) = node.and_then(|node| node.rsplit_once(':'))
            && let Ok(port) = port.parse::<u16>()
        {
            info = at(info, host, port);
        }
        let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
        let info = info.set_tcp_settings(tcp);
        match (info.addr(), &self.authorities) {
            (ConnectionAddr::TcpTls { .. }, authorities) => {
                let certificates = TlsCertificates { client_tls: None, root_cert: authorities.clone() };
                Client::build_with_tls(info, certificates)
            }
            _ => Client::open(info),
        }
    }
}

/// The same user, password and encryption at another address.
fn at(info: ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    // A node that doesn't say its address is the one that was asked.
    let place = |before: &str| if host.is_empty() { before.to_owned() } else { host.to_owned() };
    let address = match info.addr().clone() {
        ConnectionAddr::Tcp(before, _) => ConnectionAddr::Tcp(place(&before), port),
        ConnectionAddr::TcpTls { host: before, insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host: place(&before), port, insecure, tls_params }
        }
        other => other,
    };
    info.set_addr(address)
}

impl fmt::Debug for Settings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Settings").field("url", &self.name).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
