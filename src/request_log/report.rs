//! What the writer says about the store, on changes and not per try; and how long it waits between tries.
//! Not here: what is tried, and what becomes of it (`storing.rs`).

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::ledger::Loss;
use super::queue::Queue;
use crate::store::Failure;

/// First and longest pause between two tries.
const AWAY_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The same where only an operator can help: a wrong password tried ten times a second is an attack on the server.
const DENIED_PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// While the process ends there is little time left.
const CLOSING_PAUSE_MAX: Duration = Duration::from_millis(500);
/// How often a lasting fault is said again.
pub(super) const REMIND_EVERY: Duration = Duration::from_secs(60);
/// A store that fails and returns again and again is not reported more often.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Whether the store works, as the messages tell it.
#[derive(Default)]
pub(super) struct StoreReport {
    /// Since when the store can't be used, and when that was said last.
    away_since: Option<Instant>,
    /// Whether that it is away was said, so that its return is.
    is_said: bool,
    said: Option<(Instant, String)>,
}

impl StoreReport {
    /// A try failed.
    pub(super) fn away(&mut self, failure: &Failure, queue: &Queue) {
        let now = Instant::now();
        let since = *self.away_since.get_or_insert(now);
        let message = failure.message();
        let waiting = waiting(queue);
        match &self.said {
            Some((said, _)) if now.duration_since(*said) < SAY_AGAIN_AFTER => return,
            Some((said, same)) if same == message && now.duration_since(*said) < REMIND_EVERY => return,
            Some(_) => {
                let seconds = now.duration_since(since).as_secs();
                log::error!("request log: the store can't be used since {seconds} s: {message}; {waiting}");
            }
            None => log::error!("request log: the store can't be used: {message}; {waiting}, it is tried again"),
        }
        self.is_said = true;
        self.said = Some((now, message.to_owned()));
    }

    /// A try succeeded.
    pub(super) fn up(&mut self, queue: &Queue) {
        let Some(since) = self.away_since.take().filter(|_| std::mem::take(&mut self.is_said)) else { return };
        let counts = queue.counts();
        log::warn!(
            "request log: the store is back after {:.1} s; {}, {} were dropped since the start",
            since.elapsed().as_secs_f64(),
            waiting(queue),
            counts.dropped_in_all()
        );
        // A store that comes and goes is said again only after a while.
        if self.said.as_ref().is_some_and(|(said, _)| said.elapsed() >= SAY_AGAIN_AFTER) {
            self.said = None;
        }
    }
}

fn waiting(queue: &Queue) -> String {
    let counts = queue.counts();
    let records_max = queue.bounds.records_max;
    match counts.spooled {
        0 => format!("{} of {records_max} records wait", counts.queued),
        spooled => format!("{} of {records_max} records wait, and {spooled} in the spool", counts.queued),
    }
}

/// The pause before the next try: doubled each time, up to a ceiling, shortened by chance so that several gateways do
/// not come back all at once.
#[derive(Default)]
pub(super) struct Pause {
    tries: u32,
}

impl Pause {
    pub(super) fn next(&mut self, failure: &Failure, closing: bool) -> Duration {
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

    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }
}

/// Says that records are dropped, at most every ten seconds.
#[derive(Default)]
pub(super) struct DropReport {
    said: Vec<(&'static str, u64)>,
    at: Option<Instant>,
}

impl DropReport {
    pub(super) fn say(&mut self, queue: &Queue) {
        if self.at.is_some_and(|at| at.elapsed() < SAY_AGAIN_AFTER) {
            return;
        }
        // Rejected rows and lines have messages of their own.
        let told = [Loss::QueueFull, Loss::Refusal, Loss::SpoolFull, Loss::SpoolError];
        let now: Vec<_> = told.map(|loss| (loss.word(), queue.dropped(loss))).to_vec();
        let before = |word: &str| self.said.iter().find(|(said, _)| *said == word).map_or(0, |(_, count)| *count);
        let more: Vec<_> = now.iter().filter(|(word, count)| *count > before(word)).collect();
        if more.is_empty() {
            return;
        }
        for (word, count) in more {
            let why = match *word {
                "queue_full" => "the queue is full (log.queue)",
                "refusal" => "the queue is more than half full, and refusals go first",
                "spool_full" => "the spool is full (log.spool_max)",
                _ => "the spool can't be written or read",
            };
            log::error!("request log: {} records dropped, {count} in all: {why} ({word})", count - before(word));
        }
        (self.said, self.at) = (now, Some(Instant::now()));
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
