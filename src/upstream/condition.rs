//! What is known about the condition of one instance, by whom it was found out, and since when.
//! Pure: outcomes and times go in, changes come out. Selection reads the flags; everything else here is for people.

use std::time::{Duration, Instant, SystemTime};

use crate::config::Eject;

/// Its health checks fail.
pub(super) const DOWN: u8 = 1;
/// It is new, and waits for its first health check.
pub(super) const UNPROVEN: u8 = 2;
/// It failed requests, and gets none for a while.
pub(super) const EJECTED: u8 = 4;
/// Somebody wants it to get no more requests.
pub(super) const DRAINED: u8 = 8;

/// What is known about an instance now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// Its health checks succeed, or are not done yet for the first time after the start.
    Up,
    /// Its health checks fail; it gets no requests.
    Down,
    /// It is new; it gets requests after its first successful health check.
    Unproven,
    /// It failed requests, and gets none for a while.
    Ejected,
    /// It gets no new requests because somebody said so, or because it is not listed any more; those under way finish.
    Draining,
    /// It has no health check.
    Unchecked,
}

/// A change that people are told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Up,
    Down,
}

/// How often the state has become which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Healthy again, or back after an ejection.
    pub up: u64,
    /// Unhealthy.
    pub down: u64,
    /// Ejected.
    pub ejected: u64,
    /// Drained.
    pub draining: u64,
}

/// The last health check of an instance.
#[derive(Clone, Debug)]
pub struct LastCheck {
    /// When it ended.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Why it failed; none where it succeeded.
    pub problem: Option<String>,
}

/// The condition of one instance.
#[derive(Clone, Debug)]
pub struct Condition {
    check: Check,
    /// Outcomes in a row that speak against `check`.
    streak: u16,
    is_ejected: bool,
    is_drained: bool,
    /// How long the last ejection was, and when it ended.
    last_ejection: Option<(Duration, Instant)>,
    /// Since when it is in this state.
    pub since: SystemTime,
    /// Why, in one sentence.
    pub why: String,
    /// The last health check.
    pub last_check: Option<LastCheck>,
    /// How often it changed.
    pub changes: Changes,
}

/// What health checks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    None,
    Unproven,
    Up,
    Down,
}

impl Condition {
    pub(super) fn new(check: Check) -> Self {
        Self {
            check,
            streak: 0,
            is_ejected: false,
            is_drained: false,
            last_ejection: None,
            since: SystemTime::now(),
            why: first_reason(check).to_owned(),
            last_check: None,
            changes: Changes::default(),
        }
    }

    /// What selection reads.
    pub(super) fn flags(&self) -> u8 {
        let check = match self.check {
            Check::None | Check::Up => 0,
            Check::Unproven => UNPROVEN,
            Check::Down => DOWN,
        };
        check | if self.is_ejected { EJECTED } else { 0 } | if self.is_drained { DRAINED } else { 0 }
    }

    /// The state in one word; what keeps requests away for longest is said first.
    pub fn state(&self) -> InstanceState {
        match self.check {
            _ if self.is_drained => InstanceState::Draining,
            Check::Down => InstanceState::Down,
            _ if self.is_ejected => InstanceState::Ejected,
            Check::Unproven => InstanceState::Unproven,
            Check::Up => InstanceState::Up,
            Check::None => InstanceState::Unchecked,
        }
    }

    /// Health checks begin or end with a reload; what was known stays known while there are any.
    pub(super) fn expect_checks(&mut self, expected: bool) {
        let check = match (expected, self.check) {
            (true, Check::None) => Check::Up,
            (false, _) => Check::None,
            (true, check) => check,
        };
        if check != self.check {
            self.check = check;
            self.streak = 0;
            self.last_check = None;
            self.becomes(first_reason(check).to_owned());
        }
    }

    /// A health check ended; `threshold` such outcomes in a row change the state.
    pub(super) fn checked(&mut self, problem: Option<String>, took: Duration, threshold: usize) -> Option<Change> {
        self.last_check = Some(LastCheck { at: SystemTime::now(), took, problem: problem.clone() });
        let (next, needed) = match (self.check, &problem) {
            (Check::None, _) => return None,
            // A new instance is believed at its first word, good or bad.
            (Check::Unproven, None) => (Check::Up, 1),
            (Check::Unproven, Some(_)) => (Check::Down, 1),
            (Check::Up, Some(_)) => (Check::Down, threshold),
            (Check::Down, None) => (Check::Up, threshold),
            (Check::Up, None) | (Check::Down, Some(_)) => {
                self.streak = 0;
                return None;
            }
        };
        self.streak += 1;
        if usize::from(self.streak) < needed {
            return None;
        }
        let times = self.streak;
        self.streak = 0;
        self.check = next;
        match problem {
            Some(problem) => {
                self.changes.down += 1;
                self.becomes(format!("{times} health checks failed, the last one: {problem}"));
                Some(Change::Down)
            }
            None => {
                self.changes.up += 1;
                self.becomes(format!("{times} health checks succeeded"));
                Some(Change::Up)
            }
        }
    }

    /// It is ejected for as long as is returned: each time twice as long as before, unless it has kept well since for as long as that was.
    pub(super) fn eject(&mut self, eject: &Eject, why: &str, now: Instant) -> Duration {
        let length = match self.last_ejection {
            Some((last, ended)) if now.saturating_duration_since(ended) < last => (last * 2).min(eject.time_max.0),
            _ => eject.time.0,
        };
        self.last_ejection = Some((length, now + length));
        self.is_ejected = true;
        self.changes.ejected += 1;
        self.becomes(format!("{} requests in a row failed, the last one: {why}; ejected for {length:?}", eject.errors));
        length
    }

    /// The ejection is over.
    pub(super) fn readmit(&mut self) {
        self.is_ejected = false;
        self.changes.up += 1;
        self.becomes("its ejection is over".to_owned());
    }

    /// It gets no new requests from now on, for this reason; said again it may be another one.
    pub(super) fn drain(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_drained, true) {
            self.changes.draining += 1;
        }
        self.becomes(why.to_owned());
    }

    /// It is used again; whether it was not.
    pub(super) fn undrain(&mut self) -> bool {
        let was_drained = std::mem::replace(&mut self.is_drained, false);
        if was_drained {
            self.becomes("it is not drained any more".to_owned());
        }
        was_drained
    }

    fn becomes(&mut self, why: String) {
        self.since = SystemTime::now();
        self.why = why;
    }
}

impl InstanceState {
    /// Whether it gets requests.
    pub const fn is_ready(self) -> bool {
        match self {
            Self::Up | Self::Unchecked => true,
            Self::Down | Self::Unproven | Self::Ejected | Self::Draining => false,
        }
    }
}

const fn first_reason(check: Check) -> &'static str {
    match check {
        Check::None => "it has no health check",
        Check::Unproven => "it is new and waits for its first health check",
        Check::Up => "it is believed to be healthy until health checks say otherwise",
        Check::Down => "its health checks fail",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Percent, Span};

    /// Checks one after the other, `x` a failure and `.` a success, and the states after each: `U`p, `D`own, `N`ew.
    fn play(check: Check, outcomes: &str) -> String {
        let mut condition = Condition::new(check);
        let state = |condition: &Condition| match condition.state() {
            InstanceState::Up => 'U',
            InstanceState::Down => 'D',
            InstanceState::Unproven => 'N',
            InstanceState::Ejected | InstanceState::Draining | InstanceState::Unchecked => '?',
        };
        let after = |one| {
            match one {
                'x' => condition.checked(Some("500".to_owned()), Duration::ZERO, 3),
                _ => condition.checked(None, Duration::ZERO, 2),
            };
            state(&condition)
        };
        outcomes.chars().map(after).collect()
    }

    #[test]
    fn thresholds_hold_both_ways_and_only_in_a_row() {
        assert_eq!(play(Check::Up, "xx.xxx"), "UUUUUD");
        assert_eq!(play(Check::Down, ".x.."), "DDDU");
        assert_eq!(play(Check::Up, "xxx.x..xxx"), "UUDDDDUUUD");
    }

    #[test]
    fn a_new_instance_is_believed_at_its_first_check() {
        assert_eq!(play(Check::Unproven, ".x"), "UU");
        assert_eq!(play(Check::Unproven, "x.."), "DDU");
    }

    #[test]
    fn ejections_grow_up_to_their_bound_and_begin_anew_after_a_good_while() {
        let eject = Eject {
            time: Span::seconds(10),
            time_max: Span::seconds(30),
            ejected_max: Percent(100),
            ..Eject::default()
        };
        let mut condition = Condition::new(Check::None);
        let mut now = Instant::now();
        for expected in [10, 20, 30, 30] {
            let length = condition.eject(&eject, "upstream_connect", now);
            assert_eq!((length.as_secs(), condition.flags()), (expected, EJECTED));
            now += length;
            condition.readmit();
            assert_eq!(condition.flags(), 0);
            now += Duration::from_secs(5);
        }
        now += Duration::from_secs(30);
        assert_eq!(condition.eject(&eject, "upstream_connect", now).as_secs(), 10);
        assert_eq!(condition.changes, Changes { up: 4, ejected: 5, ..Changes::default() });
    }

    #[test]
    fn what_is_drained_stays_so_whatever_checks_say() {
        let mut condition = Condition::new(Check::Up);
        condition.drain("drained by the admin API");
        condition.drain("drained by the admin API");
        condition.checked(Some("500".to_owned()), Duration::ZERO, 1);
        assert_eq!((condition.state(), condition.flags()), (InstanceState::Draining, DRAINED | DOWN));
        condition.checked(None, Duration::ZERO, 1);
        assert_eq!((condition.state(), condition.changes.draining), (InstanceState::Draining, 1));
        assert!(condition.undrain() && !condition.undrain());
        assert_eq!((condition.state(), condition.flags()), (InstanceState::Up, 0));
    }

    #[test]
    fn the_end_of_health_checks_is_no_state_without_a_way_out() {
        let mut condition = Condition::new(Check::Down);
        condition.expect_checks(false);
        assert_eq!((condition.state(), condition.flags()), (InstanceState::Unchecked, 0));
        condition.expect_checks(true);
        assert_eq!(condition.state(), InstanceState::Up);
    }
}
