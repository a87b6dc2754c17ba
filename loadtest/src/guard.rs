//! A guard around a program: it adopts whatever the program leaves behind, and ends all of it when its own owner goes.
//! The owner holds the other end of the guard's standard input; that end closes however the owner dies, `kill -9` included.
//! The guard is in a process group of its own, so that Ctrl-C reaches the owner alone, which then ends everything in order.

use std::io::{self, Read};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

use crate::process;

/// How long a program may take to end by itself: it may have lines to write.
const POLITE_MAX: Duration = Duration::from_secs(5);
const KILL_MAX: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct Guard {
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

enum Event {
    /// The owner closed its end, or is gone.
    Stop,
    /// The program itself has ended.
    Ended(u8),
}

pub fn run(options: &Guard) -> Result<ExitCode, Box<dyn std::error::Error>> {
    set_child_subreaper(true)?;
    let (program, arguments) = options.command.split_first().ok_or("no program to guard")?;
    let child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn()?;
    let program = Pid::from_raw(child.id().cast_signed());

    let (sender, events) = mpsc::channel();
    let owner = sender.clone();
    thread::spawn(move || {
        // Nothing is ever sent: this ends when the pipe does.
        let _ = io::stdin().read(&mut [0]);
        owner.send(Event::Stop)
    });
    thread::spawn(move || reap(program, &sender));

    let mut code = ExitCode::SUCCESS;
    if let Ok(Event::Ended(said)) = events.recv() {
        code = ExitCode::from(said);
    } else {
        let _ = kill(program, Signal::SIGTERM);
        let deadline = Instant::now() + POLITE_MAX;
        let own = Pid::this().as_raw();
        // Its children may take longer than itself.
        while Instant::now() < deadline && process::descendants(own).is_ok_and(|rest| !rest.is_empty()) {
            if matches!(events.recv_timeout(Duration::from_millis(20)), Err(RecvTimeoutError::Disconnected)) {
                break;
            }
        }
    }
    process::kill_descendants(Pid::this().as_raw(), KILL_MAX);
    Ok(code)
}

/// Waits for every child, the adopted ones too: their CPU time moves to the guard, where it is counted.
fn reap(program: Pid, sender: &Sender<Event>) {
    loop {
        let code = match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == program => u8::try_from(code).unwrap_or(1),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => 128_u8.saturating_add(signal as u8),
            Ok(_) => continue,
            Err(_) => return,
        };
        if sender.send(Event::Ended(code)).is_err() {
            return;
        }
    }
}
