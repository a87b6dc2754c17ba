//! The ledger, as far as it is the same in both stores: the bounds of a batch, the checkpoints that a store writes itself, and
//! what a killed run has lost. Plain arithmetic, no SQL.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustc_hash::FxHashSet;

use super::{Batch, Drops, Failure, Moment, Rejected, Row, Totals};

/// The id of the checkpoint of a run that was killed; those of the writer begin with 1.
const KILLED_ID: u64 = 1 << 61;

/// With the first number of a batch, the id of the checkpoint of its rejected rows.
const REJECTED_ID: u64 = 1 << 62;

/// What the ledger says of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The sequence of the first row.
    pub first: u64,
    /// The sequence of the last row.
    pub last: u64,
    /// How many rows.
    pub rows: u64,
    /// The oldest time of a request.
    pub oldest: Moment,
    /// The newest.
    pub newest: Moment,
}

impl Bounds {
    /// The bounds of a batch.
    pub fn of(batch: &Batch<'_>) -> Self {
        let rows = batch.rows.len() as u64;
        let times = || batch.rows.iter().map(|row| row.timestamp);
        let none = Moment::of(UNIX_EPOCH);
        Self {
            first: batch.first,
            last: batch.first.saturating_add(rows.saturating_sub(1)),
            rows,
            oldest: times().min().unwrap_or(none),
            newest: times().max().unwrap_or(none),
        }
    }

    /// Whether a range of the ledger that begins at or before the batch has the batch in it, given where it ends.
    ///
    /// # Errors
    /// It has only the beginning: these are not the bounds the batch had before.
    pub fn is_there(&self, range_last: Option<u64>) -> Result<bool, Failure> {
        match range_last {
            Some(last) if last >= self.last => Ok(true),
            Some(last) if last >= self.first => Err(Failure::Denied(format!(
                "the ledger has the records to {last} already, and a batch from {} to {} does not fit to them",
                self.first, self.last
            ))),
            _ => Ok(false),
        }
    }

    /// The id of the checkpoint of the batch's rejected rows.
    pub fn rejected_id(&self) -> u64 {
        REJECTED_ID | self.first
    }

    /// The rows of a batch that was there already, with a checkpoint: all that are not among those that are stored.
    pub fn rejected_before(&self, stored: &FxHashSet<u64>) -> Vec<Rejected> {
        let lacking = (self.first..=self.last).filter(|sequence| !stored.contains(sequence));
        lacking.map(|sequence| Rejected { sequence, code: "refused when it was tried before".to_owned() }).collect()
    }
}

/// The checkpoint of the rows that a store never takes.
pub fn rejected_drops(batch: &Batch<'_>, rejected: &[Rejected]) -> Option<Drops> {
    let bounds = Bounds::of(batch);
    let row = |one: &Rejected| batch.rows.get(usize::try_from(one.sequence.checked_sub(batch.first)?).ok()?);
    let time = |row: &Row<'_>| row.minute.time() + Duration::from_secs(u64::from(row.timestamp.second));
    let times = || rejected.iter().filter_map(row).map(time);
    Some(Drops {
        id: bounds.rejected_id(),
        after: bounds.last,
        count: rejected.len() as u64,
        reason: "rejected".to_owned(),
        numbered: false,
        since: times().min()?,
        until: times().max()?,
    })
}

/// What `log_runs` says of a run when it is closed for another.
#[derive(Clone, Copy, Debug)]
pub struct Killed {
    /// Its totals at its last beat.
    pub totals: Totals,
    /// When that was, in seconds since 1970.
    pub beat_at: u64,
    /// Records in the ranges of the ledger.
    pub stored: u64,
    /// Records in checkpoints.
    pub dropped: u64,
    /// How many of them were rejected: those lie in the ledger's ranges.
    pub rejected: u64,
    /// The highest number in the ledger.
    pub last: u64,
}

impl Killed {
    /// The totals that the run ends with, and the checkpoint of what is known to be lost: when it was killed, where there is always
    /// one, because it also says that there was a kill; or, where the run had ended in order, in the spool it left.
    pub fn end(self, last_known: Totals, was_closed: bool, now: SystemTime) -> (Totals, Option<Drops>) {
        let mut totals = if last_known.accepted > self.totals.accepted { last_known } else { self.totals };
        totals.last = totals.last.max(self.totals.last).max(last_known.last).max(self.last);
        let checked = self.dropped.saturating_sub(self.rejected);
        let count = totals.accepted.saturating_sub(self.stored).saturating_sub(checked);
        totals.dropped = self.dropped.saturating_add(count);
        // What it did not write itself, others found in its spool.
        let made = totals.accepted.saturating_add(totals.recovered);
        totals.spooled = made.saturating_sub(totals.written).saturating_sub(totals.dropped);
        if count == 0 && was_closed {
            return (totals, None);
        }
        let since = UNIX_EPOCH.checked_add(Duration::from_secs(self.beat_at)).unwrap_or(now);
        let reason = if was_closed { "spool_error" } else { "killed" }.to_owned();
        let drops =
            Drops { id: KILLED_ID, after: totals.last, count, reason, numbered: false, since, until: now.max(since) };
        (totals, Some(drops))
    }
}

impl Totals {
    /// The same, where some of the rows were not written but rejected.
    pub(super) fn without(self, rejected: usize) -> Self {
        let rejected = rejected as u64;
        Self { written: self.written.saturating_sub(rejected), dropped: self.dropped.saturating_add(rejected), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Bounds {
        let time = Moment::of(UNIX_EPOCH);
        Bounds { first: 11, last: 20, rows: 10, oldest: time, newest: time }
    }

    #[test]
    fn a_batch_is_there_when_a_range_holds_all_of_it() {
        for (last, there) in [
            (None, Some(false)),
            (Some(10), Some(false)),
            (Some(20), Some(true)),
            (Some(99), Some(true)),
            (Some(15), None),
        ] {
            assert_eq!(bounds().is_there(last).ok(), there, "{last:?}");
        }
    }

    #[test]
    fn what_a_killed_run_lost_is_what_nothing_accounts_for() {
        let now = SystemTime::now();
        let killed = Killed {
            totals: Totals { accepted: 100, written: 60, dropped: 5, last: 80, ..Totals::default() },
            beat_at: 1_000,
            stored: 70,
            dropped: 7,
            rejected: 2,
            last: 90,
        };
        let (totals, drops) = killed.end(Totals::default(), false, now);
        let drops = drops.unwrap();
        assert_eq!((drops.id, drops.after, drops.count, drops.numbered), (1 << 61, 90, 25, false));
        assert_eq!((totals.accepted, totals.dropped, totals.last), (100, 32, 90));
        assert_eq!(totals.written + totals.spooled + totals.dropped, totals.accepted + totals.recovered);
        // The spool's folder may know more than the last beat.
        let later = Totals { accepted: 110, dropped: 7, last: 95, ..Totals::default() };
        let (totals, drops) = killed.end(later, false, now);
        assert_eq!((totals.accepted, totals.dropped, drops.unwrap().count), (110, 42, 35));
        let nothing = Killed { stored: 95, ..killed };
        // That nothing is known to be lost does not say that nothing is: that there was a kill is said all the same.
        assert_eq!(nothing.end(Totals::default(), false, now).1.map(|drops| drops.count), Some(0));
        assert_eq!(nothing.end(Totals::default(), true, now).1, None);
        assert_eq!(killed.end(Totals::default(), true, now).1.unwrap().reason, "spool_error");
    }

    #[test]
    fn rejected_rows_are_not_written() {
        let totals = Totals { accepted: 10, written: 10, ..Totals::default() }.without(3);
        assert_eq!((totals.accepted, totals.written, totals.dropped), (10, 7, 3));
    }
}
