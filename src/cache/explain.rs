//! What is stored, told to people: what a stored answer is found by, how fresh it is and why, and which are the largest and
//! the most used. Looking at all of them takes time, so it is for the threads of the admin listener.
//! Not here: how freshness is decided (`freshness.rs`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{EXPIRES, HeaderName, HeaderValue, SET_COOKIE};

use super::cache_control::{Directives, Seconds};
use super::entry::{Entry, Family};
use super::key::KeyParts;
use super::memory::Cache;

/// Instead of what opens a door.
pub(super) const HIDDEN: &str = "(hidden)";

/// Where an answer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// In memory alone.
    Memory,
    /// On disk alone, or still on its way there.
    Disk,
    /// In both.
    Both,
}

impl Stored {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Both => "memory and disk",
        }
    }
}

/// One stored answer.
#[derive(Clone, Debug)]
pub struct Told {
    /// As the client asked for it.
    pub url: String,
    /// The route's pattern or name.
    pub endpoint: Arc<str>,
    /// Whose it is; none where all share it.
    pub consumer: Option<String>,
    /// Where it is.
    pub stored: Stored,
    /// What chose it among the variants of its key, as `name: value`.
    pub variant: Vec<String>,
    /// Its status.
    pub status: u16,
    /// How long it is fresh still; an error says for how long it has been stale.
    pub fresh: Result<Duration, Duration>,
    /// Never used without asking the instance.
    pub always_confirmed: bool,
    /// A soft purge made it stale.
    pub purged: bool,
    /// Why it is fresh for so long, in a few words.
    pub why: String,
    /// How old it is.
    pub age: Duration,
    /// How long it may be used after that while another one is fetched, and instead of an error.
    pub stale_seconds: (u32, u32),
    /// Whether all of its body is here, and not only parts.
    pub whole: bool,
    /// Bytes that it takes, and those of its body that are here.
    pub bytes: (u64, u64),
    /// How often it was served from here.
    pub hits: u64,
    /// What it can be purged by.
    pub tags: Vec<String>,
    /// Its header.
    pub headers: Vec<(String, String)>,
}

impl Told {
    fn of(family: &Family, entry: &Entry, stored: Stored, now: SystemTime) -> Self {
        let key = KeyParts::read(&family.key);
        // Behind it stands what a trusted proxy said.
        let scheme = key.and_then(|key| key.scheme.lines().next()).unwrap_or_default();
        let query = key.and_then(|key| key.query).map_or(String::new(), |query| format!("?{query}"));
        let fresh_until = entry.fresh_until();
        let told = |name: &HeaderName, value: &HeaderValue| match name == SET_COOKIE {
            true => HIDDEN.to_owned(),
            false => readable(value.as_bytes()),
        };
        Self {
            url: key.map_or(String::new(), |key| format!("{scheme}://{}{}{query}", key.host, key.path)),
            endpoint: Arc::clone(&family.endpoint),
            consumer: key.and_then(|key| key.consumer).map(str::to_owned),
            stored,
            variant: entry.selected.iter().flat_map(|selected| selected.tell()).collect(),
            status: entry.head.status.as_u16(),
            fresh: fresh_until.duration_since(now).map_err(|stale| stale.duration()),
            always_confirmed: fresh_until == SystemTime::UNIX_EPOCH,
            purged: entry.is_purged(),
            why: if entry.is_purged() { "a soft purge made it stale".to_owned() } else { why(&entry.head.headers) },
            age: now.duration_since(entry.epoch).unwrap_or_default(),
            stale_seconds: entry.stale_seconds,
            whole: entry.body.is_whole(),
            bytes: (entry.weight, entry.body.held() as u64),
            hits: entry.hits.load(Ordering::Relaxed),
            tags: entry.tags.iter().map(str::to_owned).collect(),
            headers: entry.head.headers.iter().map(|(name, value)| (name.to_string(), told(name, value))).collect(),
        }
    }
}

/// Text as it is; of other bytes, how they are written.
pub(super) fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// Which word of the answer made it fresh for so long; the route's, where the answer says nothing.
fn why(headers: &HeaderMap) -> String {
    let directives = Directives::of(headers);
    let field = if directives.targeted { "CDN-Cache-Control" } else { "Cache-Control" };
    let said = |name, seconds| match seconds {
        Seconds::Said(seconds) => Some(format!("{field}: {name}={seconds}")),
        Seconds::Invalid => Some(format!("{field}: {name} that can't be read")),
        Seconds::Unsaid => None,
    };
    if directives.no_cache {
        return format!("{field}: no-cache");
    }
    let expires = headers.contains_key(EXPIRES) && !directives.targeted;
    said("s-maxage", directives.s_maxage)
        .or_else(|| said("max-age", directives.max_age))
        .or_else(|| expires.then(|| "Expires".to_owned()))
        .unwrap_or_else(|| "the route: the answer says nothing".to_owned())
}

impl Cache {
    /// What is stored of one URL: the answers of all consumers, each variant for itself, the last stored first; what is only
    /// on disk behind the others. Reads files: not for a thread that serves.
    pub fn tell(&self, host: &str, path_and_query: &str) -> Vec<Told> {
        let now = SystemTime::now();
        let families = self.families(host, path_and_query);
        let mut told = Vec::new();
        for family in &families {
            for entry in family.variants.iter().rev() {
                told.push(Told::of(family, entry, self.stored(&family.key, entry.variance), now));
            }
        }
        for (family, bytes, body_bytes) in self.only_on_disk(host, path_and_query) {
            let of = |entry| Told { bytes: (bytes, body_bytes), ..Told::of(&family, entry, Stored::Disk, now) };
            told.extend(family.variants.iter().map(|entry| of(entry)));
        }
        told
    }

    /// The largest stored answers, and those that were found most often, so many of each.
    pub fn top(&self, count: usize) -> (Vec<Told>, Vec<Told>) {
        let (mut largest, mut hottest) = (Top::new(count), Top::new(count));
        self.each(|family| {
            for entry in &family.variants {
                largest.see(entry.weight, family, entry);
                hottest.see(entry.hits.load(Ordering::Relaxed), family, entry);
            }
        });
        (largest.told(self), hottest.told(self))
    }
}

/// The most of something.
struct Top {
    count: usize,
    heap: BinaryHeap<Reverse<(u64, usize)>>,
    kept: Vec<(Arc<Family>, Arc<Entry>)>,
}

impl Top {
    fn new(count: usize) -> Self {
        Self { count, heap: BinaryHeap::new(), kept: Vec::new() }
    }

    fn see(&mut self, value: u64, family: &Arc<Family>, entry: &Arc<Entry>) {
        let one = || (Arc::clone(family), Arc::clone(entry));
        if self.kept.len() < self.count {
            self.heap.push(Reverse((value, self.kept.len())));
            self.kept.push(one());
        } else if let Some(Reverse((least, place))) = self.heap.peek().copied()
            && value > least
        {
            self.heap.pop();
            self.heap.push(Reverse((value, place)));
            self.kept[place] = one();
        }
    }

    fn told(self, cache: &Cache) -> Vec<Told> {
        let now = SystemTime::now();
        let sorted = self.heap.into_sorted_vec();
        let entries = sorted.iter().map(|Reverse((_, place))| &self.kept[*place]);
        entries.map(|(family, entry)| Told::of(family, entry, cache.stored(&family.key, entry.variance), now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_an_answer_is_fresh() {
        let check = |fields: &[(&'static str, &'static str)], expected: &str| {
            let fields = fields
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)));
            assert_eq!(why(&fields.collect()), expected);
        };
        check(&[("cache-control", "max-age=60, s-maxage=5")], "Cache-Control: s-maxage=5");
        check(&[("cdn-cache-control", "max-age=7"), ("cache-control", "no-cache")], "CDN-Cache-Control: max-age=7");
        check(&[("cache-control", "no-cache, max-age=5")], "Cache-Control: no-cache");
        check(&[("expires", "Thu, 01 Jan 2026 00:00:00 GMT")], "Expires");
        check(&[("etag", "1")], "the route: the answer says nothing");
    }
}
