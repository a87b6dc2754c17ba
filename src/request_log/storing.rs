//! The store stage: stores batch after batch, each in one transaction with where this run stands. What the store does not take
//! goes to the shelf and comes back in order when it does. Between batches: the beat, the ends of earlier runs, upkeep.
//! A batch keeps its numbers through memory, spool and all tries, so it is stored once however often it is tried.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::batches::Pending;
use super::ledger::Loss;
use super::queue::Queue;
use super::report::{DropReport, Pause, StoreReport};
use super::shelf::Shelf;
use super::spool::Frame;
use crate::config::Retention;
use crate::store::usage::Increments;
use crate::store::{Batch, Failure, Rejected, Row, Run, Store};

/// How often a run says that it lives, when nothing else says so.
const BEAT_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked whether something else is due.
const TICK: Duration = Duration::from_secs(1);
/// Between two steps of upkeep while there is more to do, and otherwise.
const UPKEEP_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(30));
/// The longest that it waits for the store to be idle, while there is more to do, and otherwise.
const UPKEEP_PATIENCE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How long one try may take while the process ends, where there is a spool to go to instead.
const CLOSING_TRY: Duration = Duration::from_secs(3);
/// After a try that took longer than the pause that was due.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Rejected rows that are named one by one, of each batch.
const REJECTED_NAMED_MAX: usize = 5;

/// The store stage.
pub(super) struct StoreStage<'a> {
    queue: &'a Queue,
    run: Run,
    store: Store,
    shelf: &'a Shelf,
    retention: Retention,
    /// What is being stored; stays here when a try is cut off.
    hand: Option<Pending>,
    frame: Option<Rc<Frame>>,
    /// This run's number in the store.
    number: Option<u32>,
    /// The last one came from the spool, so the queue is next.
    queue_is_next: bool,
    beat_at: Instant,
    upkeep_at: Instant,
    /// How long upkeep that is due may be put off for batches: a store that is never idle has to be kept up, too.
    upkeep_patience: Duration,
    report: StoreReport,
    drops: DropReport,
}

/// What a step did.
enum Step {
    Stored,
    Nothing,
}

impl<'a> StoreStage<'a> {
    pub(super) fn new(queue: &'a Queue, (run, store): (Run, Store), shelf: &'a Shelf, retention: Retention) -> Self {
        let now = Instant::now();
        Self {
            queue,
            run,
            store,
            shelf,
            retention,
            hand: None,
            frame: None,
            number: None,
            queue_is_next: false,
            beat_at: now,
            upkeep_at: now,
            upkeep_patience: UPKEEP_PATIENCE.1,
            report: StoreReport::default(),
            drops: DropReport::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let queue = self.queue;
        let mut pause = Pause::default();
        loop {
            let has_spool = self.shelf.is_there();
            let began = Instant::now();
            let step = tokio::select! {
                biased;
                step = self.step() => step,
                () = queue.deadline() => Err(Failure::Away("no time was left".to_owned())),
                () = end_of_try(queue), if has_spool => Err(Failure::Away("no answer while the process ends".to_owned())),
            };
            if step.is_ok() {
                self.succeeded();
            }
            self.shelf.tick(queue);
            self.drops.say(queue);
            match step {
                Ok(Step::Stored) => pause.reset(),
                Ok(Step::Nothing) if queue.is_drained() => break,
                Ok(Step::Nothing) => {
                    pause.reset();
                    self.wait(TICK).await;
                }
                Err(failure) => {
                    self.failed(&failure);
                    if queue.is_closing() && self.gives_up(&failure) {
                        self.leave_behind().await;
                        return;
                    }
                    let pause = pause.next(&failure, queue.is_closing());
                    // From one try to the next, so that a try that hangs does not make the return be noticed later.
                    self.wait_for_store(pause.saturating_sub(began.elapsed()).max(PAUSE_MIN)).await;
                }
            }
        }
        self.close().await;
    }

    /// Opens the store if it is not open, and does the next thing that is due.
    async fn step(&mut self) -> Result<Step, Failure> {
        self.number = Some(self.store.open().await?);
        if self.upkeep_at.elapsed() >= self.upkeep_patience {
            self.keep_up().await?;
        }
        if self.hand.is_none() && self.frame.is_none() {
            self.take_next();
        }
        if self.hand.is_some() {
            return self.store_batch().await;
        }
        if let Some(frame) = self.frame.clone() {
            return self.store_frame(&frame).await;
        }
        self.maintain().await
    }

    /// The queue and the spool in turns, so that neither waits for the other's end.
    fn take_next(&mut self) {
        let from_spool = |stage: &mut Self| {
            // While the process ends, what is in the spool is safe there.
            if !stage.queue.is_closing() {
                stage.frame = stage.shelf.oldest(stage.queue).map(Rc::new);
            }
        };
        if !self.queue_is_next {
            from_spool(self);
        }
        if self.frame.is_none() {
            self.hand = self.queue.pop_batch();
        }
        if self.hand.is_none() && self.queue_is_next {
            from_spool(self);
        }
        self.queue_is_next = self.frame.is_some();
    }

    async fn store_batch(&mut self) -> Result<Step, Failure> {
        let Some(pending) = &self.hand else { return Ok(Step::Nothing) };
        let began = Instant::now();
        let rows: Vec<Row<'_>> = pending.records.iter().map(|record| Row::of(record, self.shelf.client_ip)).collect();
        let beat = self.queue.beat(rows.len() as u64, false);
        let batch = Batch { run: &self.run, first: pending.first, rows: &rows, unrecorded: &pending.unrecorded };
        let stored = self.store.insert(&batch, &beat).await?;
        self.shelf.keep_rejected(&batch, &stored.rejected);
        drop(rows);
        if let Some(pending) = self.hand.take() {
            name_rejected(pending.first, pending.records.len(), &stored.rejected);
            self.queue.stored(pending, stored.rejected.len(), &beat, began.elapsed());
        }
        self.beat_at = Instant::now();
        Ok(Step::Stored)
    }

    async fn store_frame(&mut self, frame: &Frame) -> Result<Step, Failure> {
        let began = Instant::now();
        let (Ok(rows), Ok(unrecorded)) = (frame.rows(), frame.unrecorded()) else {
            // The checksum was right, so another version wrote it.
            log::error!("request log: a batch of {} records in the spool can't be read", frame.records());
            self.shelf.give_up(self.queue, frame);
            self.done_with_frame();
            return Ok(Step::Stored);
        };
        let count = rows.len() as u64;
        let beat = self.queue.beat(count, true);
        let batch = Batch { run: frame.run(), first: frame.first(), rows: &rows, unrecorded: &unrecorded };
        let stored = self.store.insert(&batch, &beat).await?;
        self.shelf.keep_rejected(&batch, &stored.rejected);
        name_rejected(frame.first(), rows.len(), &stored.rejected);
        self.queue.replayed(count, stored.rejected.len() as u64, &beat, began.elapsed());
        self.done_with_frame();
        self.beat_at = Instant::now();
        Ok(Step::Stored)
    }

    fn done_with_frame(&mut self) {
        self.frame = None;
        self.shelf.done(self.queue);
    }

    /// What is due between batches: the ends of earlier runs, the beat, upkeep.
    async fn maintain(&mut self) -> Result<Step, Failure> {
        if let Some((run, beat)) = self.shelf.earlier_run() {
            self.store.close_killed(&run, &beat).await?;
            self.shelf.forget(&run);
            return Ok(Step::Stored);
        }
        let now = Instant::now();
        if now.duration_since(self.beat_at) >= BEAT_EVERY {
            let beat = self.queue.beat(0, false);
            self.store.beat(&beat).await?;
            self.queue.beaten(&beat);
            self.beat_at = now;
        }
        if now >= self.upkeep_at {
            self.keep_up().await?;
        }
        Ok(Step::Nothing)
    }

    /// One step of upkeep, not while the process ends.
    async fn keep_up(&mut self) -> Result<(), Failure> {
        if self.queue.is_closing() {
            return Ok(());
        }
        let more = self.store.upkeep(&self.retention).await?;
        self.queue.keeps(self.store.kept());
        let part = |pair: (Duration, Duration)| if more { pair.0 } else { pair.1 };
        (self.upkeep_at, self.upkeep_patience) = (Instant::now() + part(UPKEEP_PAUSE), part(UPKEEP_PATIENCE));
        Ok(())
    }

    fn succeeded(&mut self) {
        if let Some(number) = self.number {
            self.queue.store_is_up(number);
        }
        self.shelf.set_away(false);
        self.report.up(self.queue);
    }

    fn failed(&mut self, failure: &Failure) {
        self.queue.store_failed(failure.message());
        self.report.away(failure, self.queue);
        // What was in hand from the spool is still there; it is read again.
        self.frame = None;
        self.shelf.set_away(true);
        self.shelve();
    }

    /// What waits goes to the spool, where there is one.
    fn shelve(&mut self) {
        if let Some(batch) = self.hand.take()
            && let Err(batch) = self.shelf.put(self.queue, batch)
        {
            self.hand = Some(batch);
        }
        self.shelf.relieve(self.queue);
    }

    /// Waits for a batch, the end, or a while.
    async fn wait(&self, while_: Duration) {
        let closing = self.queue.is_closing();
        let until_upkeep = self.upkeep_at.saturating_duration_since(Instant::now()).max(UPKEEP_PAUSE.0);
        tokio::select! {
            () = self.queue.batch_ready() => {}
            () = tokio::time::sleep(while_.min(until_upkeep)) => {}
            _ = self.queue.closing(), if !closing => {}
        }
    }

    /// Waits for the next try; what comes meanwhile goes to the spool.
    async fn wait_for_store(&mut self, pause: Duration) {
        let closing = self.queue.is_closing();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // The end is a reason to try at once.
            _ = self.queue.closing(), if !closing => {}
            () = self.queue.deadline() => {}
        }
        self.shelve();
    }

    /// While the process ends: whether there is no use in trying again.
    fn gives_up(&self, failure: &Failure) -> bool {
        self.shelf.is_usable() || self.queue.is_past_deadline() || matches!(failure, Failure::Denied(_))
    }

    /// What could not be stored before the end goes to the spool; what can't, is lost.
    async fn leave_behind(&mut self) {
        if let Some(batch) = &mut self.hand {
            batch.unrecorded.merge(&self.queue.take_unrecorded());
        }
        loop {
            self.shelve();
            if let Some(batch) = self.hand.take().or_else(|| self.queue.pop_batch()) {
                let loss = if self.shelf.is_there() { Loss::SpoolError } else { Loss::Shutdown };
                self.queue.lost(batch, loss);
                continue;
            }
            if self.queue.is_drained() {
                break;
            }
            self.queue.batch_ready().await;
        }
        self.shelf.close(self.queue);
        self.leave_usage(&self.queue.take_unrecorded());
        let counts = self.queue.counts();
        if counts.spooled > 0 {
            log::warn!("request log: {} records stay in the spool, for the next start", counts.spooled);
        }
    }

    /// The end of this run; without it the run counts as killed, so a failure is said.
    async fn close(&mut self) {
        self.shelf.close(self.queue);
        let (beat, unrecorded) = (self.queue.beat(0, false), self.queue.take_unrecorded());
        let result = tokio::select! {
            result = self.store.close(&beat, &unrecorded) => result,
            () = self.queue.deadline() => Err(Failure::Away("no time was left".to_owned())),
        };
        match result {
            Ok(()) => {
                self.queue.beaten(&beat);
                self.shelf.run_is_closed();
            }
            Err(failure) => {
                log::warn!("request log: the end of this run is not recorded: {}", failure.message());
                self.leave_usage(&unrecorded);
            }
        }
    }

    /// What the usage lacks of records that were dropped.
    fn leave_usage(&self, unrecorded: &Increments<String>) {
        let lost = self.queue.usage_lost(unrecorded);
        if lost > 0 {
            log::warn!("request log: {lost} requests whose records were dropped are not in the usage either");
        }
    }
}

/// While the process ends, a try must not take long.
async fn end_of_try(queue: &Queue) {
    queue.closing().await;
    tokio::time::sleep(CLOSING_TRY).await;
}

fn name_rejected(first: u64, count: usize, rejected: &[Rejected]) {
    for Rejected { sequence, code } in rejected.iter().take(REJECTED_NAMED_MAX) {
        log::error!("request log: the store refuses the record with sequence {sequence}: {code}; dropped, and counted");
    }
    if rejected.len() > REJECTED_NAMED_MAX {
        log::error!(
            "request log: the store refuses {} of the {count} records from sequence {first} on",
            rejected.len()
        );
    }
}
