//! What the limits of the script mean, by their definitions: every admission remembered, nothing clever.

use crate::limit_store::{Kind, Rule};

/// Everything one limit has admitted.
pub struct Model {
    rule: Rule,
    admitted: Vec<(u64, u64)>,
}

impl Model {
    pub fn new(rule: Rule) -> Self {
        Self { rule, admitted: Vec::new() }
    }

    pub fn add(&mut self, now: u64) {
        self.admitted.push((now, u64::from(self.rule.cost)));
    }

    /// Whether the definition admits a request at `now`.
    pub fn admits(&self, now: u64, periods: &[u64; 4]) -> bool {
        let (count, cost) = (u64::from(self.rule.count), u64::from(self.rule.cost));
        match self.rule.kind {
            Kind::SlidingWindow { window } | Kind::SlidingLog { window } => self.since(now, window) + cost <= count,
            Kind::TokenBucket { window, burst } => self.fits_bucket(now, window, u64::from(burst)),
            Kind::FixedWindow { length } => self.from(now / length * length) + cost <= count,
            Kind::Calendar => {
                let begin = periods.iter().rev().find(|begin| **begin <= now).expect("a period around now");
                self.from(*begin) + cost <= count
            }
        }
    }

    /// Whether a request must be admitted: what the definition admits, and a sliding window only after one slot more.
    pub fn has_to_admit(&self, now: u64, periods: &[u64; 4]) -> bool {
        match self.rule.kind {
            Kind::SlidingWindow { window } => {
                let longer = window + window.div_ceil(16) + 16;
                self.since(now, longer) + u64::from(self.rule.cost) <= u64::from(self.rule.count)
            }
            _ => self.admits(now, periods),
        }
    }

    fn since(&self, now: u64, window: u64) -> u64 {
        self.admitted.iter().filter(|(at, _)| at + window > now).map(|(_, cost)| cost).sum()
    }

    fn from(&self, begin: u64) -> u64 {
        self.admitted.iter().filter(|(at, _)| *at >= begin).map(|(_, cost)| cost).sum()
    }

    /// At most burst + count / window x t in any t, over every pair of admissions.
    fn fits_bucket(&self, now: u64, window: u64, burst: u64) -> bool {
        let mut since = u64::from(self.rule.cost);
        std::iter::once(&(now, 0)).chain(self.admitted.iter().rev()).all(|(at, cost)| {
            since += cost;
            u128::from(since) * u128::from(window)
                <= u128::from(burst) * u128::from(window) + u128::from(now - at) * u128::from(self.rule.count)
        })
    }
}
