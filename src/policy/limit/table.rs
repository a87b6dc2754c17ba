//! The table of one limit: what each identity has used, in shards with a lock each and a hard capacity.
//! Entries lie close together in a list, and an index of 5 bytes an entry finds them: a map of whole entries would keep half of its places free.
//! An entry that counts nothing any more goes when room is needed; when there is none, newcomers share one overflow entry per table: counted
//! together, so nobody gains by flooding the table and nobody is unlimited.
//! Invariant: a request locks at most one thing per table at a time, and tables in the order of their ids, so requests never wait in a circle.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::HashTable;
use parking_lot::{Mutex, MutexGuard};

use super::algorithm::{Algorithm, Standing, Use, Uses};
use super::identity::{Identity, IdentityHashing};

/// Entries of one limit: what the index of a shard holds before it would double. A million finds room however unevenly it is spread.
pub(super) const ENTRIES_MAX: usize = SHARDS * 14_336;
const SHARDS: usize = 72;

/// Entries that a newcomer looks at, while there is room, to find some that are empty: more than it may add, so the table shrinks again.
const SWEEP: usize = 4;

/// Entries that a newcomer to a full shard looks at, each one from where the last one stopped.
const SEARCH: usize = 64;

/// From so many entries on a shard has the room that it may take at most.
const GROWS_AT: usize = 128;

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
pub(super) struct Table<A: Algorithm> {
    /// The order of locking.
    pub id: u64,
    /// Names the limit in warnings.
    label: String,
    shards: Box<[Mutex<Shard<A>>]>,
    shard_entries_max: usize,
    hashing: IdentityHashing,
    overflow: Mutex<Overflow<A>>,
    overflowed: AtomicU64,
    /// When the next warning may be logged, by the table's clock.
    next_warning: AtomicU64,
}

/// A part of the table. The algorithm with its numbers is in here, so that they change for everyone at once, entry by entry.
pub(super) struct Shard<A: Algorithm> {
    algorithm: A,
    hashing: IdentityHashing,
    entries: Vec<Entry<A::Used>>,
    /// Places in `entries`.
    index: HashTable<u32>,
    /// Where the next search for empty entries begins.
    hand: usize,
    tally: Tally,
}

pub(super) struct Overflow<A: Algorithm> {
    algorithm: A,
    used: A::Used,
    tally: Tally,
}

/// Decisions since the table was made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Tally {
    /// Requests that were counted.
    pub admitted: u64,
    /// Requests that this limit refused, or would have refused.
    pub refused: u64,
}

/// What one identity has used.
struct Entry<U> {
    identity: Identity,
    used: U,
}

/// What one identity has used, locked.
pub(super) enum Hold<'a, A: Algorithm> {
    Entry(MutexGuard<'a, Shard<A>>, usize),
    /// There is room for it, and it is entered when something is counted.
    Newcomer(MutexGuard<'a, Shard<A>>, Identity, u64, usize),
    Overflow(MutexGuard<'a, Overflow<A>>),
}

/// One entry, to be kept beyond this process.
pub(super) struct Snapshot {
    pub identity: Identity,
    pub uses: Uses,
    /// Nanoseconds until nothing counts any more.
    pub empty_in: u64,
}

impl<A: Algorithm> Table<A> {
    /// An empty table of at most `entries_max`; `label` names the limit in warnings.
    pub fn new(algorithm: A, label: String, entries_max: usize) -> Self {
        // A small capacity is one shard's, so that it is exact.
        let shards = if entries_max >= SHARDS * 1_024 { SHARDS } else { 1 };
        let hashing = IdentityHashing::default();
        let shard = |_| {
            let (entries, index) = (Vec::new(), HashTable::new());
            Mutex::new(Shard { algorithm, hashing: hashing.clone(), entries, index, hand: 0, tally: Tally::default() })
        };
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            label,
            shards: (0..shards).map(shard).collect(),
            shard_entries_max: entries_max / shards,
            overflow: Mutex::new(Overflow { algorithm, used: A::Used::default(), tally: Tally::default() }),
            hashing,
            overflowed: AtomicU64::new(0),
            next_warning: AtomicU64::new(0),
        }
    }

    /// Locks what `identity` has used, with everything forgotten that no longer counts at `now`.
    pub fn hold(&self, identity: Identity, now: u64) -> Hold<'_, A> {
        let hash = self.hashing.hash_one(identity);
        let mut shard = self.shard(hash).lock();
        if let Some(place) = shard.place(identity, hash) {
            let held = &mut *shard;
            held.algorithm.forget(&mut held.entries[place].used, now);
            return Hold::Entry(shard, place);
        }
        if shard.make_room(now, self.shard_entries_max) {
            return Hold::Newcomer(shard, identity, hash, self.shard_entries_max);
        }
        drop(shard); // before the next lock: never two of one table
        self.note_overflow(now);
        let mut overflow = self.overflow.lock();
        let held = &mut *overflow;
        held.algorithm.forget(&mut held.used, now);
        Hold::Overflow(overflow)
    }

    /// Where `identity` stands, and whether `cost` would be refused.
    pub fn look(&self, identity: Identity, now: u64, cost: u64) -> (Standing, bool) {
        let hash = self.hashing.hash_one(identity);
        let shard = self.shard(hash).lock();
        let mut used = shard.place(identity, hash).map(|place| shard.entries[place].used).unwrap_or_default();
        shard.algorithm.forget(&mut used, now);
        (shard.algorithm.standing(&used, now), shard.algorithm.wait(&used, now, cost) > 0)
    }

    /// Takes back what was counted for `identity`, or for everyone in the overflow entry.
    pub fn give_back(&self, identity: Option<Identity>, at: u64, now: u64, cost: u64) {
        let Some(identity) = identity else {
            let overflow = &mut *self.overflow.lock();
            overflow.algorithm.give_back(&mut overflow.used, at, now, cost);
            return;
        };
        let hash = self.hashing.hash_one(identity);
        let shard = &mut *self.shard(hash).lock();
        if let Some(place) = shard.place(identity, hash) {
            shard.algorithm.give_back(&mut shard.entries[place].used, at, now, cost);
        }
    }

    /// Forgets what `identity` has used; whether there was an entry.
    pub fn reset(&self, identity: Identity) -> bool {
        let hash = self.hashing.hash_one(identity);
        let shard = &mut *self.shard(hash).lock();
        let place = shard.place(identity, hash);
        if let Some(place) = place {
            // The entry stays until it is swept, so that the next save finds it.
            shard.entries[place].used = A::Used::default();
            shard.entries[place].identity.mark_unsaved();
        }
        place.is_some()
    }

    /// Adds what was used before, in an earlier process. Without room it is counted in the overflow entry.
    pub fn add(&self, identity: Identity, uses: &[Use], now: u64) {
        let hash = self.hashing.hash_one(identity);
        let mut shard = self.shard(hash).lock();
        if let Some(place) = shard.place(identity, hash) {
            let shard = &mut *shard;
            let used = &mut shard.entries[place].used;
            shard.algorithm.forget(used, now);
            let mut all = shard.algorithm.uses(used, now);
            all.extend_from_slice(uses);
            *used = shard.algorithm.used(&all, now);
        } else if shard.make_room(now, self.shard_entries_max) {
            let used = shard.algorithm.used(uses, now);
            shard.enter(identity, hash, used, self.shard_entries_max);
        } else {
            drop(shard);
            let overflow = &mut *self.overflow.lock();
            overflow.algorithm.forget(&mut overflow.used, now);
            let mut all = overflow.algorithm.uses(&overflow.used, now);
            all.extend_from_slice(uses);
            overflow.used = overflow.algorithm.used(&all, now);
        }
    }

    /// Visits every entry, shard by shard, and at last the overflow entry, which has no identity.
    pub fn visit(&self, now: u64, mut visit: impl FnMut(Option<Identity>, &A, &A::Used)) {
        for shard in &self.shards {
            let shard = shard.lock();
            for entry in &shard.entries {
                let mut used = entry.used;
                shard.algorithm.forget(&mut used, now);
                visit(Some(entry.identity), &shard.algorithm, &used);
            }
        }
        let overflow = self.overflow.lock();
        let mut used = overflow.used;
        overflow.algorithm.forget(&mut used, now);
        visit(None, &overflow.algorithm, &used);
    }

    /// What changed since it was asked last, or everything. One shard is locked at a time, and only to copy what is wanted.
    pub fn unsaved(&self, now: u64, everything: bool, mut found: impl FnMut(Snapshot)) {
        let mut copied = Vec::new();
        for shard in &self.shards {
            let algorithm = {
                let shard = &mut *shard.lock();
                for entry in &mut shard.entries {
                    if entry.identity.take_unsaved() || everything {
                        copied.push((entry.identity, entry.used));
                    }
                }
                shard.algorithm
            };
            for (identity, mut used) in copied.drain(..) {
                algorithm.forget(&mut used, now);
                let empty_in = algorithm.empty_at(&used).saturating_sub(now);
                found(Snapshot { identity, uses: algorithm.uses(&used, now), empty_in });
            }
        }
    }

    /// From now on other numbers hold: every entry is carried over, so that what was used stays used.
    pub fn change(&self, after: A, now: u64) {
        for shard in &self.shards {
            let shard = &mut *shard.lock();
            let before = std::mem::replace(&mut shard.algorithm, after);
            for entry in &mut shard.entries {
                entry.used = carried(&before, &after, entry.used, now);
            }
        }
        let overflow = &mut *self.overflow.lock();
        let before = std::mem::replace(&mut overflow.algorithm, after);
        overflow.used = carried(&before, &after, overflow.used, now);
    }

    /// How many identities have an entry.
    pub fn entries(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().entries.len()).sum()
    }

    /// Requests that were counted in the overflow entry, since the table was made.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Decisions since the table was made.
    pub fn tally(&self) -> Tally {
        let shards = self.shards.iter().map(|shard| shard.lock().tally);
        shards.fold(self.overflow.lock().tally, |sum, one| Tally {
            admitted: sum.admitted + one.admitted,
            refused: sum.refused + one.refused,
        })
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard<A>> {
        // Bits that the index of the shard does not use: it has the lowest 14 and the highest 7.
        let part = u64::from((hash >> 20) as u32) * self.shards.len() as u64;
        &self.shards[(part >> 32) as usize]
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

fn carried<A: Algorithm>(before: &A, after: &A, mut used: A::Used, now: u64) -> A::Used {
    before.forget(&mut used, now);
    after.used(&before.uses(&used, now), now)
}

impl<A: Algorithm> Shard<A> {
    fn place(&self, identity: Identity, hash: u64) -> Option<usize> {
        let is_it = |place: &u32| self.entries[*place as usize].identity.is(identity);
        self.index.find(hash, is_it).map(|place| *place as usize)
    }

    fn enter(&mut self, mut identity: Identity, hash: u64, used: A::Used, entries_max: usize) {
        identity.mark_unsaved();
        let place = self.entries.len();
        if place == GROWS_AT {
            // Once for all: of each list and index that it grew out of, memory would stay in use. What is not written to takes none.
            self.entries.reserve_exact(entries_max.saturating_sub(place));
            let (entries, hashing) = (&self.entries, &self.hashing);
            let hash_of = |place: &u32| hashing.hash_one(entries[*place as usize].identity);
            self.index.reserve(entries_max.saturating_sub(place), hash_of);
        }
        self.entries.push(Entry { identity, used });
        let (entries, hashing) = (&self.entries, &self.hashing);
        self.index.insert_unique(hash, place as u32, |place| hashing.hash_one(entries[*place as usize].identity));
    }

    /// Removes the entry at a place; the last one takes it.
    fn remove(&mut self, place: usize) {
        let hash = self.hashing.hash_one(self.entries[place].identity);
        if let Ok(found) = self.index.find_entry(hash, |known| *known as usize == place) {
            found.remove();
        }
        let last = self.entries.len() - 1;
        if place != last {
            let hash = self.hashing.hash_one(self.entries[last].identity);
            if let Some(known) = self.index.find_mut(hash, |known| *known as usize == last) {
                *known = place as u32;
            }
        }
        self.entries.swap_remove(place);
    }

    /// Whether there is room for one more entry, after some that are empty are removed. A newcomer looks at a bounded number, and the next one goes on
    /// where it stopped: so a flood costs each request a constant amount of work, and an empty entry is found after one round at the latest.
    fn make_room(&mut self, now: u64, entries_max: usize) -> bool {
        let looks = if self.entries.len() >= entries_max { SEARCH } else { SWEEP };
        for _ in 0..looks.min(self.entries.len()) {
            if self.hand >= self.entries.len() {
                self.hand = 0;
            }
            if !self.entries.is_empty() && self.algorithm.empty_at(&self.entries[self.hand].used) <= now {
                self.remove(self.hand);
            } else {
                self.hand += 1;
            }
        }
        self.entries.len() < entries_max
    }
}

impl<A: Algorithm> Hold<'_, A> {
    fn parts(&self, now: u64) -> (&A, A::Used) {
        match self {
            Self::Entry(shard, place) => (&shard.algorithm, shard.entries[*place].used),
            Self::Newcomer(shard, ..) => (&shard.algorithm, nothing(&shard.algorithm, now)),
            Self::Overflow(overflow) => (&overflow.algorithm, overflow.used),
        }
    }

    /// See [`Algorithm::wait`].
    pub fn wait(&self, now: u64, cost: u64) -> u64 {
        match self {
            Self::Entry(shard, place) => shard.algorithm.wait(&shard.entries[*place].used, now, cost),
            Self::Newcomer(..) | Self::Overflow(_) => {
                let (algorithm, used) = self.parts(now);
                algorithm.wait(&used, now, cost)
            }
        }
    }

    /// See [`Algorithm::standing`].
    pub fn standing(&self, now: u64) -> Standing {
        match self {
            Self::Entry(shard, place) => shard.algorithm.standing(&shard.entries[*place].used, now),
            Self::Newcomer(..) | Self::Overflow(_) => {
                let (algorithm, used) = self.parts(now);
                algorithm.standing(&used, now)
            }
        }
    }

    /// Whether it is the overflow entry.
    pub const fn is_overflow(&self) -> bool {
        matches!(self, Self::Overflow(_))
    }

    /// Notes that this limit refused.
    pub fn refuse(&mut self) {
        match self {
            Self::Entry(shard, _) | Self::Newcomer(shard, ..) => shard.tally.refused += 1,
            Self::Overflow(overflow) => overflow.tally.refused += 1,
        }
    }

    /// Counts `cost`, which [`Self::wait`] has admitted under this same hold; gives the standing after that.
    pub fn count(&mut self, now: u64, cost: u64) -> Standing {
        match self {
            Self::Entry(shard, place) => {
                let shard = &mut **shard;
                shard.tally.admitted += 1;
                let entry = &mut shard.entries[*place];
                entry.identity.mark_unsaved();
                shard.algorithm.count(&mut entry.used, now, cost);
                shard.algorithm.standing(&entry.used, now)
            }
            Self::Newcomer(shard, identity, hash, entries_max) => {
                shard.tally.admitted += 1;
                let algorithm = shard.algorithm;
                let mut used = nothing(&algorithm, now);
                algorithm.count(&mut used, now, cost);
                shard.enter(*identity, *hash, used, *entries_max);
                algorithm.standing(&used, now)
            }
            Self::Overflow(overflow) => {
                let overflow = &mut **overflow;
                overflow.tally.admitted += 1;
                overflow.algorithm.count(&mut overflow.used, now, cost);
                overflow.algorithm.standing(&overflow.used, now)
            }
        }
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

    fn admit<A: Algorithm>(table: &Table<A>, n: u32, now: u64) -> bool {
        let mut hold = table.hold(identity(n), now);
        let admitted = hold.wait(now, 1) == 0;
        if admitted {
            hold.count(now, 1);
        }
        admitted
    }

    #[test]
    fn newcomers_to_a_full_table_are_counted_together() {
        let limit = SlidingWindow::new(3, 16 * SECOND);
        let table = Table::new(limit, label("test", "test"), 10);
        assert!((0..10).all(|n| admit(&table, n, SECOND)));
        let admitted = (10..1_000).filter(|n| admit(&table, *n, SECOND)).count();
        assert_eq!((admitted, table.entries(), table.overflowed()), (3, 10, 990));
        // Those with an entry keep their own count.
        assert!((0..10).all(|n| admit(&table, n, SECOND) && admit(&table, n, SECOND)));
        assert!((0..10).all(|n| !admit(&table, n, SECOND)));
        assert_eq!(table.overflowed(), 990);
    }

    #[test]
    fn an_empty_entry_makes_room_and_a_live_one_does_not() {
        let limit = SlidingWindow::new(3, 16 * SECOND);
        let table = Table::new(limit, label("test", "test"), 10);
        (0..10).for_each(|n| assert!(admit(&table, n, u64::from(n) * SECOND)));
        assert!(admit(&table, 0, 9 * SECOND), "the oldest is used again");
        (100..103).for_each(|n| assert!(admit(&table, n, 17 * SECOND)));
        assert_eq!(table.overflowed(), 3, "1 is empty at 18 s at the earliest");
        assert!(admit(&table, 200, 18 * SECOND));
        assert_eq!((table.entries(), table.overflowed()), (10, 3), "200 has the place of 1");
        let admitted = (0..5).filter(|_| admit(&table, 0, 19 * SECOND)).count();
        assert_eq!(admitted, 2, "0 was never forgotten: its use at 9 s still counts");
    }

    #[test]
    fn of_buckets_the_one_that_is_full_again_goes_first() {
        let limit = TokenBucket::new(1, SECOND, 10);
        let table = Table::new(limit, label("test", "test"), 3);
        (0..5).for_each(|_| assert!(admit(&table, 0, SECOND)));
        (0..2).for_each(|_| assert!(admit(&table, 1, SECOND)));
        assert!(admit(&table, 2, SECOND));
        assert!(admit(&table, 3, 2 * SECOND), "2 is full again");
        assert!(admit(&table, 4, 3 * SECOND), "1 is full again, and 3 is, too");
        assert!(admit(&table, 5, 3 * SECOND));
        assert_eq!(table.overflowed(), 0);
        assert!(admit(&table, 6, 3 * SECOND));
        assert_eq!(table.overflowed(), 1);
    }

    #[test]
    fn a_refused_newcomer_takes_no_entry() {
        let limit = SlidingWindow::new(3, 16 * SECOND);
        let table = Table::new(limit, label("test", "test"), 10);
        drop(table.hold(identity(1), SECOND));
        assert_eq!(table.entries(), 0);
    }

    #[test]
    fn a_table_shrinks_while_newcomers_come() {
        let limit = SlidingWindow::new(3, 16 * SECOND);
        let table = Table::new(limit, label("test", "test"), 1_000);
        (0..1_000).for_each(|n| assert!(admit(&table, n, SECOND)));
        (1_000..2_000).for_each(|n| assert!(admit(&table, n, 100 * SECOND)));
        assert_eq!(table.overflowed(), 0);
        assert!(table.entries() <= 1_000);
        (2_000..2_500).for_each(|n| assert!(admit(&table, n, 200 * SECOND)));
        assert!(table.entries() < 600, "{}", table.entries());
    }

    #[test]
    fn a_flood_costs_each_request_a_constant_amount_of_work() {
        // Every newcomer finds the table full of entries that were used again just before they were due.
        let limit = TokenBucket::new(1, SECOND, 100);
        let table = Table::new(limit, label("test", "test"), 10_000);
        let begun = std::time::Instant::now();
        (0..10_000).for_each(|n| assert!(admit(&table, n, SECOND)));
        for round in 0..5 {
            (0..10_000).for_each(|n| assert!(admit(&table, n, SECOND + round * SECOND / 2)));
            (0..10_000).for_each(|n| _ = admit(&table, 20_000 + n, SECOND + round * SECOND / 2));
        }
        // 110,000 requests, each scanning 10,000 entries, would take minutes.
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!(table.entries(), 10_000);
    }

    #[test]
    fn large_tables_hold_what_they_promise() {
        let limit = TokenBucket::new(1, SECOND, 1);
        let table = Table::new(limit, label("test", "test"), SHARDS * 1_024);
        let entered = (0..SHARDS as u32 * 2_048).filter(|n| admit(&table, *n, SECOND)).count();
        assert_eq!(table.entries(), SHARDS * 1_024, "never more than the capacity");
        assert_eq!(entered, SHARDS * 1_024 + 1, "and one in the overflow entry");
    }

    /// Keeps the warnings of this test program; nothing else in it listens to messages.
    struct Heard;

    static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());

    impl log::Log for Heard {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.level() == log::Level::Warn
        }

        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                HEARD.lock().push(record.args().to_string());
            }
        }

        fn flush(&self) {}
    }

    #[test]
    fn newcomers_to_a_full_table_are_counted_and_warned_of_once_a_minute() {
        log::set_logger(&Heard).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
        let table = Table::new(SlidingWindow::new(9, 3_600 * SECOND), label("heard", "route /a"), 100);
        assert!((0..100).all(|n| admit(&table, n, SECOND)));
        let (before, heard) = (overflowed_since_start(), || {
            HEARD.lock().iter().filter(|said| said.starts_with("limit `heard`")).cloned().collect::<Vec<_>>()
        });
        assert!(heard().is_empty(), "a table that is just full is nothing to warn of");
        let newcomers = (100..120).filter(|n| admit(&table, *n, SECOND)).count();
        assert_eq!((newcomers, table.overflowed()), (9, 20), "counted together");
        assert!(overflowed_since_start() >= before + 20, "the metric, of all limits together");
        admit(&table, 200, 60 * SECOND);
        let said = "limit `heard` of route /a: all 100 entries are in use; newcomers are counted together";
        assert_eq!(heard(), [format!("{said} (1 requests so far)")]);
        admit(&table, 201, 61 * SECOND);
        assert_eq!(heard()[1..], [format!("{said} (22 requests so far)")]);
    }

    #[test]
    fn entries_are_found_again_whatever_goes() {
        let limit = TokenBucket::new(1, SECOND, 100);
        let table = Table::new(limit, label("test", "test"), 500);
        let mut used = std::collections::HashMap::new();
        let mut now = SECOND;
        for n in 0..20_000_u32 {
            now += SECOND / 300;
            let who = n.wrapping_mul(2_654_435_769) % 900;
            if admit(&table, who, now) {
                used.insert(who, now);
            }
        }
        assert!(table.entries() <= 500);
        assert_eq!(table.tally(), Tally { admitted: 20_000, refused: 0 });
        for shard in &table.shards {
            let shard = shard.lock();
            assert_eq!(shard.index.len(), shard.entries.len());
            for (place, entry) in shard.entries.iter().enumerate() {
                assert_eq!(shard.place(entry.identity, shard.hashing.hash_one(entry.identity)), Some(place));
            }
        }
    }

    #[test]
    fn what_changed_is_told_once_and_added_elsewhere() {
        let limit = SlidingWindow::new(10, 16 * SECOND);
        let (table, other) = (Table::new(limit, label("a", "a"), 10), Table::new(limit, label("b", "b"), 10));
        (0..3).for_each(|n| (0..=n).for_each(|_| assert!(admit(&table, n, SECOND))));
        let told = |everything| {
            let mut told = 0;
            table.unsaved(2 * SECOND, everything, |one| {
                other.add(one.identity, &one.uses, 2 * SECOND);
                told += 1;
            });
            told
        };
        assert_eq!((told(false), told(false)), (3, 0));
        let left = |n| other.look(identity(n), 2 * SECOND, 1).0.remaining;
        assert_eq!((left(0), left(1), left(2), left(3)), (9, 8, 7, 10));
        assert!(admit(&table, 1, 2 * SECOND));
        assert_eq!((told(false), told(true)), (1, 3));
        assert_eq!(left(1), 10 - 2 - 3 - 3, "what is added counts beside what is there");
        assert!(table.reset(identity(2)) && !table.reset(identity(9)));
        assert_eq!(table.look(identity(2), 2 * SECOND, 1), (Standing { remaining: 10, more_in: 0 }, false));
    }

    #[test]
    fn other_numbers_hold_for_everyone_at_once_and_forget_nothing() {
        let table = Table::new(TokenBucket::new(1, SECOND, 10), label("test", "test"), 2);
        (0..7).for_each(|_| assert!(admit(&table, 1, SECOND)));
        (0..7).for_each(|_| assert!(admit(&table, 2, SECOND)));
        (0..7).for_each(|_| assert!(admit(&table, 3, SECOND)));
        table.change(TokenBucket::new(1, 3_600 * SECOND, 8), SECOND);
        for n in 1..4 {
            assert!(admit(&table, n, SECOND) && !admit(&table, n, SECOND), "{n}");
        }
    }
}
