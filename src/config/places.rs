//! Where each value of the configuration file stands: path -> line and column.
//! Filled by the first pass over the file, read whenever a problem is reported.

use std::collections::HashMap;
use std::path::PathBuf;

/// The marks of one configuration file.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The file, absolute.
    pub file: PathBuf,
    marks: HashMap<String, (u32, u32)>,
}

impl Places {
    /// No marks yet.
    pub fn new(file: PathBuf) -> Self {
        Self { file, marks: HashMap::new() }
    }

    /// Remembers where `path` stands; line and column count from 1.
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
            part = &part[..part.rfind(['.', '['])?];
        }
    }
}
