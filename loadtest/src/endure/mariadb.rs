//! A private MariaDB server as the store of the request log: its own folder, a port on loopback, gone with the value.
//! It can be stopped in its tracks: connections stay open and nobody answers.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::programs::{Core, Program, free_address, on_core};
use crate::tools;

const START_MAX: Duration = Duration::from_secs(30);

pub struct MariaDb {
    server: Program,
    socket: String,
}

impl MariaDb {
    /// A server with an empty database `tollgate` and the user of [`Self::url`].
    pub fn start(folder: &Path) -> Result<Self, Box<dyn Error>> {
        let data = folder.join("data");
        initialise(&data)?;
        let (address, socket) = (free_address()?, folder.join("s").display().to_string());
        // In real life the store is on another machine: here it gets what the load leaves of its core.
        let mut command = on_core(Core::Load, "nice");
        command
            .args(["-n", "10"])
            .arg(program("mariadbd")?)
            .arg("--no-defaults")
            .args(user(folder)?)
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={socket}"))
            .arg(format!("--port={}", address.port()))
            .args(["--bind-address=127.0.0.1", "--skip-networking=0", "--skip-name-resolve", "--skip-log-bin"])
            .args(["--innodb-buffer-pool-size=64M", "--performance-schema=0"]);
        let server = Program::start("mariadb", command, address, folder)?;
        let database = Self { server, socket };
        database.wait_ready()?;
        database.sql(
            "CREATE DATABASE tollgate CHARACTER SET utf8mb4; CREATE USER gate@'%' IDENTIFIED BY 'loadtest'; \
             GRANT ALL ON tollgate.* TO gate@'%'",
        )?;
        Ok(database)
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
        let address: SocketAddr = self.server.address;
        format!("mysql://gate:loadtest@{address}/tollgate")
    }

    /// Rows of the request log.
    pub fn rows(&self) -> Result<u64, Box<dyn Error>> {
        Ok(self.sql("SELECT COUNT(*) FROM tollgate.api_logs")?.parse()?)
    }

    /// Stops the server for this long; `at_the_end` is called just before it goes on. It goes on whatever that says.
    pub fn stop_for<T>(&self, time: Duration, at_the_end: impl FnOnce() -> T) -> io::Result<T> {
        self.signal(Signal::SIGSTOP)?;
        thread::sleep(time);
        let said = at_the_end();
        self.signal(Signal::SIGCONT)?;
        Ok(said)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(Pid::from_raw(self.server.id()?.cast_signed()), signal)?)
    }

    /// As root, over the socket; the answer without the line's end.
    fn sql(&self, sql: &str) -> Result<String, Box<dyn Error>> {
        let output = Command::new(program("mariadb")?)
            .args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"])
            .arg(format!("--socket={}", self.socket))
            .args(["--execute", sql])
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            return Err(format!("{sql}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }
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
