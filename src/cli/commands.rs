//! The commands about the configuration: check, dump.
//! Each gives the text to print, or why it could not be done. None changes anything.

use std::fmt::Write;
use std::path::Path;

use crate::config::{self, Config, KeyStoreUrl, Problems};
use crate::words::counted;
use crate::{runtime, store};

/// Reads and compiles the configuration; with `connect` the stores are tried as well, and everybody has to answer whom a start would not wait for.
pub(super) fn check(path: &Path, connect: bool) -> Result<String, String> {
    let config = load(path)?;
    let (summary, missing) = runtime::check(&config).map_err(|problems| list(&problems))?;
    let mut text = String::new();
    for line in summary {
        let _ = writeln!(text, "{line}");
    }
    if connect && !missing.is_empty() {
        return Err(format!("{text}{}", list(&missing)));
    }
    for line in missing.lines() {
        let _ = writeln!(text, "{line}; a start does not wait for it");
    }
    if connect {
        let found = store::probe(&config.log.store).map_err(|reason| format!("{text}log.store: {reason}"))?;
        for line in found {
            let _ = writeln!(text, "{line}");
        }
        if let KeyStoreUrl::Own(url) = &config.key_store {
            let found = store::keys::probe(url).map_err(|reason| format!("{text}key_store: {reason}"))?;
            let _ = writeln!(text, "{found}");
        }
    }
    let _ = writeln!(text, "{}: no problem found", path.display());
    Ok(text)
}

/// The long form.
pub(super) fn dump(path: &Path) -> Result<String, String> {
    config::dump(&load(path)?)
}

/// Reads the configuration, or says everything that is wrong with it.
pub(super) fn load(path: &Path) -> Result<Config, String> {
    config::load(path).map_err(|problems| list(&problems))
}

fn list(problems: &Problems) -> String {
    format!("{problems}\n{}", counted(problems.lines().len() as u64, "problem"))
}
