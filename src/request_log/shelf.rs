//! The shelf: where batches go that the store does not take now. Both stages of the writer put batches there, on one thread.
//! Holds the spool, the file of this run beside it, and the rows that no store takes; tells the queue's ledger what moved.
//! A batch that can't be written because of the disk waits in memory, so that a disk which is full for a moment costs nothing;
//! a gateway whose disk is full serves on, and starts.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::batches::Pending;
use super::ledger::Loss;
use super::queue::Queue;
use super::report::REMIND_EVERY;
use super::spool::{Finding, Frame, Lost, Outcome, Range, Rejects, RunFile, Spool, is_full};
use crate::config::{self, ClientIp};
use crate::store::{Batch, Beat, Drops, Rejected, Row, Run};
use crate::words::counted;

/// How long a spool that failed is left alone.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
/// A spool that failed, and was not needed for so long, is looked at again.
const FAILED_LOOK: Duration = Duration::from_secs(5);
/// In the ids of checkpoints that a later run makes for an earlier one, with the first number that was lost: that run may have
/// stored checkpoints of its own, whose ids count from 1.
const FOR_ANOTHER: u64 = 1 << 60;
/// How often the spool is forced to the disk, and the run's file written.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// The spool, if there is one, as both stages use it.
pub(super) struct Shelf {
    inside: RefCell<Option<Inside>>,
    /// What is kept of client addresses.
    pub(super) client_ip: ClientIp,
    /// The store can't be used: nothing waits in memory for it.
    is_away: Cell<bool>,
}

struct Inside {
    folder: PathBuf,
    spool: Spool,
    run: Run,
    run_file: RunFile,
    rejects: Rejects,
    /// Runs that left something here, with what is known of them; losses of theirs are added.
    earlier: Vec<(Run, Beat)>,
    /// What the run's file says.
    saved: Option<Beat>,
    save_at: Instant,
    /// Why the run's file does not say how things are.
    unsaved: Option<String>,
    failed: Option<Failed>,
}

/// The spool failed last then, and why.
struct Failed {
    at: Instant,
    said: Instant,
    why: String,
}

impl Shelf {
    /// Without a spool.
    pub(super) fn none(client_ip: ClientIp) -> Self {
        Self { inside: RefCell::new(None), client_ip, is_away: Cell::new(false) }
    }

    /// With the configured spool; what earlier runs left there is counted.
    ///
    /// # Errors
    /// The folder can't be used, or another gateway has it.
    pub(super) fn open(config: &config::Log, run: &Run, queue: &Queue) -> Result<Self, String> {
        let shelf = Self::none(config.client_ip);
        let config::Spool::Folder(folder) = &config.spool else { return Ok(shelf) };
        let (spool, findings) = Spool::open(folder, config.spool_max.0, config.spool_full, run)?;
        let inside = Inside::new(folder, spool, run.clone(), queue, findings)?;
        shelf.inside.replace(Some(inside));
        Ok(shelf)
    }

    /// Whether there is a spool.
    pub(super) fn is_there(&self) -> bool {
        self.inside.borrow().is_some()
    }

    /// Whether there is a spool that takes what comes.
    pub(super) fn is_usable(&self) -> bool {
        self.inside.borrow().as_ref().is_some_and(|inside| inside.failed.is_none())
    }

    pub(super) fn set_away(&self, is_away: bool) {
        self.is_away.set(is_away);
    }

    /// Takes batches out of the queue: all of them while the store is away, otherwise what is more than a quarter of the
    /// queue. A store that hangs is overtaken that way.
    pub(super) fn relieve(&self, queue: &Queue) {
        let most = if self.is_away.get() { 0 } else { queue.bounds.records_max / 4 };
        while self.is_there() && queue.pending() > most {
            let Some(batch) = queue.pop_batch() else { return };
            if let Err(batch) = self.put(queue, batch) {
                return queue.put_back(batch);
            }
        }
    }

    /// Puts a batch on the shelf, where it is spooled or, for want of room, lost.
    ///
    /// # Errors
    /// There is no spool, or it can't be written now: the batch comes back.
    pub(super) fn put(&self, queue: &Queue, batch: Pending) -> Result<(), Pending> {
        match self.inside.borrow_mut().as_mut() {
            Some(inside) => inside.put(queue, batch, self.client_ip),
            None => Err(batch),
        }
    }

    /// The batch that has waited longest.
    pub(super) fn oldest(&self, queue: &Queue) -> Option<Frame> {
        let mut inside = self.inside.borrow_mut();
        let inside = inside.as_mut()?;
        let frame = inside.spool.oldest();
        let findings = inside.spool.take_findings();
        inside.note(queue, findings, false);
        frame.unwrap_or_else(|error| {
            inside.say_failed(&error, "read");
            None
        })
    }

    /// The batch that [`Self::oldest`] gave is stored, or given up.
    pub(super) fn done(&self, queue: &Queue) {
        if let Some(inside) = self.inside.borrow_mut().as_mut() {
            if let Err(error) = inside.spool.done() {
                inside.say_failed(&error, "tidied");
            }
            inside.tell(queue);
        }
    }

    /// A batch that [`Self::oldest`] gave can't be read.
    pub(super) fn give_up(&self, queue: &Queue, frame: &Frame) {
        if let Some(inside) = self.inside.borrow_mut().as_mut() {
            let range = Range { run: frame.run().clone(), first: frame.first(), last: frame.last() };
            inside.lost(queue, Loss::SpoolError, &[range]);
        }
    }

    /// An earlier run of which nothing is left in the spool.
    pub(super) fn earlier_run(&self) -> Option<(Run, Beat)> {
        let inside = self.inside.borrow();
        let inside = inside.as_ref()?;
        if inside.spool.holds_earlier_runs() { None } else { inside.earlier.first().cloned() }
    }

    /// An earlier run is closed in the store.
    pub(super) fn forget(&self, run: &Run) {
        if let Some(inside) = self.inside.borrow_mut().as_mut() {
            inside.earlier.retain(|(earlier, _)| earlier.id != run.id);
            if let Err(error) = inside.spool.forget_run(run) {
                log::error!("request log: the file of an earlier run can't be removed: {error}");
            }
        }
    }

    /// Rows that the store will never take are kept in a file, for people.
    pub(super) fn keep_rejected(&self, batch: &Batch<'_>, rejected: &[Rejected]) {
        let mut inside = self.inside.borrow_mut();
        let Some(inside) = inside.as_mut() else { return };
        for Rejected { sequence, code } in rejected {
            let row = usize::try_from(sequence - batch.first).ok().and_then(|place| batch.rows.get(place));
            let written = row.map(|row| inside.rejects.write(batch.run, *sequence, code, row));
            if let Some(Err(error)) = written {
                return log::error!("request log: refused rows can't be kept in rejected.jsonl: {error}");
            }
        }
    }

    /// Called again and again: forces the spool to the disk, and keeps the file of this run up to date.
    pub(super) fn tick(&self, queue: &Queue) {
        if let Some(inside) = self.inside.borrow_mut().as_mut()
            && inside.save_at <= Instant::now()
        {
            inside.save(queue, Spool::sync, false);
        }
    }

    /// The end: everything is on the disk.
    pub(super) fn close(&self, queue: &Queue) {
        if let Some(inside) = self.inside.borrow_mut().as_mut() {
            inside.save(queue, Spool::sync_all, true);
        }
    }

    /// This run is closed in the store: its file is needed only where something of it waits here.
    pub(super) fn run_is_closed(&self) {
        if let Some(inside) = self.inside.borrow_mut().as_mut()
            && inside.spool.is_empty()
            && let Err(error) = inside.run_file.remove()
        {
            log::error!("request log: the file of this run can't be removed: {error}");
        }
    }
}

impl Inside {
    fn new(folder: &Path, spool: Spool, run: Run, queue: &Queue, findings: Vec<Finding>) -> Result<Self, String> {
        let run_file = spool.run_file();
        match run_file.save(&queue.standing()) {
            // Said, and tried again, with the first tick: a disk that is full costs no client anything.
            Err(error) if !is_full(&error) => {
                return Err(format!("log.spool: can't write to the folder {}: {error}", folder.display()));
            }
            _ => {}
        }
        let (rejects, earlier) = (Rejects::in_folder(folder), spool.earlier_runs().to_vec());
        let (folder, save_at) = (folder.to_owned(), Instant::now());
        let (saved, unsaved, failed) = (None, None, None);
        let mut inside = Self { folder, spool, run, run_file, rejects, earlier, saved, save_at, unsaved, failed };
        queue.recovered(inside.spool.recovered());
        inside.note(queue, findings, true);
        let records = inside.spool.records();
        if records > 0 {
            let records = counted(records, "record");
            log::warn!("request log: waiting in the spool {} from earlier runs: {records}", inside.folder.display());
        }
        inside.tell(queue);
        Ok(inside)
    }

    fn put(&mut self, queue: &Queue, batch: Pending, client_ip: ClientIp) -> Result<(), Pending> {
        if self.failed.as_ref().is_some_and(|failed| failed.at.elapsed() < FAILED_PAUSE) {
            return Err(batch);
        }
        let rows: Vec<Row<'_>> = batch.records.iter().map(|record| Row::of(record, client_ip)).collect();
        let now = SystemTime::now();
        let since = now.checked_sub(batch.oldest.elapsed()).unwrap_or(now);
        let appended = self.spool.append(batch.first, &rows, &batch.unrecorded, since);
        drop(rows);
        self.lost(queue, Loss::SpoolFull, &appended.dropped);
        match appended.outcome {
            Outcome::Taken => queue.spooled(batch),
            Outcome::Full => queue.lost(batch, Loss::SpoolFull),
            Outcome::Failed(error) => {
                self.say_failed(&error, "written");
                self.tell(queue);
                return Err(batch);
            }
        }
        if self.failed.take().is_some() {
            log::warn!("request log: the spool {} works again", self.folder.display());
        }
        self.tell(queue);
        Ok(())
    }

    /// Records that lay in the spool are lost.
    fn lost(&mut self, queue: &Queue, loss: Loss, ranges: &[Range]) {
        for range in ranges {
            let is_own = range.run.id == self.run.id;
            queue.spool_lost(loss, is_own.then_some(range.first), range.records());
            if !is_own {
                self.check_point(range, loss);
            }
        }
    }

    /// A loss of an earlier run; written when that run is closed.
    fn check_point(&mut self, range: &Range, loss: Loss) {
        let index = self.earlier.iter().position(|(run, _)| run.id == range.run.id).unwrap_or_else(|| {
            self.earlier.push(((*range.run).clone(), Beat::default()));
            self.earlier.len() - 1
        });
        let drops = &mut self.earlier[index].1.drops;
        let (id, now) = (FOR_ANOTHER | range.first, SystemTime::now());
        let (after, count, reason) = (range.first - 1, range.records(), loss.word().to_owned());
        drops.push(Drops { id, after, count, reason, numbered: true, since: now, until: now });
    }

    /// Damage is said, and what it costs is counted. At start what is lost was not among what was recovered.
    fn note(&mut self, queue: &Queue, findings: Vec<Finding>, at_start: bool) {
        for finding in findings {
            log::error!("request log: {finding}");
            let ranges = match finding.lost {
                Lost::Exactly(ranges) => ranges,
                // What is missing in the store's ledger is counted when the run is closed.
                Lost::AtMost(_) | Lost::Unknown => continue,
            };
            if at_start {
                queue.recovered(ranges.iter().map(Range::records).sum());
            }
            self.lost(queue, Loss::SpoolError, &ranges);
        }
    }

    fn save(&mut self, queue: &Queue, sync: fn(&mut Spool) -> io::Result<()>, has_ended: bool) {
        if let Err(error) = sync(&mut self.spool) {
            self.say_failed(&error, "forced to the disk");
        }
        self.save_at = Instant::now() + SAVE_EVERY;
        let standing = Beat { has_ended, ..queue.standing() };
        let is_past = self.failed.as_ref().is_some_and(|failed| failed.at.elapsed() >= FAILED_LOOK);
        if is_past || self.saved.as_ref() != Some(&standing) {
            self.save_run(standing, is_past);
        }
        self.tell(queue);
    }

    fn save_run(&mut self, standing: Beat, failed_is_past: bool) {
        let folder = self.folder.display();
        match self.run_file.save(&standing) {
            Ok(has_room) => {
                self.saved = Some(standing);
                if has_room && failed_is_past {
                    self.failed = None;
                    log::warn!("request log: the spool {folder} works again");
                }
                if self.unsaved.take().is_some() {
                    log::warn!("request log: where this run stands is written to the spool {folder} again");
                }
            }
            Err(error) => {
                let why = format!("{folder}: where this run stands can't be written: {error}");
                if self.unsaved.is_none() {
                    log::error!("request log: spool {why}; it is tried again, and requests are served");
                }
                self.unsaved = Some(why);
            }
        }
    }

    fn tell(&self, queue: &Queue) {
        let error = self.failed.as_ref().map(|failed| &failed.why).or(self.unsaved.as_ref());
        queue.spool_is(self.spool.bytes(), self.spool.oldest_written(), error.cloned());
    }

    fn say_failed(&mut self, error: &io::Error, what: &str) {
        let (at, why) = (Instant::now(), format!("{} can't be {what}: {error}", self.folder.display()));
        let said = self.failed.as_ref().map(|failed| failed.said).filter(|said| said.elapsed() < REMIND_EVERY);
        if said.is_none() {
            log::error!("request log: the spool {why}; records wait in memory");
        }
        self.failed = Some(Failed { at, said: said.unwrap_or(at), why });
    }
}
