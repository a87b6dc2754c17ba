//! The bounded queue between exchanges and the writer. Queue and ledger stand under one small lock: a record moves and is
//! counted in the same step, so every snapshot balances. The lock is held for a move of one record or for a swap of a whole
//! chunk, never across a call to a store or a file.
//!
//! ```text
//! push -> chunks -> (taken, numbered, written as lines) -> batches -> (stored, or spooled)
//!         intake                                           backlog, the batch in hand included
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::Counts;
use super::batches::{Intake, Pending, Taken};
use super::ledger::{Ledger, Loss};
use super::unrecorded::{Unrecorded, is_refusal};
use crate::record::Record;
use crate::store::usage::Increments;
use crate::store::{Beat, Kept};

/// Records a new chunk has room for at once; it grows up to `flush.rows`.
const CHUNK_ROOM: usize = 1_024;

/// Emptied chunks that are kept for the next records.
const SPARE_MAX: usize = 4;

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
    batches: VecDeque<Pending>,
    /// Records in `batches`.
    pending: usize,
    /// Records that left `chunks` and are neither stored nor spooled nor dropped: `pending`, and what the writer has in hand.
    backlog: usize,
    /// Bytes of all records in chunks and backlog.
    bytes: u64,
    /// What the roll-ups count of records that were dropped; goes with the next chunk that is taken.
    unrecorded: Unrecorded,
    /// When the oldest record in hand came.
    in_hand: Option<Instant>,
    spare: Vec<Vec<Record>>,
    run: Option<u32>,
    reopen: bool,
    /// Nothing is taken any more.
    closed: bool,
    /// The end came before the writer's; what it still does is not counted.
    abandoned: bool,
    ledger: Ledger,
    activity: Activity,
}

/// What the writer did.
#[derive(Clone, Debug, Default)]
struct Activity {
    lines_written: u64,
    lines_dropped: u64,
    batches: u64,
    batch_time: Duration,
    spool_bytes: u64,
    /// Since when the oldest record in the spool has waited.
    spool_oldest: Option<std::time::SystemTime>,
    /// Why the spool can't be used now.
    spool_error: Option<String>,
    /// What the store keeps, as upkeep saw it last.
    kept: Option<Arc<Kept>>,
    store_errors: u64,
    store_up: bool,
    last_error: Option<String>,
}

struct Chunk {
    /// When its first record came.
    oldest: Instant,
    records: Vec<Record>,
}

impl Queue {
    pub(super) fn new(bounds: Bounds) -> Self {
        let activity = Activity { store_up: !bounds.has_store, ..Activity::default() };
        Self {
            bounds,
            state: Mutex::new(State { activity, ..State::default() }),
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
        state.ledger.accepted += 1;
        if state.closed {
            return state.lose_unrecorded(Loss::Shutdown, &record);
        }
        // Lines are written although the store is behind, so with lines only what they wait for counts here, and the
        // store's backlog is bounded where a chunk is taken.
        let waiting = if self.bounds.has_lines { state.intake } else { state.intake + state.backlog };
        if waiting >= self.bounds.records_max {
            return state.lose_unrecorded(Loss::QueueFull, &record);
        }
        if waiting > self.bounds.records_max / 2 && is_refusal(&record) {
            return state.lose_unrecorded(Loss::Refusal, &record);
        }
        state.intake += 1;
        state.bytes += record.bytes();
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
            Some(chunk) => Intake::Take(state.take(chunk, &self.bounds)),
            None => Intake::Wait,
        }
    }

    /// Waits until [`Self::intake`] may have another answer.
    pub(super) async fn intake_ready(&self) {
        self.intake_ready.notified().await;
    }

    /// Puts numbered records where the store finds them.
    pub(super) fn hand_over(&self, first: u64, taken: Taken) {
        let Taken { mut records, unrecorded, oldest, .. } = taken;
        let mut state = self.state.lock();
        state.pending += records.len();
        match state.batches.back_mut() {
            // While the store is busy many small chunks become few full batches. Numbers stay gapless: all chunks that
            // are numbered come here, in order.
            Some(last) if last.records.len() + records.len() <= self.bounds.rows => {
                last.records.append(&mut records);
                last.unrecorded.merge(&unrecorded);
                state.keep_spare(records);
            }
            _ => state.batches.push_back(Pending { first, records, unrecorded, oldest }),
        }
        drop(state);
        self.batch_ready.notify_one();
    }

    /// The next batch, which is then in the writer's hands.
    pub(super) fn pop_batch(&self) -> Option<Pending> {
        let mut state = self.state.lock();
        let batch = state.batches.pop_front()?;
        state.pending -= batch.records.len();
        state.in_hand = Some(batch.oldest);
        Some(batch)
    }

    /// The batch in hand waits on, before all others.
    pub(super) fn put_back(&self, batch: Pending) {
        let mut state = self.state.lock();
        state.pending += batch.records.len();
        state.in_hand = None;
        state.batches.push_front(batch);
    }

    /// Waits until there may be another batch.
    pub(super) async fn batch_ready(&self) {
        self.batch_ready.notified().await;
    }

    /// Records in batches that nobody has in hand.
    pub(super) fn pending(&self) -> usize {
        self.state.lock().pending
    }

    /// Whether no batch will come any more.
    pub(super) fn is_drained(&self) -> bool {
        let state = self.state.lock();
        state.closed && state.batches.is_empty()
    }

    /// What this run is once the batch in hand is stored.
    pub(super) fn beat(&self, more: u64, more_from_spool: bool) -> Beat {
        self.state.lock().ledger.beat(more, more_from_spool)
    }

    /// What this run is now.
    pub(super) fn standing(&self) -> Beat {
        self.state.lock().ledger.standing()
    }

    /// The store has a beat without a batch.
    pub(super) fn beaten(&self, beat: &Beat) {
        self.state.lock().ledger.beaten(beat);
    }

    /// The batch in hand is stored, so many of its rows refused for ever.
    pub(super) fn stored(&self, batch: Pending, rejected: usize, beat: &Beat, time: Duration) {
        let lost = rejected.min(batch.records.len()) as u64;
        let kept = batch.records.len() as u64 - lost;
        self.settle(batch.records, |state| {
            state.ledger.written += kept;
            state.ledger.count_lost(Loss::Rejected, lost);
            state.ledger.beaten(beat);
            state.activity.batches += 1;
            state.activity.batch_time += time;
        });
    }

    /// The batch in hand is in the spool.
    pub(super) fn spooled(&self, batch: Pending) {
        let count = batch.records.len() as u64;
        self.settle(batch.records, |state| state.ledger.spooled += count);
    }

    /// The batch in hand is lost.
    pub(super) fn lost(&self, batch: Pending, loss: Loss) {
        let Pending { first, records, unrecorded, .. } = batch;
        let count = records.len() as u64;
        self.settle(records, |state| {
            state.ledger.lose_numbered(loss, first, count);
            // The usage counts these all the same, with another chunk.
            state.unrecorded.keep(unrecorded);
            // Not the batch's own: a try that seemed to fail may have stored them.
            state.unrecorded.lose(count);
        });
    }

    /// What the usage counts of dropped records, and no batch has taken: at the end, when there are no more.
    pub(super) fn take_unrecorded(&self) -> Increments<String> {
        self.state.lock().unrecorded.take()
    }

    /// Such increments are lost; of so many requests.
    pub(super) fn usage_lost(&self, unrecorded: &Increments<String>) -> u64 {
        self.state.lock().unrecorded.lose_all(unrecorded)
    }

    /// Records of earlier runs were found in the spool.
    pub(super) fn recovered(&self, count: u64) {
        let mut state = self.state.lock();
        state.ledger.recovered += count;
        state.ledger.spooled += count;
    }

    /// So many records of the spool are stored, so many of them refused for ever.
    pub(super) fn replayed(&self, count: u64, rejected: u64, beat: &Beat, time: Duration) {
        let mut state = self.state.lock();
        state.ledger.spooled = state.ledger.spooled.saturating_sub(count);
        state.ledger.written += count.saturating_sub(rejected);
        state.ledger.count_lost(Loss::Rejected, rejected);
        state.ledger.beaten(beat);
        state.activity.batches += 1;
        state.activity.batch_time += time;
    }

    /// So many records of the spool are lost; `first` is the number of the first where they are this run's own.
    pub(super) fn spool_lost(&self, loss: Loss, first: Option<u64>, count: u64) {
        let mut state = self.state.lock();
        state.ledger.spooled = state.ledger.spooled.saturating_sub(count);
        match first {
            Some(first) => state.ledger.lose_numbered(loss, first, count),
            None => state.ledger.count_lost(loss, count),
        }
        // What a batch of the spool adds to the usage is lost with it.
        state.unrecorded.lose(count);
    }

    /// What the spool takes now.
    pub(super) fn spool_is(&self, bytes: u64, oldest: Option<std::time::SystemTime>, error: Option<String>) {
        let activity = &mut self.state.lock().activity;
        (activity.spool_bytes, activity.spool_oldest, activity.spool_error) = (bytes, oldest, error);
    }

    /// What the store keeps now.
    pub(super) fn keeps(&self, kept: Option<Arc<Kept>>) {
        self.state.lock().activity.kept = kept;
    }

    /// What the store keeps, as upkeep saw it last.
    pub(super) fn kept(&self) -> Option<Arc<Kept>> {
        self.state.lock().activity.kept.clone()
    }

    /// Lines are written; without a store the records are done with that.
    pub(super) fn lined(&self, written: u64, failed: u64) {
        let mut state = self.state.lock();
        state.activity.lines_written += written;
        state.activity.lines_dropped += failed;
    }

    /// Without a store: so many of these records became lines.
    pub(super) fn done_with_lines(&self, records: Vec<Record>, written: u64) {
        let failed = (records.len() as u64).saturating_sub(written);
        self.settle(records, |state| {
            state.ledger.written += written;
            state.ledger.count_lost(Loss::Lines, failed);
        });
    }

    /// Records that only became lines, because the store's backlog is full; counted as dropped when they were taken.
    pub(super) fn recycle(&self, mut records: Vec<Record>) {
        let bytes: u64 = records.iter().map(Record::bytes).sum();
        records.clear();
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        state.keep_spare(records);
    }

    fn settle(&self, mut records: Vec<Record>, count: impl FnOnce(&mut State)) {
        let settled = records.len();
        let bytes: u64 = records.iter().map(Record::bytes).sum();
        // Outside the lock: freeing a thousand records takes a while.
        records.clear();
        let mut state = self.state.lock();
        state.keep_spare(records);
        if !state.abandoned {
            state.backlog = state.backlog.saturating_sub(settled);
            state.bytes = state.bytes.saturating_sub(bytes);
            state.in_hand = None;
            count(&mut state);
        }
    }

    /// The store works; this run has that number there.
    pub(super) fn store_is_up(&self, run: u32) {
        let mut state = self.state.lock();
        state.activity.store_up = true;
        state.run = Some(run);
    }

    /// A try at the store failed.
    pub(super) fn store_failed(&self, message: &str) {
        let activity = &mut self.state.lock().activity;
        activity.store_up = false;
        activity.store_errors += 1;
        activity.last_error = Some(message.to_owned());
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

    /// Whether the end should be over.
    pub(super) fn is_past_deadline(&self) -> bool {
        self.closing.borrow().is_some_and(|deadline| deadline <= Instant::now())
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
        (state.intake, state.backlog, state.pending, state.bytes) = (0, 0, 0, 0);
        (state.closed, state.abandoned, state.in_hand) = (true, true, None);
        state.ledger.count_lost(Loss::Shutdown, lost as u64);
        for batch in &batches {
            state.unrecorded.lose_all(&batch.unrecorded);
        }
        state.unrecorded.lose(lost as u64);
        drop(state);
        drop((chunks, batches));
    }

    /// Records that were lost for one reason.
    pub(super) fn dropped(&self, loss: Loss) -> u64 {
        self.state.lock().ledger.dropped(loss)
    }

    /// One snapshot, each number counted where it happened.
    pub(super) fn counts(&self) -> Counts {
        let state = self.state.lock();
        let (ledger, activity) = (&state.ledger, &state.activity);
        let waiting = [
            state.chunks.front().map(|chunk| chunk.oldest),
            state.batches.front().map(|batch| batch.oldest),
            state.in_hand,
        ];
        let waited = waiting.into_iter().flatten().map(|oldest| oldest.elapsed());
        let in_spool = activity.spool_oldest.map(|oldest| oldest.elapsed().unwrap_or_default());
        Counts {
            accepted: ledger.accepted,
            recovered: ledger.recovered,
            written: ledger.written,
            queued: (state.intake + state.backlog) as u64,
            queued_bytes: state.bytes,
            spooled: ledger.spooled,
            spooled_bytes: activity.spool_bytes,
            spool_error: activity.spool_error.clone(),
            dropped: ledger.dropped_by_reason(),
            usage_dropped: state.unrecorded.lost(),
            oldest_unwritten: waited.chain(in_spool).max(),
            run: state.run,
            last: ledger.last,
            lines_written: activity.lines_written,
            lines_dropped: activity.lines_dropped,
            batches: activity.batches,
            batch_time: activity.batch_time,
            store_errors: activity.store_errors,
            store_up: activity.store_up,
            last_error: activity.last_error.clone(),
        }
    }
}

impl State {
    /// The record is dropped, and the roll-ups count its request all the same.
    fn lose_unrecorded(&mut self, loss: Loss, record: &Record) {
        let loss = match loss {
            // Records fill the queue because they can't leave it for the spool.
            Loss::QueueFull if self.activity.spool_error.is_some() => Loss::SpoolError,
            other => other,
        };
        self.ledger.lose(loss, 1);
        self.unrecorded.add(record);
    }

    fn keep_spare(&mut self, records: Vec<Record>) {
        if self.spare.len() < SPARE_MAX && records.is_empty() {
            self.spare.push(records);
        }
    }

    /// Numbers the records of a chunk if the store's backlog has room for them. Only what goes on is numbered, so the
    /// numbers of one run have no gaps.
    fn take(&mut self, chunk: Chunk, bounds: &Bounds) -> Taken {
        let Chunk { oldest, records } = chunk;
        let count = records.len();
        self.intake -= count;
        let has_room = self.backlog + count <= bounds.records_max;
        let (first, unrecorded) = if has_room {
            self.backlog += count;
            (Some(self.ledger.number(count)), self.unrecorded.take())
        } else {
            for record in &records {
                self.lose_unrecorded(Loss::QueueFull, record);
            }
            (None, Increments::default())
        };
        Taken { records, first, run: self.run, unrecorded, oldest }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::super::unrecorded::UNRECORDED_MAX;
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
        assert_eq!(counts.unaccounted(), 0, "{counts:?}");
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
        queue.hand_over(taken.first.unwrap(), taken);
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
        queue.hand_over(1, taken);
        (0..2).for_each(|_| queue.push(record()));
        let taken = take(&queue);
        assert_eq!((taken.first, taken.records.len()), (None, 2));
        let counts = queue.counts();
        assert_eq!((counts.queued, counts.dropped[0]), (2, ("queue_full", 2)));
        balances(&queue);
    }

    #[test]
    fn small_chunks_become_full_batches_without_gaps() {
        let queue = queue(100, 4, false);
        for (first, count) in [(1, 2), (3, 2), (5, 3)] {
            queue.hand_over(first, Taken::of(vec![record(); count], Some(first), None));
        }
        let batches = [queue.pop_batch().unwrap(), queue.pop_batch().unwrap()];
        assert_eq!(batches.map(|batch| (batch.first, batch.records.len())), [(1, 4), (5, 3)]);
    }

    #[test]
    fn refusals_go_first_and_the_usage_counts_them() {
        let queue = queue(4, 2, false);
        let no_route = || Record { decided_by: "no_route", status: 404, ..record() };
        let expired = || Record { decided_by: "expired_key", status: 401, blocked: true, ..record() };
        (0..3).for_each(|_| queue.push(no_route()));
        (0..3).for_each(|_| queue.push(expired()));
        assert_eq!(queue.dropped(Loss::Refusal), 3);
        (0..2).for_each(|_| queue.push(record()));
        assert_eq!(queue.dropped(Loss::QueueFull), 1);
        balances(&queue);
        // The first chunk takes along what was counted without a record.
        let unrecorded = take(&queue).unrecorded;
        assert_eq!(unrecorded.tallies.values().map(|tally| tally.count).sum::<u64>(), 4);
        assert!(take(&queue).unrecorded.tallies.is_empty());
    }

    #[test]
    fn what_the_usage_has_no_room_for_is_counted() {
        let queue = queue(1, 1, false);
        queue.push(record());
        for number in 0..UNRECORDED_MAX + 3 {
            queue.push(Record { endpoint: format!("/{number}").into(), ..record() });
        }
        let counts = queue.counts();
        assert_eq!((counts.dropped_in_all(), counts.usage_dropped), (UNRECORDED_MAX as u64 + 3, 3));
        // A lost batch hands its increments on, as long as there is room.
        let taken = take(&queue);
        queue.hand_over(1, taken);
        queue.push(record());
        queue.lost(queue.pop_batch().unwrap(), Loss::SpoolFull);
        let counts = queue.counts();
        assert_eq!(
            (counts.dropped_in_all(), counts.usage_dropped),
            (UNRECORDED_MAX as u64 + 5, 4 + UNRECORDED_MAX as u64)
        );
        balances(&queue);
    }

    #[test]
    fn a_spool_that_fails_is_named_as_the_reason() {
        let queue = queue(1, 1, false);
        queue.spool_is(0, None, Some("it is full".to_owned()));
        (0..3).for_each(|_| queue.push(record()));
        assert_eq!((queue.dropped(Loss::SpoolError), queue.dropped(Loss::QueueFull)), (2, 0));
        queue.spool_is(0, None, None);
        queue.push(record());
        assert_eq!((queue.dropped(Loss::SpoolError), queue.dropped(Loss::QueueFull)), (2, 1));
        balances(&queue);
    }

    #[test]
    fn what_moves_to_the_spool_and_back_is_counted_once() {
        let queue = queue(100, 2, false);
        (0..6).for_each(|_| queue.push(record()));
        for _ in 0..3 {
            let taken = take(&queue);
            queue.hand_over(taken.first.unwrap(), taken);
        }
        (0..2).for_each(|_| queue.spooled(queue.pop_batch().unwrap()));
        balances(&queue);
        let beat = queue.beat(2, true);
        assert_eq!((beat.totals.written, beat.totals.spooled), (2, 2));
        queue.replayed(2, 1, &beat, Duration::ZERO);
        queue.spool_lost(Loss::SpoolFull, Some(3), 2);
        let batch = queue.pop_batch().unwrap();
        let beat = queue.beat(2, false);
        queue.stored(batch, 0, &beat, Duration::ZERO);
        balances(&queue);
        let counts = queue.counts();
        assert_eq!((counts.written, counts.spooled, counts.queued, counts.dropped_in_all()), (3, 0, 0, 3));
        assert_eq!(counts.usage_dropped, 2);
        assert_eq!(counts.queued_bytes, 0);
    }

    #[test]
    fn what_is_abandoned_is_counted_once() {
        let queue = queue(100, 2, false);
        (0..3).for_each(|_| queue.push(record()));
        let taken = take(&queue);
        queue.hand_over(1, taken);
        let batch = queue.pop_batch().unwrap();
        let beat = queue.beat(2, false);
        queue.abandon();
        queue.stored(batch, 0, &beat, Duration::ZERO);
        queue.push(record());
        let counts = queue.counts();
        assert_eq!((counts.accepted, counts.written, counts.queued), (4, 0, 0));
        assert_eq!(queue.dropped(Loss::Shutdown), 4);
    }
}
