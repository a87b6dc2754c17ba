//! Limits that count in a store which several gateways share: what the store is asked, what it answers, and how both become one decision
//! with the limits of this process. No connection here, and no lock is held while the store is asked.
//! A request is counted by the limits of this process first; where the store refuses, they give back what they counted.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::algorithm::Standing;
use super::identity::Identity;
use super::near::Near;
use super::rule::{Limit, Pending};
use super::{Caller, Decision, Limits, Now, Share, Verdicts};
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
    counted: SmallVec<[Counted; 2]>,
    asks: SmallVec<[Ask<'a>; 2]>,
    /// What this gateway's share of the store's limits says, where it was asked.
    by_share: Option<Verdicts>,
}

/// A limit that has counted the request.
struct Counted {
    place: usize,
    /// None in the overflow entry.
    identity: Option<Identity>,
    cost: u64,
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

impl<'a> Ask<'a> {
    /// What the store is asked about `identity`, whose periods are those of `now`.
    pub(super) fn of(limit: &'a Limit, identity: Identity, now: Now) -> Self {
        Self { limit, identity, rule: limit.rule(now), cost: limit.cost }
    }
}

impl Limits {
    /// Decides and counts the limits of this process at `now`. Where none of them refuses, the store has to be asked [`Begun::asks`], whose
    /// periods are those of `stores_now`, and its answers end the decision.
    pub fn begin<'a>(&'a self, caller: Caller<'a>, now: Now, stores_now: Now) -> Begun<'a> {
        let (verdicts, asks) = (Verdicts::new(), SmallVec::new());
        let mut begun = Begun {
            limits: self,
            caller,
            now,
            verdicts,
            refused: false,
            counted: SmallVec::new(),
            asks,
            by_share: None,
        };
        begun.verdicts = begun.decide(0..self.local, None);
        if !begun.refused {
            let shared = self.limits[self.local..].iter();
            begun.asks = shared.map(|limit| Ask::of(limit, limit.dimensions.identify(&caller), stores_now)).collect();
        }
        begun
    }
}

impl Begun<'_> {
    /// What the store has to decide, in an order of its own; empty where nothing is left to ask.
    pub fn asks(&self) -> &[Ask<'_>] {
        &self.asks
    }

    /// Decides the limits of the store by this gateway's share of them, so that all gateways together admit no more than the limit.
    /// Whether they admit the request.
    pub fn by_share(&mut self, share: Share) -> bool {
        self.by_share = Some(self.decide(self.limits.local..self.limits.limits.len(), Some(share)));
        !self.refused
    }

    /// Whether [`Self::by_share`] was asked.
    pub const fn is_by_share(&self) -> bool {
        self.by_share.is_some()
    }

    /// The decision, with an answer to each of [`Self::asks`].
    pub fn finish(mut self, answers: &[Answer]) -> Decision {
        if answers.len() != self.asks.len() {
            return self.refuse(Refusal::Internal("the store of limits left questions open"));
        }
        self.refused |= self.asks.iter().zip(answers).any(|(ask, answer)| ask.is_enforced() && answer.wait > 0);
        self.note_near(answers);
        for (place, (ask, answer)) in self.asks.iter().zip(answers).enumerate() {
            if answer.wait > 0 {
                ask.limit.by_store.refused.fetch_add(1, Ordering::Relaxed);
            } else if !self.refused {
                ask.limit.by_store.admitted.fetch_add(1, Ordering::Relaxed);
            }
            let more_in = if answer.wait > 0 { answer.wait } else { answer.more_in };
            let (mut wait, mut standing) = (answer.wait, Standing { remaining: answer.remaining, more_in });
            // Both have to admit it: the narrower one is the truth.
            if let Some((share_wait, share)) = self.by_share.as_ref().and_then(|verdicts| verdicts.get(place)) {
                wait = wait.max(*share_wait);
                if share.remaining < standing.remaining {
                    standing = *share;
                }
            }
            self.verdicts.push((wait, standing));
        }
        self.end()
    }

    /// Remembers who is near to a limit now, for the admin API.
    fn note_near(&self, answers: &[Answer]) {
        for (ask, answer) in self.asks.iter().zip(answers) {
            if answer.wait > 0 || Near::is_near(answer.remaining, ask.limit.counting.capacity()) {
                ask.limit.by_store.near.note(ask.identity, self.now.monotonic_ns());
            }
        }
    }

    /// The decision without the store: by [`Self::by_share`] where that was asked, otherwise by the limits of this process alone.
    pub fn finish_without(mut self) -> Decision {
        self.verdicts.extend(self.by_share.take().into_iter().flatten());
        self.end()
    }

    /// The store gave no answer, and without one nobody is admitted.
    pub fn refuse(mut self, refusal: Refusal) -> Decision {
        self.give_back();
        Decision { refused: Some(refusal), ..self.limits.decision(false, &self.verdicts) }
    }

    fn end(mut self) -> Decision {
        if self.refused {
            self.give_back();
        }
        self.limits.decision(self.refused, &self.verdicts)
    }

    /// Decides several limits under all of their locks, whole or by this gateway's share.
    fn decide(&mut self, places: Range<usize>, share: Option<Share>) -> Verdicts {
        let limits = &self.limits.limits[places.clone()];
        let mut pending: SmallVec<[Pending<'_>; 2]> =
            limits.iter().map(|limit| limit.hold(&self.caller, self.now, share)).collect();
        let refused = pending.iter().any(Pending::refuses);
        let verdicts = pending.iter_mut().map(|pending| pending.decide(refused)).collect();
        if !refused {
            let admitted = places.zip(&pending).filter(|(_, pending)| pending.admits());
            self.counted.extend(admitted.map(|(place, pending)| Counted {
                place,
                identity: pending.identity(&self.caller),
                cost: pending.cost(),
            }));
        }
        self.refused |= refused;
        verdicts // the locks end here, before the store is asked
    }

    /// A refused request uses up nothing: what was counted for it here is taken back.
    fn give_back(&mut self) {
        let now = Now::read();
        for Counted { place, identity, cost } in self.counted.drain(..) {
            let limit = &self.limits.limits[place];
            limit.counting.give_back(identity, self.now, now, cost);
            if place < self.limits.local {
                self.verdicts[place].1.remaining += limit.cost;
            }
        }
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
            let begun = limits.begin(caller, at(0.0), at(0.0));
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
            assert!(limits.begin(caller, at(0.0), at(0.0)).finish(&[answer(0, 4)]).refused.is_none());
        }
        let begun = limits.begin(caller, at(0.0), at(0.0));
        assert!(begun.asks().is_empty(), "refused here: the store is not asked");
        assert!(begun.finish(&[]).refused.is_some());
    }

    #[test]
    fn a_store_that_answers_too_little_admits_nothing() {
        let limits = set("limit: {rate: 5/min per ip, name: everywhere}", &["everywhere"]);
        assert!(matches!(
            limits.begin(from("192.0.2.1"), at(0.0), at(0.0)).finish(&[]).refused,
            Some(Refusal::Internal(_))
        ));
    }

    #[test]
    fn without_the_store_each_gateway_admits_its_share() {
        let limits = set("limit: {rate: 12/min per ip, name: everywhere}", &["everywhere"]);
        let caller = from("192.0.2.1");
        let share = Share { gateways: 3, rank: 0 };
        let admits = || {
            let mut begun = limits.begin(caller, at(0.0), at(0.0));
            let admits = begun.by_share(share);
            assert_eq!(begun.finish_without().refused.is_none(), admits);
            admits
        };
        assert_eq!((0..50).filter(|_| admits()).count(), 4);
    }

    #[test]
    fn a_share_that_holds_beside_the_store_gives_back_what_the_store_refuses() {
        let limits = set("limit: {rate: 6/min per ip, name: everywhere}", &["everywhere"]);
        let decide = |wait: u64| {
            let mut begun = limits.begin(from("192.0.2.1"), at(0.0), at(0.0));
            if !begun.by_share(Share { gateways: 2, rank: 1 }) {
                return begun.finish_without();
            }
            begun.finish(&[answer(wait, 5)])
        };
        assert!((0..9).all(|_| decide(1_000_000_000).refused.is_some()));
        let admitted: Vec<Decision> = (0..3).map(|_| decide(0)).collect();
        assert!(admitted.iter().all(|decision| decision.refused.is_none()));
        let fields = admitted[2].fields.as_ref().unwrap();
        assert!(fields.state.to_str().unwrap().contains("r=0;"), "the share is the narrower one: {fields:?}");
        assert!(decide(0).refused.is_some());
    }

    #[test]
    fn fewer_requests_than_gateways_are_admitted_by_the_first_of_them() {
        for (rank, expected) in [(0, 1), (1, 1), (2, 0), (3, 0)] {
            let limits = set("limit: {rate: 2/min per ip, name: everywhere}", &["everywhere"]);
            let admits =
                |_: &i32| limits.begin(from("192.0.2.1"), at(0.0), at(0.0)).by_share(Share { gateways: 4, rank });
            assert_eq!((0..5).filter(admits).count(), expected, "{rank}");
        }
    }
}
