//! One address of a service, and what is counted about it.
//! Whether it is healthy is found out by `health.rs`, and kept here, where selection reads it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pingora_core::upstreams::peer::HttpPeer;

/// One address of a service.
#[derive(Debug)]
pub struct Instance {
    /// `address:port` as it is connected to; the label in log and metrics.
    pub label: Arc<str>,
    /// Where it is.
    pub address: SocketAddr,
    /// Its share of the requests.
    pub weight: u16,
    /// What a connection to it needs, time-outs included; cloned for every try.
    pub(super) peer: HttpPeer,
    healthy: AtomicBool,
    requests: AtomicU64,
    failures: AtomicU64,
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

impl Instance {
    pub(super) fn new(address: SocketAddr, weight: u16, peer: HttpPeer) -> Self {
        Self {
            label: address.to_string().into(),
            address,
            weight,
            peer,
            healthy: AtomicBool::new(true),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// Whether it may get requests; until its first check it may.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    pub(super) fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }

    /// Counts one try at this instance.
    pub fn tried(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one try that got no answer.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Tries, and those of them without an answer.
    pub fn counts(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }

    /// A peer for one try.
    pub fn peer(&self) -> Box<HttpPeer> {
        Box::new(self.peer.clone())
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
