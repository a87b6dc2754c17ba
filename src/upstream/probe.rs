//! One health check, as `pingora-load-balancing` has them: a GET whose answer has to be as configured, or its check of a TCP connection;
//! one time-out over the whole of it. It connects as requests do (TLS, authorities), on a connection of its own.
//! Not here: what follows from the outcome.

use std::sync::LazyLock;

use async_trait::async_trait;
use http::StatusCode;
use http::header::{CONNECTION, HOST, USER_AGENT};
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, OrErr as _};
use pingora_http::RequestHeader;
use pingora_load_balancing::health_check::{HealthCheck, TcpHealthCheck};
use pingora_load_balancing::{Backend, Extensions};

use super::instance::Instance;
use crate::config;

/// One for the whole process: it holds the system's authorities, which take half a megabyte. It keeps no connection.
static CONNECTOR: LazyLock<Connector> = LazyLock::new(|| Connector::new(None));

/// One for the whole process, for the same reason. Its own time-out is not needed: there is one over the whole check.
static TCP: LazyLock<TcpHealthCheck> = LazyLock::new(|| {
    let mut check = TcpHealthCheck::default();
    check.peer_template.options.connection_timeout = None;
    check
});

/// The text that is looked for has to be within so many bytes of the body.
const BODY_MAX: usize = 64 << 10;

/// An answer that is not as configured, or none in time; the context says how.
const UNHEALTHY: ErrorType = ErrorType::Custom("Unhealthy");

/// How the instances of one service are checked.
pub(super) struct Probe {
    health: config::HealthCheck,
    /// None where a connection is enough.
    request: Option<RequestHeader>,
}

impl Probe {
    /// A probe of the instances of `service`.
    ///
    /// # Errors
    /// What is wrong with the check's path or host.
    pub fn new(name: &str, service: &config::Service, health: &config::HealthCheck) -> Result<Self, String> {
        let request = match &health.path {
            Some(path) => {
                let host = [health.host.as_deref(), service.host.as_deref()].into_iter().flatten().next();
                let host = host.or(service.tls.as_ref().map(|tls| tls.sni.as_str())).unwrap_or(name);
                Some(request(path, host).map_err(|error| error.to_string())?)
            }
            None => None,
        };
        Ok(Self { health: health.clone(), request })
    }

    /// What is checked of an instance: its address with the port of the checks, and how requests connect to it.
    pub fn target(&self, instance: &Instance) -> Backend {
        let mut peer = instance.peer.clone();
        if let (SocketAddr::Inet(address), Some(port)) = (&mut peer._address, self.health.port) {
            address.set_port(port);
        }
        // Pingora keeps HTTP/2 connections that have room for more.
        peer.options.max_h2_streams = 1;
        let addr = peer._address.clone();
        let mut ext = Extensions::new();
        ext.insert(peer);
        Backend { addr, weight: 1, ext }
    }

    async fn ask(&self, target: &Backend) -> pingora_core::Result<()> {
        let (Some(request), Some(peer)) = (&self.request, target.ext.get::<HttpPeer>()) else {
            return TCP.check(target).await;
        };
        let (status, body) = exchange(request, peer, self.health.body.is_some()).await?;
        if !self.health.statuses.iter().any(|range| range.contains(status)) {
            return Error::e_explain(UNHEALTHY, format!("status {}", status.as_u16()));
        }
        match &self.health.body {
            Some(text) if memchr::memmem::find(&body, text.as_bytes()).is_none() => {
                Error::e_explain(UNHEALTHY, format!("status {}, but its body does not hold the text", status.as_u16()))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl HealthCheck for Probe {
    /// Checks a `target` once.
    async fn check(&self, target: &Backend) -> pingora_core::Result<()> {
        let timeout = self.health.timeout.0;
        match tokio::time::timeout(timeout, self.ask(target)).await {
            Ok(outcome) => outcome,
            Err(_) => Error::e_explain(UNHEALTHY, format!("nothing within {timeout:?}")),
        }
    }

    fn health_threshold(&self, success: bool) -> usize {
        let times = if success { self.health.healthy_after } else { self.health.unhealthy_after };
        times as usize
    }
}

/// Why a check failed, for people.
pub(super) fn problem(error: &Error) -> String {
    match &error.context {
        Some(context) if error.etype == UNHEALTHY => context.as_str().to_owned(),
        _ => error.to_string(),
    }
}

fn request(path: &str, host: &str) -> pingora_core::Result<RequestHeader> {
    let mut request = RequestHeader::build("GET", path.as_bytes(), None)?;
    request.insert_header(HOST, host)?;
    request.insert_header(USER_AGENT, "tollgate-health")?;
    request.insert_header(CONNECTION, "close")?;
    Ok(request)
}

/// The same request as HTTP/2 has it: the host is in the target, and nothing is said of the connection (RFC 9113 section 8.2.2).
fn as_http2(request: &RequestHeader, tls: bool) -> pingora_core::Result<RequestHeader> {
    let mut request = request.clone();
    let host = request.remove_header(&HOST);
    let host = host.as_ref().map_or(&b""[..], |host| host.as_bytes());
    let target = http::Uri::builder().scheme(if tls { "https" } else { "http" }).authority(host);
    let target = target.path_and_query(request.raw_path()).build();
    request.set_uri(target.or_err(ErrorType::InvalidHTTPHeader, "the target of a health check")?);
    request.remove_header(&CONNECTION);
    request.set_version(http::Version::HTTP_2);
    Ok(request)
}

/// The status of the answer, and the beginning of its body where it is wanted.
async fn exchange(
    request: &RequestHeader,
    peer: &HttpPeer,
    with_body: bool,
) -> pingora_core::Result<(StatusCode, Vec<u8>)> {
    let (mut session, _) = CONNECTOR.get_http_session(peer).await?;
    let request = if session.as_http2().is_some() { as_http2(request, peer.is_tls())? } else { request.clone() };
    session.write_request_header(Box::new(request)).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    let status = session.response_header().map_or(StatusCode::BAD_GATEWAY, |header| header.status);
    let mut body = Vec::new();
    while with_body
        && body.len() < BODY_MAX
        && let Some(piece) = session.read_response_body().await?
    {
        body.extend_from_slice(&piece[..piece.len().min(BODY_MAX - body.len())]);
    }
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::config::{Span, StatusRange};
    use crate::upstream::address::Address;
    use crate::upstream::condition::Check;
    use crate::upstream::peer::peer;
    use crate::upstream::trust::Trust;

    fn http() -> config::HealthCheck {
        config::HealthCheck {
            path: Some("/health".into()),
            timeout: Span(Duration::from_millis(300)),
            ..config::HealthCheck::default()
        }
    }

    /// What the check says of a server that answers with these bytes, and after them drips.
    async fn check(health: config::HealthCheck, answer: &'static str) -> Result<(), String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            // Each byte comes within Pingora's time-out for one read.
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let (service, address) = (config::Service::default(), Address::from(address));
        let peer = peer(&service, &address, &Trust::default()).unwrap();
        let instance = Arc::new(Instance::new(address, peer, Check::Up));
        let probe = Probe::new("users", &service, &health).unwrap();
        probe.check(&probe.target(&instance)).await.map_err(|error| problem(&error))
    }

    #[tokio::test]
    async fn an_instance_that_drips_fails_its_check_in_time() {
        let begin = Instant::now();
        assert!(check(http(), "HTTP/1.1 200 OK\r\nX: ").await.unwrap_err().contains("nothing within 300ms"));
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(3), "{took:?}");
    }

    #[tokio::test]
    async fn status_and_body_have_to_be_as_configured() {
        let answer = "HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(check(http(), answer).await, Err("status 204".into()));
        let range = config::HealthCheck { statuses: vec![StatusRange::parse("200-299").unwrap()], ..http() };
        assert_eq!(check(range, answer).await, Ok(()));
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nall ok";
        let body = |text: &str| config::HealthCheck { body: Some(text.into()), ..http() };
        assert_eq!(check(body("l ok"), answer).await, Ok(()));
        assert!(check(body("fine"), answer).await.unwrap_err().contains("does not hold"));
    }

    #[tokio::test]
    async fn a_connection_is_enough_for_a_tcp_check() {
        let tcp = config::HealthCheck { path: None, tcp: true, ..http() };
        assert_eq!(check(tcp.clone(), "").await, Ok(()));
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = config::HealthCheck { port: Some(gone.port()), ..tcp };
        assert!(check(refused, "").await.unwrap_err().contains("refused"));
    }
}
