//! The quick comparison: bare Pingora and tollgate in turns, every scenario once a round.
//! Each measurement is checked: the right answers, requests at the upstream as expected, a log line for each answer.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::bare::REFUSE_PATH;
use crate::drive::drive;
use crate::programs::{Core, Program, free_address, on_core};
use crate::report::{Row, Sample, table, to_json};
use crate::upstream::{BODY_BYTES, REQUESTS_PATH};

/// Only ever known to the gateway that is measured.
const KEY: (&str, &str) = ("X-API-Key", "loadtest-key");
/// SHA-256 of the key in [`KEY`].
const KEY_SHA256: &str = "0dd9be9f9a8be0a0e3c2475ef6993b91b523557deb64651fb326e49e34f87ece";
const WRONG_KEY: (&str, &str) = ("X-API-Key", "loadtest-wrong-key");

const PLAIN: &str = "
routes:
  /items: {to: upstream, keys: none}
log: none
";

const POLICIES: &str = "
keys:
  loadtest: {sha256: DIGEST}
routes:
  /items: {to: upstream, limit: 100000000/min per ip}
  /cached: {to: upstream, limit: 100000000/min per ip, cache: 1h}
log: {store: none, json: lines.json}
";

/// How long log lines may take to be written after the load has ended.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// A way of asking one of the proxies.
struct Scenario {
    name: &'static str,
    what: &'static str,
    beside: &'static str,
    proxy: usize,
    path: &'static str,
    header: Option<(&'static str, &'static str)>,
    status: u16,
    /// A header that only the work in question sets.
    proof: Option<&'static str>,
    is_forwarded: bool,
    is_logged: bool,
}

struct Bench {
    // Dropped first to last: the proxies before their upstream, the folder at the end.
    proxies: Vec<Program>,
    upstream: Program,
    lines: PathBuf,
    connections: u32,
    _folder: Folder,
}

/// A temporary folder, removed when dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn run(options: &crate::Quick) -> Result<(), Box<dyn Error>> {
    let tollgate = fs::canonicalize(&options.tollgate).map_err(|error| {
        format!("{}: {error}; build it with `cargo build --release -p tollgate`", options.tollgate.display())
    })?;
    let bench = Bench::start(&tollgate, options.connections)?;
    let scenarios = scenarios();
    let mut rows: Vec<Row> =
        scenarios.iter().map(|s| Row { name: s.name, what: s.what, beside: s.beside, samples: Vec::new() }).collect();
    for scenario in &scenarios {
        bench.probe(scenario)?;
        bench.measure(scenario, 1)?;
    }
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for (scenario, row) in scenarios.iter().zip(&mut rows) {
            row.samples.push(bench.measure(scenario, options.seconds)?);
        }
    }
    if options.json {
        println!("{:#}", to_json(&rows, options.connections));
    } else {
        println!("{}", table(&rows, options.connections));
    }
    Ok(())
}

fn scenarios() -> Vec<Scenario> {
    let base = Scenario {
        name: "bare",
        what: "Pingora with the same peer timeouts, nothing else",
        beside: "bare",
        proxy: 0,
        path: "/items",
        header: None,
        status: 200,
        proof: None,
        is_forwarded: true,
        is_logged: false,
    };
    let dressed = Scenario {
        name: "bare dressed",
        what: "and request id, forwarded headers",
        proxy: 1,
        proof: Some("x-request-id"),
        ..base
    };
    let plain = Scenario {
        name: "plain",
        what: "tollgate: no key, no limit, no log",
        beside: "bare dressed",
        proxy: 2,
        proof: Some("x-request-id"),
        ..base
    };
    let gateway = Scenario {
        name: "gateway",
        what: "tollgate: key, limit per ip, JSON line",
        proxy: 3,
        header: Some(KEY),
        proof: Some("ratelimit"),
        is_logged: true,
        ..base
    };
    let cached = Scenario {
        name: "cache hit",
        what: "and answered from the cache",
        path: "/cached",
        proof: Some("age"),
        is_forwarded: false,
        ..gateway
    };
    let bare_refusal = Scenario {
        name: "bare 401",
        what: "Pingora answering in request_filter",
        path: REFUSE_PATH,
        status: 401,
        is_forwarded: false,
        ..base
    };
    let refusal = Scenario {
        name: "refusal",
        what: "tollgate: unknown key, JSON line",
        beside: "bare 401",
        header: Some(WRONG_KEY),
        status: 401,
        proof: Some("www-authenticate"),
        is_forwarded: false,
        ..gateway
    };
    let bare_refusal = Scenario { beside: "bare 401", ..bare_refusal };
    vec![base, dressed, plain, gateway, cached, bare_refusal, refusal]
}

impl Bench {
    fn start(tollgate: &Path, connections: u32) -> Result<Self, Box<dyn Error>> {
        let folder = Folder(std::env::temp_dir().join(format!("loadtest-{}", std::process::id())));
        fs::create_dir_all(&folder.0)?;
        let own = std::env::current_exe()?;

        let address = free_address()?;
        let mut command = on_core(Core::Load, &own);
        command.args(["upstream", "--listen", &address.to_string()]);
        let upstream = Program::start("upstream", command, address, &folder.0)?;

        let mut proxies = Vec::new();
        for (name, flag) in [("bare", None), ("bare-dressed", Some("--dressed"))] {
            let listen = free_address()?;
            let mut command = on_core(Core::Proxy, &own);
            command
                .args(["bare", "--listen", &listen.to_string(), "--upstream", &upstream.address.to_string()])
                .args(flag);
            proxies.push(Program::start(name, command, listen, &folder.0)?);
        }
        for (name, routes) in [("tollgate-plain", PLAIN), ("tollgate-policies", POLICIES)] {
            let listen = free_address()?;
            let routes = routes.replace("DIGEST", KEY_SHA256);
            let head =
                format!("listen: {listen}\nadmin: none\nthreads: 1\nservices:\n  upstream: [{}]", upstream.address);
            let conf = folder.0.join(format!("{name}.yaml"));
            fs::write(&conf, head + &routes)?;
            let mut command = on_core(Core::Proxy, tollgate);
            command.arg("run").arg("-c").arg(&conf);
            proxies.push(Program::start(name, command, listen, &folder.0)?);
        }
        Ok(Self { proxies, upstream, lines: folder.0.join("lines.json"), connections, _folder: folder })
    }

    /// Asks twice by hand, and looks at the second answer: it is what the load will get.
    fn probe(&self, scenario: &Scenario) -> Result<(), Box<dyn Error>> {
        let proxy = &self.proxies[scenario.proxy];
        self.empty_lines()?;
        proxy.get(scenario.path, scenario.header)?;
        let answer = proxy.get(scenario.path, scenario.header)?;
        if scenario.is_logged {
            // Otherwise these two lines would be counted with the load's.
            self.settled_lines(2)?;
        }
        let has_proof = scenario.proof.is_none_or(|name| answer.headers.contains_key(name));
        let has_body = scenario.status != 200 || answer.body.len() == BODY_BYTES;
        if answer.status != scenario.status || !has_proof || !has_body {
            let (name, status, proof) = (scenario.name, scenario.status, scenario.proof);
            return Err(format!("{name}: expected {status} with the header {proof:?}, got {answer:?}").into());
        }
        Ok(())
    }

    fn measure(&self, scenario: &Scenario, seconds: u32) -> Result<Sample, Box<dyn Error>> {
        let proxy = &self.proxies[scenario.proxy];
        self.empty_lines()?;
        let asked_before = self.asked()?;
        let cpu_before = proxy.cpu_us()?;
        let url = format!("http://{}{}", proxy.address, scenario.path);
        let load = drive(&url, scenario.header, self.connections, seconds)?;
        // Lines first: writing them is part of the cost.
        let lines = if scenario.is_logged { self.settled_lines(load.answers)? } else { load.answers };
        let asked = self.asked()? - asked_before;
        let cpu = proxy.cpu_us()? - cpu_before;

        // What is on its way when the load ends is served, but not counted by it.
        let all = load.answers..=load.answers + u64::from(self.connections);
        let not_ok = if scenario.status == 200 { 0 } else { load.answers };
        let is_work_done = load.answers > 0
            && load.errors == 0
            && load.not_ok == not_ok
            && all.contains(&lines)
            && if scenario.is_forwarded { all.contains(&asked) } else { asked == 0 };
        if !is_work_done {
            let name = scenario.name;
            return Err(format!(
                "{name}: the work was not done: {load:?}, {asked} requests at the upstream, {lines} log lines"
            )
            .into());
        }
        let cpu_us = cpu as f64 / load.answers as f64;
        Ok(Sample { cpu_us, per_second: load.per_second })
    }

    /// Requests at the upstream so far, once no more are coming: a load leaves some on their way when it ends.
    fn asked(&self) -> Result<u64, Box<dyn Error>> {
        let deadline = Instant::now() + SETTLE_MAX;
        let mut before = None;
        loop {
            let asked: u64 = self.upstream.get(REQUESTS_PATH, None)?.body.trim().parse()?;
            if before == Some(asked) || Instant::now() > deadline {
                return Ok(asked);
            }
            before = Some(asked);
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// A few hundred megabytes of lines are of no use to anyone.
    fn empty_lines(&self) -> io::Result<()> {
        OpenOptions::new().write(true).create(true).truncate(true).open(&self.lines).map(drop)
    }

    /// The number of log lines, once there are as many as answers and no more are coming.
    fn settled_lines(&self, answers: u64) -> io::Result<u64> {
        let deadline = Instant::now() + SETTLE_MAX;
        let mut before = 0;
        loop {
            let lines = count_lines(&self.lines)?;
            if (lines >= answers && lines == before) || Instant::now() > deadline {
                return Ok(lines);
            }
            before = lines;
            thread::sleep(Duration::from_millis(300));
        }
    }
}

fn count_lines(path: &Path) -> io::Result<u64> {
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0_u8; 1 << 20];
    let mut lines = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(lines);
        }
        lines += buffer[..read].iter().filter(|byte| **byte == b'\n').count() as u64;
    }
}
