//! Saves what limits have counted, so that it outlives the process: every 5 s what changed, and at exit. Reads it again at start, before the first
//! request. On a thread of its own, with a connection of its own: nothing waits for it but start and stop, and these not long.
//! At most 5 s of admissions are forgotten by a crash. Where the store is away at start, counting begins at nothing, loudly; what it
//! holds is added as soon as it is back, and nothing is written before that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::config::Config;
use crate::policy::limit::{Now, SavedCount};
use crate::runtime::Live;
use crate::store::{CHUNK, CounterRow, Counters, Failure};
use crate::words::counted;

const SAVE_EVERY: Duration = Duration::from_secs(5);

/// How long the start waits for what was counted before.
const LOAD_WITHIN: Duration = Duration::from_secs(10);

/// How long the exit waits for the last save, beside what it waits for the log anyway.
const LAST_SAVE_AT_LEAST: Duration = Duration::from_millis(500);

/// And at most, however long the log may take.
const LAST_SAVE_WITHIN: Duration = Duration::from_secs(5);

/// At most one message about a store that is away in so long.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// How saving goes, for metrics.
#[derive(Default)]
pub(super) struct Saved {
    /// When everything was in the store last; none while nothing has to be saved, or nothing was.
    last: Mutex<Option<Instant>>,
    failures: AtomicU64,
    rows: AtomicU64,
}

/// The thread that saves.
pub(super) struct Saver {
    stop: Sender<()>,
    ended: Receiver<()>,
    thread: JoinHandle<()>,
}

/// The thread's own.
struct Saving {
    live: Arc<Live>,
    counters: Counters,
    runtime: tokio::runtime::Runtime,
    saved: Arc<Saved>,
    is_loaded: bool,
    /// After a failure nobody knows what was written: everything is, next time.
    everything: bool,
    said: Option<Instant>,
}

impl Saved {
    /// Seconds since everything was in the store; none where nothing was saved yet.
    pub(super) fn age(&self) -> Option<Duration> {
        self.last.lock().map(|last| last.elapsed())
    }

    /// Saves that failed.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Rows that were written.
    pub(super) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}

impl Saver {
    /// Starts the thread, and waits until what was counted before is counted again, or can't be. None without a store.
    ///
    /// # Errors
    /// The store's URL can't be read, or there is no thread.
    pub(super) fn start(
        config: &Config,
        node: &str,
        live: &Arc<Live>,
        saved: &Arc<Saved>,
    ) -> Result<Option<Self>, String> {
        let Some(counters) = Counters::of(&config.log.store, &gateway(config, node))? else {
            if live.load().limits.has_saved() {
                log::warn!(
                    "log.store is none: what limits of an hour and longer have counted is not saved, and is forgotten when the process ends"
                );
            }
            return Ok(None);
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("no runtime to save counts of limits: {error}"))?;
        let (live, saved) = (Arc::clone(live), Arc::clone(saved));
        let saving = Saving { live, counters, runtime, saved, is_loaded: false, everything: true, said: None };
        let (stop, stopped) = channel();
        let (tell_loaded, loaded) = sync_channel(1);
        let (tell_ended, ended) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("limit-counters".to_owned())
            .spawn(move || saving.run(&stopped, &tell_loaded, &tell_ended))
            .map_err(|error| format!("no thread to save counts of limits: {error}"))?;
        if loaded.recv_timeout(LOAD_WITHIN).is_err() {
            log::error!("what limits have counted before could not be read within {} s", LOAD_WITHIN.as_secs());
        }
        Ok(Some(Self { stop, ended, thread }))
    }

    /// Begins the last save.
    pub(super) fn stop(&self) {
        // A thread that is gone has nothing to be told.
        let _ = self.stop.send(());
    }

    /// Waits for the last save, after [`Self::stop`]; not long beyond the deadline of the log.
    pub(super) fn finish(self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now()).clamp(LAST_SAVE_AT_LEAST, LAST_SAVE_WITHIN);
        match self.ended.recv_timeout(left) {
            Ok(()) => _ = self.thread.join(),
            Err(_) => log::error!("what limits have counted could not be saved in time"),
        }
    }
}

/// Tells gateways apart that share a store. The node alone does not: two may run on one host.
fn gateway(config: &Config, node: &str) -> String {
    let listen: Vec<String> = config.listen.iter().map(|listener| listener.address.to_string()).collect();
    format!("{node} {}", listen.join(" "))
}

impl Saving {
    fn run(mut self, stopped: &Receiver<()>, tell_loaded: &SyncSender<()>, tell_ended: &SyncSender<()>) {
        if self.live.load().limits.has_saved() {
            self.load();
        }
        // Whoever does not wait any more need not be told.
        let _ = tell_loaded.try_send(());
        while stopped.recv_timeout(SAVE_EVERY) == Err(RecvTimeoutError::Timeout) {
            self.round();
        }
        self.round();
        let _ = tell_ended.try_send(());
    }

    fn round(&mut self) {
        if !self.live.load().limits.has_saved() {
            return;
        }
        // Written first, the present counts would take the place of those before.
        if !self.is_loaded {
            self.load();
        }
        if self.is_loaded {
            self.save();
        }
    }

    fn load(&mut self) {
        match self.read_all() {
            Ok(0) => self.is_loaded = true,
            Ok(count) => {
                self.is_loaded = true;
                log::info!("limits go on with {} of before", counted(count as u64, "count"));
            }
            Err(failure) => self.say(&failure, "what limits have counted before can't be read"),
        }
    }

    fn read_all(&mut self) -> Result<usize, Failure> {
        let (mut after, mut rows) = ([0; 16], Vec::new());
        loop {
            let found = self.runtime.block_on(self.counters.load(after, now_ms()))?;
            let is_last = found.len() < CHUNK;
            after = found.last().map(CounterRow::id).unwrap_or_default();
            rows.extend(found);
            if is_last {
                break;
            }
        }
        // All of them or none: a count that is added twice would refuse too much.
        let (runtime, now) = (self.live.load(), Now::read());
        let book = &runtime.limits;
        Ok(rows.into_iter().map(of_row).filter(|one| book.add_saved(one, now)).count())
    }

    fn save(&mut self) {
        let mut rows = Vec::new();
        let everything = std::mem::replace(&mut self.everything, false);
        self.live.load().limits.unsaved(Now::read(), everything, |one| rows.push(row_of(one)));
        match self.write(&rows) {
            Ok(()) => {
                self.saved.rows.fetch_add(rows.len() as u64, Ordering::Relaxed);
                *self.saved.last.lock() = Some(Instant::now());
                self.said = None;
            }
            Err(failure) => {
                self.everything = true;
                self.say(&failure, "what limits have counted can't be saved");
            }
        }
    }

    fn write(&mut self, rows: &[CounterRow]) -> Result<(), Failure> {
        for chunk in rows.chunks(CHUNK) {
            let begun = Instant::now();
            self.runtime.block_on(self.counters.save(chunk))?;
            // As long as it was kept busy, the store is left to the request log.
            std::thread::sleep(begun.elapsed().min(Duration::from_millis(50)));
        }
        while self.runtime.block_on(self.counters.remove_expired(now_ms()))? == CHUNK {}
        Ok(())
    }

    fn say(&mut self, failure: &Failure, what: &str) {
        self.saved.failures.fetch_add(1, Ordering::Relaxed);
        if self.said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
            log::error!("{what}: {}; tried again every {} s", failure.message(), SAVE_EVERY.as_secs());
            self.said = Some(Instant::now());
        }
    }
}

fn row_of(one: SavedCount) -> CounterRow {
    let expires_ms = u64::try_from(one.expires.as_millis()).unwrap_or(u64::MAX);
    CounterRow { limit: one.limit, identity: one.identity, uses: one.uses, expires_ms }
}

fn of_row(row: CounterRow) -> SavedCount {
    let expires = Duration::from_millis(row.expires_ms);
    SavedCount { limit: row.limit, identity: row.identity, uses: row.uses, expires }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
