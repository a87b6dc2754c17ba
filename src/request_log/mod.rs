//! The request log: takes the record of every finished exchange and never makes an exchange wait.
//! A bounded queue, a writer on its own thread, batches by count and age into a store (`store`), JSON lines beside it
//! or alone. What the store does not take now waits in a spool on disk; what can't be kept is dropped, and counted with a reason.
//! Invariant, in every snapshot: accepted + recovered = written + queued + spooled + dropped (`ledger.rs`, `queue.rs`).

mod batches;
mod ledger;
mod lines;
mod queue;
mod report;
mod shelf;
mod spool;
mod storing;
mod tail;
mod unrecorded;
mod writer;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::config::{self, StoreUrl};
use crate::record::Record;
use crate::store::{Kept, Run, Store};

pub use lines::push_line;
pub use tail::{FOLLOWERS_MAX, Following, Wanted};

use lines::Lines;
use queue::{Bounds, Queue};
use shelf::Shelf;
use tail::Tail;
use writer::Targets;

/// How much longer than its deadline the end waits for a call that can't be cut off (a lock in SQLite takes 1 s).
const LAST_CALL: Duration = Duration::from_millis(1_500);

/// Records in a chunk where nothing but lines is written. A store's batches are larger, because each of them is a transaction;
/// lines gain nothing by waiting, and so few records are still in the processor's cache when they are written.
const LINES_ROWS_MAX: usize = 128;

/// Where finished exchanges leave their records; clones share one queue.
#[derive(Clone)]
pub struct RequestLog {
    /// None where neither a store nor JSON lines are configured.
    queue: Option<Arc<Queue>>,
    tail: Tail,
}

/// The thread behind a [`RequestLog`].
pub struct Writer {
    queue: Option<Arc<Queue>>,
    thread: Option<(JoinHandle<()>, Receiver<()>)>,
}

/// What became of the records of this process, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Records that were given to the log.
    pub accepted: u64,
    /// Records of earlier runs that were found in the spool at start.
    pub recovered: u64,
    /// Records that are stored; without a store, records that are written as lines.
    pub written: u64,
    /// Records that wait in memory, the batch in hand included.
    pub queued: u64,
    /// About how many bytes they take.
    pub queued_bytes: u64,
    /// Records that wait on disk.
    pub spooled: u64,
    /// Bytes they take there.
    pub spooled_bytes: u64,
    /// Why the spool can't be used now; none where it can, and where there is none.
    pub spool_error: Option<String>,
    /// Records that are lost, by reason; every reason is listed.
    #[serde(serialize_with = "as_map")]
    pub dropped: Vec<(&'static str, u64)>,
    /// Requests whose record was dropped at the queue and which the usage does not count either.
    pub usage_dropped: u64,
    /// How long the oldest of the records that wait has waited.
    #[serde(serialize_with = "as_seconds", rename = "oldest_unwritten_seconds")]
    pub oldest_unwritten: Option<Duration>,
    /// This run's number in the store, once the store has given it.
    pub run: Option<u32>,
    /// The highest number that was given to a record of this run.
    pub last: u64,
    /// JSON lines that are written.
    pub lines_written: u64,
    /// JSON lines that could not be written.
    pub lines_dropped: u64,
    /// Batches that are stored.
    pub batches: u64,
    /// How long that took, in all.
    #[serde(serialize_with = "as_seconds", rename = "batch_seconds")]
    pub batch_time: Duration,
    /// Tries at the store that failed.
    pub store_errors: u64,
    /// Whether the last try at the store succeeded; true where there is none.
    pub store_up: bool,
    /// What the last failed try said; without secrets.
    pub last_error: Option<String>,
}

impl Counts {
    /// Records that are lost, for whatever reason.
    pub fn dropped_in_all(&self) -> u64 {
        self.dropped.iter().map(|(_, count)| count).sum()
    }

    /// Records of which nobody knows what became of them: always 0.
    pub fn unaccounted(&self) -> i64 {
        let known = self.written + self.queued + self.spooled + self.dropped_in_all();
        (self.accepted + self.recovered).cast_signed() - known.cast_signed()
    }
}

fn as_map<S: Serializer>(counts: &[(&'static str, u64)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(counts.iter().copied())
}

fn as_seconds<S: Serializer>(time: &(impl Clone + Into<Option<Duration>>), to: S) -> Result<S::Ok, S::Error> {
    time.clone().into().map(|time: Duration| time.as_secs_f64()).serialize(to)
}

impl RequestLog {
    /// Starts the writer. A server that can't be reached is no error: it is tried again, aloud, for as long as it takes.
    ///
    /// # Errors
    /// What can never work: a JSON file that can't be opened, a SQLite file or folder that can't be created, a URL that
    /// can't be read, a spool that can't be written or belongs to another gateway.
    pub fn start(config: &config::Log, node: &str, version: &str) -> Result<(Self, Writer), String> {
        let run =
            Run { id: Uuid::now_v7(), node: node.to_owned(), version: version.to_owned(), started: SystemTime::now() };
        let lines = Lines::open(&config.json, config.client_ip)?;
        let has_store = config.store != StoreUrl::None;
        if lines.is_none() && !has_store {
            return Ok((Self { queue: None, tail: Tail::default() }, Writer { queue: None, thread: None }));
        }
        let queue = Arc::new(Queue::new(Bounds {
            records_max: config.queue.max(1),
            rows: if has_store { config.flush.rows.max(1) } else { config.flush.rows.clamp(1, LINES_ROWS_MAX) },
            age: config.flush.age.0,
            has_store,
            has_lines: lines.is_some(),
        }));
        let shelf = if has_store { Shelf::open(config, &run, &queue)? } else { Shelf::none(config.client_ip) };
        // After the spool, so that a start that another gateway's lock forbids leaves no run behind.
        let store = Store::of(&config.store, run.clone())?;
        let tail = Tail::default();
        let targets = Targets {
            store: store.map(|store| (run, store)),
            shelf,
            lines,
            tail: tail.clone(),
            retention: config.retention.clone(),
        };
        let (alive, finished) = channel();
        let writers = Arc::clone(&queue);
        let thread = std::thread::Builder::new()
            .name("request-log".to_owned())
            .spawn(move || {
                writer::run(&writers, targets);
                drop(alive);
            })
            .map_err(|error| format!("log: no thread for the writer: {error}"))?;
        let writer = Writer { queue: Some(Arc::clone(&queue)), thread: Some((thread, finished)) };
        Ok((Self { queue: Some(queue), tail }, writer))
    }

    /// Shows the records that are wanted, as they come; none when too many follow already.
    pub fn follow(&self, wanted: Wanted) -> Option<Following> {
        self.tail.follow(wanted)
    }

    /// Whether neither a store nor JSON lines are configured; [`Self::record`] does and counts nothing then.
    pub fn is_off(&self) -> bool {
        self.queue.is_none()
    }

    /// Takes a record. Never waits for the store: where the queue is full the record is dropped and counted.
    pub fn record(&self, record: Record) {
        if let Some(queue) = &self.queue {
            queue.push(record);
        }
    }

    /// One snapshot, in which accepted + recovered = written + queued + spooled + dropped.
    pub fn counts(&self) -> Counts {
        counts(self.queue.as_deref())
    }

    /// What the store keeps, as the writer saw it last; none before that, and without a store.
    pub fn kept(&self) -> Option<Arc<Kept>> {
        self.queue.as_ref().and_then(|queue| queue.kept())
    }

    /// The JSON lines go to a newly opened file from the next batch on: for log rotation.
    pub fn reopen(&self) {
        if let Some(queue) = &self.queue {
            queue.ask_to_reopen();
        }
    }
}

impl Writer {
    /// Closes the queue, writes what is in it until the deadline, and ends the thread. What could not be written goes to
    /// the spool; without one it is counted as dropped, reason `shutdown`.
    pub fn finish(self, deadline: Instant) -> Counts {
        if let (Some(queue), Some((thread, finished))) = (&self.queue, self.thread) {
            queue.close(deadline);
            let patience = deadline.saturating_duration_since(Instant::now()).saturating_add(LAST_CALL);
            if finished.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                // A write that blocks (a pipe that nobody reads) can't be cut off; the process must end all the same.
                log::error!("request log: the writer did not end in time");
                queue.abandon();
            } else if thread.join().is_err() {
                queue.abandon();
            }
        }
        counts(self.queue.as_deref())
    }
}

fn counts(queue: Option<&Queue>) -> Counts {
    queue.map_or_else(|| Counts { store_up: true, ..Counts::default() }, Queue::counts)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub use tests::record as record_for_tests;
