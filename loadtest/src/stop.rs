//! Ending early: Ctrl-C, SIGTERM and SIGHUP end every program that was started, remove the run's folder, and end the run.
//! A run that is killed outright leaves its folder; its programs are ended by their guards, and the next run removes the folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::prctl::set_child_subreaper;
use nix::unistd::Pid;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::process::{is_alive, kill_descendants};

const PREFIX: &str = "loadtest-run-";
const KILL_MAX: Duration = Duration::from_secs(5);

static IS_STOPPING: AtomicBool = AtomicBool::new(false);

/// Whether a signal has come: what fails from then on fails because its programs were ended.
pub fn is_stopping() -> bool {
    IS_STOPPING.load(Ordering::Relaxed)
}

/// Leaves the end to the thread that had the signal, if there was one; it is about to come.
pub fn wait_if_stopping() {
    while is_stopping() {
        thread::park();
    }
}

/// The folder of a run, removed when dropped.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes the folder of this process, and removes those of runs that were killed.
    pub fn make() -> io::Result<Self> {
        let place = std::env::temp_dir();
        remove_left_behind(&place);
        let folder = place.join(format!("{PREFIX}{}", process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// From now on a signal ends the programs, removes the folder, and ends this process.
    pub fn watch_signals(&self) -> io::Result<()> {
        // Orphans come here, where they are found.
        set_child_subreaper(true)?;
        let folder = self.0.clone();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate, mut hangup) = {
            let _entered = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
        };
        thread::spawn(move || {
            let kind = runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => SignalKind::interrupt(),
                    _ = terminate.recv() => SignalKind::terminate(),
                    _ = hangup.recv() => SignalKind::hangup(),
                }
            });
            IS_STOPPING.store(true, Ordering::Relaxed);
            eprintln!("\nstopped by signal {}; ending everything that was started", kind.as_raw_value());
            kill_descendants(Pid::this().as_raw(), KILL_MAX);
            let _ = fs::remove_dir_all(&folder);
            process::exit(128 + kind.as_raw_value());
        });
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Those whose process is gone; what cannot be removed is somebody else's.
fn remove_left_behind(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<i32>().ok());
        if owner.is_some_and(|owner| !is_alive(owner)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed_and_a_running_one_is_not_touched() {
        let place = std::env::temp_dir().join(format!("loadtest-stop-{}", process::id()));
        let of = |id: u32| place.join(format!("{PREFIX}{id}"));
        // Process ids end at 2^22.
        for folder in [of(process::id()), of(1 << 23), place.join("other")] {
            fs::create_dir_all(folder).unwrap();
        }
        remove_left_behind(&place);
        assert!(of(process::id()).exists() && !of(1 << 23).exists() && place.join("other").exists());
        fs::remove_dir_all(place).unwrap();
    }
}
