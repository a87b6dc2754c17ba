//! The gateway's commands, run to their end in a folder of their own.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Instant;

use tempfile::TempDir;

use super::{milliseconds, seconds};

/// A folder that goes with its test.
pub struct Folder(TempDir);

/// What a command left behind.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Folder {
    pub fn new() -> Self {
        Self(TempDir::with_prefix("tollgate-").expect("a temporary folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file into the folder.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).expect("a folder");
        }
        std::fs::write(&path, text).expect("a file");
        path
    }

    /// The names of all files in the folder, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path())
            .expect("the folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Runs `tollgate` here to its end.
    pub fn tollgate(&self, arguments: &[&str]) -> Finished {
        self.tollgate_with(arguments, &[])
    }

    /// Runs `tollgate` here to its end, with these variables.
    pub fn tollgate_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Finished {
        let mut command = tollgate();
        command.args(arguments).envs(variables.iter().copied()).current_dir(self.path()).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("tollgate runs");
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let deadline = Instant::now() + seconds(30);
        while child.try_wait().expect("the command's state").is_none() {
            if Instant::now() > deadline {
                // A command that should have ended serves instead, or hangs.
                child.kill().expect("the command ends");
            }
            std::thread::sleep(milliseconds(10));
        }
        let code = child.wait().expect("the command's end").code();
        Finished { code, stdout: stdout.join().expect("stdout"), stderr: stderr.join().expect("stderr") }
    }
}

fn collect(stream: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    let mut stream = stream.expect("a piped stream");
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("output");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The program under test, free of variables that would change what it does.
pub fn tollgate() -> Command {
    prepared(Command::new(PROGRAM))
}

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_tollgate");

/// A command that starts the program under test, free of such variables.
pub fn prepared(mut command: Command) -> Command {
    command.env_remove("RUST_LOG").env_remove("TOLLGATE_ADMIN_TOKEN").env("RUST_BACKTRACE", "1");
    command
}
