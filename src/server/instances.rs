//! Services and their instances as the admin API and the metrics show them, and what the admin API changes about them.
//! Not here: what a change means for requests (`upstream`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{breakers, capacity};
use crate::admin::{
    InstanceChange, InstanceChanged, InstanceState, InstanceStatus, LastCheck, NotChanged, ServiceStatus, SourceStatus,
};
use crate::metrics;
use crate::runtime::Live;
use crate::upstream::{
    self, Address, INSTANCES_MAX, Instance, News, Pool, Registration, Service, Unchanged, what_holds,
};

/// A service, for `GET /admin/services`.
pub(super) fn service(service: &Service) -> ServiceStatus {
    let pool = service.pool();
    let mut instances: Vec<InstanceStatus> = pool.instances().map(|status| instance(&pool, status)).collect();
    let leaving = service.leaving().into_iter();
    instances.extend(
        leaving.map(|leaving| {
            instance(&pool, upstream::InstanceStatus { instance: leaving, weight: 0, is_backup: false })
        }),
    );
    let breaker = pool.breakers.service.as_ref().map(breakers::status);
    let source = |source: upstream::SourceStatus| SourceStatus {
        source: source.source,
        instances: source.instances,
        at: source.at.as_ref().map(utc),
        problem: source.problem,
    };
    let sources = service.sources().into_iter().map(source).collect();
    let capacity = capacity::status(&pool);
    ServiceStatus { name: service.name.to_string(), usable: pool.is_usable(), breaker, capacity, sources, instances }
}

fn instance(pool: &Pool, status: upstream::InstanceStatus) -> InstanceStatus {
    let instance = status.instance;
    let (requests, failures) = instance.counts();
    let condition = instance.condition();
    InstanceStatus {
        address: instance.label.to_string(),
        state: state(condition.state()),
        since: utc(&condition.since),
        share: (f64::from(instance.share()) * 1e3).round() / 1e3,
        weight: status.weight.into(),
        backup: status.is_backup,
        in_flight: instance.in_flight().into(),
        requests,
        failures,
        success_rate: instance.success_rate(),
        latency_ms: instance.latency().map(milliseconds),
        last_check: condition.last_check.map(|check| LastCheck {
            at: utc(&check.at),
            took_ms: milliseconds(check.took),
            problem: check.problem,
        }),
        breaker: pool.breakers.of(&instance.address).map(breakers::status),
        why: condition.why,
    }
}

/// A time as RFC 3339 has it, to the millisecond.
fn utc(time: &SystemTime) -> String {
    let time = jiff::Timestamp::try_from(*time).unwrap_or_default();
    time.round(jiff::Unit::Millisecond).unwrap_or(time).to_string()
}

pub(super) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// What is said of a source that gives no list.
pub(super) fn degraded(service: &str, source: &SourceStatus, problem: &str) -> String {
    format!("service {service}: {}: {problem}; {}", source.source, what_holds(source.at.is_some(), source.instances))
}

/// Changes an instance, and says what became of it.
pub(super) fn change(
    live: &Live,
    service: &str,
    address: &Address,
    change: InstanceChange,
) -> Result<InstanceChanged, NotChanged> {
    let of = || live.load().services.get(service).cloned().ok_or(NotChanged::NoService);
    let one = of()?;
    let before = one.instance(address);
    let changed = match change {
        InstanceChange::Register { weight, backup, ttl } => one.register(address, Registration { weight, backup, ttl }),
        InstanceChange::Remove => one.remove(address).map(|()| News::Changed),
        InstanceChange::Drain => one.drain(address, true).map(|()| News::Changed),
        InstanceChange::Undrain => one.drain(address, false).map(|()| News::Changed),
    };
    let news = changed.map_err(not_changed)?;
    // A reload may have put another one in its place meanwhile.
    let one = of()?;
    if news != News::Renewed {
        one.catch_up();
    }
    let instance = one.instance(address).or(before).ok_or(NotChanged::NoInstance)?;
    Ok(InstanceChanged {
        is_new: news == News::New,
        state: state(instance.condition().state()),
        in_flight: instance.in_flight().into(),
        is_service_usable: one.pool().is_usable(),
    })
}

fn not_changed(why: Unchanged) -> NotChanged {
    match why {
        Unchanged::NoInstance => NotChanged::NoInstance,
        Unchanged::NotRegistered => NotChanged::NotRegistered,
        Unchanged::NoRegistration => NotChanged::NoRegistration,
        Unchanged::Full => NotChanged::Full(INSTANCES_MAX),
        Unchanged::Unkept(why) => NotChanged::Unkept(why),
    }
}

const fn state(state: upstream::InstanceState) -> InstanceState {
    match state {
        upstream::InstanceState::Up => InstanceState::Up,
        upstream::InstanceState::Down => InstanceState::Down,
        upstream::InstanceState::Unproven => InstanceState::Unproven,
        upstream::InstanceState::Ejected => InstanceState::Ejected,
        upstream::InstanceState::Draining => InstanceState::Draining,
        upstream::InstanceState::Unchecked => InstanceState::Unchecked,
    }
}

/// Where a service finds instances, for metrics.
pub(super) fn sources(service: &Service) -> Vec<metrics::SourceState> {
    let state = |source: upstream::SourceStatus| metrics::SourceState {
        service: Arc::clone(&service.name),
        source: source.source,
        up: source.problem.is_none(),
        instances: source.instances,
    };
    service.sources().into_iter().map(state).collect()
}

/// The instances of a service, for metrics.
pub(super) fn states(service: &Service) -> Vec<metrics::InstanceState> {
    let pool = service.pool();
    let listed = pool.instances().map(|status| status.instance);
    let state = |instance: Arc<Instance>| metrics::InstanceState {
        service: Arc::clone(&service.name),
        instance: Arc::clone(&instance.label),
        up: instance.is_ready(),
        in_flight: instance.in_flight().into(),
        changes: {
            let changes = instance.condition().changes;
            [("up", changes.up), ("down", changes.down), ("ejected", changes.ejected), ("draining", changes.draining)]
        },
        connections: {
            let [new, reused] = instance.connections();
            [("new", new), ("reused", reused)]
        },
    };
    listed.chain(service.leaving()).map(state).collect()
}
