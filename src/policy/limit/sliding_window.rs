//! Sliding window: in no window of its length are more than `count` admitted.
//! The window is cut into 16 slots, and 17 are kept: a slot is forgotten only when all of it is older than the window.
//! So the limit never admits too many, and refuses for at most one slot (1/16 of the window) too long.
//! Counts by the monotonic clock: setting the machine's clock changes nothing.

use super::algorithm::{Algorithm, Standing, UNIT, Use, Uses};
use super::{Now, Rule};

/// Slots a window is cut into.
pub(super) const SLOTS_PER_WINDOW: u64 = 16;
const SLOTS: usize = SLOTS_PER_WINDOW as usize + 1;

/// The numbers of one sliding window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SlidingWindow {
    count: u64,
    window: u64,
    slot: u64,
}

/// What was admitted, by slot; slot `n` of time stands at `n % 17`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UsedSlots {
    /// The number of the last slot that was looked at. A window has 1 s or more: there are slots for eight years, then the limit refuses.
    last: u32,
    counts: [u32; SLOTS],
}

impl SlidingWindow {
    /// At most `count` in any `window` (nanoseconds).
    pub fn new(count: u32, window: u64) -> Self {
        // Rounded up, so that 16 slots are never shorter than the window.
        let slot = window.div_ceil(SLOTS_PER_WINDOW).max(1);
        Self { count: u64::from(count), window: window.max(1), slot }
    }

    /// Nanoseconds until at least `units` (1 or more) of what is counted are forgotten.
    fn forgotten_in(&self, used: &UsedSlots, now: u64, units: u64) -> u64 {
        let mut freed = 0;
        let age = used.oldest_first().position(|count| {
            freed += u64::from(count);
            freed >= units
        });
        if let Some(age) = age {
            return self.forgotten_at(used.last, age).saturating_sub(now).max(1);
        }
        self.window // more than is counted: a cost over the count, which is never admitted
    }

    /// When the slot at place `age` of those kept is forgotten, the oldest being 0: when the seventeenth slot after it begins,
    /// as all of it is older than the window then.
    fn forgotten_at(&self, last: u32, age: usize) -> u64 {
        (u64::from(last) + 1 + age as u64).saturating_mul(self.slot)
    }

    /// The number of the slot that a moment is in.
    fn slot_of(&self, moment: u64) -> u32 {
        u32::try_from(moment / self.slot).unwrap_or(u32::MAX)
    }
}

impl UsedSlots {
    fn total(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// The counts of the last 17 slots; no division in the loop, this runs for every request.
    fn oldest_first(&self) -> impl DoubleEndedIterator<Item = u32> + ExactSizeIterator<Item = u32> {
        let (newer, older) = self.counts.split_at((self.last as usize + 1) % SLOTS);
        let at = move |age: usize| older.get(age).or_else(|| newer.get(age - older.len())).copied().unwrap_or(0);
        (0..SLOTS).map(at)
    }
}

impl Algorithm for SlidingWindow {
    type Used = UsedSlots;

    fn time(&self, now: Now) -> u64 {
        now.monotonic_ns()
    }

    fn capacity(&self) -> u64 {
        self.count
    }

    fn forget(&self, used: &mut UsedSlots, now: u64) {
        let present = self.slot_of(now);
        if present <= used.last {
            return;
        }
        if present - used.last >= SLOTS as u32 {
            used.counts = [0; SLOTS];
        } else {
            for slot in used.last + 1..=present {
                used.counts[slot as usize % SLOTS] = 0;
            }
        }
        used.last = present;
    }

    fn wait(&self, used: &UsedSlots, now: u64, cost: u64) -> u64 {
        let over = (used.total() + cost).saturating_sub(self.count);
        if over == 0 { 0 } else { self.forgotten_in(used, now, over) }
    }

    fn count(&self, used: &mut UsedSlots, _now: u64, cost: u64) {
        // Admitted, so total + cost is within `count`, which is a u32.
        used.counts[used.last as usize % SLOTS] += cost as u32;
    }

    fn give_back(&self, used: &mut UsedSlots, at: u64, _now: u64, cost: u64) {
        let slot = self.slot_of(at);
        if used.last.saturating_sub(slot) < SLOTS as u32 {
            let count = &mut used.counts[slot as usize % SLOTS];
            *count = count.saturating_sub(u32::try_from(cost).unwrap_or(u32::MAX));
        }
    }

    fn standing(&self, used: &UsedSlots, now: u64) -> Standing {
        let total = used.total();
        if total == 0 {
            return Standing { remaining: self.count, more_in: 0 };
        }
        // After a reload that lowered the count more may be used than there is.
        let too_many = total.saturating_sub(self.count);
        Standing { remaining: self.count.saturating_sub(total), more_in: self.forgotten_in(used, now, too_many + 1) }
    }

    fn empty_at(&self, used: &UsedSlots) -> u64 {
        let newest = used.oldest_first().rposition(|count| count > 0);
        newest.map_or(0, |age| self.forgotten_at(used.last, age))
    }

    fn rule(&self, _now: u64) -> Rule {
        Rule::SlidingWindow { count: self.count, window: self.window }
    }

    fn uses(&self, used: &UsedSlots, now: u64) -> Uses {
        let slots = used.oldest_first().enumerate().filter(|(_, count)| *count > 0);
        let used = slots.map(|(place, count)| {
            // The newest slot is `last`, at the last place.
            let next_slot = (u64::from(used.last) + place as u64 + 1).saturating_sub(SLOTS_PER_WINDOW);
            let last_moment = next_slot.saturating_mul(self.slot).saturating_sub(1);
            Use { age: now.saturating_sub(last_moment), millionths: u64::from(count) * UNIT }
        });
        used.collect()
    }

    fn used(&self, uses: &[Use], now: u64) -> UsedSlots {
        let mut used = UsedSlots { last: self.slot_of(now), ..UsedSlots::default() };
        for one in uses {
            let slot = self.slot_of(now.saturating_sub(one.age));
            if one.age <= self.window && used.last - slot < SLOTS as u32 {
                let count = &mut used.counts[slot as usize % SLOTS];
                *count = count.saturating_add(u32::try_from(one.millionths.div_ceil(UNIT)).unwrap_or(u32::MAX));
            }
        }
        used
    }

    fn refill_per_second(&self, _now: u64) -> f64 {
        self.count as f64 * 1e9 / self.window as f64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::super::algorithm::admit;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_count_is_admitted_and_the_next_waits_for_the_oldest() {
        let limit = SlidingWindow::new(10, 16 * SECOND);
        let mut used = UsedSlots::default();
        for n in 0..10 {
            assert_eq!(admit(limit, &mut used, n * SECOND, 1), Ok(()), "{n}");
        }
        // What was admitted in second 0 is older than the window from 16 s on, its slot as a whole from 17 s on.
        assert_eq!(admit(limit, &mut used, 10 * SECOND, 1), Err(7 * SECOND));
        assert_eq!(admit(limit, &mut used, 10 * SECOND, 3), Err(9 * SECOND));
        assert_eq!(limit.standing(&used, 10 * SECOND), Standing { remaining: 0, more_in: 7 * SECOND });
        assert_eq!(limit.empty_at(&used), 26 * SECOND);
        assert_eq!(admit(limit, &mut used, 17 * SECOND - 1, 1), Err(1));
        assert_eq!(admit(limit, &mut used, 17 * SECOND, 1), Ok(()));
    }

    #[test]
    fn what_is_not_used_is_standing() {
        let limit = SlidingWindow::new(10, 60 * SECOND);
        let mut used = UsedSlots::default();
        assert_eq!(limit.standing(&used, 5), Standing { remaining: 10, more_in: 0 });
        assert_eq!((limit.empty_at(&used), limit.capacity()), (0, 10));
        assert_eq!(limit.refill_per_second(0), 10.0 / 60.0);
        admit(limit, &mut used, 100 * SECOND, 4).unwrap();
        assert_eq!(limit.standing(&used, 100 * SECOND).remaining, 6);
    }

    #[test]
    fn what_was_used_as_a_slot_began_is_back_a_slot_after_the_window() {
        let (limit, mut used) = (SlidingWindow::new(1, 16 * SECOND), UsedSlots::default());
        admit(limit, &mut used, 3 * SECOND, 1).unwrap();
        assert_eq!(limit.standing(&used, 3 * SECOND), Standing { remaining: 0, more_in: 17 * SECOND });
        assert_eq!(limit.wait(&used, 4 * SECOND - 1, 1), 16 * SECOND + 1);
    }

    #[test]
    fn a_lowered_count_waits_until_enough_is_forgotten() {
        let mut used = UsedSlots::default();
        let (high, low) = (SlidingWindow::new(10, 16 * SECOND), SlidingWindow::new(2, 16 * SECOND));
        for n in 0..10 {
            admit(high, &mut used, n * SECOND, 1).unwrap();
        }
        assert_eq!(low.standing(&used, 10 * SECOND), Standing { remaining: 0, more_in: (8 + 17 - 10) * SECOND });
        assert_eq!(low.wait(&used, 10 * SECOND, 1), (8 + 17 - 10) * SECOND);
    }

    #[test]
    fn what_is_used_outlives_a_change_of_the_window() {
        let before = SlidingWindow::new(10, 16 * SECOND);
        let mut used = UsedSlots::default();
        for n in 0..5 {
            admit(before, &mut used, n * SECOND, 1).unwrap();
        }
        let uses = before.uses(&used, 5 * SECOND);
        assert_eq!(before.used(&uses, 5 * SECOND).total(), 5);
        assert_eq!(before.standing(&before.used(&uses, 5 * SECOND), 5 * SECOND), before.standing(&used, 5 * SECOND));
        let left = |window: u64| SlidingWindow::new(10, window).used(&uses, 5 * SECOND).total();
        assert_eq!(
            (left(3_600 * SECOND), left(2 * SECOND)),
            (5, 2),
            "what is older than a shorter window is forgotten"
        );
    }

    #[test]
    fn what_was_counted_can_be_given_back() {
        let limit = SlidingWindow::new(10, 16 * SECOND);
        let mut used = UsedSlots::default();
        admit(limit, &mut used, 3 * SECOND, 4).unwrap();
        limit.forget(&mut used, 5 * SECOND);
        limit.give_back(&mut used, 3 * SECOND, 3 * SECOND, 3);
        assert_eq!(used.total(), 1);
        limit.give_back(&mut used, 3 * SECOND, 3 * SECOND, 3);
        limit.forget(&mut used, 90 * SECOND);
        limit.give_back(&mut used, 5 * SECOND, 5 * SECOND, 3);
        assert_eq!(used.total(), 0);
    }

    #[test]
    fn a_cost_over_the_count_is_never_admitted() {
        for count in [0, 4] {
            let limit = SlidingWindow::new(count, 16 * SECOND);
            assert!(admit(limit, &mut UsedSlots::default(), 100 * SECOND, 5).is_err(), "{count}");
        }
    }

    #[test]
    fn a_thread_with_an_older_clock_changes_nothing() {
        let limit = SlidingWindow::new(1, SECOND);
        let mut used = UsedSlots::default();
        admit(limit, &mut used, 10 * SECOND, 1).unwrap();
        assert!(admit(limit, &mut used, 2 * SECOND, 1).is_err());
        assert!(admit(limit, &mut used, 10 * SECOND + 1, 1).is_err());
    }

    #[test]
    fn windows_that_16_does_not_divide_never_admit_early() {
        for window in [1_000, 1_003, 1_000_003, SECOND + 7] {
            let limit = SlidingWindow::new(1, window);
            let mut used = UsedSlots::default();
            admit(limit, &mut used, 12_345, 1).unwrap();
            let wait = admit(limit, &mut used, 12_345, 1).unwrap_err();
            assert!(wait >= window && wait <= window + limit.slot + SLOTS_PER_WINDOW, "window {window} wait {wait}");
        }
    }

    proptest! {
        /// Against every request remembered exactly: never one too many, and refused wrongly during one slot at most.
        #[test]
        fn never_more_than_the_count_in_any_window(
            count in 1_u32..30,
            window in prop_oneof![1_000_u64..100_000, Just(SECOND), Just(60 * SECOND), Just(86_400 * SECOND)],
            start in 0_u64..1_000_000,
            steps in prop::collection::vec((0_u64..100, 0_u32..8, 1_u64..4), 1..300),
        ) {
            let limit = SlidingWindow::new(count, window);
            let mut used = UsedSlots::default();
            let mut admitted: VecDeque<(u64, u64)> = VecDeque::new();
            let mut now = start;
            for (step, scale, cost) in steps {
                now += step * window / 100 / (1 << scale);
                let cost = cost.min(u64::from(count));
                let within = |length: u64| admitted.iter().filter(|(at, _)| at + length > now).map(|(_, cost)| cost).sum::<u64>();
                // Windows that 16 does not divide have slots that are rounded up to whole nanoseconds.
                let (exact, one_slot_longer) = (within(window), within(window + limit.slot + SLOTS_PER_WINDOW));
                match admit(limit, &mut used, now, cost) {
                    Ok(()) => {
                        prop_assert!(exact + cost <= u64::from(count), "one too many at {now}");
                        admitted.push_back((now, cost));
                    }
                    Err(wait) => {
                        prop_assert!(one_slot_longer + cost > u64::from(count), "refused more than a slot too long at {now}");
                        let (mut later, mut sooner) = (used, used);
                        prop_assert!(admit(limit, &mut later, now + wait, cost).is_ok(), "the wait is too short");
                        prop_assert!(admit(limit, &mut sooner, now + wait - 1, cost).is_err(), "the wait is too long");
                    }
                }
                let standing = limit.standing(&used, now);
                let mut later = used;
                limit.forget(&mut later, now + standing.more_in);
                prop_assert!(standing.more_in == 0 || limit.standing(&later, now + standing.more_in).remaining > standing.remaining);
                limit.forget(&mut later, limit.empty_at(&used).max(now));
                prop_assert_eq!(later.total(), 0);
            }
        }
    }
}
