//! The gateway's commands, run to their end in a folder of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

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
        let output = command.output().expect("tollgate runs");
        Finished {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The program under test, free of variables that would change what it does.
pub fn tollgate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_remove("RUST_LOG").env_remove("TOLLGATE_ADMIN_TOKEN").env("RUST_BACKTRACE", "1");
    command
}
