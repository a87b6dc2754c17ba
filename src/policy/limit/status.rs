//! What the admin API tells of limits: who is near or over one, and where an address stands.
//! Read on demand under the locks of one shard at a time; bounded however many entries there are.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::algorithm::seconds_up;
use super::{Book, Now};

/// How many of those near or over a limit are told, the nearest first.
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
    /// What comes back each second, on average.
    pub refill_per_second: f64,
    /// Seconds until more would be admitted; 0 when nothing is used.
    pub more_in_seconds: u64,
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
    /// Who has used at least 80 % of a limit now, or is over it; the nearest first, at most [`STATUS_MAX`].
    pub fn status(&self, now: Now) -> Vec<LimitStatus> {
        let mut found = Vec::new();
        for limit in self.limits.values() {
            let capacity = limit.counting.capacity();
            limit.counting.visit(now, limit.cost, |seen| {
                let used = capacity.saturating_sub(seen.standing.remaining);
                if used * 5 < capacity * 4 && !seen.over {
                    return;
                }
                let identity = seen.identity;
                found.push(LimitStatus {
                    limit: Arc::clone(&limit.name),
                    place: limit.place.clone(),
                    address: identity.and_then(|identity| identity.address()),
                    header: identity.and_then(|identity| identity.header()),
                    consumer: identity.and_then(|identity| identity.consumer()),
                    key: identity.and_then(|identity| identity.key()),
                    overflow: identity.is_none(),
                    used,
                    capacity,
                    remaining: seen.standing.remaining,
                    over: seen.over,
                    more_in_seconds: seconds_up(seen.standing.more_in),
                });
                if found.len() >= 10 * STATUS_MAX {
                    nearest(&mut found);
                }
            });
        }
        nearest(&mut found);
        found
    }

    /// Where `ip` stands with every limit that counts by address, or falls back to it.
    pub fn status_of(&self, ip: IpAddr, now: Now) -> Vec<ClientStatus> {
        let limits = self.limits.values();
        let counted = limits.filter_map(|limit| limit.dimensions.of_address(ip).map(|identity| (limit, identity)));
        counted
            .map(|(limit, identity)| {
                let standing = limit.counting.look(identity, now);
                ClientStatus {
                    limit: Arc::clone(&limit.name),
                    place: limit.place.clone(),
                    anonymous_only: limit.dimensions.is_by_more(),
                    capacity: limit.counting.capacity(),
                    tokens_remaining: standing.remaining,
                    refill_per_second: limit.counting.refill_per_second(now),
                    more_in_seconds: seconds_up(standing.more_in),
                }
            })
            .collect()
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

fn nearest(found: &mut Vec<LimitStatus>) {
    found.sort_by_key(|status| {
        let share = u128::from(status.used) * 1_000_000 / u128::from(status.capacity.max(1));
        Reverse((status.over, share))
    });
    found.truncate(STATUS_MAX);
}
