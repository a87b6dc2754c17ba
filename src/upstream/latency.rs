//! How long an instance takes until the header of its answer: its mean, and a peak-sensitive average that forgets with time.
//! Two loads and two stores a request, without a lock: of two at the same moment one may be lost, which an average bears.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A peak is forgotten to 1/e in this time.
const DECAY: Duration = Duration::from_secs(5);
/// The mean is over about as many answers.
const MEAN_OVER: f32 = 16.0;
/// What an instance is thought to take that has not answered yet while it has requests, or could not answer at all.
pub(super) const PENALTY: Duration = Duration::from_secs(1);

/// Averages of one instance, in microseconds.
#[derive(Debug)]
pub(super) struct Latency {
    begun: Instant,
    /// When it was observed last (upper half, milliseconds since `begun`), and what it was then (lower half, an `f32`).
    peak: AtomicU64,
    /// An `f32`; 0 before the first.
    mean: AtomicU32,
}

impl Latency {
    pub fn new(begun: Instant) -> Self {
        Self { begun, peak: AtomicU64::new(0), mean: AtomicU32::new(0) }
    }

    /// An answer took so long.
    pub fn observe(&self, took: Duration, now: Instant) {
        let micros = micros(took);
        let mean = f32::from_bits(self.mean.load(Ordering::Relaxed));
        let mean = if mean == 0.0 { micros } else { mean + (micros - mean) / MEAN_OVER };
        self.mean.store(mean.to_bits(), Ordering::Relaxed);
        self.observe_peak(micros, now);
    }

    /// A try got no answer: nothing about the mean, but others are better.
    pub fn penalise(&self, now: Instant) {
        self.observe_peak(micros(PENALTY), now);
    }

    fn observe_peak(&self, micros: f32, now: Instant) {
        let (average, weight) = self.decayed(now);
        // Up at once, down slowly.
        let next = if micros > average { micros } else { average * weight + micros * (1.0 - weight) };
        let at = u64::from(self.millis(now)) << 32;
        self.peak.store(at | u64::from(next.to_bits()), Ordering::Relaxed);
    }

    /// The average of the last answers, by far the largest of them; what is long ago weighs less. None before the first.
    pub fn peak(&self, now: Instant) -> Option<f32> {
        let (average, weight) = self.decayed(now);
        (average > 0.0).then_some(average * weight)
    }

    /// The mean of the last answers.
    pub fn mean(&self) -> Option<Duration> {
        let micros = f32::from_bits(self.mean.load(Ordering::Relaxed));
        (micros > 0.0).then(|| Duration::from_secs_f32(micros / 1e6))
    }

    /// The average when it was observed last, and what is left of its weight.
    fn decayed(&self, now: Instant) -> (f32, f32) {
        let peak = self.peak.load(Ordering::Relaxed);
        let (at, average) = ((peak >> 32) as u32, f32::from_bits(peak as u32));
        // Wraps after 49 days, and is right across the wrap; another thread may have been a little later.
        let since = self.millis(now).wrapping_sub(at);
        let since = if since > u32::MAX / 2 { 0 } else { since };
        (average, (-(since as f32) / DECAY.as_millis() as f32).exp())
    }

    fn millis(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.begun).as_millis() as u32
    }
}

fn micros(took: Duration) -> f32 {
    took.as_secs_f32().mul_add(1e6, f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_with_time() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let latency = Latency::new(begun);
        assert_eq!((latency.peak(at(0)), latency.mean()), (None, None));
        latency.observe(Duration::from_millis(10), at(1));
        latency.observe(Duration::from_millis(500), at(2));
        assert_eq!(latency.peak(at(2)).unwrap().round(), 500_000.0);
        assert!(latency.mean().unwrap() < Duration::from_millis(50));
        latency.observe(Duration::from_millis(10), at(3));
        assert!(latency.peak(at(3)).unwrap() > 490_000.0, "one good answer does not make up for it");
        assert!(latency.peak(at(40_000)).unwrap() < 1_000.0);
    }

    #[test]
    fn the_mean_comes_to_what_is_usual() {
        let begun = Instant::now();
        let latency = Latency::new(begun);
        latency.observe(Duration::from_secs(1), begun);
        for _ in 0..200 {
            latency.observe(Duration::from_millis(20), begun);
        }
        let mean = latency.mean().unwrap();
        assert!(mean > Duration::from_millis(19) && mean < Duration::from_millis(22), "{mean:?}");
    }
}
