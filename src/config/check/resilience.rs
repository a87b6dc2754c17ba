//! Breakers: something that opens them, times that grow, parts of a whole. Retries: few tries, statuses that are failures.
//! Not here: how they decide (`upstream`, `policy/retry.rs`).

use super::Check;
use crate::config::{Breaker, Percent, Retry, Service, Span};

/// Requests that are counted before a breaker decides, at most; and trials.
const COUNT_MAX: usize = 1_000_000;

/// Requests that wait for a service, at most: each holds its client's connection.
const QUEUE_MAX: usize = 10_000;

impl Check<'_> {
    pub(super) fn breaker(&mut self, path: &str, breaker: &Breaker) {
        let at = |field: &str| format!("{path}.{field}");
        if breaker.failures.is_none() && breaker.failure_ratio.is_none() && breaker.slow_ratio.is_none() {
            self.problem(path, "nothing opens this breaker: write `failures`, `failure_ratio` or `slow_ratio`");
        }
        if let Some(failures) = breaker.failures {
            self.range(at("failures"), failures as usize, 1, COUNT_MAX);
        }
        self.not_zero(at("recovery"), breaker.recovery);
        if breaker.recovery_max < breaker.recovery {
            self.problem(at("recovery_max"), format!("shorter than `recovery`, which is {}", breaker.recovery));
        }
        self.range(at("trials"), breaker.trials as usize, 1, COUNT_MAX);
        self.range(at("successes"), breaker.successes as usize, 1, COUNT_MAX);
        self.range(at("requests_min"), breaker.requests_min as usize, 1, COUNT_MAX);
        if !(Span::seconds(1)..=Span::seconds(3_600)).contains(&breaker.window) {
            self.problem(at("window"), format!("{} is not a time from 1s to 1h", breaker.window));
        }
        for (field, ratio) in [("failure_ratio", breaker.failure_ratio), ("slow_ratio", breaker.slow_ratio)] {
            if let Some(Percent(percent)) = ratio
                && !(1..=100).contains(&percent)
            {
                self.problem(at(field), format!("{percent}% is not a part from 1% to 100%"));
            }
        }
        match (breaker.slow_ratio, breaker.slow_after) {
            (Some(_), None) => self.problem(at("slow_ratio"), "needs `slow_after`: from when on an answer is slow"),
            (None, Some(_)) => {
                self.problem(at("slow_after"), "needs `slow_ratio`: the part of slow answers that opens it")
            }
            (Some(_), Some(after)) => self.not_zero(at("slow_after"), after),
            (None, None) => {}
        }
        if breaker.per.is_empty() || (breaker.per.len() > 1 && breaker.per[1..].contains(&breaker.per[0])) {
            self.problem(at("per"), "write `instance`, `service`, or each of them once");
        }
    }

    pub(super) fn capacity(&mut self, path: &str, service: &Service) {
        let bounds =
            [("concurrent_max", service.concurrent_max), ("instance_concurrent_max", service.instance_concurrent_max)];
        for (field, max) in bounds {
            if let Some(max) = max {
                self.range(format!("{path}.{field}"), max as usize, 1, COUNT_MAX);
            }
        }
        let Some(queue) = &service.queue else { return };
        let at = |field: &str| format!("{path}.queue.{field}");
        self.range(at("length"), queue.length, 1, QUEUE_MAX);
        self.not_zero(at("wait"), queue.wait);
        let is_lost = bounds.iter().any(|(field, _)| self.lost(&format!("{path}.{field}")));
        if bounds.iter().all(|(_, max)| max.is_none()) && !is_lost {
            self.problem(
                format!("{path}.queue"),
                "nobody ever waits: write `concurrent_max` or `instance_concurrent_max`",
            );
        }
    }

    pub(super) fn retry(&mut self, path: &str, retry: &Retry) {
        let at = |field: &str| format!("{path}.{field}");
        self.range(at("attempts"), usize::from(retry.attempts), 1, usize::from(Retry::ATTEMPTS_MAX));
        self.range(at("budget_floor"), retry.budget_floor as usize, 0, COUNT_MAX);
        if retry.delay_max < retry.base_delay {
            self.problem(at("delay_max"), format!("shorter than `base_delay`, which is {}", retry.base_delay));
        }
        if let Some(timeout) = retry.try_timeout {
            self.not_zero(at("try_timeout"), timeout);
        }
        for (index, status) in retry.statuses.iter().enumerate() {
            if !(400..=599).contains(status) {
                self.problem(
                    format!("{path}.statuses[{index}]"),
                    format!("{status} is no failure: a number from 400 to 599"),
                );
            }
        }
    }
}
