//! Tollgate: an API gateway in one binary.

pub mod config;
pub mod record;
pub mod refusal;

pub mod admin;
pub mod analytics;
pub mod build_facts;
pub mod cache;
pub mod cli;
pub mod gateway;
pub mod keys;
pub mod metrics;
pub mod policy;
pub mod request_log;
pub mod runtime;
pub mod server;
pub mod store;
pub mod upstream;
