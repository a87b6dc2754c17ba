//! The commands about the configuration: check, dump; and a new key.
//! Each gives the text to print, or why it could not be done. None changes anything.

use std::fmt::Write;
use std::path::Path;

use crate::config::{self, Config, Problems};
use crate::keys::NewKey;
use crate::{runtime, store};

/// Reads and compiles the configuration; with `connect` the stores are tried as well.
pub(super) fn check(path: &Path, connect: bool) -> Result<String, String> {
    let config = load(path)?;
    let summary = runtime::check(&config).map_err(|problems| list(&problems))?;
    let mut text = String::new();
    for line in summary {
        let _ = writeln!(text, "{line}");
    }
    if connect {
        let found = store::probe(&config.log.store).map_err(|reason| format!("{text}log.store: {reason}"))?;
        for line in found {
            let _ = writeln!(text, "{line}");
        }
    }
    let _ = writeln!(text, "{}: no problem found", path.display());
    Ok(text)
}

/// The long form.
pub(super) fn dump(path: &Path) -> Result<String, String> {
    config::dump(&load(path)?)
}

/// A key, shown this once.
pub(super) fn new_key(name: &str) -> Result<String, String> {
    if !config::is_name(name) {
        return Err(format!("`{name}` is no name: 1 to 64 letters, digits, `.`, `_` and `-`"));
    }
    let new = NewKey::generate().map_err(|error| format!("no random numbers from the operating system: {error}"))?;
    Ok(format!(
        "The key, shown only now; clients send it as X-API-Key:\n{}\n\nFor the configuration, under `keys:`\n  {name}: {{sha256: {}}}\n",
        new.key, new.digest
    ))
}

/// Reads the configuration, or says everything that is wrong with it.
pub(super) fn load(path: &Path) -> Result<Config, String> {
    config::load(path).map_err(|problems| list(&problems))
}

fn list(problems: &Problems) -> String {
    let count = problems.lines().len();
    format!("{problems}\n{count} problem{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_comes_with_a_line_that_the_configuration_takes() {
        let text = new_key("acme-2026").unwrap();
        let line = text.lines().last().unwrap();
        let file = format!("listen: 127.0.0.1:1\nadmin: none\nlog: none\nkeys:\n{line}\n");
        let config = config::read(&file, Path::new("/x/tollgate.yaml"), &|_| None).unwrap();
        let key = text.lines().nth(1).unwrap();
        assert!(key.starts_with("tg_") && key.len() == 52, "{key}");
        assert_eq!(config.keys["acme-2026"].sha256, crate::keys::digest_of(key.as_bytes()));
        assert!(new_key("a b").is_err());
    }
}
