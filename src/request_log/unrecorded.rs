//! What the usage counts of records that were dropped: kept until a batch, or the end of the run, takes it along. Bounded, and
//! what is lost of it is counted. Not here: when records are dropped (`queue.rs`).

use crate::config::ClientIp;
use crate::record::Record;
use crate::store::Row;
use crate::store::usage::Increments;

/// Minutes times series; bounds what an outage can make grow.
pub(super) const UNRECORDED_MAX: usize = 65_536;

/// What is dropped first when the queue fills, beside what was blocked: answers that cost a client nothing, so whoever attacks has
/// many of them.
const UNROUTED: [&str; 7] =
    ["bad_host", "bad_path", "header_too_large", "redirect_https", "no_route", "method_not_allowed", "cors"];

/// Whether a record is dropped before others.
pub(super) fn is_refusal(record: &Record) -> bool {
    record.blocked || UNROUTED.contains(&record.decided_by)
}

/// Increments of requests whose records were dropped.
#[derive(Default)]
pub(super) struct Unrecorded {
    waiting: Increments<String>,
    /// Requests that the usage will never count.
    lost: u64,
}

impl Unrecorded {
    /// Counts the request of a record that is dropped.
    pub(super) fn add(&mut self, record: &Record) {
        if self.waiting.tallies.len() < UNRECORDED_MAX {
            self.waiting.add_owned(&Row::of(record, ClientIp::None));
        } else {
            self.lost += 1;
        }
    }

    /// Takes what a lost batch would have taken along, as far as there is room.
    pub(super) fn keep(&mut self, more: Increments<String>) {
        if self.waiting.tallies.len() + more.tallies.len() <= UNRECORDED_MAX {
            self.waiting.merge(&more);
        } else {
            self.lose_all(&more);
        }
    }

    /// Gives what waits to a batch, or to the end of the run.
    pub(super) fn take(&mut self) -> Increments<String> {
        std::mem::take(&mut self.waiting)
    }

    /// Increments are lost; of so many requests.
    pub(super) fn lose_all(&mut self, increments: &Increments<String>) -> u64 {
        let requests = increments.tallies.values().map(|tally| tally.count).sum();
        self.lose(requests);
        requests
    }

    /// So many requests will never be counted.
    pub(super) fn lose(&mut self, requests: u64) {
        self.lost += requests;
    }

    /// Requests that the usage will never count.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }
}
