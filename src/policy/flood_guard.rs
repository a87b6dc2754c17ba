//! Stub: flood_guard.
