//! One address of a service, and what is counted about it; it outlives reloads that leave its address and the way to connect to it alone.
//! A `Try` is a request on its way to it: in flight until it has ended, however it did. Not here: its weight, which is the pool's.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::Mutex;
use pingora_core::upstreams::peer::HttpPeer;
use tokio::sync::watch;

use super::address::Address;
use super::condition::{Change, Check, Condition, DOWN, DRAINED, EJECTED, UNPROVEN};
use super::health::Checks;
use super::latency::{Latency, PENALTY};
use crate::config::Eject;

/// The success rate is over as many tries at most: the bits of a word.
const OUTCOMES: u64 = 64;
/// A slow start begins with this part of the share.
const SHARE_MIN: f32 = 0.05;

/// One address of a service.
#[derive(Debug)]
pub struct Instance {
    /// `address:port` as it is connected to; the label in log and metrics.
    pub label: Arc<str>,
    /// Where it is.
    pub address: Address,
    /// What a connection to it needs, time-outs included; cloned for every try.
    pub(super) peer: HttpPeer,
    /// What selection reads of `condition`.
    flags: AtomicU8,
    condition: Mutex<Condition>,
    /// Tries in a row that failed, as `eject` counts them.
    strikes: AtomicU32,
    slow_start: SlowStart,
    /// Until when upgraded connections may go on, where it is drained.
    tunnels_until: watch::Sender<Option<Instant>>,
    pub(super) checks: Checks,
    in_flight: AtomicU32,
    latency: Latency,
    requests: AtomicU64,
    failures: AtomicU64,
    /// Tries whose connection was made for them, and those that found one in the pool.
    connections: [AtomicU64; 2],
    /// The last outcomes, a bit each, newest lowest; 1 is a failure.
    outcomes: AtomicU64,
}

/// When the share of an instance began to grow, and how long that takes; in milliseconds, 0 when it does not.
#[derive(Debug)]
struct SlowStart {
    epoch: Instant,
    begun: AtomicU64,
    length: AtomicU64,
}

/// A request at an instance: in flight until it ends or is dropped.
#[derive(Debug)]
pub struct Try {
    instance: Arc<Instance>,
    /// Where the requests of the whole service are counted, if anybody asks for them.
    service: Option<Arc<AtomicUsize>>,
    begun: Instant,
    is_open: bool,
    outcome: Outcome,
}

/// What became of a try so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Unknown,
    /// The header of the answer came; its body may still break off.
    Answered {
        well: bool,
    },
    Failed,
}

impl Instance {
    pub(super) fn new(address: Address, peer: HttpPeer, check: Check) -> Self {
        let condition = Condition::new(check);
        let now = Instant::now();
        Self {
            label: address.to_string().into(),
            address,
            peer,
            flags: AtomicU8::new(condition.flags()),
            condition: Mutex::new(condition),
            strikes: AtomicU32::new(0),
            slow_start: SlowStart { epoch: now, begun: AtomicU64::new(0), length: AtomicU64::new(0) },
            tunnels_until: watch::Sender::new(None),
            checks: Checks::default(),
            in_flight: AtomicU32::new(0),
            latency: Latency::new(now),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            connections: Default::default(),
            outcomes: AtomicU64::new(0),
        }
    }

    /// Whether nothing of these is known about it.
    pub(super) fn is_none_of(&self, flags: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & flags == 0
    }

    /// Whether nothing speaks against sending it requests.
    pub fn is_ready(&self) -> bool {
        self.is_none_of(DOWN | UNPROVEN | EJECTED | DRAINED)
    }

    pub(super) fn is_unproven(&self) -> bool {
        !self.is_none_of(UNPROVEN)
    }

    /// What is known about its condition, and why.
    pub fn condition(&self) -> Condition {
        self.condition.lock().clone()
    }

    /// Changes the condition, and with it what selection reads.
    fn with_condition<T>(&self, change: impl FnOnce(&mut Condition) -> T) -> T {
        let mut condition = self.condition.lock();
        let result = change(&mut condition);
        self.flags.store(condition.flags(), Ordering::Relaxed);
        result
    }

    pub(super) fn expect_checks(&self, expected: bool) {
        self.with_condition(|condition| condition.expect_checks(expected));
    }

    pub(super) fn checked(&self, problem: Option<String>, took: Duration, threshold: usize) -> Option<Change> {
        self.with_condition(|condition| condition.checked(problem, took, threshold))
    }

    /// Ejected for as long as is returned.
    pub(super) fn eject(&self, eject: &Eject, why: &str, now: Instant) -> Duration {
        self.strikes.store(0, Ordering::Relaxed);
        self.with_condition(|condition| condition.eject(eject, why, now))
    }

    pub(super) fn readmit(&self) {
        self.strikes.store(0, Ordering::Relaxed);
        self.with_condition(Condition::readmit);
    }

    /// It gets no new requests, for this reason. Those under way finish; upgraded connections may take as long as `tunnels` for that.
    pub(super) fn drain(&self, why: &str, tunnels: Duration) {
        self.with_condition(|condition| condition.drain(why));
        let until = Instant::now() + tunnels;
        self.tunnels_until.send_modify(|deadline| _ = deadline.get_or_insert(until));
    }

    /// It is used again; whether it was not.
    pub(super) fn undrain(&self) -> bool {
        self.tunnels_until.send_replace(None);
        self.with_condition(Condition::undrain)
    }

    pub(super) fn is_drained(&self) -> bool {
        !self.is_none_of(DRAINED)
    }

    /// Waits until an upgraded connection to it has to end, because it is drained.
    pub fn tunnels_end(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut until = self.tunnels_until.subscribe();
        async move {
            loop {
                let deadline = *until.borrow_and_update();
                let over = async {
                    match deadline {
                        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = over => return,
                    changed = until.changed() => if changed.is_err() { return },
                }
            }
        }
    }

    /// One more try in a row failed; how many that are.
    pub(super) fn strike(&self) -> u32 {
        self.strikes.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Its share grows from now on, if it is to.
    pub(super) fn begin_slow_start(&self, length: Option<Duration>) {
        let Some(length) = length else { return };
        self.slow_start.length.store((length.as_millis() as u64).max(1), Ordering::Relaxed);
        self.slow_start.begun.store((self.slow_start.epoch.elapsed().as_millis() as u64).max(1), Ordering::Relaxed);
    }

    /// The part of its share that it gets now, more than 0 and at most 1.
    pub fn share(&self) -> f32 {
        let begun = self.slow_start.begun.load(Ordering::Relaxed);
        if begun == 0 {
            return 1.0;
        }
        let elapsed = (self.slow_start.epoch.elapsed().as_millis() as u64).saturating_sub(begun);
        let share = elapsed as f32 / self.slow_start.length.load(Ordering::Relaxed).max(1) as f32;
        if share >= 1.0 {
            self.slow_start.begun.store(0, Ordering::Relaxed);
        }
        share.clamp(SHARE_MIN, 1.0)
    }

    /// Tries, and those of them without an answer.
    pub fn counts(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }

    /// Tries whose connection was made for them, and those that found one in the pool.
    pub fn connections(&self) -> [u64; 2] {
        self.connections.each_ref().map(|count| count.load(Ordering::Relaxed))
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

    /// A whole answer ends a row of failures; nearly always there is none, and this only looks.
    fn answered_whole(&self, well: bool) {
        self.note(!well);
        if self.strikes.load(Ordering::Relaxed) != 0 {
            self.strikes.store(0, Ordering::Relaxed);
        }
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
        Self {
            instance: Arc::clone(instance),
            service: service.map(Arc::clone),
            begun: now,
            is_open: true,
            outcome: Outcome::Unknown,
        }
    }

    /// It has its connection.
    pub fn connected(&self, reused: bool) {
        self.instance.connections[usize::from(reused)].fetch_add(1, Ordering::Relaxed);
    }

    /// The header of the final answer came.
    pub(super) fn answered(&mut self, status: StatusCode, is_failure: bool) {
        let now = Instant::now();
        self.instance.latency.observe(now.duration_since(self.begun), now);
        if is_failure {
            self.instance.note(true);
            self.outcome = Outcome::Failed;
        } else {
            self.outcome = Outcome::Answered { well: !status.is_server_error() };
        }
    }

    /// It got no answer, or half of one.
    pub(super) fn failed(&mut self) {
        self.instance.failures.fetch_add(1, Ordering::Relaxed);
        self.instance.latency.penalise(Instant::now());
        self.instance.note(true);
        self.outcome = Outcome::Failed;
    }

    pub(super) fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// When it began.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// It is not in flight any more; whether it was until now.
    pub fn end(&mut self) -> bool {
        let was_open = std::mem::replace(&mut self.is_open, false);
        if was_open {
            self.instance.in_flight.fetch_sub(1, Ordering::Relaxed);
            if let Outcome::Answered { well } = self.outcome {
                self.instance.answered_whole(well);
            }
            if let Some(service) = &self.service {
                service.fetch_sub(1, Ordering::Relaxed);
            }
        }
        was_open
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn instance() -> Arc<Instance> {
        let address = Address::Inet(([127, 0, 0, 1], 1).into());
        let peer = HttpPeer::new((Ipv4Addr::LOCALHOST, 1), false, String::new());
        Arc::new(Instance::new(address, peer, Check::None))
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
        begin(&instance).answered(StatusCode::OK, false);
        begin(&instance).answered(StatusCode::NOT_FOUND, false);
        begin(&instance).answered(StatusCode::BAD_GATEWAY, false);
        assert_eq!(instance.success_rate(), Some(0.5));
        (0..64).for_each(|_| begin(&instance).answered(StatusCode::OK, false));
        assert_eq!(instance.success_rate(), Some(1.0));
        assert_eq!(instance.counts(), (68, 1));
    }

    #[test]
    fn what_is_not_known_yet_is_asked_once() {
        let (instance, now) = (instance(), Instant::now());
        assert_eq!(instance.cost(now), 0.0);
        let mut first = begin(&instance);
        assert!(instance.cost(now) >= 1e6);
        first.answered(StatusCode::OK, false);
        assert!(instance.cost(Instant::now()) < 1e6);
    }

    #[test]
    fn a_row_of_failures_ends_with_a_whole_answer() {
        let instance = instance();
        let mut cut = begin(&instance);
        cut.answered(StatusCode::OK, false);
        cut.failed(); // in the middle of its body
        assert_eq!(instance.strike(), 1);
        drop(cut);
        assert_eq!(instance.strike(), 2);
        begin(&instance).answered(StatusCode::INTERNAL_SERVER_ERROR, false);
        assert_eq!(instance.strike(), 1, "an answer is no failure unless its status is one");
    }

    #[test]
    fn a_share_grows_to_the_whole() {
        let instance = instance();
        assert_eq!(instance.share(), 1.0);
        instance.begin_slow_start(Some(Duration::from_millis(200)));
        assert!(instance.share() < 0.5);
        std::thread::sleep(Duration::from_millis(250));
        assert_eq!(instance.share(), 1.0);
    }
}
