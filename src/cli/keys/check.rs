//! `tollgate keys check`: finds keys in text by their form, for people who mistyped one and for scanners that look for leaks.
//! No more than the first characters of what is found is shown. Not here: what a key looks like (`keys::scan`).

use std::fmt::Write;
use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::complain;
use super::{Answer, TEXT_MAX, stored};
use crate::keys::{digest_of, scan};

#[derive(Debug, Args)]
pub(in crate::cli) struct Check {
    /// Where to look; standard input when left out
    files: Vec<PathBuf>,
    /// What is found is a leak: exit code 1
    #[arg(long)]
    leaks: bool,
    /// Also say which keys they are; asks the configuration and the key store
    #[arg(long)]
    known: bool,
    #[command(flatten)]
    answer: Answer,
}

/// What was found, and whether that is well.
pub(super) fn check(line: &Check) -> Result<(String, bool), String> {
    let known = if line.known {
        let config = line.answer.config()?;
        let stored = stored(&config)?;
        let stored = stored.into_iter().map(|key| (key.sha256, (key.name, key.revoked.is_some())));
        let of_file = config.keys.iter().map(|(name, key)| (key.sha256, (name.clone(), false)));
        stored.chain(of_file).collect::<std::collections::HashMap<_, _>>()
    } else {
        std::collections::HashMap::new()
    };
    let mut found = Vec::new();
    let mut look = |place: &str, bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        for candidate in scan::candidates(&text) {
            let key = known.get(&digest_of(candidate.text.as_bytes()));
            found.push(json!({
                "file": place, "line": candidate.line, "column": candidate.column,
                "key": scan::shown(candidate.text), "checksum": candidate.is_key,
                "name": key.map(|(name, _)| name), "revoked": key.map(|(_, revoked)| revoked),
            }));
        }
    };
    if line.files.is_empty() {
        let mut bytes = Vec::new();
        std::io::stdin().take(TEXT_MAX).read_to_end(&mut bytes).map_err(|error| format!("standard input: {error}"))?;
        look("stdin", &bytes);
    }
    for path in &line.files {
        look(
            &path.display().to_string(),
            &std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?,
        );
    }
    let is_right = !found.is_empty() && found.iter().all(|one| one["checksum"] == true);
    let is_leak = found.iter().any(|one| one["checksum"] == true);
    let is_well = if line.leaks { !is_leak } else { is_right };
    if line.answer.is_json() {
        return Ok((serde_json::to_string_pretty(&found).unwrap_or_default() + "\n", is_well));
    }
    let mut text = String::new();
    for one in &found {
        let word = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
        let verdict = match (one["checksum"] == true, one["name"].as_str(), line.known) {
            (false, ..) => "no key: its checksum is wrong, perhaps a typo".to_owned(),
            (true, Some(name), _) if one["revoked"] == true => format!("a key: `{name}`, revoked"),
            (true, Some(name), _) => format!("a key: `{name}`"),
            (true, None, true) => "a key, but none of these".to_owned(),
            (true, None, false) => "a key".to_owned(),
        };
        let _ = writeln!(text, "{}:{}:{}: {}: {verdict}", word("file"), one["line"], one["column"], word("key"));
    }
    if found.is_empty() && !line.leaks {
        complain("nothing looks like a key of `tollgate keys new`");
    }
    Ok((text, is_well))
}
