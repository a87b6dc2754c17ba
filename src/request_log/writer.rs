//! The writer: the only reader of the queue, on its own thread and runtime, independent of the server's.
//! Two stages: the intake takes chunks when they are full or old enough, numbers them and writes lines; the store stage
//! stores one batch after the other and tries a failed one until it is stored, so lines go on while the store is away.
//! A batch keeps its numbers through all tries. What it says about the store, it says on changes, not per try.

use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::lines::Lines;
use super::queue::{Intake, Loss, Queue};
use crate::store::{Batch, Failure, Rejected, Store, Totals};

/// First and longest pause between two tries.
const AWAY_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The same where only an operator can help: a wrong password tried ten times a second is an attack on the server.
const DENIED_PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// While the process ends there is little time left.
const CLOSING_PAUSE_MAX: Duration = Duration::from_millis(500);
/// How often a lasting fault is said again.
const REMIND_EVERY: Duration = Duration::from_secs(60);
/// A store that fails and returns again and again is not reported more often.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Rejected rows that are named one by one, of each batch.
const REJECTED_NAMED_MAX: usize = 5;

/// Runs until the queue is closed and empty, or its deadline has passed.
pub(super) fn run(queue: &Queue, store: Option<Store>, lines: Option<Lines>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return stop(queue, &format!("no runtime for the writer: {error}")),
    };
    let both = async {
        match store {
            Some(store) => {
                tokio::join!(take(queue, lines), StoreStage::new(queue, store).run());
            }
            None => take(queue, lines).await,
        }
    };
    if catch_unwind(AssertUnwindSafe(|| runtime.block_on(both))).is_err() {
        stop(queue, "the writer failed");
    }
}

/// Without a writer everything is lost, and has to be counted.
fn stop(queue: &Queue, why: &str) {
    log::error!("request log: {why}; nothing is logged any more");
    queue.store_failed(why);
    queue.abandon();
}

/// The intake stage.
async fn take(queue: &Queue, mut lines: Option<Lines>) {
    let mut drops = DropReport::default();
    loop {
        match queue.intake() {
            Intake::Done => return,
            Intake::Wait => queue.intake_ready().await,
            Intake::WaitUntil(due) => {
                tokio::select! {
                    () = queue.intake_ready() => {}
                    () = tokio::time::sleep_until(due.into()) => {}
                }
            }
            Intake::Reopen => {
                if let Some(lines) = &mut lines {
                    lines.reopen();
                }
            }
            Intake::Take(taken) => {
                let (written, failed) = lines.as_mut().map_or((0, 0), |lines| lines.write(&taken));
                queue.lined(written, failed);
                match taken.first {
                    Some(_) if !queue.bounds.has_store => queue.done_with_lines(taken.records, written),
                    Some(first) => queue.hand_over(first, taken.records),
                    None => queue.recycle(taken.records),
                }
                drops.say(queue);
                // The store stage shares this thread.
                tokio::task::yield_now().await;
            }
        }
    }
}

/// The store stage.
struct StoreStage<'a> {
    queue: &'a Queue,
    store: Store,
    drops: DropReport,
    /// Since when the store can't be used, and when that was said last.
    away_since: Option<Instant>,
    said: Option<(Instant, String)>,
}

impl<'a> StoreStage<'a> {
    fn new(queue: &'a Queue, store: Store) -> Self {
        Self { queue, store, drops: DropReport::default(), away_since: None, said: None }
    }

    async fn run(mut self) {
        // Before the first record, so that tables are there and a wrong password is known at start.
        let queue = self.queue;
        let opened = tokio::select! {
            biased;
            opened = self.persist(None) => opened.is_some(),
            _ = queue.closing() => true,
        };
        let mut gave_up = !opened;
        while let Some(batch) = self.queue.next_batch().await {
            let rejected = if gave_up { None } else { self.persist(Some(&batch)).await };
            match rejected {
                Some(rejected) => {
                    name_rejected(&batch, &rejected);
                    self.queue.stored(batch, &rejected);
                    self.drops.say(self.queue);
                }
                None => {
                    gave_up = true;
                    self.queue.lost(batch, Loss::Shutdown);
                }
            }
        }
        if !gave_up {
            self.close().await;
        }
    }

    /// Stores a batch, or only opens the store, however many tries that takes. None when the process ends first.
    async fn persist(&mut self, batch: Option<&Batch>) -> Option<Vec<Rejected>> {
        let mut pause = Pause::default();
        loop {
            let store = &mut self.store;
            let attempt = async {
                let run = store.open().await?;
                let rejected = match batch {
                    Some(batch) => store.insert(batch).await?,
                    None => Vec::new(),
                };
                Ok::<_, Failure>((run, rejected))
            };
            let result = tokio::select! {
                biased;
                result = attempt => result,
                () = self.queue.deadline() => return None,
            };
            match result {
                Ok((run, rejected)) => {
                    self.queue.store_is_up(Some(run));
                    self.say_up();
                    return Some(rejected);
                }
                Err(failure) => {
                    self.queue.store_failed(failure.message());
                    self.say_away(&failure);
                    self.drops.say(self.queue);
                    let closing = self.queue.is_closing();
                    if closing && matches!(failure, Failure::Denied(_)) {
                        return None;
                    }
                    let wait = pause.next(&failure, closing);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        // The end is a reason to try at once.
                        _ = self.queue.closing(), if !closing => {}
                        () = self.queue.deadline() => return None,
                    }
                }
            }
        }
    }

    /// Writes the totals; without them the run counts as killed, so a failure is said.
    async fn close(&mut self) {
        let counts = self.queue.counts();
        let totals = Totals { accepted: counts.accepted, written: counts.written, dropped: counts.dropped_in_all() };
        let result = tokio::select! {
            result = self.store.close(totals) => result,
            () = self.queue.deadline() => Err(Failure::Away("no time was left".to_owned())),
        };
        if let Err(failure) = result {
            log::warn!("request log: the end of this run is not recorded: {}", failure.message());
        }
    }

    fn say_away(&mut self, failure: &Failure) {
        let now = Instant::now();
        let since = *self.away_since.get_or_insert(now);
        let counts = self.queue.counts();
        let waiting = format!("{} of {} records wait", counts.queued, self.queue.bounds.records_max);
        let message = failure.message();
        match &self.said {
            Some((said, _)) if now.duration_since(*said) < SAY_AGAIN_AFTER => return,
            Some((said, same)) if same == message && now.duration_since(*said) < REMIND_EVERY => return,
            Some(_) => {
                let seconds = now.duration_since(since).as_secs();
                log::error!("request log: the store can't be used since {seconds} s: {message}; {waiting}");
            }
            None => log::error!("request log: the store can't be used: {message}; {waiting}, it is tried again"),
        }
        self.said = Some((now, message.to_owned()));
    }

    fn say_up(&mut self) {
        let Some(since) = self.away_since.take() else { return };
        let counts = self.queue.counts();
        log::warn!(
            "request log: the store is back after {:.1} s; {} records wait, {} were dropped since the start",
            since.elapsed().as_secs_f64(),
            counts.queued,
            counts.dropped_in_all()
        );
        // A store that comes and goes is said again only after a while.
        if self.said.as_ref().is_some_and(|(said, _)| said.elapsed() >= SAY_AGAIN_AFTER) {
            self.said = None;
        }
    }
}

fn name_rejected(batch: &Batch, rejected: &[Rejected]) {
    for Rejected { sequence, code } in rejected.iter().take(REJECTED_NAMED_MAX) {
        log::error!("request log: the store refuses the record with sequence {sequence}: {code}; dropped, and counted");
    }
    if rejected.len() > REJECTED_NAMED_MAX {
        log::error!(
            "request log: the store refuses {} of the {} records from sequence {} on",
            rejected.len(),
            batch.records.len(),
            batch.first
        );
    }
}

/// The pause before the next try: doubled each time, up to a ceiling, shortened by chance so that several gateways do
/// not come back all at once.
#[derive(Default)]
struct Pause {
    tries: u32,
}

impl Pause {
    fn next(&mut self, failure: &Failure, closing: bool) -> Duration {
        let (first, last) = match failure {
            Failure::Away(_) => AWAY_PAUSE,
            Failure::Denied(_) => DENIED_PAUSE,
        };
        let whole = first.saturating_mul(1 << self.tries.min(10)).min(last);
        self.tries = self.tries.saturating_add(1);
        let chance = u32::try_from(RandomState::new().hash_one(self.tries) % 1_000).unwrap_or_default();
        let pause = whole / 2 + whole / 2 * chance / 1_000;
        if closing { pause.min(CLOSING_PAUSE_MAX) } else { pause }
    }
}

/// Says that records are dropped, at most every ten seconds.
#[derive(Default)]
struct DropReport {
    said: u64,
    at: Option<Instant>,
}

impl DropReport {
    fn say(&mut self, queue: &Queue) {
        if self.at.is_some_and(|at| at.elapsed() < SAY_AGAIN_AFTER) {
            return;
        }
        let full = queue.dropped(Loss::QueueFull);
        if full > self.said {
            let (more, bound) = (full - self.said, queue.bounds.records_max);
            log::error!("request log: {more} records dropped, because {bound} wait already (log.queue); {full} in all");
            (self.said, self.at) = (full, Some(Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_ceiling() {
        let (away, denied) = (Failure::Away(String::new()), Failure::Denied(String::new()));
        for (failure, tries, closing, least, most) in [
            (&away, 0, false, 50, 100),
            (&away, 3, false, 400, 800),
            (&away, 30, false, 2_500, 5_000),
            (&away, 30, true, 500, 500),
            (&denied, 0, false, 2_500, 5_000),
            (&denied, u32::MAX, false, 30_000, 60_000),
        ] {
            let pause = Pause { tries }.next(failure, closing).as_millis();
            assert!((least..=most).contains(&pause), "{failure:?} after {tries}: {pause} ms");
        }
    }
}
