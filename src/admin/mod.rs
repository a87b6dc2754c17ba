//! Stub: admin.
