//! Upkeep, as far as it is the same in both stores: what is due when, which ranges of the ledger are merged, before which
//! time retention removes. Steps are small, because they run between batches. No SQL.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustc_hash::FxHashSet;

use super::row::Moment;
use super::usage::{Minute, Packing};
use super::{Kept, Removed};
use crate::config::{Retention, Span};

/// Rows that one step reads or removes.
pub const STEP_ROWS: usize = 1_000;

/// Rows of the ledger that one step reads.
pub const LEDGER_PAGE: usize = 500;

/// Hours that are looked at to find out whether an ended run has any left.
pub const LOOKS_MAX: usize = 50;

/// How old a row of the ledger is before it is merged.
const LEDGER_AGE: Duration = Duration::from_secs(24 * 3_600);

/// Failures of a task before it rests, and how long it does.
const FAILURES_MAX: u8 = 3;
const FAILED_PAUSE: Duration = Duration::from_secs(60);

/// What is done between batches, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Partitions for the coming days.
    Partitions,
    /// Hours and days.
    Pack,
    /// What is no longer kept.
    Retain,
    /// The ledger.
    Merge,
}

impl Task {
    const ALL: [Self; 4] = [Self::Partitions, Self::Pack, Self::Retain, Self::Merge];

    /// The pause after everything was done.
    const fn every(self) -> Duration {
        Duration::from_secs(match self {
            Self::Pack => 5,
            Self::Retain => 60,
            Self::Partitions | Self::Merge => 3_600,
        })
    }
}

/// Where upkeep stands.
#[derive(Debug, Default)]
pub struct Upkeep {
    rests: [Option<Instant>; Task::ALL.len()],
    /// What is being packed.
    pub packing: Option<Packing>,
    /// The run whose ledger is being merged, and from which record on.
    pub merging: Option<(u32, u64)>,
    /// Ended runs whose ledger is merged.
    pub merged: FxHashSet<u32>,
    /// Rows to be removed yet, because the log is too large.
    pub excess_rows: u64,
    /// Partitions can't be dropped by this user; rows are deleted instead.
    pub is_drop_refused: bool,
    /// What the store keeps, as it was seen last.
    pub kept: Option<Arc<Kept>>,
    /// Failures of each task since it last rested.
    failures: [u8; Task::ALL.len()],
    said: Option<String>,
}

impl Upkeep {
    /// The first task that is due.
    pub fn due(&self) -> Option<Task> {
        let is_due = |rest: &Option<Instant>| rest.is_none_or(|until| Instant::now() >= until);
        Task::ALL.into_iter().zip(&self.rests).find(|(_, rest)| is_due(rest)).map(|(task, _)| task)
    }

    /// Nothing is left to do of this task for now.
    pub fn rest(&mut self, task: Task) {
        self.rest_for(task, task.every());
    }

    /// A task failed. It is begun anew, but after some failures it rests, so that it keeps no other from its turn.
    pub fn failed(&mut self, task: Task) {
        self.packing = None;
        self.failures[task as usize] += 1;
        if self.failures[task as usize] >= FAILURES_MAX {
            self.rest_for(task, FAILED_PAUSE);
        }
    }

    /// Nothing is to be done of this task for so long.
    pub fn rest_for(&mut self, task: Task, pause: Duration) {
        self.failures[task as usize] = 0;
        self.rests[task as usize] = Instant::now().checked_add(pause);
    }

    /// A page of a run's ledger was merged; `next` is where its next page begins. A run that has ended, and has nothing young
    /// left, is never looked at again.
    pub fn page_merged(&mut self, run: u32, next: Option<u64>, has_ended: bool, page: &[Range], before: &str) {
        match next {
            Some(next) => self.merging = Some((run, next)),
            None if has_ended && page.iter().all(|range| *range.written_at < *before) => {
                self.merged.insert(run);
            }
            None => {}
        }
    }

    /// Whether it is time to see what the store keeps: after everything was removed that had to be, and while that takes long.
    pub fn is_to_look(&self, has_more: bool, now: SystemTime) -> bool {
        let age = self.kept.as_ref().and_then(|kept| now.duration_since(kept.seen).ok());
        !has_more || age.is_none_or(|age| age >= Task::Retain.every())
    }

    /// What can't be done, and why; not said again until it is something else.
    pub fn say(&mut self, message: &str) {
        if self.said.as_deref() != Some(message) {
            log::warn!("request log: upkeep: {message}");
            self.said = Some(message.to_owned());
        }
    }
}

/// A time ago.
pub fn ago(now: SystemTime, span: Span) -> SystemTime {
    now.checked_sub(span.0).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Before which hour minutes are removed, where every run has packed its hours before `packed`.
pub fn minutes_before(now: SystemTime, keep: &Retention, packed: Minute) -> Minute {
    Minute::of(ago(now, keep.minutes)).floor(Minute::HOUR).min(packed)
}

/// Before which day hours are removed, where every run has packed its days before `packed`.
pub fn hours_before(now: SystemTime, keep: &Retention, packed: Minute) -> Minute {
    Minute::of(ago(now, keep.hours)).floor(Minute::DAY).min(packed)
}

/// What `log_retention` says when requests were removed because of `log.retention.size`: that they are gone, and why.
pub const BY_SIZE: [&str; 2] = ["requests", SIZE];

const SIZE: &str = "size";

/// What the rows of `log_retention` (what, before, removed at) say.
pub fn removed(rows: impl IntoIterator<Item = (String, String, String)>) -> Vec<Removed> {
    let rows: Vec<_> = rows.into_iter().collect();
    let by_size = rows.iter().find(|(what, ..)| what == SIZE).map(|(_, before, _)| before);
    let is_by_size = |what: &str, before: &String| what == "requests" && by_size.is_some_and(|size| size >= before);
    let removed = rows.iter().filter(|(what, ..)| what != SIZE).map(|(what, before, at)| Removed {
        limit: if is_by_size(what, before) { SIZE.to_owned() } else { what.clone() },
        what: what.clone(),
        before: before.clone(),
        at: at.clone(),
    });
    removed.collect()
}

/// Before which time rows of the ledger are merged, as text.
pub fn ledger_before(now: SystemTime) -> String {
    Moment::of(now.checked_sub(LEDGER_AGE).unwrap_or(SystemTime::UNIX_EPOCH)).to_string()
}

/// A row of the ledger; times as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first record.
    pub first: u64,
    /// The last record.
    pub last: u64,
    /// How many of these are stored.
    pub rows: u64,
    /// The oldest time of a request.
    pub oldest: String,
    /// The newest.
    pub newest: String,
    /// When the last of them was stored.
    pub written_at: String,
}

/// What merging makes of a page of the ledger: ranges that stand for more than one row, and from which record on the next page
/// is read; none when no row behind it is old enough. A range does not go beyond the day of its requests, so that an audit tells
/// rows that are missing from those that retention has removed.
pub fn merge_ranges(page: &[Range], before: &str) -> (Vec<Range>, Option<u64>) {
    let old = page.iter().take_while(|range| *range.written_at < *before);
    let mut merged: Vec<(Range, bool)> = Vec::new();
    for range in old {
        let goes_on =
            |last: &Range| last.last.checked_add(1) == Some(range.first) && day(&last.oldest) == day(&range.oldest);
        match merged.last_mut().filter(|(last, _)| goes_on(last)) {
            Some((last, is_merged)) => {
                last.last = range.last;
                last.rows = last.rows.saturating_add(range.rows);
                last.oldest = range.oldest.clone().min(std::mem::take(&mut last.oldest));
                last.newest = range.newest.clone().max(std::mem::take(&mut last.newest));
                last.written_at = range.written_at.clone().max(std::mem::take(&mut last.written_at));
                *is_merged = true;
            }
            None => merged.push((range.clone(), false)),
        }
    }
    let is_full = page.len() >= LEDGER_PAGE && page.last().is_some_and(|last| *last.written_at < *before);
    let next = merged.last().filter(|_| is_full).map(|(last, _)| last.first);
    (merged.into_iter().filter(|(_, is_merged)| *is_merged).map(|(range, _)| range).collect(), next)
}

fn day(time: &str) -> &str {
    time.get(..10).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, last: u64, written_at: &str) -> Range {
        Range {
            first,
            last,
            rows: last - first + 1,
            oldest: format!("2026-03-01 {first:04}"),
            newest: format!("2026-03-01 {last:04}"),
            written_at: written_at.to_owned(),
        }
    }

    #[test]
    fn neighbours_that_are_old_become_one_range() {
        let page = [range(1, 10, "a"), range(11, 20, "b"), range(31, 40, "c"), range(41, 50, "x"), range(51, 60, "z")];
        let (merged, next) = merge_ranges(&page, "w");
        assert_eq!((merged, next), (vec![range(1, 20, "b")], None));
        let (merged, _) = merge_ranges(&page, "y");
        assert_eq!(merged, [range(1, 20, "b"), range(31, 50, "x")]);
    }

    #[test]
    fn a_range_ends_with_its_day() {
        let next_day = Range { oldest: "2026-03-02 00:00".to_owned(), ..range(11, 20, "a") };
        let page = [range(1, 5, "a"), range(6, 10, "a"), next_day, range(21, 30, "a")];
        let (merged, _) = merge_ranges(&page, "w");
        assert_eq!(merged.iter().map(|range| (range.first, range.last)).collect::<Vec<_>>(), [(1, 10)]);
    }

    #[test]
    fn a_full_page_is_followed_by_another() {
        let gaps: Vec<_> = (0..LEDGER_PAGE as u64).map(|place| range(place * 10, place * 10, "a")).collect();
        let last = gaps.last().map(|range| range.first);
        assert_eq!(merge_ranges(&gaps, "b"), (vec![], last));
        assert_eq!(merge_ranges(&gaps[1..], "b"), (vec![], None));
        let rows: Vec<_> = (0..LEDGER_PAGE as u64).map(|place| range(place, place, "a")).collect();
        assert_eq!(merge_ranges(&rows, "b"), (vec![range(0, LEDGER_PAGE as u64 - 1, "a")], Some(0)));
    }

    #[test]
    fn what_is_not_packed_is_kept() {
        let now = SystemTime::now();
        let keep = Retention { minutes: Span::seconds(0), hours: Span::seconds(0), ..Retention::default() };
        assert_eq!(minutes_before(now, &keep, Minute(120)), Minute(120));
        assert_eq!(hours_before(now, &keep, Minute(2_880)), Minute(2_880));
        assert!(minutes_before(now, &Retention::default(), Minute(u32::MAX)) < Minute::of(now));
    }

    #[test]
    fn what_was_removed_names_the_limit() {
        let row = |what: &str, before: &str| (what.to_owned(), before.to_owned(), "at".to_owned());
        let limits =
            |rows: Vec<_>| removed(rows).into_iter().map(|removed| (removed.what, removed.limit)).collect::<Vec<_>>();
        let pair = |what: &str, limit: &str| (what.to_owned(), limit.to_owned());
        assert_eq!(
            limits(vec![row("hours", "a"), row("requests", "b")]),
            [pair("hours", "hours"), pair("requests", "requests")]
        );
        assert_eq!(limits(vec![row("requests", "b"), row("size", "b")]), [pair("requests", "size")]);
        assert_eq!(limits(vec![row("requests", "c"), row("size", "b")]), [pair("requests", "requests")]);
    }

    #[test]
    fn tasks_rest_when_they_are_done() {
        let mut upkeep = Upkeep::default();
        for task in Task::ALL {
            assert_eq!(upkeep.due(), Some(task));
            upkeep.rest(task);
        }
        assert_eq!(upkeep.due(), None);
    }
}
