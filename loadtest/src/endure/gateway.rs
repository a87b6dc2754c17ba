//! A tollgate that is looked at: its configuration file, its program, and its admin listener.
//! It is started with what `configs` says, on the proxy's core where nothing else is said, and ends with the value.

use std::error::Error;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::resident::{self, Resident};
use super::scrape::Scrape;
use super::stream::ask_once;
use crate::http::Answer;
use crate::programs::{Core, Program, free_address, on_core};

/// 100,000 keys are read before anything is served.
const READY_MAX: Duration = Duration::from_secs(30);

/// In configurations: the address of the upstream.
pub const UPSTREAM: &str = "UPSTREAM";

/// A running gateway; dropping it ends it.
pub struct Gateway {
    program: Program,
    admin: SocketAddr,
    upstream: SocketAddr,
    /// What no reload may change.
    head: String,
    file: PathBuf,
}

impl Gateway {
    /// Starts the program and waits until it is ready. `tls` is the entry of `listen[].tls`; `config` is everything from `services` on.
    /// Its files are `NAME.yaml` and whatever `config` names, in the folder.
    pub fn start(
        name: &str,
        tollgate: &Path,
        folder: &Path,
        upstream: SocketAddr,
        tls: Option<&str>,
        config: &str,
    ) -> Result<Self, Box<dyn Error>> {
        Self::start_on((Core::Proxy, 1), name, tollgate, folder, upstream, tls, config)
    }

    /// The same with as many threads as there are processors, and on none of them in particular.
    pub fn start_anywhere(
        name: &str,
        tollgate: &Path,
        folder: &Path,
        upstream: SocketAddr,
        config: &str,
    ) -> Result<Self, Box<dyn Error>> {
        let threads = thread::available_parallelism()?.get();
        Self::start_on((Core::Any, threads), name, tollgate, folder, upstream, None, config)
    }

    fn start_on(
        (core, threads): (Core, usize),
        name: &str,
        tollgate: &Path,
        folder: &Path,
        upstream: SocketAddr,
        tls: Option<&str>,
        config: &str,
    ) -> Result<Self, Box<dyn Error>> {
        let (listen, admin) = (free_address()?, free_address()?);
        let listener = tls.map_or(listen.to_string(), |tls| format!("{{address: {listen}, tls: [{tls}]}}"));
        let head = format!("listen: {listener}\nadmin: {admin}\nthreads: {threads}\n");
        let file = folder.join(format!("{name}.yaml"));
        write(&file, &text(&head, upstream, config))?;
        let mut command = on_core(core, tollgate);
        command.arg("run").arg("-c").arg(&file);
        let program = Program::start(name, command, listen, folder)?;
        let gateway = Self { program, admin, upstream, head, file };
        gateway.wait_ready()?;
        Ok(gateway)
    }

    /// Puts another configuration in force, and says which generation it is.
    pub fn reload(&self, config: &str) -> Result<u64, Box<dyn Error>> {
        write(&self.file, &text(&self.head, self.upstream, config))?;
        let answer = self.admin("POST", "/admin/reload")?;
        let said: serde_json::Value = serde_json::from_slice(&answer.body)?;
        said["generation"].as_u64().ok_or_else(|| format!("POST /admin/reload: no generation in {said}").into())
    }

    fn wait_ready(&self) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            let said = ask_once(self.admin, "GET", "/ready", "");
            if said.as_ref().is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("tollgate is not ready after {READY_MAX:?}: {said:?}").into());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.program.address
    }

    /// What it has said so far.
    pub fn said(&self) -> io::Result<String> {
        self.program.said()
    }

    /// CPU time so far, all threads.
    pub fn cpu(&self) -> io::Result<Duration> {
        self.program.cpu()
    }

    /// Memory now.
    pub fn memory(&self) -> io::Result<Resident> {
        resident::of(self.program.id()?)
    }

    /// Memory once it no longer changes.
    pub fn settled(&self) -> io::Result<Resident> {
        resident::settled(self.program.id()?)
    }

    /// Asks for a path as a client, and wants this status.
    pub fn expect(&self, path: &str, lines: &str, status: u16) -> Result<(), Box<dyn Error>> {
        let answer = ask_once(self.address(), "GET", path, lines)?;
        if answer.status == status {
            return Ok(());
        }
        Err(format!("GET {path} with {lines:?}: expected {status}, got {}", answer.brief()).into())
    }

    /// What `/metrics` says now.
    pub fn scrape(&self) -> Result<Scrape, Box<dyn Error>> {
        Ok(Scrape::new(self.admin("GET", "/metrics")?.text()))
    }

    fn admin(&self, method: &str, path: &str) -> Result<Answer, Box<dyn Error>> {
        let answer = ask_once(self.admin, method, path, "")?;
        if answer.status != 200 {
            return Err(format!("{method} {path}: {} {}", answer.status, answer.text()).into());
        }
        Ok(answer)
    }
}

fn text(head: &str, upstream: SocketAddr, config: &str) -> String {
    format!("{head}{}", config.replace(UPSTREAM, &upstream.to_string()))
}

/// Renamed into place, so that a reload never reads half a file.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let aside = file.with_extension("next");
    fs::write(&aside, text)?;
    fs::rename(aside, file)
}
