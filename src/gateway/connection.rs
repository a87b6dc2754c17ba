//! What is known of a client's connection before and between its requests: who it is, what it may hold open, whether it
//! is idle and for how long.
//! Not here: which exchange a request on it becomes (`current.rs`).

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// A client's connection; open as long as this lives.
#[derive(Debug)]
pub struct Connection {
    /// The other end, IPv4 in IPv6 as IPv4.
    pub peer: SocketAddr,
    /// Its address as text, for the instances.
    pub peer_address: HeaderValue,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Whether every request is sent to https.
    pub redirects_to_https: bool,
    census: Arc<Census>,
    counted_as: Option<IpAddr>,
    /// [`BUSY`], or the tick of the census' clock up to which the connection may stay idle.
    idle_until: Arc<AtomicU64>,
}

/// Not idle: never ended for waiting too long.
const BUSY: u64 = u64::MAX;

/// Idle no more: being ended.
const ENDING: u64 = 0;

/// Idle, and for too long whatever the clock shows.
const LONG_OVER: u64 = 1;

/// How often idle connections are looked at; an idle one may stay so much longer than it should.
const TICK: Duration = Duration::from_millis(500);

/// Tasks are found by number, in so many tables: looking at one of them keeps no others waiting.
const TASK_TABLES: u64 = 16;

/// How many connections are open, of whom, and how many of them are busy with a request.
#[derive(Debug, Default)]
pub struct Census {
    open: AtomicUsize,
    busy: AtomicUsize,
    by_client: Mutex<HashMap<IpAddr, usize>>,
    idle: Notify,
    tasks: [Mutex<HashMap<u64, Task>>; TASK_TABLES as usize],
    next_task: AtomicU64,
    /// Ticks since the first connection.
    clock: AtomicU64,
    clock_runs: AtomicBool,
    /// No connection may be idle any more.
    closing: AtomicBool,
}

/// The task of a connection, so that it can be ended.
#[derive(Debug)]
struct Task {
    handle: AbortHandle,
    idle_until: Arc<AtomicU64>,
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
pub struct Busy<'a>(&'a Census);

/// Facts of the connection that its owner knows when it is accepted.
pub struct Accepted {
    /// The other end.
    pub peer: SocketAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Whether every request is sent to https.
    pub redirects_to_https: bool,
    /// What [`Census::spawn`] gave to the connection's task.
    pub idle_until: Arc<AtomicU64>,
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
            // The text of an address is a header value always.
            peer_address: HeaderValue::try_from(peer.ip().to_string())
                .unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            scheme: accepted.scheme,
            redirects_to_https: accepted.redirects_to_https,
            census: Arc::clone(census),
            counted_as: None,
            idle_until: Arc::clone(&accepted.idle_until),
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
    pub fn busy(&self) -> Busy<'_> {
        self.census.busy.fetch_add(1, Ordering::AcqRel);
        Busy(&self.census)
    }

    /// From now on the connection is idle, and is ended after `timeout`. False: it may not be idle any more.
    pub fn begins_to_idle(&self, timeout: Duration) -> bool {
        let ticks = u64::try_from(timeout.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX / 2);
        // One tick more, because the present one has begun already.
        let until = self.census.clock.load(Ordering::Relaxed).saturating_add(ticks + 1).min(BUSY - 1);
        self.idle_until.store(until, Ordering::SeqCst);
        // Either this sees that the census closes, or the census sees that this is idle.
        !self.census.closing.load(Ordering::SeqCst)
    }

    /// Ends the connection within a tick, as if it had been idle for too long: what is under way on it is cut.
    pub fn ends(&self) {
        self.idle_until.store(LONG_OVER, Ordering::SeqCst);
    }

    /// The connection is idle no more. False: it is being ended already.
    pub fn stops_to_idle(&self) -> bool {
        self.idle_until.swap(BUSY, Ordering::SeqCst) != ENDING
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

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.census.table_of(self.number).lock().remove(&self.number);
    }
}

impl Task {
    /// Ends the connection if it is idle at `now`, and has been for too long.
    fn end_if_idle(&self, now: u64) {
        let until = self.idle_until.load(Ordering::SeqCst);
        // Whoever changes the state first has it: a connection that has begun to ask is answered.
        let is_over = until != BUSY && until <= now;
        if is_over && self.idle_until.compare_exchange(until, ENDING, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.handle.abort();
        }
    }
}

impl Census {
    /// Runs a connection in a task of its own, which [`Self::cut`] can end; the connection is told where it says that it is idle.
    pub fn spawn<F>(self: &Arc<Self>, connection: impl FnOnce(Arc<AtomicU64>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.run_clock();
        let number = self.next_task.fetch_add(1, Ordering::Relaxed);
        let idle_until = Arc::new(AtomicU64::new(BUSY));
        let connection = connection(Arc::clone(&idle_until));
        let known = Known { census: Arc::clone(self), number };
        // Locked until the handle is in: the task may end before this does.
        let mut tasks = self.table_of(number).lock();
        let task = tokio::spawn(async move {
            let _known = known;
            connection.await;
        });
        tasks.insert(number, Task { handle: task.abort_handle(), idle_until });
    }

    fn table_of(&self, number: u64) -> &Mutex<HashMap<u64, Task>> {
        &self.tasks[(number % TASK_TABLES) as usize]
    }

    /// Starts the clock with the first connection. One task for all of them: a timer a connection would be set anew with every request.
    fn run_clock(self: &Arc<Self>) {
        if self.clock_runs.swap(true, Ordering::Relaxed) {
            return;
        }
        let census = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                let Some(census) = census.upgrade() else { return };
                let now = census.clock.fetch_add(1, Ordering::Relaxed) + 1;
                census.end_idle(now);
            }
        });
    }

    fn end_idle(&self, now: u64) {
        for table in &self.tasks {
            table.lock().values().for_each(|task| task.end_if_idle(now));
        }
    }

    /// Ends every idle connection, and lets none become idle.
    pub fn close_idle(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.end_idle(BUSY - 1);
    }

    /// Ends every connection where it is; an exchange that is cut leaves its record.
    pub fn cut(&self) {
        for table in &self.tasks {
            table.lock().values().for_each(|task| task.handle.abort());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(peer: &str) -> Accepted {
        let idle_until = Arc::new(AtomicU64::new(BUSY));
        Accepted { peer: peer.parse().unwrap(), scheme: "http", redirects_to_https: false, idle_until }
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

    /// A connection that idles for ever in a task of the census; the receiver is told when the task is dropped.
    fn idling(census: &Arc<Census>, timeout: Duration) -> tokio::sync::oneshot::Receiver<()> {
        let (held, ended) = tokio::sync::oneshot::channel::<()>();
        let inner = Arc::clone(census);
        census.spawn(move |idle_until| async move {
            let _held = held;
            let accepted = Accepted { idle_until, ..accepted("192.0.2.1:1") };
            let connection = Connection::open(&inner, &accepted, 9, None).unwrap();
            if connection.begins_to_idle(timeout) {
                std::future::pending::<()>().await;
            }
        });
        ended
    }

    #[tokio::test]
    async fn an_idle_connection_is_ended_after_its_time_and_not_before() {
        let census = Arc::new(Census::default());
        let begin = std::time::Instant::now();
        let (short, mut long) = (idling(&census, Duration::from_secs(1)), idling(&census, Duration::from_secs(60)));
        assert!(short.await.is_err());
        let took = begin.elapsed();
        assert!(took >= Duration::from_secs(1) && took <= Duration::from_secs(4), "{took:?}");
        assert!(long.try_recv().is_err_and(|error| error == tokio::sync::oneshot::error::TryRecvError::Empty));
        assert_eq!(census.open(), 1);
    }

    #[tokio::test]
    async fn when_the_census_closes_nobody_is_idle_any_more() {
        let census = Arc::new(Census::default());
        let before = idling(&census, Duration::from_secs(60));
        tokio::task::yield_now().await;
        census.close_idle();
        assert!(before.await.is_err());
        assert!(idling(&census, Duration::from_secs(60)).await.is_err(), "not even one that came later");
    }

    #[test]
    fn a_connection_that_has_begun_to_ask_is_not_ended() {
        let census = Arc::new(Census::default());
        let connection = Connection::open(&census, &accepted("192.0.2.1:1"), 9, None).unwrap();
        assert!(connection.begins_to_idle(Duration::from_secs(1)));
        assert!(connection.stops_to_idle());
        assert_eq!(connection.idle_until.load(Ordering::SeqCst), BUSY);
        connection.idle_until.store(ENDING, Ordering::SeqCst);
        assert!(!connection.stops_to_idle());
    }

    #[tokio::test]
    async fn connections_can_be_cut() {
        let census = Arc::new(Census::default());
        let (held, ended) = tokio::sync::oneshot::channel::<()>();
        census.spawn(|_| async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        census.spawn(|_| async {});
        tokio::task::yield_now().await;
        census.cut();
        assert!(ended.await.is_err(), "what the task held is dropped");
        tokio::task::yield_now().await;
        assert!(census.tasks.iter().all(|table| table.lock().is_empty()));
    }
}
