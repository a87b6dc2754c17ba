//! `tollgate keys`: the life of keys in the key store, and what can be said of a key without asking anyone.
//! A key itself is read from standard input or a file, never from the command line, where every user of the machine sees it;
//! and it is printed once. Not here: what each step may do (`keys::life`).

mod check;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;

use super::{File, commands, finish};
use crate::analytics::{Inventory, Style};
use crate::config::{self, Config, Digest, Expiry, Key, Span, StoreUrl};
use crate::keys::life::{Added, Life, Secret, Wanted};
use crate::keys::{NewKey, digest_of};
use crate::store::keys::{ConsumerChange, KeyStore, StoredKey};
use crate::store::read::Reader;

/// How long the log may take to tell about the use of keys.
const TIME_MAX: std::time::Duration = std::time::Duration::from_secs(600);

/// Bytes that are looked through at once.
const TEXT_MAX: u64 = 1 << 30;

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Makes a key and shows it, once: into the key store, or as a line for the configuration
    #[command(after_help = "\
The gateway keeps only the digest: a lost key cannot be shown again, only replaced.
With `key_store` in the configuration the key is in force within 5 seconds. Without, or with --print, nothing is
changed anywhere, and the line for `keys:` is printed.

Examples:
  tollgate keys new acme-2026
  tollgate keys new acme-2026 --consumer acme --plan gold --label partner --expires 2027-01-01 -c edge.yaml")]
    New(New),
    /// Takes a key that exists, read from standard input or a file
    #[command(after_help = "\
Short and chosen secrets are refused: their digest would tell them to whoever tries a list of words.

Examples:
  printf %s \"$KEY\" | tollgate keys import acme-legacy --consumer acme
  tollgate keys import acme-legacy --secret-from key.txt --weak-ok
  tollgate keys import acme-legacy --sha256 4f0e...")]
    Import(Import),
    /// Every key of the file and of the store: state, last use, requests in 30 days
    #[command(after_help = "\
Examples:
  tollgate keys list
  tollgate keys list -c edge.yaml --format json")]
    List(List),
    /// Everything about one key but the key itself
    #[command(after_help = "Example:\n  tollgate keys show acme-2026")]
    Show {
        /// The key's name
        name: String,
        #[command(flatten)]
        answer: Answer,
    },
    /// Makes another key of the same consumer; the old one is valid for a while longer
    #[command(after_help = "\
Examples:
  tollgate keys rotate acme-2026                      both are valid for 7 days
  tollgate keys rotate acme-2026 --for 30d --name acme-2027")]
    Rotate {
        /// The old key's name
        name: String,
        /// How long the old key stays valid
        #[arg(long = "for", value_name = "TIME", default_value = "7d", value_parser = Span::parse)]
        overlap: Span,
        /// The new key's name [default: the old one's with .2, .3 and so on]
        #[arg(long = "name", value_name = "NAME")]
        new: Option<String>,
        #[command(flatten)]
        answer: Answer,
    },
    /// Refuses a key for ever; every gateway knows within 5 seconds
    #[command(after_help = "Example:\n  tollgate keys revoke acme-2026")]
    Revoke {
        /// The key's name
        name: String,
        #[command(flatten)]
        answer: Answer,
    },
    /// Sets from when on a key is refused
    #[command(after_help = "\
Examples:
  tollgate keys expire acme-2026 --at 2027-01-01
  tollgate keys expire acme-2026 --in 30d
  tollgate keys expire acme-2026 --never")]
    Expire {
        /// The key's name
        name: String,
        #[command(flatten)]
        end: End,
        #[command(flatten)]
        answer: Answer,
    },
    /// Changes what a consumer is, for all its keys in the store
    #[command(after_help = "\
Examples:
  tollgate keys consumer acme --plan gold
  tollgate keys consumer acme --plan none --label partner --label beta")]
    Consumer {
        /// The consumer
        consumer: String,
        /// Its plan, or none
        #[arg(long, value_name = "PLAN")]
        plan: Option<String>,
        /// Its labels, all of them; none takes them away
        #[arg(long, value_name = "LABEL")]
        label: Vec<String>,
        #[command(flatten)]
        answer: Answer,
    },
    /// Valid keys that nobody used
    #[command(after_help = "Example:\n  tollgate keys unused --for 90d")]
    Unused {
        /// How long they were not used, in whole days
        #[arg(long = "for", value_name = "TIME", default_value = "90d", value_parser = Span::parse)]
        days: Span,
        #[command(flatten)]
        answer: Answer,
    },
    /// Finds keys in text by their form and checksum, without asking anyone: typos and leaks
    #[command(after_help = "\
Reads standard input, or files. Exit code 0 when everything found is a key, 1 when there is a typo or nothing is found;
with --leaks 0 when nothing is found, and 1 when a key is.

Examples:
  printf %s \"$KEY\" | tollgate keys check
  git diff --cached | tollgate keys check --leaks
  tollgate keys check --leaks --known -c edge.yaml access.log    also says which keys they are")]
    Check(check::Check),
}

/// How the answer is written, and whose keys are meant.
#[derive(Debug, Args)]
pub(super) struct Answer {
    #[command(flatten)]
    file: File,
    /// table or json [default: table]
    #[arg(long, value_name = "FORMAT", value_parser = ["table", "json"])]
    format: Option<String>,
}

#[derive(Debug, Args)]
struct Facts {
    /// Whose key it is [default: the key's name]
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// The consumer's plan
    #[arg(long, value_name = "PLAN")]
    plan: Option<String>,
    /// A label of the consumer; may be repeated
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// From when on it is refused: 2027-01-01, 2027-01-01T12:00:00+01:00
    #[arg(long, value_name = "TIME", value_parser = Expiry::parse)]
    expires: Option<Expiry>,
    /// Only print the line for the configuration
    #[arg(long)]
    print: bool,
}

#[derive(Debug, Args)]
pub(super) struct New {
    /// The key's name in log and metrics
    name: String,
    #[command(flatten)]
    facts: Facts,
    #[command(flatten)]
    answer: Answer,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// The key's name in log and metrics
    name: String,
    /// The file that holds the key, and nothing else; - is standard input
    #[arg(long, value_name = "FILE", default_value = "-", conflicts_with = "sha256")]
    secret_from: PathBuf,
    /// Take the digest instead; what it is of can't be checked
    #[arg(long, value_name = "DIGEST", value_parser = Digest::parse)]
    sha256: Option<Digest>,
    /// Take it although it is short or chosen
    #[arg(long)]
    weak_ok: bool,
    #[command(flatten)]
    facts: Facts,
    #[command(flatten)]
    answer: Answer,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Revoked keys as well
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    answer: Answer,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct End {
    /// At this time
    #[arg(long, value_name = "TIME", value_parser = Expiry::parse)]
    at: Option<Expiry>,
    /// So long from now on
    #[arg(long = "in", value_name = "TIME", value_parser = Span::parse)]
    after: Option<Span>,
    /// Never
    #[arg(long)]
    never: bool,
}

pub(super) fn run(command: KeysCommand) -> ExitCode {
    match command {
        KeysCommand::New(line) => finish(new(line)),
        KeysCommand::Import(line) => finish(import(line)),
        KeysCommand::List(line) => finish(list(line)),
        KeysCommand::Show { name, answer } => finish(show(&name, &answer)),
        KeysCommand::Rotate { name, overlap, new, answer } => {
            let json = answer.is_json();
            finish(with_life(answer, |life| life.rotate(&name, new, overlap)).map(|added| shown(&added, json)))
        }
        KeysCommand::Revoke { name, answer } => {
            let json = answer.is_json();
            let done = with_life(answer, |life| life.revoke(&name));
            finish(done.map(|()| said(json, &name, "revoked: refused by every gateway within 5 seconds, for ever")))
        }
        KeysCommand::Expire { name, end, answer } => {
            let json = answer.is_json();
            let now = Timestamp::now();
            let end = end.at.or_else(|| end.after.map(|span| Expiry::after(span, now))).map(|end| end.0);
            let done = with_life(answer, |life| life.expire(&name, end));
            let what = end.map_or("never expires".to_owned(), |end| format!("refused from {end} on"));
            finish(done.map(|()| said(json, &name, &what)))
        }
        KeysCommand::Consumer { consumer, plan, label, answer } => {
            let json = answer.is_json();
            let none = |name: &String| name == "none";
            let change = ConsumerChange {
                plan: plan.map(|plan| Some(plan).filter(|plan| !none(plan))),
                labels: (!label.is_empty()).then(|| label.into_iter().filter(|label| !none(label)).collect()),
            };
            let done = with_life(answer, |life| life.consumer(&consumer, change));
            finish(done.map(|()| said(json, &consumer, "changed, for all keys of this consumer in the store")))
        }
        KeysCommand::Unused { days, answer } => finish(unused(days, &answer)),
        KeysCommand::Check(line) => match check::check(&line) {
            Ok((text, is_well)) => {
                let printed = finish(Ok(text));
                if is_well { printed } else { ExitCode::FAILURE }
            }
            Err(message) => finish(Err(message)),
        },
    }
}

impl Answer {
    fn is_json(&self) -> bool {
        self.format.as_deref() == Some("json")
    }

    fn config(&self) -> Result<Config, String> {
        self.file.clone().path().and_then(|path| commands::load(&path))
    }
}

/// The key store of a configuration; an error where it has none.
fn store(config: &Config) -> Result<KeyStore, String> {
    let url = config.key_store.database(&config.log.store);
    let store = KeyStore::open(&url).map_err(|failure| format!("key_store: {}", failure.message()))?;
    store.ok_or_else(|| {
        "the configuration has no `key_store`: its keys are in the file. Write `key_store: log`, or change the file and reload".to_owned()
    })
}

fn with_life<T>(
    answer: Answer,
    step: impl FnOnce(&mut Life<'_>) -> Result<T, crate::store::keys::Unchanged>,
) -> Result<T, String> {
    let config = answer.config()?;
    let mut store = store(&config)?;
    step(&mut Life::new(&mut store, &config)).map_err(|why| why.message().to_owned())
}

fn new(line: New) -> Result<String, String> {
    add(line.name, Secret::Made, line.facts, line.answer)
}

fn import(line: Import) -> Result<String, String> {
    let secret = match line.sha256 {
        Some(digest) => Secret::Digest(digest),
        None => {
            let mut text = String::new();
            let read = if line.secret_from.as_os_str() == "-" {
                std::io::stdin().take(TEXT_MAX).read_to_string(&mut text)
            } else {
                std::fs::File::open(&line.secret_from).and_then(|file| file.take(TEXT_MAX).read_to_string(&mut text))
            };
            read.map_err(|error| format!("the key can't be read from {}: {error}", line.secret_from.display()))?;
            // An editor ends the last line, and no key ends with a line.
            Secret::Brought(text.trim_end_matches(['\r', '\n']).to_owned(), line.weak_ok)
        }
    };
    add(line.name, secret, line.facts, line.answer)
}

fn add(name: String, secret: Secret, facts: Facts, answer: Answer) -> Result<String, String> {
    let json = answer.is_json();
    // Without a configuration, or without a store in it, there is only the line to print.
    let config = match (facts.print, answer.file.config.is_some(), answer.file.clone().path()) {
        (true, ..) | (false, false, Err(_)) => None,
        (false, _, path) => Some(path.and_then(|path| commands::load(&path))?),
    };
    let labels = (!facts.label.is_empty()).then_some(facts.label);
    let expires = facts.expires.map(|expires| expires.0);
    let wanted = Wanted { name, consumer: facts.consumer, plan: facts.plan, labels, expires, secret };
    match config.filter(|config| config.key_store != config::KeyStoreUrl::None) {
        Some(config) => {
            let mut store = store(&config)?;
            let added = Life::new(&mut store, &config).add(wanted).map_err(|why| why.message().to_owned())?;
            Ok(shown(&added, json))
        }
        None => line_for_file(&wanted, json),
    }
}

/// The key, shown this once, and what was done.
fn shown(added: &Added, json: bool) -> String {
    if json {
        return serde_json::to_string_pretty(added).unwrap_or_default() + "\n";
    }
    let mut text = String::new();
    if let Some(key) = &added.key {
        let _ = writeln!(text, "The key, shown only now; clients send it as X-API-Key:\n{key}\n");
    }
    let _ = write!(text, "`{}` of `{}` is in the key store", added.name, added.consumer);
    if let Some(expires) = added.expires {
        let _ = write!(text, " until {expires}");
    }
    text.push_str("; gateways know it within 5 seconds\n");
    if let Some(old) = &added.replaces {
        let _ = writeln!(text, "`{}` is valid until {}", old.name, old.expires);
    }
    text
}

/// A key, and the line that the configuration takes.
fn line_for_file(wanted: &Wanted, json: bool) -> Result<String, String> {
    let name = &wanted.name;
    if !config::is_name(name) {
        return Err(format!("`{name}` is no name: 1 to 64 letters, digits, `.`, `_` and `-`"));
    }
    let (key, digest) = match &wanted.secret {
        Secret::Made => {
            let new =
                NewKey::generate().map_err(|error| format!("no random numbers from the operating system: {error}"))?;
            (Some(new.key), new.digest)
        }
        Secret::Digest(digest) => (None, *digest),
        Secret::Brought(secret, weak_ok) => {
            crate::keys::life::may_be_key(secret, *weak_ok)?;
            (None, digest_of(secret.as_bytes()))
        }
    };
    if json {
        let facts = json!({"name": name, "key": key, "sha256": digest.to_string()});
        return Ok(serde_json::to_string_pretty(&facts).unwrap_or_default() + "\n");
    }
    let mut fields = format!("sha256: {digest}");
    for (field, value) in [("consumer", &wanted.consumer), ("plan", &wanted.plan)] {
        if let Some(value) = value {
            let _ = write!(fields, ", {field}: {value}");
        }
    }
    if let Some(expires) = wanted.expires {
        let _ = write!(fields, ", expires: \"{expires}\"");
    }
    if let Some(labels) = &wanted.labels {
        let _ = write!(fields, ", labels: [{}]", labels.join(", "));
    }
    let shown =
        key.map_or(String::new(), |key| format!("The key, shown only now; clients send it as X-API-Key:\n{key}\n\n"));
    Ok(format!("{shown}For the configuration, under `keys:`\n  {name}: {{{fields}}}\n"))
}

fn said(json: bool, name: &str, what: &str) -> String {
    if json { format!("{}\n", json!({"name": name, "done": what})) } else { format!("`{name}`: {what}\n") }
}

/// Every key, with its use where there is a log.
fn inventory(answer: &Answer, days: u32) -> Result<(Inventory, BTreeMap<String, Key>), String> {
    let config = answer.config()?;
    let stored = stored(&config)?;
    let now = Timestamp::now();
    let mut inventory = Inventory::of(&config.keys, &stored, days, now);
    match config.log.store {
        StoreUrl::None => inventory.notes.push("there is no request log, so nothing is known of their use".to_owned()),
        _ => {
            let used =
                Reader::open(&config.log.store, TIME_MAX).and_then(|mut reader| inventory.add_use(&mut reader, now));
            if let Err(why) = used {
                inventory.notes.push(format!("nothing is known of their use: {why}"));
            }
        }
    }
    Ok((inventory, config.keys))
}

fn stored(config: &Config) -> Result<Vec<StoredKey>, String> {
    match config.key_store {
        config::KeyStoreUrl::None => Ok(Vec::new()),
        _ => Ok(store(config)?.read().map_err(|failure| format!("key_store: {}", failure.message()))?.keys),
    }
}

fn list(line: List) -> Result<String, String> {
    let (mut inventory, _) = inventory(&line.answer, 30)?;
    if !line.all {
        inventory.leave_out_revoked();
    }
    Ok(written(&inventory, &line.answer))
}

fn written(inventory: &Inventory, answer: &Answer) -> String {
    if answer.is_json() { inventory.json() } else { inventory.table(Style::of_stdout()) }
}

fn show(name: &str, answer: &Answer) -> Result<String, String> {
    let (mut inventory, _) = inventory(answer, 30)?;
    inventory.keys.retain(|item| item.name == name);
    if inventory.keys.is_empty() {
        return Err(format!("there is no key named `{name}`"));
    }
    Ok(written(&inventory, answer))
}

fn unused(days: Span, answer: &Answer) -> Result<String, String> {
    let days = u32::try_from(days.0.as_secs() / 86_400).unwrap_or(u32::MAX);
    if days == 0 {
        return Err("--for: use is counted by days: write 1d at least".to_owned());
    }
    let (mut inventory, _) = inventory(answer, days)?;
    if inventory.keys.iter().any(|item| item.requests.is_none()) {
        return Err(inventory.notes.join("; "));
    }
    inventory.keep_unused(Timestamp::now());
    Ok(written(&inventory, answer))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_new_key_comes_with_a_line_that_the_configuration_takes() {
        let wanted = Wanted {
            name: "acme-2026".into(),
            consumer: Some("acme".into()),
            plan: None,
            labels: Some(vec!["a".into(), "b".into()]),
            expires: Some("2027-01-01T00:00:00Z".parse().unwrap()),
            secret: Secret::Made,
        };
        let text = line_for_file(&wanted, false).unwrap();
        let line = text.lines().last().unwrap();
        let file = format!("listen: 127.0.0.1:1\nadmin: none\nlog: none\nkeys:\n{line}\n");
        let config = config::read(&file, Path::new("/x/tollgate.yaml"), &|_| None).unwrap();
        let key = text.lines().nth(1).unwrap();
        assert!(key.starts_with("tg_") && key.len() == 52, "{key}");
        let made = &config.keys["acme-2026"];
        assert_eq!((made.sha256, made.labels.len()), (digest_of(key.as_bytes()), 2));
        assert!(line_for_file(&Wanted { name: "a b".into(), ..wanted }, false).is_err());
    }
}
