//! `tollgate cache`: what the running gateway has stored, through its admin listener.
//! Not here: what is stored and why (`policy/cache`).

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::running::Running;
use super::{Gateway, finish};
use crate::analytics::{Style, printable, printable_json, stored_facts, stored_summary, stored_table};
use crate::words::counted;

#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// What the cache did since start, what it holds, the largest and the most used answers
    #[command(after_help = "\
Looks at every stored answer once.

Examples:
  tollgate cache stats
  tollgate cache stats --top 3 --json")]
    Stats {
        /// How many of the largest and of the most used answers
        #[arg(long, value_name = "N", default_value_t = 10)]
        top: u16,
        /// JSON, as `GET /admin/cache` answers
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        gateway: Gateway,
    },
    /// What is stored of a URL: each variant, whose it is, how fresh it is and why; exit code 1 when nothing is
    #[command(after_help = "\
The URL with the host and port that clients send. Cookies and credentials are not shown.

Examples:
  tollgate cache show https://shop.example/img/a.png
  tollgate cache show http://127.0.0.1:8080/api/products --json")]
    Show {
        /// As clients ask for it
        url: String,
        /// JSON, as `GET /admin/cache/show` answers
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        gateway: Gateway,
    },
    /// Removes stored answers, or makes them stale; says how many
    #[command(after_help = "\
Takes effect at once, also for answers that are being received. Beyond loopback the admin listener wants a token,
taken from TOLLGATE_ADMIN_TOKEN.

Examples:
  tollgate cache purge --url https://shop.example/img/a.png     one URL: all its variants, for all consumers
  tollgate cache purge --prefix https://shop.example/img/       all paths that begin so
  tollgate cache purge --tag product-17 --soft                  by Surrogate-Key or Cache-Tag; served stale where that may be
  tollgate cache purge --consumer acme
  tollgate cache purge --all")]
    Purge {
        #[command(flatten)]
        what: What,
        /// Only make them stale: confirmed before the next use, or used where stale answers may be
        #[arg(long)]
        soft: bool,
        /// JSON, as `POST /admin/cache/purge` answers
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        gateway: Gateway,
    },
}

/// Exactly one.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct What {
    /// One URL, with the host and port that clients send
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// All paths of a host that begin so
    #[arg(long, value_name = "URL")]
    prefix: Option<String>,
    /// What a route stored, by its pattern or name
    #[arg(long, value_name = "PATTERN")]
    route: Option<String>,
    /// What instances gave this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// What is stored for one consumer alone
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// Everything
    #[arg(long)]
    all: bool,
}

impl What {
    /// As names and values.
    fn pairs(self) -> impl Iterator<Item = (&'static str, String)> {
        let all = self.all.then(|| "true".to_owned());
        let named = [
            ("url", self.url),
            ("prefix", self.prefix),
            ("route", self.route),
            ("tag", self.tag),
            ("consumer", self.consumer),
            ("all", all),
        ];
        named.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

pub(super) fn run(command: CacheCommand) -> ExitCode {
    match command {
        CacheCommand::Stats { top, json, gateway } => {
            finish(gateway.find().and_then(|gateway| stats(&gateway, top, json)))
        }
        CacheCommand::Show { url, json, gateway } => {
            match gateway.find().and_then(|gateway| show(&gateway, &url, json)) {
                Ok((text, true)) => finish(Ok(text)),
                Ok((text, false)) if json => {
                    finish(Ok(text));
                    ExitCode::FAILURE
                }
                Ok((message, false)) | Err(message) => finish(Err(message)),
            }
        }
        CacheCommand::Purge { what, soft, json, gateway } => {
            finish(gateway.find().and_then(|gateway| purge(&gateway, what, soft, json)))
        }
    }
}

fn stats(gateway: &Running, top: u16, json: bool) -> Result<String, String> {
    let status = gateway.get(&format!("/admin/cache?top={top}"))?;
    if status.get("entries").is_none() {
        return Err(gateway.is_no_gateway("the state of a cache"));
    }
    if json { pretty(&status) } else { Ok(stored_summary(&status, Style::of_stdout())) }
}

/// What is stored, and whether something is; otherwise why not.
fn show(gateway: &Running, url: &str, json: bool) -> Result<(String, bool), String> {
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("url", url).finish();
    let answer = gateway.get(&format!("/admin/cache/show?{query}"))?;
    let entries = answer.get("entries").and_then(Value::as_array);
    let entries = entries.ok_or_else(|| gateway.is_no_gateway("what is stored of a URL"))?;
    if json {
        return Ok((pretty(&answer)?, !entries.is_empty()));
    }
    if entries.is_empty() {
        let why = answer.get("why").and_then(Value::as_str).unwrap_or("nothing is stored");
        return Ok((format!("{}: {}", printable(url), printable(why)), false));
    }
    let style = Style::of_stdout();
    let mut text = String::new();
    if entries.len() > 1 {
        text = stored_table(entries, style) + "\n";
    }
    text += &entries.iter().map(|entry| stored_facts(entry, style)).collect::<Vec<_>>().join("\n");
    Ok((text, true))
}

fn purge(gateway: &Running, what: What, soft: bool, json: bool) -> Result<String, String> {
    let soft = soft.then(|| ("soft", "true".to_owned()));
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(what.pairs().chain(soft)).finish();
    let answer = gateway.post(&format!("/admin/cache/purge?{query}"))?;
    let purged = answer.get("purged").and_then(Value::as_u64);
    let purged = purged.ok_or_else(|| gateway.is_no_gateway("the number of what was purged"))?;
    if json {
        return pretty(&answer);
    }
    let done = if answer.get("soft").and_then(Value::as_bool) == Some(true) { "made stale" } else { "removed" };
    Ok(format!("{} {done}\n", counted(purged, "answer")))
}

fn pretty(answer: &Value) -> Result<String, String> {
    let json = serde_json::to_string_pretty(answer).map_err(|error| error.to_string())?;
    Ok(printable_json(&json) + "\n")
}
