//! What the three algorithms have in common: pure decisions on what one identity has used.
//! No locks, no clock, no text; time comes in as nanoseconds of the clock that the algorithm counts by.
//! Invariant: [`Algorithm::wait`] is 0 exactly when a request would be admitted, and otherwise the time after which it would be.

use smallvec::SmallVec;

use super::{Now, Rule};

/// A way of counting, with the numbers of one limit.
pub(super) trait Algorithm: Copy + PartialEq + Send + Sync {
    /// What one identity has used; the default is nothing. Of 4-byte parts, so that an entry of a table has no padding.
    type Used: Copy + Default + Send;

    /// The present in nanoseconds, by the clock that this algorithm counts by.
    fn time(&self, now: Now) -> u64;

    /// Requests (or units of cost) that can be admitted at once when nothing is used.
    fn capacity(&self) -> u64;

    /// Forgets what no longer counts at `now`. A `now` that lies before what was counted last forgets nothing.
    fn forget(&self, used: &mut Self::Used, now: u64);

    /// Nanoseconds until `cost` would be admitted if nobody else came; 0 when it is admitted now. After `forget`.
    fn wait(&self, used: &Self::Used, now: u64, cost: u64) -> u64;

    /// Counts `cost`, which was admitted at `now`. After `forget`.
    fn count(&self, used: &mut Self::Used, now: u64, cost: u64);

    /// Takes back what was counted at `at`, as far as it still counts at `now`.
    fn give_back(&self, used: &mut Self::Used, at: u64, now: u64, cost: u64);

    /// What is left, and when there will be more. After `forget`.
    fn standing(&self, used: &Self::Used, now: u64) -> Standing;

    /// From when on nothing is counted any more.
    fn empty_at(&self, used: &Self::Used) -> u64;

    /// What is used, independent of this algorithm and its numbers. After `forget`.
    fn uses(&self, used: &Self::Used, now: u64) -> Uses;

    /// What is used by [`Self::uses`] of another algorithm, other numbers or another process: never less than it was.
    fn used(&self, uses: &[Use], now: u64) -> Self::Used;

    /// How a shared store counts it, at `now`.
    fn rule(&self, now: u64) -> Rule;

    /// What comes back each second, on average.
    fn refill_per_second(&self, now: u64) -> f64;
}

/// What was used, and how long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    /// Nanoseconds ago, rather too few than too many.
    pub age: u64,
    /// Millionths of a unit of cost, rather too many than too few.
    pub millionths: u64,
}

/// As many as a sliding window has slots.
pub(super) type Uses = SmallVec<[Use; 2]>;

/// A unit of cost.
pub(super) const UNIT: u64 = 1_000_000;

/// Where an identity stands with a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// What could be admitted now.
    pub remaining: u64,
    /// Nanoseconds until more could be; 0 when nothing is used.
    pub more_in: u64,
}

/// Admits at `now`, or gives the wait: what the table does with one entry, for the tests of each algorithm.
#[cfg(test)]
pub(super) fn admit<A: Algorithm>(algorithm: A, used: &mut A::Used, now: u64, cost: u64) -> Result<(), u64> {
    algorithm.forget(used, now);
    match algorithm.wait(used, now, cost) {
        0 => {
            algorithm.count(used, now, cost);
            Ok(())
        }
        wait => Err(wait),
    }
}

/// Whole seconds that are never shorter than `nanoseconds`.
pub(super) fn seconds_up(nanoseconds: u64) -> u64 {
    nanoseconds.div_ceil(1_000_000_000)
}
