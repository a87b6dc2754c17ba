//! A MariaDB of the test's own: a server in a temporary folder, on a free port, that can be killed and started again.
//! The system tables are made once and copied.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{free_address, seconds};

static TEMPLATE: OnceCell<PathBuf> = OnceCell::const_new();

/// A private MariaDB.
pub struct Mariadb {
    folder: TempDir,
    address: SocketAddr,
    child: Option<Child>,
}

impl Mariadb {
    /// Starts a server with an empty database `tollgate`.
    pub async fn start() -> Self {
        let template = TEMPLATE.get_or_init(install).await;
        let folder = TempDir::with_prefix("mariadb-").expect("a temporary folder");
        let copied = Command::new("cp").arg("-a").arg(template.join("tables")).arg(folder.path()).status();
        assert!(copied.expect("cp").success(), "the system tables can't be copied");
        let mut mariadb = Self { folder, address: free_address(), child: None };
        mariadb.revive().await;
        mariadb.execute_at("", "CREATE DATABASE tollgate").await;
        mariadb.execute_at("", "CREATE USER gateway IDENTIFIED BY 'the-password'").await;
        mariadb.execute_at("", "GRANT ALL ON tollgate.* TO gateway").await;
        mariadb
    }

    /// `log.store` for this server.
    pub fn url(&self) -> String {
        format!("mysql://gateway:the-password@{}/tollgate", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes something, as root.
    pub async fn execute(&self, sql: &str) {
        self.execute_at("tollgate", sql).await;
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

    /// Starts the server again on the same port with the same tables.
    pub async fn revive(&mut self) {
        let tables = self.folder.path().join("tables");
        let log = std::fs::File::create(self.folder.path().join("messages")).expect("a file");
        let child = Command::new(program("mariadbd"))
            .arg("--no-defaults")
            .arg(format!("--datadir={}", tables.display()))
            .arg(format!("--socket={}", self.folder.path().join("socket").display()))
            .arg(format!("--pid-file={}", self.folder.path().join("pid").display()))
            .arg(format!("--port={}", self.address.port()))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-buffer-pool-size=32M"])
            .args(["--innodb-flush-log-at-trx-commit=2", "--innodb-log-file-size=8M", "--performance-schema=OFF"])
            .args(as_user())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("mariadbd starts");
        self.child = Some(child);
        let deadline = Instant::now() + seconds(60);
        while self.connect("").await.is_err() {
            assert!(Instant::now() < deadline, "mariadbd does not answer: {}", self.messages());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The number a query gives.
    pub async fn number(&self, sql: &str) -> i64 {
        let mut connection = self.connect("tollgate").await.expect("a connection");
        connection.query_first(sql).await.expect(sql).expect("a row")
    }

    async fn execute_at(&self, database: &str, sql: &str) {
        let mut connection = self.connect(database).await.expect("a connection");
        connection.query_drop(sql).await.expect(sql);
    }

    async fn connect(&self, database: &str) -> mysql_async::Result<Conn> {
        // On loopback the client would otherwise go on by the server's socket.
        let url = format!("mysql://root@{}/{database}?prefer_socket=false", self.address);
        Conn::new(Opts::from_url(&url).expect("a URL")).await
    }

    fn messages(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("messages")).unwrap_or_default()
    }
}

impl Drop for Mariadb {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The system tables of this version of MariaDB, made where `cargo clean` finds them.
async fn install() -> PathBuf {
    let version = Command::new(program("mariadbd")).arg("--version").output().expect("mariadbd runs").stdout;
    let version: String = version.iter().map(|byte| char::from(*byte)).filter(char::is_ascii_alphanumeric).collect();
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mariadb-{version}"));
    if made.exists() {
        return made;
    }
    let folder = TempDir::with_prefix_in("making-", env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
    let output = Command::new(program("mariadb-install-db"))
        .arg("--no-defaults")
        .arg(format!("--datadir={}", folder.path().join("tables").display()))
        .args(["--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=8M"])
        .args(as_user())
        .stdin(Stdio::null())
        .output()
        .expect("mariadb-install-db runs");
    assert!(
        output.status.success(),
        "mariadb-install-db: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    // Another test process may have been faster: then its tables are as good.
    let renamed = std::fs::rename(folder.path(), &made);
    assert!(renamed.is_ok() || made.exists(), "{}: {renamed:?}", made.display());
    made
}

/// mariadbd refuses to run as root unless it is told to.
fn as_user() -> Option<&'static str> {
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("/proc"));
    (owner == 0).then_some("--user=root")
}

fn program(name: &str) -> PathBuf {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    folders
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is missing: install the package mariadb-server"))
}
