//! Load: many connections that send the same request again and again, and a tally of what came back.
//! Nothing is tried again behind the test's back: what a client would see as a failure is counted as one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::{JoinHandle, JoinSet};

use super::{Answer, Wire};

/// What came back.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answers by status.
    pub statuses: BTreeMap<u16, usize>,
    /// Requests without a whole answer, and why.
    pub failures: Vec<String>,
}

/// A load that can be started, left running, and stopped.
#[derive(Clone)]
pub struct Load {
    address: SocketAddr,
    request: Arc<str>,
    fresh: bool,
}

/// A load that runs until it is stopped.
pub struct Running {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    tasks: JoinSet<Tally>,
}

impl Tally {
    pub fn answered(&self) -> usize {
        self.statuses.values().sum()
    }

    /// Answers with this status.
    pub fn of(&self, status: u16) -> usize {
        self.statuses.get(&status).copied().unwrap_or_default()
    }

    /// Fails unless every request was answered with this status.
    pub fn all(&self, status: u16) {
        assert!(self.failures.is_empty(), "{} failures, first: {}", self.failures.len(), self.failures[0]);
        assert_eq!(self.of(status), self.answered(), "{:?}", self.statuses);
        assert!(self.answered() > 0, "no request was sent");
    }

    /// Fails when a request was lost that the gateway may have seen: only connections that were refused,
    /// or ended before the first byte of an answer, are forgiven.
    pub fn only_closed(&self) {
        for failure in &self.failures {
            let harmless = ["Connection refused", "Connection reset", "Broken pipe", "closed after ``"];
            assert!(harmless.iter().any(|harmless| failure.contains(harmless)), "{failure}");
        }
    }

    fn count(&mut self, outcome: std::io::Result<Answer>) -> Option<Answer> {
        match outcome {
            Ok(answer) => {
                *self.statuses.entry(answer.status).or_default() += 1;
                Some(answer)
            }
            Err(error) => {
                self.failures.push(error.to_string());
                None
            }
        }
    }

    fn add(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.failures.extend(other.failures);
    }
}

impl Load {
    /// `GET path` with these header lines, each ended by CRLF.
    pub fn get(address: SocketAddr, path: &str, lines: &str) -> Self {
        let request = format!("GET {path} HTTP/1.1\r\nHost: gateway.example\r\n{lines}\r\n");
        Self { address, request: request.into(), fresh: false }
    }

    /// A new connection for every request.
    pub fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }

    /// Sends so many requests over so many connections.
    pub async fn run(&self, connections: usize, requests: usize) -> Tally {
        let left = Arc::new(AtomicUsize::new(requests));
        let take = move || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        let answered = Arc::default();
        gather(self.spawn(connections, take, &answered)).await
    }

    /// Sends over so many connections until it is stopped.
    pub fn start(&self, connections: usize) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let answered = Arc::default();
        let tasks = self.spawn(connections, move || !seen.load(Ordering::Relaxed), &answered);
        Running { stop, answered, tasks }
    }

    fn spawn(
        &self,
        connections: usize,
        take: impl Fn() -> bool + Clone + Send + 'static,
        answered: &Arc<AtomicUsize>,
    ) -> JoinSet<Tally> {
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            tasks.spawn(self.clone().connection(take.clone(), Arc::clone(answered)));
        }
        tasks
    }

    async fn connection(self, take: impl Fn() -> bool, answered: Arc<AtomicUsize>) -> Tally {
        let mut tally = Tally::default();
        let mut wire = None;
        while take() {
            let open = match wire.take() {
                Some(open) => Ok(open),
                None => Wire::try_open(self.address).await,
            };
            let outcome = match open {
                Ok(open) => ask(open, &self.request).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok((open, answer)) => {
                    let closes = answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
                    wire = (!self.fresh && !closes).then_some(open);
                    tally.count(Ok(answer));
                    answered.fetch_add(1, Ordering::Relaxed);
                    if self.fresh {
                        // Closed connections hold their port for a minute; all tests share the ports.
                        tokio::time::sleep(super::milliseconds(4)).await;
                    }
                }
                Err(error) => {
                    tally.count(Err(error));
                    // A gateway that is gone must not be asked a million times.
                    tokio::time::sleep(super::milliseconds(20)).await;
                }
            }
        }
        tally
    }
}

impl Running {
    /// Answers so far.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Lets requests in flight finish, and counts.
    pub async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        gather(self.tasks).await
    }
}

/// Opens so many connections, then sends one request on each at the same moment.
pub async fn burst(address: SocketAddr, count: usize, request: &str) -> Tally {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let mut wires = Vec::with_capacity(count);
    for _ in 0..count {
        wires.push(Wire::open(address).await);
    }
    let request: Arc<str> = request.into();
    let gate = Arc::new(tokio::sync::Barrier::new(count));
    let mut tasks: Vec<JoinHandle<std::io::Result<Answer>>> = Vec::with_capacity(count);
    for wire in wires {
        let (request, gate) = (Arc::clone(&request), Arc::clone(&gate));
        tasks.push(tokio::spawn(async move {
            gate.wait().await;
            ask(wire, &request).await.map(|(_, answer)| answer)
        }));
    }
    let mut tally = Tally::default();
    for task in tasks {
        tally.count(task.await.expect("a client"));
    }
    tally
}

async fn ask(mut wire: Wire, request: &str) -> std::io::Result<(Wire, Answer)> {
    wire.try_send(request).await?;
    let answer = wire.try_answer("GET").await?;
    Ok((wire, answer))
}

async fn gather(mut tasks: JoinSet<Tally>) -> Tally {
    let mut tally = Tally::default();
    while let Some(one) = tasks.join_next().await {
        tally.add(one.expect("a client"));
    }
    tally
}
