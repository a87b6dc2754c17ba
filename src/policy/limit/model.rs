//! The whole policy against a naive exact model: every admission is remembered with its time. Random times, rates, bursts, costs and callers, through
//! sets of limits and their tables. Never is one admitted that the model refuses; a token bucket refuses none that it admits, a sliding window at most
//! during one slot.

use std::time::Duration;

use proptest::prelude::*;

use super::tests::{at, book_of, from};
use super::{Now, RouteLimits};

const SECOND: u128 = 1_000_000_000;

/// Numbers of one limit; with a burst it is a token bucket.
#[derive(Clone, Debug)]
struct Numbers {
    count: u32,
    window_seconds: u32,
    burst: Option<u32>,
    cost: u32,
    per_all: bool,
}

/// What was admitted, when (nanoseconds) and of whom.
type Admitted = Vec<(u128, u8)>;

impl Numbers {
    fn yaml(&self, name: usize) -> String {
        let burst = self.burst.map(|burst| format!(" burst {burst}")).unwrap_or_default();
        let per = if self.per_all { "all" } else { "ip" };
        format!(
            "{{rate: {}/{}s{burst}, per: {per}, cost: {}, name: n{name}}}",
            self.count, self.window_seconds, self.cost
        )
    }

    /// Whether one more fits at `now`, by the definition; `longer` makes the window of a sliding window so much longer.
    fn fits(&self, admitted: &Admitted, who: u8, now: u128, longer: u128) -> bool {
        let (cost, window) = (u128::from(self.cost), u128::from(self.window_seconds) * SECOND);
        let mine = admitted.iter().rev().filter(|(_, of)| self.per_all || *of == who);
        match self.burst {
            None => {
                let within = mine.take_while(|(then, _)| then + window + longer > now).count() as u128;
                (within + 1) * cost <= u128::from(self.count)
            }
            // For every earlier moment: what was admitted since, and this, is within burst + rate x t.
            Some(burst) => {
                std::iter::once(now).chain(mine.map(|(then, _)| *then)).zip(1_u128..).all(|(then, units)| {
                    units * cost * window <= u128::from(burst) * window + (now - then) * u128::from(self.count)
                })
            }
        }
    }

    fn slot(&self) -> u128 {
        // Where 16 does not divide the window, slots are rounded up to whole nanoseconds.
        u128::from(self.window_seconds) * SECOND / 16 + 17
    }
}

fn numbers() -> impl Strategy<Value = Numbers> {
    (1_u32..12, 1_u32..90, prop::option::of(1_u32..12), 1_u32..4, any::<bool>()).prop_map(
        |(count, window_seconds, burst, cost, per_all)| {
            let cost = cost.min(burst.unwrap_or(count));
            Numbers { count, window_seconds, burst, cost, per_all }
        },
    )
}

fn route(limits: &[Numbers]) -> RouteLimits {
    let limits: Vec<String> = limits.iter().enumerate().map(|(name, numbers)| numbers.yaml(name)).collect();
    let (_, mut routes) = book_of(&format!("routes: {{/a: {{to: a, limit: [{}]}}}}", limits.join(", ")), None);
    routes.remove("/a").unwrap()
}

proptest! {
    #[test]
    fn no_set_of_limits_admits_what_the_model_refuses(
        limits in prop::collection::vec(numbers(), 1..4),
        steps in prop::collection::vec((0_u64..8_000_000_000, 0_u32..12, 0_u8..4), 1..250),
    ) {
        let route = route(&limits);
        let set = route.of(None).unwrap();
        let mut admitted = Admitted::new();
        let (mut passed, start) = (Duration::ZERO, at(0.0));
        for (step, scale, who) in steps {
            passed += Duration::from_nanos(step >> scale);
            let now = Now { monotonic: start.monotonic + passed, wall: start.wall + passed };
            let nanoseconds = now.monotonic.as_nanos();
            let fit = |longer: bool| limits.iter().all(|one| {
                one.fits(&admitted, who, nanoseconds, if longer { one.slot() } else { 0 })
            });
            if set.admit(&from(&format!("192.0.2.{who}")), now).refused.is_none() {
                prop_assert!(fit(false), "one too many of {who} after {passed:?}");
                admitted.push((nanoseconds, who));
            } else {
                prop_assert!(!fit(true), "refused {who} without need after {passed:?}");
            }
        }
    }
}
