//! The response cache: what a stored answer is found by, how long it is fresh, and where it lives.
pub mod cache_control;
pub mod freshness;
pub mod key;
pub mod vary;
