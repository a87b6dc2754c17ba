//! Stub: analytics.
