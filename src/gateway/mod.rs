//! Stub: gateway.
