//! What is counted of the store for metrics. Plain atomics; no part of the request's path waits here.
//! Not here: the names of the series (`metrics`). Figures go on when a reload changes the store.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::fault::FaultKind;

/// How a request was decided that the store gave no answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// In this process, by its share.
    Local,
    /// 503.
    Refuse,
    /// Admitted.
    Allow,
}

/// Upper bounds of the latency histogram in microseconds.
const BUCKETS: [u64; 10] = [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 250_000];

#[derive(Default)]
pub(super) struct Figures {
    /// One more than buckets: the last has no bound.
    latency: [AtomicU64; BUCKETS.len() + 1],
    latency_sum_us: AtomicU64,
    fallback: [AtomicU64; 3],
    failed: [AtomicU64; FaultKind::ALL.len()],
    opened: AtomicU64,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreState {
    /// Whether the store is asked.
    pub up: bool,
    /// Gateways that it has seen within the last minute.
    pub gateways: u32,
    /// How long decisions took.
    pub latency: LatencyState,
    /// Requests that were decided without it.
    pub fallback: [(&'static str, u64); 3],
    /// Failures by kind.
    pub errors: [(&'static str, u64); FaultKind::ALL.len()],
    /// How often the breaker opened.
    pub opened: u64,
}

/// A histogram of seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct LatencyState {
    /// Upper bound in seconds, and decisions that took at most so long.
    pub buckets: Vec<(f64, u64)>,
    /// Decisions.
    pub count: u64,
    /// Seconds of all of them.
    pub sum: f64,
}

impl Figures {
    pub fn decided(&self, took: Duration) {
        let took = took.as_micros() as u64;
        let bucket = BUCKETS.partition_point(|bound| *bound < took);
        self.latency[bucket].fetch_add(1, Ordering::Relaxed);
        self.latency_sum_us.fetch_add(took, Ordering::Relaxed);
    }

    pub fn fell_back(&self, to: Fallback) {
        self.fallback[to as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn failed(&self, kind: FaultKind) {
        self.failed[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    pub fn state(&self, up: bool, gateways: u32) -> StoreState {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mut count = 0;
        let mut cumulative = self.latency.iter().map(|bucket| {
            count += read(bucket);
            count
        });
        let buckets = BUCKETS.iter().zip(&mut cumulative).map(|(bound, count)| (*bound as f64 / 1e6, count)).collect();
        let all = cumulative.last().unwrap_or(0);
        let [local, refuse, allow] = [0, 1, 2].map(|place| read(&self.fallback[place]));
        StoreState {
            up,
            gateways,
            latency: LatencyState { buckets, count: all, sum: read(&self.latency_sum_us) as f64 / 1e6 },
            fallback: [("fallback_local", local), ("fallback_refuse", refuse), ("fallback_allow", allow)],
            errors: FaultKind::ALL.map(|kind| (kind.word(), read(&self.failed[kind as usize]))),
            opened: read(&self.opened),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_adds_up() {
        let figures = Figures::default();
        for micros in [50, 100, 101, 300_000] {
            figures.decided(Duration::from_micros(micros));
        }
        figures.fell_back(Fallback::Allow);
        figures.failed(FaultKind::Busy);
        let state = figures.state(true, 3);
        assert_eq!((state.latency.count, state.latency.buckets[0], state.latency.buckets[1].1), (4, (1e-4, 2), 3));
        assert_eq!(state.latency.buckets[9], (0.25, 3));
        assert_eq!((state.fallback[2], state.errors[4]), (("fallback_allow", 1), ("busy", 1)));
    }
}
