//! Limits that count in a store which several gateways share: what the store is asked, what it answers, and how both become one decision
//! with the limits of this process. No connection here, and no lock is held while the store is asked.
//! A request is counted by the limits of this process first; where the store refuses, they give back what they counted.

use std::fmt;

use smallvec::SmallVec;

use super::algorithm::Standing;
use super::identity::Identity;
use super::rule::{Limit, Pending};
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
    now: Now,
    verdicts: Verdicts,
    refused: bool,
    /// Those of this process that counted, by their place; without an identity in the overflow entry.
    counted: SmallVec<[(usize, Option<Identity>); 2]>,
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
        let mut pending: SmallVec<[Pending<'_>; 2]> = local.iter().map(|limit| limit.hold(caller, now, 1)).collect();
        let refused = pending.iter().any(Pending::refuses);
        let verdicts = pending.iter_mut().map(|pending| pending.decide(refused)).collect();
        let (mut counted, mut asks) = (SmallVec::new(), SmallVec::new());
        if !refused {
            let admitted = pending.iter().enumerate().filter(|(_, pending)| pending.admits());
            counted = admitted.map(|(place, pending)| (place, pending.identity(caller))).collect();
            asks = shared.iter().map(|limit| Ask::of(limit, caller, now)).collect();
        }
        drop(pending); // the locks end here, before the store is asked
        Begun { limits: self, now, verdicts, refused, counted, asks }
    }
}

impl<'a> Ask<'a> {
    fn of(limit: &'a Limit, caller: &Caller<'_>, now: Now) -> Self {
        let identity = limit.dimensions.identify(caller);
        Self { limit, identity, rule: limit.counting.rule(now), cost: limit.cost }
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
        self.end()
    }

    /// The decision without the store: its limits count in this process, each request as one of each of `gateways`, so that together they admit no more
    /// than the limit.
    pub fn finish_alone(mut self, caller: &Caller<'_>, gateways: u32) -> Decision {
        if !self.asks.is_empty() {
            let shared = &self.limits.limits[self.limits.local..];
            let (refused, verdicts) = decide(shared, caller, self.now, u64::from(gateways.max(1)));
            self.refused |= refused;
            self.verdicts.extend(verdicts);
        }
        self.end()
    }

    fn end(mut self) -> Decision {
        if self.refused {
            for (place, identity) in &self.counted {
                let limit = &self.limits.limits[*place];
                limit.counting.give_back(*identity, self.now, limit.cost);
                self.verdicts[*place].1.remaining += limit.cost;
            }
        }
        self.limits.decision(self.refused, &self.verdicts)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, from, set};
    use super::*;

    fn answer(wait: u64, remaining: u64) -> Answer {
        Answer { wait, remaining, more_in: 7_000_000_000 }
    }

    #[test]
    fn a_refusal_of_the_store_gives_back_what_was_counted_here() {
        let limits = set("limit: [3/min per ip, {rate: 5/min per ip, name: everywhere}]", &["everywhere"]);
        assert!(limits.is_shared());
        let caller = from("192.0.2.1");
        for _ in 0..9 {
            let begun = limits.begin(&caller, at(0.0));
            let [ask] = begun.asks() else { panic!() };
            assert_eq!(
                (ask.limit(), ask.to_string()),
                ("route /a everywhere", "route /a everywhere ip:192.0.2.1".into())
            );
            assert_eq!((ask.rule, ask.cost), (Rule::SlidingWindow { count: 5, window: 60_000_000_000 }, 1));
            let decision = begun.finish(&[answer(4_200_000_000, 0)]);
            let Some(Refusal::RateLimited { retry_after_seconds, violated, fields }) = decision.refused else {
                panic!()
            };
            assert_eq!((retry_after_seconds, violated), (5, vec!["everywhere".into()]));
            assert!(fields.state.to_str().unwrap().starts_with("\"ip-60s\";r=3"), "{fields:?}");
        }
        for _ in 0..3 {
            assert!(limits.begin(&caller, at(0.0)).finish(&[answer(0, 4)]).refused.is_none());
        }
        let begun = limits.begin(&caller, at(0.0));
        assert!(begun.asks().is_empty(), "refused here: the store is not asked");
        assert!(begun.finish(&[]).refused.is_some());
    }

    #[test]
    fn a_store_that_answers_too_little_admits_nothing() {
        let limits = set("limit: {rate: 5/min per ip, name: everywhere}", &["everywhere"]);
        assert!(matches!(limits.begin(&from("192.0.2.1"), at(0.0)).finish(&[]).refused, Some(Refusal::Internal(_))));
    }

    #[test]
    fn without_the_store_each_gateway_admits_its_share() {
        let limits = set("limit: {rate: 12/min per ip, name: everywhere}", &["everywhere"]);
        let caller = from("192.0.2.1");
        let admitted = (0..50).filter(|_| limits.begin(&caller, at(0.0)).finish_alone(&caller, 3).refused.is_none());
        assert_eq!(admitted.count(), 4);
    }
}
