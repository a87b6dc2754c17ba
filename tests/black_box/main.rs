//! Black box tests: the real program with configurations it reads from files, real sockets, real databases.
//! Each story starts what it needs on private ports and folders, so that all of them run side by side.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a story that can't go on fails")]
#![allow(clippy::print_stderr, reason = "a failed story shows what the gateway said")]

#[allow(dead_code)] // a kit: not every story needs every tool
mod harness;

mod admin;
mod attack;
mod balance;
mod bodies;
mod breaker;
mod cache;
mod cache_at_hand;
mod cache_crowds;
mod cache_disk;
mod cache_keys;
mod cache_parts;
mod cache_purge;
mod cache_show;
mod cache_stale;
mod capacity;
mod cli;
mod compress;
mod compress_cache;
mod cors;
mod discovery;
mod drain;
mod flood;
mod forwarding;
mod health;
mod http_traps;
mod key_store;
mod keys;
mod limit_crowds;
mod limit_state;
mod limits;
mod log;
mod log_account;
mod log_disk;
mod log_faults;
mod odd_requests;
mod paths;
mod resilience;
mod retries;
mod seen_to_work;
mod shared_limits;
mod shared_limits_answers;
mod shared_limits_faults;
mod shutdown_and_reload;
mod terminal;
mod timeouts;
mod tls;
mod together;
mod under_load;
mod upstream;
mod upstream_protocols;
