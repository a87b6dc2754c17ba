//! Limits that count in a store which several gateways share: what the store is asked, what it answers, and how both become one decision
//! with the limits of this process. No connection here, and no lock is held while the store is asked.
//! A request is counted by the limits of this process first; where the store refuses, they give back what they counted.

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use super::algorithm::Standing;
use super::identity::Identity;
use super::rule::Limit;
use super::{Caller, Decision, Limits, Now, Share, Verdicts, decide};
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
    /// At most `count` in each period; which one is the present is decided by the store's clock.
    FixedWindow {
        /// Units of cost.
        count: u64,
        /// When the period before the present one begins, the present one, the next, and the one after that, since 1970.
        periods: [u64; 4],
    },
    /// At most `count` in any window, every admission remembered by itself.
    SlidingLog {
        /// Units of cost.
        count: u64,
        /// The window's length.
        window: u64,
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
    caller: Caller<'a>,
    now: Now,
    verdicts: Verdicts,
    refused: bool,
    asks: SmallVec<[Ask<'a>; 2]>,
    /// This gateway's share of the store's limits, and what they say by it, where they were asked.
    by_share: Option<(Share, Verdicts)>,
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
    /// Decides and counts the limits of this process at `now`. Where none of them refuses, the store has to be asked [`Begun::asks`], whose
    /// periods are those of `stores_now`, and its answers end the decision.
    pub fn begin<'a>(&'a self, caller: Caller<'a>, now: Now, stores_now: Now) -> Begun<'a> {
        let (local, shared) = self.limits.split_at(self.local);
        let (refused, verdicts) = decide(local, &caller, now, None);
        let ask = |limit| {
            let limit: &Limit = limit;
            let identity = limit.dimensions.identify(&caller);
            Ask { limit, identity, rule: limit.rule(stores_now), cost: limit.cost }
        };
        let asks = if refused { SmallVec::new() } else { shared.iter().map(|limit| ask(limit)).collect() };
        Begun { limits: self, caller, now, verdicts, refused, asks, by_share: None }
    }
}

impl Begun<'_> {
    /// What the store has to decide, in an order of its own; empty where nothing is left to ask.
    pub fn asks(&self) -> &[Ask<'_>] {
        &self.asks
    }

    /// Decides the limits of the store by this gateway's share of them. Whether they admit the request.
    pub fn by_share(&mut self, share: Share) -> bool {
        let (refused, verdicts) = decide(self.shared(), &self.caller, self.now, Some(share));
        if refused {
            self.give_back(Now::read());
        }
        self.by_share = Some((share, verdicts));
        self.refused |= refused;
        !refused
    }

    /// The decision, with an answer to each of [`Self::asks`].
    pub fn finish(mut self, answers: &[Answer]) -> Decision {
        if answers.len() != self.asks.len() {
            let refused = Some(Refusal::Internal("the store of limits left questions open"));
            return Decision { refused, ..Decision::default() };
        }
        let refused = self.asks.iter().zip(answers).any(|(ask, answer)| ask.is_enforced() && answer.wait > 0);
        if refused {
            self.refused = true;
            self.give_back(Now::read());
        }
        for (place, answer) in answers.iter().enumerate() {
            let more_in = if answer.wait > 0 { answer.wait } else { answer.more_in };
            let (mut wait, mut standing) = (answer.wait, Standing { remaining: answer.remaining, more_in });
            // Both have to admit it: the narrower one is the truth.
            if let Some((share_wait, share)) = self.by_share.as_ref().and_then(|(_, verdicts)| verdicts.get(place)) {
                wait = wait.max(*share_wait);
                if share.remaining < standing.remaining {
                    standing = *share;
                }
            }
            self.verdicts.push((wait, standing));
        }
        self.limits.decision(self.refused, &self.verdicts)
    }

    /// The decision without the store: by [`Self::by_share`] where that was asked, otherwise by the limits of this process alone.
    pub fn finish_without(mut self) -> Decision {
        self.verdicts.extend(self.by_share.take().into_iter().flat_map(|(_, verdicts)| verdicts));
        self.limits.decision(self.refused, &self.verdicts)
    }

    /// Whether [`Self::by_share`] was asked.
    pub fn is_by_share(&self) -> bool {
        self.by_share.is_some()
    }

    /// The store gave no answer, and without one nobody is admitted.
    pub fn refuse(self, refusal: Refusal) -> Decision {
        self.give_back(Now::read());
        Decision { refused: Some(refusal), ..self.limits.decision(false, &self.verdicts) }
    }

    /// A refused request uses up nothing: what was counted for it here is taken back.
    fn give_back(&self, now: Now) {
        let counted = |limits: &[Arc<Limit>], verdicts: &Verdicts, share| {
            for (limit, _) in limits.iter().zip(verdicts).filter(|(_, (wait, _))| *wait == 0) {
                limit.give_back(&self.caller, self.now, now, share);
            }
        };
        counted(&self.limits.limits[..self.limits.local], &self.verdicts, None);
        if let Some((share, verdicts)) = &self.by_share {
            counted(self.shared(), verdicts, Some(*share));
        }
    }

    fn shared(&self) -> &[Arc<Limit>] {
        &self.limits.limits[self.limits.local..]
    }
}
