//! What moves through the queue: chunks that were taken, and the batches they become.
//! Plain data; moved and counted by `queue.rs`.

use std::time::Instant;

use crate::record::Record;
use crate::store::usage::Increments;

/// Numbered records on their way to the store; their bounds never change.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) first: u64,
    pub(super) records: Vec<Record>,
    pub(super) unrecorded: Increments<String>,
    pub(super) oldest: Instant,
}

/// Records on their way from the queue to lines and store.
pub(super) struct Taken {
    pub(super) records: Vec<Record>,
    /// The sequence of the first; none where the store's backlog is full, so that only lines are written.
    pub(super) first: Option<u64>,
    /// This run's number, once the store has given it.
    pub(super) run: Option<u32>,
    pub(super) unrecorded: Increments<String>,
    pub(super) oldest: Instant,
}

/// What the intake is to do next.
pub(super) enum Intake {
    Take(Taken),
    Reopen,
    WaitUntil(Instant),
    Wait,
    Done,
}

#[cfg(test)]
impl Taken {
    /// As if it had been taken now.
    pub(super) fn of(records: Vec<Record>, first: Option<u64>, run: Option<u32>) -> Self {
        Self { records, first, run, unrecorded: Increments::default(), oldest: Instant::now() }
    }
}
