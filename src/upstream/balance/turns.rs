//! Whose turn it is: weighted round robin, worked out once when a pool is compiled.
//! One period holds as many turns as the weights add up to (divided by what they have in common), and in each prefix of it every instance
//! has had less than one turn more or less than its share. Not here: which instances may be used; the walk goes on past those that may not.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The turns of one period, and where the next request begins.
#[derive(Debug)]
pub(super) struct Turns {
    /// Places of instances.
    period: Box<[u32]>,
    next: AtomicUsize,
}

impl Turns {
    /// The period for these weights, by place.
    ///
    /// The turn number `n` of an instance with weight `w` has to lie within `n` and `n + 1` times `sum / w`: not before its share has
    /// come to `n`, not after it has come to `n + 1`. The earliest deadline first keeps them all (S. Baruah et al., "Proportionate
    /// progress", 1996): with one turn at a time it finds an order where there is one, and there is.
    pub fn new(weights: &[u16]) -> Self {
        let common = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
        let weights: Vec<u64> = weights.iter().map(|weight| u64::from(weight / common)).collect();
        let sum: u64 = weights.iter().sum();
        // (release, place, number of the turn), and of those released (deadline, place, number).
        let mut coming: BinaryHeap<_> = (0_u32..).zip(&weights).map(|(place, _)| Reverse((0, place, 0_u64))).collect();
        let mut released = BinaryHeap::new();
        let mut period = Vec::with_capacity(usize::try_from(sum).unwrap_or_default());
        for turn in 0..sum {
            while let Some(&Reverse((release, place, number))) = coming.peek()
                && release <= turn
            {
                coming.pop();
                let deadline = ((number + 1) * sum).div_ceil(weights[place as usize]);
                released.push(Reverse((deadline, place, number)));
            }
            let Some(Reverse((_, place, number))) = released.pop() else { break };
            period.push(place);
            let (next, weight) = (number + 1, weights[place as usize]);
            if next < weight {
                coming.push(Reverse((next * sum / weight, place, next)));
            }
        }
        Self { period: period.into(), next: AtomicUsize::new(0) }
    }

    /// Takes the next turns, one after the other, for one period at most: a turn that its instance can't use is spent, so that what
    /// it would have had is shared by all.
    pub fn take(&self) -> impl Iterator<Item = usize> {
        let length = self.period.len();
        self.period.iter().map(move |_| self.period[self.next.fetch_add(1, Ordering::Relaxed) % length] as usize)
    }

    /// The places of one period from the next turn on, without taking any: for another try of a request that has had its turn.
    pub fn look(&self) -> impl Iterator<Item = usize> {
        let begin = self.next.load(Ordering::Relaxed) % self.period.len().max(1);
        self.period[begin..].iter().chain(&self.period[..begin]).map(|place| *place as usize)
    }
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn turns(weights: &[u16], count: usize) -> Vec<usize> {
        let turns = Turns::new(weights);
        (0..count).filter_map(|_| turns.take().next()).collect()
    }

    fn longest_run(turns: &[usize]) -> usize {
        turns.chunk_by(|one, other| one == other).map(<[usize]>::len).max().unwrap_or_default()
    }

    #[test]
    fn large_weights_do_not_come_in_a_row() {
        assert_eq!(longest_run(&turns(&[5, 1], 600)), 5);
        assert!(longest_run(&turns(&[5, 1, 1], 700)) < 5);
        assert_eq!(turns(&[100, 100], 4), [0, 1, 0, 1]);
    }

    #[test]
    fn a_walk_visits_everyone_from_the_turn_on() {
        let turns = Turns::new(&[1, 1, 1]);
        assert_eq!(turns.take().next(), Some(0));
        assert_eq!(turns.look().collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(turns.take().collect::<Vec<_>>(), [1, 2, 0]);
        let none = Turns::new(&[]);
        assert_eq!((none.take().count(), none.look().count()), (0, 0));
    }

    proptest! {
        #[test]
        fn every_prefix_is_within_one_of_the_shares(weights in prop::collection::vec(1_u16..=100, 1..40)) {
            let sum: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
            let mut had = vec![0_usize; weights.len()];
            for (count, place) in (1..).zip(turns(&weights, 2 * sum)) {
                had[place] += 1;
                for (had, weight) in had.iter().zip(&weights) {
                    let off = (had * sum).abs_diff(count * usize::from(*weight));
                    prop_assert!(off < sum, "{} of {} with weight {} of {}", had, count, weight, sum);
                }
            }
        }

        #[test]
        fn without_weights_the_counts_of_any_window_differ_by_one_at_most(
            count in 1_usize..9,
            begin in 0_usize..20,
            length in 1_usize..40,
        ) {
            let turns = turns(&vec![1; count], begin + length);
            let had = |place| turns[begin..].iter().filter(|turn| **turn == place).count();
            let (most, least) = ((0..count).map(had).max(), (0..count).map(had).min());
            prop_assert!(most.unwrap() - least.unwrap() <= 1);
        }
    }
}
