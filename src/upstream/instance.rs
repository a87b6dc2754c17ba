//! One address of a service, and what is counted about it; it outlives reloads that leave its address and the way to connect to it alone.
//! A `Try` is a request on its way to it: in flight until it has ended, however it did. Not here: its weight, which is the pool's.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use pingora_core::upstreams::peer::HttpPeer;

use super::latency::{Latency, PENALTY};

/// The success rate is over as many tries at most: the bits of a word.
const OUTCOMES: u64 = 64;

/// One address of a service.
#[derive(Debug)]
pub struct Instance {
    /// `address:port` as it is connected to; the label in log and metrics.
    pub label: Arc<str>,
    /// Where it is.
    pub address: SocketAddr,
    /// What a connection to it needs, time-outs included; cloned for every try.
    pub(super) peer: HttpPeer,
    healthy: AtomicBool,
    in_flight: AtomicU32,
    latency: Latency,
    requests: AtomicU64,
    failures: AtomicU64,
    /// The last outcomes, a bit each, newest lowest; 1 is a failure.
    outcomes: AtomicU64,
}

/// What is known about an instance now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// Its health checks succeed.
    Up,
    /// Its health checks fail; it gets no requests.
    Down,
    /// It has no health check.
    Unchecked,
}

/// A request at an instance: in flight until it ends or is dropped.
#[derive(Debug)]
pub struct Try {
    instance: Arc<Instance>,
    /// Where the requests of the whole service are counted, if anybody asks for them.
    service: Option<Arc<AtomicUsize>>,
    begun: Instant,
    is_open: bool,
}

impl Instance {
    pub(super) fn new(address: SocketAddr, peer: HttpPeer) -> Self {
        Self {
            label: address.to_string().into(),
            address,
            peer,
            healthy: AtomicBool::new(true),
            in_flight: AtomicU32::new(0),
            latency: Latency::new(Instant::now()),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            outcomes: AtomicU64::new(0),
        }
    }

    /// Whether it may get requests; until its first check it may.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    pub(super) fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }

    /// Tries, and those of them without an answer.
    pub fn counts(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }

    /// Tries that have not ended.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The mean time until the header of the last answers; none before the first.
    pub fn latency(&self) -> Option<Duration> {
        self.latency.mean()
    }

    /// The part of the last 64 tries that ended in an answer below 500; none before the first.
    pub fn success_rate(&self) -> Option<f64> {
        let tries = self.requests.load(Ordering::Relaxed).saturating_sub(u64::from(self.in_flight())).min(OUTCOMES);
        let failed = u64::from(self.outcomes.load(Ordering::Relaxed).count_ones()).min(tries);
        (tries > 0).then(|| 1.0 - failed as f64 / tries as f64)
    }

    /// What the next request is expected to cost here: the latency of late times the requests that share it.
    pub(super) fn cost(&self, now: Instant) -> f32 {
        let in_flight = self.in_flight() as f32;
        match self.latency.peak(now) {
            Some(micros) => micros * (in_flight + 1.0),
            // Nothing is known yet: one request finds out, and not all at once.
            None => PENALTY.as_micros() as f32 * in_flight,
        }
    }

    /// A peer for one try.
    pub fn peer(&self) -> Box<HttpPeer> {
        Box::new(self.peer.clone())
    }

    fn note(&self, failed: bool) {
        let outcomes = self.outcomes.load(Ordering::Relaxed);
        self.outcomes.store(outcomes << 1 | u64::from(failed), Ordering::Relaxed);
    }
}

impl Try {
    pub(super) fn begin(instance: &Arc<Instance>, service: Option<&Arc<AtomicUsize>>, now: Instant) -> Self {
        instance.requests.fetch_add(1, Ordering::Relaxed);
        instance.in_flight.fetch_add(1, Ordering::Relaxed);
        if let Some(service) = service {
            service.fetch_add(1, Ordering::Relaxed);
        }
        Self { instance: Arc::clone(instance), service: service.map(Arc::clone), begun: now, is_open: true }
    }

    /// The header of the final answer came.
    pub fn answered(&self, status: StatusCode) {
        let now = Instant::now();
        self.instance.latency.observe(now.duration_since(self.begun), now);
        self.instance.note(status.is_server_error());
    }

    /// It got no answer.
    pub fn failed(&self) {
        self.instance.failures.fetch_add(1, Ordering::Relaxed);
        self.instance.latency.penalise(Instant::now());
        self.instance.note(true);
    }

    /// It is not in flight any more.
    pub fn end(&mut self) {
        if std::mem::replace(&mut self.is_open, false) {
            self.instance.in_flight.fetch_sub(1, Ordering::Relaxed);
            if let Some(service) = &self.service {
                service.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

impl Deref for Try {
    type Target = Instance;
    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        self.end();
    }
}

impl InstanceState {
    /// The word in the admin API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Unchecked => "unchecked",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Arc<Instance> {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        Arc::new(Instance::new(address, HttpPeer::new(address, false, String::new())))
    }

    fn begin(instance: &Arc<Instance>) -> Try {
        Try::begin(instance, None, Instant::now())
    }

    #[test]
    fn a_try_is_in_flight_until_it_ends_once() {
        let instance = instance();
        let total = Arc::new(AtomicUsize::new(0));
        let mut first = Try::begin(&instance, Some(&total), Instant::now());
        let second = begin(&instance);
        assert_eq!((instance.in_flight(), total.load(Ordering::Relaxed)), (2, 1));
        first.end();
        first.end();
        drop(first);
        assert_eq!((instance.in_flight(), total.load(Ordering::Relaxed)), (1, 0));
        drop(second);
        assert_eq!(instance.in_flight(), 0);
    }

    #[test]
    fn the_success_rate_is_over_the_last_tries() {
        let instance = instance();
        assert_eq!(instance.success_rate(), None);
        begin(&instance).failed();
        assert_eq!(instance.success_rate(), Some(0.0));
        begin(&instance).answered(StatusCode::OK);
        begin(&instance).answered(StatusCode::NOT_FOUND);
        begin(&instance).answered(StatusCode::BAD_GATEWAY);
        assert_eq!(instance.success_rate(), Some(0.5));
        (0..64).for_each(|_| begin(&instance).answered(StatusCode::OK));
        assert_eq!(instance.success_rate(), Some(1.0));
        assert_eq!(instance.counts(), (68, 1));
    }

    #[test]
    fn what_is_not_known_yet_is_asked_once() {
        let (instance, now) = (instance(), Instant::now());
        assert_eq!(instance.cost(now), 0.0);
        let first = begin(&instance);
        assert!(instance.cost(now) >= 1e6);
        first.answered(StatusCode::OK);
        assert!(instance.cost(Instant::now()) < 1e6);
    }
}
