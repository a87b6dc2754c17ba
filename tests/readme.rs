//! The README cannot rot: every command in it is run here, or is a target of the Makefile, and every configuration is checked.
//! A block says in its first line which of these it is:
//!
//! - ```` ```sh make ````: what sets the demo or the tests up: `git clone`, `cd` and `make TARGET`, whose targets must exist.
//! - ```` ```sh run ````: run here, line by line, against the demo on free ports; must succeed. `# => TEXT` at the end of a line
//!   says that its output contains TEXT. `tollgate` and `target/release/tollgate` are the program under test.
//! - ```` ```sh elsewhere ````: for a reader's own deployment, so not run: `bash SCRIPT ...`, a script that is there and says
//!   how it is used when it is called with nothing.
//! - ```` ```sh tour ````: the same in `docs/operations.md`, one block after the other.
//! - ```` ```yaml ````: a whole configuration, which `tollgate check` must accept.
//!
//! A shell block that says none of these is a mistake.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says what it expected by ending")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A fenced block: its first line's words, the line it begins on, and what is in it.
#[derive(Debug, PartialEq)]
struct Block {
    kind: String,
    line: usize,
    text: String,
}

#[test]
fn the_commands_of_the_readme_work() {
    let blocks = readme();
    let demo = Demo::start();
    let mut failures = Vec::new();
    let mut commands = 0;
    for block in blocks.iter().filter(|block| block.kind == "sh run") {
        for command in commands_of(&block.text) {
            commands += 1;
            if let Err(why) = demo.run(&command) {
                failures.push(format!("README.md:{}: {command}\n{why}", block.line));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert!(commands > 0, "README.md shows no command (```sh run)");
}

#[test]
fn the_tour_of_the_operators_shows_what_it_says() {
    let operations = fs::read_to_string(package().join("docs/operations.md")).expect("docs/operations.md is there");
    let demo = Demo::start();
    let mut commands = 0;
    // Each command stands on those before it, so the first that fails ends the tour.
    for block in blocks(&operations).iter().filter(|block| block.kind == "sh tour") {
        for command in commands_of(&block.text) {
            commands += 1;
            if let Err(why) = demo.run(&command) {
                panic!("docs/operations.md:{}: {command}\n{why}", block.line);
            }
        }
    }
    assert!(commands >= 10, "{commands} commands");
}

#[test]
fn the_make_targets_of_the_readme_exist() {
    let mut targets = Vec::new();
    for block in readme().iter().filter(|block| block.kind == "sh make") {
        for command in commands_of(&block.text) {
            let words: Vec<&str> = command.split_whitespace().collect();
            match words[..] {
                ["git", "clone", ..] | ["cd", _] => {}
                ["make", target] => targets.push(target.to_owned()),
                _ => panic!(
                    "README.md:{}: only git clone, cd and make TARGET stand in a block of make: {command}",
                    block.line
                ),
            }
        }
    }
    assert!(
        targets.contains(&"run".to_owned()) && targets.contains(&"test".to_owned()),
        "README.md names make run and make test: {targets:?}"
    );
    for target in targets {
        let made = Command::new("make").args(["-n", &target]).current_dir(package()).output().expect("make starts");
        assert!(made.status.success(), "make {target}: {}", String::from_utf8_lossy(&made.stderr));
    }
}

#[test]
fn the_scripts_that_the_readme_does_not_run_are_there() {
    let blocks = readme();
    let elsewhere = blocks.iter().filter(|block| block.kind == "sh elsewhere");
    for (line, command) in elsewhere.flat_map(|block| commands_of(&block.text).into_iter().map(|c| (block.line, c))) {
        let script = command.split(' ').nth(1).filter(|_| command.starts_with("bash "));
        let script = script.unwrap_or_else(|| panic!("README.md:{line}: not `bash SCRIPT ...`: {command}"));
        let said = Command::new("bash").arg(script).current_dir(package()).output().expect("bash starts");
        let name = Path::new(script).file_name().expect("a name").to_string_lossy();
        assert!(
            said.status.code() == Some(2) && text(&said.stderr).starts_with(&format!("usage: {name} ")),
            "README.md:{line}: {script}: {}{}",
            said.status,
            text(&said.stderr)
        );
    }
}

#[test]
fn the_configurations_of_the_readme_are_valid() {
    let folder = tempfile::tempdir().expect("a folder");
    for block in readme().iter().filter(|block| block.kind == "yaml") {
        let path = folder.path().join("tollgate.yaml");
        fs::write(&path, &block.text).expect("a file");
        let check = tollgate().arg("check").arg("-c").arg(&path).output().expect("tollgate starts");
        assert!(check.status.success(), "README.md:{}: {}{}", block.line, text(&check.stdout), text(&check.stderr));
    }
}

#[test]
fn every_shell_block_of_the_readme_says_how_it_is_tested() {
    for block in readme() {
        let is_shell =
            ["sh", "bash", "shell", "console"].iter().any(|shell| block.kind.split(' ').next() == Some(shell));
        let says = ["sh make", "sh run", "sh elsewhere"].contains(&block.kind.as_str());
        assert!(
            !is_shell || says,
            "README.md:{}: ```{}: say `sh make`, `sh run` or `sh elsewhere`, see tests/readme.rs",
            block.line,
            block.kind
        );
    }
}

#[test]
fn blocks_and_commands_are_found() {
    let blocks = blocks("a\n```sh run\ncurl -i x \\\n  -H 'A: #b'   # => 200\n\n# a remark\n```\n```\n```sh\n");
    assert_eq!(
        blocks[0],
        Block { kind: "sh run".into(), line: 2, text: "curl -i x \\\n  -H 'A: #b'   # => 200\n\n# a remark\n".into() }
    );
    assert_eq!(commands_of(&blocks[0].text), ["curl -i x   -H 'A: #b'   # => 200"]);
    assert_eq!(expectation("curl x  # => 200"), Some("200"));
    assert_eq!(expectation("curl x"), None);
}

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn tollgate() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tollgate"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn readme() -> Vec<Block> {
    blocks(&fs::read_to_string(package().join("README.md")).expect("README.md is there"))
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (at, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => found.push(block),
            (Some(kind), None) => {
                open = Some(Block { kind: kind.trim().to_owned(), line: at + 1, text: String::new() })
            }
            (None, Some(mut block)) => {
                block.text += &format!("{line}\n");
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    found
}

/// The commands of a block; a backslash at the end of a line goes on with the next one.
fn commands_of(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", "");
    joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

fn expectation(command: &str) -> Option<&str> {
    command.rsplit_once("# => ").map(|(_, text)| text.trim())
}

/// What `make run` starts, on free ports and in a folder of its own.
struct Demo {
    // Ended in this order.
    programs: Vec<Program>,
    folder: tempfile::TempDir,
    /// Addresses of the README, and where they are here.
    moved: Vec<(String, String)>,
}

/// A child process; dropping it ends it.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Demo {
    fn start() -> Self {
        let (backends, mut moved) = backends();
        moved.extend([8080, 8081].map(|port| (format!("127.0.0.1:{port}"), free_address())));

        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("conf")).expect("a folder");
        let conf = fs::read_to_string(package().join("conf/tollgate.yaml")).expect("conf/tollgate.yaml is there");
        fs::write(folder.path().join("conf/tollgate.yaml"), relocate(&conf, &moved)).expect("a file");

        // Scripts are named as seen from the repository.
        symlink(package().join("loadtest"), folder.path().join("loadtest")).expect("a link");

        let messages = folder.path().join("messages");
        let out = fs::File::create(&messages).expect("a file");
        let mut gateway = tollgate();
        gateway.args(["run", "-c", "conf/tollgate.yaml"]).current_dir(folder.path());
        let gateway = gateway
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a file"))
            .stderr(out)
            .spawn()
            .expect("tollgate starts");
        let demo = Self { programs: vec![Program(gateway), backends], folder, moved };
        demo.wait_until_ready(&messages);
        demo
    }

    fn wait_until_ready(&self, messages: &Path) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.run("curl -fsS http://127.0.0.1:8081/ready").is_err() {
            assert!(Instant::now() < deadline, "not ready: {}", fs::read_to_string(messages).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a command of the README in the demo's folder.
    fn run(&self, command: &str) -> Result<(), String> {
        assert!(!self.programs.is_empty());
        let folder = PathBuf::from(env!("CARGO_BIN_EXE_tollgate"));
        let folder = folder.parent().expect("a folder").display().to_string();
        let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
        let moved = relocate(&command.replace("target/release/tollgate", "tollgate"), &self.moved);
        let mut shell = Command::new("bash");
        shell.args(["-c", &moved]).current_dir(self.folder.path()).env("PATH", path).stdin(Stdio::null());
        let output = shell.output().map_err(|error| error.to_string())?;
        let said = text(&output.stdout) + &text(&output.stderr);
        if !output.status.success() {
            return Err(format!("{}: {said}", output.status));
        }
        match expectation(command) {
            Some(expected) if !said.contains(expected) => Err(format!("does not say {expected:?}: {said}")),
            _ => Ok(()),
        }
    }
}

/// The six instances of the demo on free ports, and where the addresses of the configuration are now.
fn backends() -> (Program, Vec<(String, String)>) {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_tollgate")).with_file_name("mock_backends");
    assert!(program.exists(), "{} is missing: run `cargo build -p mock_backends`", program.display());
    let mut command = Command::new(program);
    for service in ["user", "user", "product", "product", "order", "order"] {
        command.args(["--instance", &format!("{service}=127.0.0.1:0")]);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("mock_backends starts");
    let mut said = BufReader::new(child.stdout.take().expect("its output"));
    let mut line = String::new();
    said.read_line(&mut line).expect("a line");
    // Keeps reading: a full pipe would stop it.
    std::thread::spawn(move || said.read_to_end(&mut Vec::new()));
    let places =
        line.trim().strip_prefix("mock_backends ready: ").unwrap_or_else(|| panic!("mock_backends said {line:?}"));
    let addresses = places.split(", ").filter_map(|place| place.split(' ').nth(1)).map(str::to_owned);
    let moved = (9101..=9106).map(|port| format!("127.0.0.1:{port}")).zip(addresses).collect();
    (Program(child), moved)
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").to_string()
}

fn relocate(text: &str, moved: &[(String, String)]) -> String {
    moved.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
