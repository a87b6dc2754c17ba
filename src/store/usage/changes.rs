//! What a batch changes in the roll-ups, and what a connection knows of the rows it changes.
//! A run owns its rows, so what this connection has committed for its own run is what the rows say; for everything else they
//! are read, merged and written under the lock of the run. No SQL.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::{Increments, Minute, Series, Tally};
use crate::store::row::Row;

/// Minutes whose rows are kept in memory: the present one, and those of records that took long.
const MINUTES_MAX: usize = 3;

/// Series of a minute that are kept in memory. A minute with more is read as it is needed.
pub const SERIES_MAX: usize = 4_096;

/// Identifies a series within a minute and a run; see [`Series::id`].
pub type Id = [u8; 16];

/// What is added to one row of `api_usage_minute`; after [`Known::merge`], what the row will hold.
#[derive(Clone, Debug)]
pub struct Change<'a> {
    /// The row's minute.
    pub minute: Minute,
    /// The row's series.
    pub id: Id,
    /// What the id stands for.
    pub series: Series<&'a str>,
    /// Counts and sums.
    pub tally: Tally,
}

/// The tally of a row of `api_usage_minute`: count, errors, blocked, bytes in and out, duration, upstream; the histogram.
pub fn tally(numbers: [u64; 7], histogram: &[u8]) -> Tally {
    let [count, errors, blocked, bytes_in, bytes_out, duration, upstream] = numbers;
    let mut tally = Tally { count, errors, blocked, bytes_in, bytes_out, duration, upstream, ..Tally::default() };
    if tally.histogram.merge_encoded(histogram).is_err() {
        // Somebody else has written there. Percentiles suffer; to refuse the batch would block the log.
        log::error!("request log: api_usage_minute holds a histogram that can't be read");
    }
    tally
}

/// What some rows, and requests without a row, add to the roll-ups; in the order of the table's key.
pub fn changes<'a>(rows: &[Row<'a>], unrecorded: &'a Increments<String>) -> Vec<Change<'a>> {
    let mut increments = Increments::default();
    rows.iter().for_each(|row| increments.add(row));
    for ((minute, series), tally) in &unrecorded.tallies {
        increments.tallies.entry((*minute, series.borrowed())).or_default().merge(tally);
    }
    let mut changes: Vec<_> = increments
        .tallies
        .into_iter()
        .map(|((minute, series), tally)| Change { minute, id: series.id(), series, tally })
        .collect();
    changes.sort_unstable_by_key(|change| (change.minute, change.id));
    changes
}

/// The changes before `until`, by the beginning of their hour ([`Minute::HOUR`]) or day ([`Minute::DAY`]): they come too late
/// for the value that is packed already.
pub fn late<'c, 'a>(changes: &'c [Change<'a>], until: Minute, minutes: u32) -> BTreeMap<Minute, Vec<&'c Change<'a>>> {
    let mut late: BTreeMap<Minute, Vec<_>> = BTreeMap::new();
    for change in changes.iter().filter(|change| change.minute < until) {
        late.entry(change.minute.floor(minutes)).or_default().push(change);
    }
    late
}

/// What the rows of one run hold in its last minutes. Dropped after any failure, because then nobody knows.
#[derive(Debug, Default)]
pub struct Known {
    minutes: BTreeMap<Minute, Rows>,
    large: BTreeSet<Minute>,
}

#[derive(Debug, Default)]
struct Rows {
    /// Every row that the minute has is here.
    all: bool,
    tallies: FxHashMap<Id, Tally>,
}

/// Rows that have to be read before a batch can be merged.
#[derive(Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Of this minute.
    pub minute: Minute,
    /// At least these.
    pub ids: Vec<Id>,
    /// There are too many others.
    pub is_large: bool,
}

impl Known {
    /// What has to be read, and given to [`Self::read`].
    pub fn unknown(&self, changes: &[Change<'_>]) -> Vec<Unknown> {
        let mut unknown: Vec<Unknown> = Vec::new();
        for Change { minute, id, .. } in changes {
            if self.minutes.contains_key(minute) {
                continue;
            }
            match unknown.last_mut().filter(|last| last.minute == *minute) {
                Some(last) => last.ids.push(*id),
                None => {
                    let is_large = self.large.contains(minute);
                    unknown.push(Unknown { minute: *minute, ids: vec![*id], is_large });
                }
            }
        }
        unknown
    }

    /// Takes in what was read of a minute: all its rows, or those that were asked for.
    pub fn read(&mut self, minute: Minute, rows: impl IntoIterator<Item = (Id, Tally)>, all: bool) {
        if !all {
            self.large.insert(minute);
        }
        self.minutes.insert(minute, Rows { all, tallies: rows.into_iter().collect() });
    }

    /// Makes of what is added what the rows will hold.
    pub fn merge(&mut self, changes: &mut [Change<'_>]) {
        for change in changes {
            let rows = self.minutes.get_mut(&change.minute);
            if let Some(mut tally) = rows.and_then(|rows| rows.tallies.remove(&change.id)) {
                tally.merge(&change.tally);
                change.tally = tally;
            }
        }
    }

    /// What [`Self::merge`] made is now what the rows hold.
    pub fn committed(&mut self, changes: Vec<Change<'_>>) {
        for change in changes {
            if let Some(rows) = self.minutes.get_mut(&change.minute) {
                rows.tallies.insert(change.id, change.tally);
            }
        }
        self.large.extend(self.minutes.iter().filter(|(_, rows)| rows.tallies.len() > SERIES_MAX).map(|(at, _)| *at));
        let large = &self.large;
        self.minutes.retain(|minute, rows| rows.all && !large.contains(minute));
        while self.minutes.len() > MINUTES_MAX {
            self.minutes.pop_first();
        }
        while self.large.len() > MINUTES_MAX {
            self.large.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(minute: u32, id: u8, count: u64) -> Change<'static> {
        let tally = Tally { count, ..Tally::default() };
        Change { minute: Minute(minute), id: [id; 16], series: Series::default(), tally }
    }

    #[test]
    fn what_was_committed_is_not_read_again() {
        let mut known = Known::default();
        let mut changes = vec![change(5, 1, 10), change(5, 2, 20)];
        let unknown = known.unknown(&changes);
        assert_eq!(unknown, [Unknown { minute: Minute(5), ids: vec![[1; 16], [2; 16]], is_large: false }]);
        known.read(Minute(5), [([1; 16], Tally { count: 7, ..Tally::default() })], true);
        known.merge(&mut changes);
        assert_eq!(changes.iter().map(|change| change.tally.count).collect::<Vec<_>>(), [17, 20]);
        known.committed(changes);

        let mut changes = vec![change(5, 2, 1), change(5, 3, 1)];
        assert!(known.unknown(&changes).is_empty());
        known.merge(&mut changes);
        assert_eq!(changes.iter().map(|change| change.tally.count).collect::<Vec<_>>(), [21, 1]);
    }

    #[test]
    fn few_minutes_and_few_series_are_kept() {
        let mut known = Known::default();
        for minute in 0..10 {
            known.read(Minute(minute), [], true);
            known.committed(vec![change(minute, 1, 1)]);
        }
        assert_eq!(known.minutes.len(), MINUTES_MAX);
        let many = (0..=SERIES_MAX as u128).map(|id| (id.to_be_bytes(), Tally::default()));
        known.read(Minute(20), many, true);
        known.committed(vec![]);
        assert!(known.unknown(&[change(20, 1, 1)])[0].is_large);
        // Rows that were read one by one say nothing about the others.
        known.read(Minute(21), [], false);
        known.committed(vec![change(21, 1, 1)]);
        assert!(known.unknown(&[change(21, 2, 1)])[0].is_large);
    }

    #[test]
    fn changes_before_what_is_packed_are_late() {
        let changes = [change(59, 1, 1), change(60, 1, 1), change(61, 1, 1), change(120, 1, 1)];
        let late = late(&changes, Minute(120), Minute::HOUR);
        let found: Vec<_> = late.iter().map(|(hour, changes)| (hour.0, changes.len())).collect();
        assert_eq!(found, [(0, 1), (60, 2)]);
    }
}
