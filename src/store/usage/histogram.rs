//! Response times in log-linear buckets: 16 to each power of two, so a percentile is at most 1/32 (3.2%) off.
//! A fixed scale, so that histograms of any two minutes, runs or series are merged by adding.
//! Own code instead of a crate: thousands of these lie in memory and in rows at once, each with few buckets in use.

use serde::{Deserialize, Serialize};

use super::packed::{Damaged, put, take};

/// Buckets of one power of two.
const LINEAR: u64 = 16;
const LINEAR_BITS: u32 = LINEAR.ilog2();

/// Longer times count as this: 2^40 microseconds are 12 days.
const LONGEST: u64 = (1 << 40) - 1;

/// Buckets there can be.
const BUCKETS: usize = bucket(LONGEST) + 1;

/// Counts of response times in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// The bucket of the first count.
    first: usize,
    /// Neither the first nor the last is 0.
    counts: Vec<u64>,
}

/// Which bucket a time belongs to. Below 32 microseconds each has its own.
const fn bucket(microseconds: u64) -> usize {
    let time = if microseconds > LONGEST { LONGEST } else { microseconds };
    if time < LINEAR {
        return time as usize;
    }
    let shift = time.ilog2() - LINEAR_BITS;
    (shift as u64 * LINEAR + (time >> shift)) as usize
}

/// The middle of a bucket, in microseconds.
fn middle(bucket: usize) -> f64 {
    let bucket = bucket as u64;
    if bucket < 2 * LINEAR {
        return bucket as f64;
    }
    let shift = bucket / LINEAR - 1;
    let lowest = (LINEAR + bucket % LINEAR) << shift;
    let highest = lowest + (1 << shift) - 1;
    (lowest as f64 + highest as f64) / 2.0
}

impl Histogram {
    /// Counts one response time.
    pub fn add(&mut self, microseconds: u64) {
        self.add_many(bucket(microseconds), 1);
    }

    fn add_many(&mut self, bucket: usize, count: u64) {
        if count > 0 {
            self.make_room(bucket, bucket);
            let sum = &mut self.counts[bucket - self.first];
            *sum = sum.saturating_add(count);
        }
    }

    /// Makes room for two buckets and all between; the caller counts something in both.
    fn make_room(&mut self, first: usize, last: usize) {
        if self.counts.is_empty() {
            self.first = first;
        }
        if first < self.first {
            self.counts.splice(0..0, std::iter::repeat_n(0, self.first - first));
            self.first = first;
        }
        if last - self.first >= self.counts.len() {
            self.counts.resize(last - self.first + 1, 0);
        }
    }

    /// Adds what another has counted.
    pub fn merge(&mut self, other: &Self) {
        let Some(last) = other.counts.len().checked_sub(1) else { return };
        self.make_room(other.first, other.first + last);
        for (sum, count) in self.counts[other.first - self.first..].iter_mut().zip(&other.counts) {
            *sum = sum.saturating_add(*count);
        }
    }

    /// The response time that a share of all requests (0.95) did not exceed, by nearest rank, in milliseconds. None without
    /// requests.
    pub fn percentile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.counts.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = ((share * total as f64).ceil() as u64).clamp(1, total);
        let mut seen = 0;
        for (bucket, count) in (self.first..).zip(&self.counts) {
            seen += count;
            if seen >= rank {
                return Some(middle(bucket) / 1_000.0);
            }
        }
        None
    }

    /// Pairs of (buckets since the last, count), as the stores keep them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut next = 0;
        for (bucket, count) in (self.first..).zip(&self.counts).filter(|(_, count)| **count > 0) {
            put(out, (bucket - next) as u64);
            put(out, *count);
            next = bucket + 1;
        }
    }

    /// Adds what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// It never wrote these bytes.
    pub fn merge_encoded(&mut self, mut bytes: &[u8]) -> Result<(), Damaged> {
        let mut next = 0_usize;
        while !bytes.is_empty() {
            let skipped = take(&mut bytes).and_then(|skipped| usize::try_from(skipped).ok());
            let bucket = skipped.and_then(|skipped| next.checked_add(skipped)).filter(|bucket| *bucket < BUCKETS);
            let (Some(bucket), Some(count)) = (bucket, take(&mut bytes)) else { return Err(Damaged) };
            self.add_many(bucket, count);
            next = bucket + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(times: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        times.iter().for_each(|time| histogram.add(*time));
        histogram
    }

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        let mut last = 0;
        for time in (0..100_000).chain((1..24).map(|shift| 100_000 << shift)) {
            let bucket = bucket(time);
            assert!(bucket == last || bucket == last + 1 || time > 100_000, "{time}");
            last = bucket;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn percentiles_are_within_the_stated_error(
            mut times in prop::collection::vec(0_u64..LONGEST, 1..200), share in 0.0_f64..=1.0,
        ) {
            let found = of(&times).percentile(share).unwrap() * 1_000.0;
            times.sort_unstable();
            let rank = ((share * times.len() as f64).ceil() as usize).clamp(1, times.len());
            let exact = times[rank - 1] as f64;
            prop_assert!((found - exact).abs() <= exact / 32.0 + 1e-6, "{found} instead of {exact}");
        }

        #[test]
        fn merging_is_adding_in_any_order(
            one in prop::collection::vec(0_u64..1 << 42, 0..50), two in prop::collection::vec(0_u64..1 << 42, 0..50),
        ) {
            let all = of(&one.iter().chain(&two).copied().collect::<Vec<_>>());
            let mut merged = of(&two);
            merged.merge(&of(&one));
            prop_assert_eq!(&merged, &all);
            let mut bytes = Vec::new();
            all.encode(&mut bytes);
            let mut read = Histogram::default();
            prop_assert!(read.merge_encoded(&bytes).is_ok());
            prop_assert_eq!(read, all);
        }

        #[test]
        fn no_bytes_can_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut read = Histogram::default();
            let _ = read.merge_encoded(&bytes);
            prop_assert!(read.counts.len() <= BUCKETS);
        }
    }
}
