//! Outcomes of the last seconds, in ten buckets: what a breaker's ratios are taken over.
//! Pure: time comes with every call. The window is the bucket of now and the nine before it.

use std::time::{Duration, Instant};

/// Buckets of a window.
pub(super) const BUCKETS: u64 = 10;

/// What ended in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All requests.
    pub total: u32,
    /// Those that failed.
    pub failed: u32,
    /// Those that were slow.
    pub slow: u32,
}

/// The counts of the last seconds.
#[derive(Clone, Debug)]
pub struct Window {
    bucket: Duration,
    origin: Instant,
    /// The number of the newest bucket since the origin.
    newest: u64,
    counts: [Counts; BUCKETS as usize],
}

impl Window {
    /// Nothing so far, over a time of `length`.
    pub fn new(length: Duration, origin: Instant) -> Self {
        let bucket = (length / BUCKETS as u32).max(Duration::from_millis(1));
        Self { bucket, origin, newest: 0, counts: Default::default() }
    }

    /// Counts one request; what is in the window with it.
    pub fn note(&mut self, failed: bool, slow: bool, now: Instant) -> Counts {
        self.advance(now);
        let counts = &mut self.counts[(self.newest % BUCKETS) as usize];
        counts.total = counts.total.saturating_add(1);
        counts.failed = counts.failed.saturating_add(u32::from(failed));
        counts.slow = counts.slow.saturating_add(u32::from(slow));
        self.sum()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts = Default::default();
    }

    fn advance(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.origin);
        let number = u64::try_from(since.as_nanos() / self.bucket.as_nanos()).unwrap_or(u64::MAX);
        for stale in (self.newest + 1..=number).take(BUCKETS as usize) {
            self.counts[(stale % BUCKETS) as usize] = Counts::default();
        }
        self.newest = self.newest.max(number);
    }

    fn sum(&self) -> Counts {
        self.counts.iter().fold(Counts::default(), |sum, one| Counts {
            total: sum.total.saturating_add(one.total),
            failed: sum.failed.saturating_add(one.failed),
            slow: sum.slow.saturating_add(one.slow),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let begin = Instant::now();
        let mut window = Window::new(Duration::from_secs(10), begin);
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        window.note(true, false, at(0));
        window.note(false, true, at(5));
        assert_eq!(window.note(true, false, at(9)), Counts { total: 3, failed: 2, slow: 1 });
        assert_eq!(window.note(true, false, at(10)), Counts { total: 3, failed: 2, slow: 1 });
        assert_eq!(window.note(true, false, at(15)), Counts { total: 3, failed: 3, slow: 0 });
        assert_eq!(window.note(false, false, at(1_000)), Counts { total: 1, failed: 0, slow: 0 });
    }
}
