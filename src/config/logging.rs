//! The request log in the file: `log`, where its records go and what is kept of them.
//! Not here: the store's URL (`store_url.rs`), and the log itself (`request_log`).

use std::path::PathBuf;

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::short_forms::or_text;
use super::store_url::StoreUrl;
use super::units::{Size, Span};

/// `log`; the short form is the store's URL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schemars(transform = short_form_of_log)]
pub struct Log {
    /// `sqlite:PATH`, `mysql://user:password@host/database`, or `none`.
    pub store: StoreUrl,
    /// One JSON line per request: `none`, `stdout` or a path.
    #[serde(default)]
    pub json: JsonLines,
    /// Records that may wait for the store.
    #[serde(default = "Log::default_queue")]
    pub queue: usize,
    /// When a batch is written.
    #[serde(default)]
    pub flush: Flush,
    /// The folder where batches wait while the store is away, or `none`. By default the SQLite file
    /// with `.spool` behind its name; with a server `data/spool`.
    #[serde(default)]
    pub spool: Spool,
    /// Bytes the spool may take.
    #[serde(default = "Log::default_spool_max")]
    pub spool_max: Size,
    /// What is lost when the spool is full.
    #[serde(default)]
    pub spool_full: SpoolFull,
    /// What is kept, and how long.
    #[serde(default)]
    pub retention: Retention,
    /// What is kept of the client's address.
    #[serde(default)]
    pub client_ip: ClientIp,
    /// What is kept of query strings.
    #[serde(default)]
    pub query: QueryLog,
}

/// `log.json`
#[derive(Clone, Debug, Default, PartialEq)]
pub enum JsonLines {
    /// No lines.
    #[default]
    None,
    /// Standard output.
    Stdout,
    /// A file, appended to; opened again on SIGHUP.
    File(PathBuf),
}

/// `log.spool`
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Spool {
    /// The SQLite file with `.spool` behind its name; with a server `data/spool` beside the configuration.
    #[default]
    Usual,
    /// No spool: what can't be queued is lost.
    None,
    /// A folder.
    Folder(PathBuf),
}

/// `log.flush`: whichever comes first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Flush {
    /// Rows of one batch.
    pub rows: usize,
    /// Age of the oldest row of a batch.
    pub age: Span,
}

/// `log.spool_full`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpoolFull {
    /// What comes next.
    #[default]
    DropNew,
    /// What has waited longest.
    DropOld,
}

/// `log.retention`: whichever comes first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// How long single requests are kept.
    pub requests: Span,
    /// How long usage by minute is kept.
    pub minutes: Span,
    /// How long usage by hour is kept. Usage by day is kept for ever.
    pub hours: Span,
    /// Bytes of the request log in the store.
    pub size: Size,
}

/// `log.client_ip`
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientIp {
    /// The whole address.
    #[default]
    Full,
    /// IPv4 /24, IPv6 /48.
    Masked,
    /// Nothing.
    None,
}

/// `log.query`
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum QueryLog {
    /// No query strings.
    #[default]
    None,
    /// Query strings, values of secret parameters replaced.
    Redacted,
}

fn short_form_of_log(schema: &mut Schema) {
    or_text(schema, "sqlite:PATH, mysql://user:password@host/database, or none");
}
