//! What clients notice while instances are killed, frozen (SIGSTOP) and made to answer 500, one after the other, under a steady load:
//! errors of requests that may be sent again, requests that may not and were sent twice all the same, and latency before and after.
//! The instances are `mock_backends`, a process each; they write down every request that reaches them.

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, value_parser};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::{Value, json};

use super::gateway::Gateway;
use super::stream::{ask, connect};
use super::{configs, folder, program};
use crate::programs::{Core, Program, free_address, on_core};

/// The part of idempotent requests that may fail.
const ERRORS_MAX: f64 = 0.001;
/// When an instance is ejected, it is for so long; by then the p99 has to be as it was before.
pub const EJECTED_FOR: Duration = Duration::from_secs(5);
/// As it was: so many times what it was, or so much more.
const RECOVERED_TIMES: f64 = 2.0;
const RECOVERED_MORE_MS: f64 = 10.0;
/// Each of so many requests is a POST.
const POST_EVERY: u64 = 5;
/// Clients, each with a connection of its own; a request at a frozen instance keeps its client for seconds.
const CLIENTS: usize = 64;

#[derive(Args)]
pub struct Failover {
    /// The program to measure, built with `cargo build --release -p tollgate`.
    #[arg(long, default_value = "target/release/tollgate")]
    tollgate: PathBuf,
    /// The instances' program, built with `cargo build --release -p mock_backends`.
    #[arg(long, default_value = "target/release/mock_backends")]
    mock_backends: PathBuf,
    /// Requests per second.
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u64).range(10..=2_000))]
    rate: u64,
    /// Seconds; each of the three faults has a sixth of them, and each recovery.
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u64).range(42..=600))]
    seconds: u64,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Killed,
    Frozen,
    Failing,
}

const FAULTS: [Fault; 3] = [Fault::Killed, Fault::Frozen, Fault::Failing];

impl Fault {
    const fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Frozen => "frozen (SIGSTOP)",
            Self::Failing => "failing (500)",
        }
    }
}

/// One request, as its client saw it.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// When it was due, since the load began.
    due: Duration,
    is_post: bool,
    took: Duration,
    well: bool,
}

/// What reached an instance.
#[derive(Deserialize)]
struct Arrival {
    method: String,
    id: Option<String>,
}

struct Bench {
    instances: Vec<Program>,
    addresses: Vec<SocketAddr>,
    mock_backends: PathBuf,
    folder: PathBuf,
}

pub fn run(options: &Failover) -> Result<ExitCode, Box<dyn Error>> {
    let (tollgate, mock_backends) = (program(&options.tollgate)?, fs::canonicalize(&options.mock_backends));
    let mock_backends = mock_backends.map_err(|error| {
        format!("{}: {error}; build it with `cargo build --release -p mock_backends`", options.mock_backends.display())
    })?;
    let folder = folder()?;
    let addresses = (0..FAULTS.len()).map(|_| free_address()).collect::<io::Result<Vec<_>>>()?;
    let mut bench = Bench { instances: Vec::new(), addresses, mock_backends, folder: folder.path().to_owned() };
    for place in 0..FAULTS.len() {
        let instance = bench.instance(place)?;
        bench.instances.push(instance);
    }
    let config = configs::failover(&bench.addresses, EJECTED_FOR);
    let gateway = Gateway::start("tollgate", &tollgate, folder.path(), bench.addresses[0], None, &config)?;
    load(gateway.address(), options.rate, 2, 0)?; // connections are made, and checks have begun

    let part = Duration::from_secs_f64(options.seconds as f64 / 6.0);
    eprintln!("{} requests/s for {} s; faults of {part:.0?}, one after the other", options.rate, options.seconds);
    let asked = thread::scope(|scope| {
        let load = scope.spawn(|| load(gateway.address(), options.rate, options.seconds, 1));
        let broken = bench.break_in_turns(part);
        let asked = load.join().unwrap_or_else(|_| Err(io::Error::other("a client panicked")));
        broken.and_then(|()| Ok(asked?))
    })?;
    let told = Told { asked, sent: bench.sent()?, part };
    if options.json {
        println!("{:#}", told.json());
    } else {
        println!("{}", told.text());
    }
    let broken = told.broken();
    broken.iter().for_each(|broken| eprintln!("{broken}"));
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Bench {
    fn instance(&self, place: usize) -> io::Result<Program> {
        let address = self.addresses[place];
        let mut command = on_core(Core::Load, &self.mock_backends);
        command
            .args(["--instance", &format!("user={address}"), "--latency", "1ms..5ms", "--arrivals"])
            .arg(self.file(place));
        Program::start(&format!("instance-{address}"), command, address, &self.folder)
    }

    fn file(&self, place: usize) -> PathBuf {
        self.folder.join(format!("arrivals-{place}.json"))
    }

    /// Each instance has its fault for one part, after one part without any.
    fn break_in_turns(&mut self, part: Duration) -> Result<(), Box<dyn Error>> {
        for (place, fault) in FAULTS.into_iter().enumerate() {
            thread::sleep(part);
            eprintln!("instance {} is {}", place + 1, fault.name());
            match fault {
                Fault::Killed => self.instances[place].kill()?,
                Fault::Frozen => self.instances[place].signal(Signal::SIGSTOP)?,
                Fault::Failing => self.control(place, "/simulate-failure")?,
            }
            thread::sleep(part);
            eprintln!("instance {} is back", place + 1);
            match fault {
                Fault::Killed => self.instances[place] = self.instance(place)?,
                Fault::Frozen => self.instances[place].signal(Signal::SIGCONT)?,
                Fault::Failing => self.control(place, "/simulate-recovery")?,
            }
        }
        Ok(())
    }

    fn control(&self, place: usize, path: &str) -> Result<(), Box<dyn Error>> {
        let answer = super::stream::ask_once(self.addresses[place], "POST", path, "")?;
        if answer.status == 200 { Ok(()) } else { Err(format!("POST {path}: {}", answer.brief()).into()) }
    }

    /// How often each POST reached an instance.
    fn sent(&self) -> Result<HashMap<String, u32>, Box<dyn Error>> {
        let mut sent = HashMap::new();
        for place in 0..self.instances.len() {
            for line in fs::read_to_string(self.file(place))?.lines() {
                let arrival: Arrival = serde_json::from_str(line)?;
                if let (true, Some(id)) = (arrival.method == "POST", arrival.id) {
                    *sent.entry(id).or_default() += 1;
                }
            }
        }
        Ok(sent)
    }
}

/// Open loop: each request is due at its moment, whatever became of those before it; it waits only where all clients are busy, and that counts.
fn load(gateway: SocketAddr, rate: u64, seconds: u64, run: u8) -> io::Result<Vec<Asked>> {
    let (next, begun) = (AtomicU64::new(0), Instant::now());
    let client = || {
        let (mut asked, mut stream) = (Vec::new(), None);
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= rate * seconds {
                return asked;
            }
            let due = Duration::from_secs_f64(number as f64 / rate as f64);
            thread::sleep(due.saturating_sub(begun.elapsed()));
            let is_post = number % POST_EVERY == 0;
            let well = one(gateway, &mut stream, is_post, &format!("{run}-{number}"));
            asked.push(Asked { due, is_post, took: begun.elapsed().saturating_sub(due), well });
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.join().map_err(|_| io::Error::other("a client panicked"))?);
        }
        Ok(all)
    })
}

/// Whether it was answered below 500. A connection that the gateway ends, as announced, is made anew.
fn one(gateway: SocketAddr, stream: &mut Option<TcpStream>, is_post: bool, id: &str) -> bool {
    let (method, body) = if is_post { ("POST", "{}") } else { ("GET", "") };
    let request = format!(
        "{method} /users HTTP/1.1\r\nHost: a\r\nX-Id: {id}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = stream.take().map_or_else(|| connect(gateway), Ok).and_then(|mut open| {
        let answer = ask(&mut open, request.as_bytes())?;
        *stream = (answer.header("connection") != "close").then_some(open);
        Ok(answer)
    });
    answer.is_ok_and(|answer| answer.status < 500)
}

/// What came of it.
struct Told {
    asked: Vec<Asked>,
    /// How often each POST reached an instance.
    sent: HashMap<String, u32>,
    part: Duration,
}

/// A time within the load.
struct Window {
    name: String,
    from: Duration,
    to: Duration,
}

impl Told {
    /// Without a fault; and of each fault the ejection time, and the rest of it.
    fn windows(&self) -> Vec<Window> {
        let mut windows = vec![Window { name: "healthy".to_owned(), from: Duration::ZERO, to: self.part }];
        for (turn, fault) in (0_u32..).zip(FAULTS) {
            let from = self.part * (2 * turn + 1);
            let (recovered, to) = (from + EJECTED_FOR, from + self.part);
            windows.push(Window { name: fault.name().to_owned(), from, to: recovered });
            windows.push(Window {
                name: format!("{}, {} s later", fault.name(), EJECTED_FOR.as_secs()),
                from: recovered,
                to,
            });
        }
        windows
    }

    /// Milliseconds that 99% of the requests due in that time took at most, all methods.
    fn p99_ms(&self, window: &Window) -> f64 {
        let within = self.asked.iter().filter(|asked| (window.from..window.to).contains(&asked.due));
        let mut took: Vec<f64> = within.map(|asked| asked.took.as_secs_f64() * 1e3).collect();
        took.sort_by(f64::total_cmp);
        took.get((took.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    /// Requests of a kind, and those of them that failed.
    fn failed(&self, is_post: bool) -> (usize, usize) {
        let all = self.asked.iter().filter(|asked| asked.is_post == is_post);
        (all.clone().count(), all.filter(|asked| !asked.well).count())
    }

    fn sent_twice(&self) -> usize {
        self.sent.values().filter(|times| **times > 1).count()
    }

    /// Which promises do not hold.
    fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let (gets, failed) = self.failed(false);
        if failed as f64 > gets as f64 * ERRORS_MAX {
            broken.push(format!("{failed} of {gets} idempotent requests failed: more than {}%", ERRORS_MAX * 1e2));
        }
        let (posts, _) = self.failed(true);
        // A POST that reached nobody is refused; but most reach somebody, or nothing was counted.
        if self.sent.len() * 10 < posts * 9 {
            broken.push(format!("{posts} POST requests were sent, and the instances know of {} only", self.sent.len()));
        }
        if self.sent_twice() > 0 {
            broken.push(format!("{} POST requests were sent twice", self.sent_twice()));
        }
        let windows = self.windows();
        let healthy = self.p99_ms(&windows[0]);
        let allowed = (healthy * RECOVERED_TIMES).max(healthy + RECOVERED_MORE_MS);
        for window in windows.iter().filter(|window| window.name.ends_with("later")) {
            let p99 = self.p99_ms(window);
            if p99 > allowed {
                broken.push(format!("{}: p99 is {p99:.1} ms, and was {healthy:.1}", window.name));
            }
        }
        broken
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for window in self.windows() {
            let _ = writeln!(text, "{:<32} p99 {:>7.1} ms", window.name, self.p99_ms(&window));
        }
        let ((gets, gets_failed), (posts, posts_failed)) = (self.failed(false), self.failed(true));
        let percent = gets_failed as f64 / gets as f64 * 1e2;
        let _ = writeln!(text, "GET   {gets:>6}, {gets_failed} failed ({percent:.3}%)");
        let _ =
            write!(text, "POST  {posts:>6}, {posts_failed} failed, {} reached an instance twice", self.sent_twice());
        text
    }

    fn json(&self) -> Value {
        let windows = self.windows();
        let windows = windows.iter().map(|window| json!({"window": window.name, "p99_ms": self.p99_ms(window)}));
        let ((gets, gets_failed), (posts, posts_failed)) = (self.failed(false), self.failed(true));
        json!({
            "windows": windows.collect::<Vec<_>>(),
            "get": {"sent": gets, "failed": gets_failed},
            "post": {"sent": posts, "failed": posts_failed, "twice": self.sent_twice()},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 requests a second for a minute that take 4 ms, changed by their number.
    fn told(change: impl Fn(u64, &mut Asked)) -> Told {
        let asked = (0..6_000).map(|number| {
            let due = Duration::from_millis(number * 10);
            let is_post = number % POST_EVERY == 0;
            let mut asked = Asked { due, is_post, took: Duration::from_millis(4), well: true };
            change(number, &mut asked);
            asked
        });
        let sent = (0..1_200).map(|number| (number.to_string(), 1)).collect();
        Told { asked: asked.collect(), sent, part: Duration::from_secs(10) }
    }

    #[test]
    fn all_is_well_where_nothing_happens() {
        let told = told(|_, _| ());
        assert_eq!((told.broken(), told.failed(false)), (Vec::new(), (4_800, 0)));
        assert!(told.text().contains("frozen (SIGSTOP), 5 s later"), "{}", told.text());
    }

    #[test]
    fn errors_and_what_was_sent_twice_are_told() {
        let mut told = told(|number, asked| asked.well = number != 1 && number % 500 != 3);
        told.sent.insert("7".to_owned(), 2);
        let broken = told.broken().join("\n");
        assert!(
            broken.contains("13 of 4800 idempotent") && broken.contains("1 POST requests were sent twice"),
            "{broken}"
        );
        told.sent.clear();
        assert!(told.broken().join("\n").contains("know of 0 only"));
    }

    #[test]
    fn latency_has_to_be_back_within_the_ejection_time() {
        let slow = |from: u64, to: u64| {
            move |number: u64, asked: &mut Asked| {
                if (from * 100..to * 100).contains(&number) {
                    asked.took = Duration::from_millis(500);
                }
            }
        };
        assert_eq!(told(slow(30, 35)).broken(), Vec::<String>::new());
        assert_eq!(told(slow(30, 36)).broken(), ["frozen (SIGSTOP), 5 s later: p99 is 500.0 ms, and was 4.0"]);
    }
}
