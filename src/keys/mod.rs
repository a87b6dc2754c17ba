//! Stub: keys.
