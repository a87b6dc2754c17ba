//! The plan of a question: which days, hours and minutes of the roll-ups answer it, so that as few as possible are read and
//! nothing is counted twice. Where retention has removed what an end of the window would need, the window is widened.
//! Pure: knows the runs and what retention removed, and reads nothing.

use std::ops::Range;

use rustc_hash::FxHashMap;

use crate::analytics::window::Zone;
use crate::store::read::{Hours, Removed, StoredRun};
use crate::store::usage::Minute;

/// How far the clock of a gateway may have jumped: a run that was never packed is looked for from its start, and every run
/// until it was last heard of, by so much more on either side.
const CLOCK_JUMP: u32 = 2 * Minute::HOUR;

/// The coarsest roll-up that still tells apart what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grain {
    Minute,
    Hour,
    Day,
}

impl Grain {
    pub(super) fn minutes(self) -> u32 {
        match self {
            Self::Minute => 1,
            Self::Hour => Minute::HOUR,
            Self::Day => Minute::DAY,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// What is read for a window.
#[derive(Debug)]
pub(super) struct Plan {
    /// As it was widened.
    pub(super) window: Range<Minute>,
    /// Whole days: of each run those that are packed.
    pub(super) days: Range<Minute>,
    /// Whole hours: of each run those that are packed and lie in no packed day.
    pub(super) hours: Range<Minute>,
    /// Everything else, in order and apart from each other.
    pub(super) minutes: Vec<Range<Minute>>,
    /// How the window was widened, and what is coarser than was asked for.
    pub(super) notes: Vec<String>,
    /// Until when the hours and the days of a run are packed.
    packed: FxHashMap<u32, (Minute, Minute)>,
}

/// Everything before these minutes was removed by retention.
struct Gone {
    minutes: Minute,
    hours: Minute,
}

impl Plan {
    pub(super) fn of(asked: Range<Minute>, grain: Grain, runs: &[StoredRun], removed: &Removed, zone: &Zone) -> Self {
        let first_kept = |before: jiff::Timestamp| {
            let seconds = u64::try_from(before.as_second()).unwrap_or_default();
            Minute(u32::try_from(seconds.div_ceil(60)).unwrap_or(u32::MAX))
        };
        let gone = Gone { minutes: first_kept(removed.minutes), hours: first_kept(removed.hours) };
        let mut notes = Vec::new();
        let window = widen(asked, &gone, zone, &mut notes);
        let Range { start, end } = window.clone();
        let mut hours_end = end.floor(Minute::HOUR);
        let mut days_end = end.floor(Minute::DAY);
        if grain < Grain::Day {
            days_end = days_end.min(gone.hours.ceil(Minute::DAY));
        }
        if grain < Grain::Hour {
            hours_end = hours_end.min(gone.minutes.ceil(Minute::HOUR).max(days_end));
        }
        let days = whole(start.ceil(Minute::DAY), days_end, start);
        let hours = whole(start.ceil(Minute::HOUR), hours_end, start);
        if grain == Grain::Hour && !days.is_empty() {
            notes.push(format!("hours before {} were removed: days stand for them", zone.minute(days.end)));
        }
        let packed = runs.iter().map(|run| (run.run, (run.hours_until, run.days_until))).collect();
        let mut minutes =
            if hours.is_empty() { vec![window.clone()] } else { vec![start..hours.start, hours.end..end] };
        minutes.extend(runs.iter().map(|run| unpacked(run, &window)));
        Self { window, days, hours, minutes: apart(minutes), notes, packed }
    }

    pub(super) fn hours(&self) -> Hours {
        Hours { window: self.hours.clone(), but_days: self.days.clone() }
    }

    /// Whether this minute of a run is read as a minute: neither its hour nor its day is.
    pub(super) fn takes_minute(&self, run: u32, minute: Minute) -> bool {
        let (hours_until, days_until) = self.packed.get(&run).copied().unwrap_or((Minute(0), Minute(0)));
        let is_in_hours = self.hours.contains(&minute) && minute < hours_until;
        let is_in_days = self.days.contains(&minute) && minute < days_until;
        !is_in_hours && !is_in_days
    }
}

/// Widens the ends that nothing is left of.
fn widen(asked: Range<Minute>, gone: &Gone, zone: &Zone, notes: &mut Vec<String>) -> Range<Minute> {
    let (mut start, mut end) = (asked.start, asked.end);
    for (what, length, kept) in [("minutes", Minute::HOUR, gone.minutes), ("hours", Minute::DAY, gone.hours)] {
        let to = if length == Minute::HOUR { "whole hours" } else { "whole days" };
        let before = (start, end);
        // What lies between the end of the window and the whole hour or day beside it has to be there.
        if start.floor(length) != start && start < kept {
            start = start.floor(length);
        }
        if end.floor(length) != end && end.floor(length) < kept {
            end = end.ceil(length);
        }
        if before != (start, end) {
            notes.push(format!("{what} before {} were removed: the window is widened to {to}", zone.minute(kept)));
        }
    }
    start..end
}

/// A range that is empty at `otherwise` when it would end before it begins.
fn whole(start: Minute, end: Minute, otherwise: Minute) -> Range<Minute> {
    if start < end { start..end } else { otherwise..otherwise }
}

/// Where a run can have minutes that are not packed.
fn unpacked(run: &StoredRun, window: &Range<Minute>) -> Range<Minute> {
    let minute = |time: jiff::Timestamp| Minute::of(time.into());
    let started = minute(run.started).0.saturating_sub(CLOCK_JUMP);
    let heard = run.closed.map_or(run.beat, |closed| closed.max(run.beat));
    let until = minute(heard).0.saturating_add(CLOCK_JUMP);
    let start = if run.hours_until.0 == 0 { Minute(started) } else { run.hours_until };
    start.max(window.start)..Minute(until).min(window.end)
}

/// The same minutes as ranges that do not touch.
fn apart(mut ranges: Vec<Range<Minute>>) -> Vec<Range<Minute>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut apart: Vec<Range<Minute>> = Vec::new();
    for range in ranges {
        match apart.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => apart.push(range),
        }
    }
    apart
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::analytics::window::timestamp;
    use crate::store::Totals;

    const DAY: u32 = Minute::DAY;

    fn run(run: u32, hours_until: u32, days_until: u32, beat: u32) -> StoredRun {
        StoredRun {
            run,
            node: String::new(),
            version: String::new(),
            started: Timestamp::UNIX_EPOCH,
            beat: timestamp(Minute(beat)),
            closed: None,
            totals: Totals::default(),
            hours_until: Minute(hours_until),
            days_until: Minute(days_until),
        }
    }

    fn plan(asked: Range<u32>, grain: Grain, runs: &[StoredRun], gone: (u32, u32)) -> Plan {
        let removed =
            Removed { minutes: timestamp(Minute(gone.0)), hours: timestamp(Minute(gone.1)), ..Removed::default() };
        Plan::of(Minute(asked.start)..Minute(asked.end), grain, runs, &removed, &Zone::default())
    }

    fn ranges(plan: &Plan) -> (Range<u32>, Range<u32>, Vec<(u32, u32)>) {
        let plain = |range: &Range<Minute>| range.start.0..range.end.0;
        (plain(&plan.days), plain(&plan.hours), plan.minutes.iter().map(|range| (range.start.0, range.end.0)).collect())
    }

    #[test]
    fn days_lie_in_hours_and_hours_between_minutes() {
        let packed = run(1, 100 * DAY, 100 * DAY, 99 * DAY);
        let (from, to) = (2 * DAY - 61, 5 * DAY + 90);
        let found = plan(from..to, Grain::Day, std::slice::from_ref(&packed), (0, 0));
        let minutes = vec![(from, 2 * DAY - 60), (5 * DAY + 60, to)];
        assert_eq!(ranges(&found), (2 * DAY..5 * DAY, 2 * DAY - 60..5 * DAY + 60, minutes.clone()));
        let found = plan(from..to, Grain::Hour, std::slice::from_ref(&packed), (0, 0));
        assert_eq!(ranges(&found), (from..from, 2 * DAY - 60..5 * DAY + 60, minutes));
        let found = plan(from..to, Grain::Minute, &[packed], (0, 0));
        assert_eq!(ranges(&found), (from..from, from..from, vec![(from, to)]));
    }

    #[test]
    fn what_is_not_packed_is_read_from_minutes() {
        // One run is packed until 02:00, the other was killed at 01:30 of the day before, packed until 01:00.
        let (today, yesterday) = (10 * DAY, 9 * DAY);
        let runs = [run(1, today + 120, today, today + 150), run(2, yesterday + 60, yesterday, yesterday + 90)];
        let found = plan(5 * DAY..today + 151, Grain::Day, &runs, (0, 0));
        let minutes = vec![(yesterday + 60, yesterday + 90 + CLOCK_JUMP), (today + 120, today + 151)];
        assert_eq!(ranges(&found), (5 * DAY..today, 5 * DAY..today + 120, minutes));
        assert!(!found.takes_minute(1, Minute(yesterday + 61)) && found.takes_minute(2, Minute(yesterday + 61)));
        assert!(!found.takes_minute(2, Minute(yesterday + 59)) && found.takes_minute(1, Minute(today + 120)));
        assert!(found.takes_minute(3, Minute(yesterday)));
    }

    #[test]
    fn a_window_within_an_hour_is_minutes() {
        let found = plan(130..150, Grain::Day, &[run(1, DAY, 0, DAY)], (0, 0));
        assert_eq!(ranges(&found), (130..130, 130..130, vec![(130, 150)]));
        assert!(found.takes_minute(1, Minute(140)) && found.notes.is_empty());
    }

    #[test]
    fn ends_without_minutes_are_widened_to_hours() {
        let runs = [run(1, 100 * DAY, 100 * DAY, 100 * DAY)];
        let found = plan(61..200, Grain::Day, &runs, (190, 0));
        assert_eq!((found.window.start.0, found.window.end.0, found.notes.len()), (60, 240, 1));
        assert_eq!(ranges(&found).1, 60..240);
        // The minutes of 03:00 are there as a whole.
        let found = plan(61..200, Grain::Day, &runs, (180, 0));
        assert_eq!((found.window.start.0, found.window.end.0), (60, 200));
        let found = plan(61..200, Grain::Day, &runs, (61, 0));
        assert_eq!((found.window.start.0, found.window.end.0, found.notes.len()), (61, 200, 0));
    }

    #[test]
    fn ends_without_hours_are_widened_to_days_and_days_stand_for_hours() {
        let runs = [run(1, 100 * DAY, 100 * DAY, 100 * DAY)];
        let found = plan(DAY + 61..9 * DAY + 61, Grain::Hour, &runs, (8 * DAY, 3 * DAY + 60));
        assert_eq!((found.window.start.0, found.window.end.0), (DAY, 9 * DAY + 61));
        assert_eq!(ranges(&found).0, DAY..4 * DAY);
        assert_eq!(found.notes.len(), 3, "{:?}", found.notes);
    }

    #[test]
    fn minutes_that_are_gone_are_read_as_hours() {
        let runs = [run(1, 100 * DAY, 100 * DAY, 100 * DAY)];
        let found = plan(DAY..3 * DAY, Grain::Minute, &runs, (2 * DAY - 30, 0));
        assert_eq!(ranges(&found), (DAY..DAY, DAY..2 * DAY, vec![(2 * DAY, 3 * DAY)]));
    }
}
