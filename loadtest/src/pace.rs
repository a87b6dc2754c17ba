//! How long an instance works on a request: times of an exponential distribution, and a bounded number of requests at once;
//! whoever comes when all places are taken waits, first come first served. That is what makes a slow instance slower the more it gets.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// No request takes more than so many means.
const TIMES_MAX: f64 = 8.0;

/// The work of one instance.
pub struct Pace {
    mean: Duration,
    state: Mutex<State>,
}

struct State {
    /// When each place is free again.
    free: Vec<Instant>,
    random: u64,
}

impl Pace {
    /// So long on average, and so many at once.
    pub fn new(mean: Duration, at_once: usize) -> Self {
        let free = vec![Instant::now(); at_once.max(1)];
        Self { mean, state: Mutex::new(State { free, random: 0x9e37_79b9_7f4a_7c15 }) }
    }

    /// Waits for a place, and then for the work to be done.
    pub fn work(&self) {
        let done = self.begin(Instant::now());
        thread::sleep(done.saturating_duration_since(Instant::now()));
    }

    /// When a request that comes now is done.
    fn begin(&self, now: Instant) -> Instant {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let took = self.mean.mul_f64(state.exponential());
        let Some(place) = state.free.iter_mut().min() else { return now + took };
        *place = (*place).max(now) + took;
        *place
    }
}

impl State {
    /// Mean 1; a generator of Marsaglia's (xorshift64*), because every run has to draw the same.
    fn exponential(&mut self) -> f64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let uniform = (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64;
        (-(1.0 - uniform).ln()).min(TIMES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_their_mean_and_vary() {
        let pace = Pace::new(Duration::from_millis(4), 1);
        let mut state = pace.state.lock().unwrap();
        let times: Vec<f64> = (0..100_000).map(|_| state.exponential()).collect();
        let mean = times.iter().sum::<f64>() / 1e5;
        let above = times.iter().filter(|time| **time > 1.0).count() as f64 / 1e5;
        assert!((0.98..1.02).contains(&mean) && (0.36..0.38).contains(&above), "{mean} {above}");
    }

    #[test]
    fn no_more_than_so_many_are_worked_on_at_once() {
        let (pace, now) = (Pace::new(Duration::from_millis(10), 2), Instant::now());
        let done: Vec<Instant> = (0..2_000).map(|_| pace.begin(now)).collect();
        let last = done.iter().max().unwrap().duration_since(now).as_secs_f64();
        assert!((9.0..11.0).contains(&last), "2,000 times 10 ms in 2 places took {last} s");
    }
}
