//! The script against exact models, in a real Redis that is told the time; and the store against that server.

#[path = "../../tests/support/redis.rs"]
mod server;

mod models;
mod script;
mod store;
