//! Run files: `ID.run`, what is known of a run without a database. Written over while the run lives, removed when it ends in
//! order with nothing in the spool; so one that is there at start is of a run that was killed, or that left batches.
//! Written to another name first and renamed, so it is whole or not there; not waited for, so a power failure may cost
//! the last seconds of it. On a full disk it is written over where it is, in room that it has from its beginning.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::damaged::{self, with_suffix};
use super::survey::run_of_id;
use super::{FILE_MODE, Finding, Lost, TEMPORARY};
use crate::store::{Beat, Drops, Run, Totals};

const SUFFIX: &str = ".run";

/// Bytes of the file at least, filled up with spaces: what a run has to say on a full disk fits there.
const BYTES_MIN: usize = 4_096;

/// The file of one run.
#[derive(Clone, Debug)]
pub struct RunFile {
    path: PathBuf,
    run: Arc<Run>,
}

/// The contents.
#[derive(Serialize, Deserialize)]
struct Contents<R, D> {
    run: R,
    totals: Totals,
    drops: D,
    #[serde(default)]
    has_ended: bool,
}

impl RunFile {
    /// The file of a run; nothing is written yet.
    pub(super) fn new(folder: &Path, run: Arc<Run>) -> Self {
        Self { path: path(folder, run.id), run }
    }

    /// Writes where the run stands, in place of what was there. Whether the disk had room for a new file.
    ///
    /// # Errors
    /// The file can't be written; what was there is still there.
    pub fn save(&self, beat: &Beat) -> io::Result<bool> {
        let contents = Contents { run: &*self.run, totals: beat.totals, drops: &beat.drops, has_ended: beat.has_ended };
        let mut text = serde_json::to_vec(&contents)?;
        text.resize(text.len().max(BYTES_MIN), b' ');
        match self.replace(&text) {
            Err(error) if is_full(&error) => self.write_over(&text).map(|()| false).map_err(|_| error),
            other => other.map(|()| true),
        }
    }

    fn replace(&self, text: &[u8]) -> io::Result<()> {
        let temporary = with_suffix(&self.path, TEMPORARY);
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(FILE_MODE).open(&temporary)?;
        if let Err(error) = file.write_all(text) {
            drop(std::fs::remove_file(&temporary));
            return Err(error);
        }
        std::fs::rename(&temporary, &self.path)
    }

    /// One call, so that only a power failure can tear it.
    fn write_over(&self, text: &[u8]) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path)?;
        if file.metadata()?.len() < text.len() as u64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.write_all_at(text, 0)?;
        file.set_len(text.len() as u64)
    }

    /// Removes the file: the run ended in order, and the spool is empty.
    ///
    /// # Errors
    /// The file can't be removed.
    pub fn remove(&self) -> io::Result<()> {
        remove(&self.path)
    }
}

/// Removes the file of an earlier run.
pub(super) fn forget(folder: &Path, run: &Run) -> io::Result<()> {
    remove(&path(folder, run.id))
}

/// What the files of earlier runs say, the oldest run first. One that can't be read is kept aside, and told.
pub(super) fn read_all(folder: &Path, names: &[String], own: Uuid) -> (Vec<(Run, Beat)>, Vec<Finding>) {
    let (mut runs, mut findings) = (Vec::new(), Vec::new());
    for name in names {
        let id = name.strip_suffix(SUFFIX).and_then(|id| Uuid::parse_str(id).ok());
        let Some(id) = id.filter(|id| *id != own) else { continue };
        match read(&folder.join(name)) {
            Ok((run, beat)) if run.id == id => runs.push((run, beat)),
            result => {
                let error = result.err().map_or_else(|| "it is of another run".to_owned(), |error| error.to_string());
                // Where it can't be moved it is told again at the next start.
                drop(damaged::set_aside(&folder.join(name)));
                findings.push(Finding {
                    run: Arc::new(run_of_id(id)),
                    place: name.clone(),
                    what: format!("can't be read: {error}"),
                    lost: Lost::Exactly(Vec::new()),
                });
            }
        }
    }
    runs.sort_by_key(|(run, _)| (run.started, run.id));
    (runs, findings)
}

fn read(path: &Path) -> io::Result<(Run, Beat)> {
    let Contents { run, totals, drops, has_ended } =
        serde_json::from_slice::<Contents<Run, Vec<Drops>>>(&std::fs::read(path)?)?;
    Ok((run, Beat { totals, drops, has_ended }))
}

/// Whether room on the disk is all that was missing.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn path(folder: &Path, run: Uuid) -> PathBuf {
    folder.join(format!("{run}{SUFFIX}"))
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
