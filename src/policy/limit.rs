//! Stub: limit.
