//! JSON lines: the same record as one JSON object a line, on standard output or in a file.
//! Field names are those of `api_logs`; all fields are there in every line, `null` where there is nothing to say. The
//! time is RFC 3339 in UTC with microseconds. `sequence` is null in a line whose record the store had no room for,
//! `run` also before the store has given the number.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use uuid::Uuid;

use super::batches::Taken;
use crate::config::{ClientIp, JsonLines};
use crate::json::{Object, name, push_decimal};
use crate::record::Record;
use crate::store::{Moment, Row};

/// Records that become lines before they are written: so many that a call to the kernel is shared by them, so few that
/// their bytes are still in the processor's cache when the kernel copies them.
const PIECE_RECORDS: usize = 64;

/// Where lines go.
pub(super) struct Lines {
    target: Target,
    client_ip: ClientIp,
    buffer: Vec<u8>,
    /// The last write ended within a line.
    torn: bool,
    failing: bool,
}

enum Target {
    Stdout,
    File(PathBuf, File),
}

impl Lines {
    /// Opens the target, or nothing for `none`.
    pub(super) fn open(config: &JsonLines, client_ip: ClientIp) -> Result<Option<Self>, String> {
        let target = match config {
            JsonLines::None => return Ok(None),
            JsonLines::Stdout => Target::Stdout,
            JsonLines::File(path) => {
                let file = open(path).map_err(|error| format!("log.json: can't open {}: {error}", path.display()))?;
                Target::File(path.clone(), file)
            }
        };
        Ok(Some(Self { target, client_ip, buffer: Vec::new(), torn: false, failing: false }))
    }

    /// Opens the file again; where that fails, the one that is open is written on.
    pub(super) fn reopen(&mut self) {
        let Target::File(path, file) = &mut self.target else { return };
        match open(path) {
            Ok(opened) => {
                *file = opened;
                self.torn = false;
                log::info!("request log: opened {} again", path.display());
            }
            Err(error) => log::error!("request log: can't open {} again: {error}", path.display()),
        }
    }

    /// Writes one line a record; how many are complete, and how many are not.
    pub(super) fn write(&mut self, taken: &Taken) -> (u64, u64) {
        let (mut written, mut result) = (0, Ok(()));
        let mut places = 0..;
        for piece in taken.records.chunks(PIECE_RECORDS) {
            self.buffer.clear();
            if self.torn {
                self.buffer.push(b'\n');
            }
            let prefix = self.buffer.len();
            for (record, place) in piece.iter().zip(&mut places) {
                let sequence = taken.first.map(|first| first + place);
                push_line(&mut self.buffer, record, self.client_ip, taken.run, sequence);
            }
            let (done, piece_result) = match &mut self.target {
                Target::Stdout => write_all(&mut io::stdout().lock(), &self.buffer),
                Target::File(_, file) => write_all(file, &self.buffer),
            };
            let is_whole = done == self.buffer.len();
            let lines = || newlines(self.buffer.get(prefix..done).unwrap_or_default());
            written += if is_whole { piece.len() } else { lines() };
            if done > 0 {
                self.torn = self.buffer.get(done - 1).is_some_and(|byte| *byte != b'\n');
            }
            result = result.and(piece_result);
        }
        self.say(result);
        (written as u64, taken.records.len().saturating_sub(written) as u64)
    }

    /// Says once that writing fails, and once that it works again.
    fn say(&mut self, result: io::Result<()>) {
        let name = match &self.target {
            Target::Stdout => "standard output".to_owned(),
            Target::File(path, _) => path.display().to_string(),
        };
        match result {
            Err(error) if !self.failing => {
                self.failing = true;
                log::error!("request log: JSON lines to {name} are lost, and counted: {error}");
            }
            Ok(()) if self.failing => {
                self.failing = false;
                log::warn!("request log: JSON lines to {name} are written again");
            }
            _ => {}
        }
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    // Client addresses are nothing for every user of the machine.
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// Writes as much as possible: how many bytes, and why not all of them.
fn write_all(out: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match out.write(rest) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, out.flush())
}

/// One line, with its end; the names are those of the columns, in their order.
pub fn push_line(out: &mut Vec<u8>, record: &Record, client_ip: ClientIp, run: Option<u32>, sequence: Option<u64>) {
    push_row(out, &Row::of(record, client_ip), run, sequence);
}

/// The line of a row that is there already.
pub(super) fn push_row(out: &mut Vec<u8>, row: &Row<'_>, run: Option<u32>, sequence: Option<u64>) {
    let mut line = Object::open(out);
    push_columns(&mut line, row, run, sequence);
    line.close();
    out.push(b'\n');
}

/// The columns of one row.
pub(super) fn push_columns(line: &mut Object<'_>, row: &Row<'_>, run: Option<u32>, sequence: Option<u64>) {
    push_moment(line.name(name!("timestamp")), row.timestamp);
    line.text(name!("endpoint"), row.endpoint);
    line.text(name!("http_method"), row.http_method);
    line.number(name!("status_code"), row.status_code.into());
    line.thousandths(name!("response_time_ms"), row.response_time);
    line.boolean(name!("is_error"), row.is_error);
    line.number_or_null(name!("run"), run.map(u64::from));
    line.number_or_null(name!("sequence"), sequence);
    let mut id = Uuid::encode_buffer();
    line.plain(name!("request_id"), Uuid::from_bytes(row.request_id).hyphenated().encode_lower(&mut id).as_bytes());
    line.text_or_null(name!("client_request_id"), row.client_request_id);
    line.text_or_null(name!("host"), row.host);
    line.text(name!("path"), row.path);
    line.plain(name!("protocol"), row.protocol.as_bytes());
    line.text_or_null(name!("consumer"), row.consumer);
    line.text_or_null(name!("key"), row.key);
    match row.client_ip {
        Some(address) => push_address(line.name(name!("client_ip")), address),
        None => line.null(name!("client_ip")),
    }
    line.text_or_null(name!("service"), row.service);
    line.text_or_null(name!("instance"), row.instance);
    line.number(name!("attempts"), row.attempts.into());
    match row.upstream_time {
        Some(time) => line.thousandths(name!("upstream_ms"), time),
        None => line.null(name!("upstream_ms")),
    }
    line.text_or_null(name!("cache"), row.cache);
    line.text(name!("decided_by"), row.decided_by);
    line.text_or_null(name!("limit_name"), row.limit_name);
    line.text_or_null(name!("observed"), row.observed);
    line.number(name!("bytes_in"), row.bytes_in.unsigned_abs());
    line.number(name!("bytes_out"), row.bytes_out.unsigned_abs());
    line.text_or_null(name!("user_agent"), row.user_agent);
    line.number(name!("generation"), row.generation.into());
}

/// RFC 3339 with microseconds, in quotes.
fn push_moment(out: &mut Vec<u8>, moment: Moment) {
    let parts = [
        (b'"', u64::from(moment.year), 4),
        (b'-', moment.month.into(), 2),
        (b'-', moment.day.into(), 2),
        (b'T', moment.hour.into(), 2),
        (b':', moment.minute.into(), 2),
        (b':', moment.second.into(), 2),
        (b'.', moment.microsecond.into(), 6),
    ];
    for (before, number, width) in parts {
        out.push(before);
        push_decimal(out, number, width);
    }
    out.extend_from_slice(b"Z\"");
}

fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    out.push(b'"');
    match address {
        IpAddr::V4(address) => {
            for (place, octet) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push(b'.');
                }
                push_decimal(out, octet.into(), 1);
            }
        }
        // Writing to memory can't fail.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    /// Takes so many bytes, then fails.
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_takes_what_fits() {
        let (done, result) = write_all(&mut Full(5), b"one\ntwo\n");
        assert_eq!((done, result.unwrap_err().kind()), (5, io::ErrorKind::StorageFull));
    }

    #[test]
    fn a_line_holds_every_column() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("requests.jsonl");
        let mut lines = Lines::open(&JsonLines::File(path.clone()), ClientIp::Masked).unwrap().unwrap();
        let taken = Taken::of(vec![record(), record()], Some(7), Some(3));
        assert_eq!(lines.write(&taken), (2, 0));
        let text = std::fs::read_to_string(&path).unwrap();
        let parsed: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(parsed[1]["sequence"], 8);
        assert_eq!(parsed[0]["run"], 3);
        assert_eq!(parsed[0]["client_ip"], "192.0.2.0");
        assert_eq!(parsed[0]["timestamp"], "2026-03-01T12:00:00.000250Z");
        assert!(text.starts_with(r#"{"timestamp":"#));
        assert_eq!(parsed[0].as_object().unwrap().len(), 28);
    }

    #[test]
    fn lines_that_are_not_written_are_counted() {
        // Every write to this device fails with "no space left".
        let mut lines = Lines::open(&JsonLines::File("/dev/full".into()), ClientIp::Full).unwrap().unwrap();
        let taken = Taken::of(vec![record(); 3], None, None);
        assert_eq!(lines.write(&taken), (0, 3));
    }

    #[test]
    fn a_file_that_was_rotated_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("requests.jsonl");
        let mut lines = Lines::open(&JsonLines::File(path.clone()), ClientIp::Full).unwrap().unwrap();
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        lines.reopen();
        lines.write(&Taken::of(vec![record()], Some(1), None));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    }
}
