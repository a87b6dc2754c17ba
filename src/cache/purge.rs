//! Purges: what can be purged, and which purges came after an answer was asked for.
//! An answer that was asked for before a purge of it is never stored after it. What is remembered is bounded: where two
//! labels share a place, or so many URLs or prefixes were purged that the oldest are forgotten, a fill is lost, never a purge.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Remembered purges of routes, tags and consumers.
const LABELS: usize = 4096;
/// Remembered purges of prefixes.
const PREFIXES_MAX: usize = 256;
/// Sets of URLs that [`UrlPurges`] keeps apart, and how many URLs each remembers. Every request with an unsafe method purges one: with
/// 64 of these, of 4,096 such requests while a fill is under way it is lost to one in 250 of them, of 1,000 to none in 100,000.
const URL_SETS: usize = 64;
const URLS_OF_A_SET: usize = 4;

/// What is purged.
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
    /// What is stored of all paths of a host that begin so, whatever their query.
    Prefix {
        /// As in the key.
        host: &'a str,
        /// The beginning of the normalised path.
        path: &'a str,
    },
    /// Keys of which an answer carries this tag.
    Tag(&'a str),
    /// What was stored for one consumer alone.
    Consumer(&'a str),
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It is removed.
    Hard,
    /// It is stale from now on: it is confirmed before it is used, or used where stale answers may be.
    Soft,
}

/// What an answer that is under way can be purged by, beside its URL.
pub(super) struct Marks<'a> {
    pub endpoint: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub consumer: Option<&'a str>,
}

/// When what was purged, counted in purges.
pub(super) struct Purges {
    hasher: RandomState,
    count: AtomicU64,
    all: AtomicU64,
    labels: Box<[AtomicU64]>,
    prefixes: Mutex<Prefixes>,
}

#[derive(Default)]
struct Prefixes {
    /// Those before are forgotten: they count as purges of everything.
    forgotten: u64,
    recent: VecDeque<(u64, Box<str>, Box<str>)>,
}

impl Default for Purges {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            count: AtomicU64::new(0),
            all: AtomicU64::new(0),
            labels: std::iter::repeat_with(AtomicU64::default).take(LABELS).collect(),
            prefixes: Mutex::default(),
        }
    }
}

impl Purges {
    /// How many there were so far.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// The number of the next one.
    pub(super) fn next(&self) -> u64 {
        self.count.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(super) fn tag(&self, tag: &str) -> u64 {
        self.hasher.hash_one(("tag", tag))
    }

    pub(super) fn consumer(&self, consumer: &str) -> u64 {
        self.hasher.hash_one(("consumer", consumer))
    }

    pub(super) fn route(&self, endpoint: &str) -> u64 {
        self.hasher.hash_one(("route", endpoint))
    }

    pub(super) fn of_all(&self) {
        self.all.fetch_max(self.next(), Ordering::SeqCst);
    }

    pub(super) fn of_label(&self, label: u64) {
        self.label(label).fetch_max(self.next(), Ordering::SeqCst);
    }

    pub(super) fn of_prefix(&self, host: &str, path: &str) {
        let mut prefixes = self.prefixes.lock();
        if prefixes.recent.len() == PREFIXES_MAX
            && let Some((oldest, ..)) = prefixes.recent.pop_front()
        {
            prefixes.forgotten = oldest;
        }
        prefixes.recent.push_back((self.next(), host.into(), path.into()));
    }

    /// The last purge of what has these marks and tags.
    pub(super) fn last(&self, marks: &Marks<'_>, tags: &super::tags::Tags) -> u64 {
        let consumer = marks.consumer.map(|consumer| self.consumer(consumer));
        let labels = std::iter::once(self.route(marks.endpoint)).chain(consumer);
        let labels = labels.chain(tags.iter().map(|tag| self.tag(tag)));
        let label = labels.map(|label| self.label(label).load(Ordering::SeqCst)).max().unwrap_or_default();
        let prefix = {
            let prefixes = self.prefixes.lock();
            let mut recent = prefixes.recent.iter().rev();
            let found = recent.find(|(_, host, path)| marks.host == &**host && marks.path.starts_with(&**path));
            found.map_or(0, |(number, ..)| *number).max(prefixes.forgotten)
        };
        self.all.load(Ordering::SeqCst).max(label).max(prefix)
    }

    fn label(&self, label: u64) -> &AtomicU64 {
        &self.labels[label as usize % LABELS]
    }
}

/// Which URLs were purged last, by their hashes, counted in purges. Of those that are forgotten it is known when the last one was.
pub(super) struct UrlPurges {
    sets: [UrlSet; URL_SETS],
}

impl Default for UrlPurges {
    fn default() -> Self {
        Self { sets: std::array::from_fn(|_| UrlSet::default()) }
    }
}

#[derive(Default)]
struct UrlSet {
    /// URL and number of its purge.
    recent: [(u64, u64); URLS_OF_A_SET],
    forgotten: u64,
}

impl UrlPurges {
    /// `number` is that of the purge, higher than all before.
    pub(super) fn remember(&mut self, url: u64, number: u64) {
        let set = &mut self.sets[Self::set(url)];
        let [first, others @ ..] = &mut set.recent;
        let mut place = first;
        for other in others {
            if place.0 != url && (other.0 == url || other.1 < place.1) {
                place = other;
            }
        }
        if place.0 != url {
            set.forgotten = place.1;
        }
        *place = (url, number);
    }

    /// The last purge of this URL, or of one that may have been it.
    pub(super) fn last(&self, url: u64) -> u64 {
        let set = &self.sets[Self::set(url)];
        set.recent.iter().find(|(other, _)| *other == url).map_or(set.forgotten, |(_, number)| *number)
    }

    /// By the upper half of the hash: the lower one chose the table.
    fn set(url: u64) -> usize {
        (url >> 32) as usize % URL_SETS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tags::Tags;

    #[test]
    fn other_urls_of_a_set_cost_no_fill() {
        let mut purges = UrlPurges::default();
        for url in 1..=5 {
            purges.remember(url, url);
        }
        assert_eq!([1, 2, 3, 4, 5, 6].map(|url| purges.last(url)), [1, 2, 3, 4, 5, 1], "the first is forgotten");
        purges.remember(2, 6);
        purges.remember(7, 7);
        assert_eq!([2, 3, 4, 5, 7].map(|url| purges.last(url)), [6, 3, 4, 5, 7]);
        assert_eq!(purges.last(1 << 32), 0, "another set");
    }

    #[test]
    fn forgotten_prefixes_count_for_everything() {
        let purges = Purges::default();
        let marks = |path| Marks { endpoint: "/*", host: "a", path, consumer: None };
        let last = |path| purges.last(&marks(path), &Tags::default());
        purges.of_prefix("a", "/x/");
        assert_eq!((last("/x/1"), last("/y"), last("/x")), (1, 0, 0));
        for _ in 0..PREFIXES_MAX {
            purges.of_prefix("a", "/z/");
        }
        assert_eq!((last("/y"), last("/z/"), purges.count()), (1, 257, 257));
    }
}
