//! Stub: runtime.
