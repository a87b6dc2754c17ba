//! Stub: server.
