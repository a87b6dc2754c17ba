//! What is still to be done with files: answers to be written, one for each name and the last one counts, and chores, which
//! come before them: what was purged is removed before anything else is written.
//! Not here: who does it (`writer.rs`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use pingora_cache::key::HashBinary;

use super::super::entry::Entry;
use super::folder::Name;

/// What a waiting answer takes beside itself and its key.
const JOB_OVERHEAD: u64 = 320;

const NAME_MIN: Name = ([0; 16], None);

/// An answer to be written.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) entry: Arc<Entry>,
    pub(super) key: Arc<[u8]>,
    pub(super) url: u64,
    pub(super) version: u64,
}

impl Job {
    /// Bytes of memory, as long as nobody else holds the answer.
    pub(super) fn cost(&self) -> u64 {
        JOB_OVERHEAD + self.entry.weight + self.key.len() as u64
    }
}

/// What is done with a file that is there.
pub(super) enum Chore {
    Remove(Name),
    /// Notes a soft purge, in seconds since 1970.
    MarkStale(Name, u64),
}

struct Waiting {
    job: Job,
    /// Its place in the order; none where it is being written.
    turn: Option<u64>,
}

/// Answers that are not on disk yet, and chores.
#[derive(Default)]
pub(super) struct Queue {
    jobs: BTreeMap<Name, Waiting>,
    order: BTreeMap<u64, Name>,
    by_url: BTreeSet<(u64, Name)>,
    next: u64,
    /// Bytes of memory.
    pub(super) cost: u64,
    chores: VecDeque<Chore>,
    /// Chores so far, and how many of them are done.
    pub(super) chores_asked: u64,
    pub(super) chores_done: u64,
}

impl Queue {
    pub(super) fn find(&self, name: &Name) -> Option<&Job> {
        self.jobs.get(name).map(|waiting| &waiting.job)
    }

    /// The variants of a key.
    pub(super) fn family(&self, primary: &HashBinary) -> impl Iterator<Item = &Job> {
        let last = (*primary, Some([u8::MAX; 16]));
        self.jobs.range((*primary, None)..=last).map(|(_, waiting)| &waiting.job)
    }

    /// All answers behind one, in the order of their names.
    pub(super) fn behind(&self, last: Option<Name>) -> impl Iterator<Item = (&Name, &Job)> {
        let first = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.jobs.range((first, Bound::Unbounded)).map(|(name, waiting)| (name, &waiting.job))
    }

    /// Answers of one URL behind one, in the order of their names.
    pub(super) fn of_url(&self, url: u64, last: Option<Name>) -> impl Iterator<Item = &Name> {
        let first = last.map_or(Bound::Included((url, NAME_MIN)), |last| Bound::Excluded((url, last)));
        let of_url = self.by_url.range((first, Bound::Unbounded)).take_while(move |(other, _)| *other == url);
        of_url.map(|(_, name)| name)
    }

    /// Takes the place of one with the same name.
    pub(super) fn put(&mut self, name: Name, job: Job) {
        let before = self.remove(&name);
        let turn = before.and_then(|before| before.turn).unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        self.cost += job.cost();
        self.order.insert(turn, name);
        self.by_url.insert((job.url, name));
        self.jobs.insert(name, Waiting { job, turn: Some(turn) });
    }

    fn remove(&mut self, name: &Name) -> Option<Waiting> {
        let waiting = self.jobs.remove(name)?;
        self.cost -= waiting.job.cost();
        self.by_url.remove(&(waiting.job.url, *name));
        if let Some(turn) = waiting.turn {
            self.order.remove(&turn);
        }
        Some(waiting)
    }

    /// Forgets an answer, whether it is being written or not.
    pub(super) fn forget(&mut self, name: &Name) -> Option<Job> {
        self.remove(name).map(|waiting| waiting.job)
    }

    /// The next answer to be written; it is here until it is forgotten.
    pub(super) fn next(&mut self) -> Option<(Name, Job)> {
        let (_, name) = self.order.pop_first()?;
        let waiting = self.jobs.get_mut(&name)?;
        waiting.turn = None;
        Some((name, waiting.job.clone()))
    }

    /// Answers that wait or are being written.
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn ask(&mut self, chore: Chore) {
        self.chores_asked += 1;
        self.chores.push_back(chore);
    }

    pub(super) fn next_chore(&mut self) -> Option<Chore> {
        self.chores.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::entry;
    use super::*;

    fn job(version: u64) -> Job {
        Job { entry: Arc::new(entry(b"x")), key: Arc::from(&b"key"[..]), url: 1, version }
    }

    #[test]
    fn the_last_answer_of_a_name_counts_in_its_first_place() {
        let mut queue = Queue::default();
        let [one, other] = [([1; 16], None), ([1; 16], Some([9; 16]))];
        queue.put(one, job(1));
        queue.put(other, job(2));
        queue.put(one, job(3));
        assert_eq!((queue.cost, queue.family(&[1; 16]).count()), (2 * job(1).cost(), 2));
        assert_eq!(queue.next().map(|(name, job)| (name, job.version)), Some((one, 3)));
        // While it is being written a new one comes: that has its own turn.
        queue.put(one, job(4));
        assert_eq!(queue.next().map(|(name, job)| (name, job.version)), Some((other, 2)));
        assert_eq!(queue.next().map(|(name, job)| (name, job.version)), Some((one, 4)));
        assert!(queue.next().is_none() && queue.find(&one).is_some());
        assert!(queue.forget(&one).is_some() && queue.forget(&other).is_some());
        assert_eq!((queue.cost, queue.len(), queue.order.len()), (0, 0, 0));
    }

    #[test]
    fn what_waits_is_found_by_url_from_any_of_it_on() {
        let mut queue = Queue::default();
        let of = |url, version| Job { url, ..job(version) };
        let names: Vec<Name> = (0..4).map(|key| ([key; 16], None)).collect();
        for (name, url) in names.iter().zip([0, 7, 7, 8]) {
            queue.put(*name, of(url, 1));
        }
        // A name has one URL: its key says which.
        queue.put(names[1], of(7, 2));
        assert!(queue.of_url(7, None).eq(&names[1..3]) && queue.of_url(7, Some(names[1])).eq(&names[2..3]));
        assert!(queue.behind(None).count() == 4 && queue.behind(Some(names[2])).count() == 1);
        names.iter().for_each(|name| assert!(queue.forget(name).is_some()));
        assert!(queue.by_url.is_empty());
    }

    #[test]
    fn what_is_forgotten_has_no_turn() {
        let mut queue = Queue::default();
        queue.put(([1; 16], None), job(1));
        queue.forget(&([1; 16], None));
        assert!(queue.next().is_none() && queue.order.is_empty());
    }
}
