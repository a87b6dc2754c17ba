//! The spool's folder: made, locked for one process, and listed. The lock is the operating system's and goes with the
//! process, however it ends; the file only names who holds it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use super::{FILE_MODE, TEMPORARY};

/// Only the gateway's user may look: rows name clients.
const FOLDER_MODE: u32 = 0o700;

const LOCK: &str = "lock";

/// Makes the folder where it is missing, and locks it until the returned file is closed.
///
/// # Errors
/// It can't be made or written to, or another process has it.
pub(super) fn open(folder: &Path) -> Result<File, String> {
    let name = folder.display();
    let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder);
    made.map_err(|error| format!("log.spool: can't create the folder {name}: {error}"))?;
    let cant_write = |error: io::Error| format!("log.spool: can't write in the folder {name}: {error}");
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    let mut lock = options.open(folder.join(LOCK)).map_err(cant_write)?;
    match patiently(&lock) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let holder = match lock.read_to_string(&mut holder) {
                Ok(_) if !holder.trim().is_empty() => format!("process {}", holder.trim()),
                _ => "another process".to_owned(),
            };
            return Err(format!(
                "log.spool: {holder} has the folder {name}; two gateways can't share a spool, give each its own"
            ));
        }
        Err(TryLockError::Error(error)) => return Err(format!("log.spool: can't lock the folder {name}: {error}")),
    }
    // Only a word for whoever comes next; on a full disk there is none.
    drop(lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())));
    // A lock file may be there in a folder where no other can be made.
    let probe = folder.join(format!("probe{TEMPORARY}"));
    match options.clone().open(&probe).and_then(|_| std::fs::remove_file(&probe)) {
        Err(error) if error.kind() != io::ErrorKind::StorageFull => Err(cant_write(error)),
        _ => Ok(lock),
    }
}

/// A process that has just ended may hold the lock for a moment longer: a child that it is starting has its files, too.
fn patiently(lock: &File) -> Result<(), TryLockError> {
    for _ in 0..20 {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(25)),
            other => return other,
        }
    }
    lock.try_lock()
}

/// The names of the files in the folder. What an earlier process left half-written is removed.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Every name of ours is plain text.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.ends_with(TEMPORARY) {
            std::fs::remove_file(entry.path())?;
        } else {
            names.push(name);
        }
    }
    Ok(names)
}
