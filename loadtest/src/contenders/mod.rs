//! The proxies that take part, one file each, in the order of the tables.
//! Not here: what they are asked to do (`contender.rs`), and how they are measured (`compare/`).

mod bare;
#[cfg(test)]
mod configurations;
mod envoy;
mod haproxy;
mod nginx;
mod peer;
mod template;
mod tollgate;
mod varnish;

use std::path::PathBuf;

use crate::contender::Contender;

/// Ratios are to this one, and to the two references.
pub const TOLLGATE: &str = "tollgate";
pub const BARE: &str = "bare";
pub const BARE_DRESSED: &str = "bare dressed";

/// Everybody; `tollgate` is the program to measure.
pub fn all(tollgate: PathBuf) -> Vec<Box<dyn Contender>> {
    vec![
        Box::new(bare::Bare { dressed: false }),
        Box::new(bare::Bare { dressed: true }),
        Box::new(tollgate::Tollgate { program: tollgate }),
        Box::new(nginx::Nginx),
        Box::new(haproxy::Haproxy),
        Box::new(varnish::Varnish),
        Box::new(envoy::Envoy),
    ]
}
