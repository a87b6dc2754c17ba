//! The response cache: what a stored answer is found by (`key`, `vary`), how long it is fresh (`freshness`), where it lives
//! (`memory` and `disk`, behind Pingora's phases through `storage`), what is told about it (`explain`), and how many requests at once share one (`filling`, `crowd`).
//! Not here: which routes cache and what the client is told about it (`policy/cache.rs`).
//! One store serves the whole process and lives as long as it; a reload only changes its size.

use std::sync::LazyLock;

pub mod cache_control;
pub mod crowd;
pub mod dates;
pub mod disk;
pub mod entry;
pub mod explain;
mod filling;
pub mod freshness;
pub mod key;
pub mod memory;
mod parts;
pub mod purge;
pub mod range;
mod stats;
pub mod storage;
pub mod tags;
pub mod targeted;
pub mod vary;

pub use disk::DiskStats;
pub use explain::{Stored, Told};
pub use filling::Reservation;
pub use memory::Cache;
pub use parts::{Lack, Part};
pub use purge::{How, Scope};
pub use stats::Stats;
pub use storage::{Collapsed, Ticket};

/// Until the configuration says how much.
const BYTES_MAX_AT_START: u64 = 64 << 20;

static STORE: LazyLock<Cache> = LazyLock::new(|| Cache::new(BYTES_MAX_AT_START));

/// The process's store; Pingora wants it to live for ever.
pub fn store() -> &'static Cache {
    &STORE
}
