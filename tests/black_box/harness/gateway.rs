//! The real gateway as a child process, with private ports and a folder of its own.
//! What it said on stderr is printed when its test fails, and it never outlives its test.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Client, Method};
use serde_json::Value;

use super::{Answer, Ask, Config, Disk, Folder, Metrics, Wire, eventually, free_address, seconds, tollgate};

const IN_FLIGHT: &str = "tollgate_http_requests_in_flight";

/// A running gateway.
pub struct Gateway {
    child: Child,
    /// Its configuration, log and everything else it writes.
    pub folder: Folder,
    /// Its first listener.
    pub address: SocketAddr,
    /// Its second listener, where the configuration has one.
    pub second: SocketAddr,
    /// Its admin listener.
    pub admin: SocketAddr,
    said: Arc<Mutex<String>>,
    printed: Arc<Mutex<String>>,
    /// Each ends when its pipe is read to the end.
    readers: [JoinHandle<()>; 2],
    client: Client,
}

impl Gateway {
    /// Starts a gateway and waits until it is ready.
    pub async fn start(config: &Config) -> Self {
        Self::start_in(Folder::new(), config).await
    }

    /// Starts a gateway in a folder that was prepared, and waits until it is ready.
    pub async fn start_in(folder: Folder, config: &Config) -> Self {
        Self::spawn(folder, config).wait_until_ready().await
    }

    /// Waits until it is ready.
    pub async fn wait_until_ready(self) -> Self {
        let mut gateway = self;
        let deadline = Instant::now() + seconds(30);
        while !gateway.is_ready().await {
            if let Some(status) = gateway.child.try_wait().expect("the gateway's state") {
                panic!("the gateway ended at its start: {status}");
            }
            assert!(Instant::now() < deadline, "the gateway is not ready after 30 s");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        gateway
    }

    /// Starts a gateway without waiting for anything.
    pub fn spawn(folder: Folder, config: &Config) -> Self {
        Self::spawn_with(folder, config, &[])
    }

    /// The same, with variables in its environment.
    pub fn spawn_with(folder: Folder, config: &Config, variables: &[(&str, &str)]) -> Self {
        Self::spawn_by(tollgate(), folder, config, variables, fresh_addresses())
    }

    /// Starts a gateway whose folder, or a part of it, is on a small disk, and waits until it is ready.
    pub async fn start_on(disk: &Disk, folder: Folder, config: &Config) -> Self {
        let program = disk.tollgate(folder.path());
        Self::spawn_by(program, folder, config, &[], fresh_addresses()).wait_until_ready().await
    }

    /// Starts again after its end, with the same folder and the same addresses, and waits until it is ready.
    pub async fn again(mut self, config: &Config) -> Self {
        let folder = std::mem::replace(&mut self.folder, Folder::new());
        let addresses = [self.address, self.second, self.admin];
        drop(self);
        Self::spawn_by(tollgate(), folder, config, &[], addresses).wait_until_ready().await
    }

    /// Starts a gateway whose calendar's clock shows this time, as `faketime` writes it: `@2026-05-15 12:30:00`. Its other clocks are right.
    pub async fn start_at(config: &Config, clock: &str) -> Self {
        Self::start_faked(config, clock, "1").await
    }

    /// Starts a gateway all of whose clocks can be moved on together with [`Self::set_clock`]: `+0`, `+3h`.
    pub async fn start_movable(config: &Config) -> Self {
        Self::start_faked(config, "+0", "0").await
    }

    async fn start_faked(config: &Config, clock: &str, monotonic_is_right: &str) -> Self {
        let folder = Folder::new();
        let file = folder.file("clock", clock).display().to_string();
        let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"]
            .map(|place| format!("{place}/faketime/libfaketimeMT.so.1"));
        let library = library.iter().find(|path| Path::new(path).exists());
        let variables = [
            ("LD_PRELOAD", library.expect("libfaketime: `make test` installs it").as_str()),
            ("FAKETIME_TIMESTAMP_FILE", &file),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", monotonic_is_right),
            ("TZ", "UTC"),
        ];
        Self::spawn_with(folder, config, &variables).wait_until_ready().await
    }

    /// Sets the clock of a gateway that was started with [`Self::start_at`] or [`Self::start_movable`].
    pub fn set_clock(&self, clock: &str) {
        let new = self.folder.file("clock.new", clock);
        std::fs::rename(new, self.path("clock")).expect("the clock");
    }

    fn spawn_by(
        mut program: Command,
        folder: Folder,
        config: &Config,
        variables: &[(&str, &str)],
        [address, second, admin]: [SocketAddr; 3],
    ) -> Self {
        let file = folder.file("tollgate.yaml", &config.write(address, second, admin));
        let mut child = program
            .arg("run")
            .arg("-c")
            .arg(file)
            .args(["--log-level", "info"])
            .envs(variables.iter().copied())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway starts");
        let (said, err) = collect(child.stderr.take().expect("stderr"));
        let (printed, out) = collect(child.stdout.take().expect("stdout"));
        let client = Client::builder()
            .timeout(seconds(40))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .build()
            .expect("a client");
        Self { child, folder, address, second, admin, said, printed, readers: [err, out], client }
    }

    pub fn get(&self, path: &str) -> Ask {
        self.ask(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> Ask {
        self.ask(Method::POST, path)
    }

    pub fn ask(&self, method: Method, path: &str) -> Ask {
        Ask::new(self.client.request(method, format!("http://{}{path}", self.address)))
    }

    /// Asks the admin listener.
    pub fn admin_get(&self, path: &str) -> Ask {
        Ask::new(self.client.get(format!("http://{}{path}", self.admin)))
    }

    /// Posts to the admin listener.
    pub fn admin_post(&self, path: &str) -> Ask {
        Ask::new(self.client.post(format!("http://{}{path}", self.admin)))
    }

    /// Asks the admin listener by any method.
    pub fn admin_ask(&self, method: Method, path: &str) -> Ask {
        Ask::new(self.client.request(method, format!("http://{}{path}", self.admin)))
    }

    /// A raw connection to the first listener.
    pub async fn wire(&self) -> Wire {
        Wire::open(self.address).await
    }

    pub async fn is_ready(&self) -> bool {
        self.admin_get("/ready").attempt().await.is_ok_and(|answer| answer.status == 200)
    }

    /// Replaces the configuration file, without telling the gateway.
    pub fn write(&self, config: &Config) -> PathBuf {
        self.write_text(&config.write(self.address, self.second, self.admin))
    }

    /// Replaces the configuration file by any text, without telling the gateway.
    pub fn write_text(&self, text: &str) -> PathBuf {
        // Written aside and renamed, as a careful operator does: nobody reads half a file.
        let aside = self.folder.file("tollgate.yaml.new", text);
        let path = self.folder.path().join("tollgate.yaml");
        std::fs::rename(aside, &path).expect("the configuration file");
        path
    }

    /// Reloads another configuration; fails when the gateway refuses it.
    pub async fn reload(&self, config: &Config) {
        let answer = self.try_reload(config).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Reloads another configuration, and says what the gateway answered.
    pub async fn try_reload(&self, config: &Config) -> Answer {
        self.write(config);
        self.admin_post("/admin/reload").await
    }

    /// The metrics once no request is in flight; under load, as they are after a moment.
    pub async fn metrics(&self) -> Metrics {
        // An answer is complete at the client a little before its exchange is.
        for _ in 0..20 {
            if self.scrape().await.sum(IN_FLIGHT, &[]) == 0.0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.scrape().await
    }

    async fn scrape(&self) -> Metrics {
        let answer = self.admin_get("/metrics").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Metrics::parse(&answer.text())
    }

    pub async fn summary(&self) -> Value {
        self.metrics().await;
        self.admin_get("/admin/summary").await.json()
    }

    /// Sends a signal to the gateway.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("a signal");
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"))
    }

    /// Waits for the gateway's end, and for what it said last; fails when it takes longer.
    pub async fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            let status = self.child.try_wait().expect("the gateway's state");
            if let Some(status) = status.filter(|_| self.readers.iter().all(JoinHandle::is_finished)) {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "after {within:?} the gateway still runs, or its pipes are open: {status:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What it said on stderr so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("said").clone()
    }

    /// Waits until what it has said is so: it comes through a pipe, a moment after it was said.
    pub async fn says(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        eventually(what, seconds(5), async || is_so(&self.said())).await;
    }

    /// What it printed on stdout so far.
    pub fn printed(&self) -> String {
        self.printed.lock().expect("printed").clone()
    }

    /// A file in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The number a query on its SQLite log gives; 0 while there is no such file.
    pub fn sqlite_number(&self, sql: &str) -> i64 {
        sqlite_number(&self.path("log.db"), sql)
    }

    /// The text of the first column of each row.
    pub fn sqlite_texts(&self, sql: &str) -> Vec<String> {
        let database = rusqlite::Connection::open(self.path("log.db")).expect("the log");
        database.busy_timeout(seconds(5)).expect("a time-out");
        let mut statement = database.prepare(sql).expect(sql);
        let rows = statement.query_map([], |row| row.get::<_, Option<String>>(0)).expect(sql);
        rows.map(|row| row.expect(sql).unwrap_or_default()).collect()
    }

    /// Waits until the log's store is open and its tables are made. For tests that kill a server: a table that is partitioned just
    /// then can't be read any more by any MariaDB.
    pub async fn log_open(&self) {
        eventually("the log's tables are made", seconds(60), async || {
            self.scrape().await.sum("tollgate_log_store_up", &[]) == 1.0
        })
        .await;
    }

    /// Waits until no request is in flight, and everything that was logged is in the store.
    pub async fn log_written(&self) -> Metrics {
        let deadline = Instant::now() + seconds(60);
        loop {
            let in_flight = self.scrape().await.sum(IN_FLIGHT, &[]);
            let metrics = self.scrape().await;
            let accepted = metrics.sum("tollgate_log_records_total", &[("state", "accepted")]);
            let written = metrics.sum("tollgate_log_records_total", &[("state", "written")]);
            let dropped = metrics.sum("tollgate_log_records_dropped_total", &[]);
            let recovered = metrics.sum("tollgate_log_records_total", &[("state", "recovered")]);
            if in_flight == 0.0 && accepted + recovered == written + dropped {
                return metrics;
            }
            assert!(
                Instant::now() < deadline,
                "accepted {accepted}, recovered {recovered}, written {written}, dropped {dropped}, in flight {in_flight}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn sqlite_number(path: &Path, sql: &str) -> i64 {
    if !path.exists() {
        return 0;
    }
    let database = rusqlite::Connection::open(path).expect("the log");
    database.busy_timeout(seconds(5)).expect("a time-out");
    database.query_row(sql, [], |row| row.get(0)).expect(sql)
}

fn collect(stream: impl std::io::Read + Send + 'static) -> (Arc<Mutex<String>>, JoinHandle<()>) {
    let text = Arc::new(Mutex::new(String::new()));
    let into = Arc::clone(&text);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut text = into.lock().expect("text");
            text.push_str(&line);
            text.push('\n');
        }
    });
    (text, reader)
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let file = std::fs::read_to_string(self.path("tollgate.yaml")).unwrap_or_default();
            eprintln!("---- configuration\n{file}---- the gateway said\n{}----", self.said());
        } else {
            // Whatever a story is about: a request that panics is answered by nobody.
            assert!(!self.said().contains("panicked at"), "the gateway panicked:\n{}", self.said());
        }
    }
}

/// Of two listeners and the admin listener.
fn fresh_addresses() -> [SocketAddr; 3] {
    std::array::from_fn(|_| free_address())
}
