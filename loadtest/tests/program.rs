//! The built program where its parts can't be tested alone: nothing is left running, nothing but loopback is touched,
//! and what is wrong is said with its remedy. No load is made here, and no other proxy is needed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

fn loadtest() -> Command {
    Command::new(env!("CARGO_BIN_EXE_loadtest"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Ends with 2, and says this.
#[track_caller]
fn check_refused(output: &Output, part: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(part), "{part} is not in: {said}");
}

/// Processes whose command line holds this mark.
fn with_mark(mark: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| text(line).contains(mark)).count()
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A program with a child, and one that has left its session and lost its parent: each sleeps for this many seconds.
fn family(seconds: &str) -> String {
    format!("sleep {seconds} & (setsid sleep {seconds} &) ; trap '' TERM; sleep {seconds}; sleep {seconds}")
}

#[test]
fn a_guard_ends_everything_when_its_owner_goes() {
    let mark = format!("86{}", std::process::id());
    let mut guard = loadtest().args(["guard", "--", "sh", "-c", &family(&mark)]).stdin(Stdio::piped()).spawn().unwrap();
    let sleeping = format!("sleep\0{mark}");
    wait_until("three are asleep", || with_mark(&sleeping) == 3);
    drop(guard.stdin.take());
    wait_until("nobody is left", || with_mark(&mark) == 0);
    assert!(guard.wait().unwrap().success());
}

#[test]
fn a_guard_whose_owner_is_killed_ends_everything() {
    let mark = format!("87{}", std::process::id());
    // The first of the pipe holds the other end of the guard's input, as long as it lives.
    let script =
        format!("(echo $BASHPID >&2; exec sleep 1000) | {} guard -- sleep {mark}", env!("CARGO_BIN_EXE_loadtest"));
    let mut shell = Command::new("bash").args(["-c", &script]).stderr(Stdio::piped()).spawn().unwrap();
    let mut owner = String::new();
    BufReader::new(shell.stderr.take().unwrap()).read_line(&mut owner).unwrap();
    let sleeping = format!("sleep\0{mark}");
    wait_until("it is asleep, below its guard", || with_mark(&sleeping) == 2);
    assert!(Command::new("kill").args(["-9", owner.trim()]).status().unwrap().success());
    wait_until("nobody is left", || with_mark(&sleeping) == 0);
    shell.wait().unwrap();
}

#[test]
fn a_guard_says_how_its_program_ended() {
    let mut guard = loadtest().args(["guard", "--", "sh", "-c", "exit 7"]).stdin(Stdio::piped()).spawn().unwrap();
    // Held until the end: when it closes, the guard ends its program.
    let _owner = guard.stdin.take();
    assert_eq!(guard.wait().unwrap().code(), Some(7));
}

#[test]
fn nothing_listens_beyond_loopback() {
    let output = loadtest().args(["upstream", "--listen", "0.0.0.0:0"]).output().unwrap();
    check_refused(&output, "is not on loopback");
    let output = loadtest().args(["bare", "--listen", "127.0.0.1:0", "--upstream", "192.0.2.1:80"]).output().unwrap();
    check_refused(&output, "is not on loopback");
}

#[test]
fn a_missing_tollgate_is_said_with_how_to_build_it() {
    for command in ["compare", "quick"] {
        let output = loadtest().args([command, "--tollgate", "/nonexistent/tollgate"]).output().unwrap();
        check_refused(&output, "build it with `cargo build --release -p tollgate`");
    }
}

#[test]
fn an_unknown_contender_is_said_with_those_there_are() {
    let output = loadtest().args(["compare", "--tollgate", "/bin/sh", "--only", "ngnix"]).output().unwrap();
    check_refused(&output, "no contender named `ngnix`; there are bare, bare dressed, tollgate");
}

#[test]
fn a_baseline_needs_everything_it_holds() {
    let arguments = ["compare", "--tollgate", "/bin/sh", "--job", "J1", "--baseline-out", "/nonexistent/baseline.json"];
    check_refused(&loadtest().args(arguments).output().unwrap(), "--baseline-out needs J1 to J6");
}

#[test]
fn a_check_without_a_baseline_says_what_writes_it() {
    let output = loadtest().args(["check", "--baseline", "/nonexistent/baseline.json"]).output().unwrap();
    check_refused(&output, "`make bench-record` writes it");
}
