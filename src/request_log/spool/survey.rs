//! The survey of what earlier runs left: reads every frame of every segment once, counts what waits, cuts off torn tails, and
//! tells what is damaged and which records that costs. A damaged segment is mended (`damaged.rs`), so it is told once.
//! Invariant: what is counted here has a right checksum; nothing else is ever replayed.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use uuid::Uuid;

use super::frame::{self, Head, Kind};
use super::scan::{self, Found};
use super::segment::{self, Name, PROGRESS_BYTES, Segment};
use super::{Finding, Lost, damaged};
use crate::store::{Beat, Run};

/// Goes through the segments in their order.
pub(super) struct Survey<'a> {
    folder: &'a Path,
    earlier: &'a [(Run, Beat)],
    pub(super) findings: Vec<Finding>,
    /// The number of the last record that was seen in this segment. Others say nothing about it: numbers ascend within one
    /// segment only.
    after: Option<u64>,
    /// A finding whose loss lies between this number and the next one that is seen in this segment.
    gap: Option<(usize, u64)>,
}

impl<'a> Survey<'a> {
    pub(super) fn new(folder: &'a Path, earlier: &'a [(Run, Beat)]) -> Self {
        Self { folder, earlier, findings: Vec::new(), after: None, gap: None }
    }

    /// One segment; none where nothing in it waits, which removes the file.
    ///
    /// # Errors
    /// The file can't be read.
    pub(super) fn segment(&mut self, name: Name) -> io::Result<Option<Segment>> {
        (self.after, self.gap) = (None, None);
        let mut segment = Segment::new(self.folder, name, self.run(name.run));
        let file = segment.open()?;
        let length = file.metadata()?.len();
        self.frames(&mut segment, &file, length)?;
        if segment.end < length && !segment.is_damaged {
            // Where that fails the tail is told again at the next start, and never replayed.
            drop(file.set_len(segment.end));
        }
        match (segment.waiting.is_empty(), segment.is_damaged) {
            (true, true) => damaged::set_aside(&segment.path)?,
            (true, false) => std::fs::remove_file(&segment.path)?,
            (false, true) => {
                if let Err(error) = damaged::mend(&mut segment, &file) {
                    let what = format!("can't be mended, so what is lost will be told again: {error}");
                    self.tell(&segment, 0, what, Lost::Exactly(Vec::new()));
                }
            }
            (false, false) => {}
        }
        Ok((!segment.waiting.is_empty()).then_some(segment))
    }

    /// A segment that can't be read at all.
    pub(super) fn unusable(&mut self, name: Name, error: &io::Error) {
        let segment = Segment::new(self.folder, name, self.run(name.run));
        self.tell(&segment, 0, error.to_string(), Lost::Unknown);
    }

    /// The run of an id: as its run file has it, or what the id alone says.
    fn run(&self, id: Uuid) -> Arc<Run> {
        let known = self.earlier.iter().find(|(run, _)| run.id == id);
        Arc::new(known.map_or_else(|| run_of_id(id), |(run, _)| run.clone()))
    }

    fn frames(&mut self, segment: &mut Segment, file: &File, length: u64) -> io::Result<()> {
        let mut payload = Vec::new();
        let stored = segment::read_progress(file, length);
        let mut at = PROGRESS_BYTES;
        if let Found::Whole(head) = scan::frame_at(file, at, length, &mut payload)?
            && let Some(run) = (head.kind == Kind::Run).then(|| frame::decode_run(&payload)).flatten()
        {
            segment.run = Arc::new(run);
            at += head.frame_bytes();
        } else if stored > 0 {
            segment.is_damaged = true;
            self.tell(segment, at, "the run's name is damaged".to_owned(), Lost::Exactly(Vec::new()));
        }
        at = at.max(stored);
        segment.position = at;
        loop {
            match scan::frame_at(file, at, length, &mut payload)? {
                Found::End => break,
                Found::Whole(head) => {
                    if head.kind == Kind::Batch {
                        self.seen(segment, &head);
                        segment.add(&head);
                    }
                    at += head.frame_bytes();
                }
                Found::Torn(head) => {
                    self.torn(segment, at, length, head);
                    break;
                }
                Found::Damaged(head) => {
                    self.damaged(segment, at, &head);
                    // Usually there; before, where bytes are missing.
                    let behind = at + head.frame_bytes();
                    at = scan::next_head(file, at + 1, length)?.map_or(behind, |(next, _)| next.min(behind));
                }
                Found::Unreadable => {
                    let next = scan::next_head(file, at + 1, length)?.map(|(next, _)| next);
                    self.unreadable(segment, at, next.unwrap_or(length) - at, next.is_none());
                    at = next.unwrap_or(length);
                }
            }
        }
        segment.end = at;
        Ok(())
    }

    /// Numbers that are known to have been there: what an unreadable place before them has cost lies before them.
    fn seen(&mut self, segment: &Segment, head: &Head) {
        if let Some((finding, after)) = self.gap.take()
            && let Some(finding) = self.findings.get_mut(finding)
        {
            finding.lost = if head.first > after + 1 {
                Lost::AtMost(segment.range(after + 1, head.first - 1))
            } else {
                Lost::Exactly(Vec::new())
            };
        }
        self.after = Some(head.last());
    }

    fn torn(&mut self, segment: &Segment, at: u64, length: u64, head: Option<Head>) {
        let what = format!("torn, its last {} bytes are cut off", length - at);
        match head {
            Some(head) if head.kind == Kind::Batch => {
                self.seen(segment, &head);
                self.tell(segment, at, what, Lost::Exactly(vec![segment.range(head.first, head.last())]));
            }
            Some(_) => self.tell(segment, at, what, Lost::Exactly(Vec::new())),
            None => self.tell(segment, at, what, Lost::Unknown),
        }
    }

    fn damaged(&mut self, segment: &mut Segment, at: u64, head: &Head) {
        segment.is_damaged = true;
        let mut lost = Vec::new();
        if head.kind == Kind::Batch {
            self.seen(segment, head);
            lost.push(segment.range(head.first, head.last()));
        }
        self.tell(segment, at, format!("{} bytes are damaged", head.frame_bytes()), Lost::Exactly(lost));
    }

    fn unreadable(&mut self, segment: &mut Segment, at: u64, bytes: u64, is_rest: bool) {
        segment.is_damaged = true;
        let rest = if is_rest { ", the rest of the segment" } else { "" };
        self.gap = self.after.map(|after| (self.findings.len(), after));
        self.tell(segment, at, format!("{bytes} bytes can't be read{rest}"), Lost::Unknown);
    }

    fn tell(&mut self, segment: &Segment, at: u64, what: String, lost: Lost) {
        self.findings.push(Finding { run: Arc::clone(&segment.run), place: segment.place(at), what, lost });
    }
}

/// What an id alone says of a run: a UUIDv7 has its time.
pub(super) fn run_of_id(id: Uuid) -> Run {
    let started = id.get_timestamp().map(|time| time.to_unix());
    let started = started.map(|(seconds, nanoseconds)| Duration::new(seconds, nanoseconds)).unwrap_or_default();
    let started = UNIX_EPOCH.checked_add(started).unwrap_or(UNIX_EPOCH);
    Run { id, node: String::new(), version: String::new(), started }
}
