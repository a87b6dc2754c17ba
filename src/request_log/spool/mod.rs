//! The spool: the waiting room on disk for batches that can't be stored now. Segments (`segment.rs`) of frames (`frame.rs`) in a
//! folder that is locked for one process (`folder.rs`), bounded in bytes, replayed in the order in which they came, surviving
//! crash and restart; beside them a file for each run (`run_file.rs`) and the rows no store takes (`rejects.rs`).
//! Not here: when to spool, when to replay, and what to count; the writer does that. Nothing here waits for anything but files, and for a
//! slow disk only at the end (`flusher.rs`).
//!
//! - A batch is written at once, with one call, so a crash of the process loses nothing that [`Spool::append`] has taken. It is
//!   forced to the disk by [`Spool::sync`], which the writer calls once a second while it spools, and by [`Spool::sync_all`] at
//!   its end: a power failure loses the last second (more where the disk takes longer), and may replay what is stored already.
//! - A frame whose checksum is wrong is never replayed. A torn tail costs itself, a damaged frame costs itself; where a head can't
//!   be read the next one is looked for. What is lost is told by a [`Finding`], once, and a damaged segment is kept
//!   aside (`damaged.rs`; beyond `bytes_max`, at most a quarter of it).
//! - A segment whose batches are all stored is deleted. Within one, where replay stands is written to its first bytes; after a
//!   power failure a batch may be replayed that is stored already, and the store skips it.
//! - Within a segment numbers ascend.

mod damaged;
mod flusher;
mod folder;
mod frame;
mod rejects;
mod run_file;
mod scan;
mod segment;
mod survey;

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub use frame::Frame;
pub use rejects::Rejects;
pub use run_file::{RunFile, is_full};

use crate::config::SpoolFull;
use crate::store::usage::Increments;
use crate::store::{Beat, Row, Run};
use flusher::Flusher;
use segment::{Disk, Name, Next, Segment};
use survey::Survey;

/// Rows name clients: nothing for every user of the machine.
const FILE_MODE: u32 = 0o640;

/// Behind the names of files that are not whole yet; one that is left is removed at start.
const TEMPORARY: &str = ".tmp";

/// Bytes of a segment: a sixteenth of the spool between these, so that space comes back in steps, not all at the end.
const SEGMENT_BYTES: (u64, u64) = (1 << 20, 64 << 20);

/// Tries at a segment that can't be read before it is given up. The writer pauses between them.
const READ_TRIES: u32 = 5;

/// Numbers of one run, without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Whose.
    pub run: Arc<Run>,
    /// The first of them.
    pub first: u64,
    /// The last of them; not less than the first.
    pub last: u64,
}

impl Range {
    /// How many records.
    pub fn records(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// Something that was lost, or could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whose records these are; without node and version where only the id is known.
    pub run: Arc<Run>,
    /// The file, and where in it.
    pub place: String,
    /// What is wrong; without what any row holds.
    pub what: String,
    /// What it costs.
    pub lost: Lost,
}

/// What damage costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// These records; nothing where there are none.
    Exactly(Vec<Range>),
    /// These numbers are missing between those that are left: lost, unless they never came to the spool.
    AtMost(Range),
    /// Nothing tells how many.
    Unknown,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "spool: {}: {}; ", self.place, self.what)?;
        match &self.lost {
            Lost::Exactly(lost) => write!(out, "{} records are lost", lost.iter().map(Range::records).sum::<u64>()),
            Lost::AtMost(lost) => write!(out, "at most {} records are lost", lost.records()),
            Lost::Unknown => out.write_str("how many records are lost is not known"),
        }
    }
}

/// What became of a batch, and of others for its sake.
#[derive(Debug)]
pub struct Appended {
    /// What became of it.
    pub outcome: Outcome,
    /// What was dropped to make room (`drop_old`), whatever became of the batch itself.
    pub dropped: Vec<Range>,
}

/// What became of a batch.
#[derive(Debug)]
pub enum Outcome {
    /// It lies in the spool.
    Taken,
    /// There is no room for it; its records are the caller's to count.
    Full,
    /// It could not be written, and nothing of it will be replayed; its records are the caller's to keep or count.
    Failed(io::Error),
}

/// Batches on disk. One process has it; the lock goes with it.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    _lock: File,
    bytes_max: u64,
    segment_bytes: u64,
    full: SpoolFull,
    run: Arc<Run>,
    /// What each segment of this run begins with.
    beginning: Vec<u8>,
    /// In the order of replay; each has batches that wait.
    segments: VecDeque<Segment>,
    next_number: u64,
    /// The file of the last segment, while batches can be added to it.
    writing: Option<File>,
    /// The number and file of the segment that is replayed.
    reading: Option<(u64, File)>,
    /// The frame that the writer has in hand.
    held: Option<Held>,
    read_failures: u32,
    /// Something was written since the last `sync`.
    unsynced: bool,
    /// Full segments that are not forced to the disk.
    ended: Vec<File>,
    flusher: Flusher,
    recovered: u64,
    findings: Vec<Finding>,
    earlier: Vec<(Run, Beat)>,
    disk: Disk,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Held {
    segment: u64,
    /// Where its frame ends.
    end: u64,
    last: u64,
}

impl Spool {
    /// Opens the spool in a folder, which is made where it is missing, and surveys what earlier runs left. Reads all of it
    /// once, to check it.
    ///
    /// # Errors
    /// The folder can't be made, read or written to, or another process has it.
    pub fn open(folder: &Path, bytes_max: u64, full: SpoolFull, run: &Run) -> Result<(Self, Vec<Finding>), String> {
        let lock = folder::open(folder)?;
        let cant_read = |error: io::Error| format!("log.spool: can't read the folder {}: {error}", folder.display());
        let file_names = folder::names(folder).map_err(cant_read)?;
        // A head can't say a time before 1970.
        let run = Arc::new(Run { started: run.started.max(UNIX_EPOCH), ..run.clone() });
        let beginning = segment::beginning(&run).map_err(cant_read)?;
        let (earlier, mut findings) = run_file::read_all(folder, &file_names, run.id);
        let mut names: Vec<Name> = file_names.iter().filter_map(|name| Name::read(name)).collect();
        names.sort_unstable();
        let aside = file_names.iter().filter_map(|name| Name::read(name.strip_suffix(damaged::SUFFIX)?));
        let last_number = names.iter().copied().chain(aside).map(|name| name.number).max().unwrap_or(0);
        let (segments, found) = survey_all(folder, &names, &earlier)?;
        findings.extend(found);
        let spool = Self {
            folder: folder.to_owned(),
            _lock: lock,
            bytes_max,
            segment_bytes: (bytes_max / 16).clamp(SEGMENT_BYTES.0, SEGMENT_BYTES.1),
            full,
            run,
            beginning,
            recovered: segments.iter().map(Segment::records).sum(),
            segments,
            next_number: last_number + 1,
            writing: None,
            reading: None,
            held: None,
            read_failures: 0,
            unsynced: false,
            ended: Vec::new(),
            flusher: Flusher::default(),
            findings: Vec::new(),
            earlier,
            disk: Disk::default(),
            buffer: Vec::new(),
        };
        Ok((spool, findings))
    }

    /// Takes a batch of this run, with at least one row, which has waited since then.
    pub fn append(
        &mut self,
        first: u64,
        rows: &[Row<'_>],
        unrecorded: &Increments<String>,
        since: SystemTime,
    ) -> Appended {
        let mut dropped = Vec::new();
        let outcome = match self.try_append(first, rows, unrecorded, since, &mut dropped) {
            Ok(true) => Outcome::Taken,
            Ok(false) => Outcome::Full,
            Err(error) => Outcome::Failed(error),
        };
        Appended { outcome, dropped }
    }

    fn try_append(
        &mut self,
        first: u64,
        rows: &[Row<'_>],
        unrecorded: &Increments<String>,
        since: SystemTime,
        dropped: &mut Vec<Range>,
    ) -> io::Result<bool> {
        debug_assert!(first > 0 && !rows.is_empty());
        let head = frame::encode_batch(&mut self.buffer, first, rows, unrecorded, since)?;
        loop {
            let goes_on = self.has_room_in_last(first, head.frame_bytes());
            let needed = head.frame_bytes() + if goes_on { 0 } else { self.beginning.len() as u64 };
            if self.bytes() + needed <= self.bytes_max {
                if !goes_on {
                    self.begin_segment()?;
                }
                break;
            }
            if needed > self.bytes_max || self.full == SpoolFull::DropNew || !self.drop_oldest(dropped)? {
                return Ok(false);
            }
        }
        self.write(&head)?;
        Ok(true)
    }

    /// Whether a frame goes to the segment that is being written: where it has room, and numbers go on ascending. A batch
    /// that the store held while later ones came here begins a segment of its own.
    fn has_room_in_last(&self, first: u64, frame_bytes: u64) -> bool {
        let last = self.writing.as_ref().and(self.segments.back());
        last.is_some_and(|last| match last.waiting.back() {
            Some((_, newest)) => first > *newest && last.end + frame_bytes <= self.segment_bytes,
            None => true,
        })
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        self.end_segment();
        let name = Name { number: self.next_number, run: self.run.id };
        let mut segment = Segment::new(&self.folder, name, Arc::clone(&self.run));
        self.next_number += 1;
        self.writing = Some(segment.create(&self.beginning, &mut self.disk)?);
        self.segments.push_back(segment);
        Ok(())
    }

    /// Nothing more goes to the segment that is being written.
    fn end_segment(&mut self) {
        self.ended.extend(self.writing.take());
    }

    /// Writes the frame in the buffer behind the last segment's end.
    fn write(&mut self, head: &frame::Head) -> io::Result<()> {
        let (Some(segment), Some(file)) = (self.segments.back_mut(), &self.writing) else {
            return Err(io::Error::other("no segment is open"));
        };
        let written = self.disk.write(file, &self.buffer, segment.end);
        match &written {
            Ok(()) => {
                segment.add(head);
                segment.end += head.frame_bytes();
                self.unsynced = true;
            }
            Err(_) if segment.waiting.is_empty() => {
                let number = segment.number;
                drop(self.remove(number));
            }
            // What is torn must not stay behind the end, where the next start would find it.
            Err(_) if file.set_len(segment.end).is_ok() => {}
            Err(_) => self.writing = None,
        }
        written
    }

    /// Drops the oldest segment that nobody has in hand; false where there is none.
    fn drop_oldest(&mut self, dropped: &mut Vec<Range>) -> io::Result<bool> {
        let held = self.held.as_ref().map(|held| held.segment);
        let oldest = self.segments.iter().find(|segment| Some(segment.number) != held);
        let Some((number, ranges)) = oldest.map(|segment| (segment.number, segment.ranges())) else { return Ok(false) };
        self.remove(number)?;
        dropped.extend(ranges);
        Ok(true)
    }

    /// Removes a segment and its file; one that was damaged is kept aside. Where that fails nothing has changed.
    fn remove(&mut self, number: u64) -> io::Result<()> {
        let Some(index) = self.segments.iter().position(|segment| segment.number == number) else { return Ok(()) };
        let segment = &self.segments[index];
        if segment.is_damaged {
            damaged::set_aside(&segment.path)?;
        } else {
            match std::fs::remove_file(&segment.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if index + 1 == self.segments.len() {
            self.writing = None;
        }
        if self.reading.as_ref().is_some_and(|(reading, _)| *reading == number) {
            self.reading = None;
        }
        self.segments.remove(index);
        Ok(())
    }

    /// The batch that has waited longest; none where the spool is empty. Asked again, the same is given again, until
    /// [`Self::done`]; and until then its segment is not dropped for others, because a try at the store that seemed to fail may have
    /// stored it. Damage is stepped over: see [`Self::take_findings`].
    ///
    /// # Errors
    /// The file can't be read, or one that is done with can't be removed; to be tried again. After five failures
    /// what can't be read is given up.
    pub fn oldest(&mut self) -> io::Result<Option<Frame>> {
        self.held = None;
        while let Some(segment) = self.segments.front_mut() {
            let next = match &self.reading {
                _ if segment.is_done() => Ok(Next::End),
                Some((number, file)) if *number == segment.number => segment.next(file),
                _ => segment.open().and_then(|file| {
                    let next = segment.next(&file);
                    self.reading = Some((segment.number, file));
                    next
                }),
            };
            match next {
                Ok(Next::Frame(frame)) => {
                    self.read_failures = 0;
                    let end = segment.position + frame.bytes();
                    self.held = Some(Held { segment: segment.number, end, last: frame.last() });
                    return Ok(Some(frame));
                }
                Ok(Next::Lost(finding)) => self.findings.push(finding),
                Ok(Next::End) => {
                    let number = segment.number;
                    self.remove(number)?;
                }
                Err(error) => {
                    self.read_failures += 1;
                    if self.read_failures < READ_TRIES {
                        return Err(error);
                    }
                    self.read_failures = 0;
                    self.findings.push(segment.give_up(&error));
                }
            }
        }
        Ok(None)
    }

    /// The batch that [`Self::oldest`] gave is stored: it is forgotten.
    ///
    /// # Errors
    /// Its segment is done with and can't be removed; that is tried again by [`Self::oldest`].
    pub fn done(&mut self) -> io::Result<()> {
        let (Some(held), Some(segment)) = (self.held.take(), self.segments.front_mut()) else { return Ok(()) };
        if held.segment != segment.number {
            return Ok(());
        }
        segment.position = held.end;
        segment.forget(held.last);
        if let Some((_, file)) = &self.reading {
            segment.keep_progress(file);
        }
        if segment.is_done() { self.remove(held.segment) } else { Ok(()) }
    }

    /// Damage that replay has met since the last call.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// Has what was written forced to the disk, and does not wait for it: while an earlier call has not ended, nothing is done.
    ///
    /// # Errors
    /// The disk failed since the last call: what was written before may not survive a power failure.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.flusher.is_busy() {
            return Ok(());
        }
        let before = self.flusher.end();
        if self.unsynced {
            let writing = self.writing.as_ref().map(File::try_clone).transpose()?;
            // The names of new segments.
            let folder = File::open(&self.folder)?;
            let files = self.ended.drain(..).chain(writing).chain([folder]).collect();
            self.unsynced = false;
            self.flusher.begin(files)?;
        }
        before
    }

    /// Forces to the disk what was written, and waits for it.
    ///
    /// # Errors
    /// As [`Self::sync`], or the disk failed now.
    pub fn sync_all(&mut self) -> io::Result<()> {
        let before = self.flusher.end();
        let begun = self.sync();
        let now = self.flusher.end();
        before.and(begun).and(now)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.segments.iter().all(|segment| segment.waiting.is_empty())
    }

    /// Whether batches of earlier runs wait.
    pub fn holds_earlier_runs(&self) -> bool {
        self.segments.iter().any(|segment| segment.run.id != self.run.id && !segment.waiting.is_empty())
    }

    /// Records that wait, those in hand included.
    pub fn records(&self) -> u64 {
        self.segments.iter().map(Segment::records).sum()
    }

    /// Bytes of all segments, what is stored of the oldest included.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.end).sum()
    }

    /// Records of earlier runs that were found at start, without those that were lost.
    pub fn recovered(&self) -> u64 {
        self.recovered
    }

    /// When the batch that waits longest went to the spool; at most one batch too early.
    pub fn oldest_written(&self) -> Option<SystemTime> {
        let oldest = self.segments.iter().find(|segment| !segment.waiting.is_empty());
        oldest.map(|segment| frame::moment(segment.oldest))
    }

    /// The file of this run.
    pub fn run_file(&self) -> RunFile {
        RunFile::new(&self.folder, Arc::clone(&self.run))
    }

    /// Runs that left their file here: killed, or ended with something in the spool. The oldest first.
    pub fn earlier_runs(&self) -> &[(Run, Beat)] {
        &self.earlier
    }

    /// An earlier run is closed: its file is removed.
    ///
    /// # Errors
    /// The file can't be removed.
    pub fn forget_run(&mut self, run: &Run) -> io::Result<()> {
        run_file::forget(&self.folder, run)?;
        self.earlier.retain(|(earlier, _)| earlier.id != run.id);
        Ok(())
    }
}

/// Surveys all segments in their order.
fn survey_all(
    folder: &Path,
    names: &[Name],
    earlier: &[(Run, Beat)],
) -> Result<(VecDeque<Segment>, Vec<Finding>), String> {
    let mut survey = Survey::new(folder, earlier);
    let mut segments = VecDeque::new();
    for name in names {
        let path = folder.join(name.file());
        let cant_use = |error: io::Error| format!("log.spool: can't use {}: {error}", path.display());
        match survey.segment(*name) {
            Ok(segment) => segments.extend(segment),
            // For the operator to mend; a bad place on the disk is not.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(cant_use(error)),
            Err(error) => {
                survey.unusable(*name, &error);
                damaged::set_aside(&path).map_err(cant_use)?;
            }
        }
    }
    Ok((segments, survey.findings))
}

#[cfg(test)]
mod tests;
