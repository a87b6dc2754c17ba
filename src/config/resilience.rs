//! What holds when instances fail: `services.NAME.breaker`, and `retry` of services and routes.
//! Not here: how they decide (`upstream/breaker`, `policy/retry.rs`), and rules across their fields (`check/resilience.rs`).

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::short_forms::{self, OneOrMany};
use super::units::{Percent, Span};

/// `services.NAME.breaker`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// Failures in a row that open it; `none` does not count them.
    pub failures: Option<u32>,
    /// How long it stays open the first time; doubled each time that a trial fails.
    pub recovery: Span,
    /// It never stays open longer than this.
    pub recovery_max: Span,
    /// Requests that may try at once whether it is better.
    pub trials: u32,
    /// Trials that have to succeed before it closes.
    pub successes: u32,
    /// Part of the requests of the window whose failure opens it.
    pub failure_ratio: Option<Percent>,
    /// Part of the requests of the window whose slowness opens it; needs `slow_after`.
    pub slow_ratio: Option<Percent>,
    /// An answer whose header takes so long is slow.
    pub slow_after: Option<Span>,
    /// The time over which both ratios are taken.
    pub window: Span,
    /// Neither ratio counts below so many requests in the window.
    pub requests_min: u32,
    /// What has a breaker: each instance, the service as a whole, or both.
    #[serde(deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<BreakerPer>")]
    pub per: Vec<BreakerPer>,
}

/// `services.NAME.breaker.per`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BreakerPer {
    /// Each instance has its own: while it is open, the others are asked.
    Instance,
    /// One for all: while it is open, nobody is asked.
    Service,
}

/// `services.NAME.queue`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceQueue {
    /// Requests that may wait, 1 to 10000.
    pub length: usize,
    /// For how long each may.
    pub wait: Span,
}

impl Default for ServiceQueue {
    fn default() -> Self {
        Self { length: 100, wait: Span(Duration::from_millis(50)) }
    }
}

/// `services.NAME.retry`, `routes.NAME.retry` or `defaults.retry`: the nearest one holds, whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Tries of one request, the first included, 1 to 10.
    pub attempts: u16,
    /// What the first wait is at most; doubled with each try. Each wait is by chance between nothing and that.
    pub base_delay: Span,
    /// No wait is longer, apart from what an instance asks for with `Retry-After`.
    pub delay_max: Span,
    /// Statuses of answers that are asked for again.
    pub statuses: Vec<u16>,
    /// How long one try may take; what is left of the route's `timeout` when left out.
    pub try_timeout: Option<Span>,
    /// Retries of the service within ten seconds, as a part of its requests.
    pub budget: Percent,
    /// Retries within ten seconds that are always admitted, beside the budget.
    pub budget_floor: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 3,
            base_delay: Span(Duration::from_millis(100)),
            delay_max: Span::seconds(2),
            statuses: vec![502, 503, 504],
            try_timeout: None,
            budget: Percent(20),
            budget_floor: 10,
        }
    }
}

impl Retry {
    /// Tries of one request at most, whatever is written.
    pub const ATTEMPTS_MAX: u16 = 10;
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: Some(5),
            recovery: Span::seconds(30),
            recovery_max: Span::seconds(300),
            trials: 1,
            successes: 1,
            failure_ratio: None,
            slow_ratio: None,
            slow_after: None,
            window: Span::seconds(10),
            requests_min: 20,
            per: vec![BreakerPer::Instance],
        }
    }
}
