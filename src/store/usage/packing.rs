//! Packing: the minutes of an hour, or the hours of a day, of one run become one value.
//! Read in steps, because an hour can have a hundred thousand rows; what came in between is found by the sum of the counts,
//! and the hour is then read again. No SQL.

use std::time::{Duration, SystemTime};

use rustc_hash::FxHashMap;

use super::changes::{Change, Id};
use super::outlines::outlines;
use super::{Damaged, Minute, Packed, Series, Tally, pack};

/// How long ago an hour ended before it is packed: records of it may still come.
pub const SETTLED_AFTER: Duration = Duration::from_secs(5 * 60);

/// How long a run has not been heard of before others pack its hours.
pub const SILENT_AFTER: Duration = Duration::from_secs(5 * 60);

/// `hours_until` and `days_until` of a run that has ended, when all it had is packed: what may still come of it is late, and
/// merged into what is packed. The year 9999.
pub const ENDED: Minute = Minute(2_932_532 * Minute::DAY);

/// What is packed into what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Minutes into hours.
    Hours,
    /// Hours into days.
    Days,
}

impl Level {
    /// Minutes of what is made.
    pub const fn minutes(self) -> u32 {
        match self {
            Self::Hours => Minute::HOUR,
            Self::Days => Minute::DAY,
        }
    }

    /// Minutes of what it is made of.
    pub const fn part_minutes(self) -> u32 {
        match self {
            Self::Hours => 1,
            Self::Days => Minute::HOUR,
        }
    }

    /// The table and its column of what is made.
    pub const fn table(self) -> (&'static str, &'static str) {
        match self {
            Self::Hours => ("api_usage_hour", "hour"),
            Self::Days => ("api_usage_day", "day"),
        }
    }

    /// The table and its column of what it is made of.
    pub const fn part_table(self) -> (&'static str, &'static str) {
        match self {
            Self::Hours => ("api_usage_minute", "minute"),
            Self::Days => ("api_usage_hour", "hour"),
        }
    }

    /// The table of the outlines of what is made; its column of time is that of [`Self::table`].
    pub const fn outline_table(self) -> &'static str {
        match self {
            Self::Hours => "api_usage_outline_hour",
            Self::Days => "api_usage_outline_day",
        }
    }

    /// The column of `log_runs` that says how far it is.
    pub const fn until_column(self) -> &'static str {
        match self {
            Self::Hours => "hours_until",
            Self::Days => "days_until",
        }
    }

    /// Before which time everything is settled now, in whole hours or days.
    pub fn settled(self, now: SystemTime) -> Minute {
        Minute::of(now.checked_sub(SETTLED_AFTER).unwrap_or(SystemTime::UNIX_EPOCH)).floor(self.minutes())
    }

    /// The beginnings of the parts of an hour or day.
    pub fn parts(self, start: Minute) -> impl Iterator<Item = Minute> {
        let end = start.0.saturating_add(self.minutes());
        (start.0..end).step_by(self.part_minutes() as usize).map(Minute)
    }
}

/// How far the packing of a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its number.
    pub run: u32,
    /// Its hours before this are packed.
    pub hours_until: Minute,
    /// Its days before this are packed.
    pub days_until: Minute,
    /// It writes no more.
    pub is_closed: bool,
}

impl Progress {
    /// What is to be packed next, and from where on; hours first, because days are made of them.
    pub fn next(&self, now: SystemTime) -> (Level, Minute) {
        if self.hours_until < Level::Hours.settled(now) {
            (Level::Hours, self.hours_until)
        } else {
            (Level::Days, self.days_until)
        }
    }

    /// Whether the run can get no parts any more, but late ones that are merged into what is packed.
    pub fn has_ended(&self, level: Level) -> bool {
        self.is_closed && (level == Level::Hours || self.hours_until == ENDED)
    }
}

/// An hour or a day that is being read.
#[derive(Debug)]
pub struct Packing {
    /// Of this run.
    pub run: u32,
    /// Hour or day.
    pub level: Level,
    /// `hours_until` or `days_until` of the run when this began.
    pub until: Minute,
    /// Its beginning.
    pub start: Minute,
    /// What was read.
    pub sum: Sum,
    next: Minute,
}

impl Packing {
    /// Begins with the first part.
    pub fn new(run: u32, level: Level, until: Minute, start: Minute) -> Self {
        Self { run, level, until, start, sum: Sum::default(), next: start }
    }

    /// The part to be read next; none when all are.
    pub fn next_part(&mut self) -> Option<Minute> {
        let part = self.next;
        if part >= self.end() {
            return None;
        }
        self.next = Minute(part.0.saturating_add(self.level.part_minutes()));
        Some(part)
    }

    /// Adds the packed value of one of its parts. One that can't be read is said, and left out.
    pub fn add_packed(&mut self, part: Minute, bytes: &[u8]) {
        if self.sum.add_packed(bytes).is_err() {
            log::error!(
                "request log: a value in {} can't be read: run {}, {}",
                self.level.part_table().0,
                self.run,
                part.text()
            );
        }
    }

    /// Whether every part was read.
    pub fn is_read(&self) -> bool {
        self.next >= self.end()
    }

    /// Where the next hour or day begins.
    pub fn end(&self) -> Minute {
        Minute(self.start.0.saturating_add(self.level.minutes()))
    }
}

/// The sum of many tallies, by series.
#[derive(Debug, Default)]
pub struct Sum {
    series: FxHashMap<Id, (Series<String>, Tally)>,
    /// Requests in all.
    pub count: u64,
}

impl Sum {
    /// Whether a series was added before: then [`Self::add`] needs no texts.
    pub fn knows(&self, id: &Id) -> bool {
        self.series.contains_key(id)
    }

    /// Adds one tally.
    pub fn add(&mut self, id: Id, series: impl FnOnce() -> Series<String>, tally: &Tally) {
        self.count = self.count.saturating_add(tally.count);
        self.series.entry(id).or_insert_with(|| (series(), Tally::default())).1.merge(tally);
    }

    /// Adds what comes late.
    pub fn add_change(&mut self, change: &Change<'_>) {
        self.add(change.id, || change.series.map(str::to_owned), &change.tally);
    }

    /// Adds a packed value.
    ///
    /// # Errors
    /// It is none; a part of it may be added.
    pub fn add_packed(&mut self, bytes: &[u8]) -> Result<(), Damaged> {
        let packed = Packed::read(bytes)?;
        let texts = packed.texts.clone();
        for entry in packed {
            let entry = entry?;
            let series = entry.series(&texts);
            self.add(series.id(), || series.map(str::to_owned), &entry.tally()?);
        }
        Ok(())
    }

    /// One value of it all.
    pub fn pack(&self) -> Vec<u8> {
        let mut entries: Vec<_> = self.series.iter().collect();
        // The same sum is the same bytes.
        entries.sort_unstable_by_key(|(id, _)| **id);
        pack(entries.into_iter().map(|(_, (series, tally))| (series, tally)))
    }

    /// See [`outlines`].
    pub fn pack_outlines(&self) -> Vec<(String, Vec<u8>)> {
        outlines(self.series.values().map(|(series, tally)| (series.borrowed(), tally)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Detail;
    use super::*;

    fn minute(text: &str) -> Minute {
        Minute::of(text.parse::<jiff::Timestamp>().unwrap().into())
    }

    #[test]
    fn the_end_of_all_time_is_a_day_that_databases_know() {
        assert_eq!(ENDED, minute("9999-01-01T00:00:00Z"));
    }

    #[test]
    fn hours_settle_five_minutes_after_their_end() {
        let settled = |text: &str| Level::Hours.settled(text.parse::<jiff::Timestamp>().unwrap().into());
        assert_eq!(settled("2026-03-01T13:04:59Z"), minute("2026-03-01T12:00:00Z"));
        assert_eq!(settled("2026-03-01T13:05:00Z"), minute("2026-03-01T13:00:00Z"));
    }

    #[test]
    fn an_hour_has_sixty_parts_and_a_day_twenty_four() {
        for (level, parts) in [(Level::Hours, 60), (Level::Days, 24)] {
            let mut packing = Packing::new(1, level, Minute(0), Minute(2_880));
            let read: Vec<_> = std::iter::from_fn(|| packing.next_part()).collect();
            assert_eq!(read, level.parts(Minute(2_880)).collect::<Vec<_>>());
            assert_eq!((read.len(), packing.is_read()), (parts, true));
        }
    }

    #[test]
    fn hours_are_packed_before_the_days_they_make() {
        let now: SystemTime = "2026-03-02T00:10:00Z".parse::<jiff::Timestamp>().unwrap().into();
        let day = minute("2026-03-01T00:00:00Z");
        let mut progress = Progress { run: 1, hours_until: day, days_until: day, is_closed: true };
        assert_eq!(progress.next(now).0, Level::Hours);
        progress.hours_until = minute("2026-03-02T00:00:00Z");
        assert_eq!(progress.next(now), (Level::Days, day));
        assert!(progress.has_ended(Level::Hours) && !progress.has_ended(Level::Days));
    }

    #[test]
    fn outlines_add_up_to_the_whole() {
        let mut sum = Sum::default();
        for place in 0..240_u16 {
            let name = |of: u16| format!("n{}", place % of);
            let series = Series {
                endpoint: name(5),
                method: name(2),
                status: 200 + place % 3,
                decided_by: name(2),
                consumer: (place % 4 > 0).then(|| name(4)),
                key: (place % 4 > 0).then(|| name(8)),
                service: Some(name(3)),
                instance: Some(name(7)),
            };
            let mut tally = Tally { count: u64::from(place), bytes_out: 7, ..Tally::default() };
            tally.histogram.add(u64::from(place) * 1_000);
            sum.add(series.id(), || series.clone(), &tally);
        }
        let outlines: BTreeMap<String, Vec<u8>> = sum.pack_outlines().into_iter().collect();
        for detail in Detail::OUTLINES {
            let mut expected: BTreeMap<Series<String>, Tally> = BTreeMap::new();
            for (series, tally) in sum.series.values() {
                let series = detail.outline(&series.borrowed()).map(str::to_owned);
                expected.entry(series).or_default().merge(tally);
            }
            let mut read = Sum::default();
            read.add_packed(&outlines[detail.name()]).unwrap();
            assert_eq!(read.count, sum.count);
            assert_eq!(read.series.into_values().collect::<BTreeMap<_, _>>(), expected, "{detail:?}");
            assert!(expected.len() < sum.series.len(), "{detail:?}");
        }
    }

    #[test]
    fn sums_of_packed_values_are_sums() {
        let series = Series { endpoint: "/a".to_owned(), ..Series::default() };
        let tally = Tally { count: 3, bytes_in: 5, ..Tally::default() };
        let (mut one, mut two) = (Sum::default(), Sum::default());
        one.add(series.id(), || series.clone(), &tally);
        two.add(series.id(), || series.clone(), &tally);
        two.add_packed(&one.pack()).unwrap();
        assert_eq!(two.count, 6);
        one.add(series.id(), || series.clone(), &tally);
        assert_eq!(one.pack(), two.pack());
        assert!(two.add_packed(&[7, 7]).is_err());
    }
}
