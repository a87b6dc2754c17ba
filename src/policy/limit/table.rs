//! The table of one limit: what each identity has used, in shards with a lock each and a hard capacity.
//! An entry that counts nothing any more goes when room is needed; when every entry of a shard is live, newcomers share one overflow
//! entry per table: counted together, so nobody gains by flooding the table and nobody is unlimited.
//! Invariant: a request locks at most one thing per table at a time, and tables in the order of their ids, so requests never wait in a circle.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};

use super::algorithm::{Algorithm, Standing};
use super::identity::{Identity, IdentityHashing};

/// Entries of one limit. Shards fill a little unevenly (the hash is random), so the first is full at about 97 % of this.
pub(super) const ENTRIES_MAX: usize = 1_000_000;
const SHARDS: usize = 64;

/// Entries that a newcomer looks at, while there is room, to find one that is empty: twice what it may add, so the table shrinks again.
const SWEEP: usize = 2;

/// At most one warning a table in so many nanoseconds.
const WARN_EVERY: u64 = 60_000_000_000;

/// Of all tables there ever were: a counter may not fall when a reload removes a limit.
static OVERFLOWED: AtomicU64 = AtomicU64::new(0);

/// Requests of this process that were counted together because a table was full.
pub fn overflowed_since_start() -> u64 {
    OVERFLOWED.load(Ordering::Relaxed)
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What each identity has used of one limit.
pub(super) struct Table<U> {
    /// The order of locking.
    pub id: u64,
    /// Names the limit in warnings.
    label: String,
    shards: Box<[Mutex<Shard<U>>]>,
    shard_entries_max: usize,
    hashing: IdentityHashing,
    overflow: Mutex<U>,
    overflowed: AtomicU64,
    /// When the next warning may be logged, by the table's clock.
    next_warning: AtomicU64,
}

pub(super) struct Shard<U> {
    used: HashMap<Identity, U, IdentityHashing>,
    /// One mark for each entry, not later than when it is empty; brought up to date only when it is due.
    empty: BinaryHeap<Reverse<(u64, Identity)>>,
}

/// What one identity has used, locked.
pub(super) enum Hold<'a, U> {
    Entry(MappedMutexGuard<'a, U>),
    /// There is room for it, and it is entered when something is counted.
    Newcomer(MutexGuard<'a, Shard<U>>, Identity),
    Overflow(MutexGuard<'a, U>),
}

impl<U: Copy + Default> Table<U> {
    /// An empty table of at most `entries_max`; `label` names the limit in warnings.
    pub fn new(label: String, entries_max: usize) -> Self {
        // A small capacity is one shard's, so that it is exact.
        let shards = if entries_max >= SHARDS * 1_024 { SHARDS } else { 1 };
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            label,
            shards: (0..shards)
                .map(|_| Mutex::new(Shard { used: HashMap::default(), empty: BinaryHeap::new() }))
                .collect(),
            shard_entries_max: entries_max / shards,
            hashing: IdentityHashing::default(),
            overflow: Mutex::new(U::default()),
            overflowed: AtomicU64::new(0),
            next_warning: AtomicU64::new(0),
        }
    }

    /// Locks what `identity` has used, with everything forgotten that no longer counts at `now`.
    pub fn hold<A: Algorithm<Used = U>>(&self, algorithm: &A, identity: Identity, now: u64) -> Hold<'_, U> {
        match MutexGuard::try_map(self.shard(identity).lock(), |shard| shard.used.get_mut(&identity)) {
            Ok(mut entry) => {
                algorithm.forget(&mut entry, now);
                Hold::Entry(entry)
            }
            Err(mut shard) => {
                if shard.make_room(algorithm, now, self.shard_entries_max) {
                    return Hold::Newcomer(shard, identity);
                }
                drop(shard); // before the next lock: never two of one table
                self.note_overflow(now);
                let mut used = self.overflow.lock();
                algorithm.forget(&mut used, now);
                Hold::Overflow(used)
            }
        }
    }

    /// What `identity` has used; nothing when it has no entry.
    pub fn look<A: Algorithm<Used = U>>(&self, algorithm: &A, identity: Identity, now: u64) -> U {
        let mut used = self.shard(identity).lock().used.get(&identity).copied().unwrap_or_default();
        algorithm.forget(&mut used, now);
        used
    }

    /// Visits every entry, shard by shard, and at last the overflow entry, which has no identity.
    pub fn visit<A: Algorithm<Used = U>>(&self, algorithm: &A, now: u64, mut visit: impl FnMut(Option<Identity>, &U)) {
        for shard in &self.shards {
            for (identity, used) in &shard.lock().used {
                let mut used = *used;
                algorithm.forget(&mut used, now);
                visit(Some(*identity), &used);
            }
        }
        let mut used = *self.overflow.lock();
        algorithm.forget(&mut used, now);
        visit(None, &used);
    }

    /// Brings every entry to `now` by the rate that held so far, before another one holds: what a reload changes does not reach back.
    pub fn settle<A: Algorithm<Used = U>>(&self, before: &A, after: &A, now: u64) {
        for shard in &self.shards {
            let shard = &mut *shard.lock();
            shard.used.retain(|_, used| {
                before.forget(used, now);
                before.empty_at(used) > now
            });
            shard.empty =
                shard.used.iter().map(|(identity, used)| Reverse((after.empty_at(used), *identity))).collect();
        }
        before.forget(&mut self.overflow.lock(), now);
    }

    /// How many identities have an entry.
    pub fn entries(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().used.len()).sum()
    }

    /// Requests that were counted in the overflow entry, since the table was made.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    fn shard(&self, identity: Identity) -> &Mutex<Shard<U>> {
        &self.shards[self.hashing.hash_one(identity) as usize % self.shards.len()]
    }

    fn note_overflow(&self, now: u64) {
        OVERFLOWED.fetch_add(1, Ordering::Relaxed);
        let total = self.overflowed.fetch_add(1, Ordering::Relaxed) + 1;
        let due = self.next_warning.load(Ordering::Relaxed);
        let next = now.saturating_add(WARN_EVERY);
        if now >= due && self.next_warning.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            log::warn!(
                "{}: all {} entries are in use; newcomers are counted together ({total} requests so far)",
                self.label,
                self.shard_entries_max * self.shards.len()
            );
        }
    }
}

impl<U: Copy> Shard<U> {
    /// Whether there is room for one more entry, after empty ones are removed. Each mark that is looked at in vain was made
    /// outdated by a request of its own, so the work for one request is constant on average, whoever sends it.
    fn make_room<A: Algorithm<Used = U>>(&mut self, algorithm: &A, now: u64, entries_max: usize) -> bool {
        let mut looked_at = 0;
        while looked_at < SWEEP || self.used.len() >= entries_max {
            match self.empty.peek() {
                Some(Reverse((due, _))) if *due <= now => {}
                Some(_) | None => break,
            }
            let Some(Reverse((_, identity))) = self.empty.pop() else { break };
            looked_at += 1;
            let empty_at = self.used.get(&identity).map_or(0, |used| algorithm.empty_at(used));
            if empty_at <= now {
                self.used.remove(&identity);
            } else {
                self.empty.push(Reverse((empty_at, identity)));
            }
        }
        self.used.len() < entries_max
    }
}

impl<U: Copy + Default> Hold<'_, U> {
    /// See [`Algorithm::wait`].
    pub fn wait<A: Algorithm<Used = U>>(&self, algorithm: &A, now: u64, cost: u64) -> u64 {
        match self {
            Self::Entry(used) => algorithm.wait(used, now, cost),
            Self::Overflow(used) => algorithm.wait(used, now, cost),
            Self::Newcomer(..) => algorithm.wait(&nothing(algorithm, now), now, cost),
        }
    }

    /// See [`Algorithm::standing`].
    pub fn standing<A: Algorithm<Used = U>>(&self, algorithm: &A, now: u64) -> Standing {
        match self {
            Self::Entry(used) => algorithm.standing(used, now),
            Self::Overflow(used) => algorithm.standing(used, now),
            Self::Newcomer(..) => algorithm.standing(&nothing(algorithm, now), now),
        }
    }

    /// See [`Algorithm::give_back`].
    pub fn give_back<A: Algorithm<Used = U>>(&mut self, algorithm: &A, counted: u64, now: u64, cost: u64) {
        match self {
            Self::Entry(used) => algorithm.give_back(used, counted, now, cost),
            Self::Overflow(used) => algorithm.give_back(used, counted, now, cost),
            Self::Newcomer(..) => {} // nothing is counted any more
        }
    }

    /// Counts `cost`, which [`Self::wait`] has admitted under this same hold; gives the standing after that.
    pub fn count<A: Algorithm<Used = U>>(&mut self, algorithm: &A, now: u64, cost: u64) -> Standing {
        let mut entered;
        let used = match self {
            Self::Entry(used) => &mut **used,
            Self::Overflow(used) => &mut **used,
            Self::Newcomer(..) => {
                entered = nothing(algorithm, now);
                &mut entered
            }
        };
        algorithm.count(used, now, cost);
        let (used, standing) = (*used, algorithm.standing(used, now));
        if let Self::Newcomer(shard, identity) = self {
            shard.used.insert(*identity, used);
            shard.empty.push(Reverse((algorithm.empty_at(&used), *identity)));
        }
        standing
    }
}

/// What somebody has used who never came before.
fn nothing<A: Algorithm>(algorithm: &A, now: u64) -> A::Used {
    let mut used = A::Used::default();
    algorithm.forget(&mut used, now);
    used
}

/// The label of a table: which limit of which route or plan.
pub(super) fn label(limit: &str, place: &str) -> String {
    format!("limit `{limit}` of {place}")
}

/// Nanoseconds, for clocks that count them in 64 bits (584 years).
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::Caller;
    use super::super::identity::Dimensions;
    use super::super::sliding_window::SlidingWindow;
    use super::super::token_bucket::TokenBucket;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn identity(n: u32) -> Identity {
        let ip = std::net::IpAddr::V4(n.into());
        let limit = crate::config::Limit::parse("1/s per ip").unwrap();
        Dimensions::compile(&limit).identify(&Caller { ip, consumer: None, key: None, headers: None })
    }

    fn admit<A: Algorithm>(table: &Table<A::Used>, algorithm: &A, n: u32, now: u64) -> bool {
        let mut hold = table.hold(algorithm, identity(n), now);
        let admitted = hold.wait(algorithm, now, 1) == 0;
        if admitted {
            hold.count(algorithm, now, 1);
        }
        admitted
    }

    #[test]
    fn newcomers_to_a_full_table_are_counted_together() {
        let limit = SlidingWindow::new(3, 16 * SECOND);
        let table = Table::new(label("test", "test"), 10);
        assert!((0..10).all(|n| admit(&table, &limit, n, SECOND)));
        let admitted = (10..1_000).filter(|n| admit(&table, &limit, *n, SECOND)).count();
        assert_eq!((admitted, table.entries(), table.overflowed()), (3, 10, 990));
        // Those with an entry keep their own count.
        assert!((0..10).all(|n| admit(&table, &limit, n, SECOND) && admit(&table, &limit, n, SECOND)));
        assert!((0..10).all(|n| !admit(&table, &limit, n, SECOND)));
        assert_eq!(table.overflowed(), 990);
    }

    #[test]
    fn an_empty_entry_makes_room_and_a_live_one_does_not() {
        let limit = SlidingWindow::new(3, 16 * SECOND);
        let table = Table::new(label("test", "test"), 10);
        (0..10).for_each(|n| assert!(admit(&table, &limit, n, u64::from(n) * SECOND)));
        assert!(admit(&table, &limit, 0, 9 * SECOND), "the oldest is used again");
        (100..103).for_each(|n| assert!(admit(&table, &limit, n, 17 * SECOND)));
        assert_eq!(table.overflowed(), 3, "1 is empty at 18 s at the earliest");
        assert!(admit(&table, &limit, 200, 18 * SECOND));
        assert_eq!((table.entries(), table.overflowed()), (10, 3), "200 has the place of 1");
        let admitted = (0..5).filter(|_| admit(&table, &limit, 0, 19 * SECOND)).count();
        assert_eq!(admitted, 2, "0 was never forgotten: its use at 9 s still counts");
    }

    #[test]
    fn of_buckets_the_one_that_is_full_again_goes_first() {
        let limit = TokenBucket::new(1, SECOND, 10);
        let table = Table::new(label("test", "test"), 3);
        (0..5).for_each(|_| assert!(admit(&table, &limit, 0, SECOND)));
        (0..2).for_each(|_| assert!(admit(&table, &limit, 1, SECOND)));
        assert!(admit(&table, &limit, 2, SECOND));
        assert!(admit(&table, &limit, 3, 2 * SECOND), "2 is full again");
        assert!(admit(&table, &limit, 4, 3 * SECOND), "1 is full again, and 3 is, too");
        assert!(admit(&table, &limit, 5, 3 * SECOND));
        assert_eq!(table.overflowed(), 0);
        assert!(admit(&table, &limit, 6, 3 * SECOND));
        assert_eq!(table.overflowed(), 1);
    }

    #[test]
    fn a_refused_newcomer_takes_no_entry() {
        let limit = SlidingWindow::new(3, 16 * SECOND);
        let table = Table::new(label("test", "test"), 10);
        drop(table.hold(&limit, identity(1), SECOND));
        assert_eq!(table.entries(), 0);
    }

    #[test]
    fn a_table_shrinks_while_newcomers_come() {
        let limit = SlidingWindow::new(3, 16 * SECOND);
        let table = Table::new(label("test", "test"), 1_000);
        (0..1_000).for_each(|n| assert!(admit(&table, &limit, n, SECOND)));
        (1_000..2_000).for_each(|n| assert!(admit(&table, &limit, n, 100 * SECOND)));
        assert_eq!((table.entries(), table.overflowed()), (1_000, 0));
        (2_000..2_010).for_each(|n| assert!(admit(&table, &limit, n, 200 * SECOND)));
        assert_eq!(table.entries(), 990);
    }

    #[test]
    fn a_flood_costs_each_request_a_constant_amount_of_work() {
        // Every newcomer finds the table full of entries that were used again just before they were due.
        let limit = TokenBucket::new(1, SECOND, 100);
        let table: Table<_> = Table::new(label("test", "test"), 10_000);
        let begun = std::time::Instant::now();
        (0..10_000).for_each(|n| assert!(admit(&table, &limit, n, SECOND)));
        for round in 0..5 {
            (0..10_000).for_each(|n| assert!(admit(&table, &limit, n, SECOND + round * SECOND / 2)));
            (0..10_000).for_each(|n| _ = admit(&table, &limit, 20_000 + n, SECOND + round * SECOND / 2));
        }
        // 110,000 requests, each scanning 10,000 entries, would take minutes.
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!(table.entries(), 10_000);
    }

    #[test]
    fn large_tables_hold_what_they_promise() {
        let limit = TokenBucket::new(1, SECOND, 1);
        let table: Table<_> = Table::new(label("test", "test"), SHARDS * 1_024);
        let entered = (0..SHARDS as u32 * 2_048).filter(|n| admit(&table, &limit, *n, SECOND)).count();
        assert_eq!(table.entries(), SHARDS * 1_024, "never more than the capacity");
        assert_eq!(entered, SHARDS * 1_024 + 1, "and one in the overflow entry");
    }
}
