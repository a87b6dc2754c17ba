//! `tollgate cache`: what the running gateway has stored, through its admin listener.
//! Not here: what is stored and why (`policy/cache`).

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::running::Running;
use super::{Gateway, finish};
use crate::analytics::printable_json;

#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
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
        CacheCommand::Purge { what, soft, json, gateway } => {
            finish(gateway.find().and_then(|gateway| purge(&gateway, what, soft, json)))
        }
    }
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
    let answers = if purged == 1 { "answer" } else { "answers" };
    let done = if answer.get("soft").and_then(Value::as_bool) == Some(true) { "made stale" } else { "removed" };
    Ok(format!("{purged} {answers} {done}\n"))
}

fn pretty(answer: &Value) -> Result<String, String> {
    let json = serde_json::to_string_pretty(answer).map_err(|error| error.to_string())?;
    Ok(printable_json(&json) + "\n")
}
