//! The one thread that changes files: it removes and marks what was purged, writes what waits, makes room, and at start looks
//! at what is there. No lock is held while it waits for the disk, so no request does.
//! A file is written aside and renamed, so a name stands for a whole answer or for none.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::super::entry::Entry;
use super::file;
use super::folder::{self, Name};
use super::index::{Evicted, Record};
use super::queue::{Chore, Job};
use super::scan::{Scan, Scanned};
use super::{Disk, Phase, State, count};

/// How often a folder is tried that another process has.
const TRY_EVERY: Duration = Duration::from_millis(250);

/// A process that has just ended may hold the lock for a moment longer.
const SAID_AFTER_TRIES: u32 = 4;

enum Work {
    Do(Chore),
    Write(Name, Job),
    MakeRoom,
    Scan,
}

/// Whatever ends the thread, nobody waits for it any more, and another process may have the folder.
struct Closing<'a>(&'a Disk);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.state.lock().phase = Phase::Closed;
        self.0.done.notify_all();
        if let Err(error) = self.0.lock.unlock() {
            self.0.fails("unlocked", &error);
        }
    }
}

impl Disk {
    /// Does all that is to be done, until [`Disk::close`]. `admit` takes found files in, or says that they are not wanted.
    pub(in super::super) fn run(&self, admit: impl Fn(Scanned) -> bool) {
        let _closing = Closing(self);
        if !self.wait_for_lock() {
            return;
        }
        self.state.lock().phase = Phase::Scanning;
        let mut scan = Some(Scan::begin(self));
        while let Some(work) = self.next(scan.is_some()) {
            match work {
                Work::Do(chore) => self.do_chore(&chore),
                Work::MakeRoom => self.make_room(0),
                Work::Write(name, job) => self.write(&name, &job),
                Work::Scan => {}
            }
            // A part of it after each write, or a gateway that is busy from its start would never see the end.
            if scan.as_mut().is_some_and(|scan| !scan.step(self, &admit)) {
                scan = None;
                self.state.lock().phase = Phase::Open;
                self.done.notify_all();
            }
        }
    }

    /// False where there is nothing to wait for.
    fn wait_for_lock(&self) -> bool {
        for tries in 1.. {
            match folder::lock(&self.lock) {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => {
                    self.fails("locked", &error);
                    return false;
                }
            }
            if tries == SAID_AFTER_TRIES {
                let path = self.folder.path().display();
                log::warn!(
                    "cache.disk.path: another process has the folder {path}; until it ends, this one works without; give each gateway a folder of its own"
                );
            }
            let mut state = self.state.lock();
            if !state.closing {
                self.work.wait_for(&mut state, TRY_EVERY);
            }
            if state.closing {
                return false;
            }
        }
        true
    }

    /// What is to be done next; none at the end. While the folder is being looked at there is always something.
    fn next(&self, is_scanning: bool) -> Option<Work> {
        let mut state = self.state.lock();
        loop {
            if let Some(chore) = state.queue.next_chore() {
                return Some(Work::Do(chore));
            }
            if state.is_over_its_bounds(0) {
                return Some(Work::MakeRoom);
            }
            if let Some((name, job)) = state.queue.next() {
                return Some(Work::Write(name, job));
            }
            if state.closing {
                return None;
            }
            if is_scanning {
                return Some(Work::Scan);
            }
            self.work.wait(&mut state);
        }
    }

    fn do_chore(&self, chore: &Chore) {
        match chore {
            Chore::Remove(name) => self.remove_file(name),
            Chore::MarkStale(name, seconds) => {
                let file = std::fs::OpenOptions::new().write(true).open(self.folder.file(name));
                let marked = file.and_then(|file| file.write_all_at(&file::stale_slot(*seconds), file::STALE_AT));
                // What only waited has no file yet; its mark is written with it.
                if let Err(error) = marked
                    && error.kind() != io::ErrorKind::NotFound
                {
                    self.fails("marked as stale", &error);
                    self.remove_file(name);
                }
            }
        }
        self.state.lock().queue.chores_done += 1;
        self.done.notify_all();
    }

    pub(super) fn remove_file(&self, name: &Name) {
        if let Err(error) = self.folder.remove(name) {
            self.fails("removed", &error);
        }
    }

    /// Removes what is needed least, until there is room for so many bytes.
    pub(super) fn make_room(&self, bytes: u64) {
        while self.evict(|state| state.is_over_its_bounds(bytes)).is_some() {}
    }

    /// Removes what is needed least, where that is so; the bytes that it took on disk. The lock is held for a page of records
    /// at a time, as whoever stores or looks up waits for it.
    fn evict(&self, is_needed: impl Fn(&State) -> bool) -> Option<u64> {
        loop {
            let evicted = {
                let mut state = self.state.lock();
                if !is_needed(&state) {
                    return None;
                }
                state.index.evict(|primary, variance| self.hits.get()?(primary, variance))
            };
            match evicted {
                Evicted::Gone(gone) => {
                    count(&self.counts.evictions);
                    self.remove_file(&gone.name());
                    return Some(u64::from(gone.room));
                }
                Evicted::NotYet => {}
                Evicted::Empty => return None,
            }
        }
    }

    fn is_wanted(&self, name: &Name, version: u64) -> bool {
        self.state.lock().queue.find(name).is_some_and(|job| job.version == version)
    }

    fn write(&self, name: &Name, job: &Job) {
        let written = match file::before_body(&job.key, job.version, &job.entry) {
            Some(head) => {
                let room = file::room((head.len() + job.entry.body.length) as u64);
                self.make_room(room);
                self.try_write(name, job, &head).map(|landed| landed.then_some(room))
            }
            None => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
        };
        match written {
            Ok(Some(room)) => self.has_landed(name, job, room),
            Ok(None) => {}
            Err(error) => self.is_not_written(name, job, &error),
        }
    }

    /// False where it is not wanted any more.
    fn try_write(&self, name: &Name, job: &Job, head: &[u8]) -> io::Result<bool> {
        if !self.is_wanted(name, job.version) {
            return Ok(false);
        }
        let Entry { body, .. } = &*job.entry;
        let mut file = self.folder.begin()?;
        file.write_all(head)?;
        body.chunks.iter().try_for_each(|chunk| file.write_all(chunk))?;
        drop(file);
        if !self.is_wanted(name, job.version) {
            self.folder.give_up()?;
            return Ok(false);
        }
        self.folder.land(name)?;
        Ok(true)
    }

    fn has_landed(&self, name: &Name, job: &Job, room: u64) {
        count(&self.counts.writes);
        let mut state = self.state.lock();
        if state.queue.find(name).is_none_or(|wanted| wanted.version != job.version) {
            // Purged, or there is a newer one, since it was begun.
            state.index.remove(name);
            drop(state);
            return self.remove_file(name);
        }
        state.queue.forget(name);
        state.index.insert(Record {
            primary: name.0,
            variance: name.1,
            url: job.url,
            key: job.key.to_vec().into_boxed_slice(),
            tags: job.entry.tags.clone(),
            version: job.version,
            fresh_until: job.entry.terms().fresh_until,
            stale_since: job.entry.stale_since(),
            fields: file::fields_of(job.entry.selected.as_deref()),
            // `store` has seen that it is no larger.
            room: u32::try_from(room).unwrap_or(u32::MAX),
            is_used: false,
            hits: 0,
        });
    }

    fn is_not_written(&self, name: &Name, job: &Job, error: &io::Error) {
        count(&self.counts.dropped);
        self.fails("written", error);
        if let Err(error) = self.folder.give_up() {
            self.fails("removed", &error);
        }
        {
            let mut state = self.state.lock();
            if state.queue.find(name).is_some_and(|wanted| wanted.version == job.version) {
                state.queue.forget(name);
            }
            state.index.remove(name);
        }
        // What is there is older than what memory has now.
        self.remove_file(name);
        if error.kind() == io::ErrorKind::StorageFull {
            self.give_way(job.entry.weight);
        }
    }

    /// Others have filled the disk: so many bytes fewer than there are now.
    fn give_way(&self, bytes: u64) {
        let mut given = 0;
        while given < file::room(bytes) {
            let Some(room) = self.evict(|_| true) else { return };
            given += room;
        }
    }
}
