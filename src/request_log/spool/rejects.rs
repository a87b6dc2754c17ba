//! `rejected.jsonl`: the rows that a store will never take, one JSON object a line, so that they can be looked at and stored by
//! hand. Never read by the gateway. Bounded: at its size it becomes `rejected.jsonl.1`, in place of the one before.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::super::lines::push_columns;
use super::FILE_MODE;
use super::damaged::with_suffix;
use crate::json::{Object, name};
use crate::store::{Row, Run};

/// Bytes of one file; there are two at most.
const BYTES_MAX: u64 = 64 << 20;

/// Where refused rows go.
#[derive(Debug)]
pub struct Rejects {
    path: PathBuf,
    /// The file and its size, once a row was refused.
    file: Option<(File, u64)>,
    bytes_max: u64,
    line: Vec<u8>,
}

impl Rejects {
    /// Beside the segments of a spool. The file is made with its first row.
    pub fn in_folder(folder: &Path) -> Self {
        Self { path: folder.join("rejected.jsonl"), file: None, bytes_max: BYTES_MAX, line: Vec::new() }
    }

    /// Writes one row: the run's id, the number, the database's error code, and the columns as in `log.json`, with `run` null.
    ///
    /// # Errors
    /// The line could not be written, or only a part of it.
    pub fn write(&mut self, run: &Run, sequence: u64, code: &str, row: &Row<'_>) -> io::Result<()> {
        self.line.clear();
        let mut line = Object::open(&mut self.line);
        let mut id = Uuid::encode_buffer();
        line.plain(name!("run_id"), run.id.hyphenated().encode_lower(&mut id).as_bytes());
        line.text(name!("code"), code);
        push_columns(&mut line, row, None, Some(sequence));
        line.close();
        self.line.push(b'\n');
        self.append()
    }

    fn append(&mut self) -> io::Result<()> {
        let length = self.line.len() as u64;
        let (mut file, mut size) = match self.file.take() {
            Some(open) => open,
            None => open(&self.path)?,
        };
        if size > 0 && size + length > self.bytes_max {
            std::fs::rename(&self.path, with_suffix(&self.path, ".1"))?;
            (file, size) = open(&self.path)?;
        }
        file.write_all(&self.line)?;
        // Where anything failed the file is opened again for the next row, which sees where the last one ended.
        self.file = Some((file, size + length));
        Ok(())
    }
}

/// Opens the file behind its last whole line.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    let mut file = options.read(true).append(true).create(true).mode(FILE_MODE).open(path)?;
    let size = file.seek(SeekFrom::End(0))?;
    if size == 0 {
        return Ok((file, size));
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    if last == *b"\n" {
        return Ok((file, size));
    }
    file.write_all(b"\n")?;
    Ok((file, size + 1))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{run, sample_row};
    use super::*;

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_says_whose_row_it_is_and_why_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut rejects = Rejects::in_folder(folder.path());
        rejects.write(&run(1), 7, "1366", &sample_row("/a\"b\n")).unwrap();
        rejects.write(&run(1), 8, "1366", &sample_row("/c")).unwrap();
        let lines = lines(&folder.path().join("rejected.jsonl"));
        assert_eq!(lines.len(), 2);
        let first = &lines[0];
        assert_eq!(first["run_id"], run(1).id.to_string());
        assert_eq!(
            (&first["code"], &first["sequence"], &first["path"]),
            (&"1366".into(), &7.into(), &"/a\"b\n".into())
        );
        assert_eq!(first.as_object().unwrap().len(), 30);
    }

    #[test]
    fn a_full_file_is_kept_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rejected.jsonl");
        let mut rejects = Rejects { bytes_max: 1_600, ..Rejects::in_folder(folder.path()) };
        for sequence in 1..=20 {
            rejects.write(&run(1), sequence, "1", &sample_row("/")).unwrap();
        }
        let (old, new) = (lines(&with_suffix(&path, ".1")), lines(&path));
        let sequences: Vec<_> = old.iter().chain(&new).map(|line| line["sequence"].as_u64().unwrap()).collect();
        assert!(sequences.len() >= 2 && sequences.len() < 20, "{sequences:?}");
        assert_eq!(sequences, (21 - sequences.len() as u64..=20).collect::<Vec<_>>());
        for path in [path.clone(), with_suffix(&path, ".1")] {
            assert!(std::fs::metadata(path).unwrap().len() <= 1_600);
        }
    }

    #[test]
    fn a_torn_line_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rejected.jsonl");
        std::fs::write(&path, "{\"torn").unwrap();
        Rejects::in_folder(folder.path()).write(&run(1), 1, "1", &sample_row("/")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(serde_json::from_str::<serde_json::Value>(text.lines().nth(1).unwrap()).is_ok());
    }

    #[test]
    fn a_full_disk_is_told() {
        let folder = tempfile::tempdir().unwrap();
        // Every write to this device fails with "no space left".
        std::os::unix::fs::symlink("/dev/full", folder.path().join("rejected.jsonl")).unwrap();
        let error = Rejects::in_folder(folder.path()).write(&run(1), 1, "1", &sample_row("/")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
