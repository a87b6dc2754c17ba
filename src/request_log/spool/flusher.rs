//! Forces files to the disk on a thread of its own, because a busy disk takes seconds for it, and the writer's thread has the queue
//! to empty meanwhile. One flush at a time; what comes during one waits for the next.

use std::fs::File;
use std::io;
use std::thread::{self, JoinHandle};

/// What is being forced to the disk.
#[derive(Debug, Default)]
pub(super) struct Flusher {
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Flusher {
    /// Whether a flush goes on.
    pub(super) fn is_busy(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Begins a flush; the one before has to be over.
    pub(super) fn begin(&mut self, files: Vec<File>) -> io::Result<()> {
        let flush = move || files.iter().try_for_each(File::sync_all);
        self.thread = Some(thread::Builder::new().name("log-spool-flush".to_owned()).spawn(flush)?);
        Ok(())
    }

    /// Waits until no flush goes on, and says how the last one ended, once.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the flush failed")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_flush_ended_is_said_once() {
        let mut flusher = Flusher::default();
        assert!(!flusher.is_busy() && flusher.end().is_ok());
        // A device that can't be forced to anything: fsync(2), EINVAL.
        flusher.begin(vec![tempfile::tempfile().unwrap(), File::open("/dev/null").unwrap()]).unwrap();
        assert_eq!(flusher.end().unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(!flusher.is_busy() && flusher.end().is_ok());
    }
}
