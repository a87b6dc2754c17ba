//! A program with all its descendants, as the kernel counts them: CPU time, resident memory, and how they are ended.
//! CPU time counts what has ended, too: its time moves to whoever waited for it, which is somebody in the tree or its root.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// Clock ticks a second in `/proc`, the same on every Linux.
const TICKS_PER_SECOND: u64 = 100;

const READ_TRIES: u32 = 5;

/// One line of `/proc/PID/stat`, as far as it is of use here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stat {
    pub pid: i32,
    pub state: char,
    pub parent: i32,
    /// Of ended children that were waited for, in ticks.
    pub ended_ticks: u64,
}

/// All descendants of a process, which itself is not one of them.
pub fn descendants(root: i32) -> io::Result<Vec<Stat>> {
    let all = all()?;
    let mut found: Vec<Stat> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for stat in all.iter().filter(|stat| stat.parent == parent) {
            found.push(*stat);
            parents.push(stat.pid);
        }
    }
    Ok(found)
}

/// CPU time of the descendants of `root` so far, those that have ended included; not of `root` itself.
pub fn cpu(root: i32) -> io::Result<Duration> {
    for _ in 0..READ_TRIES {
        if let Some(cpu) = try_cpu(root)? {
            return Ok(cpu);
        }
    }
    Err(io::Error::other(format!("the processes below {root} come and go too fast to be counted")))
}

/// None when one of them ended while it was read.
fn try_cpu(root: i32) -> io::Result<Option<Duration>> {
    let members = descendants(root)?;
    let Some(own) = stat(root)? else { return Ok(None) };
    let mut cpu = ticks(own.ended_ticks);
    for member in &members {
        let clock = clock_getcpuclockid(Pid::from_raw(member.pid)).and_then(nix::time::ClockId::now);
        let (Ok(used), Some(stat)) = (clock, stat(member.pid)?) else { return Ok(None) };
        cpu += Duration::from(used) + ticks(stat.ended_ticks);
    }
    let ids = |members: &[Stat]| members.iter().map(|stat| stat.pid).collect::<BTreeSet<i32>>();
    Ok((ids(&descendants(root)?) == ids(&members)).then_some(cpu))
}

/// Resident memory of the descendants of `root`, and how many they are. Pages that they share count for each.
pub fn memory(root: i32) -> io::Result<(u64, usize)> {
    let (mut bytes, mut processes) = (0, 0);
    for member in descendants(root)? {
        // One that has just ended has no memory.
        if let Some(resident) = resident(member.pid) {
            bytes += resident;
            processes += 1;
        }
    }
    Ok((bytes, processes))
}

/// Ends every descendant of `root` with SIGKILL; false when some are still there after `wait_max`.
pub fn kill_descendants(root: i32, wait_max: Duration) -> bool {
    let deadline = Instant::now() + wait_max;
    loop {
        let alive: Vec<Stat> =
            descendants(root).unwrap_or_default().into_iter().filter(|stat| stat.state != 'Z').collect();
        if alive.is_empty() {
            return true;
        }
        for stat in alive {
            let _ = kill(Pid::from_raw(stat.pid), Signal::SIGKILL);
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process is there and has not ended.
pub fn is_alive(pid: i32) -> bool {
    matches!(stat(pid), Ok(Some(stat)) if stat.state != 'Z')
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 1000 / TICKS_PER_SECOND)
}

fn all() -> io::Result<Vec<Stat>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) {
            found.extend(stat(pid)?);
        }
    }
    Ok(found)
}

/// None when there is no such process (any more).
fn stat(pid: i32) -> io::Result<Option<Stat>> {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return Ok(None) };
    parse(&text).map(Some).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat: unreadable: {text}")))
}

/// The name in brackets may hold blanks and brackets: fields are counted from the last one.
fn parse(text: &str) -> Option<Stat> {
    let pid = text.split(' ').next()?.parse().ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ended = fields.get(13)?.parse::<u64>().ok()? + fields.get(14)?.parse::<u64>().ok()?;
    Some(Stat { pid, state: fields.first()?.chars().next()?, parent: fields.get(1)?.parse().ok()?, ended_ticks: ended })
}

/// `Rss` is exact in `smaps_rollup`; `VmRSS`, which needs no rights, is a little behind.
fn resident(pid: i32) -> Option<u64> {
    let exact = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    let exact = exact.as_deref().and_then(|text| kilobytes(text, "Rss:"));
    exact.or_else(|| kilobytes(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS:")).map(|kb| kb << 10)
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let text = "12 (a ) b) S 7 2 3 4 5 6 7 8 9 10 700 42 30 12 20 0";
        assert_eq!(parse(text), Some(Stat { pid: 12, state: 'S', parent: 7, ended_ticks: 42 }));
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(kilobytes("Name: x\nVmRSS:\t    1234 kB\n", "VmRSS:"), Some(1234));
        assert!(resident(std::process::id().cast_signed()).unwrap() > 1 << 20);
    }

    #[test]
    fn grandchildren_are_found_and_ended() {
        let mut child = Command::new("sh").args(["-c", "sleep 60 & sleep 60 & wait"]).spawn().unwrap();
        let root = child.id().cast_signed();
        let deadline = Instant::now() + Duration::from_secs(5);
        while descendants(root).unwrap().len() < 2 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(descendants(root).unwrap().len(), 2);
        assert!(kill_descendants(root, Duration::from_secs(5)));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_time_of_ended_children_stays_in_the_tree() {
        // A shell below the root waits for a child that burns CPU, then lingers: the child's time is the shell's `cutime`.
        let script = r#"sh -c "sh -c 'i=0; while [ \$i -lt 100000 ]; do i=\$((i+1)); done'; sleep 60" & wait"#;
        let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let root = child.id().cast_signed();
        let ended = || descendants(root).unwrap().iter().map(|stat| stat.ended_ticks).sum::<u64>();
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline && ended() == 0 {
            thread::sleep(Duration::from_millis(20));
        }
        assert!(ended() > 0, "the child burned no CPU");
        assert!(cpu(root).unwrap() >= ticks(ended()));
        kill_descendants(root, Duration::from_secs(5));
        let _ = child.kill();
        child.wait().unwrap();
    }
}
