//! What is on disk, in memory: by key and by URL, with all that a purge needs to be exact.
//! What goes when room is needed goes by the clock: a hand passes all records again and again, takes what was not used since
//! it came by last, and so keeps what is used from being pushed out by what comes by once.
//! Whoever asks for something holds the lock on all of it, so nothing here looks at more than a page of records at once.
//! Not here: the files (`folder.rs`), and what is still to be written (`queue.rs`).

use std::collections::BTreeSet;
use std::time::SystemTime;

use pingora_cache::key::HashBinary;
use smallvec::SmallVec;

use super::super::tags::Tags;
use super::folder::Name;

/// What a record takes of memory beside its key and tags: itself, its places in the two tables, its allocations. Measured:
/// `cargo bench --bench cache_disk` says whether it holds.
const RECORD_OVERHEAD: u64 = 224;

/// Records in a piece of memory: as many as are looked at while others wait.
pub(super) const PAGE: usize = 1024;

/// A file.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) primary: HashBinary,
    pub(super) variance: Option<HashBinary>,
    /// The hash of host, path and query.
    pub(super) url: u64,
    /// The frame of its key.
    pub(super) key: Box<[u8]>,
    pub(super) tags: Tags,
    /// Grows with each write.
    pub(super) version: u64,
    pub(super) fresh_until: SystemTime,
    /// Seconds since 1970 when a purge took its freshness away; 0 where none did.
    pub(super) stale_since: u64,
    /// From `file::fields_of`.
    pub(super) fields: u32,
    /// Bytes on disk.
    pub(super) room: u32,
    /// Since the hand came by.
    pub(super) is_used: bool,
    /// How often memory had served it when a hand last came by.
    pub(super) hits: u64,
}

impl Record {
    pub(super) fn name(&self) -> Name {
        (self.primary, self.variance)
    }

    pub(super) fn is_fresh(&self, now: SystemTime) -> bool {
        self.fresh_until >= now && self.stale_since == 0
    }

    /// Bytes of memory.
    fn cost(&self) -> u64 {
        RECORD_OVERHEAD + self.key.len() as u64 + self.tags.weight()
    }
}

/// All records.
#[derive(Default)]
pub(super) struct Index {
    pages: Vec<Vec<Option<Record>>>,
    free: Vec<u32>,
    by_key: BTreeSet<(HashBinary, u32)>,
    by_url: BTreeSet<(u64, u32)>,
    hand: u32,
    /// How many places the hand has passed since it last took something.
    passed: usize,
    /// Bytes on disk, and of memory.
    pub(super) room: u64,
    pub(super) cost: u64,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn has(&self, primary: &HashBinary) -> bool {
        self.slots(primary).next().is_some()
    }

    fn slots(&self, primary: &HashBinary) -> impl Iterator<Item = u32> {
        self.by_key.range((*primary, 0)..=(*primary, u32::MAX)).map(|(_, slot)| *slot)
    }

    fn at(&self, slot: u32) -> Option<&Record> {
        self.pages.get(slot as usize / PAGE)?.get(slot as usize % PAGE)?.as_ref()
    }

    fn place(&mut self, slot: u32) -> Option<&mut Option<Record>> {
        self.pages.get_mut(slot as usize / PAGE)?.get_mut(slot as usize % PAGE)
    }

    /// The variants of a key.
    pub(super) fn family(&self, primary: &HashBinary) -> impl Iterator<Item = &Record> {
        self.slots(primary).filter_map(|slot| self.at(slot))
    }

    pub(super) fn find(&self, (primary, variance): &Name) -> Option<&Record> {
        self.family(primary).find(|record| record.variance == *variance)
    }

    /// Shows the variants of a key, to be changed; what they are found by and weigh has to stay.
    pub(super) fn change_family(&mut self, primary: &HashBinary, mut change: impl FnMut(&mut Record)) {
        let slots: SmallVec<[u32; 4]> = self.slots(primary).collect();
        for slot in slots {
            if let Some(Some(record)) = self.place(slot) {
                change(record);
            }
        }
    }

    /// Some of the keys of one URL, a key with variants more than once, and where the rest of them begins; none behind the last.
    pub(super) fn of_url(&self, url: u64, first: u32) -> (Vec<HashBinary>, Option<u32>) {
        let mut slots = self.by_url.range((url, first)..=(url, u32::MAX)).map(|(_, slot)| *slot);
        let some = slots.by_ref().take(PAGE);
        let keys = some.filter_map(|slot| Some(self.at(slot)?.primary)).collect();
        (keys, slots.next())
    }

    /// Some of the records; none behind the last page.
    pub(super) fn page(&self, number: usize) -> Option<impl Iterator<Item = &Record>> {
        self.pages.get(number).map(|page| page.iter().flatten())
    }

    /// One record more, or in the place of the one with its name.
    pub(super) fn insert(&mut self, record: Record) {
        self.remove(&record.name());
        let slot = self.free.pop().unwrap_or_else(|| self.grow());
        self.by_key.insert((record.primary, slot));
        self.by_url.insert((record.url, slot));
        self.room += u64::from(record.room);
        self.cost += record.cost();
        if let Some(place) = self.place(slot) {
            *place = Some(record);
        }
    }

    fn grow(&mut self) -> u32 {
        if self.pages.last().is_none_or(|page| page.len() == PAGE) {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        let before = (self.pages.len() - 1) * PAGE;
        let at = self.pages.last_mut().map_or(0, |page| {
            page.push(None);
            page.len() - 1
        });
        // Each record costs hundreds of bytes: there is never room for as many as a `u32` counts.
        u32::try_from(before + at).unwrap_or(u32::MAX)
    }

    pub(super) fn remove(&mut self, (primary, variance): &Name) -> Option<Record> {
        let slot =
            self.slots(primary).find(|slot| self.at(*slot).is_some_and(|record| record.variance == *variance))?;
        self.take(slot)
    }

    fn take(&mut self, slot: u32) -> Option<Record> {
        let record = self.place(slot)?.take()?;
        self.by_key.remove(&(record.primary, slot));
        self.by_url.remove(&(record.url, slot));
        self.room -= u64::from(record.room);
        self.cost -= record.cost();
        self.free.push(slot);
        Some(record)
    }

    /// Looks at some records, and takes out what is needed least. `hits` says how often memory has served an answer that it has, too.
    pub(super) fn evict(&mut self, hits: impl Fn(&HashBinary, Option<HashBinary>) -> Option<u64>) -> Evicted {
        if self.by_key.is_empty() {
            return Evicted::Empty;
        }
        let slots = self.pages.len().saturating_sub(1) * PAGE + self.pages.last().map_or(0, Vec::len);
        for _ in 0..PAGE {
            let slot = self.hand;
            self.hand = if slot as usize + 1 >= slots { 0 } else { slot + 1 };
            self.passed += 1;
            // Once around it has passed all that was used, so the second time it finds one, unless everything is used all the time.
            let spares = self.passed <= 2 * slots;
            match self.place(slot) {
                Some(Some(record)) if spares && record.is_used => record.is_used = false,
                Some(Some(record)) => match hits(&record.primary, record.variance) {
                    Some(now) if spares && now > record.hits => record.hits = now,
                    _ => {
                        self.passed = 0;
                        return self.take(slot).map_or(Evicted::NotYet, Evicted::Gone);
                    }
                },
                _ => {}
            }
        }
        Evicted::NotYet
    }
}

/// What came of looking for what is needed least.
#[derive(Debug)]
pub(super) enum Evicted {
    Gone(Record),
    /// What was looked at is used; the rest is still to be looked at.
    NotYet,
    /// Nothing is left.
    Empty,
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;

    fn record(key: u8, variant: u8, version: u64) -> Record {
        Record {
            primary: [key; 16],
            variance: (variant > 0).then_some([variant; 16]),
            url: u64::from(key) / 2,
            key: vec![key; 10].into(),
            tags: Tags::default(),
            version,
            fresh_until: SystemTime::UNIX_EPOCH,
            stale_since: 0,
            fields: 0,
            room: 4096,
            is_used: false,
            hits: 0,
        }
    }

    fn keys_of(index: &Index, url: u64) -> Vec<HashBinary> {
        let (mut keys, rest) = index.of_url(url, 0);
        assert_eq!(rest, None);
        keys.dedup();
        keys
    }

    /// What goes at last.
    fn gone(index: &mut Index, hits: impl Fn(&HashBinary, Option<HashBinary>) -> Option<u64>) -> Option<Record> {
        loop {
            match index.evict(&hits) {
                Evicted::Gone(record) => return Some(record),
                Evicted::NotYet => {}
                Evicted::Empty => return None,
            }
        }
    }

    #[test]
    fn records_are_found_by_key_and_url() {
        let mut index = Index::default();
        for (key, variant) in [(2, 1), (2, 2), (3, 0), (4, 0)] {
            index.insert(record(key, variant, 1));
        }
        assert_eq!((index.len(), index.room, index.cost), (4, 4 * 4096, 4 * (RECORD_OVERHEAD + 10)));
        assert_eq!(index.family(&[2; 16]).count(), 2);
        assert_eq!(keys_of(&index, 1), [[2; 16], [3; 16]]);
        index.insert(record(2, 2, 5));
        assert_eq!(index.find(&([2; 16], Some([2; 16]))).unwrap().version, 5);
        assert_eq!(index.len(), 4);
        assert!(index.remove(&([3; 16], None)).is_some() && index.remove(&([3; 16], None)).is_none());
        assert_eq!((keys_of(&index, 1), index.len(), index.room), (vec![[2; 16]], 3, 3 * 4096));
        assert!(!index.has(&[3; 16]) && index.has(&[4; 16]));
    }

    #[test]
    fn what_is_used_stays_while_others_come_by_once() {
        let mut index = Index::default();
        (0..8).for_each(|key| index.insert(record(key, 0, 1)));
        for once in 8..200 {
            // One is read from here, one is served by memory.
            index.change_family(&[3; 16], |record| record.is_used = true);
            let hits = |primary: &HashBinary, _| (*primary == [4; 16]).then_some(u64::from(once));
            let gone = gone(&mut index, hits).unwrap();
            assert!(![[3; 16], [4; 16]].contains(&gone.primary));
            index.insert(record(once, 0, 1));
        }
        assert_eq!((index.len(), index.pages[0].len()), (8, 8));
        while gone(&mut index, |_, _| None).is_some() {}
        assert_eq!((index.len(), index.room, index.cost, index.by_url.len()), (0, 0, 0, 0));
    }

    /// All records are used, and all of one URL: no step looks at more than a page of them, and something goes at last.
    #[test]
    fn what_others_wait_for_does_not_grow_with_the_records() {
        const RECORDS: u32 = 100_000;
        let mut index = Index::default();
        for number in 0..RECORDS {
            let mut primary = [0; 16];
            primary[..4].copy_from_slice(&number.to_be_bytes());
            index.insert(Record { primary, url: 7, key: Box::default(), is_used: true, ..record(0, 0, 1) });
        }
        let (mut steps, looked) = (0, Cell::new(0));
        // Memory serves each of them all the time.
        let hits = |_: &HashBinary, _| {
            looked.set(looked.get() + 1);
            Some(looked.get())
        };
        while let Evicted::NotYet = index.evict(hits) {
            assert!(looked.replace(0) <= PAGE as u64);
            steps += 1;
        }
        assert_eq!((steps, index.len()), (2 * RECORDS / PAGE as u32, RECORDS as usize - 1));
        let (mut first, mut found) = (Some(0), 0);
        while let Some(from) = first {
            let (keys, rest) = index.of_url(7, from);
            assert!(keys.len() <= PAGE);
            (first, found) = (rest, found + keys.len());
        }
        assert_eq!(found, index.len());
    }

    #[test]
    fn a_soft_purge_ends_freshness() {
        let now = SystemTime::now();
        let mut record = record(1, 0, 1);
        assert!(!record.is_fresh(now));
        record.fresh_until = now + Duration::from_secs(9);
        assert!(record.is_fresh(now));
        record.stale_since = super::super::super::entry::stale_from(now);
        assert!(!record.is_fresh(now));
    }
}
