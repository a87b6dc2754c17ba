//! The series of services that bear only so many requests at once: who is inside, who waits, for how long, and who got no place.
//! Not here: how places are given (`upstream/capacity.rs`).

use std::sync::Arc;
use std::time::Duration;

use prometheus::proto::{MetricFamily, MetricType};

use super::family::{family, sample};

/// A service that bears only so many requests at once.
#[derive(Clone, Debug)]
pub struct CapacityState {
    /// The service's name.
    pub service: Arc<str>,
    /// Requests that have a place.
    pub inside: u64,
    /// Requests that wait for one.
    pub waiting: u64,
    /// Requests that got none.
    pub refused: u64,
    /// Requests that waited, however it ended.
    pub waited: u64,
    /// For how long, all together.
    pub wait_time: Duration,
}

pub(super) fn families(services: &[CapacityState]) -> [MetricFamily; 5] {
    let each = |kind, name, help, value: fn(&CapacityState) -> f64| {
        let samples = services.iter().map(|it| sample(kind, &[("service", it.service.as_ref())], value(it)));
        family(kind, name, help, samples.collect())
    };
    let (gauge, counter) = (MetricType::GAUGE, MetricType::COUNTER);
    [
        each(gauge, "tollgate_service_places_taken", "Requests that have a place in the service.", |it| {
            it.inside as f64
        }),
        each(gauge, "tollgate_service_queue_length", "Requests that wait for a place.", |it| it.waiting as f64),
        each(counter, "tollgate_service_overloaded_total", "Requests that got no place.", |it| it.refused as f64),
        each(counter, "tollgate_service_queued_total", "Requests that waited for a place, however it ended.", |it| {
            it.waited as f64
        }),
        each(counter, "tollgate_service_queue_seconds_total", "How long requests waited for a place.", |it| {
            it.wait_time.as_secs_f64()
        }),
    ]
}
