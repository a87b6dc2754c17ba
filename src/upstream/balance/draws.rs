//! Draws by weight: places of instances, each as often as its weight says, without a lock.
//! The random numbers are good enough to spread requests, and for nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

/// Weights added up, and a source of random numbers.
#[derive(Debug)]
pub(super) struct Draws {
    /// Up to and including each place.
    sums: Box<[u32]>,
    pub random: Random,
}

/// SplitMix64 (Steele, Lea, Flood 2014), which is a counter and a mix: so one atomic addition makes a number.
#[derive(Debug)]
pub(super) struct Random(AtomicU64);

impl Draws {
    pub fn new(weights: &[u16], seed: u64) -> Self {
        let sums = weights.iter().scan(0, |sum, weight| {
            *sum += u32::from(*weight);
            Some(*sum)
        });
        Self { sums: sums.collect(), random: Random::new(seed) }
    }

    /// A place by weight; none where there are none.
    pub fn draw(&self) -> Option<usize> {
        let sum = *self.sums.last()?;
        let at = self.random.below(sum);
        Some(self.sums.partition_point(|up_to| *up_to <= at))
    }

    /// One of those that weigh something, by weight.
    pub fn draw_of<T>(&self, candidates: impl Iterator<Item = (T, u32)>) -> Option<T> {
        let (mut chosen, mut sum) = (None, 0);
        for (candidate, weight) in candidates {
            sum += weight;
            // Each takes the place of the one before with the chance that it has among all so far.
            if weight > 0 && self.random.below(sum) < weight {
                chosen = Some(candidate);
            }
        }
        chosen
    }
}

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    fn number(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mix = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mix = (mix ^ (mix >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mix = (mix ^ (mix >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mix ^ (mix >> 31)
    }

    /// Yes, in this part of all cases.
    pub fn grants(&self, part: f32) -> bool {
        part >= 1.0 || (self.below(1 << 16) as f32) < part * 65_536.0
    }

    /// A number from 0 up to and without `bound`; its bias is less than one in 2^32.
    pub fn below(&self, bound: u32) -> u32 {
        (((self.number() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(count: usize, mut draw: impl FnMut() -> Option<usize>) -> Vec<usize> {
        let mut had = vec![0; count];
        (0..70_000).filter_map(|_| draw()).for_each(|place| had[place] += 1);
        had
    }

    fn about(had: &[usize], expected: &[usize]) -> bool {
        had.iter().zip(expected).all(|(had, expected)| had.abs_diff(*expected) < 700)
    }

    #[test]
    fn each_is_drawn_as_often_as_its_weight_says() {
        let draws = Draws::new(&[4, 2, 1], 1);
        let had = shares(3, || draws.draw());
        assert!(about(&had, &[40_000, 20_000, 10_000]), "{had:?}");
        let had = shares(3, || draws.draw_of([(0, 4), (1, 0), (2, 1)].into_iter()));
        assert!(about(&had, &[56_000, 0, 14_000]), "{had:?}");
        assert_eq!(Draws::new(&[], 1).draw(), None);
    }
}
