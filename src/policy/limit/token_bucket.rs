//! Token bucket (the generic cell rate algorithm): a burst at once, then tokens come back at the rate; in any t seconds at most burst + rate x t.
//! It remembers one moment, the one at which the bucket is full again (GCRA's theoretical arrival time), in whole nanoseconds and a rest in parts
//! of one: `count` parts are a nanosecond, so no division ever rounds. What is missing from a bucket is counted in parts of a token: one token is as
//! many parts as its window has nanoseconds, and each nanosecond gives back `count` of them. Integers only; counts by the monotonic clock.

use super::algorithm::{Algorithm, Standing, UNIT, Use, Uses};
use super::{Now, Rule};

/// The numbers of one token bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TokenBucket {
    count: u64,
    window: u64,
    burst: u64,
}

/// When a bucket is full again; the default is long ago.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FullAt {
    /// Nanoseconds, the higher half first. Not a `u64`: an entry of a table would grow by the padding.
    moment: [u32; 2],
    /// Parts of a nanosecond more, fewer than `count`.
    rest: u32,
}

impl FullAt {
    const fn moment(self) -> u64 {
        (self.moment[0] as u64) << 32 | self.moment[1] as u64
    }
}

impl TokenBucket {
    /// `burst` tokens, of which `count` come back in each `window` (nanoseconds).
    pub fn new(count: u32, window: u64, burst: u32) -> Self {
        Self { count: u64::from(count.max(1)), window: window.max(1), burst: u64::from(burst) }
    }

    fn parts(&self, tokens: u64) -> u128 {
        u128::from(tokens) * u128::from(self.window)
    }

    /// What is missing at `now`, in parts of a token.
    fn missing(&self, used: &FullAt, now: u64) -> u128 {
        match used.moment().checked_sub(now) {
            Some(left) => u128::from(left) * u128::from(self.count) + u128::from(used.rest),
            None => 0,
        }
    }

    /// The bucket from which so many parts of a token are missing at `now`.
    fn full_after(&self, missing: u128, now: u64) -> FullAt {
        // Hardly ever more than 64 bits: a division of 128 costs five times as much.
        let (left, rest) = match u64::try_from(missing) {
            Ok(missing) => (missing / self.count, missing % self.count),
            Err(_) => {
                let left = u64::try_from(missing / u128::from(self.count)).unwrap_or(u64::MAX);
                (left, (missing % u128::from(self.count)) as u64)
            }
        };
        let moment = now.saturating_add(left);
        FullAt { moment: [(moment >> 32) as u32, moment as u32], rest: rest as u32 }
    }

    /// Nanoseconds until of `missing` parts at most `bearable` are missing.
    fn refilled_in(&self, missing: u128, bearable: u128) -> u64 {
        let over = missing.saturating_sub(bearable);
        match u64::try_from(over) {
            Ok(over) => over.div_ceil(self.count),
            Err(_) => u64::try_from(over.div_ceil(u128::from(self.count))).unwrap_or(u64::MAX),
        }
    }
}

impl Algorithm for TokenBucket {
    type Used = FullAt;

    fn time(&self, now: Now) -> u64 {
        now.monotonic_ns()
    }

    fn capacity(&self) -> u64 {
        self.burst
    }

    fn forget(&self, _used: &mut FullAt, _now: u64) {}

    fn wait(&self, used: &FullAt, now: u64, cost: u64) -> u64 {
        let missing = self.missing(used, now);
        // Centuries that a moment can't hold are refused when the configuration is read; should one come, it is not admitted.
        let has_moment = missing + self.parts(cost) <= u128::from(u64::MAX - now) * u128::from(self.count);
        match self.burst.checked_sub(cost).filter(|_| has_moment) {
            Some(left) => self.refilled_in(missing, self.parts(left)),
            None => self.window, // never admitted
        }
    }

    fn count(&self, used: &mut FullAt, now: u64, cost: u64) {
        *used = self.full_after(self.missing(used, now) + self.parts(cost), now);
    }

    fn give_back(&self, used: &mut FullAt, at: u64, now: u64, cost: u64) {
        // What has come back since would have come back without this request, too: to give that back would be a gift.
        let back = u128::from(now.saturating_sub(at)) * u128::from(self.count);
        let still_missing = self.parts(cost).saturating_sub(back);
        *used = self.full_after(self.missing(used, now).saturating_sub(still_missing), now);
    }

    fn standing(&self, used: &FullAt, now: u64) -> Standing {
        let missing = self.missing(used, now);
        // After a reload that lowered the burst more may be missing than fits in.
        let left = self.parts(self.burst).saturating_sub(missing);
        let remaining =
            u64::try_from(left).map_or_else(|_| (left / u128::from(self.window)) as u64, |left| left / self.window);
        if missing == 0 {
            return Standing { remaining, more_in: 0 };
        }
        let bearable = self.parts(self.burst).saturating_sub(self.parts(remaining + 1));
        Standing { remaining, more_in: self.refilled_in(missing, bearable) }
    }

    fn empty_at(&self, used: &FullAt) -> u64 {
        used.moment().saturating_add(u64::from(used.rest > 0))
    }

    fn uses(&self, used: &FullAt, now: u64) -> Uses {
        let missing = self.missing(used, now).saturating_mul(u128::from(UNIT)).div_ceil(u128::from(self.window));
        let millionths = u64::try_from(missing).unwrap_or(u64::MAX);
        (millionths > 0).then_some(Use { age: 0, millionths }).into_iter().collect()
    }

    fn used(&self, uses: &[Use], now: u64) -> FullAt {
        // Without the refill between two uses, which an empty bucket would not have got either.
        let missing = uses.iter().map(|one| {
            let missing = (u128::from(one.millionths) * u128::from(self.window)).div_ceil(u128::from(UNIT));
            missing.saturating_sub(u128::from(one.age) * u128::from(self.count))
        });
        self.full_after(missing.fold(0, u128::saturating_add), now)
    }

    fn rule(&self, _now: u64) -> Rule {
        Rule::TokenBucket { count: self.count, window: self.window, burst: self.burst }
    }

    fn refill_per_second(&self, _now: u64) -> f64 {
        self.count as f64 * 1e9 / self.window as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::algorithm::admit;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn ten_a_second_with_a_burst_of_100() {
        let limit = TokenBucket::new(10, SECOND, 100);
        let mut used = FullAt::default();
        let start = 5 * SECOND;
        for n in 0..100 {
            assert_eq!(admit(limit, &mut used, start, 1), Ok(()), "{n}");
        }
        assert_eq!(admit(limit, &mut used, start, 1), Err(SECOND / 10));
        assert_eq!(limit.standing(&used, start), Standing { remaining: 0, more_in: SECOND / 10 });
        assert_eq!(limit.empty_at(&used), start + 10 * SECOND);
        let admitted = (1..=1_000).filter(|n| admit(limit, &mut used, start + n * SECOND / 100, 1).is_ok()).count();
        assert_eq!(admitted, 100, "ten seconds at ten a second");
    }

    #[test]
    fn thirds_of_a_second_do_not_drift() {
        let limit = TokenBucket::new(3, SECOND, 1);
        let mut used = FullAt::default();
        let mut now = 0;
        for n in 0..3_000_u64 {
            assert_eq!(admit(limit, &mut used, now, 1), Ok(()));
            now += limit.wait(&used, now, 1);
            assert!(now >= ((n + 1) * SECOND).div_ceil(3) && now <= (n + 1) * SECOND / 3 + n + 1, "{n}: {now}");
        }
        // Whoever asks every 1/3 s rounded up by the clock gets 3 a second and never 4.
        let mut used = FullAt::default();
        let admitted = (0..=10_000).filter(|n| admit(limit, &mut used, SECOND + n * 1_000_000, 1).is_ok()).count();
        assert!((30..=31).contains(&admitted), "{admitted}");
    }

    #[test]
    fn what_is_missing_outlives_a_change_of_count_and_burst() {
        let mut used = FullAt::default();
        let before = TokenBucket::new(1, 3_600 * SECOND, 10);
        (0..10).for_each(|_| admit(before, &mut used, SECOND, 1).unwrap());
        let uses = before.uses(&used, SECOND);
        let standing = |after: TokenBucket| after.standing(&after.used(&uses, SECOND), SECOND);
        let faster = TokenBucket::new(3_600, 3_600 * SECOND, 10);
        assert_eq!(standing(faster), Standing { remaining: 0, more_in: SECOND });
        let larger = TokenBucket::new(1, 3_600 * SECOND, 15);
        assert_eq!(standing(larger), Standing { remaining: 5, more_in: 3_600 * SECOND });
        let smaller = TokenBucket::new(1, 3_600 * SECOND, 4);
        assert_eq!(standing(smaller), Standing { remaining: 0, more_in: 7 * 3_600 * SECOND });
        let shorter = TokenBucket::new(1, 60 * SECOND, 10);
        assert_eq!(standing(shorter), Standing { remaining: 0, more_in: 60 * SECOND });
    }

    #[test]
    fn what_was_counted_can_be_given_back() {
        let limit = TokenBucket::new(3, 7 * SECOND, 10);
        let mut used = FullAt::default();
        admit(limit, &mut used, SECOND, 4).unwrap();
        let before = limit.standing(&used, 2 * SECOND);
        admit(limit, &mut used, 2 * SECOND, 3).unwrap();
        limit.give_back(&mut used, 2 * SECOND, 2 * SECOND, 3);
        assert_eq!(limit.standing(&used, 2 * SECOND), before);
        limit.give_back(&mut used, 2 * SECOND, 2 * SECOND, 100);
        assert_eq!(limit.standing(&used, 2 * SECOND).remaining, 10);
    }

    #[test]
    fn a_cost_over_the_burst_is_never_admitted() {
        for burst in [0, 4] {
            assert!(admit(TokenBucket::new(10, SECOND, burst), &mut FullAt::default(), SECOND, 5).is_err(), "{burst}");
        }
    }

    #[test]
    fn what_came_back_by_itself_is_not_given_back_again() {
        let limit = TokenBucket::new(1, SECOND, 4);
        let mut used = FullAt::default();
        admit(limit, &mut used, 10 * SECOND, 1).unwrap();
        admit(limit, &mut used, 10 * SECOND + SECOND / 2, 3).unwrap();
        limit.give_back(&mut used, 10 * SECOND, 10 * SECOND + SECOND / 2, 1);
        assert_eq!(limit.standing(&used, 10 * SECOND + SECOND / 2).remaining, 1);
    }

    #[test]
    fn a_clock_read_before_another_thread_counted_admits_no_more() {
        let limit = TokenBucket::new(1, SECOND, 2);
        let mut used = FullAt::default();
        admit(limit, &mut used, 10 * SECOND, 2).unwrap();
        assert_eq!(admit(limit, &mut used, 9 * SECOND, 1), Err(2 * SECOND));
        assert_eq!(admit(limit, &mut used, 10 * SECOND, 1), Err(SECOND));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let limit = TokenBucket::new(1, 366 * 86_400 * SECOND, u32::MAX);
        let mut used = FullAt::default();
        assert!(admit(limit, &mut used, u64::MAX / 2, u64::from(u32::MAX)).is_err(), "136,000,000,000 years");
        assert_eq!(admit(limit, &mut used, u64::MAX / 2, 200), Ok(()));
        assert!(admit(limit, &mut used, u64::MAX / 2, 200).is_err());
        assert!(admit(limit, &mut used, u64::MAX, 1).is_err());
        let limit = TokenBucket::new(u32::MAX, SECOND, u32::MAX);
        assert_eq!(admit(limit, &mut FullAt::default(), SECOND, u64::from(u32::MAX)), Ok(()));
        limit.forget(&mut used, u64::MAX);
    }

    proptest! {
        /// Against the definition, counted over every pair of admissions: at most burst + rate x t, and none refused that fits.
        #[test]
        fn admits_exactly_what_the_definition_admits(
            count in 1_u32..50,
            window in prop_oneof![1_u64..1_000, Just(SECOND), Just(60 * SECOND)],
            burst in 1_u32..40,
            steps in prop::collection::vec((0_u64..100, 0_u32..10, 1_u64..4), 1..200),
        ) {
            let limit = TokenBucket::new(count, window, burst);
            let mut used = FullAt::default();
            let mut admitted: Vec<(u64, u64)> = Vec::new();
            let mut now = 1_000;
            for (step, scale, cost) in steps {
                now += step * window / 50 / (1 << scale);
                let cost = cost.min(u64::from(burst));
                // For every earlier moment: what was admitted since, and this, is within burst + rate x t.
                let mut since = cost;
                let fits = std::iter::once(&(now, 0)).chain(admitted.iter().rev()).all(|(at, cost)| {
                    since += cost;
                    u128::from(since) * u128::from(window) <= u128::from(burst) * u128::from(window) + u128::from(now - at) * u128::from(count)
                });
                match admit(limit, &mut used, now, cost) {
                    Ok(()) => {
                        prop_assert!(fits, "one too many at {now}");
                        admitted.push((now, cost));
                    }
                    Err(wait) => {
                        prop_assert!(!fits, "refused without need at {now}");
                        let (mut later, mut sooner) = (used, used);
                        prop_assert!(admit(limit, &mut later, now + wait, cost).is_ok(), "the wait is too short");
                        prop_assert!(admit(limit, &mut sooner, now + wait - 1, cost).is_err(), "the wait is too long");
                    }
                }
                let standing = limit.standing(&used, now);
                let mut later = used;
                limit.forget(&mut later, now + standing.more_in);
                let then = limit.standing(&later, now + standing.more_in);
                prop_assert!(standing.more_in == 0 || then.remaining > standing.remaining || standing.remaining == u64::from(burst) - 1 && then.remaining == u64::from(burst));
                limit.forget(&mut later, limit.empty_at(&used).max(now));
                prop_assert_eq!(limit.missing(&later, limit.empty_at(&used).max(now)), 0);
            }
        }
    }
}
