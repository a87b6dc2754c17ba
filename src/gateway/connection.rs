//! What is known of a client's connection before and between its requests: who it is, what it may hold open,
//! and whether a request on it ever became an exchange.
//! Pingora creates an exchange without telling which connection it is for, so the connection travels beside it, in the task.

use std::cell::Cell;
use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// A client's connection; open as long as this lives.
#[derive(Debug)]
pub struct Connection {
    /// The other end, IPv4 in IPv6 as IPv4.
    pub peer: SocketAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Whether every request is sent to https.
    pub redirects_to_https: bool,
    census: Arc<Census>,
    counted_as: Option<IpAddr>,
}

/// How many connections are open, of whom, and how many of them are busy with a request.
#[derive(Debug, Default)]
pub struct Census {
    open: AtomicUsize,
    busy: AtomicUsize,
    by_client: Mutex<HashMap<IpAddr, usize>>,
    idle: Notify,
    tasks: Mutex<Tasks>,
}

/// The tasks of connections, so that they can be ended.
#[derive(Debug, Default)]
struct Tasks {
    handles: HashMap<u64, AbortHandle>,
    next: u64,
}

/// A task that is known to the census, as long as this lives.
struct Known {
    census: Arc<Census>,
    number: u64,
}

/// Why a connection is closed before its first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowded {
    /// `connections.total_max` are open.
    Total,
    /// This client holds `connections.per_client_max`.
    Client,
}

/// A connection that is busy with a request, as long as this lives.
pub struct Busy(Arc<Census>);

/// Facts of the connection that its owner knows when it is accepted.
pub struct Accepted {
    /// The other end.
    pub peer: SocketAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Whether every request is sent to https.
    pub redirects_to_https: bool,
}

impl Connection {
    /// Counts a new connection, unless there are too many. `per_client_max` is none for trusted proxies.
    ///
    /// # Errors
    /// Which bound it would break.
    pub fn open(
        census: &Arc<Census>,
        accepted: &Accepted,
        total_max: usize,
        per_client_max: Option<usize>,
    ) -> Result<Arc<Self>, Crowded> {
        let peer = SocketAddr::new(accepted.peer.ip().to_canonical(), accepted.peer.port());
        if census.open.fetch_add(1, Ordering::AcqRel) >= total_max {
            census.open.fetch_sub(1, Ordering::AcqRel);
            return Err(Crowded::Total);
        }
        let mut connection = Self {
            peer,
            scheme: accepted.scheme,
            redirects_to_https: accepted.redirects_to_https,
            census: Arc::clone(census),
            counted_as: None,
        };
        if let Some(max) = per_client_max {
            let client = one_client(peer.ip());
            let mut by_client = census.by_client.lock();
            let held = by_client.entry(client).or_insert(0);
            if *held >= max {
                return Err(Crowded::Client); // dropping the connection gives its place back
            }
            *held += 1;
            connection.counted_as = Some(client);
        }
        Ok(Arc::new(connection))
    }

    /// Marks the connection as busy with a request.
    pub fn busy(&self) -> Busy {
        self.census.busy.fetch_add(1, Ordering::AcqRel);
        Busy(Arc::clone(&self.census))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.census.open.fetch_sub(1, Ordering::AcqRel);
        let Some(client) = self.counted_as else { return };
        let mut by_client = self.census.by_client.lock();
        if let Some(held) = by_client.get_mut(&client) {
            *held -= 1;
            if *held == 0 {
                by_client.remove(&client);
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.census.tasks.lock().handles.remove(&self.number);
    }
}

impl Census {
    /// Runs a connection in a task of its own, which [`Self::cut`] can end.
    pub fn spawn(self: &Arc<Self>, connection: impl Future<Output = ()> + Send + 'static) {
        // Locked until the handle is in: the task may end before this does.
        let mut tasks = self.tasks.lock();
        let number = tasks.next;
        tasks.next += 1;
        let known = Known { census: Arc::clone(self), number };
        let task = tokio::spawn(async move {
            let _known = known;
            connection.await;
        });
        tasks.handles.insert(number, task.abort_handle());
    }

    /// Ends every connection where it is; an exchange that is cut leaves its record.
    pub fn cut(&self) {
        for handle in self.tasks.lock().handles.values() {
            handle.abort();
        }
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Connections that are busy with a request.
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::Acquire)
    }

    /// Waits until no connection is busy.
    pub async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.busy() == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// What counts as one client: an address, or an IPv6 /64.
fn one_client(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

struct Current {
    connection: Arc<Connection>,
    exchange_began: Cell<bool>,
}

tokio::task_local! {
    static CURRENT: Current;
}

/// Runs one request of `connection`; also whether it became an exchange.
pub async fn with_connection<F: Future>(connection: Arc<Connection>, request: F) -> (F::Output, bool) {
    let current = Current { connection, exchange_began: Cell::new(false) };
    CURRENT
        .scope(current, async {
            let output = request.await;
            (output, CURRENT.with(|current| current.exchange_began.get()))
        })
        .await
}

/// The connection of the request that this task runs; from now on it counts as an exchange.
pub fn begin_exchange() -> Option<Arc<Connection>> {
    CURRENT
        .try_with(|current| {
            current.exchange_began.set(true);
            Arc::clone(&current.connection)
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(peer: &str) -> Accepted {
        Accepted { peer: peer.parse().unwrap(), scheme: "http", redirects_to_https: false }
    }

    #[test]
    fn connections_are_bounded_in_total() {
        let census = Arc::new(Census::default());
        let first = Connection::open(&census, &accepted("192.0.2.1:1"), 1, None).unwrap();
        assert_eq!(Connection::open(&census, &accepted("192.0.2.2:1"), 1, None).unwrap_err(), Crowded::Total);
        drop(first);
        assert!(Connection::open(&census, &accepted("192.0.2.2:1"), 1, None).is_ok());
        assert_eq!(census.open(), 0);
    }

    #[test]
    fn connections_are_bounded_per_client() {
        let census = Arc::new(Census::default());
        let first = Connection::open(&census, &accepted("[2001:db8::1]:1"), 9, Some(1)).unwrap();
        let neighbour = Connection::open(&census, &accepted("[2001:db8::2]:1"), 9, Some(1));
        assert_eq!(neighbour.unwrap_err(), Crowded::Client);
        assert!(Connection::open(&census, &accepted("[2001:db8:0:1::1]:1"), 9, Some(1)).is_ok());
        drop(first);
        assert_eq!((census.open(), census.by_client.lock().len()), (0, 0));
    }

    #[tokio::test]
    async fn idle_comes_when_the_last_request_is_done() {
        let census = Arc::new(Census::default());
        let connection = Connection::open(&census, &accepted("192.0.2.1:1"), 9, None).unwrap();
        census.idle().await;
        let busy = connection.busy();
        let waiting = tokio::spawn({
            let census = Arc::clone(&census);
            async move { census.idle().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(busy);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn connections_can_be_cut() {
        let census = Arc::new(Census::default());
        let (held, ended) = tokio::sync::oneshot::channel::<()>();
        census.spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        census.spawn(async {});
        tokio::task::yield_now().await;
        census.cut();
        assert!(ended.await.is_err(), "what the task held is dropped");
        tokio::task::yield_now().await;
        assert!(census.tasks.lock().handles.is_empty());
    }

    #[tokio::test]
    async fn a_request_that_became_no_exchange_is_told_apart() {
        let census = Arc::new(Census::default());
        let connection = Connection::open(&census, &accepted("192.0.2.1:1"), 9, None).unwrap();
        let (peer, began) =
            with_connection(Arc::clone(&connection), async { begin_exchange().map(|it| it.peer) }).await;
        assert_eq!((peer, began), (Some(connection.peer), true));
        let ((), began) = with_connection(connection, async {}).await;
        assert!(!began);
        assert!(begin_exchange().is_none());
    }
}
