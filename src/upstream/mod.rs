//! Services and their instances: selection, health and what is known about each.
//! A pool is compiled from one service of the configuration and lives on through reloads that leave the service alone.
//! Not here: which service a request goes to (`runtime`), and what happens to an answer (`gateway`).

mod address;
mod balance;
mod breaker;
mod capacity;
mod condition;
mod dial;
mod discovery;
mod health;
mod instance;
mod latency;
mod peer;
mod pool;
mod probe;
mod retry_budget;
mod service;
mod trust;

pub use address::Address;
pub use balance::balance_key;
pub use breaker::{Breaker, BreakerState, BreakerView, Breakers, Permit};
pub use capacity::{CapacityView, Entered, Place};
pub use condition::{Changes, Condition, InstanceState, LastCheck};
pub use discovery::{Answers, Discovery, INSTANCES_MAX, News, Registration, SourceStatus, what_holds};
pub use instance::{Instance, Try};
pub use peer::speak_http1;
pub use pool::{Before, InstanceStatus, Pool};
pub use retry_budget::RetryBudget;
pub use service::{Predecessor, Service, Unchanged};
