//! How often: `100/min per key`, `10/s burst 100`, and the long form of a limit.
//! What a rate means while counting is in `policy/limit.rs`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::Span;

/// `routes.X.limit[]`; the short form is `COUNT/WINDOW [burst N] [per WHAT [and WHAT]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Requests per window, with a burst for a token bucket: `100/min`, `10/s burst 100`.
    pub rate: Rate,
    /// What is counted together.
    #[serde(default = "Per::defaults")]
    pub per: Vec<Per>,
    /// The policy's name in `RateLimit`, log and metrics; made of dimension and window when left out.
    #[serde(default)]
    pub name: Option<String>,
    /// What one request takes from the limit.
    #[serde(default = "Limit::default_cost")]
    pub cost: u32,
    /// Whether the limit refuses, or only counts and logs.
    #[serde(default)]
    pub mode: Mode,
    /// `sliding_window`, or `token_bucket` with a burst, or `day` and `month` by the calendar; `fixed_window` only when asked for.
    #[serde(default)]
    pub algorithm: Option<Algorithm>,
}

/// Requests per window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests, at least 1.
    pub count: u32,
    /// In how long.
    pub window: Window,
    /// Tokens of a token bucket; none for a window.
    pub burst: Option<u32>,
}

/// The window of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The last so much time: `s`, `10s`, `min`, `5min`, `h`, `24h`.
    Rolling(Span),
    /// The calendar day, UTC.
    Day,
    /// The calendar month, UTC.
    Month,
}

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// The client's address; an IPv6 /64 counts as one.
    Ip,
    /// The key; without one, the address.
    Key,
    /// The consumer; without one, the address.
    Consumer,
    /// Every request of the route.
    Route,
    /// Every request of the route's service.
    Service,
    /// Every request.
    All,
}

/// `mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Refuses what is over the limit.
    #[default]
    Enforce,
    /// Counts and logs what would have been refused.
    Observe,
}

/// `algorithm`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Never more than the count in any window.
    SlidingWindow,
    /// A burst, filled again at the rate (GCRA).
    TokenBucket,
    /// Windows that begin at multiples of their length, or by the calendar.
    FixedWindow,
}

impl Limit {
    /// The algorithm that holds: the written one, or what the rate implies.
    pub fn algorithm(&self) -> Algorithm {
        match (self.algorithm, self.rate.burst, self.rate.window) {
            (Some(algorithm), ..) => algorithm,
            (None, Some(_), _) => Algorithm::TokenBucket,
            (None, None, Window::Day | Window::Month) => Algorithm::FixedWindow,
            (None, None, Window::Rolling(_)) => Algorithm::SlidingWindow,
        }
    }
    const fn default_cost() -> u32 {
        1
    }
}

impl Per {
    fn defaults() -> Vec<Self> {
        vec![Self::Consumer]
    }
}
crate::placeholder_serde!(Rate);
