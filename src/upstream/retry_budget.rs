//! How many retries a service bears: a part of its requests of the last ten seconds, and a few that are always admitted.
//! When everything fails, retries would multiply the load just where it hurts; this bounds what they add.
//! Not here: which request is worth a retry (`policy/retry.rs`).

use std::time::Instant;

use parking_lot::Mutex;

/// Seconds over which requests and retries are counted.
const SECONDS: u64 = 10;

/// The budget of one service, shared by its routes.
#[derive(Debug)]
pub struct RetryBudget {
    origin: Instant,
    counts: Mutex<Counts>,
}

/// Requests and retries of the last seconds. Pure: time is a number of seconds.
#[derive(Debug, Default)]
struct Counts {
    newest: u64,
    requests: [u32; SECONDS as usize],
    retries: [u32; SECONDS as usize],
}

impl RetryBudget {
    /// Counts the first try of a request.
    pub fn request(&self, now: Instant) {
        self.counts.lock().request(self.second(now));
    }

    /// Takes one retry, if `percent` of the requests and `floor` more leave one.
    pub fn retry(&self, (percent, floor): (u32, u32), now: Instant) -> bool {
        self.counts.lock().retry(percent, floor, self.second(now))
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_secs()
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { origin: Instant::now(), counts: Mutex::default() }
    }
}

impl Counts {
    fn advance(&mut self, second: u64) -> usize {
        for stale in (self.newest + 1..=second).take(SECONDS as usize) {
            let place = (stale % SECONDS) as usize;
            (self.requests[place], self.retries[place]) = (0, 0);
        }
        self.newest = self.newest.max(second);
        (self.newest % SECONDS) as usize
    }

    fn request(&mut self, second: u64) {
        let place = self.advance(second);
        self.requests[place] = self.requests[place].saturating_add(1);
    }

    fn retry(&mut self, percent: u32, floor: u32, second: u64) -> bool {
        let place = self.advance(second);
        let sum = |counts: &[u32]| counts.iter().map(|count| u64::from(*count)).sum::<u64>();
        let admitted = sum(&self.requests) * u64::from(percent) / 100 + u64::from(floor);
        let is_left = sum(&self.retries) < admitted;
        self.retries[place] += u32::from(is_left);
        is_left
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn with_every_instance_failing_load_grows_by_no_more_than_the_budget() {
        for (requests_per_second, attempts) in [(1_u64, 4), (20, 3), (500, 10)] {
            let (mut counts, mut tries, mut requests) = (Counts::default(), 0_u64, 0_u64);
            for second in 0..120 {
                for _ in 0..requests_per_second {
                    requests += 1;
                    counts.request(second);
                    // Every try fails, and wants another one.
                    tries += 1 + (1..attempts).take_while(|_| counts.retry(20, 10, second)).count() as u64;
                }
            }
            // In any ten seconds a fifth more, and ten.
            let most = requests + requests / 5 + 10 * 120 / SECONDS;
            assert!(tries <= most, "{tries} tries for {requests} requests, at most {most}");
            assert!(tries >= requests + (requests / 5).min(100), "what is admitted is used: {tries} for {requests}");
        }
    }

    #[test]
    fn a_quiet_service_has_its_floor_again_after_ten_seconds() {
        let mut counts = Counts::default();
        assert_eq!((0..99).filter(|_| counts.retry(20, 10, 0)).count(), 10);
        assert!(!counts.retry(20, 10, 9));
        assert_eq!((0..99).filter(|_| counts.retry(20, 10, 10)).count(), 10);
        assert!(!Counts::default().retry(0, 0, 5));
    }

    proptest! {
        #[test]
        fn whenever_one_is_admitted_the_last_ten_seconds_bear_it(
            steps in prop::collection::vec((0_u64..4, 0_u32..20, 0_u32..20), 1..60),
            percent in 0_u32..200,
            floor in 0_u32..20,
        ) {
            let (mut counts, mut second) = (Counts::default(), 0);
            let mut log: Vec<(u64, bool)> = Vec::new();
            for (later, requests, retries) in steps {
                second += later;
                for _ in 0..requests {
                    counts.request(second);
                    log.push((second, false));
                }
                for _ in 0..retries {
                    let recent = |is_retry| {
                        log.iter().filter(|entry| entry.1 == is_retry && entry.0 + SECONDS > second).count() as u64
                    };
                    let is_left = recent(true) < recent(false) * u64::from(percent) / 100 + u64::from(floor);
                    prop_assert_eq!(counts.retry(percent, floor, second), is_left);
                    if is_left {
                        log.push((second, true));
                    }
                }
            }
        }
    }
}
