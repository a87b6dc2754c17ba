//! Damaged segments: kept aside under another name, as evidence and for who wants to save more by hand. Only a few of them,
//! each at most as large as a segment was; they are never read again.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::segment::{Segment, beginning};
use super::{FILE_MODE, TEMPORARY, scan};

/// What is put behind a damaged segment's name.
pub(super) const SUFFIX: &str = ".damaged";

/// Damaged segments that are kept; the oldest go first.
pub(super) const FILES_MAX: usize = 4;

/// The path with something behind it.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Keeps a segment aside that nothing is left to replay of.
pub(super) fn set_aside(path: &Path) -> io::Result<()> {
    match std::fs::rename(path, with_suffix(path, SUFFIX)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => prune(path),
    }
}

/// Keeps a segment aside, and puts one in its place that has the whole frames only.
pub(super) fn mend(segment: &mut Segment, file: &std::fs::File) -> io::Result<()> {
    let temporary = with_suffix(&segment.path, TEMPORARY);
    let mut options = OpenOptions::new();
    let mut out = BufWriter::new(options.write(true).create(true).truncate(true).mode(FILE_MODE).open(&temporary)?);
    let beginning = beginning(&segment.run)?;
    out.write_all(&beginning)?;
    let mut bytes = beginning.len() as u64;
    scan::each_whole(file, (segment.position, segment.end), |part| {
        bytes += part.len() as u64;
        out.write_all(part)
    })?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()?;
    match std::fs::hard_link(&segment.path, with_suffix(&segment.path, SUFFIX)) {
        // The last start got this far, and no farther.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => std::fs::rename(&temporary, &segment.path)?,
    }
    (segment.position, segment.end) = (beginning.len() as u64, bytes);
    segment.is_damaged = false;
    prune(&segment.path)
}

/// Removes the oldest of the damaged segments beside a path until few enough are left.
fn prune(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(SUFFIX) {
            kept.push(path);
        }
    }
    // Names begin with the number, so this is the order in which they were written.
    kept.sort_unstable();
    for path in kept.iter().take(kept.len().saturating_sub(FILES_MAX)) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}
