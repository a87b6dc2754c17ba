//! Where each value of the configuration file stands: path -> line and column,
//! and which values came from variables, so that a dump can show the variable instead of its value.
//! Filled by the first pass over the file, read whenever a problem is reported.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The marks of one configuration file.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The file, absolute.
    pub file: PathBuf,
    /// The file as it was named; problems begin with it.
    pub named: String,
    marks: HashMap<String, (u32, u32)>,
    variables: HashMap<String, String>,
}

impl Places {
    /// No marks yet in the file at `path`.
    pub fn new(path: &Path) -> Self {
        let file = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        Self { file, named: path.display().to_string(), ..Self::default() }
    }

    /// The folder of the file, which relative paths in it begin from.
    pub fn folder(&self) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("/")).to_path_buf()
    }

    /// Remembers where `path` stands; line and column count from 1. The empty path is the whole file.
    pub fn mark(&mut self, path: String, line: u32, column: u32) {
        self.marks.insert(path, (line, column));
    }

    /// Line and column of `path`, or of the nearest part of it that the file has.
    pub fn find(&self, path: &str) -> Option<(u32, u32)> {
        let mut part = path;
        loop {
            if let Some(mark) = self.marks.get(part) {
                return Some(*mark);
            }
            part = &part[..part.rfind(['.', '[']).unwrap_or(0)];
            if part.is_empty() {
                return self.marks.get("").copied();
            }
        }
    }

    /// Whether the file itself writes `path`.
    pub fn has(&self, path: &str) -> bool {
        self.marks.contains_key(path)
    }

    /// Remembers that the scalar at `path` was written with variables, as `written`.
    pub fn mark_variable(&mut self, path: String, written: String) {
        self.variables.insert(path, written);
    }

    /// How the scalar at `path` was written, if with variables; never their values.
    pub fn variable(&self, path: &str) -> Option<&str> {
        self.variables.get(path).map(String::as_str)
    }
}
