//! What purges do with what is on disk: it is out of queue and index at once, and its file is gone, or marked, soon after.
//! Not here: what is purged, and in which order memory and disk are looked at (`memory/purging.rs`).

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use pingora_cache::key::HashBinary;
use smallvec::SmallVec;

use super::super::entry::stale_from;
use super::super::purge::How;
use super::super::tags::Tags;
use super::index::PAGE;
use super::queue::Chore;
use super::{Disk, Phase, State};

/// How long a purge waits at most for the scan of the folder, which is over after seconds.
const SCAN_MAX: Duration = Duration::from_secs(60);

/// As long as this lives, a purge is looking for what it purges.
pub(in super::super) struct Purging<'a>(&'a Disk);

impl Drop for Purging<'_> {
    fn drop(&mut self) {
        self.0.purging.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Disk {
    /// Begins a purge that has to look through everything.
    pub(in super::super) fn begin_purge(&self) -> Purging<'_> {
        self.purging.fetch_add(1, Ordering::SeqCst);
        Purging(self)
    }

    /// The keys of one URL, as long as nobody stores anything of it. First what waits: it may be written meanwhile, and is then
    /// found twice rather than never.
    pub(in super::super) fn of_url(&self, url: u64) -> Vec<HashBinary> {
        let mut keys = Vec::new();
        self.in_parts(|state, last| {
            state.queue.of_url(url, last).take(PAGE).inspect(|name| keys.push(name.0)).last().copied()
        });
        self.in_parts(|state, first| {
            let (some, rest) = state.index.of_url(url, first.unwrap_or(0));
            keys.extend(some);
            rest
        });
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Looks at something part by part, as each tells where it ends: who stores or looks up meanwhile waits for one of them at most.
    fn in_parts<T>(&self, mut look: impl FnMut(&State, Option<T>) -> Option<T>) {
        let mut last = None;
        loop {
            last = look(&self.state.lock(), last);
            if last.is_none() {
                return;
            }
        }
    }

    /// The keys, with their URLs, of which an answer's key and tags are such.
    pub(in super::super) fn matching(&self, is_such: impl Fn(&[u8], &Tags) -> bool) -> Vec<(u64, HashBinary)> {
        let mut found = Vec::new();
        self.in_parts(|state, last| {
            let part = state.queue.behind(last).take(PAGE);
            let seen = part.inspect(|(name, job)| {
                if is_such(&job.key, &job.entry.tags) {
                    found.push((job.url, name.0));
                }
            });
            seen.last().map(|(name, _)| *name)
        });
        self.in_parts(|state, number| {
            let number = number.unwrap_or(0);
            let such = state.index.page(number)?.filter(|record| is_such(&record.key, &record.tags));
            found.extend(such.map(|record| (record.url, record.primary)));
            Some(number + 1)
        });
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Purges a key: its variants, each with whether it was fresh.
    pub(in super::super) fn purge(
        &self,
        primary: &HashBinary,
        how: How,
        now: SystemTime,
    ) -> SmallVec<[(Option<HashBinary>, bool); 4]> {
        let mut state = self.state.lock();
        let variants = state.variants(primary, now);
        match how {
            How::Hard => variants.iter().for_each(|(variance, _)| state.forget(&(*primary, *variance))),
            How::Soft => {
                let since = stale_from(now);
                for job in state.queue.family(primary) {
                    job.entry.mark_stale(now);
                }
                state.index.change_family(primary, |record| {
                    if record.is_fresh(now) {
                        record.stale_since = since;
                    }
                });
                // Also what only waits: it may be written in part, or was marked in memory a moment ago.
                if state.has_folder() {
                    let names = variants.iter().map(|(variance, _)| (*primary, *variance));
                    names.for_each(|name| state.queue.ask(Chore::MarkStale(name, since)));
                }
            }
        }
        drop(state);
        self.work.notify_one();
        variants
    }

    /// Waits until the folder has been looked through, where that goes on: before, a purge does not know what is there.
    pub(in super::super) fn wait_for_scan(&self) {
        let deadline = Instant::now() + SCAN_MAX;
        let mut state = self.state.lock();
        while state.phase == Phase::Scanning && !self.done.wait_until(&mut state, deadline).timed_out() {}
    }

    /// Chores that are not done yet.
    pub(in super::super) fn has_chores(&self) -> bool {
        let state = self.state.lock();
        state.queue.chores_done < state.queue.chores_asked
    }

    /// Waits until the files of what was purged so far are gone or marked; false where that takes longer.
    pub(in super::super) fn wait_for_chores(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        let asked = state.queue.chores_asked;
        while state.queue.chores_done < asked && state.phase != Phase::Closed {
            match deadline {
                Some(deadline) if self.done.wait_until(&mut state, deadline).timed_out() => return false,
                Some(_) => {}
                None => self.done.wait(&mut state),
            }
        }
        true
    }
}
