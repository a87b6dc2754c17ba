//! One health check: a GET whose answer has to be as configured, or a TCP connection; one time-out over the whole of it.
//! It connects as requests do (TLS, authorities), on a connection of its own. Not here: what follows from the outcome.

use std::sync::LazyLock;

use http::StatusCode;
use http::header::{CONNECTION, HOST, USER_AGENT};
use pingora_core::connectors::http::Connector;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use tokio::net::TcpStream;

use super::instance::Instance;
use crate::config::{self, HealthCheck};

/// One for the whole process: it holds the system's authorities, which take half a megabyte. It keeps no connection.
static CONNECTOR: LazyLock<Connector> = LazyLock::new(|| Connector::new(None));

/// The text that is looked for has to be within so many bytes of the body.
const BODY_MAX: usize = 64 << 10;

/// How the instances of one service are checked.
pub(super) struct Probe {
    health: HealthCheck,
    /// None where a connection is enough.
    request: Option<RequestHeader>,
}

impl Probe {
    /// A probe of the instances of `service`.
    ///
    /// # Errors
    /// What is wrong with the check's path or host.
    pub fn new(name: &str, service: &config::Service, health: &HealthCheck) -> Result<Self, String> {
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

    /// Checks the instance once.
    ///
    /// # Errors
    /// Why it is not healthy.
    pub async fn check(&self, instance: &Instance) -> Result<(), String> {
        let timeout = self.health.timeout.0;
        match tokio::time::timeout(timeout, self.ask(instance)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("nothing within {timeout:?}")),
        }
    }

    async fn ask(&self, instance: &Instance) -> Result<(), String> {
        let mut address = instance.address;
        address.set_port(self.health.port.unwrap_or(address.port()));
        let Some(request) = &self.request else {
            return TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string());
        };
        let mut peer: Box<HttpPeer> = instance.peer();
        peer._address = pingora_core::protocols::l4::socket::SocketAddr::Inet(address);
        let asked = exchange(request, &peer, self.health.body.is_some());
        let (status, body) = asked.await.map_err(|error| error.to_string())?;
        if !self.health.statuses.iter().any(|range| range.contains(status)) {
            return Err(format!("status {}", status.as_u16()));
        }
        match &self.health.body {
            Some(text) if memchr::memmem::find(&body, text.as_bytes()).is_none() => {
                Err(format!("status {}, but its body does not hold the text", status.as_u16()))
            }
            _ => Ok(()),
        }
    }
}

fn request(path: &str, host: &str) -> pingora_core::Result<RequestHeader> {
    let mut request = RequestHeader::build("GET", path.as_bytes(), None)?;
    request.insert_header(HOST, host)?;
    request.insert_header(USER_AGENT, "tollgate-health")?;
    request.insert_header(CONNECTION, "close")?;
    Ok(request)
}

/// The status of the answer, and the beginning of its body where it is wanted.
async fn exchange(
    request: &RequestHeader,
    peer: &HttpPeer,
    with_body: bool,
) -> pingora_core::Result<(StatusCode, Vec<u8>)> {
    let (mut session, _) = CONNECTOR.get_http_session(peer).await?;
    session.write_request_header(Box::new(request.clone())).await?;
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
    use crate::upstream::condition::Check;
    use crate::upstream::peer::peer;

    fn http() -> HealthCheck {
        HealthCheck {
            path: Some("/health".into()),
            timeout: Span(Duration::from_millis(300)),
            ..HealthCheck::default()
        }
    }

    /// What the check says of a server that answers with these bytes, and after them drips.
    async fn check(health: HealthCheck, answer: &'static str) -> Result<(), String> {
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
        let service = config::Service::default();
        let instance = Arc::new(Instance::new(address, peer(&service, address, None), Check::Up));
        Probe::new("users", &service, &health).unwrap().check(&instance).await
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
        let range = HealthCheck { statuses: vec![StatusRange::parse("200-299").unwrap()], ..http() };
        assert_eq!(check(range, answer).await, Ok(()));
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nall ok";
        let body = |text: &str| HealthCheck { body: Some(text.into()), ..http() };
        assert_eq!(check(body("l ok"), answer).await, Ok(()));
        assert!(check(body("fine"), answer).await.unwrap_err().contains("does not hold"));
    }

    #[tokio::test]
    async fn a_connection_is_enough_for_a_tcp_check() {
        let tcp = HealthCheck { path: None, tcp: true, ..http() };
        assert_eq!(check(tcp.clone(), "").await, Ok(()));
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = HealthCheck { port: Some(gone.port()), ..tcp };
        assert!(check(refused, "").await.unwrap_err().contains("refused"));
    }
}
