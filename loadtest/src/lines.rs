//! The JSON lines that contenders write: every one is read, counted by its status, and must hold the fields agreed on.
//! The file is emptied between measurements; whoever writes it appends.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::contender::LINE_FIELDS;

/// How long lines may take to be written after the last answer.
const SETTLE_MAX: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// The file, and what was read of it since it was emptied.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    position: u64,
    pub count: u64,
    pub by_status: BTreeMap<u16, u64>,
    /// The first line that is not as agreed, and why.
    pub bad: Option<String>,
    /// The last line.
    pub last: String,
}

/// The fields of [`LINE_FIELDS`]; a line without one of them does not parse.
#[derive(Deserialize)]
#[allow(dead_code, reason = "what counts is that they are there")]
struct Line {
    timestamp: IgnoredAny,
    http_method: IgnoredAny,
    host: IgnoredAny,
    path: IgnoredAny,
    status_code: u16,
    response_time_ms: IgnoredAny,
    bytes_out: IgnoredAny,
    client_ip: IgnoredAny,
    request_id: IgnoredAny,
}

impl Lines {
    /// Empties the file, or makes it.
    pub fn empty(path: PathBuf) -> io::Result<Self> {
        OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        Ok(Self::of(path))
    }

    /// The file as it is, from its beginning.
    pub fn of(path: PathBuf) -> Self {
        Self { path, position: 0, count: 0, by_status: BTreeMap::new(), bad: None, last: String::new() }
    }

    /// Reads until there are `expected` lines and no more are coming, or too much time has passed.
    pub fn settle(&mut self, expected: u64) -> io::Result<()> {
        let deadline = Instant::now() + SETTLE_MAX;
        loop {
            let before = self.count;
            self.read()?;
            if (self.count >= expected && self.count == before) || Instant::now() > deadline {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
    }

    /// Reads until the last line is the one of this request: what was asked before it is written, too.
    pub fn settle_at(&mut self, id: &str) -> io::Result<()> {
        let deadline = Instant::now() + SETTLE_MAX;
        let is_last = |line: &str| serde_json::from_str::<Value>(line).is_ok_and(|line| line["request_id"] == id);
        loop {
            self.read()?;
            if is_last(&self.last) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let seconds = SETTLE_MAX.as_secs();
                return Err(io::Error::other(format!(
                    "expected a last line with the request id {id:?} within {seconds} s; seen: {} lines, the last: {}",
                    self.count, self.last
                )));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Reads what was added; a last line without its end is left for the next time.
    fn read(&mut self) -> io::Result<()> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.position))?;
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = file.read_until(b'\n', &mut line)?;
            if !line.ends_with(b"\n") {
                return Ok(());
            }
            self.position += length as u64;
            self.one(&line[..length - 1]);
        }
    }

    fn one(&mut self, line: &[u8]) {
        self.count += 1;
        match serde_json::from_slice::<Line>(line) {
            Ok(parsed) => *self.by_status.entry(parsed.status_code).or_default() += 1,
            Err(error) if self.bad.is_none() => {
                let text: String = String::from_utf8_lossy(line).chars().take(300).collect();
                self.bad = Some(format!("{error} (wanted: {}): {text}", LINE_FIELDS.join(", ")));
            }
            Err(_) => {}
        }
        self.last.clear();
        self.last.push_str(&String::from_utf8_lossy(line));
    }

    /// The whole line with this request id, of those written so far.
    pub fn with_id(&self, id: &str) -> io::Result<Option<Value>> {
        for line in BufReader::new(File::open(&self.path)?).lines() {
            let value: Option<Value> = serde_json::from_str(&line?).ok();
            if let Some(value) = value.filter(|value| value["request_id"] == id) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn line(status: &str) -> String {
        let fields = LINE_FIELDS.map(|name| {
            let value = if name == "status_code" { status } else { "\"x\"" };
            format!("\"{name}\":{value}")
        });
        format!("{{{}}}\n", fields.join(","))
    }

    fn read(text: &str) -> Lines {
        let path = std::env::temp_dir().join(format!(
            "loadtest-lines-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let mut lines = Lines::empty(path.clone()).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        // In two pieces, cut within a line.
        let (first, second) = text.split_at(text.len() / 2);
        file.write_all(first.as_bytes()).unwrap();
        lines.read().unwrap();
        file.write_all(second.as_bytes()).unwrap();
        lines.read().unwrap();
        std::fs::remove_file(path).unwrap();
        lines
    }

    #[test]
    fn lines_are_counted_by_status() {
        let lines = read(&(line("200") + &line("429") + &line("429")));
        assert_eq!((lines.count, lines.bad), (3, None));
        assert_eq!(lines.by_status, BTreeMap::from([(200, 1), (429, 2)]));
    }

    #[test]
    fn a_line_without_a_field_is_bad() {
        let lines = read(&line("200").replace("\"path\"", "\"way\""));
        assert!(lines.bad.unwrap().contains("missing field `path`"));
    }

    #[test]
    fn a_line_that_is_no_json_is_bad() {
        assert!(read("GET / 200\n").bad.is_some());
        assert!(read(&line("\"200\"")).bad.is_some());
    }

    #[test]
    fn half_a_line_is_not_counted() {
        assert_eq!(read(line("200").trim_end()).count, 0);
    }
}
