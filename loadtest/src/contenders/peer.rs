//! What the peers have in common: how they are started, and what a setup means for all of them.
//! Not here: on which core they run, and how they are ended; the caller does that.

use std::path::Path;
use std::process::Command;

use crate::contender::{Place, ROUTES, Setup};

/// `program` with as many open files as are allowed: 10,000 idle connections are as many files, and 1,024 is a common default.
/// The shell becomes the program, so no process is added. `before` is what the shell does first, e.g. open a file.
pub fn with_open_files(program: &Path, before: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n \"$(ulimit -Hn)\"\n{before}\nexec \"$@\"")).arg("sh").arg(program);
    command
}

/// A path as one word for the shell.
pub fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// Whether the setup asks for no key, and has no log.
pub fn is_open(setup: Setup) -> bool {
    matches!(setup, Setup::Plain | Setup::Tls)
}

/// Whether the client is who the trusted proxy in front says it is.
pub fn is_behind_proxy(setup: Setup) -> bool {
    matches!(setup, Setup::Addresses | Setup::LimitedAddresses)
}

/// Whether one request a minute and address is all there is.
pub fn is_limited(setup: Setup) -> bool {
    matches!(setup, Setup::Limited | Setup::LimitedAddresses)
}

/// The paths that have a route, without a slash at their end.
pub fn routes(setup: Setup) -> Vec<String> {
    let more = if setup == Setup::Routes { ROUTES - 1 } else { 0 };
    std::iter::once("/items".to_owned()).chain((0..more).map(|at| format!("/r/{at}"))).collect()
}

/// The keys that are admitted, each with the name of its consumer.
pub fn keys(setup: Setup, place: &Place) -> Vec<(&str, String)> {
    let more = if setup == Setup::Keys { place.more_keys.as_slice() } else { &[] };
    let more = more.iter().enumerate().map(|(at, key)| (key.as_str(), format!("more-{at}")));
    std::iter::once((place.key.as_str(), "loadtest".to_owned())).chain(more).collect()
}
