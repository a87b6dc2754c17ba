//! Stub: upstream.
