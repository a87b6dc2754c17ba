//! What the admin API may ask, answered from the parts: states are read when they are asked for, so no part knows of it.
//! Not here: HTTP (`admin`), and what each figure means (the parts).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::counters::Saved;
use super::{Ready, breakers, capacity, instances, stored};
use crate::admin::{
    CacheScope, CacheStatus, CachedUrl, ClientLimit, ClientName, Control, InstanceChange, InstanceChanged, LimitEntry,
    LimitTotals, LogStatus, NotChanged, Readiness, RetentionStatus, ServiceStatus, Summary,
};
use crate::cache::{self, How, Scope};
use crate::config::{Config, StoreUrl};
use crate::gateway::Parts;
use crate::keys::{KeyPoll, Status};
use crate::limit_store::LimitStore;
use crate::metrics;
use crate::policy::compress::{Compressed, compressed};
use crate::policy::limit::{Client, LimitStatus, Now, overflowed_since_start};
use crate::request_log::{Following, Wanted};
use crate::runtime::Runtime;
use crate::upstream::Address;
use crate::words::counted;

/// The gateway's parts as the admin API sees them.
pub(super) struct Wiring {
    pub(super) parts: Arc<Parts>,
    pub(super) ready: Arc<Ready>,
    pub(super) saved: Arc<Saved>,
    pub(super) key_poll: Option<KeyPoll>,
}

impl Control for Wiring {
    fn readiness(&self) -> Readiness {
        let (ready, why) = if self.ready.draining.load(Ordering::Acquire) {
            (false, "draining: the process is about to stop")
        } else if self.ready.accepting.load(Ordering::Acquire) {
            (true, "the configuration is live and every listener accepts")
        } else {
            (false, "starting: not every listener accepts yet")
        };
        Readiness { ready, why: why.to_owned() }
    }

    fn degraded(&self) -> Vec<String> {
        let mut degraded = Vec::new();
        let log = self.parts.log.counts();
        if !log.store_up {
            let why = log.last_error.unwrap_or_else(|| "it does not answer".to_owned());
            degraded.push(format!("request log: the store is away, {} records wait: {why}", log.queued + log.spooled));
        }
        if let Some(error) = log.spool_error {
            degraded.push(format!("request log: the spool {error}"));
        }
        degraded.extend(self.key_poll.as_ref().and_then(|poll| key_store_away(&poll.status())));
        let runtime = self.parts.live.load();
        let away = runtime.sharing.as_ref().and_then(|sharing| sharing.store.why_down());
        degraded.extend(away.map(|why| format!("limits: the shared store is away, on_error decides: {why}")));
        let without = |service: &ServiceStatus| !service.usable;
        let services = self.services();
        degraded.extend(services.iter().flat_map(|service| {
            let (name, sources) = (&service.name, service.sources.iter());
            sources.filter_map(move |source| Some(instances::degraded(name, source, source.problem.as_ref()?)))
        }));
        degraded.extend(
            services
                .iter()
                .filter(|service| without(service))
                .map(|service| format!("service {}: no instance can be used", service.name)),
        );
        degraded
    }

    fn services(&self) -> Vec<ServiceStatus> {
        let runtime = self.parts.live.load();
        let services = runtime.config.services.keys().filter_map(|name| runtime.services.get(name.as_str()));
        services.map(|one| instances::service(one)).collect()
    }

    async fn change_instance(
        &self,
        service: &str,
        address: &Address,
        change: InstanceChange,
    ) -> Result<InstanceChanged, NotChanged> {
        let (live, service, address) = (Arc::clone(&self.parts.live), service.to_owned(), address.clone());
        // It is written down, and that waits for a disk.
        tokio::task::spawn_blocking(move || instances::change(&live, &service, &address, change))
            .await
            .unwrap_or_else(|error| Err(NotChanged::Unkept(error.to_string())))
    }

    fn summary(&self) -> Summary {
        let totals = self.parts.metrics.totals();
        Summary {
            successful: totals.successful,
            blocked: totals.blocked,
            errors: totals.errors,
            response_time: totals.response_time,
            since: self.parts.metrics.started(),
        }
    }

    async fn reload(&self) -> Result<u32, Vec<String>> {
        let live = Arc::clone(&self.parts.live);
        tokio::task::spawn_blocking(move || live.reload().map_err(|problems| problems.lines()))
            .await
            .unwrap_or_else(|error| Err(vec![format!("the reload ended without a result: {error}")]))
    }

    fn purge_cache(&self, scope: &CacheScope, soft: bool) -> Result<u64, String> {
        let how = if soft { How::Soft } else { How::Hard };
        let purge = |scope| Ok(cache::store().purge(scope, how));
        match scope {
            CacheScope::All => purge(Scope::All),
            CacheScope::Route(endpoint) => {
                let runtime = self.parts.live.load();
                runtime.route(endpoint).ok_or_else(|| stored::no_route(endpoint, &runtime))?;
                purge(Scope::Route(endpoint))
            }
            CacheScope::Url(url) => {
                let url = stored::Target::of(url, &self.parts.live.load())?;
                purge(Scope::Url { host: &url.host, path_and_query: &url.path_and_query })
            }
            CacheScope::Prefix(prefix) => {
                let prefix = stored::Target::prefix(prefix)?;
                purge(Scope::Prefix { host: &prefix.host, path: &prefix.path_and_query })
            }
            CacheScope::Tag(tag) => purge(Scope::Tag(tag)),
            CacheScope::Consumer(consumer) => purge(Scope::Consumer(consumer)),
        }
    }

    fn cache(&self, top: usize) -> CacheStatus {
        stored::status(&self.parts.metrics, &self.parts.live.load(), top)
    }

    fn cached(&self, url: &str) -> Result<CachedUrl, String> {
        stored::find(url, &self.parts.live.load())
    }

    async fn rate_limits(&self) -> Vec<LimitEntry> {
        let (runtime, now) = (self.parts.live.load(), Now::read());
        let found = match &runtime.sharing {
            Some(sharing) => sharing.status(&runtime.limits, now).await,
            None => runtime.limits.status(now),
        };
        found.into_iter().map(limit_entry).collect()
    }

    fn limit_totals(&self) -> Vec<LimitTotals> {
        let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
        let totals = self.parts.live.load().limits.totals().into_iter();
        totals
            .map(|one| LimitTotals {
                limit: one.limit.to_string(),
                route: text(&one.place.route),
                plan: text(&one.place.plan),
                capacity: one.capacity,
                enforced: one.enforced,
                admitted: one.admitted,
                refused: one.refused,
                clients: one.entries,
            })
            .collect()
    }

    async fn client(&self, name: &ClientName) -> Option<Vec<ClientLimit>> {
        let (runtime, now) = (self.parts.live.load(), Now::read());
        let client = client(&runtime, name)?;
        let mut standings = runtime.limits.status_of(&client, now);
        if let Some(sharing) = &runtime.sharing {
            // Without an answer it is this gateway's share that holds, and that is what is shown.
            let _ = sharing.correct(&runtime.limits, &client, &mut standings).await;
        }
        let standings = standings.into_iter();
        // Where a key is required nobody is counted under the address for want of one.
        let is_anonymous = |route: &str| runtime.route(route).is_some_and(|route| route.auth.is_anonymous());
        let standings = standings
            .filter(|standing| !standing.anonymous_only || standing.place.route.as_deref().is_none_or(is_anonymous));
        let limits = standings.map(|standing| ClientLimit {
            limit: standing.limit.to_string(),
            route: standing.place.route.as_deref().map(str::to_owned),
            plan: standing.place.plan.as_deref().map(str::to_owned),
            tokens_remaining: standing.tokens_remaining as f64,
            capacity: standing.capacity,
            refill_rate: standing.refill_per_second,
            over: standing.over,
            resets_in: standing.more_in_seconds,
        });
        Some(limits.collect())
    }

    async fn reset_client(&self, name: &ClientName) -> Result<Option<usize>, String> {
        let runtime = self.parts.live.load();
        let Some(client) = client(&runtime, name) else { return Ok(None) };
        let mut count = runtime.limits.reset(&client);
        if let Some(sharing) = &runtime.sharing {
            let shared = sharing.reset(&runtime.limits, &client).await;
            count += shared
                .map_err(|_| "The store of shared limits gives no answer: only counts of this gateway were reset.")?;
        }
        log::info!("counts of {name:?} were reset in {}", counted(count as u64, "limit"));
        Ok(Some(count))
    }

    fn log(&self) -> LogStatus {
        let counts = self.parts.log.counts();
        let runtime = self.parts.live.load();
        let store = format!("{:?}", runtime.config.log.store);
        let retention = RetentionStatus::of(runtime.config.log.retention.clone(), self.parts.log.kept().as_deref());
        LogStatus { store, unaccounted: counts.unaccounted(), counts, retention }
    }

    fn follow(&self, wanted: Wanted) -> Option<Following> {
        self.parts.log.follow(wanted)
    }

    fn log_store(&self) -> StoreUrl {
        self.parts.live.load().config.log.store.clone()
    }

    fn metrics(&self) -> String {
        let mut state = state(&self.parts, &self.saved);
        state.keys.store = self.key_poll.as_ref().map(|poll| {
            let status = poll.status();
            let age = status
                .read
                .map_or_else(|| self.parts.metrics.started().elapsed().unwrap_or_default(), |read| read.elapsed());
            metrics::KeyStoreState { up: status.up, age, keys: status.keys as u64 }
        });
        self.parts.metrics.encode(&state)
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.parts.live.load().config)
    }

    fn keys_changed(&self) {
        if let Some(poll) = &self.key_poll {
            poll.wake();
        }
    }
}

/// None for a key that is not known: names of others have no numbers.
fn client(runtime: &Runtime, name: &ClientName) -> Option<Client> {
    match name {
        ClientName::Ip(ip) => Some(Client::Ip(*ip)),
        ClientName::Key(name) => {
            let table = runtime.keys.table();
            let entry = table.named(name)?;
            Some(Client::Key { key: entry.name_id, consumer: entry.consumer_id })
        }
    }
}

fn key_store_away(status: &Status) -> Option<String> {
    let problem = status.problem.as_ref()?;
    Some(match status.read {
        Some(read) => {
            format!("key store: away, the keys of {} s ago are in force: {problem}", read.elapsed().as_secs())
        }
        None => format!("key store: never read, so only keys of the file are known: {problem}"),
    })
}

fn limit_entry(status: LimitStatus) -> LimitEntry {
    let who = [status.consumer.as_deref(), status.key.as_deref(), status.address.as_deref(), status.header.as_deref()];
    let mut who = who.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    if status.overflow {
        who = "everyone who came when the table was full".to_owned();
    } else if who.is_empty() {
        who = "all".to_owned();
    }
    LimitEntry {
        limit: status.limit.to_string(),
        route: status.place.route.as_deref().map(str::to_owned),
        who,
        tokens_remaining: status.remaining as f64,
        capacity: status.capacity,
        over: status.over,
        retry_after_seconds: if status.over { status.more_in_seconds } else { 0 },
    }
}

/// The state of every part, for one scrape.
fn state(parts: &Parts, saved: &Saved) -> metrics::State {
    let runtime = parts.live.load();
    let log = parts.log.counts();
    let reloads = parts.live.reloads();
    metrics::State {
        requests_in_flight: parts.exchanges() as u64,
        connections_open: parts.census.open() as u64,
        instances: runtime.services.values().flat_map(|service| instances::states(service)).collect(),
        breakers: runtime.services.values().flat_map(|service| breakers::states(&service.pool())).collect(),
        capacities: runtime.services.values().filter_map(|service| capacity::state(&service.pool())).collect(),
        sources: runtime.services.values().flat_map(|service| instances::sources(service)).collect(),
        log: metrics::LogState {
            accepted: log.accepted,
            recovered: log.recovered,
            written: log.written,
            queued: (log.queued, log.queued_bytes),
            spooled: (log.spooled, log.spooled_bytes),
            unaccounted: log.unaccounted(),
            oldest_unwritten: log.oldest_unwritten.unwrap_or_default(),
            batches: (log.batches, log.batch_time),
            store_errors: log.store_errors,
            store_up: log.store_up,
            dropped: log.dropped,
            usage_dropped: log.usage_dropped,
        },
        generation: runtime.generation,
        reloaded: Some(reloads.in_force_since),
        reloads_succeeded: reloads.succeeded,
        reloads_failed: reloads.failed,
        cache: stored::state(),
        compression: compression(),
        keys: metrics::KeysState { in_force: runtime.keys.table().len() as u64, store: None },
        limit_entries: limit_entries(&runtime),
        limit_overflow: overflowed_since_start(),
        limits_saved_age: saved.age(),
        limits_saved_rows: saved.rows(),
        limits_save_failures: saved.failures(),
        limit_store: runtime.sharing.as_ref().map(|sharing| limit_store(&sharing.store)),
    }
}

fn compression() -> metrics::CompressionState {
    let Compressed { now, answers, bytes, left } = compressed();
    metrics::CompressionState { now, answers, bytes, left }
}

fn limit_store(store: &LimitStore) -> metrics::LimitStoreState {
    let state = store.state();
    metrics::LimitStoreState {
        up: state.up,
        gateways: state.gateways.into(),
        buckets: state.latency.buckets,
        decided: (state.latency.count, state.latency.sum),
        fallback: state.fallback.to_vec(),
        errors: state.errors.to_vec(),
        opened: state.opened,
    }
}

fn limit_entries(runtime: &Runtime) -> u64 {
    runtime.limits.tables().iter().map(|table| table.entries as u64).sum()
}
