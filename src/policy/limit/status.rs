//! What the admin API tells of limits: who is near or over one, and where an address stands.
//! Read on demand under the locks of one shard at a time; bounded however many entries there are.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::algorithm::{Standing, seconds_up};
use super::identity::Identity;
use super::{Book, Caller, Limit, Now};
use crate::keys::NameId;

/// How many of those near or over one limit are told, the nearest first.
pub const STATUS_MAX: usize = 100;

/// Where a limit counts: everywhere, where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Place {
    /// The endpoint label of the only route.
    pub route: Option<Arc<str>>,
    /// The only service.
    pub service: Option<Arc<str>>,
    /// The plan whose consumers are counted.
    pub plan: Option<Arc<str>>,
}

/// Somebody who has used at least 80 % of a limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LimitStatus {
    /// The limit's name.
    pub limit: Arc<str>,
    /// Where it counts.
    #[serde(flatten)]
    pub place: Place,
    /// The address, or the IPv6 network, where the limit counts by it.
    pub address: Option<String>,
    /// The digest of the header's value, where the limit counts by one.
    pub header: Option<String>,
    /// The consumer, where the limit counts by it.
    pub consumer: Option<Arc<str>>,
    /// The key's name, where the limit counts by it.
    pub key: Option<Arc<str>>,
    /// Everyone who came when the limit's table was full, counted together.
    pub overflow: bool,
    /// Requests that are counted now.
    pub used: u64,
    /// Requests that may be counted at once.
    pub capacity: u64,
    /// Requests that would be admitted now.
    pub remaining: u64,
    /// Whether the next request would be refused.
    pub over: bool,
    /// Seconds until more would be admitted.
    pub more_in_seconds: u64,
}

/// Where one address stands with one limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClientStatus {
    /// The limit's name.
    pub limit: Arc<str>,
    /// Where it counts.
    #[serde(flatten)]
    pub place: Place,
    /// Whether this is only for requests without the key or consumer that the limit counts by.
    pub anonymous_only: bool,
    /// Requests that may be counted at once.
    pub capacity: u64,
    /// Requests that would be admitted now.
    pub tokens_remaining: u64,
    /// Whether the next request would be refused.
    pub over: bool,
    /// What comes back each second, on average.
    pub refill_per_second: f64,
    /// Seconds until more would be admitted; 0 when nothing is used.
    pub more_in_seconds: u64,
}

/// One limit, over all whom it counts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LimitTotals {
    /// The limit's name.
    pub limit: Arc<str>,
    /// Where it counts.
    #[serde(flatten)]
    pub place: Place,
    /// Requests that may be counted at once.
    pub capacity: u64,
    /// Whether it refuses, or only counts and tells.
    pub enforced: bool,
    /// Requests that it counted since it was configured.
    pub admitted: u64,
    /// Requests that it refused since then; of a limit that only observes, those that it would have refused.
    pub refused: u64,
    /// Identities that are counted.
    pub entries: usize,
}

/// Of whom the admin API wants to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Client {
    /// An address.
    Ip(IpAddr),
    /// The name of a key and its consumer; only for names of the configuration.
    Key {
        /// The key's name.
        key: NameId,
        /// Whose it is.
        consumer: NameId,
    },
}

/// How large a limit's table is, for metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct TableStatus {
    /// The limit's name.
    pub limit: Arc<str>,
    /// Where it counts.
    pub place: Place,
    /// Identities that are counted.
    pub entries: usize,
    /// Requests so far that were counted together because the table was full; only grows while the limit lives.
    pub overflowed: u64,
}

impl Book {
    /// Who has used at least 80 % of a limit in this process now, or is over it; of each limit the nearest first, at most [`STATUS_MAX`].
    /// Of a limit that is shared, this is who has used as much of this gateway's share.
    pub fn status(&self, now: Now) -> Vec<LimitStatus> {
        self.limits.values().flat_map(|limit| limit.status(now)).collect()
    }

    /// The same without the limits that are shared.
    pub(super) fn status_of_own(&self, now: Now) -> Vec<LimitStatus> {
        self.limits.values().filter(|limit| !limit.is_shared).flat_map(|limit| limit.status(now)).collect()
    }

    /// Every limit with what it decided.
    pub fn totals(&self) -> Vec<LimitTotals> {
        let totals = |limit: &Arc<Limit>| {
            let (tally, (entries, _)) = (limit.counting.tally(), limit.counting.sizes());
            let by_store = |count: &AtomicU64| count.load(Ordering::Relaxed);
            LimitTotals {
                limit: Arc::clone(&limit.name),
                place: limit.place.clone(),
                capacity: limit.counting.capacity(),
                enforced: limit.enforced,
                admitted: tally.admitted + by_store(&limit.by_store.admitted),
                refused: tally.refused + by_store(&limit.by_store.refused),
                entries,
            }
        };
        self.limits.values().map(totals).collect()
    }

    /// Where a client stands with every limit that counts it by itself: an address where it counts by address, or falls back to it; a key where it
    /// counts by key or consumer alone.
    pub fn status_of(&self, client: &Client, now: Now) -> Vec<ClientStatus> {
        let status = |(limit, identity): (&Arc<Limit>, Identity)| {
            let (standing, over) = limit.counting.look(identity, now, limit.cost);
            ClientStatus {
                limit: Arc::clone(&limit.name),
                place: limit.place.clone(),
                anonymous_only: matches!(client, Client::Ip(_)) && limit.dimensions.is_by_more(),
                capacity: limit.counting.capacity(),
                tokens_remaining: standing.remaining,
                over,
                refill_per_second: limit.counting.refill_per_second(now),
                more_in_seconds: seconds_up(standing.more_in),
            }
        };
        self.identities(client).map(status).collect()
    }

    /// Forgets what a client has used of every limit of [`Self::status_of`] in this process; of how many limits of this process it had used something.
    pub fn reset(&self, client: &Client) -> usize {
        let reset = self.identities(client).filter(|(limit, identity)| limit.counting.reset(*identity));
        reset.filter(|(limit, _)| !limit.is_shared).count()
    }

    pub(super) fn identities(&self, client: &Client) -> impl Iterator<Item = (&Arc<Limit>, Identity)> {
        let client = client.clone();
        self.limits.values().filter_map(move |limit| {
            let identity = match client {
                Client::Ip(ip) => limit.dimensions.of_address(ip),
                Client::Key { key, consumer } => {
                    let ip = IpAddr::from([0, 0, 0, 0]);
                    let caller = Caller { ip, consumer: Some(consumer), key: Some(key), headers: None };
                    let is_alone =
                        limit.dimensions.name.is_some() && !limit.dimensions.ip && limit.dimensions.header.is_none();
                    is_alone.then(|| limit.dimensions.identify(&caller))
                }
            };
            identity.map(|identity| (limit, identity))
        })
    }

    /// How large the tables are.
    pub fn tables(&self) -> Vec<TableStatus> {
        let table = |limit: &Arc<super::Limit>| {
            let (entries, overflowed) = limit.counting.sizes();
            TableStatus { limit: Arc::clone(&limit.name), place: limit.place.clone(), entries, overflowed }
        };
        self.limits.values().map(table).collect()
    }
}

impl Limit {
    fn status(&self, now: Now) -> Vec<LimitStatus> {
        let mut found = Vec::new();
        let capacity = self.counting.capacity();
        self.counting.visit(now, self.cost, |seen| {
            let used = capacity.saturating_sub(seen.standing.remaining);
            if used * 5 < capacity * 4 && !seen.over {
                return;
            }
            found.push(self.status_entry(seen.identity, seen.standing, seen.over));
            if found.len() >= 10 * STATUS_MAX {
                nearest(&mut found);
            }
        });
        nearest(&mut found);
        found
    }

    /// How somebody is told; none is the overflow entry.
    pub(super) fn status_entry(&self, identity: Option<Identity>, standing: Standing, over: bool) -> LimitStatus {
        let capacity = self.counting.capacity();
        LimitStatus {
            limit: Arc::clone(&self.name),
            place: self.place.clone(),
            address: identity.and_then(Identity::address),
            header: identity.and_then(Identity::header),
            consumer: identity.and_then(Identity::consumer),
            key: identity.and_then(Identity::key),
            overflow: identity.is_none(),
            used: capacity.saturating_sub(standing.remaining),
            capacity,
            remaining: standing.remaining,
            over,
            more_in_seconds: seconds_up(standing.more_in),
        }
    }
}

fn nearest(found: &mut Vec<LimitStatus>) {
    found.sort_by_key(|status| {
        let share = u128::from(status.used) * 1_000_000 / u128::from(status.capacity.max(1));
        Reverse((status.over, share))
    });
    found.truncate(STATUS_MAX);
}
