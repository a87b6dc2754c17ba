//! Admin: health, readiness, metrics and the admin API, on a listener of their own.
//! Who may ask is decided in `guard.rs`, what is answered in `api.rs`; what the gateway knows comes through [`Control`].
//! Nothing of the data path is here, and nothing here can hold it up. Every request is bounded in header, body,
//! time and number, so that a slow client of the admin API costs one connection for a bounded time.

mod api;
mod cache;
mod cached;
mod control;
mod guard;
mod instances;
mod keys;
mod listener;
mod problem;
mod questions;
mod tail;

pub use cached::{CacheCount, CacheDiskStatus, CacheStatus, CachedEntry, CachedUrl};
pub use control::{
    BreakerStatus, CacheScope, CapacityStatus, ClientLimit, ClientName, Control, InstanceChange, InstanceChanged,
    InstanceState, InstanceStatus, LastCheck, LimitEntry, LimitTotals, LogStatus, NotChanged, Readiness,
    RetentionStatus, ServiceStatus, SourceStatus, Summary,
};
pub use listener::{bind, serve};

#[cfg(test)]
mod tests;
