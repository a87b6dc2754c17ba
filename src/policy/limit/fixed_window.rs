//! Fixed window: `count` in each period that begins at a multiple of its length, or with the calendar's day or month, in a time zone.
//! Counts by the wall clock, which is what a calendar means; twice the count can pass around the end of a period.
//! A clock that is set back by less than a period brings no fresh allowance: the later period goes on. Set back further,
//! the count is carried over to the present period, so that nobody is locked out by a clock that was once far ahead.
//! Where the zone's clock is changed, a period is as much longer or shorter as the clock is set.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use parking_lot::Mutex;

use super::algorithm::{Algorithm, Standing, UNIT, Use, Uses};
use super::{Now, Rule, config};

const SECOND: u64 = 1_000_000_000;
/// The day in nanoseconds: UTC days are multiples of it since 1970, as Unix time has no leap seconds.
pub(super) const DAY: u64 = 86_400 * SECOND;

/// No zone sets its clock by more at once.
const CLOCK_CHANGE_MAX: u64 = 3 * 3_600 * SECOND;

/// How long a period is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Period {
    /// So many nanoseconds, beginning at multiples of it since 1970, by the zone's clock.
    Length(u64),
    /// The calendar month.
    Month,
}

/// The numbers of one fixed window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct FixedWindow {
    count: u64,
    period: Period,
    /// None: UTC.
    zone: Option<&'static TimeZone>,
}

/// What was admitted in one period.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UsedPeriod {
    /// When the period ends, in nanoseconds of Unix time, the higher half first. Not a `u64`: an entry of a table would grow by the padding.
    ends: [u32; 2],
    count: u32,
}

/// The rules of a zone. They live as long as the process: there are some 600 zones, and the configuration names the few that are used.
pub(super) fn rules(zone: &config::Zone) -> Option<&'static TimeZone> {
    static ZONES: LazyLock<Mutex<BTreeMap<String, &'static TimeZone>>> = LazyLock::new(Mutex::default);
    if zone.is_utc() {
        return None;
    }
    let mut zones = ZONES.lock();
    Some(*zones.entry(zone.to_string()).or_insert_with(|| Box::leak(Box::new(zone.rules()))))
}

impl UsedPeriod {
    const fn new(ends: u64, count: u32) -> Self {
        Self { ends: [(ends >> 32) as u32, ends as u32], count }
    }

    const fn ends(self) -> u64 {
        (self.ends[0] as u64) << 32 | self.ends[1] as u64
    }
}

impl FixedWindow {
    /// At most `count` in each `period` of `zone`.
    pub fn new(count: u32, period: Period, zone: Option<&'static TimeZone>) -> Self {
        let period = if period == Period::Length(0) { Period::Length(1) } else { period };
        Self { count: u64::from(count), period, zone }
    }

    /// When the period that `now` is in ends.
    fn ends(&self, now: u64) -> u64 {
        match (self.period, self.zone) {
            (Period::Length(length), None) => (now / length).saturating_add(1).saturating_mul(length),
            // Later than jiff's calendar: no end, so nothing is ever given back.
            (Period::Length(length), Some(zone)) => end_of_length(now, length, zone).unwrap_or(u64::MAX),
            (Period::Month, zone) => next_month(now, zone.unwrap_or(&TimeZone::UTC)).unwrap_or(u64::MAX),
        }
    }

    /// No period is shorter: what ends within that time is under way.
    const fn shortest(&self) -> u64 {
        match (self.period, self.zone) {
            (Period::Length(length), None) => length,
            (Period::Length(length), Some(_)) => length.saturating_sub(CLOCK_CHANGE_MAX),
            (Period::Month, _) => 28 * DAY - CLOCK_CHANGE_MAX,
        }
    }
}

impl FixedWindow {
    /// When the period before the present one begins, the present one, the next, and the one after that.
    fn periods(&self, now: u64) -> [u64; 4] {
        let longest = CLOCK_CHANGE_MAX
            + match self.period {
                Period::Length(length) => length,
                Period::Month => 31 * DAY,
            };
        let mut bounds = [0, 0, 0, self.ends(now.saturating_sub(longest.saturating_mul(2)))];
        while bounds[2] <= now {
            let next = self.ends(bounds[3]);
            bounds = [bounds[1], bounds[2], bounds[3], next];
        }
        bounds
    }
}

fn local(now: u64, zone: &TimeZone) -> Option<DateTime> {
    Some(zone.to_datetime(Timestamp::from_nanosecond(i128::from(now)).ok()?))
}

/// The first moment at which the zone's clock shows this or more, and that is after `now`: an hour that comes twice belongs to one period.
fn moment(shown: DateTime, now: u64, zone: &TimeZone) -> Option<u64> {
    let times = zone.to_ambiguous_timestamp(shown);
    let nanoseconds = |time: Timestamp| u64::try_from(time.as_nanosecond()).ok();
    let first = nanoseconds(times.compatible().ok()?)?;
    if first > now { Some(first) } else { nanoseconds(times.later().ok()?).filter(|later| *later > now) }
}

/// The first moment of the month after the one that `now` is in.
fn next_month(now: u64, zone: &TimeZone) -> Option<u64> {
    let first = local(now, zone)?.date().last_of_month().tomorrow().ok()?;
    moment(first.to_datetime(Time::midnight()), now, zone)
}

fn end_of_length(now: u64, length: u64, zone: &TimeZone) -> Option<u64> {
    // What the clock shows, as if it were UTC.
    let shown = TimeZone::UTC.to_timestamp(local(now, zone)?).ok()?.as_nanosecond();
    let length = i128::from(length);
    let mut end = (shown.div_euclid(length) + 1) * length;
    loop {
        let shown = TimeZone::UTC.to_datetime(Timestamp::from_nanosecond(end).ok()?);
        // Where the clock was set back over an end, that end has passed already.
        match moment(shown, now, zone) {
            Some(moment) => return Some(moment),
            None => end += length,
        }
    }
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
        let known = used.ends();
        if known.checked_sub(now).is_some_and(|left| left > 0 && left <= self.shortest()) {
            return; // the usual case, without the calendar
        }
        let ends = self.ends(now);
        if known < ends {
            *used = UsedPeriod::new(ends, 0);
        } else if known > ends && known > self.ends(ends) {
            *used = UsedPeriod::new(ends, used.count);
        }
    }

    fn wait(&self, used: &UsedPeriod, now: u64, cost: u64) -> u64 {
        if u64::from(used.count) + cost <= self.count { 0 } else { used.ends().saturating_sub(now).max(1) }
    }

    fn count(&self, used: &mut UsedPeriod, _now: u64, cost: u64) {
        used.count += cost as u32; // admitted, so within `count`, which is a u32
    }

    fn give_back(&self, used: &mut UsedPeriod, at: u64, _now: u64, cost: u64) {
        if self.ends(at) == used.ends() {
            used.count = used.count.saturating_sub(u32::try_from(cost).unwrap_or(u32::MAX));
        }
    }

    fn standing(&self, used: &UsedPeriod, now: u64) -> Standing {
        let more_in = if used.count == 0 { 0 } else { used.ends().saturating_sub(now) };
        Standing { remaining: self.count.saturating_sub(u64::from(used.count)), more_in }
    }

    fn empty_at(&self, used: &UsedPeriod) -> u64 {
        if used.count == 0 { 0 } else { used.ends() }
    }

    fn uses(&self, used: &UsedPeriod, _now: u64) -> Uses {
        let one = Use { age: 0, millionths: u64::from(used.count) * UNIT };
        (used.count > 0).then_some(one).into_iter().collect()
    }

    fn used(&self, uses: &[Use], now: u64) -> UsedPeriod {
        let ends = self.ends(now);
        let present = uses.iter().filter(|one| self.ends(now.saturating_sub(one.age)) == ends);
        let count = present.map(|one| one.millionths).fold(0, u64::saturating_add).div_ceil(UNIT);
        UsedPeriod::new(ends, u32::try_from(count).unwrap_or(u32::MAX))
    }

    fn rule(&self, now: u64) -> Rule {
        Rule::FixedWindow { count: self.count, periods: self.periods(now) }
    }

    fn refill_per_second(&self, now: u64) -> f64 {
        let length = match self.period {
            Period::Length(length) => length,
            Period::Month => self.ends(self.ends(now)).saturating_sub(self.ends(now)),
        };
        self.count as f64 * 1e9 / length.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::algorithm::admit;
    use super::*;

    fn utc(count: u32, period: Period) -> FixedWindow {
        FixedWindow::new(count, period, None)
    }

    fn at(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    #[test]
    fn periods_end_where_the_calendar_says() {
        let day = utc(1, Period::Length(DAY));
        let month = utc(1, Period::Month);
        let ten = utc(1, Period::Length(10 * SECOND));
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
    fn periods_of_a_zone_end_by_its_clock_also_when_it_is_changed() {
        let zone = |name: &str| rules(&config::Zone::parse(name).unwrap());
        let (day, hour, month) = (Period::Length(DAY), Period::Length(3_600 * SECOND), Period::Month);
        for (name, period, now, ends) in [
            ("Europe/Berlin", day, "2026-01-10T12:00:00Z", "2026-01-10T23:00:00Z"),
            ("Europe/Berlin", day, "2026-03-29T00:30:00Z", "2026-03-29T22:00:00Z"), // 23 hours
            ("Europe/Berlin", day, "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"), // 25 hours
            ("Europe/Berlin", day, "2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z"),
            ("Europe/Berlin", month, "2026-03-31T21:59:59Z", "2026-03-31T22:00:00Z"),
            ("Europe/Berlin", month, "2026-03-31T22:00:00Z", "2026-04-30T22:00:00Z"),
            ("Europe/Berlin", hour, "2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z"), // 2 o'clock is 3 o'clock
            ("Europe/Berlin", hour, "2026-10-25T00:30:00Z", "2026-10-25T02:00:00Z"), // 2 o'clock comes twice: two hours are one
            ("Europe/Berlin", hour, "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"),
            ("Asia/Kolkata", hour, "2026-01-01T00:10:00Z", "2026-01-01T00:30:00Z"),
            ("America/Sao_Paulo", day, "2018-11-03T12:00:00Z", "2018-11-04T03:00:00Z"), // midnight is skipped
            ("UTC", day, "2026-01-10T12:00:00Z", "2026-01-11T00:00:00Z"),
        ] {
            let limit = FixedWindow::new(1, period, zone(name));
            assert_eq!(limit.ends(at(now)), at(ends), "{name} {period:?} {now}");
            let mut used = UsedPeriod::default();
            admit(limit, &mut used, at(now), 1).unwrap();
            assert_eq!(admit(limit, &mut used, at(ends) - 1, 1), Err(1), "{name} {period:?} {now}");
            assert_eq!(admit(limit, &mut used, at(ends), 1), Ok(()), "{name} {period:?} {now}");
        }
    }

    #[test]
    fn what_is_used_counts_on_in_its_own_period_only() {
        let limit = utc(5, Period::Length(DAY));
        let mut used = UsedPeriod::default();
        let now = at("2026-05-05T23:59:58Z");
        admit(limit, &mut used, now, 3).unwrap();
        let aged = |age: u64| limit.uses(&used, now).iter().map(|one| Use { age, ..*one }).collect::<Vec<_>>();
        assert_eq!(limit.used(&aged(SECOND), now + SECOND).count, 3);
        assert_eq!(limit.used(&aged(2 * SECOND), now + 2 * SECOND).count, 0);
        limit.give_back(&mut used, now, now, 2);
        assert_eq!(used.count, 1);
        limit.give_back(&mut used, now + 2 * SECOND, now + 2 * SECOND, 1);
        assert_eq!(used.count, 1, "another period's");
    }

    #[test]
    fn the_count_is_admitted_until_the_period_ends() {
        let limit = utc(2, Period::Month);
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
        let limit = utc(1, Period::Length(3_600 * SECOND));
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
        let limit = utc(1, Period::Length(3_600 * SECOND));
        let mut used = UsedPeriod::default();
        admit(limit, &mut used, at("2026-05-05T12:00:01Z"), 1).unwrap();
        assert_eq!(admit(limit, &mut used, at("2026-05-05T13:00:00Z"), 1), Ok(()));
    }

    #[test]
    fn refill_is_the_average_over_the_period() {
        assert_eq!(utc(86_400, Period::Length(DAY)).refill_per_second(0), 1.0);
        assert!(utc(1_000, Period::Month).refill_per_second(at("2026-01-15T00:00:00Z")) > 0.0);
    }

    #[test]
    fn the_end_of_time_does_not_overflow() {
        for period in [Period::Length(DAY), Period::Month, Period::Length(0)] {
            let limit = utc(1, period);
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
            let limit = utc(count, Period::Length(length));
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
