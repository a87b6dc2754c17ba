//! Sharing: asks the store that several gateways share about a request, and decides by `on_error` where it gives no answer.
//! Periods of the calendar are those of the store's clock. No lock is held while the store is asked.
//! Once the store has lost counts, for one window of each limit a request has to pass this gateway's share of it, too: so that what was admitted
//! before, by the shares and after is together at most twice the limit.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::algorithm::Standing;
use super::identity::Identity;
use super::near::Near;
use super::rule::Limit;
use super::shared::{Answer, Ask, Begun, Rule};
use super::status::{Client, ClientStatus, LimitStatus};
use super::{Book, Caller, Decision, Limits, Now};
use crate::config::{self, OnStoreError};
use crate::limit_store::{self, Fallback, Kind, LimitStore, Settings, Unavailable};
use crate::refusal::Refusal;

/// Limits that the admin API asks about at once: a script takes so many keys without being long.
const ASKS_MAX: usize = 64;

/// How many of those who were near to a shared limit lately the admin API asks about, over all limits; those who came last.
const NEAR_MAX: usize = 512;

/// Somebody who was near to a limit: the limit, who, and when.
type Noted<'a> = (&'a Arc<Limit>, Identity, u64);

/// Where shared limits are decided, and what happens without it.
pub struct Sharing {
    /// The store.
    pub store: Arc<LimitStore>,
    on_error: OnStoreError,
}

impl Sharing {
    /// None where every process counts for itself. The store of `previous` is kept where it is asked in the same way.
    ///
    /// # Errors
    /// What is wrong with the file of authorities.
    pub fn compile(settings: &config::LimitSettings, previous: Option<&Self>) -> Result<Option<Self>, String> {
        let config::LimitSettings { store, timeout, gateways, prefix, ca, on_error, .. } = settings;
        let Some(settings) = Settings::compile(store, timeout.0, *gateways, prefix, ca.as_deref())? else {
            return Ok(None);
        };
        let store = match previous {
            Some(previous) if previous.store.settings().same(&settings) => Arc::clone(&previous.store),
            _ => Arc::new(LimitStore::new(settings, previous.map(|previous| &*previous.store))),
        };
        Ok(Some(Self { store, on_error: *on_error }))
    }

    /// Decides all limits of a request of which some are shared; waits at most `limits.timeout`.
    pub async fn decide(&self, limits: &Limits, caller: Caller<'_>, now: Now) -> Decision {
        let stores_now = self.stores_now(now);
        let mut begun = limits.begin(caller, now, stores_now);
        if begun.asks().is_empty() {
            return begun.finish_without();
        }
        if self.has_lost(begun.asks(), stores_now) && !begun.by_share(self.store.share()) {
            return begun.finish_without();
        }
        let asks: SmallVec<[limit_store::Ask; 2]> = begun.asks().iter().map(|ask| self.question(ask)).collect();
        match self.store.decide(&asks).await {
            Ok(answer) => {
                let answers: SmallVec<[Answer; 4]> = answer.verdicts.iter().map(in_nanoseconds).collect();
                begun.finish(&answers)
            }
            Err(Unavailable) => self.without(begun),
        }
    }

    /// Puts what the store knows of a client into `standings`, which are those of [`Book::status_of`]: this process only knows its share.
    ///
    /// # Errors
    /// The store gives no answer; what this process knows is left.
    pub async fn correct(
        &self,
        book: &Book,
        client: &Client,
        standings: &mut [ClientStatus],
    ) -> Result<(), Unavailable> {
        let shared = book.identities(client).enumerate().filter(|(_, (limit, _))| limit.is_shared);
        let stores_now = self.stores_now(Now::read());
        let shared: Vec<(usize, limit_store::Ask)> = shared
            .map(|(place, (limit, identity))| (place, self.question(&Ask::of(limit, identity, stores_now))))
            .collect();
        for some in shared.chunks(ASKS_MAX) {
            let asks: Vec<limit_store::Ask> = some.iter().map(|(_, ask)| ask.clone()).collect();
            let answer = self.store.look(&asks).await?;
            for ((place, _), verdict) in some.iter().zip(&answer.verdicts) {
                let Some(standing) = standings.get_mut(*place) else { continue };
                standing.tokens_remaining = verdict.remaining;
                standing.over = verdict.wait > 0;
                standing.more_in_seconds = verdict.more_in.div_ceil(1_000_000);
            }
        }
        Ok(())
    }

    /// Who is near to a limit or over it. Of shared limits those who came near through this process lately, with what they have used by all gateways;
    /// where the store gives no answer, those who have used as much of this gateway's share, since that is what holds then.
    pub async fn status(&self, book: &Book, now: Now) -> Vec<LimitStatus> {
        match self.near(book).await {
            Ok(shared) => book.status_of_own(now).into_iter().chain(shared).collect(),
            Err(Unavailable) => book.status(now),
        }
    }

    async fn near(&self, book: &Book) -> Result<Vec<LimitStatus>, Unavailable> {
        let mut noted: Vec<Noted<'_>> = Vec::new();
        for limit in book.limits.values().filter(|limit| limit.is_shared) {
            noted.extend(limit.by_store.near.noted().into_iter().map(|(identity, at)| (limit, identity, at)));
        }
        noted.sort_unstable_by_key(|(_, _, at)| Reverse(*at));
        noted.truncate(NEAR_MAX);
        let (stores_now, mut found) = (self.stores_now(Now::read()), Vec::new());
        for some in noted.chunks(ASKS_MAX) {
            let ask = |(limit, identity, _): &Noted<'_>| self.question(&Ask::of(limit, *identity, stores_now));
            let asks: Vec<limit_store::Ask> = some.iter().map(ask).collect();
            let answer = self.store.look(&asks).await?;
            for ((limit, identity, at), verdict) in some.iter().zip(&answer.verdicts) {
                let Answer { wait, remaining, more_in } = in_nanoseconds(verdict);
                if wait > 0 || Near::is_near(remaining, limit.counting.capacity()) {
                    let more_in = if wait > 0 { wait } else { more_in };
                    found.push(limit.status_entry(Some(*identity), Standing { remaining, more_in }, wait > 0));
                } else {
                    limit.by_store.near.forget(&[(*identity, *at)]);
                }
            }
        }
        Ok(found)
    }

    /// Forgets what a client has used of the limits in the store; of how many it had used something.
    ///
    /// # Errors
    /// The store gives no answer; some may be forgotten.
    pub async fn reset(&self, book: &Book, client: &Client) -> Result<usize, Unavailable> {
        let stores_now = self.stores_now(Now::read());
        let shared = book.identities(client).filter(|(limit, _)| limit.is_shared);
        let keys: Vec<String> =
            shared.map(|(limit, identity)| self.question(&Ask::of(limit, identity, stores_now)).key).collect();
        let mut forgotten = 0;
        for some in keys.chunks(ASKS_MAX) {
            forgotten += self.store.forget(some).await? as usize;
        }
        Ok(forgotten)
    }

    /// The present, its calendar by the store's clock.
    fn stores_now(&self, now: Now) -> Now {
        self.store.clock().map_or(now, |micros| Now { wall: Duration::from_micros(micros), ..now })
    }

    fn without(&self, mut begun: Begun<'_>) -> Decision {
        match self.on_error {
            OnStoreError::Local => {
                self.store.fell_back(Fallback::Local);
                if !begun.is_by_share() {
                    begun.by_share(self.store.share());
                }
                begun.finish_without()
            }
            OnStoreError::Refuse if begun.asks().iter().any(Ask::is_enforced) => {
                self.store.fell_back(Fallback::Refuse);
                begun.refuse(Refusal::LimitStoreUnavailable)
            }
            OnStoreError::Refuse | OnStoreError::Allow => {
                self.store.fell_back(Fallback::Allow);
                begun.finish_without()
            }
        }
    }

    /// Whether counts were lost that one of these limits would still have.
    fn has_lost(&self, asks: &[Ask<'_>], stores_now: Now) -> bool {
        let (OnStoreError::Local, Some(lost)) = (self.on_error, self.store.lost()) else { return false };
        let (lost, now) = (lost.saturating_mul(1_000), stores_now.wall_ns());
        asks.iter().any(|ask| match ask.rule {
            Rule::SlidingWindow { window, .. } | Rule::SlidingLog { window, .. } => lost + window + window / 16 >= now,
            Rule::TokenBucket { count, window, burst } => {
                let refilled_in = u128::from(window) * u128::from(burst) / u128::from(count.max(1));
                u128::from(lost) + refilled_in >= u128::from(now)
            }
            Rule::FixedWindow { periods, .. } => lost >= periods[1],
        })
    }

    /// What the store is asked. Counts that mean different things have different keys.
    fn question(&self, ask: &Ask<'_>) -> limit_store::Ask {
        let (letter, micros, kind, count, periods) = match ask.rule {
            Rule::SlidingWindow { count, window } => {
                let window = window.div_ceil(1_000);
                ('s', window, Kind::SlidingWindow { window }, count, [0; 4])
            }
            Rule::SlidingLog { count, window } => {
                let window = window.div_ceil(1_000);
                ('l', window, Kind::SlidingLog { window }, count, [0; 4])
            }
            Rule::TokenBucket { count, window, burst } => {
                let (window, burst) = (window.div_ceil(1_000), in_32_bits(burst));
                ('b', window, Kind::TokenBucket { window, burst }, count, [0; 4])
            }
            Rule::FixedWindow { count, periods } => {
                let periods = periods.map(|bound| bound / 1_000);
                ('f', 0, Kind::Calendar, count, periods)
            }
        };
        let rule = limit_store::Rule {
            kind,
            enforced: ask.is_enforced(),
            cost: in_32_bits(ask.cost),
            count: in_32_bits(count),
        };
        let prefix = self.store.prefix();
        let mut key = String::with_capacity(prefix.len() + 96);
        // Writing to a text does not fail.
        let _ = write!(key, "{prefix}{letter}{micros} {ask}");
        limit_store::Ask { key, rule, periods }
    }
}

/// Counts, bursts and costs are written with 32 bits.
fn in_32_bits(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn in_nanoseconds(verdict: &limit_store::Verdict) -> Answer {
    let nanoseconds = |micros: u64| micros.saturating_mul(1_000);
    Answer { wait: nanoseconds(verdict.wait), remaining: verdict.remaining, more_in: nanoseconds(verdict.more_in) }
}
