//! The places of a service, as the admin API and metrics tell of them.
//! Not here: how places are given (`upstream/capacity.rs`).

use std::sync::Arc;

use super::instances::milliseconds;
use crate::admin::CapacityStatus;
use crate::metrics::CapacityState;
use crate::upstream::Pool;

/// For the admin API; none where the service bears any number.
pub(super) fn status(pool: &Pool) -> Option<CapacityStatus> {
    let (service, view) = (pool.config(), pool.capacity()?);
    Some(CapacityStatus {
        concurrent_max: service.concurrent_max,
        instance_concurrent_max: service.instance_concurrent_max,
        in_flight: view.inside,
        queued: view.waiting,
        queue_length: service.queue.as_ref().map_or(0, |queue| queue.length),
        overloaded: view.refused,
        waited: view.waited,
        wait_ms: (view.waited > 0).then(|| milliseconds(view.wait_time.div_f64(view.waited as f64))),
    })
}

/// For metrics; none where the service bears any number.
pub(super) fn state(pool: &Pool) -> Option<CapacityState> {
    let view = pool.capacity()?;
    Some(CapacityState {
        service: Arc::clone(&pool.name),
        inside: view.inside.into(),
        waiting: view.waiting as u64,
        refused: view.refused,
        waited: view.waited,
        wait_time: view.wait_time,
    })
}
