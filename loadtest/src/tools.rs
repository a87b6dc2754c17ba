//! Where the programs are that the comparison runs but does not build: proxies and load generators.
//! Not here: installing them, which is `make bench-peers`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders that hold servers and are often outside a user's `PATH`.
const SERVER_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Where `scripts/bench_peers.sh` puts what the distribution does not have.
const OWN_FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench-tools/bin");

/// The program called `name`: from `PATH`, then where servers are, then what `make bench-peers` put beside the build.
pub fn find(name: &str) -> io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(SERVER_FOLDERS.map(PathBuf::from)).chain([PathBuf::from(OWN_FOLDER)]);
    find_in(name, folders).ok_or_else(|| {
        let places = SERVER_FOLDERS.join(", ");
        let why = format!(
            "{name} is neither in PATH nor in {places} or target/bench-tools/bin; `make bench-peers` installs it"
        );
        io::Error::new(io::ErrorKind::NotFound, why)
    })
}

/// What a program says when it is asked for its version, on whichever output.
pub fn say(program: &Path, arguments: &[&str]) -> io::Result<String> {
    let place = program.display();
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| io::Error::other(format!("{place}: {error}")))?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(io::Error::other(format!("{place} {}: {}: {said}", arguments.join(" "), output.status)));
    }
    Ok(said.into_owned())
}

fn find_in(name: &str, folders: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    folders.map(|folder| folder.join(name)).find(|program| is_executable(program))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_folder_that_has_the_program_wins() {
        let folders = || ["/nonexistent", "/bin", "/usr/bin"].map(PathBuf::from).into_iter();
        assert_eq!(find_in("sh", folders()), Some(PathBuf::from("/bin/sh")));
        assert_eq!(find_in("no-such-program", folders()), None);
    }

    #[test]
    fn a_folder_is_no_program() {
        assert_eq!(find_in("usr", [PathBuf::from("/")].into_iter()), None);
    }

    #[test]
    fn what_is_missing_is_named_with_what_installs_it() {
        let why = find("no-such-program").unwrap_err().to_string();
        assert!(why.contains("no-such-program") && why.contains("make bench-peers"), "{why}");
    }
}
