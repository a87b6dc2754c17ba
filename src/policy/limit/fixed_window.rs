//! Fixed window: `count` in each period that begins at a multiple of its length, or with the calendar's day or month (UTC).
//! Counts by the wall clock, which is what a calendar means; twice the count can pass around the end of a period.
//! A clock that is set back by less than a period brings no fresh allowance: the later period goes on. Set back further,
//! the count is carried over to the present period, so that nobody is locked out by a clock that was once far ahead.

use jiff::Timestamp;
use jiff::tz::Offset;

use super::algorithm::{Algorithm, Standing};
use super::{Now, Rule};

const SECOND: u64 = 1_000_000_000;
/// The day in nanoseconds: UTC days are multiples of it since 1970, as Unix time has no leap seconds.
pub(super) const DAY: u64 = 86_400 * SECOND;

/// How long a period is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Period {
    /// So many nanoseconds, beginning at multiples of it since 1970.
    Length(u64),
    /// The calendar month, UTC.
    Month,
}

/// The numbers of one fixed window.
#[derive(Clone, Copy, Debug)]
pub(super) struct FixedWindow {
    count: u64,
    period: Period,
}

/// What was admitted in one period.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UsedPeriod {
    /// When the period ends, in nanoseconds of Unix time.
    ends: u64,
    count: u32,
}

impl FixedWindow {
    /// At most `count` in each `period`.
    pub fn new(count: u32, period: Period) -> Self {
        let period = if period == Period::Length(0) { Period::Length(1) } else { period };
        Self { count: u64::from(count), period }
    }

    /// When the period that `now` is in ends.
    fn ends(&self, now: u64) -> u64 {
        match self.period {
            Period::Length(length) => (now / length).saturating_add(1).saturating_mul(length),
            // Later than jiff's calendar: no end, so nothing is ever given back.
            Period::Month => next_month(now).unwrap_or(u64::MAX),
        }
    }
}

impl FixedWindow {
    /// When the period before the present one begins, the present one, the next, and the one after that.
    fn periods(&self, now: u64) -> [u64; 4] {
        // No period is longer than 31 days and a change of the clocks.
        let longest = match self.period {
            Period::Length(length) => length,
            Period::Month => 32 * DAY,
        };
        let mut bounds = [0, 0, 0, self.ends(now.saturating_sub(longest.saturating_mul(2)))];
        while bounds[2] <= now {
            let next = self.ends(bounds[3]);
            bounds = [bounds[1], bounds[2], bounds[3], next];
        }
        bounds
    }
}

/// The first moment of the month after the one that `now` is in.
fn next_month(now: u64) -> Option<u64> {
    let date = Offset::UTC.to_datetime(Timestamp::from_nanosecond(i128::from(now)).ok()?).date();
    let first = date.last_of_month().tomorrow().ok()?.to_datetime(jiff::civil::Time::midnight());
    u64::try_from(Offset::UTC.to_timestamp(first).ok()?.as_nanosecond()).ok()
}

impl Algorithm for FixedWindow {
    type Used = UsedPeriod;

    fn time(&self, now: Now) -> u64 {
        now.wall_ns()
    }

    fn capacity(&self) -> u64 {
        self.count
    }

    fn forget(&self, used: &mut UsedPeriod, now: u64) {
        let ends = self.ends(now);
        if used.ends < ends {
            *used = UsedPeriod { ends, count: 0 };
        } else if used.ends > ends && used.ends > self.ends(ends) {
            used.ends = ends;
        }
    }

    fn wait(&self, used: &UsedPeriod, now: u64, cost: u64) -> u64 {
        if u64::from(used.count) + cost <= self.count { 0 } else { used.ends.saturating_sub(now).max(1) }
    }

    fn count(&self, used: &mut UsedPeriod, _now: u64, cost: u64) {
        used.count += cost as u32; // admitted, so within `count`, which is a u32
    }

    fn give_back(&self, used: &mut UsedPeriod, counted: u64, _now: u64, cost: u64) {
        if used.ends == self.ends(counted) {
            used.count = used.count.saturating_sub(cost as u32);
        }
    }

    fn standing(&self, used: &UsedPeriod, now: u64) -> Standing {
        let more_in = if used.count == 0 { 0 } else { used.ends.saturating_sub(now) };
        Standing { remaining: self.count.saturating_sub(u64::from(used.count)), more_in }
    }

    fn empty_at(&self, used: &UsedPeriod) -> u64 {
        if used.count == 0 { 0 } else { used.ends }
    }

    fn rule(&self, now: u64) -> Rule {
        Rule::FixedWindow { count: self.count, periods: self.periods(now) }
    }

    fn counts_like(&self, before: &Self) -> bool {
        self.period == before.period
    }

    fn refill_per_second(&self, now: u64) -> f64 {
        let length = match self.period {
            Period::Length(length) => length,
            Period::Month => next_month(self.ends(now)).map_or(30 * DAY, |following| following - self.ends(now)),
        };
        self.count as f64 * 1e9 / length as f64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::algorithm::admit;
    use super::*;

    fn at(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    #[test]
    fn periods_end_where_the_calendar_says() {
        let day = FixedWindow::new(1, Period::Length(DAY));
        let month = FixedWindow::new(1, Period::Month);
        let ten = FixedWindow::new(1, Period::Length(10 * SECOND));
        for (limit, now, ends) in [
            (day, "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"),
            (day, "2026-12-31T23:59:59.999999999Z", "2027-01-01T00:00:00Z"),
            (month, "2026-01-31T12:00:00Z", "2026-02-01T00:00:00Z"),
            (month, "2028-02-29T23:59:59Z", "2028-03-01T00:00:00Z"),
            (month, "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (ten, "2026-01-01T00:00:09.9Z", "2026-01-01T00:00:10Z"),
            (ten, "2026-01-01T00:00:10Z", "2026-01-01T00:00:20Z"),
        ] {
            assert_eq!(limit.ends(at(now)), at(ends), "{limit:?} {now}");
        }
    }

    #[test]
    fn the_count_is_admitted_until_the_period_ends() {
        let limit = FixedWindow::new(2, Period::Month);
        let mut used = UsedPeriod::default();
        let now = at("2026-02-28T23:59:50Z");
        assert_eq!(admit(limit, &mut used, now, 1), Ok(()));
        assert_eq!(limit.standing(&used, now), Standing { remaining: 1, more_in: 10 * SECOND });
        assert_eq!(admit(limit, &mut used, now, 2), Err(10 * SECOND));
        assert_eq!(admit(limit, &mut used, now, 1), Ok(()));
        assert_eq!(admit(limit, &mut used, now, 1), Err(10 * SECOND));
        assert_eq!(limit.empty_at(&used), at("2026-03-01T00:00:00Z"));
        assert_eq!(admit(limit, &mut used, now + 10 * SECOND, 1), Ok(()));
    }

    #[test]
    fn a_clock_set_back_brings_no_fresh_allowance() {
        let limit = FixedWindow::new(1, Period::Length(3_600 * SECOND));
        let (now, hour) = (at("2026-05-05T12:00:01Z"), 3_600 * SECOND);
        let mut used = UsedPeriod::default();
        admit(limit, &mut used, now, 1).unwrap();
        assert_eq!(admit(limit, &mut used, now - 2 * SECOND, 1), Err(hour + SECOND), "into the period before");
        assert_eq!(admit(limit, &mut used, now, 1), Err(hour - SECOND), "and back again");
        assert_eq!(
            admit(limit, &mut used, now - 30 * hour, 1),
            Err(hour - SECOND),
            "far back, the count is carried over"
        );
        assert_eq!(admit(limit, &mut used, now - 29 * hour, 1), Ok(()), "and ends with that period");
    }

    #[test]
    fn a_clock_set_forward_begins_a_new_period() {
        let limit = FixedWindow::new(1, Period::Length(3_600 * SECOND));
        let mut used = UsedPeriod::default();
        admit(limit, &mut used, at("2026-05-05T12:00:01Z"), 1).unwrap();
        assert_eq!(admit(limit, &mut used, at("2026-05-05T13:00:00Z"), 1), Ok(()));
    }

    #[test]
    fn refill_is_the_average_over_the_period() {
        assert_eq!(FixedWindow::new(86_400, Period::Length(DAY)).refill_per_second(0), 1.0);
        assert!(FixedWindow::new(1_000, Period::Month).refill_per_second(at("2026-01-15T00:00:00Z")) > 0.0);
    }

    #[test]
    fn the_end_of_time_does_not_overflow() {
        for period in [Period::Length(DAY), Period::Month, Period::Length(0)] {
            let limit = FixedWindow::new(1, period);
            let mut used = UsedPeriod::default();
            let _ = admit(limit, &mut used, u64::MAX, 1);
            let _ = limit.refill_per_second(u64::MAX);
        }
    }

    proptest! {
        #[test]
        fn admits_exactly_the_count_in_each_period(
            count in 1_u32..20,
            length in prop_oneof![1_u64..1_000, Just(SECOND), Just(DAY)],
            steps in prop::collection::vec((0_u64..100, 0_u32..8, 1_u64..4), 1..200),
        ) {
            let limit = FixedWindow::new(count, Period::Length(length));
            let mut used = UsedPeriod::default();
            let mut periods: HashMap<u64, u64> = HashMap::new();
            let mut now = at("2026-01-01T00:00:00Z");
            for (step, scale, cost) in steps {
                now += step * length / 50 / (1 << scale);
                let cost = cost.min(u64::from(count));
                let admitted = periods.entry(now / length).or_default();
                match admit(limit, &mut used, now, cost) {
                    Ok(()) => {
                        *admitted += cost;
                        prop_assert!(*admitted <= u64::from(count));
                    }
                    Err(wait) => {
                        prop_assert!(*admitted + cost > u64::from(count));
                        let (mut later, mut sooner) = (used, used);
                        prop_assert!(admit(limit, &mut later, now + wait, cost).is_ok());
                        prop_assert!(admit(limit, &mut sooner, now + wait - 1, cost).is_err());
                    }
                }
            }
        }
    }
}
