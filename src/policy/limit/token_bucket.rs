//! Token bucket (the generic cell rate algorithm): a burst at once, then tokens come back at the rate; in any t seconds at most burst + rate x t.
//! It remembers how much is missing from the bucket, in parts of a token: one token is as many parts as its window has
//! nanoseconds, so each nanosecond gives back `count` parts, and no division ever rounds. Integers only.
//! Because the unit does not depend on `count`, what is used stays used when a reload changes it. Counts by the monotonic clock.

use super::algorithm::{Algorithm, Standing};
use super::{Now, Rule};

/// The numbers of one token bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenBucket {
    count: u64,
    window: u64,
    burst: u64,
}

/// What is missing from a bucket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Missing {
    /// In parts of a token.
    parts: u128,
    /// When that was so.
    at: u64,
}

impl TokenBucket {
    /// `burst` tokens, of which `count` come back in each `window` (nanoseconds).
    pub fn new(count: u32, window: u64, burst: u32) -> Self {
        Self { count: u64::from(count.max(1)), window: window.max(1), burst: u64::from(burst) }
    }

    fn parts(&self, tokens: u64) -> u128 {
        u128::from(tokens) * u128::from(self.window)
    }

    /// Nanoseconds from `now` until at most `parts` are missing.
    fn refilled_in(&self, used: &Missing, now: u64, parts: u128) -> u64 {
        let refill = used.parts.saturating_sub(parts).div_ceil(u128::from(self.count));
        let at = u64::try_from(refill).unwrap_or(u64::MAX).saturating_add(used.at);
        if refill == 0 { 0 } else { at.saturating_sub(now) }
    }
}

impl Algorithm for TokenBucket {
    type Used = Missing;

    fn time(&self, now: Now) -> u64 {
        now.monotonic_ns()
    }

    fn capacity(&self) -> u64 {
        self.burst
    }

    fn forget(&self, used: &mut Missing, now: u64) {
        if let Some(passed) = now.checked_sub(used.at) {
            used.parts = used.parts.saturating_sub(u128::from(passed) * u128::from(self.count));
            used.at = now;
        }
    }

    fn wait(&self, used: &Missing, now: u64, cost: u64) -> u64 {
        if cost > self.burst {
            return self.window; // never admitted
        }
        self.refilled_in(used, now, self.parts(self.burst).saturating_sub(self.parts(cost)))
    }

    fn count(&self, used: &mut Missing, _now: u64, cost: u64) {
        used.parts += self.parts(cost);
    }

    fn give_back(&self, used: &mut Missing, counted: u64, now: u64, cost: u64) {
        // What has come back since would have come back without this request, too.
        let back = u128::from(now.saturating_sub(counted)) * u128::from(self.count);
        used.parts = used.parts.saturating_sub(self.parts(cost).saturating_sub(back));
    }

    fn standing(&self, used: &Missing, now: u64) -> Standing {
        // After a reload that lowered the burst more may be missing than fits in.
        let left = self.parts(self.burst).saturating_sub(used.parts);
        let remaining = (left / u128::from(self.window)) as u64;
        if used.parts == 0 {
            return Standing { remaining, more_in: 0 };
        }
        let more = self.parts(self.burst).saturating_sub(self.parts(remaining + 1));
        Standing { remaining, more_in: self.refilled_in(used, now, more) }
    }

    fn empty_at(&self, used: &Missing) -> u64 {
        if used.parts == 0 { 0 } else { self.refilled_in(used, 0, 0) }
    }

    fn rule(&self, _now: u64) -> Rule {
        Rule::TokenBucket { count: self.count, window: self.window, burst: self.burst }
    }

    fn counts_like(&self, before: &Self) -> bool {
        self.window == before.window
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
        let mut used = Missing::default();
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
        let mut used = Missing::default();
        let mut now = 0;
        for n in 0..3_000_u64 {
            assert_eq!(admit(limit, &mut used, now, 1), Ok(()));
            now += limit.wait(&used, now, 1);
            assert!(now >= ((n + 1) * SECOND).div_ceil(3) && now <= (n + 1) * SECOND / 3 + n + 1, "{n}: {now}");
        }
        // Whoever asks every 1/3 s rounded up by the clock gets 3 a second and never 4.
        let mut used = Missing::default();
        let admitted = (0..=10_000).filter(|n| admit(limit, &mut used, SECOND + n * 1_000_000, 1).is_ok()).count();
        assert!((30..=31).contains(&admitted), "{admitted}");
    }

    #[test]
    fn what_is_missing_outlives_a_change_of_count_and_burst() {
        let mut used = Missing::default();
        let before = TokenBucket::new(1, 3_600 * SECOND, 10);
        (0..10).for_each(|_| admit(before, &mut used, SECOND, 1).unwrap());
        let faster = TokenBucket::new(3_600, 3_600 * SECOND, 10);
        assert_eq!(faster.standing(&used, SECOND), Standing { remaining: 0, more_in: SECOND });
        let larger = TokenBucket::new(1, 3_600 * SECOND, 15);
        assert_eq!(larger.standing(&used, SECOND), Standing { remaining: 5, more_in: 3_600 * SECOND });
        let smaller = TokenBucket::new(1, 3_600 * SECOND, 4);
        assert_eq!(smaller.standing(&used, SECOND), Standing { remaining: 0, more_in: 7 * 3_600 * SECOND });
    }

    #[test]
    fn a_cost_over_the_burst_is_never_admitted() {
        for burst in [0, 4] {
            assert!(admit(TokenBucket::new(10, SECOND, burst), &mut Missing::default(), SECOND, 5).is_err(), "{burst}");
        }
    }

    #[test]
    fn what_is_given_back_is_there_again_and_no_more() {
        let limit = TokenBucket::new(1, SECOND, 4);
        let mut used = Missing::default();
        admit(limit, &mut used, 10 * SECOND, 3).unwrap();
        limit.give_back(&mut used, 10 * SECOND, 10 * SECOND, 2);
        assert_eq!(limit.standing(&used, 10 * SECOND).remaining, 3);
        limit.forget(&mut used, 12 * SECOND);
        limit.count(&mut used, 12 * SECOND, 1);
        limit.give_back(&mut used, 10 * SECOND, 12 * SECOND, 1);
        assert_eq!(limit.standing(&used, 12 * SECOND).remaining, 3, "it had come back by itself");
    }

    #[test]
    fn a_clock_read_before_another_thread_counted_admits_no_more() {
        let limit = TokenBucket::new(1, SECOND, 2);
        let mut used = Missing::default();
        admit(limit, &mut used, 10 * SECOND, 2).unwrap();
        assert_eq!(admit(limit, &mut used, 9 * SECOND, 1), Err(2 * SECOND));
        assert_eq!(admit(limit, &mut used, 10 * SECOND, 1), Err(SECOND));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let limit = TokenBucket::new(1, 366 * 86_400 * SECOND, u32::MAX);
        let mut used = Missing::default();
        assert_eq!(admit(limit, &mut used, u64::MAX / 2, u64::from(u32::MAX)), Ok(()));
        assert!(admit(limit, &mut used, u64::MAX / 2, 1).is_err());
        assert_eq!(limit.empty_at(&used), u64::MAX);
        let limit = TokenBucket::new(u32::MAX, SECOND, 1);
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
            let mut used = Missing::default();
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
                prop_assert_eq!(later.parts, 0);
            }
        }
    }
}
