//! Tollgate: an API gateway in one binary, on Pingora: keys, limits, balancing, caching, and every request accounted for in SQL.
//!
//! The life of a request:
//! 1. `gateway::front` holds the connection until a header is complete; Pingora begins an exchange.
//! 2. `gateway::admit` asks the policies in their order: flood guard, route, auth, limits, body size. A refusal is answered here.
//! 3. The cache answers, or `upstream` chooses an instance; `gateway::forward` makes the headers, both ways.
//! 4. However it ends, `gateway::exchange` makes one `record`; `metrics` counts it and `request_log` stores it.
//!
//! `runtime` is what the configuration compiled to, swapped whole on reload; `server` wires everything together.

pub mod config;
pub mod json;
pub mod record;
pub mod refusal;

pub mod admin;
pub mod analytics;
pub mod build_facts;
pub mod cache;
pub mod cli;
pub mod gateway;
pub mod keys;
pub mod limit_store;
pub mod metrics;
pub mod pem;
pub mod policy;
pub mod request_log;
pub mod runtime;
pub mod server;
pub mod store;
pub mod upstream;
pub mod words;
