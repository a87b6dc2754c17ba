//! The ledger in memory: what became of each record of this process, and the checkpoints of what was lost.
//! Lies under the queue's lock, so that a record moves and is counted in the same step: every snapshot balances.
//! What the databases keep of it is `store`'s.

use std::time::SystemTime;

use crate::store::{Beat, Drops, Totals};

/// Why records were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Store and spool are behind, and `log.queue` records wait already.
    QueueFull,
    /// A refusal, while more than half of `log.queue` waits: others are worth more.
    Refusal,
    /// The store will never take this row.
    Rejected,
    /// The spool has no room, or was told to drop what is oldest.
    SpoolFull,
    /// The spool could not be written or read.
    SpoolError,
    /// Not stored when the process had to end.
    Shutdown,
    /// There is no store, and the line could not be written.
    Lines,
}

impl Loss {
    /// All of them, in the order in which they are listed.
    pub(super) const ALL: [Self; 7] = [
        Self::QueueFull,
        Self::Refusal,
        Self::Rejected,
        Self::SpoolFull,
        Self::SpoolError,
        Self::Shutdown,
        Self::Lines,
    ];

    /// The word in counters, metrics and `log_drops`.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Refusal => "refusal",
            Self::Rejected => "rejected",
            Self::SpoolFull => "spool_full",
            Self::SpoolError => "spool_error",
            Self::Shutdown => "shutdown",
            Self::Lines => "lines",
        }
    }
}

/// What became of each record.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) accepted: u64,
    pub(super) recovered: u64,
    pub(super) written: u64,
    pub(super) spooled: u64,
    dropped: [u64; Loss::ALL.len()],
    /// The highest number that was given.
    pub(super) last: u64,
    /// What was lost and is not yet in the store.
    checkpoints: Vec<Drops>,
    /// So many of them were shown to the store: whether it has them or not, they stay as they are.
    fixed: usize,
    checkpoints_made: u64,
}

impl Ledger {
    pub(super) fn dropped(&self, loss: Loss) -> u64 {
        self.dropped[loss as usize]
    }

    pub(super) fn dropped_in_all(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// By reason; every reason is listed.
    pub(super) fn dropped_by_reason(&self) -> Vec<(&'static str, u64)> {
        Loss::ALL.map(|loss| (loss.word(), self.dropped(loss))).to_vec()
    }

    /// Gives numbers to so many records; the first of them.
    pub(super) fn number(&mut self, count: usize) -> u64 {
        let first = self.last + 1;
        self.last += count as u64;
        first
    }

    /// Records without numbers are lost.
    pub(super) fn lose(&mut self, loss: Loss, count: u64) {
        self.count_lost(loss, count);
        self.check_point(loss, self.last, count, false);
    }

    /// The records `first` and following of this run are lost.
    pub(super) fn lose_numbered(&mut self, loss: Loss, first: u64, count: u64) {
        self.count_lost(loss, count);
        self.check_point(loss, first - 1, count, true);
    }

    /// Records are lost whose checkpoint is somebody else's: rejected rows (the store's), records of earlier runs, lines.
    pub(super) fn count_lost(&mut self, loss: Loss, count: u64) {
        self.dropped[loss as usize] += count;
    }

    fn check_point(&mut self, loss: Loss, after: u64, count: u64, numbered: bool) {
        if count == 0 {
            return;
        }
        let now = SystemTime::now();
        let open = self.checkpoints.get_mut(self.fixed..).unwrap_or_default();
        let same = open.iter_mut().find(|drops| {
            drops.reason == loss.word()
                && drops.numbered == numbered
                && (!numbered || drops.after + drops.count == after)
        });
        if let Some(same) = same {
            same.count += count;
            same.until = now;
            return;
        }
        self.checkpoints_made += 1;
        let reason = loss.word().to_owned();
        self.checkpoints.push(Drops {
            id: self.checkpoints_made,
            after,
            count,
            reason,
            numbered,
            since: now,
            until: now,
        });
    }

    /// What the store is told with its next transaction, in which `more` records become written. The checkpoints in it do
    /// not change any more.
    pub(super) fn beat(&mut self, more: u64, more_from_spool: bool) -> Beat {
        self.fixed = self.checkpoints.len();
        let mut totals = self.totals();
        totals.written += more;
        if more_from_spool {
            totals.spooled = totals.spooled.saturating_sub(more);
        }
        Beat { totals, drops: self.checkpoints.clone(), has_ended: false }
    }

    /// The same, but nothing is about to be stored: for the run's file beside the spool.
    pub(super) fn standing(&self) -> Beat {
        Beat { totals: self.totals(), drops: self.checkpoints.clone(), has_ended: false }
    }

    fn totals(&self) -> Totals {
        Totals {
            accepted: self.accepted,
            recovered: self.recovered,
            written: self.written,
            spooled: self.spooled,
            dropped: self.dropped_in_all(),
            last: self.last,
        }
    }

    /// The store has this beat.
    pub(super) fn beaten(&mut self, beat: &Beat) {
        let stored = beat.drops.last().map_or(0, |drops| drops.id);
        self.checkpoints.retain(|drops| drops.id > stored);
        self.fixed = self.fixed.saturating_sub(beat.drops.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_of_one_kind_become_one_checkpoint_until_the_store_is_told() {
        let mut ledger = Ledger::default();
        ledger.number(10);
        ledger.lose(Loss::QueueFull, 2);
        ledger.lose(Loss::Refusal, 1);
        ledger.lose(Loss::QueueFull, 3);
        let first = ledger.beat(0, false);
        let facts = |beat: &Beat| -> Vec<_> {
            beat.drops.iter().map(|drops| (drops.id, drops.after, drops.count, drops.numbered)).collect()
        };
        assert_eq!(facts(&first), [(1, 10, 5, false), (2, 10, 1, false)]);
        // Shown once: from now on they stay as they are, also when nobody knows whether the store has them.
        ledger.lose(Loss::QueueFull, 4);
        let second = ledger.beat(0, false);
        assert_eq!(facts(&second), [(1, 10, 5, false), (2, 10, 1, false), (3, 10, 4, false)]);
        assert_eq!(second.totals.dropped, 10);
        ledger.lose(Loss::QueueFull, 1);
        ledger.beaten(&second);
        assert_eq!(facts(&ledger.standing()), [(4, 10, 1, false)]);
        ledger.lose(Loss::QueueFull, 1);
        assert_eq!(facts(&ledger.standing()), [(4, 10, 2, false)]);
    }

    #[test]
    fn numbered_losses_are_ranges() {
        let mut ledger = Ledger::default();
        ledger.number(100);
        ledger.lose_numbered(Loss::SpoolFull, 11, 10);
        ledger.lose_numbered(Loss::SpoolFull, 21, 5);
        ledger.lose_numbered(Loss::SpoolFull, 31, 5);
        let ranges: Vec<_> = ledger.standing().drops.iter().map(|drops| (drops.after, drops.count)).collect();
        assert_eq!(ranges, [(10, 15), (30, 5)]);
    }

    #[test]
    fn a_beat_says_what_is_about_to_be_true() {
        let mut ledger = Ledger { accepted: 30, written: 10, spooled: 20, ..Ledger::default() };
        let totals = ledger.beat(5, true).totals;
        assert_eq!((totals.written, totals.spooled), (15, 15));
        assert_eq!(ledger.written, 10);
    }
}
