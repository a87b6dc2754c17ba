//! The store: families of answers by key, in bounded memory.
//! `quick_cache` holds the bytes and chooses what goes; beside it stands an index by URL, tag and consumer, by which answers
//! are purged (`memory/purging.rs`). Whoever stores or removes holds the stripe of the URL, readers hold nothing. What is
//! not here may be on disk (`memory/tier.rs`): what is there is never newer than what is here.
//! Invariants: what is in the map is in the index; a fill that began before a purge of it is not stored after it.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use http::HeaderMap;
use parking_lot::Mutex;
use pingora_cache::CacheKey;
use pingora_cache::key::{CacheHashKey, HashBinary};
use quick_cache::sync::Cache as Map;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};
use smallvec::SmallVec;

mod purging;
mod tier;

use super::crowd::Memory;
use super::disk::Disk;
use super::entry::{Body, Entry, Family};
use super::filling::Fills;
use super::key::KeyParts;
use super::purge::{Marks, Purges, UrlPurges};
use super::stats::{Counts, Stats};
use super::tags::Tags;

/// Shards of the map. One answer may weigh at most 15/16 of a shard, so few of them.
const SHARDS: u64 = 8;
/// Locks that writers of different URLs do not share.
const STRIPES: usize = 64;
/// Sizes the ghost list, which remembers hashes of what was evicted.
const ANSWER_BYTES_USUAL: u64 = 4096;

/// Stored answers in bounded memory.
pub struct Cache {
    map: Map<HashBinary, Arc<Family>, ByWeight, DefaultHashBuilder, Reported>,
    stripes: Vec<Mutex<Stripe>>,
    hasher: RandomState,
    purges: Purges,
    bytes_max: AtomicU64,
    pub(super) counts: Arc<Counts>,
    /// Where there is a second tier.
    disk: OnceLock<Arc<Disk>>,
    /// Answers that are being received.
    pub(super) fills: Fills,
    /// Keys whose answers were not stored the last time: their requests do not wait for each other.
    pub uncollapsible: Memory,
    /// Keys whose answers said no length and grew too large: they are not received as something to be stored.
    pub oversized: Memory,
}

/// Where an answer goes, and since when it is under way.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) primary: HashBinary,
    pub(super) url: u64,
    pub(super) endpoint: Arc<str>,
    /// The frame of its key.
    pub(super) key: Arc<[u8]>,
    pub(super) tags: Tags,
    pub(super) stamp: u64,
}

#[derive(Default)]
struct Stripe {
    urls: HashMap<u64, SmallVec<[HashBinary; 1]>>,
    /// Hashes of tags and consumers, each with the keys that it finds.
    labels: BTreeSet<(u64, HashBinary)>,
    purged: UrlPurges,
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
        Self {
            map: Map::with_options(options, ByWeight, DefaultHashBuilder::default(), Reported(Arc::clone(&counts))),
            stripes: std::iter::repeat_with(Mutex::default).take(STRIPES).collect(),
            hasher: RandomState::new(),
            purges: Purges::default(),
            bytes_max: AtomicU64::new(bytes_max),
            counts,
            disk: OnceLock::new(),
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
            let mut stripe = stripe.lock();
            stripe.urls.retain(|_, families| {
                families.retain(|primary| self.map.contains_key(primary));
                !families.is_empty()
            });
            stripe.labels.retain(|(_, primary)| self.map.contains_key(primary));
        }
    }

    /// The families of one URL.
    pub(super) fn families(&self, host: &str, path_and_query: &str) -> Vec<Arc<Family>> {
        let url = self.url_of(host, path_and_query);
        let families = self.stripe(url).lock().urls.get(&url).cloned().unwrap_or_default();
        families.iter().filter_map(|primary| self.map.peek(primary)).collect()
    }

    /// Shows every family to `see`, without holding up more than a part of those who store.
    pub(super) fn each(&self, mut see: impl FnMut(&Arc<Family>)) {
        for stripe in &self.stripes {
            let all: Vec<HashBinary> = stripe.lock().urls.values().flatten().copied().collect();
            all.iter().filter_map(|primary| self.map.peek(primary)).for_each(|family| see(&family));
        }
    }

    /// A snapshot of sizes and counts.
    pub fn stats(&self) -> Stats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            entries: count(&self.counts.entries),
            keys: self.map.len() as u64,
            bytes: self.map.weight(),
            bytes_max: count(&self.bytes_max),
            filling_bytes: count(&self.counts.filling),
            filling_bytes_max: self.filling_max(),
            stored: count(&self.counts.stored),
            evictions: count(&self.counts.gone).saturating_sub(count(&self.counts.replaced)),
            purged: count(&self.counts.purged),
            dropped_too_large: count(&self.counts.dropped_too_large),
            dropped_no_room: count(&self.counts.dropped_no_room),
            dropped_cleared: count(&self.counts.dropped_cleared),
            dropped_truncated: count(&self.counts.dropped_truncated),
            at_hand: count(&self.counts.at_hand),
            disk: self.disk.get().map(|disk| disk.stats()),
        }
    }

    /// What a request takes along before anything is asked of an instance: a purge after this wins over its fill.
    pub fn stamp(&self) -> u64 {
        self.purges.count()
    }

    /// The largest answer that can be stored at all, in bytes.
    fn weight_max(&self) -> u64 {
        self.bytes_max.load(Ordering::Relaxed) / SHARDS / 16 * 15
    }

    /// The largest body that can be stored at all, in bytes: what is left of that for what it costs beside.
    pub fn body_bytes_max(&self) -> u64 {
        self.bytes_max.load(Ordering::Relaxed) / 10
    }

    pub(super) fn find(&self, primary: &HashBinary) -> Option<Arc<Family>> {
        self.map.get(primary)
    }

    /// The fresh answer in memory for a request with these fields that wants all of it.
    pub fn at_hand(&self, key: &CacheKey, request: &HeaderMap, now: SystemTime) -> Option<Arc<Entry>> {
        let family = self.find(&key.primary_bin())?;
        let entry = family.chosen_by(request)?;
        (entry.fresh_until() >= now).then(|| Arc::clone(entry))
    }

    /// Without counting as a use.
    pub(super) fn peek(&self, primary: &HashBinary) -> Option<Arc<Family>> {
        self.map.peek(primary)
    }

    pub(super) fn url(&self, host: &str, path: &str, query: Option<&str>) -> u64 {
        self.hasher.hash_one((host, path, query))
    }

    fn url_of(&self, host: &str, path_and_query: &str) -> u64 {
        match path_and_query.split_once('?') {
            Some((path, query)) => self.url(host, path, Some(query)),
            None => self.url(host, path_and_query, None),
        }
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

    /// Stores an answer; false where a purge since its stamp or its size forbids it.
    pub(super) fn store(&self, place: &Place, entry: Entry) -> bool {
        if entry.weight > self.weight_max() {
            self.counts.dropped_too_large.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let entry = Arc::new(entry);
        let stored = self.change(place, |before| Some((self.with(before, place, Arc::clone(&entry)), Some(entry))));
        self.count_stored(stored.is_some())
    }

    /// Stores a part of an answer, beside what is there of the same.
    pub(super) fn store_part(&self, place: &Place, entry: &Entry, part: Body) -> bool {
        let stored = self.change(place, |before| {
            let same = before.and_then(|family| family.find_exactly(entry.variance));
            let entry = Arc::new(entry.with_part(part, same.map(|same| &**same), self.weight_max())?);
            Some((self.with(before, place, Arc::clone(&entry)), Some(entry)))
        });
        self.count_stored(stored.is_some())
    }

    /// Replaces one answer by the same one, confirmed; false where it is no longer there.
    pub(super) fn confirm(&self, place: &Place, confirmed: &Arc<Entry>, entry: Entry) -> bool {
        if entry.weight > self.weight_max() {
            return false;
        }
        let stored = self.change(place, |before| {
            let family = before.filter(|family| family.variants.iter().any(|other| Arc::ptr_eq(other, confirmed)))?;
            let entry = Arc::new(entry);
            let family = family.with(Arc::clone(&entry), self.weight_max());
            Some((family, (!tier::is_known_as(&entry, confirmed)).then_some(entry)))
        });
        self.count_stored(stored.is_some())
    }

    /// The family with one answer more.
    fn with(&self, family: Option<&Family>, place: &Place, entry: Arc<Entry>) -> Family {
        match family {
            Some(family) => family.with(entry, self.weight_max()),
            None => Family::of(place.url, Arc::clone(&place.endpoint), Arc::clone(&place.key), entry),
        }
    }

    fn count_stored(&self, stored: bool) -> bool {
        self.counts.stored.fetch_add(u64::from(stored), Ordering::Relaxed);
        stored
    }

    /// Whether a purge since the stamp forbids that this is stored, or given to others.
    pub(super) fn is_overtaken(&self, place: &Place) -> bool {
        self.is_purged(&self.stripe(place.url).lock(), place)
    }

    /// Puts another family in the place of one, and has what comes along with it written to disk; none where a purge since the
    /// stamp, or its size, forbids it.
    fn change(
        &self,
        place: &Place,
        make: impl FnOnce(Option<&Family>) -> Option<(Family, Option<Arc<Entry>>)>,
    ) -> Option<Arc<Family>> {
        let mut gone = Vec::new();
        let made = {
            let mut stripe = self.stripe(place.url).lock();
            if self.is_purged(&stripe, place) {
                self.counts.dropped_cleared.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            let before = self.map.peek(&place.primary);
            let (family, written) = make(before.as_deref())?;
            if family.weight > self.weight_max() {
                self.counts.dropped_too_large.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            if let Some(entry) = written {
                self.write_through(place, &entry);
            }
            self.counts.entries.fetch_add(family.variants.len() as u64, Ordering::Relaxed);
            let family = Arc::new(family);
            self.map.insert_with_lifecycle(place.primary, Arc::clone(&family), &mut gone);
            if let Some(before) = before {
                self.forget(&mut stripe, &place.primary, &before);
                // Reported like an eviction, unless another URL's answer pushed it out meanwhile.
                if let Some(at) = gone.iter().position(|(_, family)| Arc::ptr_eq(family, &before)) {
                    gone.swap_remove(at);
                    self.counts.replaced.fetch_add(before.variants.len() as u64, Ordering::Relaxed);
                }
            }
            let families = stripe.urls.entry(place.url).or_default();
            if !families.contains(&place.primary) {
                families.push(place.primary);
            }
            stripe.labels.extend(self.labels(&family).map(|label| (label, place.primary)));
            family
        };
        for (primary, family) in gone {
            let mut stripe = self.stripe(family.url).lock();
            // Someone may have stored it again since; nobody can while the stripe is held.
            let now = self.map.peek(&primary);
            self.forget(&mut stripe, &primary, &family);
            if let Some(now) = now {
                stripe.urls.entry(now.url).or_default().push(primary);
                stripe.labels.extend(self.labels(&now).map(|label| (label, primary)));
            }
        }
        Some(made)
    }

    /// Takes a family out of the index.
    fn forget(&self, stripe: &mut Stripe, primary: &HashBinary, family: &Family) {
        for label in self.labels(family) {
            stripe.labels.remove(&(label, *primary));
        }
        if let Some(families) = stripe.urls.get_mut(&family.url) {
            families.retain(|other| *other != *primary);
            if families.is_empty() {
                stripe.urls.remove(&family.url);
            }
        }
    }

    /// What the index finds it by beside its URL; the same one may come more than once.
    fn labels(&self, family: &Family) -> impl Iterator<Item = u64> {
        let tags = family.variants.iter().flat_map(|entry| entry.tags.iter()).map(|tag| self.purges.tag(tag));
        tags.chain(consumer_of(family).map(|consumer| self.purges.consumer(consumer)))
    }

    fn is_purged(&self, stripe: &Stripe, place: &Place) -> bool {
        if place.stamp == self.purges.count() {
            return false;
        }
        let Some(key) = KeyParts::read(&place.key) else { return true };
        let marks = Marks { endpoint: &place.endpoint, host: key.host, path: key.path, consumer: key.consumer };
        place.stamp < stripe.purged.last(place.url).max(self.purges.last(&marks, &place.tags))
    }

    fn stripe(&self, url: u64) -> &Mutex<Stripe> {
        &self.stripes[url as usize % STRIPES]
    }

    /// URLs and labels in the index.
    #[cfg(test)]
    pub(super) fn indexed(&self) -> (usize, usize) {
        let stripes = self.stripes.iter().map(|stripe| stripe.lock());
        stripes.fold((0, 0), |(urls, labels), stripe| (urls + stripe.urls.len(), labels + stripe.labels.len()))
    }

    fn filling_max(&self) -> u64 {
        self.bytes_max.load(Ordering::Relaxed) / 4
    }
}

/// `quick_cache` rounds up to a multiple of its shards.
fn capacity(bytes_max: u64) -> u64 {
    bytes_max / SHARDS * SHARDS
}

fn consumer_of(family: &Family) -> Option<&str> {
    KeyParts::read(&family.key)?.consumer
}
