//! One file a policy: it is compiled from configuration, and has one verb. No policy imports another.
//! The order in which they are called is `gateway::admit`'s, nowhere else.

pub mod auth;
pub mod cache;
pub mod client_address;
pub mod clients;
pub mod compress;
pub mod concurrency;
pub mod cors;
pub mod flood_guard;
pub mod headers;
pub mod limit;
pub mod path;
pub mod retry;
pub mod rewrite;
