//! The place of a run: its folder, the upstream, the load generators, keys and certificate, and contenders started in it.
//! Everything goes with it when it is dropped.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::certificate::Certificate;
use crate::contender::{Contender, KEYS, Place, Prepared, ROUTES, Setup};
use crate::http::{self, Answer};
use crate::job::Kind;
use crate::load::closed::Wrk;
use crate::load::{idle, open::Oha};
use crate::programs::{Core, Program, free_address, moved_to_core, on_core};
use crate::report::{self, Settings};
use crate::stop::Folder;
use crate::upstream::REQUESTS_PATH;

/// From accepting connections to the first answer: some listen before they are ready.
const READY_MAX: Duration = Duration::from_secs(10);
/// How long requests that are on their way when a load ends may take.
const SETTLE_MAX: Duration = Duration::from_secs(10);

pub struct Bench {
    // Dropped first to last: the upstream before the folder it writes to.
    pub upstream: Program,
    pub wrk: Wrk,
    pub oha: Option<Oha>,
    certificate: Certificate,
    /// The first is the one of every setup with keys.
    pub keys: Vec<String>,
    folder: Folder,
}

/// A contender in a setup, running.
pub struct Running {
    pub program: Program,
    pub setup: Setup,
    pub lines: PathBuf,
    tls: Option<std::sync::Arc<rustls::ClientConfig>>,
}

pub enum Started {
    Running(Running),
    CanNot(&'static str),
}

impl Bench {
    /// `settings` are corrected where the machine does not allow what was asked for.
    pub fn start(settings: &mut Settings, kinds: &[Kind]) -> io::Result<Self> {
        let folder = Folder::make()?;
        folder.watch_signals()?;
        if kinds.contains(&Kind::Idle) {
            let allowed = idle::allowed(settings.idle_connections)?;
            if allowed < settings.idle_connections {
                eprintln!(
                    "the limit of open files cannot be raised far enough (ulimit -Hn): {allowed} idle connections instead of {}",
                    settings.idle_connections
                );
                settings.idle_connections = allowed;
            }
        }
        let keys: Vec<String> = (0..KEYS).map(key).collect();
        let lines: Vec<&str> = keys.iter().map(String::as_str).collect();
        let wrk = Wrk::new(folder.path(), &lines, ROUTES, settings.addresses)?;
        let oha = kinds.contains(&Kind::Open).then(Oha::new).transpose()?;
        let certificate = Certificate::make(folder.path())?;
        let address = free_address()?;
        let mut command = on_core(Core::Load, std::env::current_exe()?);
        command.args(["upstream", "--listen", &address.to_string()]);
        let upstream = Program::start("upstream", command, address, folder.path())?;
        Ok(Self { upstream, wrk, oha, certificate, keys, folder })
    }

    /// Names and versions of the load generators.
    pub fn tools(&self) -> io::Result<Vec<report::Program>> {
        let tool = |name: &str, version| report::Program { name: name.to_owned(), is_installed: true, version };
        let mut tools = vec![tool("wrk", self.wrk.version()?)];
        if let Some(oha) = &self.oha {
            tools.push(tool("oha", oha.version()?));
        }
        Ok(tools)
    }

    pub fn key(&self) -> &str {
        &self.keys[0]
    }

    /// Starts a contender in a setup and waits for its first answer, whatever it is.
    pub fn run(&self, contender: &dyn Contender, setup: Setup) -> io::Result<Started> {
        let name = format!("{} {setup:?}", contender.name());
        let folder = self.folder.path().join(name.replace(' ', "-").to_lowercase());
        // A contender may be started in the same setup again, and finds its folder empty.
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let place = Place {
            listen: free_address()?,
            upstream: self.upstream.address,
            lines: folder.join("lines.json"),
            certificate: self.certificate.chain.clone(),
            certificate_key: self.certificate.key.clone(),
            key: self.key().to_owned(),
            more_keys: self.keys[1..].to_vec(),
            folder,
        };
        let command: Command = match contender.prepare(setup, &place)? {
            Prepared::Command(command) => command,
            Prepared::CanNot(why) => return Ok(Started::CanNot(why)),
        };
        let program = Program::start(&name, moved_to_core(Core::Proxy, &command), place.listen, self.folder.path())?;
        let tls = (setup == Setup::Tls).then(|| self.certificate.client.clone());
        let running = Running { program, setup, lines: place.lines, tls };
        let deadline = Instant::now() + READY_MAX;
        while let Err(error) = running.get("/", &[]) {
            if Instant::now() > deadline {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(Started::Running(running))
    }

    /// Requests at the upstream so far, once no more are coming: a load leaves some on their way when it ends.
    pub fn asked(&self) -> io::Result<u64> {
        let deadline = Instant::now() + SETTLE_MAX;
        let mut before = None;
        loop {
            let asked: u64 = self.upstream.get(REQUESTS_PATH, &[])?.text().parse().map_err(io::Error::other)?;
            if before == Some(asked) || Instant::now() > deadline {
                return Ok(asked);
            }
            before = Some(asked);
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Running {
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// One GET on a connection of its own.
    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
        http::get(self.program.address, path, headers, self.tls.as_ref())
    }
}

/// Keys look random, and are the same in every run.
fn key(number: usize) -> String {
    let digest = Sha256::digest(format!("loadtest {number}"));
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_do_not_change() {
        assert_eq!(key(0).len(), 32);
        assert_eq!(key(0), key(0));
        assert_ne!(key(0), key(1));
    }
}
