//! A small disk that can really be full: a tmpfs in a mount namespace of its own, gone with its test.
//! Root may make one, and elsewhere a user in a namespace of users; where neither works the test fails and says why.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::program::{PROGRAM, prepared};

/// What `unshare` and `nsenter` are told, one way after the other.
const WAYS: [(&[&str], &[&str]); 2] = [
    (&["--mount"], &["--mount"]),
    (&["--user", "--map-root-user", "--mount"], &["--user", "--preserve-credentials", "--mount"]),
];

/// A disk. Only programs started with [`Self::tollgate`] see it.
pub struct Disk {
    /// Keeps the namespace; ends when its standard input does.
    holder: Child,
    path: PathBuf,
    enter: &'static [&'static str],
}

impl Disk {
    /// A disk of so many KiB under a path, whose folder is made.
    pub fn at(path: &Path, kib: u32) -> Self {
        std::fs::create_dir_all(path).expect("a folder");
        let mut refused = Vec::new();
        for (unshare, enter) in WAYS {
            match hold(unshare, path, kib) {
                Ok(holder) => return Self { holder, path: path.to_owned(), enter },
                Err(why) => refused.push(format!("unshare {}: {why}", unshare.join(" "))),
            }
        }
        panic!("no disk can be mounted for this test (unshare and nsenter are of util-linux):\n{}", refused.join("\n"));
    }

    /// Tollgate in a folder, where it sees this disk; arguments follow.
    pub fn tollgate(&self, folder: &Path) -> Command {
        let mut command = prepared(Command::new("nsenter"));
        command.arg(format!("--target={}", self.holder.id())).args(self.enter);
        command.args(["--", "sh", "-c", "cd \"$0\" && exec \"$@\""]).arg(folder).arg(PROGRAM);
        command
    }

    /// Takes all room, then gives so many KiB back.
    pub fn leave(&self, kib: u64) {
        let mut filler = File::create(self.filler()).expect("a filler");
        while filler.write_all(&[0x5a; 4096]).is_ok() {}
        let length = filler.metadata().expect("its length").len();
        filler.set_len(length.checked_sub(kib << 10).expect("so much was taken")).expect("room");
    }

    /// Gives everything back.
    pub fn empty(&self) {
        std::fs::remove_file(self.filler()).expect("room");
    }

    fn filler(&self) -> PathBuf {
        let path = self.path.strip_prefix("/").expect("a path from the root");
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(path).join("filler")
    }
}

/// Mounts the disk, and keeps it.
fn hold(unshare: &[&str], path: &Path, kib: u32) -> Result<Child, String> {
    const MOUNT: &str = "mount -t tmpfs -o \"size=$1k\" tollgate-test \"$2\" && echo mounted && exec cat";
    let mut command = Command::new("unshare");
    command.args(unshare).args(["--propagation", "private", "sh", "-c", MOUNT, "sh"]).arg(kib.to_string()).arg(path);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut holder = command.spawn().map_err(|error| error.to_string())?;
    let mut line = String::new();
    let mut out = BufReader::new(holder.stdout.take().expect("stdout"));
    out.read_line(&mut line).map_err(|error| error.to_string())?;
    if line == "mounted\n" {
        return Ok(holder);
    }
    let mut why = String::new();
    drop(holder.stdin.take());
    drop(holder.stderr.take().expect("stderr").read_to_string(&mut why));
    drop(holder.wait());
    Err(why.trim().to_owned())
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}
