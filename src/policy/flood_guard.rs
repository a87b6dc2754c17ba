//! Flood guard: refuses single addresses that send far too much, first of all checks and in constant memory.
//! An estimate, not a limit: it counts in fixed windows and may count too much, never too little, so what must be exact is a `limit`.
//! `pingora_limits::rate::Rate` is not used: a thread that is delayed around the end of a window makes it panic or clear its counts, and it can't
//! say when the window ends. Its estimator is, below windows of our own.
//! Memory: 5 x 131,072 counters of 8 bytes, twice (the window that counts and the next): 10.5 MB, however many addresses there are.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pingora_limits::estimator::Estimator;

use crate::config;
use crate::refusal::Refusal;

/// With 100,000 addresses in a window a counter is shared with 0.76 others on average. An address at half of what is admitted is refused
/// when in all five rows it meets two others that are at half, too: 0.178^5, in fewer than 1 of 5,000 windows.
const HASHES: usize = 5;
const SLOTS: usize = 1 << 17;

/// Shorter windows would be refused when the configuration is read; here they are made this long.
const WINDOW_MIN: Duration = Duration::from_secs(1);

/// The flood guard of the whole gateway.
#[derive(Clone)]
pub struct FloodGuard {
    requests: isize,
    windows: Arc<Windows>,
}

/// Two estimators by turns: one counts the present window while the other waits, empty, for the next.
struct Windows {
    estimators: [Estimator; 2],
    window: Duration,
    origin: Instant,
    /// The window that counts, since `origin`. Its lowest bit says which estimator that is.
    present: AtomicU64,
    /// The last window that a request has begun to change to; only the one that raises it clears the estimator.
    claimed: AtomicU64,
}

impl FloodGuard {
    /// Compiles `flood_guard`; keeps what was counted where the window is the same as in `previous`.
    pub fn compile(config: config::FloodGuard, previous: Option<&Self>) -> Self {
        let window = config.window.0.max(WINDOW_MIN);
        let windows = match previous {
            Some(previous) if previous.windows.window == window => Arc::clone(&previous.windows),
            _ => Arc::new(Windows::new(window, SLOTS)),
        };
        Self { requests: config.requests as isize, windows }
    }

    /// Counts a request, and refuses it when its address has sent more than is admitted in this window. An IPv6 /64 counts as one address.
    ///
    /// # Errors
    /// `FloodGuard`, with the time until the window ends.
    pub fn admit(&self, ip: IpAddr) -> Result<(), Refusal> {
        self.admit_at(ip, self.windows.origin.elapsed())
    }

    fn admit_at(&self, ip: IpAddr, now: Duration) -> Result<(), Refusal> {
        let (seen, window_ends) = self.windows.observe(counted_as(ip), now);
        // A counter that ran over turns negative: that is too many as well.
        if (0..=self.requests).contains(&seen) {
            return Ok(());
        }
        let wait = window_ends.saturating_sub(now);
        let retry_after_seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Err(Refusal::FloodGuard { retry_after_seconds: retry_after_seconds.max(1) })
    }
}

impl Windows {
    fn new(window: Duration, slots: usize) -> Self {
        Self {
            estimators: [Estimator::new(HASHES, slots), Estimator::new(HASHES, slots)],
            window,
            origin: Instant::now(),
            present: AtomicU64::new(0),
            claimed: AtomicU64::new(0),
        }
    }

    /// Counts one request; gives the estimate of the address in this window, and when the window ends.
    fn observe(&self, address: u64, now: Duration) -> (isize, Duration) {
        let window = self.window.as_nanos();
        let number = u64::try_from(now.as_nanos() / window).unwrap_or(u64::MAX);
        let ends = Duration::from_nanos(u64::try_from((u128::from(number) + 1) * window).unwrap_or(u64::MAX));
        self.turn_to(number);
        let present = self.present.load(Ordering::Acquire);
        (self.estimators[(present & 1) as usize].incr(address, 1), ends)
    }

    /// Makes `number` the present window, unless it or a later one is. A request that read the clock just before another turned the window counts in
    /// the new one; requests that come while the one that turns is clearing still count in the old one, so none goes uncounted and nobody waits.
    fn turn_to(&self, number: u64) {
        let claimed = self.claimed.load(Ordering::Acquire);
        if number <= claimed {
            return;
        }
        // The winner may clear only what nobody counts in: not before the last turn is complete.
        if self.present.load(Ordering::Acquire) >> 1 != claimed
            || self.claimed.compare_exchange(claimed, number, Ordering::AcqRel, Ordering::Acquire).is_err()
        {
            return;
        }
        let next = (self.present.load(Ordering::Acquire) & 1) ^ 1;
        self.estimators[next as usize].reset();
        self.present.store(number << 1 | next, Ordering::Release);
    }
}

/// What is counted together: an IPv4 address (also one written as IPv6), or the first 64 bits of an IPv6 address.
fn counted_as(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        // No routed IPv6 network begins with 32 zero bits, so it can't meet an IPv4 address.
        IpAddr::V6(ip) => (u128::from(ip) >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;

    const SECOND: Duration = Duration::from_secs(1);

    fn guard(requests: u32, window: Duration) -> FloodGuard {
        FloodGuard::compile(config::FloodGuard { requests, window: Span(window) }, None)
    }

    fn refused_at(guard: &FloodGuard, ip: &str, now: Duration) -> Option<u64> {
        match guard.admit_at(ip.parse().unwrap(), now) {
            Ok(()) => None,
            Err(Refusal::FloodGuard { retry_after_seconds }) => Some(retry_after_seconds),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_address_is_refused_until_its_window_ends() {
        let guard = guard(3, SECOND * 10);
        for _ in 0..3 {
            assert_eq!(refused_at(&guard, "192.0.2.1", SECOND * 2), None);
        }
        assert_eq!(refused_at(&guard, "192.0.2.1", SECOND * 2), Some(8));
        assert_eq!(refused_at(&guard, "192.0.2.1", Duration::from_millis(9_001)), Some(1));
        assert_eq!(refused_at(&guard, "192.0.2.2", SECOND * 3), None);
        assert_eq!(refused_at(&guard, "192.0.2.1", SECOND * 10), None);
    }

    #[test]
    fn addresses_are_counted_by_network() {
        let guard = guard(1, SECOND);
        for (first, second, together) in [
            ("2001:db8::1", "2001:db8::ffff:2", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("198.51.100.1", "198.51.100.2", false),
        ] {
            assert_eq!(refused_at(&guard, first, Duration::ZERO), None, "{first}");
            assert_eq!(refused_at(&guard, second, Duration::ZERO).is_some(), together, "{first} {second}");
        }
    }

    #[test]
    fn windows_that_were_skipped_leave_nothing() {
        let guard = guard(1, SECOND);
        for n in [0, 1, 2, 5, 7, 1_000_000] {
            assert_eq!(refused_at(&guard, "192.0.2.1", SECOND * n), None, "window {n}");
            assert_eq!(refused_at(&guard, "192.0.2.1", SECOND * n), Some(1), "window {n}");
        }
    }

    #[test]
    fn a_late_thread_counts_in_the_present_window() {
        let guard = guard(1, SECOND);
        assert_eq!(refused_at(&guard, "192.0.2.1", SECOND * 5), None);
        assert!(refused_at(&guard, "192.0.2.1", SECOND * 4).is_some());
        assert!(refused_at(&guard, "192.0.2.1", SECOND * 5).is_some());
    }

    #[test]
    fn too_short_windows_become_one_second() {
        assert_eq!(guard(1, Duration::from_millis(1)).windows.window, SECOND);
        assert_eq!(guard(1, Duration::ZERO).windows.window, SECOND);
    }

    #[test]
    fn counts_are_kept_where_the_window_is_the_same() {
        let config = |requests, seconds| config::FloodGuard { requests, window: Span::seconds(seconds) };
        let first = guard(1, SECOND * 10);
        assert_eq!(refused_at(&first, "192.0.2.1", SECOND), None);
        let same = FloodGuard::compile(config(1, 10), Some(&first));
        assert!(refused_at(&same, "192.0.2.1", SECOND).is_some());
        let more = FloodGuard::compile(config(5, 10), Some(&first));
        assert_eq!(refused_at(&more, "192.0.2.1", SECOND), None);
        let other = FloodGuard::compile(config(1, 20), Some(&first));
        assert_eq!(refused_at(&other, "192.0.2.1", SECOND), None);
    }

    #[test]
    fn the_clock_of_the_process_is_used() {
        let guard = guard(2, SECOND * 3600);
        let ip = "192.0.2.1".parse().unwrap();
        assert!(guard.admit(ip).is_ok() && guard.admit(ip).is_ok() && guard.admit(ip).is_err());
    }

    /// Counts with `weight` requests of every address at once; the estimates are those of single requests.
    fn refused_windows(addresses: u32, others: isize, half: isize, windows: &Windows) -> (u32, u32) {
        let estimator = &windows.estimators[0];
        estimator.reset();
        for address in 0..addresses {
            estimator.incr(u64::from(address), others);
        }
        // Watched addresses beside the others, each alone: what they send themselves is `half`.
        let watched = 20_000;
        let refused = (0..watched).filter(|n| estimator.get(u64::from(u32::MAX - n)) + half > 2 * half).count();
        (refused as u32, watched)
    }

    #[test]
    fn one_at_half_its_rate_among_100_000_addresses_is_refused_in_fewer_than_1_of_1_000_windows() {
        let windows = Windows::new(SECOND, SLOTS);
        // Small and large limits, the others sending one request each or, worst, every one at half its rate.
        for (others, half) in [(1, 2), (1, 5), (1, 250), (250, 250)] {
            let (refused, of) = (0..5)
                .map(|_| refused_windows(100_000, others, half, &windows))
                .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
            assert!(refused * 1_000 < of, "others {others}, half {half}: {refused} of {of}");
        }
    }

    #[test]
    fn every_one_of_100_000_addresses_at_half_its_rate_is_admitted() {
        let guard = guard(4, SECOND);
        let mut refused = std::collections::HashSet::new();
        for _ in 0..2 {
            for address in 0..100_000_u32 {
                if guard.admit_at(IpAddr::V4((0x0a00_0000 + address).into()), Duration::ZERO).is_err() {
                    refused.insert(address);
                }
            }
        }
        assert!(refused.len() < 100, "{} of 100,000", refused.len());
    }

    #[test]
    fn threads_around_the_end_of_windows_neither_panic_nor_admit_much_more() {
        let guard = guard(100, SECOND);
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let guard = guard.clone();
                std::thread::spawn(move || {
                    let at = |n: u64| Duration::from_micros(n * 500);
                    (0..20_000).filter(|n| guard.admit_at(ip, at(*n)).is_ok()).count()
                })
            })
            .collect();
        let admitted: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        // 10 windows of 2,000 requests a thread. Late threads count in the present window; one that was delayed by
        // a whole window between reading which counts and counting may count in the wrong one, hence the tolerance.
        assert!((100..=1_004).contains(&admitted), "{admitted}");
    }
}
