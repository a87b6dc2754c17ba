//! Stub: cli.
