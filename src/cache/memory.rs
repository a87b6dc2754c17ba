//! The store: families of answers by key, in bounded memory.
//! `quick_cache` holds the bytes and chooses what goes; beside it stands an index by URL, so that a URL can be forgotten
//! for all consumers at once. Whoever stores or removes holds the stripe of the URL, readers hold nothing.
//! Invariants: what is in the map is in the index; a fill that began before a clear is not stored after it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use pingora_cache::key::HashBinary;
use quick_cache::sync::Cache as Map;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};
use smallvec::SmallVec;

use super::crowd::Memory;
use super::entry::{Entry, Family};
use super::filling::Fills;

/// Shards of the map. One answer may weigh at most 15/16 of a shard, so few of them.
const SHARDS: u64 = 8;
/// Locks that writers of different URLs do not share.
const STRIPES: usize = 64;
/// Remembered clears of a stripe; two URLs that share one only lose a fill to the other's clear.
const CLEARS: usize = 64;
/// Remembered clears of routes.
const ROUTE_CLEARS: usize = 256;
/// Sizes the ghost list, which remembers hashes of what was evicted.
const ANSWER_BYTES_USUAL: u64 = 4096;

/// Stored answers in bounded memory.
pub struct Cache {
    map: Map<HashBinary, Arc<Family>, ByWeight, DefaultHashBuilder, Reported>,
    stripes: Vec<Mutex<Stripe>>,
    hasher: RandomState,
    /// Counts clears; a fill that began at a lower count than a clear of its URL is not stored.
    clears: AtomicU64,
    all_cleared: AtomicU64,
    routes_cleared: Vec<AtomicU64>,
    bytes_max: AtomicU64,
    pub(super) counts: Arc<Counts>,
    /// Answers that are being received.
    pub(super) fills: Fills,
    /// Keys whose answers were not stored the last time: their requests do not wait for each other.
    pub uncollapsible: Memory,
    /// Keys whose answers said no length and grew too large: they are not received as something to be stored.
    pub oversized: Memory,
}

/// What is counted as it happens.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) entries: AtomicU64,
    pub(super) stored: AtomicU64,
    gone: AtomicU64,
    replaced: AtomicU64,
    pub(super) filling: AtomicU64,
    pub(super) dropped_too_large: AtomicU64,
    pub(super) dropped_no_room: AtomicU64,
    pub(super) dropped_cleared: AtomicU64,
    pub(super) dropped_truncated: AtomicU64,
}

/// The state of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Stored answers, each variant for itself.
    pub entries: u64,
    /// Bytes held: bodies, headers, keys and overhead.
    pub bytes: u64,
    /// `bytes` is never more.
    pub bytes_max: u64,
    /// Bytes of answers that are being received, on top of `bytes`.
    pub filling_bytes: u64,
    /// Nothing more is received to be stored from here on; what passes by without being stored counts, too, and may be more.
    pub filling_bytes_max: u64,
    /// Answers stored since start.
    pub stored: u64,
    /// Answers that went to make room, since start.
    pub evictions: u64,
    /// Answers not stored because they grew over the route's `body_max`, since start.
    pub dropped_too_large: u64,
    /// Answers not stored because too many were being received at once, since start.
    pub dropped_no_room: u64,
    /// Answers not stored because their URL or route was cleared meanwhile, since start.
    pub dropped_cleared: u64,
    /// Answers not stored because they did not arrive whole, since start.
    pub dropped_truncated: u64,
}

/// What to clear.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// Everything.
    All,
    /// What one route stored; by pattern or name.
    Route(&'a str),
    /// What is stored of one URL, for all consumers, variants and schemes.
    Url {
        /// As in the key: lower case, with the port where one was sent.
        host: &'a str,
        /// The normalised path, with `?` and the query where there is one.
        path_and_query: &'a str,
    },
}

/// Where an answer goes, and since when it is under way.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) primary: HashBinary,
    pub(super) url: u64,
    pub(super) endpoint: Arc<str>,
    pub(super) stamp: u64,
}

#[derive(Default)]
struct Stripe {
    urls: HashMap<u64, SmallVec<[HashBinary; 1]>>,
    cleared: Vec<u64>,
}

#[derive(Clone)]
struct ByWeight;

impl Weighter<HashBinary, Arc<Family>> for ByWeight {
    fn weight(&self, _: &HashBinary, family: &Arc<Family>) -> u64 {
        family.weight
    }
}

/// Hands evicted and replaced families to whoever caused it.
#[derive(Clone)]
struct Reported(Arc<Counts>);

impl Lifecycle<HashBinary, Arc<Family>> for Reported {
    type RequestState = Vec<(HashBinary, Arc<Family>)>;

    fn on_evict(&self, gone: &mut Self::RequestState, primary: HashBinary, family: Arc<Family>) {
        let variants = family.variants.len() as u64;
        self.0.entries.fetch_sub(variants, Ordering::Relaxed);
        self.0.gone.fetch_add(variants, Ordering::Relaxed);
        gone.push((primary, family));
    }
}

impl Cache {
    /// An empty store of at most so many bytes.
    pub fn new(bytes_max: u64) -> Self {
        let mut options = OptionsBuilder::new();
        options.shards(SHARDS as usize);
        options.weight_capacity(capacity(bytes_max));
        // At least 32 a shard, or `quick_cache` makes fewer shards than `weight_max` counts with.
        options.estimated_items_capacity((bytes_max / ANSWER_BYTES_USUAL).max(32 * SHARDS) as usize);
        // Fails only where one of the two capacities is missing.
        let options = options.build().unwrap_or_else(|_| unreachable!("capacities are set above"));
        let counts = Arc::new(Counts::default());
        let stripe = || Mutex::new(Stripe { urls: HashMap::new(), cleared: vec![0; CLEARS] });
        Self {
            map: Map::with_options(options, ByWeight, DefaultHashBuilder::default(), Reported(Arc::clone(&counts))),
            stripes: std::iter::repeat_with(stripe).take(STRIPES).collect(),
            hasher: RandomState::new(),
            clears: AtomicU64::new(0),
            all_cleared: AtomicU64::new(0),
            routes_cleared: std::iter::repeat_with(|| AtomicU64::new(0)).take(ROUTE_CLEARS).collect(),
            bytes_max: AtomicU64::new(bytes_max),
            counts,
            fills: Fills::default(),
            uncollapsible: Memory::default(),
            oversized: Memory::default(),
        }
    }

    /// Changes the bound; what no longer fits goes at once.
    pub fn resize(&self, bytes_max: u64) {
        if self.bytes_max.swap(bytes_max, Ordering::Relaxed) == bytes_max {
            return;
        }
        // The map does not say which families this evicts, so the index is swept.
        self.map.set_capacity(capacity(bytes_max));
        for stripe in &self.stripes {
            stripe.lock().urls.retain(|_, families| {
                families.retain(|primary| self.map.contains_key(primary));
                !families.is_empty()
            });
        }
    }

    /// Removes stored answers, and those that are being received; returns how many stored ones went.
    pub fn clear(&self, scope: Scope<'_>) -> u64 {
        match scope {
            Scope::Url { host, path_and_query } => self.invalidate(host, path_and_query),
            Scope::All => {
                let count = self.next_clear();
                self.all_cleared.store(count, Ordering::SeqCst);
                self.remove_where(|_| true)
            }
            Scope::Route(endpoint) => {
                let count = self.next_clear();
                self.route_cleared(endpoint).store(count, Ordering::SeqCst);
                self.remove_where(|family| &*family.endpoint == endpoint)
            }
        }
    }

    /// Forgets one URL for all consumers, variants and schemes (RFC 9111 section 4.4); returns how many answers went.
    pub fn invalidate(&self, host: &str, path_and_query: &str) -> u64 {
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        let url = self.url(host, path, query);
        let mut stripe = self.stripe(url).lock();
        stripe.cleared[slot(url)] = self.next_clear();
        let families = stripe.urls.remove(&url).unwrap_or_default();
        families.iter().map(|primary| self.take(primary)).sum()
    }

    /// A snapshot of sizes and counts.
    pub fn stats(&self) -> Stats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            entries: count(&self.counts.entries),
            bytes: self.map.weight(),
            bytes_max: count(&self.bytes_max),
            filling_bytes: count(&self.counts.filling),
            filling_bytes_max: self.filling_max(),
            stored: count(&self.counts.stored),
            evictions: count(&self.counts.gone).saturating_sub(count(&self.counts.replaced)),
            dropped_too_large: count(&self.counts.dropped_too_large),
            dropped_no_room: count(&self.counts.dropped_no_room),
            dropped_cleared: count(&self.counts.dropped_cleared),
            dropped_truncated: count(&self.counts.dropped_truncated),
        }
    }

    /// What a request takes along before anything is asked of an instance: a clear after this wins over its fill.
    pub fn stamp(&self) -> u64 {
        self.clears.load(Ordering::SeqCst)
    }

    /// The largest answer that can be stored at all, in bytes.
    pub fn weight_max(&self) -> u64 {
        self.bytes_max.load(Ordering::Relaxed) / SHARDS / 16 * 15
    }

    pub(super) fn find(&self, primary: &HashBinary) -> Option<Arc<Family>> {
        self.map.get(primary)
    }

    pub(super) fn url(&self, host: &str, path: &str, query: Option<&str>) -> u64 {
        self.hasher.hash_one((host, path, query))
    }

    /// Counts bytes that are being received, whether there is room for them or not.
    pub(super) fn hold(&self, bytes: u64) {
        self.counts.filling.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Room for bytes that are being received; false where there is none.
    pub(super) fn reserve(&self, bytes: u64) -> bool {
        let max = self.filling_max();
        let grow = |filling: u64| filling.checked_add(bytes).filter(|filling| *filling <= max);
        self.counts.filling.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow).is_ok()
    }

    pub(super) fn release(&self, bytes: u64) {
        self.counts.filling.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Stores an answer; false where a clear since its stamp or its size forbids it.
    pub(super) fn store(&self, place: &Place, entry: Entry) -> bool {
        if entry.weight > self.weight_max() {
            self.counts.dropped_too_large.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let entry = Arc::new(entry);
        self.change(place, |before| {
            Some(match before {
                Some(family) => family.with(entry, self.weight_max()),
                None => Family::of(place.url, Arc::clone(&place.endpoint), entry),
            })
        })
    }

    /// Replaces one answer by the same one, confirmed; false where it is no longer there.
    pub(super) fn confirm(&self, place: &Place, confirmed: &Arc<Entry>, entry: Entry) -> bool {
        if entry.weight > self.weight_max() {
            return false;
        }
        self.change(place, |before| {
            let family = before.filter(|family| family.variants.iter().any(|other| Arc::ptr_eq(other, confirmed)))?;
            Some(family.with(Arc::new(entry), self.weight_max()))
        })
    }

    /// Whether a clear since the stamp forbids that this is stored, or given to others.
    pub(super) fn is_cleared(&self, place: &Place) -> bool {
        place.stamp < self.last_clear(&self.stripe(place.url).lock(), place)
    }

    fn change(&self, place: &Place, make: impl FnOnce(Option<&Family>) -> Option<Family>) -> bool {
        let mut gone = Vec::new();
        {
            let mut stripe = self.stripe(place.url).lock();
            if place.stamp < self.last_clear(&stripe, place) {
                self.counts.dropped_cleared.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            let before = self.map.peek(&place.primary);
            let Some(family) = make(before.as_deref()) else { return false };
            let families = stripe.urls.entry(place.url).or_default();
            if !families.contains(&place.primary) {
                families.push(place.primary);
            }
            self.counts.entries.fetch_add(family.variants.len() as u64, Ordering::Relaxed);
            self.map.insert_with_lifecycle(place.primary, Arc::new(family), &mut gone);
            if let Some(before) = before {
                // Reported like an eviction, unless another URL's answer pushed it out meanwhile.
                if let Some(at) = gone.iter().position(|(_, family)| Arc::ptr_eq(family, &before)) {
                    gone.swap_remove(at);
                    self.counts.replaced.fetch_add(before.variants.len() as u64, Ordering::Relaxed);
                }
            }
        }
        self.counts.stored.fetch_add(1, Ordering::Relaxed);
        for (primary, family) in gone {
            self.forget_evicted(&primary, &family);
        }
        true
    }

    fn forget_evicted(&self, primary: &HashBinary, family: &Family) {
        let mut stripe = self.stripe(family.url).lock();
        // Someone may have stored it again since; nobody can while the stripe is held.
        if !self.map.contains_key(primary)
            && let Some(families) = stripe.urls.get_mut(&family.url)
        {
            families.retain(|other| *other != *primary);
            if families.is_empty() {
                stripe.urls.remove(&family.url);
            }
        }
    }

    fn remove_where(&self, condition: impl Fn(&Family) -> bool) -> u64 {
        let mut removed = 0;
        for stripe in &self.stripes {
            stripe.lock().urls.retain(|_, families| {
                families.retain(|primary| {
                    let goes = self.map.peek(primary).is_none_or(|family| condition(&family));
                    if goes {
                        removed += self.take(primary);
                    }
                    !goes
                });
                !families.is_empty()
            });
        }
        removed
    }

    fn take(&self, primary: &HashBinary) -> u64 {
        let removed = self.map.remove(primary).map_or(0, |(_, family)| family.variants.len() as u64);
        self.counts.entries.fetch_sub(removed, Ordering::Relaxed);
        removed
    }

    fn last_clear(&self, stripe: &Stripe, place: &Place) -> u64 {
        stripe.cleared[slot(place.url)]
            .max(self.route_cleared(&place.endpoint).load(Ordering::SeqCst))
            .max(self.all_cleared.load(Ordering::SeqCst))
    }

    fn next_clear(&self) -> u64 {
        self.clears.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn route_cleared(&self, endpoint: &str) -> &AtomicU64 {
        &self.routes_cleared[self.hasher.hash_one(endpoint) as usize % ROUTE_CLEARS]
    }

    fn stripe(&self, url: u64) -> &Mutex<Stripe> {
        &self.stripes[url as usize % STRIPES]
    }

    fn filling_max(&self) -> u64 {
        self.bytes_max.load(Ordering::Relaxed) / 4
    }
}

/// `quick_cache` rounds up to a multiple of its shards.
fn capacity(bytes_max: u64) -> u64 {
    bytes_max / SHARDS * SHARDS
}

fn slot(url: u64) -> usize {
    (url as usize / STRIPES) % CLEARS
}
