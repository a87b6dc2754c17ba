//! Stub: cache.
