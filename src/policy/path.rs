//! Stub: path.
