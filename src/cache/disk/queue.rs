//! What is still to be done with files: answers to be written, one for each name and the last one counts, and chores, which
//! come before them: what was purged is removed before anything else is written.
//! Not here: who does it (`writer.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use pingora_cache::key::HashBinary;

use super::super::entry::Entry;
use super::folder::Name;

/// What a waiting answer takes beside itself and its key.
const JOB_OVERHEAD: u64 = 256;

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

    pub(super) fn all(&self) -> impl Iterator<Item = (&Name, &Job)> {
        self.jobs.iter().map(|(name, waiting)| (name, &waiting.job))
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
        self.jobs.insert(name, Waiting { job, turn: Some(turn) });
    }

    fn remove(&mut self, name: &Name) -> Option<Waiting> {
        let waiting = self.jobs.remove(name)?;
        self.cost -= waiting.job.cost();
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
    fn what_is_forgotten_has_no_turn() {
        let mut queue = Queue::default();
        queue.put(([1; 16], None), job(1));
        queue.forget(&([1; 16], None));
        assert!(queue.next().is_none() && queue.order.is_empty());
    }
}
