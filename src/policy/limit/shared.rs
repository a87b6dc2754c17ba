//! Limits that count in a store which several gateways share: what the store is asked, what it answers, and how both become one decision
//! with the limits of this process. No connection here, and no lock is held while the store is asked.
//! A request is counted by the limits of this process first; where the store refuses, they give back what they counted.

use std::fmt;

use smallvec::SmallVec;

use super::algorithm::Standing;
use super::identity::Identity;
use super::rule::Limit;
use super::{Caller, Decision, Limits, Now, Verdicts, decide};
use crate::refusal::Refusal;

/// What a store is asked about one limit of a request. All of a request's are decided at once, and counted when none that is enforced refuses.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    limit: &'a Limit,
    identity: Identity,
    /// How it is counted.
    pub rule: Rule,
    /// What the request takes, 1 or more.
    pub cost: u64,
}

/// An algorithm with its numbers; times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// At most `count` in any window.
    SlidingWindow {
        /// Units of cost.
        count: u64,
        /// The window's length.
        window: u64,
    },
    /// `burst` tokens, of which `count` come back in each window.
    TokenBucket {
        /// Units of cost that come back in a window.
        count: u64,
        /// The window's length.
        window: u64,
        /// Units of cost that can be taken at once.
        burst: u64,
    },
    /// At most `count` in the present period, which was told by this gateway's clock and calendar.
    FixedWindow {
        /// Units of cost.
        count: u64,
        /// When the period ends, since 1970.
        ends: u64,
    },
}

/// What a store says about one limit of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Nanoseconds until the request would be admitted; 0 when it is (and has been counted, unless another limit refused).
    pub wait: u64,
    /// Units of cost that could be admitted now.
    pub remaining: u64,
    /// Nanoseconds until there are more; 0 when nothing is used.
    pub more_in: u64,
}

/// A request whose limits of this process are decided, while those of the store are not.
pub struct Begun<'a> {
    limits: &'a Limits,
    verdicts: Verdicts,
    refused: bool,
    asks: SmallVec<[Ask<'a>; 2]>,
}

impl Ask<'_> {
    /// The limit with its place, the same for every gateway that has it.
    pub fn limit(&self) -> &str {
        &self.limit.key
    }

    /// Whether it refuses; otherwise it only counts and tells.
    pub const fn is_enforced(&self) -> bool {
        self.limit.enforced
    }
}

/// The name of the count: limit, place and who is counted. The same in every process; two counts never have one name.
impl fmt::Display for Ask<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.limit.key, self.identity)
    }
}

impl Limits {
    /// Decides and counts the limits of this process. Where none of them refuses, the store has to be asked [`Begun::asks`], and its answers
    /// end the decision.
    pub fn begin(&self, caller: &Caller<'_>, now: Now) -> Begun<'_> {
        let (local, shared) = self.limits.split_at(self.local);
        let (refused, verdicts) = decide(local, caller, now, 1);
        let ask = |limit| {
            let limit: &Limit = limit;
            let identity = limit.dimensions.identify(caller);
            Ask { limit, identity, rule: limit.counting.rule(now), cost: limit.cost }
        };
        let asks = if refused { SmallVec::new() } else { shared.iter().map(|limit| ask(limit)).collect() };
        Begun { limits: self, verdicts, refused, asks }
    }
}

impl Begun<'_> {
    /// What the store has to decide, in an order of its own; empty where nothing is left to ask.
    pub fn asks(&self) -> &[Ask<'_>] {
        &self.asks
    }

    /// The decision, with an answer to each of [`Self::asks`].
    pub fn finish(mut self, answers: &[Answer]) -> Decision {
        if answers.len() != self.asks.len() {
            let refused = Some(Refusal::Internal("the store of limits left questions open"));
            return Decision { refused, ..Decision::default() };
        }
        for (ask, answer) in self.asks.iter().zip(answers) {
            let more_in = if answer.wait > 0 { answer.wait } else { answer.more_in };
            self.verdicts.push((answer.wait, Standing { remaining: answer.remaining, more_in }));
            self.refused |= ask.is_enforced() && answer.wait > 0;
        }
        self.limits.decision(self.refused, &self.verdicts)
    }

    /// The decision without the store: its limits count in this process, each request as one of each of `gateways`, so that together they admit no more
    /// than the limit.
    pub fn finish_alone(mut self, caller: &Caller<'_>, now: Now, gateways: u32) -> Decision {
        if !self.asks.is_empty() {
            let (refused, verdicts) =
                decide(&self.limits.limits[self.limits.local..], caller, now, u64::from(gateways.max(1)));
            self.refused |= refused;
            self.verdicts.extend(verdicts);
        }
        self.limits.decision(self.refused, &self.verdicts)
    }
}
