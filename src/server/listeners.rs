//! Pingora's server around our fronts: one service a listener, started on its own thread so that nobody waits for its sleep.
//! Not here: what happens on a connection (`gateway/front.rs`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::listeners::tls::Acceptor;
use pingora_core::listeners::{L4BufferSettings, ListenerConfig, Listeners};
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use pingora_core::services::listening::Service;
use pingora_proxy::http_proxy;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, mpsc};

use crate::config::{self, Config, Threads};
use crate::gateway::{Entrance, Front, Gateway, Listener, Parts};
use crate::runtime::Live;

/// Idle connections to instances that are kept, for each worker thread.
const UPSTREAM_POOL_SIZE: usize = 1024;

/// Longer than any `shutdown.grace`.
const NEVER_SECONDS: u64 = 365 * 24 * 3600;

/// How long listeners may take to accept after the start.
const ACCEPTING_WITHIN: Duration = Duration::from_secs(10);

/// Pingora's server, running.
pub(super) struct Pingora {
    stop: Arc<Notify>,
    thread: JoinHandle<()>,
    /// Listeners that will each say once that they are drained.
    pub(super) listeners: usize,
}

/// Whether every listener's address can be bound. Pingora itself would try for half a minute and then panic.
///
/// # Errors
/// The first address that can't.
pub(super) fn can_bind(config: &Config) -> Result<(), String> {
    for listener in &config.listen {
        TcpListener::bind(listener.address)
            .map_err(|error| format!("can't listen on {}: {error}", listener.address))?;
    }
    Ok(())
}

/// Starts a service for every listener; the receiver is told once by each when it is drained.
///
/// # Errors
/// When the thread can't be started, or a TLS configuration can't be made.
pub(super) fn start(config: &Config, parts: &Arc<Parts>) -> Result<(Pingora, UnboundedReceiver<()>), String> {
    let mut server = Server::new_with_opt_and_conf(None, server_conf(config));
    server.bootstrap();
    let proxy = Arc::new(http_proxy(&server.configuration, Gateway(Arc::clone(parts))));
    let (drained, all_drained) = unbounded_channel();
    for listener in &config.listen {
        let entrance = Entrance {
            proxy: Arc::clone(&proxy),
            parts: Arc::clone(parts),
            listener: Listener {
                tls: acceptor(listener, &parts.live)?,
                redirects_to_https: listener.redirect.is_some(),
            },
        };
        server.add_service(service(listener.address, entrance, &drained));
    }
    end_where_a_listener_fails();
    let stop = Arc::new(Notify::new());
    let told = Told(Arc::clone(&stop));
    let thread = std::thread::Builder::new()
        .name("pingora".into())
        .spawn(move || server.run(RunArgs { shutdown_signal: Box::new(told) }))
        .map_err(|error| format!("no thread for the listeners: {error}"))?;
    Ok((Pingora { stop, thread, listeners: config.listen.len() }, all_drained))
}

/// Pingora panics in a task of its own where an address was taken after [`can_bind`] looked, and goes on without the
/// listener. A gateway that does not listen must not look alive.
fn end_where_a_listener_fails() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        if panic.payload_as_str().is_some_and(|why| why.starts_with("Failed to build listeners")) {
            log::error!("a listener's address was taken meanwhile; ending");
            std::process::exit(1);
        }
    }));
}

impl Pingora {
    /// Closes the listeners; connections that are idle end, requests in flight go on.
    pub(super) fn close_listeners(&self) {
        self.stop.notify_one();
    }

    fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Waits until every listener accepts connections.
///
/// # Errors
/// The listener that does not.
pub(super) async fn accepting(listeners: &[config::Listener], pingora: &Pingora) -> Result<(), String> {
    let deadline = Instant::now() + ACCEPTING_WITHIN;
    for listener in listeners {
        let address = reachable(listener.address);
        while let Err(error) = tokio::net::TcpStream::connect(address).await {
            if pingora.has_failed() || Instant::now() > deadline {
                return Err(format!("the listener on {} does not accept connections: {error}", listener.address));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}

/// Where a listener can be reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

fn service(address: SocketAddr, entrance: Entrance, drained: &mpsc::UnboundedSender<()>) -> Service<Front> {
    let mut listeners = Listeners::new();
    // The front reads into buffers of its own, which live only while something comes.
    let buffers = L4BufferSettings::default().read(0);
    listeners.add_listener(ListenerConfig::tcp(address.to_string()).l4_buffer(buffers));
    Service::with_listeners(format!("listener {address}"), listeners, Front::new(entrance, drained.clone()))
}

fn server_conf(config: &Config) -> ServerConf {
    ServerConf {
        threads: threads(config.threads),
        work_stealing: true,
        // A pooled connection is worth more than the memory it takes.
        upstream_keepalive_pool_size: UPSTREAM_POOL_SIZE,
        // The number of tries is decided for each request; this is only the bound behind it.
        max_retries: usize::from(config::Retry::ATTEMPTS_MAX) + 1,
        // Pingora sleeps it out whatever happens; nobody waits for that, and requests are cut by `shutdown.rs`.
        grace_period_seconds: Some(NEVER_SECONDS),
        // Neither is used; by default both would be in the shared temporary folder.
        pid_file: "/nonexistent/tollgate.pid".into(),
        upgrade_sock: "/nonexistent/tollgate.sock".into(),
        ..ServerConf::default()
    }
}

fn threads(threads: Threads) -> usize {
    match threads {
        Threads::Count(count) => usize::from(count.max(1)),
        Threads::Auto => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// TLS 1.2 and 1.3 with the certificates that are in force when a client says hello.
fn acceptor(listener: &config::Listener, live: &Arc<Live>) -> Result<Option<Acceptor>, String> {
    if listener.tls.is_empty() {
        return Ok(None);
    }
    let resolver = InForce { live: Arc::clone(live), address: listener.address };
    let mut tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS on {}: {error}", listener.address))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    tls.alpn_protocols = match listener.http2 {
        Some(false) => vec![b"http/1.1".to_vec()],
        Some(true) | None => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    Ok(Some(Acceptor::from_server_config(Arc::new(tls))))
}

/// Chooses among the certificates of one listener in the runtime in force.
struct InForce {
    live: Arc<Live>,
    address: SocketAddr,
}

impl std::fmt::Debug for InForce {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "certificates of {}", self.address)
    }
}

impl ResolvesServerCert for InForce {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let runtime = self.live.load();
        runtime.certificates.get(&self.address).map(|certificates| certificates.choose(hello.server_name()))
    }
}

/// Tells Pingora to stop when we say so. The signals are ours: after Pingora has taken one it hears no second.
struct Told(Arc<Notify>);

#[async_trait]
impl ShutdownSignalWatch for Told {
    async fn recv(&self) -> ShutdownSignal {
        self.0.notified().await;
        ShutdownSignal::GracefulTerminate
    }
}
