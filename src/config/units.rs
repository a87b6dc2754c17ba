//! Quantities as people write them: `30s`, `10mb`.

use std::time::Duration;

/// A length of time: `250ms`, `30s`, `5min`, `12h`, `30d`, `0s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes: `512b`, `64kb`, `10mb`, `2gb` (powers of 1024).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Span {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}
crate::placeholder_serde!(Span, Size);
