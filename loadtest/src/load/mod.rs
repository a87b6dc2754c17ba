//! The load: what is sent, how much of it, and what came back. Always to loopback.
//! `closed` runs wrk, `open` runs oha, `idle` holds connections itself.

pub mod closed;
pub mod idle;
pub mod open;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a load generator counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    pub answers: u64,
    /// Wall time in microseconds.
    pub micros: u64,
    /// Answers outside 200 to 399.
    pub not_ok: u64,
    /// By kind, such as `connect` or `timeout`.
    pub errors: BTreeMap<String, u64>,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
}

impl Load {
    pub fn errors_count(&self) -> u64 {
        self.errors.values().sum()
    }

    pub fn per_second(&self) -> f64 {
        self.answers as f64 * 1e6 / self.micros as f64
    }
}
