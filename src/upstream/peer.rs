//! What a connection to an instance needs: time-outs on every option, TLS, the version of HTTP, and a pool of its own.
//! Certificates of instances are always verified: without a name Pingora would not, so there is none without one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::ALPN;
use pingora_core::upstreams::peer::HttpPeer;

use super::address::Address;
use super::dial::Dial;
use super::trust::Trust;
use crate::config::Service;

/// Requests at once on one HTTP/2 connection; for more there is another. RFC 9113 section 6.5.2 wants no instance to allow fewer.
const HTTP2_STREAMS: usize = 100;
/// A silent HTTP/2 connection is asked so often whether it lives: a request that times out does not end it.
const HTTP2_PING: Duration = Duration::from_secs(10);

/// A peer for `address` with every time-out of `service` set; Pingora has none by default.
///
/// # Errors
/// Why there can be no such address.
pub(super) fn peer(service: &Service, address: &Address, trust: &Trust) -> Result<HttpPeer, String> {
    let sni = service.tls.as_ref().map_or(String::new(), |tls| tls.sni.clone());
    // Any address will do here: the next line has the one that counts, which may be no IP address.
    let mut peer = HttpPeer::new((Ipv4Addr::LOCALHOST, 0), service.tls.is_some(), sni);
    peer._address = address.socket()?;
    let timeouts = &service.timeouts;
    let options = &mut peer.options;
    if service.tls.is_some() {
        options.custom_l4 = Some(Arc::new(Dial(timeouts.connect.0)));
        options.connection_timeout = Some(timeouts.tls.0);
        options.total_connection_timeout = Some(timeouts.connect.0 + timeouts.tls.0);
    } else {
        options.connection_timeout = Some(timeouts.connect.0);
        options.total_connection_timeout = Some(timeouts.connect.0);
    }
    // Pingora knows one time-out per read, for header and body alike.
    options.read_timeout = Some(timeouts.response.0.max(timeouts.between_bytes.0));
    options.write_timeout = Some(timeouts.write.0);
    options.idle_timeout = Some(timeouts.idle.0);
    options.ca = trust.authorities.clone();
    if service.http2 {
        options.alpn = if service.tls.is_some() { ALPN::H2H1 } else { ALPN::H2 };
        options.max_h2_streams = HTTP2_STREAMS;
        options.h2_ping_interval = Some(HTTP2_PING);
    }
    peer.client_cert_key = trust.identity.clone();
    // Neither authorities nor versions of HTTP are part of Pingora's key of pooled connections, and of an own certificate only its
    // number is; without this, two services that trust different authorities would share connections.
    let mut hasher = DefaultHasher::new();
    (trust.mark, service.http2).hash(&mut hasher);
    peer.group_key = hasher.finish();
    Ok(peer)
}

/// Makes it a peer for a request that leaves HTTP behind (`Upgrade`), which only HTTP/1.1 can.
pub fn speak_http1(peer: &mut HttpPeer) {
    peer.options.alpn = ALPN::H1;
}

#[cfg(test)]
mod tests {
    use pingora_core::upstreams::peer::Peer;

    use super::*;

    fn reuse_hash(mark: u64, http2: bool) -> u64 {
        let service = Service { http2, ..Service::default() };
        let trust = Trust { mark, ..Trust::default() };
        peer(&service, &Address::Inet(([127, 0, 0, 1], 443).into()), &trust).unwrap().reuse_hash()
    }

    #[test]
    fn connections_are_shared_only_where_the_same_authorities_are_believed_and_the_same_http_is_spoken() {
        assert_eq!(reuse_hash(1, false), reuse_hash(1, false));
        assert_ne!(reuse_hash(1, false), reuse_hash(2, false));
        assert_ne!(reuse_hash(1, false), reuse_hash(1, true));
    }
}
