//! The bounded queue between exchanges and the writer, and the ledger of what became of each record.
//! Both stand under one small lock: a record moves and is counted in the same step, so every snapshot balances. The lock
//! is held for a move of one record or for a swap of a whole chunk, never across a call to a store or a file.
//!
//! ```text
//! push -> chunks -> (taken, numbered, written as lines) -> batches -> (stored)
//!         intake                                           backlog, the batch in hand included
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::Counts;
use crate::record::Record;
use crate::store::{Batch, Rejected};

/// Records a new chunk has room for at once; it grows up to `flush.rows`.
const CHUNK_ROOM: usize = 1_024;

/// Emptied chunks that are kept for the next records.
const SPARE_MAX: usize = 4;

/// Why a record was lost.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    /// The store is behind, and `log.queue` records wait already.
    QueueFull,
    /// The store will never take this row.
    Rejected,
    /// It was not stored when the process had to end.
    Shutdown,
    /// There is no store, and the line could not be written.
    Lines,
}

const LOSSES: [(&str, Loss); 4] = [
    ("queue_full", Loss::QueueFull),
    ("rejected", Loss::Rejected),
    ("shutdown", Loss::Shutdown),
    ("lines", Loss::Lines),
];

/// What the queue is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// `log.queue`
    pub(super) records_max: usize,
    /// `log.flush.rows`
    pub(super) rows: usize,
    /// `log.flush.age`
    pub(super) age: Duration,
    /// Whether batches go to a store.
    pub(super) has_store: bool,
    /// Whether records are written as lines.
    pub(super) has_lines: bool,
}

/// Queue and ledger.
pub(super) struct Queue {
    pub(super) bounds: Bounds,
    state: Mutex<State>,
    /// Wakes the stage that takes chunks.
    intake_ready: Notify,
    /// Wakes the stage that stores batches.
    batch_ready: Notify,
    /// The deadline of the end, once there is one.
    closing: watch::Sender<Option<Instant>>,
}

#[derive(Default)]
struct State {
    /// Where records arrive, at most `rows` in each; the last one is open.
    chunks: VecDeque<Chunk>,
    /// Records in `chunks`.
    intake: usize,
    /// What waits for the store.
    batches: VecDeque<Batch>,
    /// Records that left `chunks` and are neither written nor dropped.
    backlog: usize,
    spare: Vec<Vec<Record>>,
    sequence: u64,
    run: Option<u32>,
    reopen: bool,
    /// Nothing is taken any more.
    closed: bool,
    /// The end came before the writer's; what it still does is not counted.
    abandoned: bool,
    accepted: u64,
    written: u64,
    dropped: [u64; LOSSES.len()],
    lines_written: u64,
    lines_dropped: u64,
    store_errors: u64,
    store_up: bool,
    last_error: Option<String>,
}

struct Chunk {
    /// When its first record came.
    oldest: Instant,
    records: Vec<Record>,
}

/// Records on their way from the queue to lines and store.
pub(super) struct Taken {
    pub(super) records: Vec<Record>,
    /// The sequence of the first; none where the store's backlog is full, so that only lines are written.
    pub(super) first: Option<u64>,
    /// This run's number, once the store has given it.
    pub(super) run: Option<u32>,
}

/// What the intake is to do next.
pub(super) enum Intake {
    Take(Taken),
    Reopen,
    WaitUntil(Instant),
    Wait,
    Done,
}

impl Queue {
    pub(super) fn new(bounds: Bounds) -> Self {
        let state = State { store_up: !bounds.has_store, ..State::default() };
        Self {
            bounds,
            state: Mutex::new(state),
            intake_ready: Notify::new(),
            batch_ready: Notify::new(),
            closing: watch::Sender::new(None),
        }
    }

    /// Takes a record, or drops it. The writer is woken for the first record of an empty queue and for a full chunk
    /// only: under load that is once for many records.
    pub(super) fn push(&self, record: Record) {
        let rows = self.bounds.rows;
        let mut state = self.state.lock();
        state.accepted += 1;
        // Lines are written although the store is behind, so with lines only what they wait for counts here, and the
        // store's backlog is bounded where a chunk is taken.
        let waiting = if self.bounds.has_lines { state.intake } else { state.intake + state.backlog };
        if state.closed {
            return state.lose(Loss::Shutdown, 1);
        }
        if waiting >= self.bounds.records_max {
            return state.lose(Loss::QueueFull, 1);
        }
        state.intake += 1;
        let wake = match state.chunks.back_mut().filter(|chunk| chunk.records.len() < rows) {
            Some(chunk) => {
                chunk.records.push(record);
                chunk.records.len() == rows && state.chunks.len() == 1
            }
            None => {
                let room = rows.min(CHUNK_ROOM);
                let mut records = state.spare.pop().unwrap_or_else(|| Vec::with_capacity(room));
                records.push(record);
                state.chunks.push_back(Chunk { oldest: Instant::now(), records });
                state.chunks.len() == 1
            }
        };
        drop(state);
        if wake {
            self.intake_ready.notify_one();
        }
    }

    /// What the intake is to do now.
    pub(super) fn intake(&self) -> Intake {
        let closing = self.closing.borrow().is_some();
        let mut state = self.state.lock();
        if std::mem::take(&mut state.reopen) {
            return Intake::Reopen;
        }
        let due = match state.chunks.front() {
            None if closing => {
                state.closed = true;
                drop(state);
                self.batch_ready.notify_one();
                return Intake::Done;
            }
            None => return Intake::Wait,
            Some(chunk) if closing || chunk.records.len() >= self.bounds.rows => None,
            Some(chunk) => Some(chunk.oldest.checked_add(self.bounds.age).unwrap_or(chunk.oldest)),
        };
        if let Some(due) = due.filter(|due| *due > Instant::now()) {
            return Intake::WaitUntil(due);
        }
        match state.chunks.pop_front() {
            Some(chunk) => Intake::Take(state.number(chunk.records, &self.bounds)),
            None => Intake::Wait,
        }
    }

    /// Waits until [`Self::intake`] may have another answer.
    pub(super) async fn intake_ready(&self) {
        self.intake_ready.notified().await;
    }

    /// Puts numbered records where the store finds them.
    pub(super) fn hand_over(&self, first: u64, mut records: Vec<Record>) {
        let mut state = self.state.lock();
        match state.batches.back_mut() {
            // While the store is away many small chunks become few full batches. Numbers stay gapless: all chunks that
            // are numbered come here, in order.
            Some(last) if last.records.len() + records.len() <= self.bounds.rows => {
                last.records.append(&mut records);
                state.keep_spare(records);
            }
            _ => state.batches.push_back(Batch { first, records }),
        }
        drop(state);
        self.batch_ready.notify_one();
    }

    /// The next batch for the store; none when the queue is closed and empty.
    pub(super) async fn next_batch(&self) -> Option<Batch> {
        loop {
            let ready = self.batch_ready.notified();
            {
                let mut state = self.state.lock();
                if let Some(batch) = state.batches.pop_front() {
                    return Some(batch);
                }
                if state.closed {
                    return None;
                }
            }
            ready.await;
        }
    }

    /// A batch is stored, some of its rows perhaps refused for ever.
    pub(super) fn stored(&self, batch: Batch, rejected: &[Rejected]) {
        let lost = rejected.len().min(batch.records.len());
        let kept = batch.records.len() - lost;
        self.settle(batch.records, |state| {
            state.written += kept as u64;
            state.lose(Loss::Rejected, lost as u64);
        });
    }

    /// A batch is lost.
    pub(super) fn lost(&self, batch: Batch, loss: Loss) {
        let count = batch.records.len() as u64;
        self.settle(batch.records, |state| state.lose(loss, count));
    }

    /// Lines are written; without a store the records are done with that.
    pub(super) fn lined(&self, written: u64, failed: u64) {
        let mut state = self.state.lock();
        state.lines_written += written;
        state.lines_dropped += failed;
    }

    /// Without a store: so many of these records became lines.
    pub(super) fn done_with_lines(&self, records: Vec<Record>, written: u64) {
        let failed = (records.len() as u64).saturating_sub(written);
        self.settle(records, |state| {
            state.written += written;
            state.lose(Loss::Lines, failed);
        });
    }

    /// Records that only became lines, because the store's backlog is full; counted as dropped when they were taken.
    pub(super) fn recycle(&self, mut records: Vec<Record>) {
        records.clear();
        self.state.lock().keep_spare(records);
    }

    fn settle(&self, mut records: Vec<Record>, count: impl FnOnce(&mut State)) {
        let settled = records.len();
        // Outside the lock: freeing a thousand records takes a while.
        records.clear();
        let mut state = self.state.lock();
        state.keep_spare(records);
        if !state.abandoned {
            state.backlog = state.backlog.saturating_sub(settled);
            count(&mut state);
        }
    }

    /// The store works; this run has that number there.
    pub(super) fn store_is_up(&self, run: Option<u32>) {
        let mut state = self.state.lock();
        state.store_up = true;
        state.run = run.or(state.run);
    }

    /// A try at the store failed.
    pub(super) fn store_failed(&self, message: &str) {
        let mut state = self.state.lock();
        state.store_up = false;
        state.store_errors += 1;
        state.last_error = Some(message.to_owned());
    }

    pub(super) fn ask_to_reopen(&self) {
        self.state.lock().reopen = true;
        self.intake_ready.notify_one();
    }

    /// Begins the end.
    pub(super) fn close(&self, deadline: Instant) {
        self.closing.send_replace(Some(deadline));
        self.intake_ready.notify_one();
    }

    /// Whether the end has begun.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.borrow().is_some()
    }

    /// Waits until the end begins; the deadline.
    pub(super) async fn closing(&self) -> Instant {
        let mut closing = self.closing.subscribe();
        match closing.wait_for(Option::is_some).await {
            Ok(deadline) => deadline.unwrap_or_else(Instant::now),
            Err(_) => Instant::now(),
        }
    }

    /// Waits until the deadline of the end.
    pub(super) async fn deadline(&self) {
        tokio::time::sleep_until(self.closing().await.into()).await;
    }

    /// The writer is gone: what waits is lost, and so is what still comes.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock();
        let lost = state.intake + state.backlog;
        let (chunks, batches) = (std::mem::take(&mut state.chunks), std::mem::take(&mut state.batches));
        (state.intake, state.backlog) = (0, 0);
        (state.closed, state.abandoned) = (true, true);
        state.lose(Loss::Shutdown, lost as u64);
        drop(state);
        drop((chunks, batches));
    }

    /// Records that were lost for one reason.
    pub(super) fn dropped(&self, loss: Loss) -> u64 {
        self.state.lock().dropped[loss as usize]
    }

    /// One snapshot, each number counted where it happened.
    pub(super) fn counts(&self) -> Counts {
        let state = self.state.lock();
        Counts {
            accepted: state.accepted,
            written: state.written,
            queued: (state.intake + state.backlog) as u64,
            dropped: LOSSES.map(|(reason, loss)| (reason, state.dropped[loss as usize])).to_vec(),
            lines_written: state.lines_written,
            lines_dropped: state.lines_dropped,
            store_errors: state.store_errors,
            store_up: state.store_up,
            last_error: state.last_error.clone(),
        }
    }
}

impl State {
    fn lose(&mut self, loss: Loss, count: u64) {
        self.dropped[loss as usize] += count;
    }

    fn keep_spare(&mut self, records: Vec<Record>) {
        if self.spare.len() < SPARE_MAX && records.is_empty() {
            self.spare.push(records);
        }
    }

    /// Numbers the records of a chunk if the store's backlog has room for them. Only what goes on is numbered, so the
    /// numbers of one run have no gaps.
    fn number(&mut self, records: Vec<Record>, bounds: &Bounds) -> Taken {
        let count = records.len();
        self.intake -= count;
        let first = if self.backlog + count <= bounds.records_max {
            self.backlog += count;
            let first = self.sequence + 1;
            self.sequence += count as u64;
            Some(first)
        } else {
            self.lose(Loss::QueueFull, count as u64);
            None
        };
        Taken { records, first, run: self.run }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    fn queue(records_max: usize, rows: usize, has_lines: bool) -> Queue {
        Queue::new(Bounds { records_max, rows, age: Duration::from_secs(60), has_store: true, has_lines })
    }

    fn take(queue: &Queue) -> Taken {
        match queue.intake() {
            Intake::Take(taken) => taken,
            _ => panic!("nothing to take"),
        }
    }

    fn balances(queue: &Queue) {
        let counts = queue.counts();
        assert_eq!(counts.accepted, counts.written + counts.queued + counts.dropped_in_all(), "{counts:?}");
    }

    #[test]
    fn a_chunk_is_due_when_it_is_full() {
        let queue = queue(100, 2, false);
        queue.push(record());
        assert!(matches!(queue.intake(), Intake::WaitUntil(_)));
        queue.push(record());
        assert_eq!(take(&queue).records.len(), 2);
        assert!(matches!(queue.intake(), Intake::Wait));
    }

    #[test]
    fn a_full_queue_drops_the_newest_and_counts_them() {
        let queue = queue(3, 2, false);
        (0..5).for_each(|_| queue.push(record()));
        let counts = queue.counts();
        assert_eq!((counts.accepted, counts.queued, counts.dropped[0]), (5, 3, ("queue_full", 2)));
        // What the store has not taken yet still counts.
        let taken = take(&queue);
        queue.hand_over(taken.first.unwrap(), taken.records);
        queue.push(record());
        assert_eq!(queue.counts().dropped[0], ("queue_full", 3));
        balances(&queue);
    }

    #[test]
    fn with_lines_a_full_backlog_does_not_stop_the_intake() {
        let queue = queue(2, 2, true);
        (0..2).for_each(|_| queue.push(record()));
        let taken = take(&queue);
        assert_eq!(taken.first, Some(1));
        queue.hand_over(1, taken.records);
        (0..2).for_each(|_| queue.push(record()));
        let taken = take(&queue);
        assert_eq!((taken.first, taken.records.len()), (None, 2));
        let counts = queue.counts();
        assert_eq!((counts.queued, counts.dropped[0]), (2, ("queue_full", 2)));
        balances(&queue);
    }

    #[tokio::test]
    async fn small_chunks_become_full_batches_without_gaps() {
        let queue = queue(100, 4, false);
        for (first, count) in [(1, 2), (3, 2), (5, 3)] {
            queue.hand_over(first, vec![record(); count]);
        }
        let batches = [queue.next_batch().await.unwrap(), queue.next_batch().await.unwrap()];
        assert_eq!(batches.map(|batch| (batch.first, batch.records.len())), [(1, 4), (5, 3)]);
    }

    #[test]
    fn what_is_abandoned_is_counted_once() {
        let queue = queue(100, 2, false);
        (0..3).for_each(|_| queue.push(record()));
        let taken = take(&queue);
        queue.abandon();
        queue.stored(Batch { first: 1, records: taken.records }, &[]);
        queue.push(record());
        let counts = queue.counts();
        assert_eq!((counts.accepted, counts.written, counts.queued, counts.dropped[2]), (4, 0, 0, ("shutdown", 4)));
    }
}
