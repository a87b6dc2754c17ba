//! The series that are no exchanges': the state of the parts and of the process, read at scrape time.
//! The parts hand over plain numbers; here they get names. What is counted with every exchange is in `metrics.rs`.
//! Counts that a part keeps are counters here, so they must never fall while the process lives.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::proto::{MetricFamily, MetricType};

use super::family::{counter, family, gauge, histogram, sample, summary};
use super::{BuildFacts, CacheState, CapacityState, CompressionState, cache, capacity, compression};

/// What the parts know about themselves at scrape time. Counts are since process start and never fall.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Requests whose answer is not complete.
    pub requests_in_flight: u64,
    /// Open client connections.
    pub connections_open: u64,
    /// Every instance of every service.
    pub instances: Vec<InstanceState>,
    /// Every breaker.
    pub breakers: Vec<BreakerState>,
    /// Every service that bears only so many requests at once.
    pub capacities: Vec<CapacityState>,
    /// Where services find instances.
    pub sources: Vec<SourceState>,
    /// The request log.
    pub log: LogState,
    /// The generation of the live configuration.
    pub generation: u32,
    /// When the live configuration went live; the start counts.
    pub reloaded: Option<SystemTime>,
    /// Reloads that went live.
    pub reloads_succeeded: u64,
    /// Reloads that were refused because of problems.
    pub reloads_failed: u64,
    /// The store of the cache.
    pub cache: CacheState,
    /// Answers that are compressed.
    pub compression: CompressionState,
    /// Keys.
    pub keys: KeysState,
    /// Counts that limits hold.
    pub limit_entries: u64,
    /// Requests that met a full table of limits.
    pub limit_overflow: u64,
    /// Since when counts of limits are not in the store; none where nothing is saved.
    pub limits_saved_age: Option<Duration>,
    /// Counts of limits that were written to the store.
    pub limits_saved_rows: u64,
    /// Times that they could not be written, or read at start.
    pub limits_save_failures: u64,
    /// The store of shared limits, where there is one.
    pub limit_store: Option<LimitStoreState>,
}

/// The store of limits that several gateways share.
#[derive(Clone, Debug, Default)]
pub struct LimitStoreState {
    /// Whether it is asked.
    pub up: bool,
    /// Gateways that it has seen within the last minute.
    pub gateways: u64,
    /// Upper bound in seconds, and decisions that took at most so long.
    pub buckets: Vec<(f64, u64)>,
    /// Decisions by the store, and their seconds.
    pub decided: (u64, f64),
    /// Requests that were decided without it, by how.
    pub fallback: Vec<(&'static str, u64)>,
    /// Failures by kind.
    pub errors: Vec<(&'static str, u64)>,
    /// How often the breaker opened.
    pub opened: u64,
}

/// Keys, and the store of some of them.
#[derive(Clone, Debug, Default)]
pub struct KeysState {
    /// Keys that are looked up, those that expired included.
    pub in_force: u64,
    /// The key store; none where there is none.
    pub store: Option<KeyStoreState>,
}

/// Where the key store stands.
#[derive(Clone, Debug, Default)]
pub struct KeyStoreState {
    /// Whether the last question was answered.
    pub up: bool,
    /// How old the keys in force are; before the first reading, how long the process has waited for it.
    pub age: Duration,
    /// Keys in it, revoked ones included.
    pub keys: u64,
}

/// One instance of a service.
#[derive(Clone, Debug)]
pub struct InstanceState {
    /// The service's name.
    pub service: Arc<str>,
    /// The instance's address as the configuration names it.
    pub instance: Arc<str>,
    /// Whether requests are sent to it.
    pub up: bool,
    /// Tries at it that have not ended.
    pub in_flight: u64,
    /// How often its state became which.
    pub changes: [(&'static str, u64); 4],
    /// Tries by where their connection came from.
    pub connections: [(&'static str, u64); 2],
}

/// Where a service finds instances.
#[derive(Clone, Debug)]
pub struct SourceState {
    /// The service's name.
    pub service: Arc<str>,
    /// Which source, as the configuration has it.
    pub source: String,
    /// Whether it gave its list when it was asked last.
    pub up: bool,
    /// Instances of its last good list.
    pub instances: usize,
}

/// The breaker of an instance, or of a service as a whole.
#[derive(Clone, Debug)]
pub struct BreakerState {
    /// The service's name.
    pub service: Arc<str>,
    /// The instance's address, or `(all)`.
    pub instance: Arc<str>,
    /// 0 closed, 1 half open, 2 open.
    pub state: u8,
    /// How often it came into each state.
    pub transitions: [(&'static str, u64); 3],
}

/// The request log's counts.
#[derive(Clone, Debug, Default)]
pub struct LogState {
    /// Records offered by exchanges.
    pub accepted: u64,
    /// Records of earlier runs, found in the spool at start.
    pub recovered: u64,
    /// Records in the store.
    pub written: u64,
    /// Records lost, by reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// Requests whose record was lost at the queue, and which the usage does not count either.
    pub usage_dropped: u64,
    /// Records that wait in memory, the batch in hand included, and their bytes.
    pub queued: (u64, u64),
    /// Records that wait on disk, and their bytes.
    pub spooled: (u64, u64),
    /// Accepted and recovered, less everything that is known of them.
    pub unaccounted: i64,
    /// How long the oldest record waits that is not in the store.
    pub oldest_unwritten: Duration,
    /// Batches that are in the store, and how long they took.
    pub batches: (u64, Duration),
    /// Tries at the store that failed.
    pub store_errors: u64,
    /// Whether the last try succeeded.
    pub store_up: bool,
}

/// Everything that is read at scrape time; families without series are left out.
pub(super) fn families(build: BuildFacts, started: SystemTime, state: &State) -> Vec<MetricFamily> {
    let mut families = part_families(build, state);
    families.extend(breaker_families(&state.breakers));
    families.extend(capacity::families(&state.capacities));
    families.extend(source_families(&state.sources));
    families.extend(state.limit_store.iter().flat_map(limit_store_families));
    families.extend(log_families(&state.log));
    families.extend(process_families(started));
    // The encoder takes a family without series for an error.
    families.retain(|family| !family.get_metric().is_empty());
    families
}

fn part_families(build: BuildFacts, state: &State) -> Vec<MetricFamily> {
    let facts = [("version", build.version), ("revision", build.revision), ("rust", build.rust)];
    let reloads = [("success", state.reloads_succeeded), ("failure", state.reloads_failed)]
        .map(|(result, count)| sample(MetricType::COUNTER, &[("result", result)], count as f64));
    let mut families = key_families(&state.keys);
    families.extend([
        family(
            MetricType::GAUGE,
            "tollgate_build_info",
            "What this binary was built from.",
            vec![sample(MetricType::GAUGE, &facts, 1.0)],
        ),
        family(
            MetricType::COUNTER,
            "tollgate_config_reloads_total",
            "Reloads that went live or were refused.",
            reloads.to_vec(),
        ),
        gauge("tollgate_config_generation", "The generation of the live configuration.", f64::from(state.generation)),
        gauge(
            "tollgate_http_requests_in_flight",
            "Requests whose answer is not complete.",
            state.requests_in_flight as f64,
        ),
        gauge("tollgate_connections_open", "Open client connections.", state.connections_open as f64),
    ]);
    families.extend(cache::families(&state.cache));
    families.extend(state.cache.disk.iter().flat_map(cache::disk_families));
    families.extend(compression::families(&state.compression));
    families.extend(instance_families(&state.instances));
    families.extend(limit_families(state));
    if let Some(reloaded) = state.reloaded {
        let help = "When the live configuration went live.";
        families.push(gauge("tollgate_config_last_reload_success_timestamp_seconds", help, unix_seconds(reloaded)));
    }
    families
}

fn instance_families(instances: &[InstanceState]) -> [MetricFamily; 4] {
    let gauge = |name, help, value: fn(&InstanceState) -> f64| {
        let samples = instances.iter().map(|entry| {
            let labels = [("service", entry.service.as_ref()), ("instance", entry.instance.as_ref())];
            sample(MetricType::GAUGE, &labels, value(entry))
        });
        family(MetricType::GAUGE, name, help, samples.collect())
    };
    let counter = |name, help, label, counts: fn(&InstanceState) -> &[(&'static str, u64)]| {
        let samples = instances.iter().flat_map(|entry| {
            counts(entry).iter().map(|(value, times)| {
                let labels = [("service", &*entry.service), ("instance", &*entry.instance), (label, *value)];
                sample(MetricType::COUNTER, &labels, *times as f64)
            })
        });
        family(MetricType::COUNTER, name, help, samples.collect())
    };
    [
        gauge("tollgate_upstream_up", "Whether requests are sent to the instance.", |entry| u8::from(entry.up).into()),
        gauge(
            "tollgate_upstream_requests_in_flight",
            "Requests at the instance whose answer is not complete.",
            |entry| entry.in_flight as f64,
        ),
        counter(
            "tollgate_upstream_state_changes_total",
            "How often the state of the instance became which.",
            "state",
            |entry| &entry.changes,
        ),
        counter(
            "tollgate_upstream_connections_total",
            "Tries at the instance by their connection: new, or reused from the pool.",
            "connection",
            |entry| &entry.connections,
        ),
    ]
}

fn source_families(sources: &[SourceState]) -> [MetricFamily; 2] {
    let gauge = |name, help, value: fn(&SourceState) -> f64| {
        let samples = sources.iter().map(|source| {
            let labels = [("service", source.service.as_ref()), ("source", &*source.source)];
            sample(MetricType::GAUGE, &labels, value(source))
        });
        family(MetricType::GAUGE, name, help, samples.collect())
    };
    [
        gauge(
            "tollgate_discovery_up",
            "Whether the source of instances gave its list when it was asked last.",
            |one| u8::from(one.up).into(),
        ),
        gauge("tollgate_discovery_instances", "Instances of the source's last good list.", |one| one.instances as f64),
    ]
}

fn breaker_families(breakers: &[BreakerState]) -> [MetricFamily; 2] {
    let states = breakers.iter().map(|breaker| {
        let labels = [("service", breaker.service.as_ref()), ("instance", breaker.instance.as_ref())];
        sample(MetricType::GAUGE, &labels, f64::from(breaker.state))
    });
    let transitions = breakers.iter().flat_map(|breaker| {
        breaker.transitions.map(|(to, count)| {
            let labels = [("service", breaker.service.as_ref()), ("instance", breaker.instance.as_ref()), ("to", to)];
            sample(MetricType::COUNTER, &labels, count as f64)
        })
    });
    let help = "Where the breaker of the instance, or of all of the service, is: 0 closed, 1 half open, 2 open.";
    [
        family(MetricType::GAUGE, "tollgate_breaker_state", help, states.collect()),
        family(
            MetricType::COUNTER,
            "tollgate_breaker_transitions_total",
            "How often breakers opened, half opened and closed.",
            transitions.collect(),
        ),
    ]
}

fn limit_families(state: &State) -> Vec<MetricFamily> {
    let mut families = vec![
        gauge("tollgate_limit_entries", "Counts that limits hold.", state.limit_entries as f64),
        counter(
            "tollgate_limit_overflow_total",
            "Requests that met a full table of limits.",
            state.limit_overflow as f64,
        ),
        counter(
            "tollgate_limit_counts_saved_total",
            "Counts of limits that were written to the store.",
            state.limits_saved_rows as f64,
        ),
        counter(
            "tollgate_limit_save_failures_total",
            "Times that counts of limits could not be written to the store, or read at start.",
            state.limits_save_failures as f64,
        ),
    ];
    if let Some(age) = state.limits_saved_age {
        let help = "Since the counts of limits that outlive the process were saved last.";
        families.push(gauge("tollgate_limit_save_age_seconds", help, age.as_secs_f64()));
    }
    families
}

fn key_families(keys: &KeysState) -> Vec<MetricFamily> {
    let in_force = "Keys that are looked up, those that expired included.";
    let mut families = vec![gauge("tollgate_keys", in_force, keys.in_force as f64)];
    if let Some(store) = &keys.store {
        let up = "Whether the key store answered the last question.";
        families.push(gauge("tollgate_key_store_up", up, f64::from(u8::from(store.up))));
        let age = "How old the store's keys in force are; a few seconds while it answers.";
        families.push(gauge("tollgate_key_store_age_seconds", age, store.age.as_secs_f64()));
        let held = "Keys in the key store, revoked ones included.";
        families.push(gauge("tollgate_key_store_keys", held, store.keys as f64));
    }
    families
}

fn limit_store_families(store: &LimitStoreState) -> Vec<MetricFamily> {
    let decided = [("store", store.decided.0)].into_iter().chain(store.fallback.iter().copied());
    let decided = decided.map(|(by, count)| sample(MetricType::COUNTER, &[("by", by)], count as f64));
    let errors = store.errors.iter().map(|(kind, count)| sample(MetricType::COUNTER, &[("kind", kind)], *count as f64));
    vec![
        gauge("tollgate_limit_store_up", "Whether the store of shared limits is asked.", f64::from(u8::from(store.up))),
        gauge("tollgate_limit_store_gateways", "Gateways that the store has seen lately.", store.gateways as f64),
        family(
            MetricType::COUNTER,
            "tollgate_limit_store_decisions_total",
            "Requests with shared limits, by what decided them.",
            decided.collect(),
        ),
        family(
            MetricType::COUNTER,
            "tollgate_limit_store_errors_total",
            "Failures of the store of shared limits.",
            errors.collect(),
        ),
        counter(
            "tollgate_limit_store_breaker_opened_total",
            "How often the store of shared limits was given up for a while.",
            store.opened as f64,
        ),
        histogram(
            "tollgate_limit_store_duration_seconds",
            "How long decisions by the store of shared limits took.",
            &store.buckets,
            store.decided,
        ),
    ]
}

fn log_families(log: &LogState) -> Vec<MetricFamily> {
    let states = [("accepted", log.accepted), ("recovered", log.recovered), ("written", log.written)]
        .map(|(state, count)| sample(MetricType::COUNTER, &[("state", state)], count as f64));
    let dropped =
        log.dropped.iter().map(|(reason, count)| sample(MetricType::COUNTER, &[("reason", reason)], *count as f64));
    vec![
        family(
            MetricType::COUNTER,
            "tollgate_log_records_total",
            "Records that were accepted from exchanges, recovered from the spool at start, and written to the store.",
            states.to_vec(),
        ),
        family(
            MetricType::COUNTER,
            "tollgate_log_records_dropped_total",
            "Records lost, by reason.",
            dropped.collect(),
        ),
        counter(
            "tollgate_log_usage_dropped_total",
            "Requests whose record was dropped at the queue, and which the usage does not count either.",
            log.usage_dropped as f64,
        ),
        gauge("tollgate_log_queued_records", "Records that wait in memory.", log.queued.0 as f64),
        gauge("tollgate_log_queued_bytes", "Bytes of the records that wait in memory.", log.queued.1 as f64),
        gauge("tollgate_log_spooled_records", "Records that wait on disk.", log.spooled.0 as f64),
        gauge("tollgate_log_spooled_bytes", "Bytes of the spool on disk.", log.spooled.1 as f64),
        gauge(
            "tollgate_log_unaccounted_records",
            "Accepted and recovered, less written, queued, spooled and dropped: always 0.",
            log.unaccounted as f64,
        ),
        gauge(
            "tollgate_log_oldest_unwritten_seconds",
            "How long the oldest record waits that is not in the store.",
            log.oldest_unwritten.as_secs_f64(),
        ),
        summary("tollgate_log_batch_duration_seconds", "Time of the batches that were written.", log.batches),
        counter("tollgate_log_store_errors_total", "Tries at the store that failed.", log.store_errors as f64),
        gauge(
            "tollgate_log_store_up",
            "Whether the last try at the store succeeded.",
            f64::from(u8::from(log.store_up)),
        ),
    ]
}

/// The usual `process_` series, from /proc; what a system does not tell is left out.
fn process_families(started: SystemTime) -> Vec<MetricFamily> {
    // The kernel tells user space in hundredths of a second, whatever its own tick is.
    const TICKS_PER_SECOND: f64 = 100.0;
    let mut families = vec![gauge("process_start_time_seconds", "When the process started.", unix_seconds(started))];
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program's name, which may hold anything but ends at the last `)`; utime and stime are 14 and 15.
    let after_name: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    if let [utime, stime] = after_name.get(11..13).unwrap_or_default()
        && let (Ok(utime), Ok(stime)) = (utime.parse::<f64>(), stime.parse::<f64>())
    {
        families.push(counter(
            "process_cpu_seconds_total",
            "CPU time of user and system.",
            (utime + stime) / TICKS_PER_SECOND,
        ));
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (field, name, help) in [
        ("VmRSS:", "process_resident_memory_bytes", "Resident memory."),
        ("VmSize:", "process_virtual_memory_bytes", "Virtual memory."),
    ] {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        if let Some(kibibytes) = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()) {
            families.push(gauge(name, help, (kibibytes * 1024) as f64));
        }
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        families.push(gauge("process_open_fds", "Open file descriptors.", entries.count() as f64));
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    if let Some(soft) = limit.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()) {
        families.push(gauge("process_max_fds", "Most file descriptors that may be open.", soft as f64));
    }
    families
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
