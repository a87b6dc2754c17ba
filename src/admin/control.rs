//! Control: what the admin API may ask the running gateway, as a trait and plain data.
//! It is implemented where everything is wired together, so the admin API imports no part of the gateway.
//! Field names are the names in the JSON: they are stable, so they grow and are never renamed.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::cached::{CacheStatus, CachedUrl};
use crate::config::{Config, Retention, StoreUrl};
use crate::request_log::{Counts, Following, Wanted};
use crate::store::Kept;

/// What the admin API may ask the gateway. None of it may wait for a client or for a store, except `reload`; where limits are
/// shared, a question about them waits for their store, each time as long as a request does.
pub trait Control: Send + Sync + 'static {
    /// Whether requests should be sent here now.
    fn readiness(&self) -> Readiness;

    /// What is degraded now, one sentence each; empty when nothing is.
    fn degraded(&self) -> Vec<String>;

    /// Every service with its instances.
    fn services(&self) -> Vec<ServiceStatus>;

    /// Exchanges since process start.
    fn summary(&self) -> Summary;

    /// Compiles the configuration file and makes it live; returns the new generation.
    ///
    /// # Errors
    /// Every problem, one line each; the old configuration serves on.
    fn reload(&self) -> impl Future<Output = Result<u32, Vec<String>>> + Send;

    /// The cache as a whole, with so many of the largest and of the hottest answers. Takes as long as looking at all of them.
    fn cache(&self, top: usize) -> CacheStatus;

    /// What is stored of a URL.
    ///
    /// # Errors
    /// Why it is no URL.
    fn cached(&self, url: &str) -> Result<CachedUrl, String>;

    /// Removes answers from the cache, or makes them stale; returns how many. Takes as long as looking at all of them.
    ///
    /// # Errors
    /// Why the scope names nothing, such as a route that is not configured.
    fn purge_cache(&self, scope: &CacheScope, soft: bool) -> Result<u64, String>;

    /// Who is near or over a limit now; of limits that gateways share, those who came near through this one lately.
    fn rate_limits(&self) -> impl Future<Output = Vec<LimitEntry>> + Send;

    /// Every limit with what it decided.
    fn limit_totals(&self) -> Vec<LimitTotals>;

    /// Where a client, an address or the name of a key, stands with each limit that counts it by itself; none for a key that is not configured.
    fn client(&self, client: &ClientName) -> impl Future<Output = Option<Vec<ClientLimit>>> + Send;

    /// Forgets what a client has used of these limits; of how many, none for a key that is not configured.
    ///
    /// # Errors
    /// Why those that gateways share were not reset.
    fn reset_client(&self, client: &ClientName) -> impl Future<Output = Result<Option<usize>, String>> + Send;

    /// Where the request log stands, at one moment.
    fn log(&self) -> LogStatus;

    /// Shows records as they come; none when too many follow already.
    fn follow(&self, wanted: Wanted) -> Option<Following>;

    /// Every series in Prometheus' text format.
    fn metrics(&self) -> String;

    /// Where the request log is, to be read.
    fn log_store(&self) -> StoreUrl;

    /// The configuration in force.
    fn config(&self) -> Arc<Config>;

    /// The key store was changed through this gateway, which need not wait to know it.
    fn keys_changed(&self);
}

/// The request log: what became of every record.
#[derive(Clone, Debug, Serialize)]
pub struct LogStatus {
    /// Where records are stored, without a password.
    pub store: String,
    /// See [`Counts`].
    #[serde(flatten)]
    pub counts: Counts,
    /// Accepted and recovered, less everything that is known of them; always 0.
    pub unaccounted: i64,
    /// How long what is kept.
    pub retention: RetentionStatus,
}

/// What the store keeps and kept. Seen by the writer about once a minute, so that asking costs the store nothing; times are
/// RFC 3339, UTC.
#[derive(Clone, Debug, Serialize)]
pub struct RetentionStatus {
    /// `log.retention`, as it is in force.
    pub limits: Retention,
    /// When the rest was seen; null before the first time, and without a store.
    pub seen: Option<String>,
    /// Bytes of the whole log.
    pub bytes: Option<u64>,
    /// The time of the oldest request.
    pub oldest_request: Option<String>,
    /// What was removed, also before this process began.
    pub removed: Vec<RemovedStatus>,
}

/// What retention has removed.
#[derive(Clone, Debug, Serialize)]
pub struct RemovedStatus {
    /// `requests`, `minutes` or `hours`.
    pub what: String,
    /// Everything before that.
    pub before: String,
    /// Which of the limits did it.
    pub limit: String,
    /// When that was done last.
    pub at: String,
}

impl RetentionStatus {
    /// From what the writer saw.
    pub fn of(limits: Retention, kept: Option<&Kept>) -> Self {
        let utc = |text: &String| text.replacen(' ', "T", 1) + "Z";
        let removed = kept.iter().flat_map(|kept| &kept.removed).map(|removed| RemovedStatus {
            what: removed.what.clone(),
            before: utc(&removed.before),
            limit: removed.limit.clone(),
            at: utc(&removed.at),
        });
        Self {
            limits,
            seen: kept.and_then(|kept| Some(jiff::Timestamp::try_from(kept.seen).ok()?.to_string())),
            bytes: kept.map(|kept| kept.bytes),
            oldest_request: kept.and_then(|kept| kept.oldest.as_ref()).map(utc),
            removed: removed.collect(),
        }
    }
}

/// Whether requests should be sent here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// The configuration is live, every listener accepts, and the process is not draining.
    pub ready: bool,
    /// Why, in one sentence.
    pub why: String,
}

/// A service and whether it can answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceStatus {
    /// The service's name.
    pub name: String,
    /// Whether at least one instance can be used.
    pub usable: bool,
    /// The breaker of the service as a whole, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerStatus>,
    /// Its instances, backups last, otherwise in the order of addresses.
    pub instances: Vec<InstanceStatus>,
}

/// An instance of a service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InstanceStatus {
    /// As the configuration names it.
    pub address: String,
    /// Whether it gets requests.
    pub state: InstanceState,
    /// Why, in one sentence.
    pub why: String,
    /// Since when.
    pub since: String,
    /// The part of its share that it gets; less than 1 in a slow start.
    pub share: f64,
    /// Its share among the instances.
    pub weight: u32,
    /// Whether it gets requests only while no other instance can.
    pub backup: bool,
    /// Requests whose answer from it is not complete.
    pub in_flight: u64,
    /// Tries since it was configured.
    pub requests: u64,
    /// Tries that got no answer.
    pub failures: u64,
    /// The part of the last 64 tries that ended in an answer below 500; none before the first.
    pub success_rate: Option<f64>,
    /// The mean time until the header of the last answers, in milliseconds; none before the first.
    pub latency_ms: Option<f64>,
    /// The last health check; none before the first.
    pub last_check: Option<LastCheck>,
    /// Its breaker, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerStatus>,
}

/// Where a breaker is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BreakerStatus {
    /// `closed`, `open` or `half_open`.
    pub state: &'static str,
    /// For how long it has been there.
    pub for_seconds: u64,
    /// Why it opened; null while it is closed.
    pub why: Option<String>,
    /// Until a request may try again; null unless it is open.
    pub retry_in_seconds: Option<u64>,
    /// Failures since the last success, while it is closed.
    pub failures_in_a_row: u32,
    /// How often it opened.
    pub opened: u64,
    /// How often it let requests try again.
    pub half_opened: u64,
    /// How often it closed again.
    pub closed: u64,
}

/// A health check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LastCheck {
    /// When it ended.
    pub at: String,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
    /// Why it failed; none where it succeeded.
    pub problem: Option<String>,
}

/// Whether an instance gets requests, and what keeps it from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Healthy.
    Up,
    /// Unhealthy: no request is sent to it.
    Down,
    /// New: no request is sent to it before its first successful health check, unless there is no other.
    Unproven,
    /// Requests failed: none is sent to it for a while.
    Ejected,
    /// The service has no health check.
    Unchecked,
}

/// Exchanges since process start, by outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Neither blocked nor error.
    pub successful: u64,
    /// Refused by flood guard, auth, access, limit or body size.
    pub blocked: u64,
    /// Status 500 and above.
    pub errors: u64,
    /// The sum of all durations.
    pub response_time: Duration,
    /// When counting began.
    pub since: SystemTime,
}

/// Which answers are purged from the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheScope {
    /// All of them.
    All,
    /// Those of a route, by its endpoint label.
    Route(String),
    /// Those of one URL, `http://HOST[:PORT]/PATH[?QUERY]`, whatever its scheme.
    Url(String),
    /// Those of a host whose paths begin so, `http://HOST[:PORT]/PATH`, whatever their query.
    Prefix(String),
    /// Those that an instance gave this tag.
    Tag(String),
    /// Those that were stored for this consumer alone.
    Consumer(String),
}

/// Of whom a question is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientName {
    /// An address.
    Ip(IpAddr),
    /// The name of a key.
    Key(String),
}

/// What a limit decided since it was configured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LimitTotals {
    /// The limit's name.
    pub limit: String,
    /// The route it counts for; none where it counts for several.
    pub route: Option<String>,
    /// The plan it counts for.
    pub plan: Option<String>,
    /// Requests that are admitted at once at most.
    pub capacity: u64,
    /// Whether it refuses, or only observes.
    pub enforced: bool,
    /// Requests that it counted.
    pub admitted: u64,
    /// Requests that it refused, or would have refused.
    pub refused: u64,
    /// Whom it counts, how many.
    pub clients: usize,
}

/// Someone who is near or over a limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LimitEntry {
    /// The limit's name.
    pub limit: String,
    /// The route it counts for; none where it counts for several.
    pub route: Option<String>,
    /// Who is counted: an address, a consumer, the name of a key.
    pub who: String,
    /// Requests that would be admitted now.
    pub tokens_remaining: f64,
    /// Requests that are admitted at once at most.
    pub capacity: u64,
    /// Whether the next request would be over the limit.
    pub over: bool,
    /// Until the next request would be admitted, in seconds; 0 when it would be now.
    pub retry_after_seconds: u64,
}

/// Where one client stands with one limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClientLimit {
    /// The limit's name.
    pub limit: String,
    /// The route it counts for; none where it counts for several.
    pub route: Option<String>,
    /// Requests that would be admitted now.
    pub tokens_remaining: f64,
    /// Requests that are admitted at once at most.
    pub capacity: u64,
    /// Requests that come back per second.
    pub refill_rate: f64,
    /// The plan it counts for.
    pub plan: Option<String>,
    /// Whether the next request would be over the limit.
    pub over: bool,
    /// Until more would be admitted, in seconds; 0 when nothing is used.
    pub resets_in: u64,
}
