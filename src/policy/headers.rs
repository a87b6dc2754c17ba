//! Stub: headers.
