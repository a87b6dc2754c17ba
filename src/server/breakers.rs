//! Breakers as the admin API and the metrics show them.
//! Not here: what they decide (`upstream`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admin::BreakerStatus;
use crate::metrics;
use crate::upstream::{Breaker, BreakerState, Pool};

/// In the place of an instance, for the breaker of a whole service.
const ALL_INSTANCES: &str = "(all)";

/// Where a breaker is, for `GET /admin/services`.
pub(super) fn status(breaker: &Arc<Breaker>) -> BreakerStatus {
    let view = breaker.view(Instant::now());
    let [opened, half_opened, closed] = view.transitions.map(|(_, count)| count);
    BreakerStatus {
        state: view.state.as_str(),
        for_seconds: view.lasts.as_secs(),
        why: view.why,
        retry_in_seconds: (view.state == BreakerState::Open).then(|| seconds(view.left)),
        failures_in_a_row: view.failures_in_a_row,
        opened,
        half_opened,
        closed,
    }
}

/// The breakers of a service, for metrics.
pub(super) fn states(pool: &Pool) -> Vec<metrics::BreakerState> {
    let of_service = pool.breakers.service.iter().map(|breaker| (ALL_INSTANCES.into(), Arc::clone(breaker)));
    let of_instances = pool.instances().filter_map(|status| {
        let instance = status.instance;
        Some((Arc::clone(&instance.label), Arc::clone(pool.breakers.of(&instance.address)?)))
    });
    of_service.chain(of_instances).map(|(instance, breaker)| state(&pool.name, instance, &breaker)).collect()
}

fn state(service: &Arc<str>, instance: Arc<str>, breaker: &Breaker) -> metrics::BreakerState {
    let view = breaker.view(Instant::now());
    metrics::BreakerState {
        service: Arc::clone(service),
        instance,
        state: match view.state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        },
        transitions: view.transitions.map(|(to, count)| (to.as_str(), count)),
    }
}

/// Rounded up: at 0 it is over.
fn seconds(left: Duration) -> u64 {
    u64::try_from(left.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX)
}
