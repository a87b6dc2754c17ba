//! The folder of stored answers: `PATH/xx/KEY-VARIANCE`, made when needed and locked for one process.
//! The lock is the operating system's and goes with the process, however it ends.
//! Nothing is touched that is not named as this gateway names its files: whoever shares the folder keeps what is theirs.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, access};
use pingora_cache::key::HashBinary;

/// Only the gateway's user may look: answers may be for one consumer alone.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Neither waits for who writes into a pipe nor follows a link.
const ONLY_FILES: i32 = OFlag::O_NONBLOCK.union(OFlag::O_NOFOLLOW).bits();

const LOCK: &str = "cache.lock";
const WRITING: &str = "cache.writing";

/// Letters of a hash.
const HASH_LETTERS: usize = 32;

/// What a file is found by: the hash of its key, and which variant it is.
pub(super) type Name = (HashBinary, Option<HashBinary>);

/// Whether the folder, or the one it would be made in, can be written to; changes nothing.
///
/// # Errors
/// Why not.
pub fn usable(folder: &Path) -> Result<(), String> {
    let mut nearest = folder;
    while !nearest.exists() {
        nearest = nearest.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    }
    if !nearest.is_dir() {
        return Err(format!("{} is no folder", nearest.display()));
    }
    let rights = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
    access(nearest, rights)
        .map_err(|error| format!("can't write in the folder {}: {}", nearest.display(), error.desc()))
}

/// Files of stored answers.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes the folder where it is missing; the file is what a process locks.
    ///
    /// # Errors
    /// It can't be made or written to.
    pub(super) fn open(path: &Path) -> Result<(Self, File), String> {
        let name = path.display();
        let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path);
        made.map_err(|error| format!("cache.disk.path: can't create the folder {name}: {error}"))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        let lock = options.open(path.join(LOCK));
        let lock = lock.map_err(|error| format!("cache.disk.path: can't write in the folder {name}: {error}"))?;
        Ok((Self { path: path.to_owned() }, lock))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The part of the folder that a name is in; its number is the first byte of the name.
    pub(super) fn part(&self, number: u8) -> PathBuf {
        self.path.join(format!("{number:02x}"))
    }

    pub(super) fn file(&self, (primary, variance): &Name) -> PathBuf {
        let mut name = String::with_capacity(2 * HASH_LETTERS + 1);
        push_hex(&mut name, primary);
        name.push('-');
        match variance {
            Some(variance) => push_hex(&mut name, variance),
            None => name.push('0'),
        }
        self.part(primary[0]).join(name)
    }

    /// The file that the next answer is written to, empty.
    pub(super) fn begin(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(FILE_MODE).custom_flags(ONLY_FILES);
        options.open(self.path.join(WRITING))
    }

    /// A file that was written; an error for what is named like one and is none.
    pub(super) fn open_file(&self, name: &Name) -> io::Result<File> {
        let file = OpenOptions::new().read(true).custom_flags(ONLY_FILES).open(self.file(name))?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::from(io::ErrorKind::InvalidData)) }
    }

    /// Gives the written file its name.
    pub(super) fn land(&self, name: &Name) -> io::Result<()> {
        let (from, to) = (self.path.join(WRITING), self.file(name));
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(self.part(name.0[0]))?;
                std::fs::rename(from, to)
            }
            done => done,
        }
    }

    /// Removes what was written and gets no name.
    pub(super) fn give_up(&self) -> io::Result<()> {
        unlink(&self.path.join(WRITING))
    }

    pub(super) fn remove(&self, name: &Name) -> io::Result<()> {
        unlink(&self.file(name))
    }
}

/// Takes the lock; false where another process has it.
///
/// # Errors
/// There is no locking in this folder.
pub(super) fn lock(mut file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => {
            // Only a word for people; on a full disk there is none.
            drop(file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())));
            Ok(true)
        }
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn unlink(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
}

/// Reads the name of a file; none where it is not one of ours.
pub(super) fn name(text: &str) -> Option<Name> {
    let (primary, variance) = text.split_once('-')?;
    let variance = if variance == "0" { None } else { Some(hash(variance)?) };
    Some((hash(primary)?, variance))
}

fn hash(text: &str) -> Option<HashBinary> {
    if text.len() != HASH_LETTERS
        || !text.bytes().all(|letter| letter.is_ascii_digit() || (b'a'..=b'f').contains(&letter))
    {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, _lock) = Folder::open(&folder.path().join("a/b")).unwrap();
        for named in [([0x0f; 16], None), ([0xa0; 16], Some([1; 16]))] {
            let path = folder.file(&named);
            assert_eq!(name(path.file_name().unwrap().to_str().unwrap()), Some(named));
            assert_eq!(path.parent().unwrap(), folder.part(named.0[0]));
        }
        for other in
            ["", "0", "a-0", &"0".repeat(34), &format!("{}-0x", "A".repeat(32)), &format!("+{}-0", "0".repeat(31))]
        {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn one_has_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (_, first) = Folder::open(folder.path()).unwrap();
        let (_, second) = Folder::open(folder.path()).unwrap();
        assert!(lock(&first).unwrap() && !lock(&second).unwrap());
        drop(first);
        assert!(lock(&second).unwrap());
    }

    #[test]
    fn what_is_no_folder_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(usable(&folder.path().join("a/b")), Ok(()));
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(usable(&file.join("a")).unwrap_err().ends_with("is no folder"));
        assert!(Folder::open(&file.join("a")).unwrap_err().starts_with("cache.disk.path: can't create the folder"));
    }
}
