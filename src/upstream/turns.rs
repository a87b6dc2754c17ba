//! Whose turn it is: smooth weighted round robin, worked out once when a pool is compiled.
//! One period holds as many turns as the weights add up to (divided by what they have in common), and no instance has its turns in a row
//! where others could stand between. Not here: which instances may be used; the pool walks on past those that may not.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The turns of one period, and where the next request begins.
#[derive(Debug)]
pub(super) struct Turns {
    /// Places of instances.
    period: Box<[u16]>,
    next: AtomicUsize,
}

impl Turns {
    /// The period for these weights, by place. Each step every instance gains its weight; the one with most has the turn and pays the sum.
    pub fn new(weights: &[u16]) -> Self {
        let common = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
        let weights: Vec<i64> = weights.iter().map(|weight| i64::from(weight / common)).collect();
        let sum: i64 = weights.iter().sum();
        let mut credit = vec![0_i64; weights.len()];
        let turns = (0..sum).filter_map(|_| {
            for (credit, weight) in credit.iter_mut().zip(&weights) {
                *credit += weight;
            }
            // The first of those with most.
            let (place, most) = credit.iter_mut().enumerate().rev().max_by_key(|(_, credit)| **credit)?;
            *most -= sum;
            u16::try_from(place).ok()
        });
        Self { period: turns.collect(), next: AtomicUsize::new(0) }
    }

    /// Takes the next turns, one after the other, for one period at most: a turn that its instance can't use is spent, so that what
    /// it would have had is shared by all.
    pub fn take(&self) -> impl Iterator<Item = usize> {
        let length = self.period.len();
        self.period.iter().map(move |_| usize::from(self.period[self.next.fetch_add(1, Ordering::Relaxed) % length]))
    }

    /// The places of one period from the next turn on, without taking any: for another try of a request that has had its turn.
    pub fn look(&self) -> impl Iterator<Item = usize> {
        let begin = self.next.load(Ordering::Relaxed) % self.period.len().max(1);
        self.period[begin..].iter().chain(&self.period[..begin]).map(|place| usize::from(*place))
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

    #[test]
    fn large_weights_do_not_come_in_a_row() {
        assert_eq!(turns(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
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
        fn every_period_holds_the_shares(weights in prop::collection::vec(1_u16..=100, 1..8)) {
            let sum: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
            let turns = turns(&weights, sum);
            for (place, weight) in weights.iter().enumerate() {
                let had = turns.iter().filter(|turn| **turn == place).count();
                prop_assert_eq!(had, usize::from(*weight));
            }
        }

        #[test]
        fn without_weights_everyone_waits_the_same(count in 1_usize..9, begin in 0_usize..20) {
            let turns = turns(&vec![1; count], begin + count);
            let window: std::collections::BTreeSet<_> = turns[begin..].iter().collect();
            prop_assert_eq!(window.len(), count);
        }
    }
}
