//! The response cache: what a stored answer is found by (`key`, `vary`), how long it is fresh (`freshness`),
//! and where it lives (`memory`, behind Pingora's phases through `storage`).
//! Not here: which routes cache and what the client is told about it (`policy/cache.rs`).
//! One store serves the whole process and lives as long as it; a reload only changes its size.

use std::sync::LazyLock;

pub mod cache_control;
pub mod entry;
pub mod freshness;
pub mod key;
pub mod memory;
pub mod storage;
pub mod vary;

pub use memory::{Cache, Scope, Stats};
pub use storage::Ticket;

/// Until the configuration says how much.
const BYTES_MAX_AT_START: u64 = 64 << 20;

static STORE: LazyLock<Cache> = LazyLock::new(|| Cache::new(BYTES_MAX_AT_START));

/// The process's store; Pingora wants it to live for ever.
pub fn store() -> &'static Cache {
    &STORE
}
