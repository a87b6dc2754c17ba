//! A private MariaDB server for one test: its own folder, its own port on loopback, gone with the value.
//! Nothing depends on a server that happens to run on the machine. A missing `mariadbd` is a failed test, not a skipped one.
//! Included by path in the test binaries that need it.

// Each test binary uses its part; a test that fails here may panic.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The user the gateway comes as.
const USER: &str = "gate";
/// A password that has to be encoded in a URL.
pub const PASSWORD: &str = "s3cret/@:";
const PASSWORD_IN_URL: &str = "s3cret%2F%40%3A";

pub struct MariaDb {
    folder: tempfile::TempDir,
    port: u16,
    server: Option<Child>,
}

impl MariaDb {
    /// A server with an empty database `tollgate` and a user that may do everything in it.
    pub fn start() -> Self {
        let mut database = Self::stopped();
        database.run();
        database.sql(&format!(
            "CREATE DATABASE tollgate CHARACTER SET utf8mb4; CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'; \
             GRANT ALL ON tollgate.* TO {USER}@'%';"
        ));
        database
    }

    /// Folder and port of a server that does not run yet: nobody listens there until [`Self::run`].
    pub fn stopped() -> Self {
        let folder = tempfile::Builder::new().prefix("tollgate-mariadb-").tempdir().unwrap();
        // Initialising takes seconds; one template a test binary is copied instead.
        let copied = Command::new("cp").arg("-a").arg(template()).arg(folder.path().join("data")).status().unwrap();
        assert!(copied.success());
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        Self { folder, port, server: None }
    }

    /// Starts the server and waits until it answers.
    pub fn run(&mut self) {
        let folder = self.folder.path();
        let log = std::fs::OpenOptions::new().append(true).create(true).open(folder.join("log")).unwrap();
        let mut command = Command::new(program("mariadbd"));
        command
            .arg("--no-defaults")
            .args(user())
            .arg(format!("--datadir={}", folder.join("data").display()))
            .arg(format!("--socket={}", self.socket()))
            .arg(format!("--port={}", self.port))
            .args(["--bind-address=127.0.0.1", "--skip-networking=0", "--skip-name-resolve", "--skip-log-bin"])
            .args(["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M", "--performance-schema=0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.server = Some(command.spawn().unwrap());
        let end = Instant::now() + Duration::from_secs(60);
        while !self.answers() {
            if Instant::now() > end || self.server.as_mut().unwrap().try_wait().unwrap().is_some() {
                panic!("MariaDB does not start:\n{}", std::fs::read_to_string(folder.join("log")).unwrap());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn answers(&self) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() && self.try_sql("SELECT 1").is_some()
    }

    /// Ends the server as a power cut would.
    pub fn kill(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Stops the server in its tracks; connections stay open and nobody answers.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets a paused server go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let id = self.server.as_ref().unwrap().id();
        kill(Pid::from_raw(id.try_into().unwrap()), signal).unwrap();
    }

    /// What `log.store` says to use the database `tollgate`.
    pub fn url(&self) -> String {
        self.url_as(USER, PASSWORD_IN_URL)
    }

    /// The same for another user; the password as it stands in a URL.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        format!("mysql://{user}:{password}@127.0.0.1:{}/tollgate", self.port)
    }

    /// Port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process id.
    pub fn id(&self) -> u32 {
        self.server.as_ref().unwrap().id()
    }

    /// Runs SQL as root in the database `tollgate`, if there is one; the answer's columns are separated by tabs.
    pub fn sql(&self, sql: &str) -> String {
        let output = self.client(sql).output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// The number that a query answers.
    pub fn number(&self, sql: &str) -> u64 {
        self.sql(sql).parse().unwrap()
    }

    fn try_sql(&self, sql: &str) -> Option<String> {
        let output = self.client(sql).stderr(Stdio::null()).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn client(&self, sql: &str) -> Command {
        let mut command = Command::new(program("mariadb"));
        command.arg("--no-defaults").args([
            "--user=root",
            "--batch",
            "--skip-column-names",
            "--default-character-set=utf8mb4",
        ]);
        command.arg(format!("--socket={}", self.socket()));
        let sql = if self.folder.path().join("data/tollgate").exists() {
            format!("USE tollgate; {sql}")
        } else {
            sql.to_owned()
        };
        command.arg("--execute").arg(sql).stdin(Stdio::null());
        command
    }

    fn socket(&self) -> String {
        self.folder.path().join("s").display().to_string()
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// A freshly initialised data folder, made once for a version of the server and kept among cargo's files.
fn template() -> &'static Path {
    static DATA: OnceLock<PathBuf> = OnceLock::new();
    DATA.get_or_init(|| {
        let version = Command::new(program("mariadbd")).arg("--version").output().unwrap().stdout;
        let version: String =
            version.iter().map(|byte| if byte.is_ascii_alphanumeric() { char::from(*byte) } else { '-' }).collect();
        // Cargo has no such folder for the tests inside the library.
        let place = &option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let made = place.join(format!("mariadb-{}", version.trim_end_matches('-')));
        if made.exists() {
            return made;
        }
        // Made aside and renamed: test binaries may run at the same time.
        let aside = tempfile::tempdir_in(place).unwrap();
        let output = Command::new(program("mariadb-install-db"))
            .arg("--no-defaults")
            .args(user())
            .arg(format!("--datadir={}", aside.path().join("data").display()))
            .args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"])
            .arg("--innodb-log-file-size=16M")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let renamed = std::fs::rename(aside.path().join("data"), &made);
        assert!(made.exists(), "{renamed:?}");
        made
    })
}

/// As root the server insists on being told who it is.
fn user() -> Option<&'static str> {
    let folder = tempfile::tempdir().unwrap();
    (std::fs::metadata(folder.path()).unwrap().uid() == 0).then_some("--user=root")
}

fn program(name: &str) -> String {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin", "/usr/libexec"]
        .iter()
        .map(|folder| format!("{folder}/{name}"))
        .find(|path| Path::new(path).exists())
        .unwrap_or_else(|| panic!("{name} is not installed: `make test` installs mariadb-server"))
}
