//! What earlier processes left in the folder: looked at once, piece by piece, while requests are served.
//! Only heads are read; bodies are when they are wanted. What is no answer is removed and counted; what is not named like one
//! is left alone.

use std::fs::ReadDir;
use std::io::ErrorKind;
use std::time::Instant;

use super::super::key::{self, KeyParts};
use super::super::tags::Tags;
use super::file::{self, Damage, Kept};
use super::folder::{self, Name};
use super::index::Record;
use super::{Disk, count, read};
use crate::words::counted;

/// Files that are looked at before something else has its turn.
const STEP: usize = 64;

/// A file that was found.
pub(in super::super) struct Scanned {
    pub(in super::super) name: Name,
    kept: Kept,
    room: u32,
}

impl Scanned {
    /// The frame of its key.
    pub(in super::super) fn key(&self) -> &[u8] {
        &self.kept.key
    }

    pub(in super::super) fn tags(&self) -> &Tags {
        &self.kept.tags
    }
}

/// How far the folder has been looked at.
pub(super) struct Scan {
    /// The next part.
    part: u16,
    files: Option<ReadDir>,
    begun: Instant,
}

impl Scan {
    pub(super) fn begin(disk: &Disk) -> Self {
        // What a process that was killed was writing.
        if let Err(error) = disk.folder.give_up() {
            disk.fails("removed", &error);
        }
        Self { part: 0, files: None, begun: Instant::now() }
    }

    /// Looks at some files more; false when there are none left. `admit` takes them in, or says that they are not wanted.
    pub(super) fn step(&mut self, disk: &Disk, admit: &impl Fn(Scanned) -> bool) -> bool {
        for _ in 0..STEP {
            let Some(files) = &mut self.files else {
                let Ok(part) = u8::try_from(self.part) else {
                    self.is_over(disk);
                    return false;
                };
                self.part += 1;
                self.files = disk.open_part(part);
                continue;
            };
            match files.next() {
                Some(Ok(file)) => {
                    if let Some(name) = file.file_name().to_str().and_then(folder::name) {
                        disk.look_at(name, admit);
                    }
                }
                Some(Err(error)) => {
                    disk.fails("listed", &error);
                    self.files = None;
                }
                None => self.files = None,
            }
        }
        true
    }

    fn is_over(&self, disk: &Disk) {
        let (stats, path) = (disk.stats(), disk.folder.path().display());
        let (took, answers) = (self.begun.elapsed(), counted(stats.entries, "answer"));
        log::info!("cache.disk: {answers}, {} bytes found in {path} within {took:.1?}", stats.bytes);
    }
}

impl Disk {
    fn open_part(&self, part: u8) -> Option<ReadDir> {
        match std::fs::read_dir(self.folder.part(part)) {
            Ok(files) => Some(files),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                self.fails("listed", &error);
                None
            }
        }
    }

    fn look_at(&self, name: Name, admit: &impl Fn(Scanned) -> bool) {
        let is_known = {
            let state = self.state.lock();
            state.index.find(&name).is_some() || state.queue.find(&name).is_some()
        };
        // Written a moment ago, or soon replaced.
        if is_known {
            return;
        }
        match self.scanned(name) {
            Ok(scanned) => {
                if !admit(scanned) {
                    self.remove_file(&name);
                }
            }
            Err(Damage::Unread(error)) => self.fails("read", &error),
            // Whoever looks for it looks elsewhere.
            Err(Damage::OtherVersion) => self.remove_file(&name),
            Err(Damage::Wrong) => {
                count(&self.counts.corrupt);
                self.remove_file(&name);
            }
        }
        self.make_room(0);
    }

    fn scanned(&self, name: Name) -> Result<Scanned, Damage> {
        let file = self.folder.open_file(&name)?;
        let length = file.metadata()?.len();
        let (_, kept) = read::head(file)?;
        let room = u32::try_from(file::room(length)).map_err(|_| Damage::Wrong)?;
        if KeyParts::read(&kept.key).is_none() {
            return Err(Damage::OtherVersion);
        }
        if key::hash(&kept.key) != name.0 || kept.terms.variance != name.1 {
            return Err(Damage::Wrong);
        }
        Ok(Scanned { name, kept, room })
    }

    /// Takes a found file into the index.
    pub(in super::super) fn take_in(&self, scanned: Scanned, url: u64) {
        let Scanned { name: (primary, variance), kept, room } = scanned;
        let mut state = self.state.lock();
        state.version = state.version.max(kept.version);
        state.index.insert(Record {
            primary,
            variance,
            url,
            tags: kept.tags,
            version: kept.version,
            fresh_until: kept.terms.fresh_until,
            stale_since: kept.terms.stale_since,
            fields: file::fields_of(kept.terms.selected.as_ref()),
            key: kept.key,
            room,
            is_used: false,
            hits: 0,
        });
    }
}
