//! Stub: request_log.
