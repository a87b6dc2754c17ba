//! Metrics: every series of the gateway, declared once, in a registry of its own.
//! Series about exchanges come from [`Metrics::observe`] and nothing else; the state of the parts (log, cache, limits,
//! instances) is a plain [`State`] that is read at scrape time, so no part imports this file.
//! Labels come from the configuration or from fixed lists, never from what a client sends: cardinality is bounded.

mod cache;
mod capacity;
mod compression;
mod family;
mod state;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, TextEncoder};
use rustc_hash::FxBuildHasher;

pub use cache::{CacheDiskState, CacheState};
pub use capacity::CapacityState;
pub use compression::CompressionState;
pub use state::{BreakerState, InstanceState, KeyStoreState, KeysState, LimitStoreState, LogState, SourceState, State};

use crate::record::{CacheResult, DECIDED_BY_CACHE, DECIDED_BY_UPSTREAM, NO_ENDPOINT, Outcome, Record, RetryReason};

/// OpenTelemetry's buckets of `http.server.request.duration`, with four in front: a gateway's own share is below 5 ms.
const DURATION_BUCKETS_SECONDS: [f64; 18] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// What this binary was built from.
#[derive(Clone, Copy, Debug)]
pub struct BuildFacts {
    /// The package's version.
    pub version: &'static str,
    /// The commit, or `unknown`.
    pub revision: &'static str,
    /// The compiler's version, or `unknown`.
    pub rust: &'static str,
}

/// Exchanges since process start, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Neither blocked nor error.
    pub successful: u64,
    /// Refused by flood guard, auth, access, limit or body size.
    pub blocked: u64,
    /// Status 500 and above.
    pub errors: u64,
    /// The sum of all durations.
    pub response_time: Duration,
}

/// Every series about exchanges.
pub struct Metrics {
    registry: Registry,
    build: BuildFacts,
    started: SystemTime,
    requests: IntCounterVec,
    duration: HistogramVec,
    upstream_duration: HistogramVec,
    request_bytes: IntCounterVec,
    response_bytes: IntCounterVec,
    refusals: IntCounterVec,
    auth: IntCounterVec,
    limits: IntCounterVec,
    cache: IntCounterVec,
    cache_bytes: IntCounterVec,
    attempts: IntCounterVec,
    retries: IntCounterVec,
    retries_over_budget: IntCounterVec,
    rejected: IntCounterVec,
    /// By endpoint, and by service. They grow by what each reload adds, never by what clients send.
    routes: RwLock<FastMap<Arc<str>, RouteSeries>>,
    services: RwLock<FastMap<Arc<str>, ServiceSeries>>,
    totals: AtomicTotals,
}

#[derive(Default)]
struct AtomicTotals {
    successful: AtomicU64,
    blocked: AtomicU64,
    errors: AtomicU64,
    response_time_nanos: AtomicU64,
    /// In the order of [`CacheResult::ALL`]: requests, and bytes of their answers' bodies.
    cache: [(AtomicU64, AtomicU64); 6],
}

/// Keys are ours: nobody outside can choose ones that meet in one place, so a hash without secrets will do.
type FastMap<K, V> = HashMap<K, V, FxBuildHasher>;

/// The series of one route, looked up once per exchange. What not every route has is made when it is first counted.
struct RouteSeries {
    /// By method and code.
    requests: RwLock<FastMap<(&'static str, u16), IntCounter>>,
    /// By reason.
    refusals: RwLock<FastMap<&'static str, IntCounter>>,
    duration: Histogram,
    upstream_duration: OnceLock<Histogram>,
    request_bytes: IntCounter,
    response_bytes: IntCounter,
    auth: [OnceLock<IntCounter>; 8],
    cache: [OnceLock<(IntCounter, IntCounter)>; 6],
}

/// The series of one service.
struct ServiceSeries {
    attempts: IntCounter,
    /// In the order of [`RetryReason::ALL`].
    retries: [IntCounter; 5],
    retries_over_budget: IntCounter,
}

/// What auth found, as far as the exchange came to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AuthResult {
    Accepted,
    Anonymous,
    NoKey,
    UnknownKey,
    AmbiguousKey,
    ExpiredKey,
    KeysUnavailable,
    NotAllowed,
}

impl Metrics {
    /// Declares every series.
    ///
    /// # Errors
    /// A name that Prometheus does not admit, or that is declared twice: a mistake in this file.
    pub fn new(build: BuildFacts) -> Result<Self, String> {
        Self::declare(build).map_err(|error| format!("metrics: {error}"))
    }

    fn declare(build: BuildFacts) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            registered(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let histogram = |name: &str, help: &str| {
            let options = HistogramOpts::new(name, help).buckets(DURATION_BUCKETS_SECONDS.to_vec());
            registered(&registry, HistogramVec::new(options, &["route"])?)
        };
        // The crate tells series apart by a hash over their label values run together. That is unambiguous here because
        // at most one label of a series is free text; of the fixed words none is the end of another.
        Ok(Self {
            build,
            started: SystemTime::now(),
            requests: counter("tollgate_http_requests_total", "Requests answered.", &["route", "method", "code"])?,
            duration: histogram(
                "tollgate_http_request_duration_seconds",
                "From the request's header to the last byte of the answer.",
            )?,
            upstream_duration: histogram(
                "tollgate_upstream_duration_seconds",
                "From the first try at an instance to the header of its answer.",
            )?,
            request_bytes: counter("tollgate_http_request_body_bytes_total", "Bytes of request bodies.", &["route"])?,
            response_bytes: counter(
                "tollgate_http_response_body_bytes_total",
                "Bytes of the answers' bodies.",
                &["route"],
            )?,
            refusals: counter(
                "tollgate_refusals_total",
                "Requests that neither an instance nor the cache answered.",
                &["route", "reason"],
            )?,
            auth: counter("tollgate_auth_results_total", "What key auth found.", &["route", "result"])?,
            limits: counter(
                "tollgate_limit_results_total",
                "Requests over a limit, refused or only observed.",
                &["limit", "result"],
            )?,
            cache: counter(
                "tollgate_cache_results_total",
                "What the cache did, on routes that have one.",
                &["route", "result"],
            )?,
            cache_bytes: counter(
                "tollgate_cache_response_body_bytes_total",
                "Bytes of the answers' bodies by what the cache did, on routes that have one.",
                &["route", "result"],
            )?,
            attempts: counter("tollgate_upstream_attempts_total", "Tries at instances.", &["service"])?,
            retries: counter(
                "tollgate_upstream_retries_total",
                "Tries at instances after the first of their request, by how the one before failed.",
                &["service", "reason"],
            )?,
            retries_over_budget: counter(
                "tollgate_upstream_retries_over_budget_total",
                "Requests that were not tried again because the service's budget left no retry.",
                &["service"],
            )?,
            rejected: counter(
                "tollgate_rejected_total",
                "Connections and requests refused before an exchange began.",
                &["reason"],
            )?,
            routes: RwLock::default(),
            services: RwLock::default(),
            totals: AtomicTotals::default(),
            registry,
        })
    }

    /// Counts a finished exchange.
    pub fn observe(&self, record: &Record) {
        let endpoint = &record.endpoint;
        with(&self.routes, endpoint, || self.make_route(endpoint), |series| self.observe_route(series, record));
        for (limit, result) in [(&record.limit_name, "refused"), (&record.observed, "observed")] {
            if let Some(limit) = limit {
                self.limits.with_label_values(&[limit.as_ref(), result]).inc();
            }
        }
        if let (Some(service), 1..) = (&record.service, record.attempts) {
            with(
                &self.services,
                service,
                || self.make_service(service),
                |series| {
                    series.attempts.inc_by(u64::from(record.attempts));
                    if record.attempts > 1 {
                        for (counter, count) in series.retries.iter().zip(record.retries.by_reason) {
                            add(counter, u64::from(count));
                        }
                    }
                    add(&series.retries_over_budget, u64::from(record.retries.over_budget));
                },
            );
        }
        self.totals.add(record);
    }

    fn observe_route(&self, series: &RouteSeries, record: &Record) {
        let route = record.endpoint.as_ref();
        series.duration.observe(record.duration.as_secs_f64());
        add(&series.request_bytes, record.bytes_in);
        add(&series.response_bytes, record.bytes_out);
        let (method, status) = (record.method_label(), record.status);
        let requests = || self.requests.with_label_values(&[route, method, digits(&code_digits(status))]);
        with(&series.requests, &(method, status), requests, IntCounter::inc);
        if let Some(time) = record.upstream_time {
            let histogram = series.upstream_duration.get_or_init(|| self.upstream_duration.with_label_values(&[route]));
            histogram.observe(time.as_secs_f64());
        }
        if let Some(result) = auth_result(record) {
            series.auth[result as usize].get_or_init(|| self.auth.with_label_values(&[route, result.as_str()])).inc();
        }
        if let Some(result) = record.cache {
            let (requests, bytes) = series.cache[result as usize].get_or_init(|| {
                let labels = [route, result.as_str()];
                (self.cache.with_label_values(&labels), self.cache_bytes.with_label_values(&labels))
            });
            requests.inc();
            add(bytes, record.bytes_out);
        }
        let reason = record.decided_by;
        if reason != DECIDED_BY_UPSTREAM && reason != DECIDED_BY_CACHE {
            let refusals = || self.refusals.with_label_values(&[route, reason]);
            with(&series.refusals, &reason, refusals, IntCounter::inc);
        }
    }

    /// Counts what was refused before an exchange began: `malformed`, `tls`, `connections_full` and the like.
    pub fn rejected(&self, reason: &'static str) {
        self.rejected.with_label_values(&[reason]).inc();
    }

    /// Exchanges since process start, by outcome.
    pub fn totals(&self) -> Totals {
        Totals {
            successful: self.totals.successful.load(Ordering::Relaxed),
            blocked: self.totals.blocked.load(Ordering::Relaxed),
            errors: self.totals.errors.load(Ordering::Relaxed),
            response_time: Duration::from_nanos(self.totals.response_time_nanos.load(Ordering::Relaxed)),
        }
    }

    /// What the cache did since process start, on all routes: the word, requests, and bytes of their answers' bodies.
    pub fn cache_totals(&self) -> [(CacheResult, u64, u64); 6] {
        CacheResult::ALL.map(|result| {
            let (requests, bytes) = &self.totals.cache[result as usize];
            (result, requests.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
        })
    }

    /// When these metrics began to count: the start of the process.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// Every series in Prometheus' text format, those of `state` included.
    pub fn encode(&self, state: &State) -> String {
        let mut families = self.registry.gather();
        families.extend(state::families(self.build, self.started, state));
        TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
            log::error!("metrics can't be encoded: {error}");
            String::new()
        })
    }

    fn make_route(&self, endpoint: &str) -> RouteSeries {
        let labels = [endpoint];
        RouteSeries {
            requests: RwLock::default(),
            refusals: RwLock::default(),
            duration: self.duration.with_label_values(&labels),
            upstream_duration: OnceLock::new(),
            request_bytes: self.request_bytes.with_label_values(&labels),
            response_bytes: self.response_bytes.with_label_values(&labels),
            auth: Default::default(),
            cache: Default::default(),
        }
    }

    fn make_service(&self, service: &str) -> ServiceSeries {
        ServiceSeries {
            attempts: self.attempts.with_label_values(&[service]),
            retries: RetryReason::ALL.map(|reason| self.retries.with_label_values(&[service, reason.as_str()])),
            retries_over_budget: self.retries_over_budget.with_label_values(&[service]),
        }
    }
}

/// Uses what is kept under `key`, which is made once.
fn with<K: Clone + Eq + Hash, V>(
    known: &RwLock<FastMap<K, V>>,
    key: &K,
    make: impl FnOnce() -> V,
    using: impl FnOnce(&V),
) {
    if let Some(value) = known.read().get(key) {
        return using(value);
    }
    using(known.write().entry(key.clone()).or_insert_with(make));
}

/// Nothing to add is the usual case, and costs as much as something.
fn add(counter: &IntCounter, count: u64) {
    if count > 0 {
        counter.inc_by(count);
    }
}

impl AtomicTotals {
    fn add(&self, record: &Record) {
        let count = match record.outcome() {
            Outcome::Successful => &self.successful,
            Outcome::Blocked => &self.blocked,
            Outcome::Error => &self.errors,
        };
        count.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(record.duration.as_nanos()).unwrap_or(u64::MAX);
        self.response_time_nanos.fetch_add(nanos, Ordering::Relaxed);
        if let Some(result) = record.cache {
            let (requests, bytes) = &self.cache[result as usize];
            requests.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(record.bytes_out, Ordering::Relaxed);
        }
    }
}

impl AuthResult {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Anonymous => "anonymous",
            Self::NoKey => "no_key",
            Self::UnknownKey => "unknown_key",
            Self::AmbiguousKey => "ambiguous_key",
            Self::ExpiredKey => "expired_key",
            Self::KeysUnavailable => "keys_unavailable",
            Self::NotAllowed => "not_allowed",
        }
    }
}

/// What auth found; none where the exchange ended before auth.
fn auth_result(record: &Record) -> Option<AuthResult> {
    match record.decided_by {
        "no_key" => Some(AuthResult::NoKey),
        "unknown_key" => Some(AuthResult::UnknownKey),
        "ambiguous_key" => Some(AuthResult::AmbiguousKey),
        "expired_key" => Some(AuthResult::ExpiredKey),
        "keys_unavailable" => Some(AuthResult::KeysUnavailable),
        "not_allowed" => Some(AuthResult::NotAllowed),
        "flood_guard" | "method_not_allowed" | "bad_host" | "bad_path" | "redirect_https" | "cors"
        | "client_not_allowed" => None,
        _ if record.key.is_some() => Some(AuthResult::Accepted),
        _ if record.endpoint.as_ref() == NO_ENDPOINT => None,
        _ => Some(AuthResult::Anonymous),
    }
}

/// Three digits without an allocation.
fn code_digits(status: u16) -> [u8; 3] {
    [status / 100 % 10, status / 10 % 10, status % 10].map(|digit| b"0123456789"[usize::from(digit)])
}

fn digits(code: &[u8; 3]) -> &str {
    str::from_utf8(code).unwrap_or("000")
}

fn registered<T: Collector + Clone + 'static>(registry: &Registry, series: T) -> prometheus::Result<T> {
    registry.register(Box::new(series.clone()))?;
    Ok(series)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::IpAddr;
    use std::process::{Command, Stdio};
    use std::time::UNIX_EPOCH;

    use uuid::Uuid;

    use http::Method;

    use super::*;
    use crate::record::Retries;

    fn metrics() -> Metrics {
        Metrics::new(BuildFacts { version: "0.1.0", revision: "abc", rust: "1.95.0" }).unwrap()
    }

    fn record() -> Record {
        Record {
            started: SystemTime::now(),
            duration: Duration::from_millis(3),
            endpoint: "/api/users/*".into(),
            method: Method::GET,
            status: 200,
            request_id: Uuid::nil(),
            client_request_id: None,
            host: None,
            path: "/api/users/1".into(),
            protocol: "HTTP/1.1",
            consumer: Some("acme".into()),
            key: Some("acme-2026".into()),
            client_ip: IpAddr::from([127, 0, 0, 1]),
            service: Some("users".into()),
            instance: Some("127.0.0.1:9101".into()),
            attempts: 1,
            retries: Default::default(),
            upstream_time: Some(Duration::from_millis(2)),
            timeout: None,
            cache: None,
            decided_by: DECIDED_BY_UPSTREAM,
            blocked: false,
            limit_name: None,
            observed: None,
            bytes_in: 10,
            bytes_out: 100,
            user_agent: None,
            generation: 1,
        }
    }

    fn refused(status: u16, reason: &'static str, blocked: bool) -> Record {
        let upstream =
            Record { service: None, instance: None, attempts: 0, upstream_time: None, key: None, ..record() };
        Record { status, decided_by: reason, blocked, ..upstream }
    }

    fn state() -> State {
        State {
            keys: KeysState {
                in_force: 4,
                store: Some(KeyStoreState { up: true, age: Duration::from_millis(1_500), keys: 3 }),
            },
            requests_in_flight: 2,
            connections_open: 3,
            instances: vec![
                InstanceState {
                    service: "users".into(),
                    instance: "127.0.0.1:9101".into(),
                    up: true,
                    in_flight: 2,
                    changes: [("up", 0), ("down", 0), ("ejected", 0), ("draining", 0)],
                    connections: [("new", 1), ("reused", 8)],
                },
                InstanceState {
                    service: "users".into(),
                    instance: "127.0.0.1:9102".into(),
                    up: false,
                    in_flight: 0,
                    changes: [("up", 1), ("down", 2), ("ejected", 0), ("draining", 0)],
                    connections: [("new", 0), ("reused", 0)],
                },
            ],
            sources: vec![SourceState {
                service: "users".into(),
                source: "dns users.internal:80".into(),
                up: false,
                instances: 2,
            }],
            breakers: vec![BreakerState {
                service: "users".into(),
                instance: "(all)".into(),
                state: 2,
                transitions: [("open", 3), ("half_open", 2), ("closed", 1)],
            }],
            capacities: vec![CapacityState {
                service: "users".into(),
                inside: 3,
                waiting: 2,
                refused: 1,
                waited: 4,
                wait_time: Duration::from_millis(500),
            }],
            log: LogState {
                accepted: 9,
                written: 5,
                queued: (3, 900),
                dropped: vec![("queue_full", 1), ("rejected", 0)],
                batches: (2, Duration::from_millis(30)),
                ..LogState::default()
            },
            generation: 4,
            reloaded: Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
            reloads_succeeded: 3,
            reloads_failed: 1,
            cache: cache_state(),
            compression: CompressionState { now: 1, answers: 2, bytes: (3_000, 400), left: 5 },
            limit_entries: 8,
            limit_overflow: 0,
            limit_store: Some(limit_store()),
            limits_saved_age: None,
            limits_saved_rows: 0,
            limits_save_failures: 0,
        }
    }

    fn cache_state() -> CacheState {
        let disk = CacheDiskState { hits: 12, bytes: (4096, 8192), ..CacheDiskState::default() };
        CacheState { entries: 7, bytes: (70, 100), evictions: 1, disk: Some(disk), ..CacheState::default() }
    }

    fn limit_store() -> LimitStoreState {
        LimitStoreState {
            up: true,
            gateways: 3,
            buckets: vec![(0.001, 4), (0.01, 5)],
            decided: (6, 0.25),
            fallback: vec![("fallback_local", 1)],
            errors: vec![("timeout", 2)],
            opened: 1,
        }
    }

    /// Fills every series there is.
    fn filled() -> Metrics {
        let metrics = metrics();
        metrics.observe(&record());
        let retries = Retries { by_reason: [0, 0, 1, 0, 0], over_budget: true };
        metrics.observe(&Record { attempts: 2, retries, status: 502, decided_by: "upstream_connect", ..record() });
        metrics.observe(&Record { cache: Some(CacheResult::Hit), decided_by: DECIDED_BY_CACHE, ..record() });
        metrics.observe(&Record { limit_name: Some("users".into()), ..refused(429, "rate_limited", true) });
        metrics.observe(&Record { observed: Some("soft \"limit\"\\".into()), ..record() });
        metrics.rejected("malformed");
        metrics
    }

    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|found| found == line), "no line `{line}` in\n{text}");
    }

    #[test]
    fn promtool_finds_nothing_wrong() {
        let text = filled().encode(&state());
        let started = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut promtool = started.expect("promtool is missing: apt-get install prometheus");
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.trim().is_empty(), "promtool: {said}\n{text}");
    }

    #[test]
    fn the_filled_text_holds_every_series_that_is_declared() {
        let metrics = filled();
        let text = metrics.encode(&state());
        let declared: Vec<String> = [
            &metrics.requests,
            &metrics.request_bytes,
            &metrics.response_bytes,
            &metrics.refusals,
            &metrics.auth,
            &metrics.limits,
            &metrics.cache,
            &metrics.attempts,
            &metrics.retries,
            &metrics.rejected,
        ]
        .iter()
        .flat_map(|series| series.desc())
        .chain(metrics.duration.desc())
        .chain(metrics.upstream_duration.desc())
        .map(|desc| desc.fq_name.clone())
        .collect();
        for name in declared {
            assert!(text.contains(&format!("# HELP {name} ")), "{name} is not filled");
        }
    }

    #[test]
    fn exchanges_are_counted_where_they_belong() {
        let text = filled().encode(&state());
        has(&text, r#"tollgate_http_requests_total{code="200",method="GET",route="/api/users/*"} 3"#);
        has(&text, r#"tollgate_http_requests_total{code="429",method="GET",route="/api/users/*"} 1"#);
        has(&text, r#"tollgate_refusals_total{reason="rate_limited",route="/api/users/*"} 1"#);
        has(&text, r#"tollgate_refusals_total{reason="upstream_connect",route="/api/users/*"} 1"#);
        has(&text, r#"tollgate_limit_results_total{limit="users",result="refused"} 1"#);
        has(&text, r#"tollgate_cache_results_total{result="hit",route="/api/users/*"} 1"#);
        has(&text, r#"tollgate_upstream_attempts_total{service="users"} 5"#);
        has(&text, r#"tollgate_upstream_retries_total{reason="timeout",service="users"} 1"#);
        has(&text, r#"tollgate_upstream_retries_over_budget_total{service="users"} 1"#);
        has(&text, r#"tollgate_http_request_duration_seconds_bucket{route="/api/users/*",le="0.0025"} 0"#);
        has(&text, r#"tollgate_http_request_duration_seconds_bucket{route="/api/users/*",le="0.005"} 5"#);
        has(&text, r#"tollgate_http_response_body_bytes_total{route="/api/users/*"} 500"#);
        has(&text, r#"tollgate_rejected_total{reason="malformed"} 1"#);
    }

    #[test]
    fn the_state_of_the_parts_is_in_the_text() {
        let text = metrics().encode(&state());
        has(&text, r#"tollgate_upstream_up{service="users",instance="127.0.0.1:9102"} 0"#);
        has(&text, r#"tollgate_service_queue_length{service="users"} 2"#);
        has(&text, r#"tollgate_service_queue_seconds_total{service="users"} 0.5"#);
        has(&text, r#"tollgate_breaker_state{service="users",instance="(all)"} 2"#);
        has(&text, r#"tollgate_breaker_transitions_total{service="users",instance="(all)",to="half_open"} 2"#);
        has(&text, r#"tollgate_build_info{version="0.1.0",revision="abc",rust="1.95.0"} 1"#);
        has(&text, r#"tollgate_log_records_dropped_total{reason="queue_full"} 1"#);
        has(&text, "tollgate_cache_disk_hits_total 12");
        has(&text, "tollgate_cache_disk_bytes_max 8192");
        has(&text, "tollgate_log_queued_records 3");
        has(&text, "tollgate_config_generation 4");
        has(&text, "tollgate_config_last_reload_success_timestamp_seconds 1700000000");
        has(&text, r#"tollgate_log_records_total{state="written"} 5"#);
        has(&text, "tollgate_log_unaccounted_records 0");
        has(&text, "tollgate_log_batch_duration_seconds_sum 0.03");
        has(&text, "tollgate_log_batch_duration_seconds_count 2");
    }

    #[test]
    fn the_process_tells_about_itself() {
        let text = metrics().encode(&State::default());
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_start_time_seconds",
        ] {
            let line =
                text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("no {name}"));
            assert!(line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() >= 0.0, "{line}");
        }
    }

    #[test]
    fn a_method_that_a_client_made_up_is_other() {
        let metrics = metrics();
        metrics.observe(&Record { method: Method::from_bytes(b"BREW").unwrap(), ..record() });
        metrics.observe(&Record { method: Method::from_bytes(b"get").unwrap(), ..record() });
        has(
            &metrics.encode(&State::default()),
            r#"tollgate_http_requests_total{code="200",method="OTHER",route="/api/users/*"} 2"#,
        );
    }

    #[test]
    fn no_method_is_the_end_of_another() {
        let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "OTHER"];
        for (a, b) in methods.iter().flat_map(|a| methods.iter().map(move |b| (a, b))).filter(|(a, b)| a != b) {
            assert!(!a.ends_with(b), "{b} is the end of {a}");
        }
    }

    #[test]
    fn summaries_divide_all_exchanges_into_three() {
        let metrics = metrics();
        metrics.observe(&record());
        metrics.observe(&Record { status: 404, ..record() });
        metrics.observe(&refused(401, "no_key", true));
        metrics.observe(&refused(502, "upstream_connect", false));
        metrics.observe(&Record { status: 500, ..record() });
        let expected = Totals { successful: 2, blocked: 1, errors: 2, response_time: Duration::from_millis(15) };
        assert_eq!(metrics.totals(), expected);
    }

    #[test]
    fn auth_counts_what_came_to_auth() {
        let none = Record { endpoint: NO_ENDPOINT.into(), ..refused(404, "no_route", false) };
        for (record, expected) in [
            (record(), Some(AuthResult::Accepted)),
            (Record { key: None, ..record() }, Some(AuthResult::Anonymous)),
            (refused(401, "no_key", true), Some(AuthResult::NoKey)),
            (refused(401, "unknown_key", true), Some(AuthResult::UnknownKey)),
            (Record { decided_by: "not_allowed", ..record() }, Some(AuthResult::NotAllowed)),
            (Record { decided_by: "expired_key", ..record() }, Some(AuthResult::ExpiredKey)),
            (refused(403, "client_not_allowed", true), None),
            (Record { key: Some("a".into()), ..refused(429, "rate_limited", true) }, Some(AuthResult::Accepted)),
            (refused(429, "flood_guard", true), None),
            (refused(405, "method_not_allowed", false), None),
            (none, None),
        ] {
            assert_eq!(auth_result(&record), expected, "{}", record.decided_by);
        }
    }

    #[test]
    fn codes_have_three_digits() {
        for (status, expected) in [(200, "200"), (499, "499"), (99, "099"), (999, "999")] {
            assert_eq!(digits(&code_digits(status)), expected);
        }
    }
}
