//! Gathering: every entry of the roll-ups that a filter admits is added to its group. Nothing is allocated for an entry that
//! belongs to a group that is there: texts of a packed value become numbers once, by its dictionary, and a group is found by
//! the numbers of what it is told apart by.

use std::ops::Range;
use std::sync::Arc;

use indexmap::IndexSet;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::By;
use super::plan::Grain;
use crate::analytics::filter::{Filter, Part};
use crate::analytics::window::Zone;
use crate::store::read::{MinuteRow, Unreadable};
use crate::store::usage::{Entry, Histogram, Minute, Packed};

/// Groups of an answer. More would be a copy of the log, not a report.
pub(super) const GROUPS_MAX: usize = 100_000;

/// The number of a text that is missing.
const MISSING: u32 = u32::MAX;

pub(super) fn too_many() -> Unreadable {
    Unreadable::TooLarge(format!(
        "more than {GROUPS_MAX} groups: ask by fewer things, with a filter, or a shorter window"
    ))
}

/// What is counted of a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sum {
    /// Count, errors, blocked, bytes in and out, duration and upstream in microseconds.
    pub(super) numbers: [u64; 7],
    pub(super) histogram: Histogram,
}

impl Sum {
    pub(super) fn merge(&mut self, other: &Self) {
        self.add(&other.numbers);
        self.histogram.merge(&other.histogram);
    }

    fn add(&mut self, numbers: &[u64; 7]) {
        for (sum, more) in self.numbers.iter_mut().zip(numbers) {
            *sum = sum.saturating_add(*more);
        }
    }
}

/// What a group is told apart by, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Text(&'a Arc<str>),
    Missing,
    Status(u16),
    Hour(Minute),
    /// See [`Zone::day`].
    Day(u32),
}

/// Requests and errors over the window, in steps.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    pub(super) from: Minute,
    pub(super) step: Grain,
    pub(super) requests: Vec<u64>,
    pub(super) errors: Vec<u64>,
}

impl Timeline {
    pub(super) fn over(window: &Range<Minute>, step: Grain) -> Self {
        let (from, end) = (window.start.floor(step.minutes()), window.end.ceil(step.minutes()));
        let steps = (end.0.saturating_sub(from.0) / step.minutes()) as usize;
        Self { from, step, requests: vec![0; steps], errors: vec![0; steps] }
    }

    /// Adds one over the same window.
    pub(super) fn merge(&mut self, other: &Self) {
        let both = [(&mut self.requests, &other.requests), (&mut self.errors, &other.errors)];
        for (sums, more) in both {
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.saturating_add(*more));
        }
    }

    fn add(&mut self, begin: Minute, numbers: &[u64; 7]) {
        let place = (begin.0.saturating_sub(self.from.0) / self.step.minutes()) as usize;
        if let (Some(requests), Some(errors)) = (self.requests.get_mut(place), self.errors.get_mut(place)) {
            *requests = requests.saturating_add(numbers[0]);
            *errors = errors.saturating_add(numbers[1]);
        }
    }
}

/// The groups so far.
pub(super) struct Gather<'q> {
    by: &'q [By],
    filter: &'q Filter,
    zone: &'q Zone,
    pub(super) timeline: Timeline,
    texts: IndexSet<Arc<str>, FxBuildHasher>,
    groups: Groups,
    /// The numbers of the texts of the packed value in hand.
    numbers: Vec<u32>,
}

/// Which numbers belong together, and what is counted of them.
#[derive(Default)]
struct Groups {
    /// For each `by`: what it adds to a group of those before it.
    levels: Vec<FxHashMap<(u32, u32), u32>>,
    /// The numbers of each group, one after the other.
    codes: Vec<u32>,
    sums: Vec<Sum>,
}

impl Groups {
    fn sum(&mut self, codes: &[u32]) -> Result<&mut Sum, Unreadable> {
        let mut group = 0;
        for (level, code) in self.levels.iter_mut().zip(codes) {
            let next = u32::try_from(level.len()).unwrap_or(u32::MAX);
            group = *level.entry((group, *code)).or_insert(next);
        }
        let group = group as usize;
        if group == self.sums.len() {
            if group == GROUPS_MAX {
                return Err(too_many());
            }
            self.codes.extend_from_slice(codes);
            self.sums.push(Sum::default());
        }
        Ok(&mut self.sums[group])
    }
}

/// Places of a dictionary that a filter admits, for one part.
struct Mask {
    part: Part,
    missing: bool,
    places: Vec<bool>,
}

/// The places of an entry's texts, in the order of the parts.
fn places(entry: &Entry<'_>) -> [Option<usize>; 7] {
    let [consumer, key, service, instance] = entry.optional;
    [Some(entry.endpoint), Some(entry.method), Some(entry.decided_by), consumer, key, service, instance]
}

impl<'q> Gather<'q> {
    pub(super) fn new(by: &'q [By], filter: &'q Filter, zone: &'q Zone, timeline: Timeline) -> Self {
        let groups = Groups { levels: vec![FxHashMap::default(); by.len()], ..Groups::default() };
        Self { by, filter, zone, timeline, texts: IndexSet::default(), groups, numbers: Vec::new() }
    }

    fn number(texts: &mut IndexSet<Arc<str>, FxBuildHasher>, text: &str) -> u32 {
        let place = texts.get_index_of(text).unwrap_or_else(|| texts.insert_full(text.into()).0);
        u32::try_from(place).unwrap_or(MISSING)
    }

    /// What tells the entries of a packed value apart by time: the same for all of them.
    fn times(&self, begin: Minute) -> [u32; 2] {
        let day = if self.by.contains(&By::Day) { self.zone.day(begin) } else { 0 };
        [begin.floor(Minute::HOUR).0, day]
    }

    /// Adds a packed hour or day that begins then.
    pub(super) fn packed(&mut self, begin: Minute, bytes: &[u8]) -> Result<(), Unreadable> {
        let packed = Packed::read(bytes)?;
        self.numbers.clear();
        for text in &packed.texts {
            self.numbers.push(Self::number(&mut self.texts, text));
        }
        let filter = self.filter;
        let mask = |part: Part| Mask {
            part,
            missing: filter.admits(part, None),
            places: packed.texts.iter().map(|text| filter.admits(part, Some(text))).collect(),
        };
        let masks: Vec<Mask> = filter.parts().map(mask).collect();
        let times = self.times(begin);
        let mut codes = [0; By::COUNT];
        for entry in packed {
            let entry = entry?;
            let places = places(&entry);
            let admits = |mask: &Mask| places[mask.part as usize].map_or(mask.missing, |place| mask.places[place]);
            if !filter.admits_status(entry.status) || !masks.iter().all(admits) {
                continue;
            }
            let number = |part: Part| places[part as usize].map_or(MISSING, |place| self.numbers[place]);
            let codes = codes_of(self.by, &mut codes, times, entry.status, number);
            let sum = self.groups.sum(codes)?;
            sum.add(&entry.numbers);
            sum.histogram.merge_encoded(entry.histogram)?;
            self.timeline.add(begin, &entry.numbers);
        }
        Ok(())
    }

    /// Adds a minute.
    pub(super) fn minute(&mut self, row: &MinuteRow<'_>) -> Result<(), Unreadable> {
        let series = &row.series;
        let texts = [
            Some(series.endpoint),
            Some(series.method),
            Some(series.decided_by),
            series.consumer,
            series.key,
            series.service,
            series.instance,
        ];
        let admits = |part: Part| self.filter.admits(part, texts[part as usize]);
        if !self.filter.admits_status(series.status) || !self.filter.parts().all(admits) {
            return Ok(());
        }
        let numbers = texts.map(|text| text.map_or(MISSING, |text| Self::number(&mut self.texts, text)));
        let mut codes = [0; By::COUNT];
        let times = self.times(row.minute);
        let codes = codes_of(self.by, &mut codes, times, series.status, |part| numbers[part as usize]);
        let sum = self.groups.sum(codes)?;
        sum.add(&row.numbers);
        sum.histogram.merge_encoded(row.histogram)?;
        self.timeline.add(row.minute, &row.numbers);
        Ok(())
    }

    /// Every group with what it is told apart by.
    pub(super) fn groups(&self) -> impl Iterator<Item = (Vec<Value<'_>>, &Sum)> {
        let width = self.by.len();
        self.groups.sums.iter().enumerate().map(move |(group, sum)| {
            let codes = &self.groups.codes[group * width..(group + 1) * width];
            (self.by.iter().zip(codes).map(|(by, code)| self.value(*by, *code)).collect(), sum)
        })
    }

    fn value(&self, by: By, code: u32) -> Value<'_> {
        match by {
            By::Status => Value::Status(u16::try_from(code).unwrap_or_default()),
            By::Hour => Value::Hour(Minute(code)),
            By::Day => Value::Day(code),
            By::Text(_) => self.texts.get_index(code as usize).map_or(Value::Missing, Value::Text),
        }
    }
}

/// The numbers that name the group of an entry.
fn codes_of<'c>(
    by: &[By],
    room: &'c mut [u32; By::COUNT],
    [hour, day]: [u32; 2],
    status: u16,
    number: impl Fn(Part) -> u32,
) -> &'c [u32] {
    for (code, by) in room.iter_mut().zip(by) {
        *code = match by {
            By::Status => status.into(),
            By::Hour => hour,
            By::Day => day,
            By::Text(part) => number(*part),
        };
    }
    &room[..by.len()]
}
