//! A segment: one file with the frames of one run, in the order of their numbers, and how far they are stored already.
//! Knows its file's name and layout; when to begin one and which to give up is the spool's (`mod.rs`).
//!
//! ```text
//! where replay stands (8), CRC-32 of that (4) | frame of the run | frame of a batch | frame of a batch ...
//! ```
//!
//! The first 12 bytes are the only ones that are written over. They are never waited for: where they are lost or damaged,
//! batches are replayed that are stored already, which a store skips.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::frame::{self, Frame, Head, Kind};
use super::scan::{self, Found};
use super::{FILE_MODE, Finding, Lost, Range};
use crate::store::Run;

/// Bytes before the first frame.
pub(super) const PROGRESS_BYTES: u64 = 12;

const SUFFIX: &str = ".segment";

/// A segment that holds at least one batch, or is being written.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) run: Arc<Run>,
    pub(super) path: PathBuf,
    /// Where the next frame to replay begins.
    pub(super) position: u64,
    /// Where the last whole frame ends; what follows is never read.
    pub(super) end: u64,
    /// First and last numbers that are not replayed, ascending.
    pub(super) waiting: VecDeque<(u64, u64)>,
    /// When the first batch that is not replayed was written (microseconds since 1970); may be that of the one before.
    pub(super) oldest: u64,
    /// Something in it was lost, so it is kept aside when it is done with.
    pub(super) is_damaged: bool,
}

/// What is next in a segment.
pub(super) enum Next {
    Frame(Frame),
    Lost(Finding),
    End,
}

/// What the name of a segment's file says: its place in the order, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) number: u64,
    pub(super) run: Uuid,
}

impl Name {
    pub(super) fn file(&self) -> String {
        format!("{:010}-{}{SUFFIX}", self.number, self.run)
    }

    pub(super) fn read(file: &str) -> Option<Self> {
        let (number, run) = file.strip_suffix(SUFFIX)?.split_once('-')?;
        let name = Self { number: number.parse().ok()?, run: Uuid::parse_str(run).ok()? };
        // Only in the form in which it will be asked for.
        (name.file() == file).then_some(name)
    }
}

/// The bytes that a segment of a run begins with.
pub(super) fn beginning(run: &Run) -> io::Result<Vec<u8>> {
    let mut bytes = progress(0).to_vec();
    bytes.extend_from_slice(&frame::encode_run(run)?);
    Ok(bytes)
}

fn progress(position: u64) -> [u8; PROGRESS_BYTES as usize] {
    let mut bytes = [0; PROGRESS_BYTES as usize];
    bytes[..8].copy_from_slice(&position.to_le_bytes());
    let sum = crc32fast::hash(&bytes[..8]);
    bytes[8..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Where the replay of a file stands; 0 where that can't be known.
pub(super) fn read_progress(file: &File, end: u64) -> u64 {
    let mut bytes = [0; PROGRESS_BYTES as usize];
    let position = file.read_exact_at(&mut bytes, 0).ok().and_then(|()| bytes.first_chunk().copied());
    let position = position.map_or(0, u64::from_le_bytes);
    if progress(position) == bytes && position <= end { position } else { 0 }
}

/// Where bytes go to the disk, so that a test can fill it.
#[derive(Debug, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    pub(super) room: Option<usize>,
}

impl Disk {
    pub(super) fn write(&mut self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some(room) = &mut self.room {
            let fits = bytes.len().min(*room);
            *room -= fits;
            file.write_all_at(&bytes[..fits], at)?;
            return if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) };
        }
        file.write_all_at(bytes, at)
    }
}

impl Segment {
    /// A segment whose file says nothing yet.
    pub(super) fn new(folder: &Path, name: Name, run: Arc<Run>) -> Self {
        Self {
            number: name.number,
            run,
            path: folder.join(name.file()),
            position: PROGRESS_BYTES,
            end: PROGRESS_BYTES,
            waiting: VecDeque::new(),
            oldest: 0,
            is_damaged: false,
        }
    }

    /// Begins the file. Where that fails nothing is left of it, as far as the disk allows.
    pub(super) fn create(&mut self, beginning: &[u8], disk: &mut Disk) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(FILE_MODE).open(&self.path)?;
        if let Err(error) = disk.write(&file, beginning, 0) {
            drop(std::fs::remove_file(&self.path));
            return Err(error);
        }
        (self.position, self.end) = (beginning.len() as u64, beginning.len() as u64);
        Ok(file)
    }

    /// Opens the file for [`Self::next`] and [`Self::keep_progress`].
    pub(super) fn open(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(&self.path)
    }

    /// Notes a batch that ends where the next one will begin.
    pub(super) fn add(&mut self, head: &Head) {
        if self.waiting.is_empty() {
            self.oldest = head.written;
        }
        match self.waiting.back_mut() {
            Some((_, last)) if last.checked_add(1) == Some(head.first) => *last = head.last(),
            _ => self.waiting.push_back((head.first, head.last())),
        }
    }

    /// Whether nothing in it is left to replay.
    pub(super) fn is_done(&self) -> bool {
        self.position >= self.end
    }

    pub(super) fn records(&self) -> u64 {
        self.waiting.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// What waits, for the caller.
    pub(super) fn ranges(&self) -> Vec<Range> {
        self.waiting.iter().map(|(first, last)| self.range(*first, *last)).collect()
    }

    pub(super) fn range(&self, first: u64, last: u64) -> Range {
        Range { run: Arc::clone(&self.run), first, last }
    }

    pub(super) fn place(&self, at: u64) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} at byte {at}")
    }

    /// What is next to replay. Damage is stepped over, and told.
    pub(super) fn next(&mut self, file: &File) -> io::Result<Next> {
        let mut payload = Vec::new();
        loop {
            match scan::frame_at(file, self.position, self.end, &mut payload)? {
                Found::End => return Ok(Next::End),
                Found::Whole(head) if head.kind == Kind::Run => self.position += head.frame_bytes(),
                Found::Whole(head) => {
                    let frame = Frame::new(Arc::clone(&self.run), head, payload);
                    self.oldest = head.written;
                    let what = match (frame.rows(), frame.unrecorded()) {
                        (Ok(_), Ok(_)) => None,
                        (Err(why), _) | (_, Err(why)) => Some(why.to_string()),
                    };
                    let Some(what) = what else { return Ok(Next::Frame(frame)) };
                    return Ok(Next::Lost(self.skip(file, what, self.position + head.frame_bytes(), head.last())));
                }
                Found::Damaged(_) | Found::Torn(_) | Found::Unreadable => {
                    let next = scan::next_head(file, self.position + 1, self.end)?;
                    let (next, until) =
                        next.map_or((self.end, u64::MAX), |(at, head)| (at, head.first.saturating_sub(1)));
                    return Ok(Next::Lost(self.skip(file, "damaged since it was written".to_owned(), next, until)));
                }
            }
        }
    }

    /// Steps over damage: what waits up to a number is lost.
    fn skip(&mut self, file: &File, what: String, next: u64, until: u64) -> Finding {
        let place = self.place(self.position);
        self.is_damaged = true;
        self.position = next;
        let lost = self.forget(until);
        // So that the next start does not tell it again.
        self.keep_progress(file);
        Finding { run: Arc::clone(&self.run), place, what, lost: Lost::Exactly(lost) }
    }

    /// Nothing of what waits can be read.
    pub(super) fn give_up(&mut self, error: &io::Error) -> Finding {
        let place = self.place(self.position);
        self.is_damaged = true;
        self.position = self.end;
        let lost = Lost::Exactly(self.forget(u64::MAX));
        Finding { run: Arc::clone(&self.run), place, what: error.to_string(), lost }
    }

    /// Removes the numbers up to this one from those that wait.
    pub(super) fn forget(&mut self, until: u64) -> Vec<Range> {
        let mut forgotten = Vec::new();
        while let Some((first, last)) = self.waiting.pop_front() {
            if first > until {
                self.waiting.push_front((first, last));
                break;
            }
            forgotten.push(self.range(first, last.min(until)));
            if last > until {
                self.waiting.push_front((until + 1, last));
                break;
            }
        }
        forgotten
    }

    /// Writes down where replay stands. A failure costs nothing but work, see above.
    pub(super) fn keep_progress(&self, file: &File) {
        drop(file.write_all_at(&progress(self.position), 0));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;

    #[test]
    fn names_keep_number_and_run() {
        let name = Name { number: 12, run: run(1).id };
        assert_eq!(Name::read(&name.file()), Some(name));
        assert!(name.file().starts_with("0000000012-"));
        for other in ["lock", "rejected.jsonl", "1-2.segment", "x-x.segment", &format!("{}.damaged", name.file())] {
            assert_eq!(Name::read(other), None, "{other}");
        }
    }

    #[test]
    fn numbers_are_forgotten_up_to_a_bound() {
        let folder = Path::new("folder");
        for (until, forgotten, left) in [
            (0, vec![], vec![(1, 3), (7, 9)]),
            (2, vec![(1, 2)], vec![(3, 3), (7, 9)]),
            (3, vec![(1, 3)], vec![(7, 9)]),
            (8, vec![(1, 3), (7, 8)], vec![(9, 9)]),
            (u64::MAX, vec![(1, 3), (7, 9)], vec![]),
        ] {
            let mut segment = Segment::new(folder, Name { number: 1, run: run(1).id }, Arc::new(run(1)));
            segment.waiting.extend([(1, 3), (7, 9)]);
            let found: Vec<_> = segment.forget(until).iter().map(|range| (range.first, range.last)).collect();
            assert_eq!((found, segment.waiting), (forgotten, left.into()), "{until}");
        }
    }
}
