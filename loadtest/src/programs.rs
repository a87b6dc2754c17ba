//! The programs of a measurement: started on their cores, asked by hand, and ended when their owner goes.
//! If this process is killed, the kernel ends them (`setpriv --pdeathsig`); they are never left behind.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const START_MAX: Duration = Duration::from_secs(10);
const STOP_MAX: Duration = Duration::from_secs(5);
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Where a program runs, so that the proxy and its load do not share a core.
#[derive(Clone, Copy)]
pub enum Core {
    Proxy,
    Load,
}

/// A running program; dropping it ends it.
pub struct Program {
    name: String,
    child: Child,
    pub address: SocketAddr,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// `command` on one core, where there are two.
pub fn on_core(core: Core, program: impl AsRef<OsStr>) -> Command {
    let number = match core {
        Core::Proxy => "0",
        Core::Load => "1",
    };
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
        command.args(["taskset", "-c", number]);
    }
    command.arg(program);
    command
}

/// An address on loopback that was free a moment ago.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

impl Program {
    /// Starts a program and waits until it accepts connections; its messages go to a file in `folder`.
    pub fn start(name: &str, mut command: Command, address: SocketAddr, folder: &Path) -> io::Result<Self> {
        let messages = folder.join(format!("{name}.messages"));
        let out = File::create(&messages)?;
        let child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
        let mut program = Self { name: name.to_owned(), child, address };
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect(address).is_err() {
            let ended = program.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(&messages).unwrap_or_default();
                return Err(io::Error::other(format!(
                    "{name} does not accept connections on {address}; it said:\n{said}"
                )));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(program)
    }

    /// User and system time of the whole process so far, in microseconds; the kernel counts in hundredths of a second.
    pub fn cpu_us(&self) -> io::Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        cpu_ticks(&stat)
            .map(|ticks| ticks * 10_000)
            .ok_or_else(|| io::Error::other(format!("{}: unreadable: {stat}", self.name)))
    }

    /// One GET on a connection of its own.
    pub fn get(&self, path: &str, header: Option<(&str, &str)>) -> io::Result<Answer> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        let header = header.map(|(name, value)| format!("{name}: {value}\r\n")).unwrap_or_default();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{header}\r\n", self.address)?;
        let mut bytes = Vec::new();
        // An upstream that keeps the connection open is done when its body is complete.
        while !is_complete(&bytes) {
            let mut piece = [0_u8; 4096];
            let read = stream.read(&mut piece)?;
            if read == 0 {
                break;
            }
            bytes.extend_from_slice(&piece[..read]);
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        answer(&text).ok_or_else(|| io::Error::other(format!("{}: GET {path}: no answer but {text:?}", self.name)))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Politely first: tollgate writes its log out.
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        let deadline = Instant::now() + STOP_MAX;
        let is_polite = self.name.starts_with("tollgate") && asked.is_ok();
        while is_polite && Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `utime` and `stime`, the 14th and 15th fields; the second may hold blanks, so it is counted from its bracket.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn is_complete(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    answer(&text).is_some_and(|answer| {
        let length = answer.headers.get("content-length").and_then(|length| length.parse::<usize>().ok());
        length.is_some_and(|length| answer.body.len() >= length)
    })
}

fn answer(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    Some(Answer { status, headers: headers.collect(), body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 700 42 0 0 20";
        assert_eq!(cpu_ticks(stat), Some(742));
    }

    #[test]
    fn an_answer_is_read_into_its_parts() {
        let text = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 2\r\n\r\nno";
        let answer = answer(text).unwrap();
        assert_eq!(
            (answer.status, answer.headers["www-authenticate"].as_str(), answer.body.as_str()),
            (401, "Bearer", "no")
        );
        assert!(is_complete(text.as_bytes()));
        assert!(!is_complete(&text.as_bytes()[..text.len() - 1]));
    }
}
