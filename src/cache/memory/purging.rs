//! Purges what is stored, in memory and on disk: what is in both counts once.
//! A purge first marks what it is about, so that nothing which is under way is stored after it, then looks through memory,
//! where it meets who stores at the moment, and then through what only the disk has. It is over when files are gone, too.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use pingora_cache::key::HashBinary;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{Cache, Stripe};
use crate::cache::entry::Family;
use crate::cache::key::KeyParts;
use crate::cache::purge::{How, Scope};
use crate::cache::tags::Tags;

/// How long an answer that changed something waits for files of what it changed; a disk that is slower keeps nobody waiting.
const FILES_GONE_WITHIN: Duration = Duration::from_secs(1);

impl Scope<'_> {
    /// Whether an answer with this key and these tags is such.
    fn covers(&self, key: &[u8], has_tag: impl FnOnce(&str) -> bool) -> bool {
        let Some(key) = KeyParts::read(key) else { return false };
        match self {
            Self::All => true,
            Self::Route(endpoint) => key.endpoint == *endpoint,
            Self::Url { host, path_and_query } => {
                let (path, query) = match path_and_query.split_once('?') {
                    Some((path, query)) => (path, Some(query)),
                    None => (*path_and_query, None),
                };
                (key.host, key.path, key.query) == (*host, path, query)
            }
            Self::Prefix { host, path } => key.host == *host && key.path.starts_with(path),
            Self::Tag(tag) => has_tag(tag),
            Self::Consumer(consumer) => key.consumer == Some(*consumer),
        }
    }

    fn covers_family(&self, family: &Family) -> bool {
        self.covers(&family.key, |tag| family.variants.iter().any(|entry| entry.tags.has(tag)))
    }
}

impl Cache {
    /// Removes stored answers, or makes them stale, and forgets those that are being received; returns how many stored ones
    /// it was. Of a key with a purged tag all variants go. Waits for the disk: not for a thread that serves.
    pub fn purge(&self, scope: Scope<'_>, how: How) -> u64 {
        let disk = self.disk.get();
        if let Some(disk) = disk {
            disk.wait_for_scan();
        }
        let looking = disk.map(|disk| disk.begin_purge());
        let mut purged = match scope {
            Scope::Url { host, path_and_query } => self.purge_url(host, path_and_query, how),
            Scope::All => {
                self.purges.of_all();
                self.purge_where(how, &scope)
            }
            Scope::Route(endpoint) => {
                self.purges.of_label(self.purges.route(endpoint));
                self.purge_where(how, &scope)
            }
            Scope::Prefix { host, path } => {
                self.purges.of_prefix(host, path);
                self.purge_where(how, &scope)
            }
            Scope::Tag(tag) => self.purge_label(self.purges.tag(tag), how, &scope),
            Scope::Consumer(consumer) => self.purge_label(self.purges.consumer(consumer), how, &scope),
        };
        if let Some(disk) = disk
            && !matches!(scope, Scope::Url { .. })
        {
            let is_such = |key: &[u8], tags: &Tags| scope.covers(key, |tag| tags.has(tag));
            for (url, primary) in disk.matching(is_such) {
                purged += self.purge_key(&mut self.stripe(url).lock(), &primary, how);
            }
        }
        drop(looking);
        if let Some(disk) = disk {
            disk.wait_for_chores(None);
        }
        self.count_purged(purged)
    }

    /// Forgets one URL for all consumers, variants and schemes (RFC 9111 section 4.4); returns how many answers went.
    pub fn invalidate(&self, host: &str, path_and_query: &str) -> u64 {
        let purged = self.purge_url(host, path_and_query, How::Hard);
        if let Some(disk) = self.disk.get().filter(|disk| purged > 0 && disk.has_chores()) {
            let gone = aside(|| disk.wait_for_chores(Some(Instant::now() + FILES_GONE_WITHIN)));
            if !gone {
                log::warn!(
                    "cache.disk: files of an answer that was changed are not removed within {FILES_GONE_WITHIN:?}"
                );
            }
        }
        self.count_purged(purged)
    }

    fn count_purged(&self, purged: u64) -> u64 {
        self.counts.purged.fetch_add(purged, Ordering::Relaxed);
        purged
    }

    fn purge_url(&self, host: &str, path_and_query: &str, how: How) -> u64 {
        let url = self.url_of(host, path_and_query);
        let mut stripe = self.stripe(url).lock();
        stripe.purged.remember(url, self.purges.next());
        let mut keys = stripe.urls.get(&url).cloned().unwrap_or_default().into_vec();
        keys.extend(self.disk.get().map(|disk| disk.of_url(url)).unwrap_or_default());
        keys.sort_unstable();
        keys.dedup();
        keys.iter().map(|primary| self.purge_key(&mut stripe, primary, how)).sum()
    }

    fn purge_label(&self, label: u64, how: How, scope: &Scope<'_>) -> u64 {
        self.purges.of_label(label);
        let mut purged = 0;
        for stripe in &self.stripes {
            let mut stripe = stripe.lock();
            let found = stripe.labels.range((label, HashBinary::default())..=(label, [u8::MAX; 16]));
            let found: Vec<HashBinary> = found.map(|(_, primary)| *primary).collect();
            purged += self.purge_such(&mut stripe, &found, how, scope);
        }
        purged
    }

    fn purge_where(&self, how: How, scope: &Scope<'_>) -> u64 {
        let mut purged = 0;
        for stripe in &self.stripes {
            let mut stripe = stripe.lock();
            let all: Vec<HashBinary> = stripe.urls.values().flatten().copied().collect();
            purged += self.purge_such(&mut stripe, &all, how, scope);
        }
        purged
    }

    fn purge_such(&self, stripe: &mut Stripe, keys: &[HashBinary], how: How, scope: &Scope<'_>) -> u64 {
        let is_such = |primary: &HashBinary| self.map.peek(primary).is_some_and(|family| scope.covers_family(&family));
        keys.iter().filter(|primary| is_such(primary)).map(|primary| self.purge_key(stripe, primary, how)).sum()
    }

    /// Purges all variants of a key, wherever they are; how many it was, or, softly, how many were fresh.
    fn purge_key(&self, stripe: &mut Stripe, primary: &HashBinary, how: How) -> u64 {
        let now = SystemTime::now();
        // None where it gave way to another URL's answer meanwhile: whoever pushed it out takes it out of the index.
        let family = match how {
            How::Soft => self.map.peek(primary),
            How::Hard => self.map.remove(primary).map(|(_, family)| family),
        };
        let variants = family.as_deref().map(|family| family.variants.as_slice()).unwrap_or_default();
        let in_memory = match how {
            How::Soft => variants.iter().filter(|entry| entry.mark_stale(now)).count(),
            How::Hard => variants.len(),
        };
        if let (How::Hard, Some(family)) = (how, &family) {
            self.forget(stripe, primary, family);
            self.counts.entries.fetch_sub(in_memory as u64, Ordering::Relaxed);
        }
        // After memory: what waits to be written is the same answer, and is not counted again.
        let on_disk = self.disk.get().map(|disk| disk.purge(primary, how, now)).unwrap_or_default();
        let only_there = on_disk.iter().filter(|(variance, is_fresh)| {
            (how == How::Hard || *is_fresh) && variants.iter().all(|entry| entry.variance != *variance)
        });
        (in_memory + only_there.count()) as u64
    }
}

/// Waits without keeping other tasks of this thread from going on, where it has any.
fn aside<T>(wait: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
        _ => wait(),
    }
}
