//! The breaker against a naive reference with random outcomes and times, and its permits among threads.

use proptest::prelude::*;

use super::*;
use crate::config::{Percent, Span};

fn breaker() -> Arc<Breaker> {
    let config = config::Breaker { failures: Some(2), recovery: Span::seconds(10), ..config::Breaker::default() };
    Breaker::compile(&config, "users", Some("127.0.0.1:1"), None)
}

fn fail(breaker: &Arc<Breaker>, now: Instant) {
    breaker.enter(now).unwrap().report(true, Duration::ZERO, now);
}

#[test]
fn a_trial_that_is_dropped_gives_its_place_back() {
    let (breaker, begin) = (breaker(), Instant::now());
    fail(&breaker, begin);
    fail(&breaker, begin);
    assert_eq!(breaker.enter(begin).unwrap_err(), Duration::from_secs(10));
    let later = begin + Duration::from_secs(10);
    let trial = breaker.enter(later).unwrap();
    assert!(trial.is_trial() && !breaker.is_ready(later));
    assert!(breaker.enter(later).is_err());
    drop(trial);
    breaker.enter(later).unwrap().report(false, Duration::ZERO, later);
    let view = breaker.view(later);
    assert_eq!((view.state, view.why), (BreakerState::Closed, None));
    assert_eq!(view.transitions.map(|(_, count)| count), [1, 1, 1]);
}

#[test]
fn a_reload_keeps_the_state_where_the_settings_are_the_same_and_the_counts_always() {
    let (breaker, now) = (breaker(), Instant::now());
    fail(&breaker, now);
    fail(&breaker, now);
    let same = Breaker::compile(&breaker.config, "users", Some("127.0.0.1:1"), Some(&breaker));
    assert!(Arc::ptr_eq(&same, &breaker));
    let other = Breaker::compile(&config::Breaker::default(), "users", Some("127.0.0.1:1"), Some(&breaker));
    let view = other.view(now);
    assert_eq!((view.state, view.transitions[0].1), (BreakerState::Closed, 1));
}

#[test]
fn threads_at_once_never_have_more_trials_than_there_are_places() {
    use std::sync::atomic::AtomicUsize;
    let (breaker, begin) = (breaker(), Instant::now());
    fail(&breaker, begin);
    fail(&breaker, begin);
    let later = begin + Duration::from_secs(10);
    let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    let Ok(permit) = breaker.enter(later) else { continue };
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(permit);
                }
            });
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), 1);
    assert!(breaker.is_ready(later), "every place was given back");
}

/// The rules in the most obvious form: everything that ended is kept, and counted anew each time.
struct Reference {
    config: config::Breaker,
    state: BreakerState,
    /// Grows with every change of state.
    era: u32,
    /// Milliseconds at which it opened, and for how long.
    opened: u64,
    wait: u64,
    /// Millisecond, failed, slow: since it closed.
    ended: Vec<(u64, bool, bool)>,
    trials: u32,
    succeeded: u32,
}

impl Reference {
    fn new(config: &config::Breaker) -> Self {
        Self {
            config: config.clone(),
            state: BreakerState::Closed,
            era: 0,
            opened: 0,
            wait: 0,
            ended: Vec::new(),
            trials: 0,
            succeeded: 0,
        }
    }

    fn goes_to(&mut self, state: BreakerState) {
        self.state = state;
        self.era += 1;
        self.ended.clear();
        (self.trials, self.succeeded) = (0, 0);
    }

    fn opens(&mut self, wait: u64, now: u64) {
        self.goes_to(BreakerState::Open);
        (self.opened, self.wait) = (now, wait);
    }

    /// The era of the request, and whether it is a trial.
    fn admit(&mut self, now: u64) -> Option<(u32, bool)> {
        if self.state == BreakerState::Open && now >= self.opened + self.wait {
            self.goes_to(BreakerState::HalfOpen);
        }
        match self.state {
            BreakerState::Closed => Some((self.era, false)),
            BreakerState::HalfOpen if self.trials < self.config.trials => {
                self.trials += 1;
                Some((self.era, true))
            }
            BreakerState::HalfOpen | BreakerState::Open => None,
        }
    }

    fn report(&mut self, era: u32, failed: bool, took: u64, now: u64) {
        if era != self.era {
            return;
        }
        let slow = self.config.slow_after.is_some_and(|after| u128::from(took) >= after.0.as_millis());
        if self.state == BreakerState::Closed {
            self.ended.push((now, failed, slow));
            let in_a_row = self.ended.iter().rev().take_while(|ended| ended.1).count() as u32;
            let bucket = self.config.window.0.as_millis() as u64 / 10;
            let recent = || self.ended.iter().filter(|ended| ended.0 / bucket + 10 > now / bucket);
            let total = recent().count();
            let over = |part: usize, ratio: Option<Percent>| {
                total >= self.config.requests_min as usize
                    && ratio.is_some_and(|ratio| part as f64 >= f64::from(ratio.0) / 100.0 * total as f64 - 1e-9)
            };
            let in_a_row_trips = self.config.failures.is_some_and(|failures| in_a_row >= failures);
            let failures_trip = over(recent().filter(|ended| ended.1).count(), self.config.failure_ratio);
            let slowness_trips = over(recent().filter(|ended| ended.2).count(), self.config.slow_ratio);
            if failed && (in_a_row_trips || failures_trip) || slow && slowness_trips {
                self.opens(self.config.recovery.0.as_millis() as u64, now);
            }
            return;
        }
        self.trials -= 1;
        self.succeeded += 1;
        if failed || slow {
            self.opens((self.wait * 2).min(self.config.recovery_max.0.as_millis() as u64), now);
        } else if self.succeeded >= self.config.successes {
            self.goes_to(BreakerState::Closed);
        }
    }

    fn give_up(&mut self, era: u32) {
        if era == self.era && self.state == BreakerState::HalfOpen {
            self.trials -= 1;
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Admit,
    /// One of those that are out: whether it failed, how long it took.
    Report(prop::sample::Index, bool, u64),
    GiveUp(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => (0_u64..700).prop_map(Step::Wait),
        1 => (700_u64..20_000).prop_map(Step::Wait),
        8 => Just(Step::Admit),
        8 => (index(), prop::bool::weighted(0.6), 0_u64..150).prop_map(|(at, failed, took)| Step::Report(at, failed, took)),
        1 => index().prop_map(Step::GiveUp),
    ]
}

prop_compose! {
    fn settings()(
        failures in prop::option::of(1_u32..6),
        recovery_ms in 1_u64..3_000,
        times in 1_u64..6,
        trials in 1_u32..4,
        successes in 1_u32..4,
        failure_ratio in prop::option::of(1_u32..=100),
        slow_ratio in prop::option::of(1_u32..=100),
        window in 1_u64..5,
        requests_min in 1_u32..12,
    ) -> config::Breaker {
        let milliseconds = |count| Span(Duration::from_millis(count));
        config::Breaker {
            failures,
            recovery: milliseconds(recovery_ms),
            recovery_max: milliseconds(recovery_ms * times),
            trials,
            successes,
            failure_ratio: failure_ratio.map(Percent),
            slow_ratio: slow_ratio.map(Percent),
            slow_after: slow_ratio.map(|_| milliseconds(100)),
            window: Span::seconds(window),
            requests_min,
            ..config::Breaker::default()
        }
    }
}

proptest! {
    #[test]
    fn the_machine_does_what_the_reference_does(
        config in settings(),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let begin = Instant::now();
        let (mut machine, mut reference) = (Machine::new(&config, begin), Reference::new(&config));
        let mut out: Vec<(Ticket, u32)> = Vec::new();
        let mut now_ms = 0;
        for step in steps {
            let now = begin + Duration::from_millis(now_ms);
            match step {
                Step::Wait(milliseconds) => now_ms += milliseconds,
                Step::Admit => match (machine.admit(now), reference.admit(now_ms)) {
                    (Ok(ticket), Some((era, is_trial))) => {
                        prop_assert_eq!(ticket.is_trial, is_trial);
                        out.push((ticket, era));
                    }
                    (Err(left), None) if reference.state == BreakerState::Open => {
                        prop_assert_eq!(left, Duration::from_millis(reference.opened + reference.wait - now_ms));
                    }
                    (Err(_), None) => {}
                    (machine, reference) => prop_assert!(false, "{:?} but {:?}", machine, reference),
                },
                Step::Report(at, failed, took) if !out.is_empty() => {
                    let (ticket, era) = out.swap_remove(at.index(out.len()));
                    machine.report(ticket, failed, Duration::from_millis(took), now);
                    reference.report(era, failed, took, now_ms);
                }
                Step::GiveUp(at) if !out.is_empty() => {
                    let (ticket, era) = out.swap_remove(at.index(out.len()));
                    machine.release(ticket);
                    reference.give_up(era);
                }
                Step::Report(..) | Step::GiveUp(_) => {}
            }
            prop_assert_eq!(BreakerState::from(machine.phase()), reference.state);
        }
        // Whatever happened: when those who are out have ended and the longest wait is over, requests pass again, and successes close it.
        for (ticket, _) in out {
            machine.release(ticket);
        }
        let later = begin + Duration::from_millis(now_ms) + config.recovery_max.0;
        for _ in 0..config.successes {
            let ticket = machine.admit(later);
            prop_assert!(ticket.is_ok());
            machine.report(ticket.unwrap(), false, Duration::ZERO, later);
        }
        prop_assert_eq!(machine.phase(), Phase::Closed);
    }
}

#[test]
fn each_way_to_open_says_why() {
    let begin = Instant::now();
    let why = |config: config::Breaker, requests: &[(bool, u64)]| {
        let mut machine = Machine::new(&config, begin);
        for (failed, took) in requests {
            let ticket = machine.admit(begin).unwrap();
            machine.report(ticket, *failed, Duration::from_millis(*took), begin);
        }
        machine.why().map(|why| why.to_string()).unwrap_or_default()
    };
    let quiet = config::Breaker { failures: None, requests_min: 4, ..config::Breaker::default() };
    let (bad, good) = ((true, 0), (false, 0));
    assert_eq!(why(config::Breaker::default(), &[bad; 5]), "5 requests in a row failed");
    assert_eq!(why(config::Breaker::default(), &[bad, bad, bad, bad, good, bad]), "");
    let ratio = config::Breaker { failure_ratio: Some(Percent(50)), ..quiet.clone() };
    assert_eq!(why(ratio.clone(), &[bad, bad, good]), "", "too few");
    assert_eq!(why(ratio.clone(), &[bad, bad, bad, good, good]), "", "a success opens nothing");
    assert_eq!(why(ratio, &[bad, good, good, bad]), "2 of 4 requests failed within 10 s");
    let slow = config::Breaker { slow_ratio: Some(Percent(75)), slow_after: Some(Span::seconds(1)), ..quiet };
    assert_eq!(
        why(slow, &[(false, 1_000), (false, 2_000), good, (false, 1_500)]),
        "3 of 4 requests were slow within 10 s"
    );
}

#[test]
fn each_failed_trial_doubles_the_wait_up_to_its_bound() {
    let config = config::Breaker {
        failures: Some(1),
        recovery: Span::seconds(10),
        recovery_max: Span::seconds(30),
        ..config::Breaker::default()
    };
    let mut now = Instant::now();
    let mut machine = Machine::new(&config, now);
    for wait in [10, 20, 30, 30] {
        let ticket = machine.admit(now).unwrap();
        machine.report(ticket, true, Duration::ZERO, now);
        assert_eq!(machine.admit(now).unwrap_err(), Duration::from_secs(wait));
        now += Duration::from_secs(wait);
    }
    let ticket = machine.admit(now).unwrap();
    machine.report(ticket, false, Duration::ZERO, now);
    let ticket = machine.admit(now).unwrap();
    machine.report(ticket, true, Duration::ZERO, now);
    assert_eq!(machine.left(now), Duration::from_secs(10), "after a success it begins anew");
}
