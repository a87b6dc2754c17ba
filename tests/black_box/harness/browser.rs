//! A real browser, Chromium of the distribution, that opens one page; what the page found out it posts back to where it came from.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::{Backend, Reply, eventually, seconds};

/// A page with this script, in a browser. The script ends with `report(anything)`.
pub struct Page {
    site: Backend,
    /// Where the page is, as its origin says it.
    pub origin: String,
}

impl Page {
    /// Serves a page with a script that is made from the page's origin.
    pub async fn new() -> Self {
        let site = Backend::start().await;
        let origin = format!("http://{}", site.address);
        Self { site, origin }
    }

    /// Opens the page in a browser, and waits for what it reports.
    pub async fn run(&self, script: &str) -> Value {
        let report = "const report = (found) => fetch('/report', {method: 'POST', body: JSON.stringify(found)});";
        let page = format!("<!doctype html><title>page</title><script type=module>{report}\n{script}</script>");
        self.site.plays(move |seen| match seen.target.as_str() {
            "/" => Reply::ok(&page).with("content-type", "text/html"),
            "/report" => Reply::ok(""),
            _ => Reply::status(404, ""),
        });
        let browser = Browser::open(self.site.address);
        let reported = || self.site.seen().into_iter().find(|seen| seen.target == "/report");
        eventually("the page reports", seconds(60), async || reported().is_some()).await;
        drop(browser);
        let body = reported().expect("a report").body;
        serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&body)))
    }
}

struct Browser {
    child: Child,
    _profile: TempDir,
}

impl Browser {
    fn open(site: SocketAddr) -> Self {
        let profile = TempDir::with_prefix("browser-").expect("a temporary folder");
        let mut command = Command::new(program());
        command
            .args(["--headless", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            // With this it stays open; without, it ends before the page has asked anything.
            .arg("--remote-debugging-port=0")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path());
        let user = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("/proc"));
        if user == 0 {
            // It refuses to run as root with its sandbox.
            command.arg("--no-sandbox");
        }
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let messages = std::fs::File::create(profile.path().join("messages")).expect("a file");
        let child = command
            .arg(format!("http://{site}/"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(messages)
            .spawn()
            .expect("the browser starts");
        Self { child, _profile: profile }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its processes are in a group of their own.
        let group = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

fn program() -> PathBuf {
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
    let found = std::env::var_os("PATH").and_then(|path| {
        let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        names.iter().find_map(|name| folders.iter().map(|folder| folder.join(name)).find(|path| Path::exists(path)))
    });
    found.unwrap_or_else(|| panic!("no browser: install the package chromium (none of {names:?} is there)"))
}
