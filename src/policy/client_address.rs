//! Stub: client_address.
