//! JSON lines: the same record as one JSON object a line, on standard output or in a file.
//! Field names are those of `api_logs`; all fields are there in every line, `null` where there is nothing to say. The
//! time is RFC 3339 in UTC with microseconds. `sequence` is null in a line whose record the store had no room for,
//! `run` also before the store has given the number.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::Serialize;
use uuid::Uuid;

use super::queue::Taken;
use crate::config::{ClientIp, JsonLines};
use crate::record::Record;
use crate::store::Row;

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

/// One line; the names are those of the columns, in their order.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    endpoint: &'a str,
    http_method: &'a str,
    status_code: u16,
    response_time_ms: f64,
    is_error: bool,
    run: Option<u32>,
    sequence: Option<u64>,
    request_id: Uuid,
    client_request_id: Option<&'a str>,
    host: Option<&'a str>,
    path: &'a str,
    protocol: &'a str,
    consumer: Option<&'a str>,
    key: Option<&'a str>,
    client_ip: Option<IpAddr>,
    service: Option<&'a str>,
    instance: Option<&'a str>,
    attempts: u16,
    upstream_ms: Option<f64>,
    cache: Option<&'a str>,
    decided_by: &'a str,
    limit_name: Option<&'a str>,
    observed: Option<&'a str>,
    bytes_in: i64,
    bytes_out: i64,
    user_agent: Option<&'a str>,
    generation: u32,
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

    /// Writes one line a record, all at once; how many are complete, and how many are not.
    pub(super) fn write(&mut self, taken: &Taken) -> (u64, u64) {
        self.buffer.clear();
        if self.torn {
            self.buffer.push(b'\n');
        }
        let prefix = self.buffer.len();
        for (place, record) in (0..).zip(&taken.records) {
            let sequence = taken.first.map(|first| first + place);
            push_line(&mut self.buffer, record, self.client_ip, taken.run, sequence);
        }
        let (done, result) = match &mut self.target {
            Target::Stdout => write_all(&mut io::stdout().lock(), &self.buffer),
            Target::File(_, file) => write_all(file, &self.buffer),
        };
        let newlines = self.buffer.get(prefix..done).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count();
        if done > 0 {
            self.torn = self.buffer.get(done - 1).is_some_and(|byte| *byte != b'\n');
        }
        self.say(result);
        let written = newlines as u64;
        (written, (taken.records.len() as u64).saturating_sub(written))
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

/// Appends the line of one record, its newline included.
pub fn push_line(buffer: &mut Vec<u8>, record: &Record, client_ip: ClientIp, run: Option<u32>, sequence: Option<u64>) {
    let row = Row::of(record, client_ip);
    // Writing to memory can't fail, and nothing in a line can't be written as JSON.
    if serde_json::to_writer(&mut *buffer, &line(&row, run, sequence)).is_ok() {
        buffer.push(b'\n');
    }
}

fn line<'a>(row: &Row<'a>, run: Option<u32>, sequence: Option<u64>) -> Line<'a> {
    Line {
        timestamp: row.timestamp.rfc3339().to_string(),
        endpoint: row.endpoint,
        http_method: row.http_method,
        status_code: row.status_code,
        response_time_ms: row.response_time_ms,
        is_error: row.is_error,
        run,
        sequence,
        request_id: Uuid::from_bytes(*row.request_id),
        client_request_id: row.client_request_id,
        host: row.host,
        path: row.path,
        protocol: row.protocol,
        consumer: row.consumer,
        key: row.key,
        client_ip: row.client_ip,
        service: row.service,
        instance: row.instance,
        attempts: row.attempts,
        upstream_ms: row.upstream_ms,
        cache: row.cache,
        decided_by: row.decided_by,
        limit_name: row.limit_name,
        observed: row.observed,
        bytes_in: row.bytes_in,
        bytes_out: row.bytes_out,
        user_agent: row.user_agent,
        generation: row.generation,
    }
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
        let taken = Taken { records: vec![record(), record()], first: Some(7), run: Some(3) };
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
        let taken = Taken { records: vec![record(); 3], first: None, run: None };
        assert_eq!(lines.write(&taken), (0, 3));
    }

    #[test]
    fn a_file_that_was_rotated_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("requests.jsonl");
        let mut lines = Lines::open(&JsonLines::File(path.clone()), ClientIp::Full).unwrap().unwrap();
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        lines.reopen();
        lines.write(&Taken { records: vec![record()], first: Some(1), run: None });
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    }
}
