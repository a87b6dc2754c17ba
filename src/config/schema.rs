//! The grammar of the configuration file, in its long form: every field with its default.
//! Short forms are read by the visitors in `short_forms.rs` into these same types,
//! and `tollgate config dump` is these types written out again.
//! Not here: rules across fields (`check.rs`) and how the file is read (`mod.rs`).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use indexmap::IndexMap;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::access::{Clients, Cors, Expiry, KeyRule, KeyStoreUrl};
use super::balance::Balance;
use super::caching::CachePolicy;
use super::compression::Codings;
use super::discovery::{Discover, Discovery};
use super::health::{Eject, HealthCheck};
use super::limits::{Concurrency, LimitRule, LimitSettings, Plan};
use super::pattern::Pattern;
use super::places::Places;
use super::resilience::{Breaker, Retry, ServiceQueue};
use super::scalar_forms::Network;
use super::short_forms::{self, Limits, OneOrMany};
use super::units::{Size, Span};

pub use super::logging::*;

/// The whole configuration file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients connect: `127.0.0.1:8080`, or a list of listeners.
    #[serde(deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<Listener>")]
    pub listen: Vec<Listener>,
    /// The admin listener (health, metrics, admin API), or `none`.
    #[schemars(required)]
    pub admin: Option<Admin>,
    /// A label of this process in logs and metrics; the host name when left out.
    #[serde(default)]
    pub node: Option<String>,
    /// Worker threads of the data path: `auto` (the cores this process may use) or a number.
    #[serde(default)]
    pub threads: Threads,
    /// How the process stops.
    #[serde(default)]
    pub shutdown: Shutdown,
    /// What clients may cost before a request is parsed.
    #[serde(default)]
    pub connections: Connections,
    /// Networks whose `X-Forwarded-*` and `X-Request-Id` are believed.
    #[serde(default, deserialize_with = "short_forms::networks")]
    #[schemars(with = "OneOrMany<Network>")]
    pub trusted_proxies: Vec<IpNet>,
    /// An estimate in constant memory that refuses single addresses first of all: `500/s per ip`.
    #[serde(default)]
    pub flood_guard: Option<FloodGuard>,
    /// What holds for all limits, and limits that several routes share.
    #[serde(default)]
    pub limits: LimitSettings,
    /// Where a key is looked for; the first place that holds something decides.
    #[serde(default = "KeyPlace::defaults")]
    pub key_in: Vec<KeyPlace>,
    /// Where keys are that are not in this file: `log` (the request log's database), a database of its own, or `none`.
    #[serde(default)]
    pub key_store: KeyStoreUrl,
    /// What routes do that do not say otherwise.
    #[serde(default)]
    pub defaults: Defaults,
    /// How instances are found that do not stand in this file.
    #[serde(default)]
    pub discovery: Discovery,
    /// Named sets of instances.
    #[serde(default)]
    pub services: IndexMap<String, Service>,
    /// Patterns, and what happens to the requests that match them.
    #[serde(default)]
    pub routes: IndexMap<String, Route>,
    /// Limits by plan, over all requests of a consumer.
    #[serde(default)]
    pub plans: IndexMap<String, Plan>,
    /// Keys by name.
    #[serde(default)]
    pub keys: BTreeMap<String, Key>,
    /// Where cached answers live.
    #[serde(default)]
    pub cache: CacheStore,
    /// The request log; `none` switches it off.
    pub log: Log,
    /// Where each value of the file stands; filled by the reader.
    #[serde(skip)]
    #[schemars(skip)]
    pub places: Arc<Places>,
}

/// `listen[]`: one address that clients connect to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schemars(transform = schema_of_short_forms::listener)]
pub struct Listener {
    /// IP address and port, e.g. `0.0.0.0:8443` or `[::1]:8080`.
    #[serde(deserialize_with = "short_forms::address")]
    #[schemars(with = "String")]
    pub address: SocketAddr,
    /// Certificates by SNI; the first is the fallback. Plain HTTP when left out.
    #[serde(default, deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<Certificate>")]
    pub tls: Vec<Certificate>,
    /// HTTP/2 through ALPN; only with `tls`, where it is the default.
    #[serde(default)]
    pub http2: Option<bool>,
    /// `https`: every request is answered with a redirect to the same address on https.
    #[serde(default)]
    pub redirect: Option<Redirect>,
}

/// `listen[].tls[]`: a certificate chain and its key, PEM files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The certificate chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// `listen[].redirect`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Redirect {
    /// To the same host and path with the scheme `https`.
    Https,
}

/// `admin`: health, readiness, metrics and the admin API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schemars(transform = schema_of_short_forms::admin)]
pub struct Admin {
    /// IP address and port.
    #[serde(deserialize_with = "short_forms::address")]
    #[schemars(with = "String")]
    pub address: SocketAddr,
    /// SHA-256 of the token in hex; required beyond loopback.
    #[serde(default)]
    pub token_sha256: Option<Digest>,
    /// Further names under which the admin API may be asked for (`Host` header).
    #[serde(default, deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<String>")]
    pub hosts: Vec<String>,
}

/// `threads`
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Threads {
    /// As many as the cores this process may use (affinity, cgroup).
    #[default]
    Auto,
    /// Exactly so many, 1 to 1024.
    Count(u16),
}

/// `shutdown`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long `/ready` says 503 before the listeners close.
    pub drain_delay: Span,
    /// How long requests in flight may take to finish.
    pub grace: Span,
}

/// `connections`: bounds on what a client can hold open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Connections {
    /// Open client connections of the whole process.
    pub total_max: usize,
    /// Open connections of one address (an IPv6 /64 counts as one). Trusted proxies are exempt.
    pub per_client_max: usize,
    /// How long a request header may take from its first byte to its last.
    pub header_timeout: Span,
    /// How long a connection may wait for its next request.
    pub idle_timeout: Span,
    /// Bytes of one request header.
    pub header_max: Size,
    /// How long a client may take to send more of a body, or to take more of an answer.
    pub body_timeout: Span,
}

/// `flood_guard`: requests of one address, estimated in constant memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloodGuard {
    /// Requests of one address in one window.
    pub requests: u32,
    /// The window; at least one second.
    pub window: Span,
}

/// `key_in[]`
#[derive(Clone, Debug, PartialEq)]
pub enum KeyPlace {
    /// A request header, by its name in lower case.
    Header(http::HeaderName),
    /// `Authorization: Bearer`
    Bearer,
    /// A parameter of the query string: it stands in logs and histories of all that a request passes before this gateway.
    Query(String),
}

/// `defaults`: what holds for routes that do not say otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Who may call.
    pub keys: KeyRule,
    /// Until the header of the final answer, over all tries.
    pub timeout: Span,
    /// Bytes of a request body.
    pub body_max: Size,
    /// A template: each route counts for itself.
    #[serde(deserialize_with = "short_forms::limits")]
    #[schemars(with = "Limits")]
    pub limit: Vec<LimitRule>,
    /// When a request is tried again; only after a failed connect, or a pooled connection that was closed, when left out.
    pub retry: Option<Retry>,
}

/// `services.NAME`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schemars(transform = schema_of_short_forms::service)]
pub struct Service {
    /// The addresses requests are spread over; at least one, unless others are found.
    #[serde(default)]
    pub instances: Vec<Instance>,
    /// Where more instances are found; nowhere when left out.
    #[serde(default)]
    pub discover: Option<Discover>,
    /// How an instance is chosen.
    #[serde(default)]
    pub balance: Balance,
    /// The `Host` sent to instances; the client's when left out.
    #[serde(default)]
    pub host: Option<String>,
    /// TLS to the instances; plain when left out.
    #[serde(default)]
    pub tls: Option<ServiceTls>,
    /// HTTP/2 to the instances: over TLS where they choose it (ALPN), without TLS at once (h2c, prior knowledge).
    #[serde(default)]
    pub http2: bool,
    /// Active health checks; off when left out.
    #[serde(default)]
    pub health: Option<HealthCheck>,
    /// What requests that fail say about an instance; nothing when left out.
    #[serde(default)]
    pub eject: Option<Eject>,
    /// How long the share of an instance grows that is ready again, or new; it has all of it at once when left out.
    #[serde(default)]
    pub slow_start: Option<Span>,
    /// When an instance, or the whole service, is not asked for a while; never when left out.
    #[serde(default)]
    pub breaker: Option<Breaker>,
    /// When a request is tried again; `defaults.retry` when left out.
    #[serde(default, deserialize_with = "short_forms::some", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Retry>")]
    pub retry: Option<Option<Retry>>,
    /// How long each step with an instance may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Requests that it bears at once; any number when left out.
    #[serde(default)]
    pub concurrent_max: Option<u32>,
    /// Requests that each of its instances bears at once; any number when left out.
    #[serde(default)]
    pub instance_concurrent_max: Option<u32>,
    /// The requests that may wait for a place; none when left out.
    #[serde(default)]
    pub queue: Option<ServiceQueue>,
}

/// What the path of a Unix socket begins with.
pub const UNIX: &str = "unix:";

/// `services.NAME.instances[]`: `host:port`, with a weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schemars(transform = schema_of_short_forms::instance)]
pub struct Instance {
    /// IP address or name, and port; or `unix:` and the path of a socket. A name follows DNS: each of its addresses is an instance.
    pub address: String,
    /// Its share of the requests, 1 to 100.
    #[serde(default = "Instance::default_weight")]
    pub weight: u16,
    /// Whether it gets requests only while no other instance can.
    #[serde(default)]
    pub backup: bool,
}

/// `services.NAME.tls`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceTls {
    /// The name in the instances' certificate.
    pub sni: String,
    /// PEM file of the authorities that are believed; the system's when left out.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate chain an instance is shown that asks for one, leaf first; none when left out.
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// PEM file of the private key of `cert`.
    #[serde(default)]
    pub key: Option<PathBuf>,
}

/// `services.NAME.timeouts`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Until the TCP connection stands.
    pub connect: Span,
    /// Until the TLS handshake is done.
    pub tls: Span,
    /// Until the header of the answer.
    pub response: Span,
    /// Between two reads of the answer's body.
    pub between_bytes: Span,
    /// Bytes a second of the answer's body at least, over each `between_bytes`; `0b` is any number.
    pub rate_min: Size,
    /// Until an instance takes more of the request.
    pub write: Span,
    /// How long a connection may wait in the pool.
    pub idle: Span,
    /// How long an upgraded connection may go on at an instance that is drained, or has left.
    pub drain: Span,
}

/// `routes.PATTERN` or `routes.NAME`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The patterns of a named route; a route whose key is a pattern has none here.
    #[serde(default, rename = "match", deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<Pattern>")]
    pub patterns: Vec<Pattern>,
    /// The service that answers.
    pub to: String,
    /// A path prefix that instances do not see.
    #[serde(default)]
    pub strip_prefix: Option<String>,
    /// The path that instances see, with `{name}` from the pattern.
    #[serde(default)]
    pub rewrite: Option<String>,
    /// Who may call; `defaults.keys` when left out.
    #[serde(default, deserialize_with = "short_forms::some")]
    pub keys: Option<KeyRule>,
    /// From which addresses; from everywhere when left out.
    #[serde(default)]
    pub clients: Option<Clients>,
    /// Pages of which other origins may call; none when left out.
    #[serde(default)]
    pub cors: Option<Cors>,
    /// How often; `defaults.limit` when left out, no limit with `none`.
    #[serde(default, deserialize_with = "short_forms::some_limits")]
    #[schemars(with = "Option<Limits>")]
    pub limit: Option<Vec<LimitRule>>,
    /// How many requests of one caller at once; any number when left out.
    #[serde(default)]
    pub concurrency: Option<Concurrency>,
    /// Bytes of a request body; `defaults.body_max` when left out.
    #[serde(default, deserialize_with = "short_forms::some")]
    pub body_max: Option<Size>,
    /// Whether and how answers are cached; not at all when left out.
    #[serde(default)]
    pub cache: Option<CachePolicy>,
    /// Codings that answers are compressed with, `zstd`, `br` and `gzip`; the first is preferred where a client likes several equally. None when left out.
    #[serde(default)]
    pub compress: Option<Codings>,
    /// What is changed in headers, both ways.
    #[serde(default)]
    pub headers: HeaderRules,
    /// Until the header of the final answer; `defaults.timeout` when left out.
    #[serde(default, deserialize_with = "short_forms::some")]
    pub timeout: Option<Span>,
    /// When a request is tried again; the service's when left out.
    #[serde(default, deserialize_with = "short_forms::some", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Retry>")]
    pub retry: Option<Option<Retry>>,
}

/// `routes.X.headers`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderRules {
    /// On the way to the instance.
    pub request: HeaderChanges,
    /// On the way to the client.
    pub response: HeaderChanges,
}

/// Removals first, then settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderChanges {
    /// Headers that are set, replacing what was there.
    pub set: BTreeMap<String, String>,
    /// Headers that are removed.
    #[serde(deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<String>")]
    pub remove: Vec<String>,
}

/// `keys.NAME`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct Key {
    /// SHA-256 of the key in hex, as `tollgate keys new` prints it.
    pub sha256: Digest,
    /// Whose key it is; the key's own name when left out.
    #[serde(default)]
    pub consumer: Option<String>,
    /// The plan of its consumer, one of `plans`; all keys of a consumer have the same.
    #[serde(default)]
    pub plan: Option<String>,
    /// From when on it is refused; never when left out.
    #[serde(default)]
    pub expires: Option<Expiry>,
    /// Of its consumer, for `keys: {label: NAME}` on routes; all keys of a consumer have the same.
    #[serde(default, deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<String>")]
    pub labels: Vec<String>,
}

/// `cache`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheStore {
    /// Bytes of memory for stored answers, `1mb` or more; with `disk` a quarter of it is the disk's index and queue.
    pub memory: Size,
    /// Where answers are kept over restarts, beside memory; nowhere when left out.
    pub disk: Option<CacheDisk>,
}

/// `cache.disk`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheDisk {
    /// A folder of this gateway alone.
    pub path: PathBuf,
    /// Bytes that its files may take, in whole blocks of 4 KiB.
    pub size: Size,
}

/// A SHA-256 digest, 64 hex digits in the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Service {
    /// Whether names have to be resolved to know the instances' addresses.
    pub fn has_names(&self) -> bool {
        self.instances.iter().any(|instance| instance.address.parse::<SocketAddr>().is_err())
    }
}

impl Config {
    /// Whether every listener, the admin listener included, is on loopback.
    pub fn is_loopback_only(&self) -> bool {
        let loopback = |address: &SocketAddr| IpAddr::is_loopback(&address.ip());
        self.listen.iter().all(|listener| loopback(&listener.address))
            && self.admin.as_ref().is_none_or(|admin| loopback(&admin.address))
    }
}

/// What the schema says about short forms, so that editors know them.
mod schema_of_short_forms {
    use schemars::Schema;
    use schemars::json_schema;

    use super::short_forms::or_text;

    pub(super) fn listener(schema: &mut Schema) {
        or_text(schema, "IP address and port, e.g. 127.0.0.1:8080");
    }
    pub(super) fn admin(schema: &mut Schema) {
        or_text(schema, "IP address and port, e.g. 127.0.0.1:8081, or `none`");
    }
    pub(super) fn instance(schema: &mut Schema) {
        or_text(schema, "host:port");
    }
    pub(super) fn service(schema: &mut Schema) {
        let long = std::mem::take(schema);
        let whole = long.get("description").cloned();
        let list = long.pointer("/properties/instances").cloned();
        *schema = json_schema!({"anyOf": [list, long]});
        if let Some(whole) = whole {
            schema.insert("description".to_owned(), whole);
        }
    }
}
