//! The demo's services as a child process: `mock_backends` on free ports.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Running mock services.
pub struct Mocks {
    child: Child,
    /// The two user instances.
    pub users: Vec<SocketAddr>,
}

impl Mocks {
    /// Two user instances.
    pub fn users() -> Self {
        let mut child = Command::new(program())
            .args(["--instance", "user=127.0.0.1:0", "--instance", "user=127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("mock_backends starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let places =
            line.trim().strip_prefix("mock_backends ready: ").unwrap_or_else(|| panic!("mock_backends: {line}"));
        let users = places
            .split(", ")
            .map(|place| place.rsplit(' ').next().unwrap_or_default().parse().expect("an address"))
            .collect();
        Self { child, users }
    }
}

impl Drop for Mocks {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_tollgate")).with_file_name("mock_backends");
    assert!(path.exists(), "{} is missing: run `cargo build -p mock_backends`", path.display());
    path
}
