//! The states of a breaker and what leads from one to the next. Pure: time comes with every call, nothing is said and nothing waits.
//! Each state has its own epoch: what was let through in an earlier one decides nothing any more.
//! Invariant: an open one is half open when its time is over, and a half open one has a place as soon as its trials have ended or were given up.

use std::fmt;
use std::time::{Duration, Instant};

use super::window::{Counts, Window};
use crate::config;

/// A breaker without its surroundings.
#[derive(Clone, Debug)]
pub struct Machine {
    config: config::Breaker,
    phase: Phase,
    epoch: u64,
    since: Instant,
    why: Option<Reason>,
    /// How long it is open, or was last.
    wait: Duration,
    window: Window,
    failures_in_a_row: u32,
    change: Option<Change>,
}

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Everything passes.
    Closed,
    /// Nothing passes until then.
    Open {
        /// When trials may begin.
        until: Instant,
    },
    /// Trials pass.
    HalfOpen {
        /// Trials that have not ended.
        out: u32,
        /// Trials that have succeeded.
        succeeded: u32,
    },
}

/// A request that was let through.
#[derive(Debug)]
pub struct Ticket {
    epoch: u64,
    /// Whether it was let through to see whether it is better.
    pub is_trial: bool,
}

/// Why it opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// So many failures in a row.
    InARow(u32),
    /// Too many failures in the window.
    Failures(Counts, Duration),
    /// Too many slow answers in the window.
    Slow(Counts, Duration),
    /// A trial failed.
    Trial,
    /// The answer to a trial was slow.
    SlowTrial,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It lets nothing pass.
    Opened {
        /// Why.
        why: Reason,
        /// For how long.
        wait: Duration,
    },
    /// It lets trials pass.
    HalfOpened,
    /// It lets everything pass.
    Closed,
}

impl Machine {
    /// A closed one.
    pub fn new(config: &config::Breaker, now: Instant) -> Self {
        Self {
            phase: Phase::Closed,
            epoch: 0,
            since: now,
            why: None,
            wait: config.recovery.0,
            window: Window::new(config.window.0, now),
            failures_in_a_row: 0,
            change: None,
            config: config.clone(),
        }
    }

    /// Whether the next request would be let through.
    pub fn is_ready(&mut self, now: Instant) -> bool {
        if let Phase::Open { until } = self.phase
            && now >= until
        {
            self.enter(Phase::HalfOpen { out: 0, succeeded: 0 }, Change::HalfOpened, now);
        }
        match self.phase {
            Phase::Closed => true,
            Phase::Open { .. } => false,
            Phase::HalfOpen { out, .. } => out < self.config.trials,
        }
    }

    /// Lets a request through.
    ///
    /// # Errors
    /// Until when none is let through; no time at all where trials have not ended.
    pub fn admit(&mut self, now: Instant) -> Result<Ticket, Duration> {
        if !self.is_ready(now) {
            return Err(self.left(now));
        }
        let is_trial = match &mut self.phase {
            Phase::HalfOpen { out, .. } => {
                *out += 1;
                true
            }
            Phase::Closed | Phase::Open { .. } => false,
        };
        Ok(Ticket { epoch: self.epoch, is_trial })
    }

    /// Counts how a request went whose answer took so long.
    pub fn report(&mut self, ticket: Ticket, failed: bool, took: Duration, now: Instant) {
        if ticket.epoch != self.epoch {
            return;
        }
        let slow = self.config.slow_after.is_some_and(|after| took >= after.0);
        match self.phase {
            Phase::Open { .. } => {}
            Phase::Closed => {
                self.failures_in_a_row = if failed { self.failures_in_a_row.saturating_add(1) } else { 0 };
                let counts = self.window.note(failed, slow, now);
                if let Some(why) = self.tripped(counts, failed, slow) {
                    self.open(why, self.config.recovery.0, now);
                }
            }
            Phase::HalfOpen { out, succeeded } => {
                let longer = self.wait.saturating_mul(2).min(self.config.recovery_max.0);
                let succeeded = succeeded + 1;
                if failed {
                    self.open(Reason::Trial, longer, now);
                } else if slow {
                    self.open(Reason::SlowTrial, longer, now);
                } else if succeeded >= self.config.successes {
                    self.why = None;
                    self.enter(Phase::Closed, Change::Closed, now);
                } else {
                    self.phase = Phase::HalfOpen { out: out - 1, succeeded };
                }
            }
        }
    }

    /// The request ended without saying anything about whom it asked.
    pub fn release(&mut self, ticket: Ticket) {
        if let Phase::HalfOpen { out, .. } = &mut self.phase
            && ticket.epoch == self.epoch
        {
            *out -= 1;
        }
    }

    /// Only what is bad opens it: a success may be the request that makes a ratio count, but is no reason to stop asking.
    fn tripped(&self, counts: Counts, failed: bool, slow: bool) -> Option<Reason> {
        let enough = counts.total >= self.config.requests_min;
        let over = |part: u32, ratio: Option<config::Percent>| {
            ratio.is_some_and(|ratio| enough && u64::from(part) * 100 >= u64::from(ratio.0) * u64::from(counts.total))
        };
        if failed && self.config.failures.is_some_and(|failures| self.failures_in_a_row >= failures) {
            Some(Reason::InARow(self.failures_in_a_row))
        } else if failed && over(counts.failed, self.config.failure_ratio) {
            Some(Reason::Failures(counts, self.config.window.0))
        } else if slow && over(counts.slow, self.config.slow_ratio) {
            Some(Reason::Slow(counts, self.config.window.0))
        } else {
            None
        }
    }

    fn open(&mut self, why: Reason, wait: Duration, now: Instant) {
        (self.why, self.wait) = (Some(why), wait);
        self.enter(Phase::Open { until: now + wait }, Change::Opened { why, wait }, now);
    }

    fn enter(&mut self, phase: Phase, change: Change, now: Instant) {
        self.phase = phase;
        self.epoch += 1;
        self.since = now;
        self.failures_in_a_row = 0;
        self.window.clear();
        self.change = Some(change);
    }

    /// Until trials may begin; no time at all where they may, or may not for another reason.
    pub fn left(&self, now: Instant) -> Duration {
        match self.phase {
            Phase::Open { until } => until.saturating_duration_since(now),
            Phase::Closed | Phase::HalfOpen { .. } => Duration::ZERO,
        }
    }

    /// What has changed since this was asked last: at most one thing a call.
    pub fn take_change(&mut self) -> Option<Change> {
        self.change.take()
    }

    /// Where it is.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// When it came there.
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Why it opened; none while it is closed.
    pub const fn why(&self) -> Option<Reason> {
        self.why
    }

    /// Failures since the last success, while it is closed.
    pub const fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut part = |part: u32, all: u32, what: &str, window: &Duration| {
            write!(out, "{part} of {all} requests {what} within {} s", window.as_secs())
        };
        match self {
            Self::InARow(1) => out.write_str("a request failed"),
            Self::InARow(count) => write!(out, "{count} requests in a row failed"),
            Self::Failures(counts, window) => part(counts.failed, counts.total, "failed", window),
            Self::Slow(counts, window) => part(counts.slow, counts.total, "were slow", window),
            Self::Trial => out.write_str("a trial failed"),
            Self::SlowTrial => out.write_str("the answer to a trial was slow"),
        }
    }
}
