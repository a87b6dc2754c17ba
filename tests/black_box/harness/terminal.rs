//! A terminal with somebody in front of it: a command under a pseudo-terminal, made by `script` (util-linux).

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::program::{PROGRAM, prepared};
use super::{Folder, eventually, seconds};

/// A running command, and what it has drawn.
pub struct Terminal {
    child: Child,
    keys: ChildStdin,
    drawn: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Runs tollgate in a terminal of this size, in a folder. The modes of the terminal are in the files `before` and `after` there.
    pub fn start(folder: &Folder, (columns, rows): (u16, u16), arguments: &str, variables: &[(&str, &str)]) -> Self {
        // The shell is in the foreground, too, and has to outlive Ctrl-C.
        let story = format!(
            "trap : INT; stty cols {columns} rows {rows}; tty > tty; stty -a > before; '{PROGRAM}' {arguments}; \
             echo \"ended $?\"; stty -a > after"
        );
        // Whoever runs tests in the background may have Ctrl-C ignored, which every child inherits.
        let mut command = prepared(Command::new("env"));
        command
            .args(["--default-signal=INT", "script", "-qfc", &story, "/dev/null"])
            .current_dir(folder.path())
            .env("SHELL", "/bin/sh");
        command.env("TERM", "xterm").env_remove("NO_COLOR").envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("script, of util-linux: `make test` installs it");
        let (keys, mut out) = (child.stdin.take().expect("keys"), child.stdout.take().expect("a screen"));
        let drawn = Arc::default();
        let into: Arc<Mutex<Vec<u8>>> = Arc::clone(&drawn);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = out.read(&mut bytes) {
                into.lock().expect("drawn").extend_from_slice(&bytes[..count]);
            }
        });
        Self { child, keys, drawn }
    }

    pub fn drawn(&self) -> String {
        String::from_utf8_lossy(&self.drawn.lock().expect("drawn")).into_owned()
    }

    /// The frames, each as lines without what colours and erases them; the last may not be complete.
    pub fn frames(&self) -> Vec<Vec<String>> {
        let drawn = self.drawn();
        drawn.split("\u{1b}[H").skip(1).map(|frame| plain(frame).lines().map(str::to_owned).collect()).collect()
    }

    /// Waits for so many frames from now on.
    pub async fn wait_for_frames(&self, more: usize) {
        let wanted = self.frames().len() + more;
        eventually("more frames", seconds(20), async || self.frames().len() >= wanted).await;
    }

    /// Makes it so wide.
    pub fn widen(&self, folder: &Folder, columns: u16) {
        let tty = std::fs::read_to_string(folder.path().join("tty")).expect("the terminal's name");
        let columns = columns.to_string();
        let status = Command::new("stty").args(["-F", tty.trim(), "cols", &columns]).status().expect("stty");
        assert!(status.success());
    }

    /// Ctrl-C; what was drawn in all.
    pub async fn interrupt(mut self) -> String {
        self.keys.write_all(b"\x03").expect("a key");
        eventually("it ends", seconds(10), async || self.drawn().contains("ended ")).await;
        drop(self.keys);
        self.child.wait().expect("its end");
        String::from_utf8_lossy(&self.drawn.lock().expect("drawn")).into_owned()
    }
}

/// Text without escape sequences (`ESC [ ... letter`).
pub fn plain(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| {
        let end = part.find(|letter: char| letter.is_ascii_alphabetic()).map_or(part.len(), |end| end + 1);
        plain + &part[end..]
    })
}
