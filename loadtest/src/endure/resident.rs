//! Memory of a process as the kernel counts it. `resident` is what a machine needs for it, shared pages of the program included;
//! `anonymous` is what it allocated. Memory of sockets in the kernel is in neither.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

const SETTLE_EVERY: Duration = Duration::from_millis(250);
const SETTLE_MAX: Duration = Duration::from_secs(15);
/// So many readings in a row have to agree ...
const SETTLED_READINGS: usize = 4;
/// ... within this.
const SETTLED_BYTES: u64 = 128 << 10;

/// Bytes of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    pub resident: u64,
    pub anonymous: u64,
    /// The most it ever was.
    pub peak: u64,
}

/// What the process has now. `VmRSS` would be a little behind, so the sizes come from `smaps_rollup`.
pub fn of(pid: u32) -> io::Result<Resident> {
    let text = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    let (rollup, status) = (text("smaps_rollup")?, text("status")?);
    read(&rollup, &status)
        .ok_or_else(|| io::Error::other(format!("process {pid} has no Rss, Anonymous or VmHWM:\n{rollup}\n{status}")))
}

/// What the process has once it no longer changes.
pub fn settled(pid: u32) -> io::Result<Resident> {
    let deadline = Instant::now() + SETTLE_MAX;
    let mut last = Vec::new();
    loop {
        last.push(of(pid)?);
        if is_settled(&last) {
            return Ok(last[last.len() - 1]);
        }
        if Instant::now() > deadline {
            let readings: Vec<u64> = last.iter().map(|reading| reading.resident >> 10).collect();
            return Err(io::Error::other(format!("the memory of process {pid} does not settle; KiB: {readings:?}")));
        }
        thread::sleep(SETTLE_EVERY);
    }
}

fn is_settled(readings: &[Resident]) -> bool {
    let Some(last) = readings.len().checked_sub(SETTLED_READINGS).map(|from| &readings[from..]) else { return false };
    let sizes = || last.iter().map(|reading| reading.resident);
    sizes().max().zip(sizes().min()).is_some_and(|(most, least)| most - least <= SETTLED_BYTES)
}

fn read(rollup: &str, status: &str) -> Option<Resident> {
    let bytes = |text: &str, name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
    };
    let (resident, anonymous) = (bytes(rollup, "Rss")?, bytes(rollup, "Anonymous")?);
    // The kernel brings the peak up to date now and then only.
    Some(Resident { resident, anonymous, peak: bytes(status, "VmHWM")?.max(resident) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_bytes() {
        let rollup = "55-7f ---p 00000000 00:00 0 [rollup]
Rss:        30 kB
Pss:     9 kB
Anonymous:   20 kB
";
        let read = |status| read(rollup, status);
        assert_eq!(
            read(
                "VmHWM:	   40 kB
VmRSS:	   29 kB
"
            ),
            Some(Resident { resident: 30 << 10, anonymous: 20 << 10, peak: 40 << 10 })
        );
        assert_eq!(
            read(
                "VmHWM:	   28 kB
"
            )
            .unwrap()
            .peak,
            30 << 10
        );
        assert_eq!(
            read(
                "Name:	zombie
"
            ),
            None
        );
    }

    #[test]
    fn this_process_has_memory() {
        let own = of(std::process::id()).unwrap();
        assert!(own.resident > own.anonymous && own.peak >= own.resident && own.anonymous > 0);
    }

    #[test]
    fn settled_is_when_the_last_readings_agree() {
        let readings = |sizes: &[u64]| -> Vec<Resident> {
            sizes.iter().map(|size| Resident { resident: size << 20, ..Resident::default() }).collect()
        };
        assert!(!is_settled(&readings(&[9, 9, 9])));
        assert!(is_settled(&readings(&[1, 9, 9, 9, 9])));
        assert!(!is_settled(&readings(&[9, 9, 9, 9, 10])));
    }
}
