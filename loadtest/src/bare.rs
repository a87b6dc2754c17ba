//! Bare Pingora: the smallest proxy it can be, with tollgate's peer timeouts and allocator, one worker.
//! `dressed` adds the request id and the forwarded headers that every gateway sets.
//! `/refuse` is answered with 401 in `request_filter`: the floor of every refusal.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use clap::Args;
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

use crate::http::only_loopback;

/// Answered with 401 without asking the upstream.
pub const REFUSE_PATH: &str = "/refuse";

/// Pooled connections to the upstream, more than the load has.
const POOL_SIZE: usize = 1_024;

#[derive(Args)]
pub struct Options {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Where requests go.
    #[arg(long)]
    upstream: SocketAddr,
    /// Also a request id and forwarded headers, as tollgate sets them.
    #[arg(long)]
    dressed: bool,
    /// A certificate chain, to be asked over TLS.
    #[arg(long, requires = "cert_key")]
    cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, requires = "cert")]
    cert_key: Option<PathBuf>,
}

struct Bare {
    upstream: SocketAddr,
    dressed: bool,
    scheme: &'static str,
}

pub fn run(options: &Options) -> std::result::Result<(), Box<dyn std::error::Error>> {
    // The files of Pingora's daemon mode have shared default places; nothing here may touch them.
    let own = std::env::temp_dir().join(format!("loadtest-bare-{}", std::process::id()));
    let conf = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: POOL_SIZE,
        upgrade_sock: format!("{}.sock", own.display()),
        // Nobody waits for an answer when a measurement is over.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        pid_file: format!("{}.pid", own.display()),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let scheme = if options.cert.is_some() { "https" } else { "http" };
    let bare = Bare { upstream: only_loopback(options.upstream)?, dressed: options.dressed, scheme };
    let mut service = http_proxy_service(&server.configuration, bare);
    let listen = only_loopback(options.listen)?.to_string();
    match (&options.cert, &options.cert_key) {
        (Some(cert), Some(key)) => service.add_tls(&listen, &cert.to_string_lossy(), &key.to_string_lossy())?,
        _ => service.add_tcp(&listen),
    }
    server.add_service(service);
    server.run_forever()
}

#[async_trait]
impl ProxyHttp for Bare {
    /// The request id, when dressed.
    type CTX = Option<String>;

    fn new_ctx(&self) -> Self::CTX {
        self.dressed.then(|| uuid::Uuid::now_v7().to_string())
    }

    async fn request_filter(&self, session: &mut Session, _: &mut Self::CTX) -> Result<bool> {
        if session.req_header().uri.path() != REFUSE_PATH {
            return Ok(false);
        }
        let mut header = ResponseHeader::build_no_case(401, Some(2))?;
        header.insert_header("content-length", "0")?;
        header.insert_header("www-authenticate", "Bearer")?;
        session.write_response_header(Box::new(header), true).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        let mut peer = HttpPeer::new(self.upstream, false, String::new());
        let options = &mut peer.options;
        options.connection_timeout = Some(Duration::from_secs(1));
        options.total_connection_timeout = Some(Duration::from_secs(6));
        options.read_timeout = Some(Duration::from_secs(15));
        options.write_timeout = Some(Duration::from_secs(15));
        options.idle_timeout = Some(Duration::from_secs(60));
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        id: &mut Self::CTX,
    ) -> Result<()> {
        let Some(id) = id else { return Ok(()) };
        let client =
            session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip().to_string());
        request.insert_header("x-forwarded-for", client.unwrap_or_default())?;
        request.insert_header("x-forwarded-proto", self.scheme)?;
        if let Some(host) = session.req_header().headers.get("host") {
            request.insert_header("x-forwarded-host", host.clone())?;
        }
        request.insert_header("x-request-id", id.as_str())
    }

    async fn response_filter(&self, _: &mut Session, response: &mut ResponseHeader, id: &mut Self::CTX) -> Result<()> {
        match id {
            Some(id) => response.insert_header("x-request-id", id.as_str()),
            None => Ok(()),
        }
    }
}
