//! The admin listener: a bounded number of HTTP/1.1 connections, each for a bounded time.
//! Binding and serving are apart, so that a start fails clearly when the address is taken.
//! Nothing a client does, or leaves undone, holds a connection past the age and the closing time of [`Bounds`].

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::api::{Local, router};
use super::control::Control;
use crate::config::Admin;

/// Bytes of a request's header.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// What clients may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at once; more of them wait to be accepted.
    pub connections_max: usize,
    /// From the end of the last answer (or the start of the connection) to the end of the next request's header.
    pub header_timeout: Duration,
    /// How long a request's body may take.
    pub body_timeout: Duration,
    /// After this time a connection is closed at the end of the answer in hand.
    pub age_max: Duration,
    /// How long the answer in hand may take when the connection is to be closed.
    pub close_timeout: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections_max: 256,
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(10),
            age_max: Duration::from_secs(300),
            close_timeout: Duration::from_secs(5),
        }
    }
}

/// Listens on the address.
///
/// # Errors
/// The address and what the system says: taken, not local, not permitted.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let explain = |error: io::Error| io::Error::new(error.kind(), format!("admin: can't listen on {address}: {error}"));
    let listener = std::net::TcpListener::bind(address).map_err(explain)?;
    // As tokio needs it.
    listener.set_nonblocking(true).map_err(explain)?;
    Ok(listener)
}

/// Serves the admin API until `stop` is done; answers in hand get 5 s to finish, idle connections none.
pub async fn serve<C: Control>(listener: TcpListener, admin: Admin, control: Arc<C>, stop: impl Future<Output = ()>) {
    let bounds = Bounds::default();
    serve_within(bounds, listener, router(&admin, control, bounds.body_timeout), stop).await;
}

/// [`serve`] with other bounds.
pub(super) async fn serve_within(
    bounds: Bounds,
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    let slots = Arc::new(Semaphore::new(bounds.connections_max));
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener, &slots) => {
                if let Some((stream, slot)) = accepted {
                    connections.spawn(connection(bounds, stream, slot, router.clone(), stopped.clone()));
                }
            }
        }
    }
    drop(listener);
    stopping.send_replace(true);
    while connections.join_next().await.is_some() {}
}

/// The next connection and its slot; none when the system would not give one.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            log::warn!("admin: can't accept a connection: {error}");
            // Most likely no file is left to open: trying again at once would only burn the core.
            sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn connection(
    bounds: Bounds,
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let Ok(local) = stream.local_addr() else { return };
    let service = TowerToHyperService::new(router.layer(Extension(Local(local))));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_timeout)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    tokio::select! {
        done = &mut serving => {
            if let Err(error) = done {
                log::debug!("admin: connection ended: {error}");
            }
            return;
        }
        () = sleep(bounds.age_max) => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    serving.as_mut().graceful_shutdown();
    if timeout(bounds.close_timeout, serving).await.is_err() {
        log::warn!("admin: a client took longer than {:?} for its last answer", bounds.close_timeout);
    }
}
