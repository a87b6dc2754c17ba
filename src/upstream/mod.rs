//! Services and their instances: selection, health and what is known about each.
//! A pool is compiled from one service of the configuration and lives on through reloads that leave the service alone.
//! Not here: which service a request goes to (`runtime`), and what happens to an answer (`gateway`).

mod breaker;
mod health;
mod instance;
mod peer;
mod pool;
mod resolve;
mod retry_budget;
mod turns;

pub use breaker::{Breaker, BreakerState, BreakerView, Breakers, Permit};
pub use instance::{Instance, InstanceState};
pub use pool::Pool;
pub use retry_budget::RetryBudget;
