//! The programs of a measurement: on their cores, with a guard around them, asked by hand, and ended with their owner.
//! However this process ends, the guard ends the program and everything it has started (`guard.rs`).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::http::{self, Answer, only_loopback};
use crate::process;
use crate::stop;

/// A configuration with 100,000 keys takes its time.
const START_MAX: Duration = Duration::from_secs(60);
/// The guard waits five seconds for a polite end, then takes at most five more.
const STOP_MAX: Duration = Duration::from_secs(12);

/// Where a program runs, so that the proxy and its load do not share a core.
#[derive(Clone, Copy)]
pub enum Core {
    Proxy,
    Load,
    /// Wherever the system puts it: for measurements of a whole machine.
    Any,
}

impl Core {
    /// Its number; none where there is only one.
    pub fn number(self) -> Option<usize> {
        static CORES: OnceLock<Vec<usize>> = OnceLock::new();
        let cores = CORES.get_or_init(|| {
            let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
            (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or_default()).take(2).collect()
        });
        match (self, &cores[..]) {
            (Self::Proxy, [proxy, _]) => Some(*proxy),
            (Self::Load, [_, load]) => Some(*load),
            _ => None,
        }
    }
}

/// A running program; dropping it ends it.
pub struct Program {
    name: String,
    guard: Child,
    pub address: SocketAddr,
    /// The file of its messages.
    messages: PathBuf,
}

/// A command for `program` on one core, where there are two; should its parent be killed, the kernel ends it.
pub fn on_core(core: Core, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some(number) = core.number() {
        command.args(["taskset", "-c", &number.to_string()]);
    }
    command.arg(program);
    command
}

/// The same for a command that is already made, with its environment and folder.
pub fn moved_to_core(core: Core, command: &Command) -> Command {
    let mut moved = on_core(core, command.get_program());
    moved.args(command.get_args());
    copy_surroundings(command, &mut moved);
    moved
}

/// An address on loopback that was free a moment ago.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

impl Program {
    /// Starts a program and waits until it accepts connections; its messages go to a file in `folder`.
    pub fn start(name: &str, command: Command, address: SocketAddr, folder: &Path) -> io::Result<Self> {
        only_loopback(address)?;
        if stop::is_stopping() {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        let messages = folder.join(format!("{}.messages", name.replace(' ', "-")));
        let out = File::create(&messages)?;
        let guard =
            guarded(&command)?.stdin(Stdio::piped()).stdout(out.try_clone()?).stderr(out).process_group(0).spawn()?;
        let mut program = Self { name: name.to_owned(), guard, address, messages: messages.clone() };
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect(address).is_err() {
            let ended = program.guard.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(&messages).unwrap_or_default();
                let why = if ended.is_some() { "has ended" } else { "does not accept connections" };
                return Err(io::Error::other(format!("{name} {why} (on {address}); it said:\n{said}")));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(program)
    }

    /// What it has said so far.
    pub fn said(&self) -> io::Result<String> {
        fs::read_to_string(&self.messages)
    }

    /// The process id of the program itself, not of its guard.
    pub fn id(&self) -> io::Result<u32> {
        let children = process::descendants(self.guard.id().cast_signed())?;
        let program = children.first().ok_or_else(|| io::Error::other(format!("{} has ended", self.name)))?;
        Ok(program.pid.cast_unsigned())
    }

    /// Sends the program itself a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(Pid::from_raw(self.id()?.cast_signed()), signal)?)
    }

    /// Ends the program at once (SIGKILL), and waits until it is gone and its port is free.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::SIGKILL)?;
        while self.id().is_ok() {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// CPU time of the program and all its children so far, ended ones included.
    pub fn cpu(&self) -> io::Result<Duration> {
        let cpu = process::cpu(self.guard.id().cast_signed());
        cpu.map_err(|error| io::Error::other(format!("{}: {error}", self.name)))
    }

    /// Resident bytes of the program and all its children, and how many processes they are.
    pub fn memory(&self) -> io::Result<(u64, usize)> {
        process::memory(self.guard.id().cast_signed())
    }

    /// One GET on a connection of its own.
    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
        http::get(self.address, path, headers, None)
            .map_err(|error| io::Error::other(format!("{}: GET {path}: {error}", self.name)))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The guard ends everything when its input closes.
        drop(self.guard.stdin.take());
        let deadline = Instant::now() + STOP_MAX;
        while Instant::now() < deadline && matches!(self.guard.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}

/// This very program as a guard around `command`.
fn guarded(command: &Command) -> io::Result<Command> {
    let mut guard = Command::new(std::env::current_exe()?);
    guard.args(["guard", "--"]).arg(command.get_program()).args(command.get_args());
    copy_surroundings(command, &mut guard);
    Ok(guard)
}

fn copy_surroundings(from: &Command, to: &mut Command) {
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
    if let Some(folder) = from.get_current_dir() {
        to.current_dir(folder);
    }
}
