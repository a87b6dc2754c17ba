//! A private MariaDB server as the store of the request log: its own folder, a port on loopback, gone with the value.
//! It can be stopped in its tracks (connections stay open and nobody answers), or killed and started again.

use std::error::Error;
use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::programs::{Core, Program, free_address, on_core};
use crate::tools;

const START_MAX: Duration = Duration::from_secs(30);

pub struct MariaDb {
    server: Program,
    folder: PathBuf,
    core: Core,
    share: Share,
}

/// What the server gets of its core. In real life it is on another machine.
#[derive(Clone, Copy)]
pub enum Share {
    /// As much as anybody.
    Equal,
    /// A tenth of what the load gets, and what that leaves.
    Small,
    /// What the load leaves, and not a moment more: for latencies.
    Rest,
}

impl Share {
    /// What the server's command begins with.
    const fn words(self) -> &'static [&'static str] {
        match self {
            Self::Equal => &[],
            Self::Small => &["nice", "-n", "10"],
            Self::Rest => &["chrt", "--idle", "0"],
        }
    }
}

impl MariaDb {
    /// A server with an empty database `tollgate` and the user of [`Self::url`].
    pub fn start(folder: &Path, core: Core, share: Share) -> Result<Self, Box<dyn Error>> {
        initialise(&folder.join("data"))?;
        let server = serve(folder, core, share, free_address()?)?;
        let database = Self { server, folder: folder.to_owned(), core, share };
        database.wait_ready()?;
        database.sql(
            "CREATE DATABASE tollgate CHARACTER SET utf8mb4; CREATE USER gate@'%' IDENTIFIED BY 'loadtest'; \
             GRANT ALL ON tollgate.* TO gate@'%'",
        )?;
        Ok(database)
    }

    /// Ends the server at once, as a crash does.
    pub fn kill(&self) -> io::Result<()> {
        self.server.kill()
    }

    /// Starts it again where it was, after [`Self::kill`], and waits until it answers.
    pub fn revive(&mut self) -> Result<(), Box<dyn Error>> {
        self.server = serve(&self.folder, self.core, self.share, self.server.address)?;
        self.wait_ready()
    }

    /// Stops it in its tracks.
    pub fn pause(&self) -> io::Result<()> {
        self.server.signal(Signal::SIGSTOP)
    }

    /// It goes on after [`Self::pause`].
    pub fn resume(&self) -> io::Result<()> {
        self.server.signal(Signal::SIGCONT)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// CPU time of the server so far.
    pub fn cpu(&self) -> io::Result<Duration> {
        self.server.cpu()
    }

    fn wait_ready(&self) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + START_MAX;
        while let Err(error) = self.sql("SELECT 1") {
            if Instant::now() > deadline {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// What `log` says to use it.
    pub fn url(&self) -> String {
        Self::url_by(self.address())
    }

    /// The same by a relay in front of it.
    pub fn url_by(address: SocketAddr) -> String {
        format!("mysql://gate:loadtest@{address}/tollgate")
    }

    /// Rows of the request log.
    pub fn rows(&self) -> Result<u64, Box<dyn Error>> {
        Ok(self.sql("SELECT COUNT(*) FROM tollgate.api_logs")?.parse()?)
    }

    /// Stops the server for this long; `at_the_end` is called just before it goes on. It goes on whatever that says.
    pub fn stop_for<T>(&self, time: Duration, at_the_end: impl FnOnce() -> T) -> io::Result<T> {
        self.pause()?;
        thread::sleep(time);
        let said = at_the_end();
        self.resume()?;
        Ok(said)
    }

    /// As root, over the socket; the answer without the line's end.
    fn sql(&self, sql: &str) -> Result<String, Box<dyn Error>> {
        let output = Command::new(program("mariadb")?)
            .args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"])
            .arg(format!("--socket={}", socket(&self.folder)))
            .args(["--execute", sql])
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            return Err(format!("{sql}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }
}

/// Starts the server on what is in the folder.
fn serve(folder: &Path, core: Core, share: Share, address: SocketAddr) -> Result<Program, Box<dyn Error>> {
    let server = program("mariadbd")?;
    let words = share.words().iter().map(OsStr::new).chain([server.as_os_str()]).collect::<Vec<_>>();
    let mut command = on_core(core, words[0]);
    command
        .args(&words[1..])
        .arg("--no-defaults")
        .args(user(folder)?)
        .arg(format!("--datadir={}", folder.join("data").display()))
        .arg(format!("--socket={}", socket(folder)))
        .arg(format!("--port={}", address.port()))
        .args(["--bind-address=127.0.0.1", "--skip-networking=0", "--skip-name-resolve", "--skip-log-bin"])
        .args(["--innodb-buffer-pool-size=64M", "--performance-schema=0"]);
    Ok(Program::start("mariadb", command, address, folder)?)
}

fn socket(folder: &Path) -> String {
    folder.join("s").display().to_string()
}

/// Makes the system tables in an empty folder.
fn initialise(data: &Path) -> Result<(), Box<dyn Error>> {
    let output = Command::new(program("mariadb-install-db")?)
        .arg("--no-defaults")
        .args(user(data.parent().unwrap_or(data))?)
        .arg(format!("--datadir={}", data.display()))
        .args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"])
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("mariadb-install-db: {}\n{out}{err}", output.status).into())
}

/// As root the server insists on being told who it is.
fn user(own_folder: &Path) -> io::Result<Option<&'static str>> {
    Ok((own_folder.metadata()?.uid() == 0).then_some("--user=root"))
}

fn program(name: &str) -> Result<PathBuf, String> {
    tools::find(name)
        .map_err(|_| format!("{name} is not installed: apt-get install mariadb-server-core mariadb-client-core"))
}
