//! Stub: auth.
