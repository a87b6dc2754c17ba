//! What a connection to an instance needs: time-outs on every option, TLS, and a pool of its own.
//! Certificates of instances are always verified: without a name Pingora would not, so there is none without one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::utils::tls::{WrappedX509, parse_x509};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::config::Service;

/// The authorities an instance's certificate is checked against, as Pingora takes them.
pub(super) type Authorities = Arc<[WrappedX509]>;

/// A peer for `address` with every time-out of `service` set; Pingora has none by default.
pub(super) fn peer(service: &Service, address: SocketAddr, authorities: Option<&Authorities>) -> HttpPeer {
    let sni = service.tls.as_ref().map_or(String::new(), |tls| tls.sni.clone());
    let mut peer = HttpPeer::new(address, service.tls.is_some(), sni);
    let timeouts = &service.timeouts;
    let options = &mut peer.options;
    options.connection_timeout = Some(timeouts.connect.0);
    options.total_connection_timeout =
        Some(if service.tls.is_some() { timeouts.connect.0 + timeouts.tls.0 } else { timeouts.connect.0 });
    // Pingora knows one time-out per read, for header and body alike.
    options.read_timeout = Some(timeouts.response.0.max(timeouts.between_bytes.0));
    options.write_timeout = Some(timeouts.write.0);
    options.idle_timeout = Some(timeouts.idle.0);
    options.ca = authorities.cloned();
    // Authorities are not part of Pingora's key of pooled connections; without this, two services
    // that trust different authorities would share connections.
    peer.group_key = trust_domain(service);
    peer
}

/// Reads the authorities of `path`.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn authorities(path: &Path) -> Result<Authorities, String> {
    let file = path.display();
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(|error| format!("can't read {file}: {error}"))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("{file} is not PEM: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("{file} holds no certificate"));
    }
    // Pingora parses these when it connects, and panics on what is no certificate: so they are tried here.
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        store
            .add(certificate.clone())
            .map_err(|error| format!("{file} holds a certificate that can't be used: {error}"))?;
    }
    Ok(certificates.into_iter().map(|certificate| WrappedX509::new(certificate.to_vec(), parse_x509)).collect())
}

fn trust_domain(service: &Service) -> u64 {
    let mut hasher = DefaultHasher::new();
    service.tls.as_ref().map(|tls| (&tls.sni, &tls.ca)).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use pingora_core::upstreams::peer::Peer;

    use super::*;
    use crate::config::{Instance, ServiceTls};

    fn reuse_hash(sni: &str, ca: &str) -> u64 {
        let service = Service {
            instances: vec![Instance::at("127.0.0.1:443")],
            tls: Some(ServiceTls { sni: sni.into(), ca: Some(ca.into()) }),
            ..Service::default()
        };
        peer(&service, "127.0.0.1:443".parse().unwrap(), None).reuse_hash()
    }

    #[test]
    fn connections_are_shared_only_where_the_same_authorities_are_believed() {
        assert_eq!(reuse_hash("a.example", "/one.pem"), reuse_hash("a.example", "/one.pem"));
        assert_ne!(reuse_hash("a.example", "/one.pem"), reuse_hash("a.example", "/two.pem"));
    }
}
